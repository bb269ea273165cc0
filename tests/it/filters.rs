//! docs/filters.md: its tables are what the policies really give.

use std::fmt::Write;
use std::path::Path;

use cedarward::fhir::definitions::{Compartment, Definitions, FhirVersion};
use cedarward::policy::snapshot::Snapshot;
use serde_json::{Value, json};

use crate::engine::{ask, load};

/// `WRITE=1 cargo test --test it filters` writes them anew.
#[test]
fn the_tables_of_the_paper_are_so() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/filters.md");
    let paper = std::fs::read_to_string(&path).unwrap();
    let written = between(&between(&paper, "idioms", &idioms()), "patient", &patient_compartment());
    if std::env::var_os("WRITE").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    assert!(paper == written, "write it anew: WRITE=1 cargo test --test it filters");
}

/// The text with what stands between `<!-- name -->` and `<!-- end -->` replaced.
fn between(text: &str, name: &str, table: &str) -> String {
    let (before, rest) = text.split_once(&format!("<!-- {name} -->\n")).unwrap();
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    format!("{before}<!-- {name} -->\n{table}<!-- end -->{after}")
}

/// What a search is narrowed to, as a cell of a table.
fn cell(snapshot: &Snapshot, claims: &Value, url: &str) -> (String, String) {
    let question = json!({ "claims": claims, "request": { "method": "GET", "url": url },
        "enforces": ["filter", "checkResults", "redact"] });
    let answer = ask(snapshot, &question);
    let obligations = &answer["obligations"];
    let check = if obligations["checkResults"] == json!(true) { ", each result checked" } else { "" };
    let queries = match (answer["decision"].as_str(), obligations["filter"]["anyOf"].as_array()) {
        (Some("permit"), Some(queries)) => {
            let queries: Vec<String> =
                queries.iter().map(|query| format!("`{}`", query["query"].as_str().unwrap())).collect();
            let less = if obligations["filter"]["complete"] == json!(true) { "" } else { " (not all)" };
            format!("{}{check}{less}", queries.join(" or "))
        }
        (Some("permit"), None) => format!("all{check}"),
        (_, _) => format!("denied, `{}`", answer["code"].as_str().unwrap()),
    };
    let url = obligations["filter"]["url"].as_str().map_or_else(String::new, |url| format!("`{url}`"));
    (queries, url)
}

fn patient_compartment() -> String {
    let snapshot = load("");
    let app = json!({ "iss": "https://i", "sub": "u", "patient": "123", "scope": "patient/*.rs" });
    let definitions = Definitions::of(FhirVersion::R4);
    let mut table = "| type | is visible | as one search |\n| --- | --- | --- |\n".to_owned();
    let mut count = 0;
    for of in definitions.resource_types() {
        if definitions.compartment_parameters(Compartment::Patient, of).is_empty() {
            continue;
        }
        count += 1;
        let (queries, url) = cell(&snapshot, &app, &format!("/{of}"));
        writeln!(table, "| {of} | {queries} | {url} |").unwrap();
    }
    assert_eq!(count, 66);
    table
}

/// A condition of a permit to search Observations and Patients, or of a forbid beside a permit of everything.
const IDIOMS: &[(&str, &str)] = &[
    ("permit", r#"resource in Patient::"123""#),
    ("permit", r#"resource in Practitioner::"7""#),
    (
        "permit",
        r#"resource in Encounter::"e" && resource.hasTag("status") && resource.getTag("status").contains("final")"#,
    ),
    ("permit", r#"resource.hasTag("category") && resource.getTag("category").contains("laboratory")"#),
    ("permit", r#"resource.hasTag("code") && resource.getTag("code").contains("http://loinc.org|1234-5")"#),
    (
        "permit",
        r#"resource.hasTag("category") && resource.getTag("category").containsAny(["laboratory", "vital-signs"])"#,
    ),
    (
        "permit",
        r#"resource.hasTag("category") && resource.getTag("category").containsAll(["laboratory", "vital-signs"])"#,
    ),
    ("permit", r#"resource.hasTag("performer") && resource.getTag("performer").contains("Organization/9")"#),
    ("permit", r#"resource.profile.contains("http://hl7.org/fhir/us/core/StructureDefinition/us-core-vital-signs")"#),
    ("permit", r#"resource has source && resource.source == "https://lab.example""#),
    ("permit", r#"resource has source && resource.source like "https://lab.example/*""#),
    ("permit", r#"resource == Observation::"55""#),
    ("permit", r#"resource.hasTag("status")"#),
    ("permit", r#"!resource.hasTag("encounter")"#),
    ("permit", r#"resource in Patient::"123" || resource.tag.contains("public")"#),
    ("forbid", r#"resource.security.contains("http://terminology.hl7.org/CodeSystem/v3-Confidentiality|R")"#),
    ("forbid", r#"resource.hasTag("category") && resource.getTag("category").contains("social-history")"#),
    ("forbid", r#"resource in Patient::"123""#),
];

fn idioms() -> String {
    let mut policies = "@id(\"all\") permit (principal in Role::\"all\", action, resource);\n".to_owned();
    for (at, (effect, condition)) in IDIOMS.iter().enumerate() {
        writeln!(
            policies,
            "@id(\"idiom-{at}\") {effect} (principal in Role::\"r{at}\", action in Action::\"s\", resource) when {{ {condition} }};"
        )
        .unwrap();
    }
    let snapshot = load(&policies);
    let mut table =
        "| a policy says | Observations that are visible | as one search |\n| --- | --- | --- |\n".to_owned();
    for (at, (effect, condition)) in IDIOMS.iter().enumerate() {
        let mut roles = vec![format!("r{at}")];
        if *effect == "forbid" {
            roles.push("all".to_owned());
        }
        let claims = json!({ "iss": "https://i", "sub": "u", "roles": roles });
        let (queries, url) = cell(&snapshot, &claims, "/Observation");
        writeln!(table, "| {effect} `{}` | {queries} | {url} |", condition.replace('|', "\\|")).unwrap();
    }
    table
}

#[test]
fn two_things_that_no_search_can_say_are_not_one() {
    let policies = r#"@id("a") permit (principal, action in Action::"s", resource) when { resource.tag == ["x"] };
        @id("b") forbid (principal, action in Action::"s", resource) when { resource.tag == ["y"] };"#;
    let (queries, _) =
        cell(&load(policies), &json!({ "iss": "https://i", "sub": "u", "roles": ["r"] }), "/Observation");
    assert_eq!(queries, "all, each result checked");
}
