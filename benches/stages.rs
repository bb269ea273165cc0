//! What each stage of a decision takes: `cargo bench --bench stages`. Prints times; decides nothing.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails serves nobody")]

use std::sync::LazyLock;

use cedarward::cache::BYTES_MAX_DEFAULT;
use cedarward::embedded;
use cedarward::engine::standing::{Standing, Standings};
use cedarward::fhir::definitions::FhirVersion;
use cedarward::fhir::operation::{self, Body, Request};
use cedarward::http::api::{self, Desk};
use cedarward::policy::folder::Folder;
use cedarward::policy::snapshot::{CLAIMS, Settings, Snapshot};
use cedarward::token::issuers::Issuers;
use cedarward::token::jws::Claims;
use divan::{Bencher, black_box};
use serde_json::Value;

fn main() {
    divan::main();
}

fn settings() -> Settings {
    Settings { version: FhirVersion::R4, themes: Vec::new(), request: operation::Settings::default() }
}

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| Snapshot::load(&embedded::folder(), &settings()).ok().unwrap());

const READER: &str = r#"{"iss":"https://issuerurl","oid":"123","roles":["FHIR Data Reader"]}"#;
const PATIENT: &str = r#"{"iss":"https://idp","sub":"u","patient":"123","scope":"patient/*.rs"}"#;
const READ: &str = r#""request":{"method":"GET","url":"/Observation/55"}"#;
const SEARCH: &str = r#""enforces":["filter"],"request":{"method":"GET","url":"/Observation?code=1234-5"}"#;
const RESOURCE: &str = r#""request":{"method":"GET","url":"/Observation/55"},"resource":{"resourceType":"Observation","id":"55","status":"final","subject":{"reference":"Patient/123"}}"#;

fn question(claims: &str, rest: &str) -> String {
    format!(r#"{{"claims":{claims},{rest}}}"#)
}

const QUESTIONS: [(&str, &str, &str); 3] =
    [("read", READER, READ), ("search, narrowed", PATIENT, SEARCH), ("read, resource at hand", PATIENT, RESOURCE)];

/// From a question's bytes to its answer's, as `/v1/authorize` gives it.
fn answered(bencher: Bencher<'_, '_>, name: &str, standings: Option<&Standings>) {
    let (_, claims, rest) = QUESTIONS.into_iter().find(|(known, ..)| *known == name).unwrap();
    let question = question(claims, rest);
    let issuers = Issuers::new(Vec::new());
    let limits = api::Limits::default();
    let desk = Desk { standings, ..Desk::alone(&SNAPSHOT, &issuers, &limits, 0) };
    bencher.bench_local(|| api::authorize(&desk, black_box(question.as_bytes())).unwrap().unwrap());
}

#[divan::bench(args = QUESTIONS.map(|(name, ..)| name))]
fn asked_again(bencher: Bencher<'_, '_>, name: &str) {
    answered(bencher, name, Some(&Standings::new(BYTES_MAX_DEFAULT)));
}

#[divan::bench(args = QUESTIONS.map(|(name, ..)| name))]
fn asked_for_the_first_time(bencher: Bencher<'_, '_>, name: &str) {
    answered(bencher, name, None);
}

#[divan::bench(args = ["/Observation/55", "/Observation?code=1234-5", "/Observation?subject:Patient.name=x&_include=*"])]
fn request_is_read(bencher: Bencher<'_, '_>, url: &str) {
    let request = Request { method: "GET", url, headers: &[], body: Body::None };
    bencher.bench(|| operation::parse(black_box(&request), SNAPSHOT.definitions, &SNAPSHOT.request).unwrap());
}

#[divan::bench(args = [READER, PATIENT])]
fn claims_become_a_principal(bencher: Bencher<'_, '_>, claims: &str) {
    let Ok(Value::Object(payload)) = serde_json::from_str(claims) else { return };
    let claims = Claims::vouched(payload);
    bencher.bench(|| SNAPSHOT.rules.principal(black_box(&claims), &SNAPSHOT.request.bases).unwrap());
}

#[divan::bench(args = [READER, PATIENT])]
fn principal_is_written_in_cedar(bencher: Bencher<'_, '_>, claims: &str) {
    let Ok(Value::Object(payload)) = serde_json::from_str(claims) else { return };
    let principal = SNAPSHOT.rules.principal(&Claims::vouched(payload), &SNAPSHOT.request.bases).unwrap();
    bencher.bench(|| Standing::of(black_box(principal.clone()), &SNAPSHOT.index).unwrap());
}

/// A folder with this many policies, of as many pairs of role and type.
fn folder(policies: usize) -> Folder {
    let mut folder = embedded::folder();
    folder.0.retain(|path, _| path == CLAIMS);
    let types: Vec<&str> = SNAPSHOT.definitions.resource_types().map(|of| of.as_str()).collect();
    let policy = |number: usize| {
        let (role, of) = (number / types.len(), types.get(number % types.len()).unwrap());
        format!(
            "@id(\"{role}-{of}\")\npermit (principal in Role::\"{role}\", action in Action::\"r\", resource is {of});\n"
        )
    };
    let text: String = (0..policies).map(policy).collect();
    folder.0.insert("generated.cedar".to_owned(), text.into_bytes());
    folder
}

#[divan::bench(args = [100, 1_000], sample_count = 3)]
fn policies_are_loaded(bencher: Bencher<'_, '_>, policies: usize) {
    let folder = folder(policies);
    bencher.bench(|| Snapshot::load(black_box(&folder), &settings()).ok().unwrap());
}

/// Without caches, so that each time the policies are looked for that can matter.
#[divan::bench(args = [8, 1_000])]
fn asked_of_so_many_policies(bencher: Bencher<'_, '_>, policies: usize) {
    let snapshot = Snapshot::load(&folder(policies), &settings()).ok().unwrap();
    let question =
        question(r#"{"iss":"https://i","oid":"1","roles":["0"]}"#, r#""request":{"method":"GET","url":"/Account/5"}"#);
    let issuers = Issuers::new(Vec::new());
    let limits = api::Limits::default();
    let desk = Desk::alone(&snapshot, &issuers, &limits, 0);
    bencher.bench_local(|| api::authorize(&desk, black_box(question.as_bytes())).unwrap().unwrap());
}
