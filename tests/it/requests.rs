//! FHIR requests as clients and attackers write them → what each of them reveals or changes, or why it is none.

use std::time::{Duration, Instant};

use cedarward::fhir::definitions::{Definitions, FhirVersion};
use cedarward::fhir::operation::{
    Access, AccessRole, Body, EvidenceKind, Operation, OperationError, Proposed, Reach, Request, Settings, parse,
};
use proptest::prelude::*;
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

/// Rows of a name, a request (method and URL, header lines, an empty line, a body), and what it is. All that differ
/// are told at once.
fn check_all(rows: &[(&str, &str, &str)]) {
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|(name, request, expected)| {
            let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
            let mut lines = head.lines();
            let (method, url) = lines.next().and_then(|line| line.split_once(' ')).unwrap();
            let headers: Vec<_> = lines.map(|line| line.split_once(": ").unwrap()).collect();
            check(method, url, &headers, body, expected).err().map(|wrong| format!("{name}: {wrong}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
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
fn every_interaction_of_one_resource() {
    check_all(&[
        ("read", "GET /Patient/1", "read Patient/1: read Patient/1 stored"),
        ("read by HEAD", "HEAD /Patient/1", "read Patient/1: read Patient/1 stored"),
        ("read of an odd id", "GET /Patient/...", "read Patient/...: read Patient/... stored"),
        ("read with an answer's form", "GET /Patient/1?_format=json&_summary=true", "read Patient/1: read Patient/1 stored"),
        ("read of what nobody knows", "GET /Patient/1?_include=Patient:organization", ""),
        ("read under the base", "GET https://fhir.example/r4/Patient/1", "read Patient/1: read Patient/1 stored"),
        ("read under the longer base", "GET https://fhir.example/r4/ward/Patient/1", "read Patient/1: read Patient/1 stored"),
        ("vread", "GET /Patient/1/_history/2", "vread Patient/1/_history/2: vread Patient/1 versions"),
        ("update", "PUT /Patient/1\n\n{\"resourceType\":\"Patient\",\"id\":\"1\"}", "update Patient/1 +body: update Patient/1 stored+proposed"),
        ("update with a strange parameter", "PUT /Patient/1?identifier=1\n\n{\"resourceType\":\"Patient\",\"id\":\"1\"}", ""),
        ("JSON Patch", "PATCH /Patient/1\nContent-Type: application/json-patch+json\n\n[]", "patch Patient/1 +proposed: patch Patient/1 stored+proposed"),
        ("FHIRPath Patch", "PATCH /Patient/1\n\n{\"resourceType\":\"Parameters\"}", "patch Patient/1 +proposed: patch Patient/1 stored+proposed"),
        ("a patch that is not passed on", "PATCH /Patient/1", "patch Patient/1 +proposed: patch Patient/1 stored+proposed"),
        ("a patch that refers by criteria", "PATCH /Observation/1\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"operation\",\"part\":[{\"name\":\"value\",\"valueReference\":{\"reference\":\"Patient?identifier=x\"}}]}]}", ""),
        ("delete", "DELETE /Patient/1", "delete Patient/1: delete Patient/1 stored"),
        ("delete with an empty object", "DELETE /Patient/1\n\n{}", "delete Patient/1: delete Patient/1 stored"),
        ("create", "POST /Patient\n\n{\"resourceType\":\"Patient\"}", "create Patient +body: create Patient proposed"),
        ("create with a chosen id", "POST /Patient\n\n{\"resourceType\":\"Patient\",\"id\":\"victim\"}", ""),
        ("create with a strange parameter", "POST /Patient?_validate=no\n\n{\"resourceType\":\"Patient\"}", ""),
        ("create of a bundle as a document", "POST /Bundle\n\n{\"resourceType\":\"Bundle\",\"type\":\"transaction\"}", "create Bundle +body: create Bundle proposed"),
        ("history of an instance", "GET /Patient/1/_history", "history-instance Patient/1: history-instance Patient/1 versions"),
        ("history of a type", "GET /Patient/_history?_since=2020&_count=3", "history-type Patient: history-type Patient versions"),
        ("history of the system", "GET /_history", "history-system: history-system every versions"),
        ("history of a list", "GET /Patient/_history?_list=42", ""),
        ("history with a search's parameter", "GET /Patient/_history?name=x", ""),
        ("deletion of history", "DELETE /Patient/1/_history", ""),
        ("deletion of a version", "DELETE /Patient/1/_history/2", ""),
        ("the capability statement", "GET /metadata", "capabilities public: capabilities server none"),
        ("its mode", "HEAD /metadata?mode=terminology&_format=json", "capabilities public: capabilities server none"),
        ("SMART's configuration", "GET /.well-known/smart-configuration", "capabilities public: capabilities server none"),
    ]);
}
