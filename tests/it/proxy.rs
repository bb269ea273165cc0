//! What a reverse proxy is told: go on, and with which URL, or stop.

use std::sync::Arc;

use cedarward::embedded;
use cedarward::engine::decide::Enforces;
use cedarward::http::api::{self, Desk};
use cedarward::http::proxy::{Original, Reply, Sent, Settings, ext_authz, forward_auth};
use cedarward::policy::snapshot::Snapshot;
use cedarward::token::issuers::{Issuers, Keys};
use serde_json::{Value, json};

use crate::tables::settings;

const SECRET: &[u8] = b"sixty-four bytes of a secret that is published with these tests.";
pub(crate) const NOW: i64 = 1_767_225_600;

pub(crate) fn token(claims: Value) -> String {
    let mut claims = claims;
    claims["iss"] = json!("https://issuer.example");
    claims["aud"] = json!("api://fhir");
    claims["exp"] = json!(NOW + 300);
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
    jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256), &claims, &key).unwrap()
}

pub(crate) fn reader() -> String {
    format!("Bearer {}", token(json!({ "sub": "r", "roles": ["FHIR Data Reader"] })))
}

pub(crate) fn writer() -> String {
    format!("Bearer {}", token(json!({ "sub": "w", "roles": ["FHIR Data Writer"] })))
}

pub(crate) fn app() -> String {
    format!("Bearer {}", token(json!({ "sub": "u", "patient": "123", "scope": "patient/*.rs" })))
}

/// One proxy with its Cedarward.
pub(crate) struct Front {
    pub(crate) snapshot: Snapshot,
    pub(crate) issuers: Issuers,
    pub(crate) settings: Settings,
}

pub(crate) fn front(settings_of_proxy: Settings) -> Front {
    let mut folder = embedded::folder();
    let claims = String::from_utf8(folder.0["claims.yaml"].clone()).unwrap();
    let issuer = "issuers:\n  - issuer: https://issuer.example\n    profile: smart\n    algorithms: [HS256]\n    audiences: [api://fhir]\n    keys: { secretFile: secret }\n";
    folder.0.insert("claims.yaml".to_owned(), claims.replace("issuers: []\n", issuer).into_bytes());
    let snapshot = Snapshot::load(&folder, &settings()).unwrap_or_else(|findings| panic!("{findings:#?}"));
    let issuers = Issuers::new(snapshot.rules.issuers().to_vec());
    let issuers = issuers.with_keys(0, Arc::new(Keys::from_secret(SECRET).unwrap()));
    Front { snapshot, issuers, settings: settings_of_proxy }
}

pub(crate) fn narrowing() -> Settings {
    Settings { enforces: Enforces { filter: true, ..Enforces::default() }, ..Settings::default() }
}

impl Front {
    fn desk<T>(&self, ask: impl Fn(&Desk<'_>) -> T) -> T {
        let limits = api::Limits::default();
        ask(&Desk { ids: &|| "the-id".to_owned(), ..Desk::alone(&self.snapshot, &self.issuers, &limits, NOW) })
    }

    fn auth(&self, headers: &[(&str, &str)]) -> Reply {
        let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let sent = Sent { method: "GET", target: "/forward-auth", headers: &headers, body: b"" };
        self.desk(|desk| forward_auth(desk, &self.settings, &sent)).unwrap().0
    }

    /// As nginx asks.
    fn nginx(&self, method: &str, url: &str, authorization: &str) -> Reply {
        self.auth(&[("x-original-method", method), ("x-original-uri", url), ("authorization", authorization)])
    }
}

fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
    let mut found = reply.headers.iter().filter(|(known, _)| *known == name);
    let value = found.next().map(|(_, value)| value.as_str());
    assert!(found.next().is_none(), "{name} stands twice");
    value
}

fn goes_on(name: &str, reply: &Reply, url: &str) {
    let found = (reply.status, header(reply, "x-fhir-url"), header(reply, "x-decision-id"));
    assert_eq!(found, (200, Some(url), Some("the-id")), "{name}");
}

fn stops(name: &str, reply: &Reply, status: u16) {
    let found = (reply.status, header(reply, "x-fhir-url"), header(reply, "x-decision-id"));
    assert_eq!(found, (status, Some(""), Some("")), "{name}");
    assert!(status != 401 || header(reply, "www-authenticate").is_some(), "{name}");
    let outcome: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(outcome["resourceType"], "OperationOutcome", "{name}");
}

#[test]
fn a_permit_goes_on_with_the_url_that_was_judged() {
    let front = front(narrowing());
    goes_on("a read", &front.nginx("GET", "/Observation/55", &reader()), "/Observation/55");
    goes_on("a search", &front.nginx("GET", "/Observation?code=a%7cb+c", &reader()), "/Observation?code=a%7cb+c");
    goes_on(
        "narrowed",
        &front.nginx("GET", "/Encounter?status=a%7cb", &app()),
        "/Encounter?status=a%7Cb&patient=Patient/123",
    );
    goes_on("in a compartment", &front.nginx("GET", "/Observation", &app()), "/Patient/123/Observation");
    goes_on(
        "what is public",
        &front.auth(&[("x-original-method", "GET"), ("x-original-uri", "/metadata")]),
        "/metadata",
    );
    goes_on("a delete", &front.nginx("DELETE", "/Observation/55", &writer()), "/Observation/55");
    // whatever the body holds, a writer may
    goes_on("a create", &front.nginx("POST", "/Observation", &writer()), "/Observation");
    goes_on("a search by form", &front.nginx("POST", "/Observation/_search", &reader()), "/Observation/_search");
}

#[test]
fn a_deny_stops_and_clears_every_header() {
    let front = front(narrowing());
    stops("a write", &front.nginx("DELETE", "/Observation/55", &reader()), 403);
    stops("nobody", &front.auth(&[("x-original-method", "GET"), ("x-original-uri", "/Observation/55")]), 401);
    stops("no bearer", &front.nginx("GET", "/Observation/55", "Basic x"), 401);
    stops("no token", &front.nginx("GET", "/Observation/55", "Bearer x.y.z"), 401);
    stops(
        "a token twice",
        &{
            let both = reader();
            front.auth(&[
                ("x-original-method", "GET"),
                ("x-original-uri", "/metadata"),
                ("authorization", &both),
                ("authorization", &both),
            ])
        },
        401,
    );
    stops("another's record", &front.nginx("GET", "/Observation/55", &app()), 403);
    stops(
        "an include that nobody checks",
        &front.nginx("GET", "/Observation?_include=Observation:subject", &app()),
        403,
    );
    stops("a form that nobody sees", &front.nginx("POST", "/Observation/_search", &app()), 403);
    stops("a bundle that nobody sees", &front.nginx("POST", "/", &writer()), 403);
    stops("an operation whose parameters nobody sees", &front.nginx("POST", "/Patient/1/$everything", &reader()), 403);
    stops("a path with two readings", &front.nginx("GET", "/Observation//55", &reader()), 403);
    stops("another authority", &front.nginx("GET", "//evil.example/Observation", &reader()), 403);
    stops("an absolute URL", &front.nginx("GET", "https://evil.example/Observation", &reader()), 403);
    stops("no method", &front.nginx("BREW", "/Observation", &reader()), 403);
    let overridden =
        [("x-original-method", "GET"), ("x-original-uri", "/Observation/55"), ("x-http-method-override", "DELETE")];
    let reader = reader();
    stops(
        "another method in a header",
        &front.auth(&[&overridden[..], &[("authorization", reader.as_str())]].concat()),
        403,
    );
}

#[test]
fn a_proxy_that_cannot_narrow_gets_a_deny() {
    let front = front(Settings::default());
    stops("a search", &front.nginx("GET", "/Encounter", &app()), 403);
    goes_on("a read", &front.nginx("GET", "/Patient/123", &app()), "/Patient/123");
    goes_on("a reader's search", &front.nginx("GET", "/Encounter", &reader()), "/Encounter");
}

/// X2 to X5: what a client sends in place of the proxy.
#[test]
fn the_original_request_is_told_once() {
    let token = reader();
    let original = [("x-original-method", "GET"), ("x-original-uri", "/Observation/55")];
    let forwarded = [("x-forwarded-method", "GET"), ("x-forwarded-uri", "/Observation/55")];
    let other = [("x-forwarded-method", "DELETE"), ("x-forwarded-uri", "/Observation/55")];
    let check = |name: &str, from: Original, headers: &[&[(&str, &str)]], expected: u16| {
        let front = front(Settings { original: from, ..narrowing() });
        let headers = [headers.concat(), vec![("authorization", token.as_str())]].concat();
        let reply = front.auth(&headers);
        match expected {
            200 => goes_on(name, &reply, "/Observation/55"),
            status => stops(name, &reply, status),
        }
    };
    check("nginx's", Original::Either, &[&original], 200);
    check("Caddy's", Original::Either, &[&forwarded], 200);
    check("both, agreeing", Original::Either, &[&original, &forwarded], 200);
    check("both, disagreeing", Original::Either, &[&original, &other], 403);
    check("nginx's, and half of the others", Original::Either, &[&original, &other[..1]], 403);
    check("nginx's, configured", Original::Original, &[&original, &other], 200);
    check("Caddy's, configured", Original::Forwarded, &[&original, &other], 403);
    check("Caddy's alone where nginx's are configured", Original::Original, &[&forwarded], 403);
    check("twice", Original::Original, &[&original, &original], 403);
    check("without a method", Original::Either, &[&original[1..]], 403);
    check("none", Original::Either, &[], 403);
}

#[test]
fn fhir_stands_below_a_path() {
    let front = front(Settings { path: "/fhir/r4".to_owned(), ..narrowing() });
    goes_on("below it", &front.nginx("GET", "/fhir/r4/Patient", &reader()), "/fhir/r4/Patient");
    goes_on("narrowed", &front.nginx("GET", "/fhir/r4/Patient", &app()), "/fhir/r4/Patient?_id=123");
    goes_on(
        "the base with a query",
        &front.nginx("GET", "/fhir/r4?_type=Patient", &reader()),
        "/fhir/r4?_type=Patient",
    );
    stops("beside it", &front.nginx("GET", "/fhir/r4x/Patient", &reader()), 403);
    stops("above it", &front.nginx("GET", "/Patient", &reader()), 403);
    stops("out of it", &front.nginx("GET", "/fhir/r4/../Patient", &reader()), 403);
}

#[test]
fn envoy_asks_with_the_original_path_below_its_prefix() {
    let front = front(narrowing());
    let app = app();
    let ask = |method: &str, target: &str, more: &[(&str, &str)], body: &[u8]| {
        let headers: Vec<(&str, &[u8])> = [("authorization", app.as_str())]
            .iter()
            .chain(more)
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let sent = Sent { method, target, headers: &headers, body };
        front.desk(|desk| ext_authz(desk, &front.settings, &sent)).unwrap().0
    };
    goes_on(
        "narrowed",
        &ask("GET", "/ext-authz/Encounter?status=x", &[], b""),
        "/Encounter?status=x&patient=Patient/123",
    );
    let form = [("content-type", "application/x-www-form-urlencoded")];
    // the URL would be narrowed, and there are servers that read the form alone
    stops("a form", &ask("POST", "/ext-authz/Encounter/_search", &form, b"status=x"), 403);
    stops("a form with a chain", &ask("POST", "/ext-authz/Encounter/_search", &form, b"subject.name=x"), 403);
    let part = [form[0], ("x-envoy-auth-partial-body", "true")];
    stops("a part of a form", &ask("POST", "/ext-authz/Encounter/_search", &part, b"status=x"), 403);
    stops("beside the prefix", &ask("GET", "/ext-authzEncounter", &[], b""), 403);
    stops("nothing below it", &ask("GET", "/ext-authz", &[], b""), 403);
    // headers of other proxies mean nothing here
    let others = [("x-original-uri", "/metadata"), ("x-original-method", "GET")];
    stops("another's headers", &ask("GET", "/ext-authz/ValueSet", &others, b""), 403);
}
