//! FHIR requests as clients and attackers write them → what each of them reveals or changes, or why it is none.

use std::collections::BTreeMap;

use cedarward::fhir::definitions::{Definitions, FhirVersion};
use cedarward::fhir::operation::{
    Access, AccessRole, Body, EvidenceKind, Operation, OperationError, Proposed, Reach, Request, Settings, holds, parse,
};
use serde_json::{Value, json};

/// Reads one request and compares it with the text that `rendered` makes of it. A body that begins with `{` or `[` is
/// JSON, any other a form.
fn check(method: &str, url: &str, headers: &[(&str, &str)], body: &str, expected: &str) -> Result<(), String> {
    let found = rendered(&read(FhirVersion::R4, method, url, headers, body));
    if found == expected {
        Ok(())
    } else {
        Err(format!("{method} {url} {headers:?} {body}\n  expected {expected}\n  found    {found}"))
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    case: String,
    request: String,
    is: String,
}

/// All rows that differ are told at once.
#[test]
fn every_row_of_the_table() {
    let table: BTreeMap<String, Vec<Row>> = serde_yaml::from_str(include_str!("requests.yaml")).unwrap();
    assert!(table.values().map(Vec::len).sum::<usize>() > 400);
    let wrong: Vec<String> = table
        .iter()
        .flat_map(|(group, rows)| rows.iter().map(move |row| (group, row)))
        .filter_map(|(group, Row { case, request, is })| {
            let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
            let mut lines = head.lines();
            let (method, url) = lines.next().and_then(|line| line.split_once(' ')).unwrap();
            let headers: Vec<_> = lines.map(|line| line.split_once(": ").unwrap()).collect();
            let header = headers.first().map_or_else(String::new, |(name, value)| format!("{name}: {value}"));
            if !holds(format!("{method} {url}\n{header}\n{body}").as_bytes()) {
                return Some(format!("{group}, {case}: does not hold"));
            }
            check(method, url, &headers, body, is).err().map(|wrong| format!("{group}, {case}: {wrong}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

fn settings() -> Settings {
    Settings {
        bases: vec!["https://fhir.example/r4".to_owned(), "https://fhir.example/r4/ward".to_owned()],
        parameters: vec![(Some("Patient".to_owned()), "eye-color".to_owned()), (None, "facility".to_owned())],
        ..Settings::default()
    }
}

fn read(
    version: FhirVersion,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Operation, OperationError> {
    let json = body.starts_with(['{', '[']).then(|| serde_json::from_str::<Value>(body).unwrap());
    let body = match &json {
        Some(value) => Body::Json(value),
        None if body.is_empty() => Body::None,
        None => Body::Form(body),
    };
    parse(&Request { method, url, headers, body }, Definitions::of(version), &settings())
}

/// `interaction Type/id $name …: access; access | entry | entry`, or the error. Of more than twelve accesses the first
/// two, the last, and how many there are.
fn rendered(read: &Result<Operation, OperationError>) -> String {
    let operation = match read {
        Ok(operation) => operation,
        Err(OperationError::Invalid(error)) => return format!("invalid: {error}"),
        Err(OperationError::Unknown(error)) => return format!("unknown: {error}"),
    };
    let mut text = operation.interaction.as_str().to_owned();
    if let Some(of) = operation.resource_type {
        text += &format!(" {of}");
    }
    if let Some(id) = &operation.id {
        text += &format!("/{id}");
    }
    if let Some(version) = &operation.version {
        text += &format!("/_history/{version}");
    }
    if let Some(name) = &operation.name {
        text += &format!(" {name}");
    }
    if let Some((compartment, id)) = &operation.compartment {
        text += &format!(" in {}/{id}", compartment.as_str());
    }
    for (holds, word) in [
        (operation.conditional, " conditional"),
        (operation.public, " public"),
        (operation.proposed == Proposed::Body, " +body"),
        (operation.proposed == Proposed::Caller, " +proposed"),
    ] {
        text += if holds { word } else { "" };
    }
    let accesses: Vec<String> = operation.accesses().iter().map(access).collect();
    text += ": ";
    text += &match accesses.as_slice() {
        [first, second, .., last] if accesses.len() > 12 => format!("{first}; {second} … {last} ({})", accesses.len()),
        all => all.join("; "),
    };
    for entry in &operation.entries {
        text += &format!(" | {}", rendered(entry));
    }
    text
}

/// `action target role evidence`. The role is not said where it is primary, nor, where it is another, that it is many.
fn access(access: &Access) -> String {
    let target = match &access.target {
        Reach::Server => "server".to_owned(),
        Reach::Type(of) => of.to_string(),
        Reach::Instance(of, id) => format!("{of}/{id}"),
        Reach::Every => "every".to_owned(),
    };
    let evidence = match access.evidence {
        EvidenceKind::Stored => "stored",
        EvidenceKind::Proposed => "proposed",
        EvidenceKind::StoredAndProposed => "stored+proposed",
        EvidenceKind::Versions => "versions",
        EvidenceKind::Many => "many",
        EvidenceKind::None => "none",
    };
    let action = access.action;
    match (access.role, access.evidence) {
        (AccessRole::Primary, _) => format!("{action} {target} {evidence}"),
        (role, EvidenceKind::Many) => format!("{action} {target} {}", role.as_str()),
        (role, _) => format!("{action} {target} {} {evidence}", role.as_str()),
    }
}

#[test]
fn requests_over_the_limits() {
    let long = format!("/Patient/1?_elements={}", "x".repeat(16 * 1024));
    let many = format!("/Patient?{}", vec!["name=x"; 257].join("&"));
    let two_halves = vec!["name=x"; 200].join("&");
    for (url, body, expected) in [
        (&long, "", "invalid: the URL: the URL is longer than 16384 bytes"),
        (&many, "", "invalid: the URL: more than 256 parameters"),
        (&format!("/Patient/_search?{two_halves}"), two_halves.as_str(), "invalid: more than 256 parameters"),
    ] {
        check(if body.is_empty() { "GET" } else { "POST" }, url, &[], body, expected).unwrap();
    }
}

fn bundle(kind: &str, entries: Value) -> String {
    json!({ "resourceType": "Bundle", "type": kind, "entry": entries }).to_string()
}

fn check_bundle(name: &str, body: &str, expected: &str) {
    check("POST", "/", &[], body, expected).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
}

fn asks(method: &str, url: &str) -> Value {
    json!({ "request": { "method": method, "url": url } })
}

fn puts(method: &str, url: &str, resource: Value) -> Value {
    json!({ "request": { "method": method, "url": url }, "resource": resource })
}

#[test]
fn bundle_entries_stand_each_for_itself() {
    let entry = |name: &str, entry: Value, expected: &str| {
        let expected = format!("batch: batch server none | {expected}");
        check("POST", "/", &[], &bundle("batch", json!([entry])), &expected)
            .map_err(|wrong| format!("{name}: {wrong}"))
            .err()
    };
    let patient = json!({ "resourceType": "Patient" });
    let with = |member: &str, value: Value| {
        let mut entry = asks("GET", "Patient/1");
        entry["request"][member] = value;
        entry
    };
    let wrong: Vec<String> = [
        entry("relative", asks("GET", "Patient/1"), "read Patient/1: read Patient/1 stored"),
        entry("with a leading slash", asks("GET", "/Patient/1"), "read Patient/1: read Patient/1 stored"),
        entry(
            "under the base",
            asks("GET", "https://fhir.example/r4/Patient/1"),
            "read Patient/1: read Patient/1 stored",
        ),
        entry("by HEAD", asks("HEAD", "Patient?name=x"), "search-type Patient: search-type Patient many"),
        entry(
            "a search with a colon",
            asks("GET", "Patient?_has:Observation:patient:code=x"),
            "search-type Patient: search-type Patient many; search-type Observation chain",
        ),
        entry("a search of the system", asks("GET", "?_type=Patient"), "search-system: search-system Patient many"),
        entry(
            "an operation",
            asks("GET", "Patient/1/$everything"),
            "operation Patient/1 $everything in Patient/1: $everything every many; $everything Patient/1 stored",
        ),
        entry("create", puts("POST", "Patient", patient.clone()), "create Patient +body: create Patient proposed"),
        entry(
            "update by criteria",
            puts("PUT", "Patient?identifier=x", patient.clone()),
            "update Patient conditional +body: update Patient stored+proposed; search-type Patient condition",
        ),
        entry(
            "search by POST",
            asks("POST", "Patient/_search?name=x"),
            "search-type Patient: search-type Patient many",
        ),
        entry(
            "another host",
            asks("GET", "https://evil.example/Patient/1"),
            "invalid: the URL: the absolute URL is under none of the configured bases",
        ),
        entry(
            "another host, by slashes",
            asks("GET", "//evil.example/Patient/1"),
            "invalid: the URL: the URL begins with `//`, which names another host",
        ),
        entry("another scheme", asks("GET", "urn:uuid:1"), "invalid: the URL: the URL does not begin with `/`"),
        entry(
            "dot segments",
            asks("GET", "../Patient/1"),
            "invalid: the URL: a dot segment or an encoded dot in the path, at byte 1",
        ),
        entry(
            "an encoded slash",
            asks("GET", "Patient%2F1"),
            "invalid: the URL: an encoded slash or backslash in the path, at byte 8",
        ),
        entry("empty", asks("GET", ""), "invalid: the bundle's form is not FHIR's, at `request/url`"),
        entry(
            "a bundle",
            puts("POST", "/", json!({ "resourceType": "Bundle", "type": "batch" })),
            "invalid: a bundle within a bundle cannot be processed",
        ),
        entry(
            "a bundle at a question mark",
            puts("POST", "?", json!({ "resourceType": "Bundle", "type": "batch" })),
            "invalid: a bundle within a bundle cannot be processed",
        ),
        entry(
            "a bundle as a document",
            puts("POST", "Bundle", json!({ "resourceType": "Bundle", "type": "batch" })),
            "create Bundle +body: create Bundle proposed",
        ),
        entry(
            "another id",
            puts("PUT", "Patient/1", json!({ "resourceType": "Patient", "id": "2" })),
            "invalid: the body's id is not the URL's",
        ),
        entry(
            "another type",
            puts("PUT", "Patient/1", json!({ "resourceType": "Group", "id": "1" })),
            "invalid: the body is not a `Patient`",
        ),
        entry(
            "a read with a resource",
            puts("GET", "Patient/1", patient.clone()),
            "invalid: this interaction has no body",
        ),
        entry(
            "a resource that is none",
            puts("GET", "Patient/1", json!("x")),
            "invalid: the bundle's form is not FHIR's, at `resource`",
        ),
        entry(
            "a resource that is null",
            puts("POST", "Patient", Value::Null),
            "invalid: the bundle's form is not FHIR's, at `resource`",
        ),
        entry("a method in small letters", asks("delete", "Patient/1"), "unknown: FHIR has no method `delete`"),
        entry(
            "without a request",
            json!({ "resource": patient }),
            "invalid: the bundle's form is not FHIR's, at `request`",
        ),
        entry(
            "without a method",
            json!({ "request": { "url": "Patient/1" } }),
            "invalid: the bundle's form is not FHIR's, at `request/method`",
        ),
        entry(
            "without a URL",
            json!({ "request": { "method": "GET" } }),
            "invalid: the bundle's form is not FHIR's, at `request/url`",
        ),
        entry(
            "a URL that is none",
            json!({ "request": { "method": "GET", "url": ["Patient/1"] } }),
            "invalid: the bundle's form is not FHIR's, at `request/url`",
        ),
        entry("no object", json!("GET"), "invalid: the bundle's form is not FHIR's, at `request`"),
        entry(
            "a condition that is none",
            with("ifNoneExist", json!(1)),
            "invalid: the bundle's form is not FHIR's, at `request/ifNoneExist`",
        ),
        entry("_method", asks("GET", "Patient/1?_method=DELETE"), "invalid: `_method` disagrees with the method"),
        entry(
            "a token",
            asks("GET", "Patient/1?access_token=x"),
            "invalid: a token stands in the parameters; it belongs into `Authorization`",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    check_bundle(
        "in order, each its own",
        &bundle("transaction", json!([asks("GET", "Patient/1"), asks("GET", "patient/1"), asks("DELETE", "Group/2")])),
        "transaction: transaction server none | read Patient/1: read Patient/1 stored \
         | invalid: `patient` differs from `Patient` only in its case | delete Group/2: delete Group/2 stored",
    );
    let full = bundle("batch", Value::Array(vec![asks("GET", "Patient/1"); 10_001]));
    check_bundle("over the limit", &full, "invalid: more than 10000 bundle entries");
}

#[test]
fn references_by_criteria() {
    let created = |name: &str, reference: &str, expected: &str| {
        let body = json!({ "resourceType": "Observation", "subject": { "reference": reference } }).to_string();
        let expected = match expected.strip_prefix("+ ") {
            Some(further) => format!("create Observation +body: create Observation proposed; {further}"),
            None => expected.to_owned(),
        };
        check("POST", "/Observation", &[], &body, &expected).map_err(|wrong| format!("{name}: {wrong}")).err()
    };
    let wrong: Vec<String> = [
        created("a plain one", "Patient/1", "create Observation +body: create Observation proposed"),
        created("by an identifier", "Patient?identifier=x", "+ search-type Patient reference"),
        created("under the base", "https://fhir.example/r4/Patient?identifier=x", "+ search-type Patient reference"),
        created("with a slash", "/Patient?identifier=x", "+ search-type Patient reference"),
        created(
            "through a chain",
            "Patient?organization.name=x",
            "+ search-type Patient reference; search-type Organization chain",
        ),
        // a server that looks only at what follows the last slash searches its own patients
        created(
            "under another host",
            "https://evil.example/fhir/Patient?identifier=x",
            "+ search-type Patient reference",
        ),
        created(
            "a type in another case under another host",
            "https://evil.example/patient?identifier=x",
            "invalid: `patient` differs from `Patient` only in its case",
        ),
        created(
            "no FHIR of another host",
            "https://evil.example/api?id=1",
            "create Observation +body: create Observation proposed",
        ),
        created("without criteria", "Patient?", "unknown: a `POST` by criteria needs criteria"),
        created(
            "by an empty criterion",
            "Patient?identifier=",
            "invalid: criterion `identifier` has no value, so that a server may ignore it",
        ),
        created("of a type that is none", "Foo?identifier=x", "invalid: `Foo` is no resource type"),
        created(
            "of an instance",
            "Patient/1?identifier=x",
            "invalid: a reference by criteria cannot be read, at `reference`",
        ),
        created(
            "with a slash at the end",
            "Patient/?identifier=x",
            "invalid: a reference by criteria cannot be read, at `reference`",
        ),
        created(
            "of no scheme",
            "urn:x?identifier=x",
            "invalid: a reference by criteria cannot be read, at `reference`",
        ),
        created(
            "with a space before",
            " Patient?identifier=x",
            "invalid: a reference by criteria cannot be read, at `reference`",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let deep = json!({ "resourceType": "Bundle", "id": "1", "type": "document", "entry": [
        { "resource": { "resourceType": "Observation", "performer": [{ "reference": "Practitioner?name=x" }] } }
    ] });
    check(
        "PUT",
        "/Bundle/1",
        &[],
        &deep.to_string(),
        "update Bundle/1 +body: update Bundle/1 stored+proposed; search-type Practitioner reference",
    )
    .unwrap();
}

#[test]
fn the_other_versions() {
    let check =
        |version, url: &str, expected: &str| assert_eq!(rendered(&read(version, "GET", url, &[], "")), expected);
    check(FhirVersion::R4B, "/Ingredient/1", "read Ingredient/1: read Ingredient/1 stored");
    check(FhirVersion::R4B, "/Transport/1", "invalid: `Transport` is no resource type");
    check(FhirVersion::R5, "/Transport?identifier=x", "search-type Transport: search-type Transport many");
    check(FhirVersion::R5, "/DeviceUseStatement/1", "invalid: `DeviceUseStatement` is no resource type");
    check(FhirVersion::R5, "/Patient?_list=1", "search-type Patient: search-type Patient many; search-type List chain");
}
