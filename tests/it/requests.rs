//! FHIR requests as clients and attackers write them → what each of them reveals or changes, or why it is none.

use cedarward::fhir::definitions::{Definitions, FhirVersion};
use cedarward::fhir::operation::{
    Access, AccessRole, Body, EvidenceKind, Operation, OperationError, Proposed, Reach, Request, Settings, parse,
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
        (
            "read with an answer's form",
            "GET /Patient/1?_format=json&_summary=true",
            "read Patient/1: read Patient/1 stored",
        ),
        (
            "read of what nobody knows",
            "GET /Patient/1?_include=Patient:organization",
            "read Patient/1: read Patient/1 stored; read every chain",
        ),
        ("read under the base", "GET https://fhir.example/r4/Patient/1", "read Patient/1: read Patient/1 stored"),
        (
            "read under the longer base",
            "GET https://fhir.example/r4/ward/Patient/1",
            "read Patient/1: read Patient/1 stored",
        ),
        ("vread", "GET /Patient/1/_history/2", "vread Patient/1/_history/2: vread Patient/1 versions"),
        (
            "update",
            "PUT /Patient/1\n\n{\"resourceType\":\"Patient\",\"id\":\"1\"}",
            "update Patient/1 +body: update Patient/1 stored+proposed",
        ),
        (
            "update with a strange parameter",
            "PUT /Patient/1?identifier=1\n\n{\"resourceType\":\"Patient\",\"id\":\"1\"}",
            "update Patient/1 +body: update Patient/1 stored+proposed; update every chain",
        ),
        (
            "JSON Patch",
            "PATCH /Patient/1\nContent-Type: application/json-patch+json\n\n[]",
            "patch Patient/1 +proposed: patch Patient/1 stored+proposed",
        ),
        (
            "FHIRPath Patch",
            "PATCH /Patient/1\n\n{\"resourceType\":\"Parameters\"}",
            "patch Patient/1 +proposed: patch Patient/1 stored+proposed",
        ),
        (
            "a patch that is not passed on",
            "PATCH /Patient/1",
            "patch Patient/1 +proposed: patch Patient/1 stored+proposed",
        ),
        (
            "a patch that refers by criteria",
            "PATCH /Observation/1\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"operation\",\"part\":[{\"name\":\"value\",\"valueReference\":{\"reference\":\"Patient?identifier=x\"}}]}]}",
            "patch Observation/1 +proposed: patch Observation/1 stored+proposed; search-type Patient condition",
        ),
        ("delete", "DELETE /Patient/1", "delete Patient/1: delete Patient/1 stored"),
        ("delete with an empty object", "DELETE /Patient/1\n\n{}", "delete Patient/1: delete Patient/1 stored"),
        ("create", "POST /Patient\n\n{\"resourceType\":\"Patient\"}", "create Patient +body: create Patient proposed"),
        (
            "create with a chosen id",
            "POST /Patient\n\n{\"resourceType\":\"Patient\",\"id\":\"victim\"}",
            "create Patient +body: create Patient proposed; update Patient/victim stored+proposed",
        ),
        (
            "create with a strange parameter",
            "POST /Patient?_validate=no\n\n{\"resourceType\":\"Patient\"}",
            "create Patient +body: create Patient proposed; create every chain",
        ),
        (
            "create of a bundle as a document",
            "POST /Bundle\n\n{\"resourceType\":\"Bundle\",\"type\":\"transaction\"}",
            "create Bundle +body: create Bundle proposed",
        ),
        (
            "history of an instance",
            "GET /Patient/1/_history",
            "history-instance Patient/1: history-instance Patient/1 versions",
        ),
        (
            "history of a type",
            "GET /Patient/_history?_since=2020&_count=3",
            "history-type Patient: history-type Patient versions",
        ),
        ("history of the system", "GET /_history", "history-system: history-system every versions"),
        (
            "history of a list",
            "GET /Patient/_history?_list=42",
            "history-type Patient: history-type Patient versions; search-type List chain",
        ),
        (
            "history with a search's parameter",
            "GET /Patient/_history?name=x",
            "history-type Patient: history-type Patient versions; history-type every chain",
        ),
        (
            "deletion of history",
            "DELETE /Patient/1/_history",
            "delete Patient/1: delete Patient/1 versions; hard-delete Patient/1 versions",
        ),
        (
            "deletion of a version",
            "DELETE /Patient/1/_history/2",
            "delete Patient/1/_history/2: delete Patient/1 versions; hard-delete Patient/1 versions",
        ),
        ("the capability statement", "GET /metadata", "capabilities public: capabilities server none"),
        ("its mode", "HEAD /metadata?mode=terminology&_format=json", "capabilities public: capabilities server none"),
        (
            "SMART's configuration",
            "GET /.well-known/smart-configuration",
            "capabilities public: capabilities server none",
        ),
    ]);
}

#[test]
fn every_conditional_interaction() {
    check_all(&[
        (
            "conditional create",
            "POST /Patient\nIf-None-Exist: identifier=x\n\n{\"resourceType\":\"Patient\"}",
            "create Patient conditional +body: create Patient proposed; search-type Patient condition",
        ),
        (
            "conditional create with a question mark",
            "POST /Patient\nif_none_exist: ?identifier=x\n\n{\"resourceType\":\"Patient\"}",
            "create Patient conditional +body: create Patient proposed; search-type Patient condition",
        ),
        (
            "conditional create through a chain",
            "POST /Observation\nIf-None-Exist: subject:Patient.name=x\n\n{\"resourceType\":\"Observation\"}",
            "create Observation conditional +body: create Observation proposed; search-type Observation condition; search-type Patient chain",
        ),
        (
            "conditional create with an include",
            "POST /Observation\nIf-None-Exist: code=1&_include=Observation:encounter:Encounter\n\n{\"resourceType\":\"Observation\"}",
            "create Observation conditional +body: create Observation proposed; search-type Observation condition; create Encounter include; search-type Encounter include",
        ),
        (
            "conditional update",
            "PUT /Patient?identifier=x\n\n{\"resourceType\":\"Patient\"}",
            "update Patient conditional +body: update Patient stored+proposed; search-type Patient condition",
        ),
        (
            "conditional update with an id",
            "PUT /Patient?identifier=x\n\n{\"resourceType\":\"Patient\",\"id\":\"1\"}",
            "update Patient conditional +body: update Patient stored+proposed; update Patient/1 stored+proposed; search-type Patient condition",
        ),
        (
            "conditional patch",
            "PATCH /Patient?identifier=x\n\n[]",
            "patch Patient conditional +proposed: patch Patient stored+proposed; search-type Patient condition",
        ),
        (
            "conditional delete",
            "DELETE /Patient?identifier=x",
            "delete Patient conditional: delete Patient many; search-type Patient condition",
        ),
        (
            "conditional delete of what is included",
            "DELETE /Patient?identifier=x&_revinclude=Observation:subject",
            "delete Patient conditional: delete Patient many; search-type Patient condition; delete Observation include; search-type Observation include",
        ),
        (
            "conditional delete by a chain",
            "DELETE /Observation?subject:Patient.name=x",
            "delete Observation conditional: delete Observation many; search-type Observation condition; search-type Patient chain",
        ),
        (
            "conditional delete with an unknown parameter",
            "DELETE /Patient?identifier=x&_cascade=delete",
            "delete Patient conditional: delete Patient many; search-type Patient condition; delete every chain; search-type every chain",
        ),
        (
            "conditional delete of any type",
            "DELETE /?identifier=x",
            "delete conditional: delete every many; search-type every condition",
        ),
        (
            "conditional delete of two types",
            "DELETE /?_type=Patient,Group&identifier=x",
            "delete conditional: delete Patient many; delete Group many; search-type Patient condition; search-type Group condition",
        ),
        (
            "conditional create in a bundle",
            "POST /\n\n{\"resourceType\":\"Bundle\",\"type\":\"batch\",\"entry\":[{\"request\":{\"method\":\"POST\",\"url\":\"Patient\",\"ifNoneExist\":\"identifier=x\"},\"resource\":{\"resourceType\":\"Patient\"}}]}",
            "batch: batch server none | create Patient conditional +body: create Patient proposed; search-type Patient condition",
        ),
        ("no criteria to delete by", "DELETE /Patient", "unknown: a `DELETE` by criteria needs criteria"),
        ("no criteria to delete the server by", "DELETE /", "unknown: a `DELETE` by criteria needs criteria"),
        ("only a type to delete by", "DELETE /?_type=Patient", "unknown: a `DELETE` by criteria needs criteria"),
        (
            "only an answer's form to delete by",
            "DELETE /Patient?_count=1",
            "unknown: a `DELETE` by criteria needs criteria",
        ),
        (
            "no criteria to update by",
            "PUT /Patient\n\n{\"resourceType\":\"Patient\"}",
            "unknown: a `PUT` by criteria needs criteria",
        ),
        ("no criteria to patch by", "PATCH /Patient\n\n[]", "unknown: a `PATCH` by criteria needs criteria"),
        (
            "an empty If-None-Exist",
            "POST /Patient\nIf-None-Exist: \n\n{\"resourceType\":\"Patient\"}",
            "invalid: the criteria are empty",
        ),
        (
            "an If-None-Exist without criteria",
            "POST /Patient\nIf-None-Exist: _count=1\n\n{\"resourceType\":\"Patient\"}",
            "unknown: a `POST` by criteria needs criteria",
        ),
        (
            "an If-None-Exist with its type",
            "POST /Patient\nIf-None-Exist: Patient?identifier=x\n\n{\"resourceType\":\"Patient\"}",
            "invalid: `If-None-Exist`: a parameter name holds a character that no FHIR name holds, at byte 0",
        ),
        (
            "If-None-Exist twice",
            "POST /Patient\nIf-None-Exist: identifier=x\nif-none-exist: identifier=y\n\n{\"resourceType\":\"Patient\"}",
            "invalid: header `If-None-Exist` is given twice",
        ),
        (
            "If-None-Exist with a token",
            "POST /Patient\nIf-None-Exist: access_token=x\n\n{\"resourceType\":\"Patient\"}",
            "invalid: a token stands in the parameters; it belongs into `Authorization`",
        ),
        (
            "a criterion without a value",
            "DELETE /Patient?identifier=",
            "invalid: criterion `identifier` has no value, so that a server may ignore it",
        ),
        (
            "a criterion of a space",
            "DELETE /Patient?identifier=+",
            "invalid: criterion `identifier` has no value, so that a server may ignore it",
        ),
        (
            "a criterion of commas",
            "DELETE /Patient?identifier=,",
            "invalid: criterion `identifier` has no value, so that a server may ignore it",
        ),
        (
            "a criterion of no code in no system",
            "DELETE /Patient?identifier=%7C",
            "invalid: criterion `identifier` has no value, so that a server may ignore it",
        ),
        (
            "one criterion of two without a value",
            "PUT /Patient?active=true&identifier\n\n{\"resourceType\":\"Patient\"}",
            "invalid: criterion `identifier` has no value, so that a server may ignore it",
        ),
    ]);
}

#[test]
fn every_delete_that_is_hard() {
    check_all(&[
        (
            "_hardDelete",
            "DELETE /Patient/1?_hardDelete=true",
            "delete Patient/1: delete Patient/1 stored; hard-delete Patient/1 stored",
        ),
        (
            "hardDelete",
            "DELETE /Patient/1?hardDelete=true",
            "delete Patient/1: delete Patient/1 stored; hard-delete Patient/1 stored",
        ),
        (
            "HARDDELETE",
            "DELETE /Patient/1?HARDDELETE=1",
            "delete Patient/1: delete Patient/1 stored; hard-delete Patient/1 stored",
        ),
        (
            "_harddelete encoded",
            "DELETE /Patient/1?%5Fharddelete=TRUE",
            "delete Patient/1: delete Patient/1 stored; hard-delete Patient/1 stored",
        ),
        (
            "_hardDelete without a value",
            "DELETE /Patient/1?_hardDelete",
            "delete Patient/1: delete Patient/1 stored; hard-delete Patient/1 stored",
        ),
        (
            "_hardDelete with a modifier",
            "DELETE /Patient/1?_hardDelete:x=false2",
            "delete Patient/1: delete Patient/1 stored; hard-delete Patient/1 stored",
        ),
        (
            "_hardDelete=False",
            "DELETE /Patient/1?_hardDelete=False",
            "delete Patient/1: delete Patient/1 stored; hard-delete Patient/1 stored",
        ),
        ("_hardDelete=false", "DELETE /Patient/1?_hardDelete=false", "delete Patient/1: delete Patient/1 stored"),
        (
            "_hardDelete both",
            "DELETE /Patient/1?_hardDelete=false&hardDelete=true",
            "delete Patient/1: delete Patient/1 stored; hard-delete Patient/1 stored",
        ),
        (
            "_hardDelete and another",
            "DELETE /Patient/1?_hardDelete=true&_cascade=delete",
            "delete Patient/1: delete Patient/1 stored; hard-delete Patient/1 stored; delete every chain; hard-delete every chain",
        ),
        (
            "_expunge",
            "DELETE /Patient/1?_expunge=true",
            "delete Patient/1: delete Patient/1 stored; delete every chain",
        ),
        (
            "conditional and hard",
            "DELETE /Patient?identifier=x&_hardDelete=true",
            "delete Patient conditional: delete Patient many; hard-delete Patient many; search-type Patient condition",
        ),
        (
            "of every type and hard",
            "DELETE /?identifier=x&hardDelete=true",
            "delete conditional: delete every many; hard-delete every many; search-type every condition",
        ),
        ("hard is no criterion", "DELETE /Patient?_hardDelete=true", "unknown: a `DELETE` by criteria needs criteria"),
        (
            "what is included goes hard",
            "DELETE /Patient?identifier=x&hardDelete=true&_revinclude=Observation:subject",
            "delete Patient conditional: delete Patient many; hard-delete Patient many; search-type Patient condition; delete Observation include; hard-delete Observation include; search-type Observation include",
        ),
        (
            "hard in a bundle",
            "POST /\n\n{\"resourceType\":\"Bundle\",\"type\":\"transaction\",\"entry\":[{\"request\":{\"method\":\"DELETE\",\"url\":\"Patient/1?_hardDelete=true\"}}]}",
            "transaction: transaction server none | delete Patient/1: delete Patient/1 stored; hard-delete Patient/1 stored",
        ),
        (
            "$purge-history",
            "POST /Patient/1/$purge-history",
            "operation Patient/1 $purge-history: $purge-history Patient/1 versions; delete Patient/1 stored",
        ),
        (
            "$purge-history by DELETE",
            "DELETE /Patient/1/$purge-history?allowPartialSuccess=true",
            "operation Patient/1 $purge-history: $purge-history Patient/1 versions; delete Patient/1 stored",
        ),
        (
            "$purge-history of what nobody knows",
            "DELETE /Patient/1/$purge-history?all=true",
            "operation Patient/1 $purge-history: $purge-history Patient/1 versions; delete Patient/1 stored; $purge-history every chain; delete every chain",
        ),
        (
            "$purge-history of a type",
            "DELETE /Patient/$purge-history",
            "unknown: operation `$purge-history` is not called by `DELETE`, or not here",
        ),
        (
            "$purge-history by GET",
            "GET /Patient/1/$purge-history",
            "unknown: operation `$purge-history` is not called by `GET`, or not here",
        ),
        (
            "$bulk-delete",
            "DELETE /$bulk-delete?_lastUpdated=gt2020",
            "operation $bulk-delete: $bulk-delete every many; delete every many; search-type every condition",
        ),
        (
            "$bulk-delete of a type",
            "DELETE /Patient/$bulk-delete?identifier=x&_isParallel=true",
            "operation Patient $bulk-delete: $bulk-delete Patient many; delete Patient many; search-type Patient condition",
        ),
        (
            "$bulk-delete of all",
            "DELETE /$bulk-delete",
            "operation $bulk-delete: $bulk-delete every many; delete every many; search-type every condition",
        ),
        (
            "$bulk-delete, hard",
            "DELETE /Patient/$bulk-delete?_hardDelete=true",
            "operation Patient $bulk-delete: $bulk-delete Patient many; delete Patient many; hard-delete Patient many; search-type Patient condition",
        ),
        (
            "$bulk-delete with history",
            "DELETE /Patient/$bulk-delete?_purgeHistory=true",
            "operation Patient $bulk-delete: $bulk-delete Patient many; delete Patient many; hard-delete Patient many; search-type Patient condition",
        ),
        (
            "$bulk-delete hard in its body",
            "POST /Patient/$bulk-delete\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"_hardDelete\",\"valueBoolean\":true}]}",
            "operation Patient $bulk-delete: $bulk-delete Patient many; delete Patient many; hard-delete Patient many; search-type Patient condition",
        ),
        (
            "$bulk-delete with includes",
            "DELETE /Patient/$bulk-delete?_id=1&_revinclude=Observation:subject",
            "operation Patient $bulk-delete: $bulk-delete Patient many; delete Patient many; search-type Patient condition; $bulk-delete Observation include; delete Observation include; search-type Observation include",
        ),
        (
            "$bulk-delete of references",
            "DELETE /Patient/$bulk-delete?_id=1&_remove-references=true",
            "operation Patient $bulk-delete: $bulk-delete Patient many; delete Patient many; search-type Patient condition; $bulk-delete every chain; delete every chain; search-type every chain",
        ),
        (
            "$bulk-delete of an instance",
            "DELETE /Patient/1/$bulk-delete",
            "operation Patient/1 $bulk-delete: $bulk-delete Patient many; delete Patient many; search-type Patient condition; $bulk-delete every chain; delete every chain",
        ),
        (
            "$bulk-delete by GET",
            "GET /Patient/$bulk-delete",
            "unknown: operation `$bulk-delete` is not called by `GET`, or not here",
        ),
        (
            "$bulk-update",
            "PATCH /Patient/$bulk-update?_id=1\n\n{\"resourceType\":\"Parameters\"}",
            "operation Patient $bulk-update: $bulk-update Patient many; update Patient many; search-type Patient condition",
        ),
    ]);
}

#[test]
fn searches_at_every_level() {
    check_all(&[
        ("of a type", "GET /Patient", "search-type Patient: search-type Patient many"),
        ("of a type by HEAD", "HEAD /Patient?name=x", "search-type Patient: search-type Patient many"),
        (
            "of a type by POST",
            "POST /Patient/_search\nContent-Type: application/x-www-form-urlencoded\n\nname=x",
            "search-type Patient: search-type Patient many",
        ),
        (
            "POST joins URL and form",
            "POST /Observation/_search?_include=Observation:encounter:Encounter\n\n_include=Observation:subject:Patient",
            "search-type Observation: search-type Observation many; search-type Encounter include; search-type Patient include",
        ),
        ("POST with nothing", "POST /Patient/_search", "search-type Patient: search-type Patient many"),
        (
            "POST with UTF-8",
            "POST /Patient/_search\ncontent-type: application/x-www-form-urlencoded; charset=UTF-8\n\nname=x",
            "search-type Patient: search-type Patient many",
        ),
        ("of a type by GET at _search", "GET /Patient/_search?name=x", "unknown: FHIR has no `GET` here"),
        (
            "a form that says JSON",
            "POST /Patient/_search\nContent-Type: application/fhir+json\n\nname=x",
            "invalid: `Content-Type` does not fit the body",
        ),
        (
            "a form in another charset",
            "POST /Patient/_search\nContent-Type: application/x-www-form-urlencoded; charset=utf-7\n\nname=x",
            "invalid: `Content-Type` does not fit the body",
        ),
        (
            "a form that is JSON",
            "POST /Patient/_search\n\n{\"name\":\"x\"}",
            "invalid: the body is not of the form that this interaction takes",
        ),
        ("a GET with a form", "GET /Patient\n\nname=x", "invalid: this interaction has no body"),
        ("a GET with JSON", "GET /Patient\n\n{\"name\":\"x\"}", "invalid: this interaction has no body"),
        (
            "single parameters split between URL and form",
            "POST /Patient/_search?_sort=name\n\n_sort=birthdate",
            "invalid: parameter `_sort` is given twice",
        ),
        ("of the system", "GET /", "search-system: search-system every many"),
        (
            "of the system under the base",
            "GET https://fhir.example/r4?_id=1",
            "search-system: search-system every many",
        ),
        (
            "of some types",
            "GET /?_type=Patient,Observation,Patient&_id=1",
            "search-system: search-system Patient many; search-system Observation many",
        ),
        (
            "of some types by POST",
            "POST /_search\n\n_type=Patient,Observation",
            "search-system: search-system Patient many; search-system Observation many",
        ),
        (
            "of the system through a chain",
            "GET /?_type=Observation&subject:Patient.name=x",
            "search-system: search-system Observation many; search-type Patient chain",
        ),
        (
            "of the system, including",
            "GET /?_type=Observation,Encounter&_include=*",
            "search-system: search-system Observation many; search-system Encounter many; search-type every include",
        ),
        (
            "of a compartment",
            "GET /Patient/1/Observation?code=x",
            "search-compartment Observation in Patient/1: search-compartment Observation many",
        ),
        (
            "of a compartment's own type",
            "GET /Patient/1/Patient",
            "search-compartment Patient in Patient/1: search-compartment Patient many",
        ),
        (
            "of a compartment by POST",
            "POST /Patient/1/Observation/_search\n\ncode=x",
            "search-compartment Observation in Patient/1: search-compartment Observation many",
        ),
        (
            "of a whole compartment",
            "GET /Patient/1/*",
            "search-compartment in Patient/1: search-compartment Account many; search-compartment AdverseEvent many … search-compartment VisionPrescription many (66)",
        ),
        (
            "of a whole compartment by POST",
            "POST /Patient/1/_search",
            "search-compartment in Patient/1: search-compartment Account many; search-compartment AdverseEvent many … search-compartment VisionPrescription many (66)",
        ),
        (
            "of some types of a compartment",
            "GET /Encounter/1/*?_type=Observation,Condition",
            "search-compartment in Encounter/1: search-compartment Observation many; search-compartment Condition many",
        ),
        (
            "of a compartment, including",
            "GET /Patient/1/Observation?_include=Observation:performer:Practitioner",
            "search-compartment Observation in Patient/1: search-compartment Observation many; search-type Practitioner include",
        ),
        (
            "a compartment has no such type",
            "GET /Patient/1/Location",
            "invalid: `Location` is not in the Patient compartment",
        ),
        (
            "no such type among some",
            "GET /Patient/1/*?_type=Observation,Location",
            "invalid: parameter `_type` has no meaning here",
        ),
        ("no such compartment", "GET /Location/1/Encounter", "unknown: FHIR has no such path"),
        ("a history is no member", "GET /Patient/_history/1", "invalid: the id is not a FHIR id"),
        ("types at a type", "GET /Patient?_type=Observation", "invalid: parameter `_type` has no meaning here"),
        (
            "a type that is none",
            "GET /?_type=Patient,Person2",
            "invalid: parameter `_type` names a resource type that is not FHIR's",
        ),
        (
            "a type in another case",
            "GET /?_type=patient",
            "invalid: parameter `_type` names a resource type that is not FHIR's",
        ),
        ("no type at all", "GET /?_type=", "invalid: parameter `_type` names a resource type that is not FHIR's"),
        (
            "types with an empty one",
            "GET /?_type=Patient,",
            "invalid: parameter `_type` names a resource type that is not FHIR's",
        ),
        ("types twice", "GET /?_type=Patient&_type=Observation", "invalid: parameter `_type` is given twice"),
        (
            "types in another case",
            "GET /?_Type=Patient",
            "invalid: parameter `_Type` differs from `_type` only in its case",
        ),
    ]);
}

#[test]
fn what_a_criterion_looks_at() {
    check_all(&[
        (
            "nothing else",
            "GET /Observation?code=x&subject=Patient/1&_id=1&_lastUpdated=2020&_tag=x&_text=y",
            "search-type Observation: search-type Observation many",
        ),
        (
            "a typed chain",
            "GET /Observation?subject:Patient.name=x",
            "search-type Observation: search-type Observation many; search-type Patient chain",
        ),
        (
            "an untyped chain",
            "GET /Observation?subject.name=x",
            "search-type Observation: search-type Observation many; search-type Location chain; search-type Patient chain",
        ),
        (
            "an untyped chain to a parameter of some targets",
            "GET /Observation?performer.address=x",
            "search-type Observation: search-type Observation many; search-type Organization chain; search-type Patient chain; search-type Practitioner chain; search-type RelatedPerson chain",
        ),
        (
            "an untyped chain to what all have",
            "GET /Observation?subject._id=1",
            "search-type Observation: search-type Observation many; search-type Device chain; search-type Group chain; search-type Location chain; search-type Patient chain",
        ),
        (
            "an untyped chain to what nobody knows",
            "GET /Observation?subject.foo=1",
            "search-type Observation: search-type Observation many; search-type Device chain; search-type Group chain; search-type Location chain; search-type Patient chain; search-type every chain",
        ),
        (
            "a chain to a deployment's own",
            "GET /Observation?subject.eye-color=blue",
            "search-type Observation: search-type Observation many; search-type Patient chain",
        ),
        (
            "a chain through a deployment's own",
            "GET /Patient?facility.name=x",
            "search-type Patient: search-type Patient many; search-type every chain",
        ),
        (
            "a chain through both HL7's and a deployment's own",
            "GET /Practitioner?facility:Organization.name=x",
            "search-type Practitioner: search-type Practitioner many; search-type every chain",
        ),
        (
            "a nested chain",
            "GET /Observation?subject:Patient.organization.partof:Organization.name=x",
            "search-type Observation: search-type Observation many; search-type Organization chain; search-type Patient chain",
        ),
        (
            "a nested untyped chain",
            "GET /Observation?encounter.location.name=x",
            "search-type Observation: search-type Observation many; search-type Encounter chain; search-type Location chain",
        ),
        (
            "a chain through any type",
            "GET /Observation?focus.code=x",
            "search-type Observation: search-type Observation many; search-type AllergyIntolerance chain … search-type ValueSet chain (31)",
        ),
        (
            "_has",
            "GET /Patient?_has:Observation:patient:code=x",
            "search-type Patient: search-type Patient many; search-type Observation chain",
        ),
        (
            "_has nested",
            "GET /Patient?_has:Observation:patient:_has:AuditEvent:entity:agent=x",
            "search-type Patient: search-type Patient many; search-type AuditEvent chain; search-type Observation chain",
        ),
        (
            "_has and a chain",
            "GET /Patient?_has:Observation:subject:encounter.type=x",
            "search-type Patient: search-type Patient many; search-type Encounter chain; search-type EpisodeOfCare chain; search-type Observation chain",
        ),
        (
            "_has in a chain",
            "GET /Encounter?patient._has:Group:member:_id=1",
            "search-type Encounter: search-type Encounter many; search-type Group chain; search-type Patient chain",
        ),
        (
            "_has encoded",
            "GET /Patient?%5Fhas%3AObservation%3Apatient%3Acode=x",
            "search-type Patient: search-type Patient many; search-type Observation chain",
        ),
        (
            "_has by a parameter nobody knows",
            "GET /Patient?_has:Observation:foo:code=x",
            "search-type Patient: search-type Patient many; search-type Observation chain; search-type every chain",
        ),
        (
            "_has by a deployment's own",
            "GET /Patient?_has:Observation:facility:code=x",
            "search-type Patient: search-type Patient many; search-type Observation chain",
        ),
        (
            "_has by what is no reference",
            "GET /Patient?_has:Observation:code:status=x",
            "invalid: parameter `_has:Observation:code:status` goes through `code`, which is no reference",
        ),
        (
            "_has by what does not refer here",
            "GET /Patient?_has:Observation:encounter:code=x",
            "invalid: parameter `_has:Observation:encounter:code` expects `encounter` to refer to a type that it never refers to",
        ),
        (
            "_has of a type that is none",
            "GET /Patient?_has:Obs:patient:code=x",
            "invalid: parameter `_has:Obs:patient:code` names a resource type that is not FHIR's",
        ),
        (
            "_has of a type in another case",
            "GET /Patient?_has:observation:patient:code=x",
            "invalid: parameter `_has:observation:patient:code` names a resource type that is not FHIR's",
        ),
        (
            "_has cut short",
            "GET /Patient?_has:Observation:patient=x",
            "invalid: parameter `_has:Observation:patient` is not of FHIR's search grammar",
        ),
        (
            "_has with nothing at its end",
            "GET /Patient?_has:Observation:patient:=x",
            "invalid: parameter `_has:Observation:patient:` is not of FHIR's search grammar",
        ),
        ("_has alone", "GET /Patient?_has=x", "invalid: parameter `_has` is not of FHIR's search grammar"),
        (
            "_has in another case",
            "GET /Patient?_HAS:Observation:patient:code=x",
            "invalid: parameter `_HAS` differs from `_has` only in its case",
        ),
        (
            "_has in another case within a chain",
            "GET /Observation?subject:Patient._Has:Observation:patient:code=x",
            "invalid: parameter `subject:Patient._Has:Observation:patient:code` has a modifier that is not FHIR's",
        ),
        ("_list", "GET /Patient?_list=42", "search-type Patient: search-type Patient many; search-type List chain"),
        (
            "_list in a chain",
            "GET /Observation?subject:Patient._list=42",
            "search-type Observation: search-type Observation many; search-type List chain; search-type Patient chain",
        ),
        (
            "_in",
            "GET /Patient?_in=Group/1",
            "search-type Patient: search-type Patient many; search-type CareTeam chain; search-type Group chain; search-type List chain",
        ),
        (
            ":in of a reference",
            "GET /Observation?subject:in=Group/1",
            "search-type Observation: search-type Observation many; search-type CareTeam chain; search-type Group chain; search-type List chain",
        ),
        (
            ":not-in of a code",
            "GET /Observation?code:not-in=http://v",
            "search-type Observation: search-type Observation many; search-type ValueSet chain",
        ),
        (
            ":below of a reference",
            "GET /Observation?subject:below=Location/1",
            "search-type Observation: search-type Observation many; search-type Device chain; search-type Group chain; search-type Location chain; search-type Patient chain",
        ),
        (
            ":below of a deployment's own",
            "GET /Patient?facility:below=Location/1",
            "search-type Patient: search-type Patient many; search-type every chain",
        ),
        (":below of a code", "GET /Observation?code:below=x", "search-type Observation: search-type Observation many"),
        (
            ":identifier, :missing, :text, :not, :exact",
            "GET /Observation?subject:identifier=x&code:missing=true&code:text=x&status:not=final&value-string:exact=x",
            "search-type Observation: search-type Observation many",
        ),
        (":Type", "GET /Observation?subject:Patient=1", "search-type Observation: search-type Observation many"),
        (
            ":Type that is no target",
            "GET /Observation?subject:Medication=1",
            "invalid: parameter `subject:Medication` expects `subject` to refer to a type that it never refers to",
        ),
        (
            "a modifier that is none",
            "GET /Observation?code:foo=1",
            "invalid: parameter `code:foo` has a modifier that is not FHIR's",
        ),
        (
            "a modifier in another case",
            "GET /Observation?code:Missing=true",
            "invalid: parameter `code:Missing` has a modifier that is not FHIR's",
        ),
        (
            "a modifier twice",
            "GET /Observation?code:not:in=x",
            "invalid: parameter `code:not:in` has a modifier that is not FHIR's",
        ),
        (
            "a chain through what is no reference",
            "GET /Observation?code.text=x",
            "invalid: parameter `code.text` goes through `code`, which is no reference",
        ),
        (
            "a chain to a type that is no target",
            "GET /Observation?subject:Medication.code=x",
            "invalid: parameter `subject:Medication.code` expects `subject` to refer to a type that it never refers to",
        ),
        (
            "a chain to a type that is none",
            "GET /Observation?subject:Foo.code=x",
            "invalid: parameter `subject:Foo.code` names a resource type that is not FHIR's",
        ),
        (
            "a chain with nothing at its end",
            "GET /Observation?subject.=x",
            "invalid: parameter `subject.` is not of FHIR's search grammar",
        ),
        (
            "a chain with nothing in it",
            "GET /Observation?subject..name=x",
            "invalid: parameter `subject..name` is not of FHIR's search grammar",
        ),
        (
            "a chain with nothing before it",
            "GET /Observation?.name=x",
            "invalid: parameter `.name` is not of FHIR's search grammar",
        ),
        (
            "eight steps",
            "GET /Organization?partof.partof.partof.partof.partof.partof.partof.partof.name=x",
            "search-type Organization: search-type Organization many; search-type Organization chain",
        ),
        (
            "nine steps",
            "GET /Organization?partof.partof.partof.partof.partof.partof.partof.partof.partof.name=x",
            "invalid: parameter `…` has more than 8 steps",
        ),
        (
            "_filter",
            "GET /Patient?_filter=name%20eq%20x",
            "search-type Patient: search-type Patient many; search-type every chain",
        ),
        (
            "_filter in a chain",
            "GET /Observation?subject:Patient._filter=x",
            "search-type Observation: search-type Observation many; search-type Patient chain; search-type every chain",
        ),
        (
            "_query",
            "GET /Patient?_query=current",
            "search-type Patient: search-type Patient many; search-type every chain",
        ),
        ("_graph", "GET /Patient?_graph=x", "search-type Patient: search-type Patient many; search-type every chain"),
        (
            "a parameter nobody knows",
            "GET /Patient?foo=x",
            "search-type Patient: search-type Patient many; search-type every chain",
        ),
        (
            "a parameter of another type",
            "GET /Patient?code=x",
            "search-type Patient: search-type Patient many; search-type every chain",
        ),
        (
            "a deployment's own",
            "GET /Patient?eye-color=blue&facility=1",
            "search-type Patient: search-type Patient many",
        ),
        (
            "a deployment's own of another type",
            "GET /Observation?eye-color=blue",
            "search-type Observation: search-type Observation many; search-type every chain",
        ),
        (
            "a parameter in another case",
            "GET /Patient?Name=x",
            "invalid: parameter `Name` differs from `name` only in its case",
        ),
        (
            "a deployment's own in another case",
            "GET /Patient?Eye-Color=x",
            "invalid: parameter `Eye-Color` differs from `eye-color` only in its case",
        ),
        (
            "a common one in another case",
            "GET /Patient?_ID=x",
            "invalid: parameter `_ID` differs from `_id` only in its case",
        ),
        (
            "one in another case within a chain",
            "GET /Observation?subject:Patient.NAME=x",
            "invalid: parameter `NAME` differs from `name` only in its case",
        ),
        (
            "a link in another case",
            "GET /Observation?Subject:Patient.name=x",
            "invalid: parameter `Subject` differs from `subject` only in its case",
        ),
        (
            "any of the system's in another case",
            "GET /?IDENTIFIER=x",
            "invalid: parameter `IDENTIFIER` differs from `identifier` only in its case",
        ),
    ]);
}

#[test]
fn what_an_include_brings() {
    check_all(&[
        (
            "_include",
            "GET /Observation?_include=Observation:encounter",
            "search-type Observation: search-type Observation many; search-type Encounter include; search-type EpisodeOfCare include",
        ),
        (
            "_include of one target",
            "GET /Observation?_include=Observation:subject:Patient",
            "search-type Observation: search-type Observation many; search-type Patient include",
        ),
        (
            "_include of all targets",
            "GET /Observation?_include=Observation:subject",
            "search-type Observation: search-type Observation many; search-type Device include; search-type Group include; search-type Location include; search-type Patient include",
        ),
        (
            "_include of any type",
            "GET /Observation?_include=Observation:focus",
            "search-type Observation: search-type Observation many; search-type every include",
        ),
        (
            "_include of all of a type",
            "GET /Encounter?_include=Encounter:*",
            "search-type Encounter: search-type Encounter many; search-type every include",
        ),
        (
            "_include of all",
            "GET /Group?_include=*",
            "search-type Group: search-type Group many; search-type every include",
        ),
        (
            "_include of all, written long",
            "GET /Observation?_include=*:*",
            "search-type Observation: search-type Observation many; search-type every include",
        ),
        (
            "_include:iterate",
            "GET /Observation?_include:iterate=Patient:organization",
            "search-type Observation: search-type Observation many; search-type Organization include",
        ),
        (
            "_include:recurse",
            "GET /Observation?_include:recurse=Patient:organization",
            "search-type Observation: search-type Observation many; search-type Organization include",
        ),
        (
            "_include:iterate of all",
            "GET /Observation?_include:iterate=*",
            "search-type Observation: search-type Observation many; search-type every include",
        ),
        (
            "_include:iterate of all of a type",
            "GET /Observation?_include:iterate=Patient:*",
            "search-type Observation: search-type Observation many; search-type every include",
        ),
        (
            "_include of a deployment's own",
            "GET /Patient?_include=Patient:facility",
            "search-type Patient: search-type Patient many; search-type every include",
        ),
        (
            "_include of what nobody knows",
            "GET /Observation?_include=Observation:foo",
            "search-type Observation: search-type Observation many; search-type every include",
        ),
        (
            "_include encoded",
            "GET /Observation?%5Finclude=Observation%3Asubject%3APatient",
            "search-type Observation: search-type Observation many; search-type Patient include",
        ),
        (
            "_revinclude",
            "GET /Patient?_revinclude=Observation:subject",
            "search-type Patient: search-type Patient many; search-type Observation include",
        ),
        (
            "_revinclude of all of a type",
            "GET /Patient?_revinclude=Provenance:*",
            "search-type Patient: search-type Patient many; search-type Provenance include",
        ),
        (
            "_revinclude of all",
            "GET /Patient?_revinclude=*",
            "search-type Patient: search-type Patient many; search-type every include",
        ),
        (
            "_revinclude:iterate",
            "GET /Patient?_revinclude:iterate=Observation:subject:Patient",
            "search-type Patient: search-type Patient many; search-type Observation include",
        ),
        (
            "_revinclude of what nobody knows",
            "GET /Patient?_revinclude=Observation:foo",
            "search-type Patient: search-type Patient many; search-type every include",
        ),
        (
            "two includes",
            "GET /Observation?_include=Observation:subject:Patient&_revinclude=Provenance:target",
            "search-type Observation: search-type Observation many; search-type Patient include; search-type Provenance include",
        ),
        (
            "_contained",
            "GET /Medication?_contained=true",
            "search-type Medication: search-type Medication many; search-type every include",
        ),
        (
            "_contained=false",
            "GET /Medication?_contained=false&_containedType=container",
            "search-type Medication: search-type Medication many",
        ),
        (
            "an include of another type",
            "GET /Patient?_include=Observation:encounter:Encounter",
            "search-type Patient: search-type Patient many; search-type Encounter include",
        ),
        (
            "an include of what is no reference",
            "GET /Observation?_include=Observation:code",
            "invalid: parameter `_include` goes through `code`, which is no reference",
        ),
        (
            "an include of no target",
            "GET /Observation?_include=Observation:subject:Medication",
            "invalid: parameter `_include` expects `subject` to refer to a type that it never refers to",
        ),
        (
            "an include of a type that is none",
            "GET /Observation?_include=Foo:subject",
            "invalid: parameter `_include` names a resource type that is not FHIR's",
        ),
        (
            "an include of a type in another case",
            "GET /Observation?_include=observation:subject",
            "invalid: parameter `_include` names a resource type that is not FHIR's",
        ),
        (
            "an include by a parameter in another case",
            "GET /Observation?_include=Observation:Subject",
            "invalid: parameter `Subject` differs from `subject` only in its case",
        ),
        (
            "an include in another case",
            "GET /Observation?_Include=Observation:subject",
            "invalid: parameter `_Include` differs from `_include` only in its case",
        ),
        (
            "an include with another modifier",
            "GET /Observation?_include:Iterate=Observation:subject",
            "invalid: parameter `_include:Iterate` has a modifier that is not FHIR's",
        ),
        (
            "an include with a chain",
            "GET /Observation?_include.x=Observation:subject",
            "invalid: parameter `_include.x` is not of FHIR's search grammar",
        ),
        (
            "an include of two",
            "GET /Observation?_include=Observation:subject,Observation:encounter",
            "invalid: parameter `_include` is not of FHIR's search grammar",
        ),
        (
            "an include of two targets",
            "GET /Observation?_include=Observation:subject:Patient,Group",
            "invalid: parameter `_include` names a resource type that is not FHIR's",
        ),
        (
            "an include of nothing",
            "GET /Observation?_include=",
            "invalid: parameter `_include` is not of FHIR's search grammar",
        ),
        (
            "an include of a type alone",
            "GET /Observation?_include=Observation",
            "invalid: parameter `_include` is not of FHIR's search grammar",
        ),
        (
            "an include of every type's one",
            "GET /Observation?_include=*:subject",
            "invalid: parameter `_include` names a resource type that is not FHIR's",
        ),
        (
            "an include of a star and a target",
            "GET /Observation?_include=Observation:*:Patient",
            "invalid: parameter `_include` is not of FHIR's search grammar",
        ),
    ]);
}

#[test]
fn what_an_order_tells() {
    check_all(&[
        (
            "keys",
            "GET /Patient?_sort=-birthdate,name,_lastUpdated,_score",
            "search-type Patient: search-type Patient many",
        ),
        (
            "a chain",
            "GET /Observation?_sort=subject.name",
            "search-type Observation: search-type Observation many; search-type Location sort; search-type Patient sort",
        ),
        (
            "chains down",
            "GET /Observation?_sort=date,-encounter.location.name",
            "search-type Observation: search-type Observation many; search-type Encounter sort; search-type Location sort",
        ),
        (
            "a key nobody knows",
            "GET /Patient?_sort=foo",
            "search-type Patient: search-type Patient many; search-type every chain",
        ),
        (
            "a key in another case",
            "GET /Patient?_sort=NAME",
            "invalid: parameter `NAME` differs from `name` only in its case",
        ),
        (
            "a key with a type",
            "GET /Observation?_sort=subject:Patient.name",
            "invalid: parameter `_sort` is not of FHIR's search grammar",
        ),
        (
            "a key of _has",
            "GET /Patient?_sort=_has:Observation:patient:date",
            "invalid: parameter `_sort` is not of FHIR's search grammar",
        ),
        ("an empty key", "GET /Patient?_sort=", "invalid: parameter `_sort` is not of FHIR's search grammar"),
        (
            "an empty key among keys",
            "GET /Patient?_sort=name,,birthdate",
            "invalid: parameter `_sort` is not of FHIR's search grammar",
        ),
        (
            "an order with a modifier",
            "GET /Patient?_sort:desc=name",
            "invalid: parameter `_sort:desc` has a modifier that is not FHIR's",
        ),
        ("an order twice", "GET /Patient?_sort=name&_sort=birthdate", "invalid: parameter `_sort` is given twice"),
        (
            "an order in another case",
            "GET /Patient?_SORT=name",
            "invalid: parameter `_SORT` differs from `_sort` only in its case",
        ),
    ]);
}

#[test]
fn what_stands_once() {
    check_all(&[
        ("_count", "GET /Patient?_count=1&_count=1000", "invalid: parameter `_count` is given twice"),
        ("_summary", "GET /Patient?_summary=count&_summary=false", "invalid: parameter `_summary` is given twice"),
        ("_elements", "GET /Patient?_elements=id&_elements=name", "invalid: parameter `_elements` is given twice"),
        ("_filter", "GET /Patient?_filter=a&_filter=b", "invalid: parameter `_filter` is given twice"),
        ("_format of a read", "GET /Patient/1?_format=json&_format=xml", "invalid: parameter `_format` is given twice"),
        (
            "_since of a history",
            "GET /Patient/1/_history?_since=2020&_since=1990",
            "invalid: parameter `_since` is given twice",
        ),
        (
            "_since of an export",
            "GET /$export?_since=2020&_since=1990&_typeFilter=Patient?name=x&_typeFilter=Patient?name=y",
            "operation $export: $export every many; $export Patient many",
        ),
        ("what may repeat", "GET /Patient?name=a&name=b&_id=1&_id=2", "search-type Patient: search-type Patient many"),
        (
            "_count of words",
            "GET /Patient?_count=all",
            "invalid: parameter `_count` has a value that is not one of its own",
        ),
        (
            "_count below nothing",
            "GET /Patient?_count=-1",
            "invalid: parameter `_count` has a value that is not one of its own",
        ),
        (
            "_summary of its own",
            "GET /Patient?_summary=all",
            "invalid: parameter `_summary` has a value that is not one of its own",
        ),
        (
            "_total",
            "GET /Patient?_total=estimate&_elements=id,name&_pretty=true",
            "search-type Patient: search-type Patient many",
        ),
        (
            "_total of its own",
            "GET /Patient?_total=exact",
            "invalid: parameter `_total` has a value that is not one of its own",
        ),
        (
            "_total with a modifier",
            "GET /Patient?_total:not=none",
            "invalid: parameter `_total:not` has a modifier that is not FHIR's",
        ),
    ]);
}

#[test]
fn every_operation() {
    check_all(&[
        (
            "$everything of a patient",
            "GET /Patient/1/$everything",
            "operation Patient/1 $everything in Patient/1: $everything every many",
        ),
        (
            "$everything encoded",
            "GET /Patient/1/%24everything",
            "operation Patient/1 $everything in Patient/1: $everything every many",
        ),
        (
            "$everything by POST",
            "POST /Patient/1/$everything\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"_type\",\"valueCode\":\"Observation\"}]}",
            "operation Patient/1 $everything in Patient/1: $everything Observation many",
        ),
        (
            "$everything of two types",
            "GET /Patient/1/$everything?_type=Patient,Observation&_since=2020&start=2020&_count=1",
            "operation Patient/1 $everything in Patient/1: $everything Patient many; $everything Observation many",
        ),
        (
            "$everything of types given twice",
            "GET /Patient/1/$everything?_type=Patient&_type=Observation",
            "operation Patient/1 $everything in Patient/1: $everything Patient many; $everything Observation many",
        ),
        (
            "$everything with what nobody knows",
            "GET /Encounter/1/$everything?_type=Observation&foo=1",
            "operation Encounter/1 $everything in Encounter/1: $everything Observation many; $everything every chain",
        ),
        (
            "$everything of all patients",
            "GET /Patient/$everything",
            "operation Patient $everything: $everything every many",
        ),
        (
            "$everything by PUT",
            "PUT /Patient/1/$everything",
            "unknown: operation `$everything` is not called by `PUT`, or not here",
        ),
        (
            "$everything by DELETE",
            "DELETE /Patient/1/$everything",
            "unknown: operation `$everything` is not called by `DELETE`, or not here",
        ),
        (
            "$lastn",
            "GET /Observation/$lastn?max=3&subject:Patient.name=x",
            "operation Observation $lastn: $lastn Observation many; search-type Patient chain",
        ),
        (
            "$lastn of another type",
            "GET /Patient/$lastn",
            "operation Patient $lastn: $lastn Observation many; $lastn every chain",
        ),
        (
            "$docref",
            "GET /DocumentReference/$docref?patient=1&start=2020",
            "operation DocumentReference $docref: $docref DocumentReference many",
        ),
        (
            "$docref with what nobody knows",
            "POST /DocumentReference/$docref\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"foo\",\"valueId\":\"1\"}]}",
            "operation DocumentReference $docref: $docref DocumentReference many; $docref every chain",
        ),
        (
            "$expand",
            "GET /ValueSet/$expand?url=http://v&filter=x",
            "operation ValueSet $expand: $expand ValueSet many; $expand CodeSystem many",
        ),
        (
            "$expand of one",
            "GET /ValueSet/1/$expand",
            "operation ValueSet/1 $expand: $expand ValueSet many; $expand CodeSystem many; $expand ValueSet/1 stored",
        ),
        (
            "$expand of one passed on",
            "POST /ValueSet/$expand\n\n{\"resourceType\":\"ValueSet\"}",
            "operation ValueSet $expand: $expand ValueSet many; $expand CodeSystem many",
        ),
        (
            "$expand with another server",
            "GET /ValueSet/$expand?url=x&tx-resource=y",
            "operation ValueSet $expand: $expand ValueSet many; $expand CodeSystem many; $expand every chain",
        ),
        ("$lookup", "GET /CodeSystem/$lookup?system=s&code=c", "operation CodeSystem $lookup: $lookup CodeSystem many"),
        (
            "$validate-code",
            "GET /CodeSystem/$validate-code?url=s&code=c",
            "operation CodeSystem $validate-code: $validate-code ValueSet many; $validate-code CodeSystem many",
        ),
        (
            "$subsumes",
            "GET /CodeSystem/$subsumes?codeA=1&codeB=2&system=s",
            "operation CodeSystem $subsumes: $subsumes CodeSystem many",
        ),
        (
            "$translate",
            "GET /ConceptMap/$translate?code=c&system=s&targetsystem=t",
            "invalid: parameter `targetsystem` differs from `targetSystem` only in its case",
        ),
        (
            "$match",
            "POST /Patient/$match\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"resource\",\"resource\":{\"resourceType\":\"Patient\"}}]}",
            "operation Patient $match: $match Patient many",
        ),
        ("$match by GET", "GET /Patient/$match", "unknown: operation `$match` is not called by `GET`, or not here"),
        (
            "$member-match",
            "POST /Patient/$member-match\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"MemberPatient\",\"resource\":{\"resourceType\":\"Patient\"}}]}",
            "operation Patient $member-match: $member-match Patient many; $member-match Coverage many",
        ),
        ("$meta of the system", "GET /$meta", "operation $meta: $meta every chain"),
        ("$meta of a type", "GET /Patient/$meta", "operation Patient $meta: $meta Patient many"),
        ("$meta of one", "GET /Patient/1/$meta", "operation Patient/1 $meta: $meta Patient/1 stored"),
        (
            "$meta of a version",
            "GET /Patient/1/_history/2/$meta",
            "operation Patient/1/_history/2 $meta: $meta Patient/1 versions",
        ),
        (
            "$meta-add",
            "POST /Patient/1/$meta-add\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"meta\",\"valueMeta\":{}}]}",
            "operation Patient/1 $meta-add +proposed: $meta-add Patient/1 stored+proposed",
        ),
        (
            "$meta-delete",
            "POST /Patient/1/$meta-delete\n\n{\"resourceType\":\"Parameters\"}",
            "operation Patient/1 $meta-delete +proposed: $meta-delete Patient/1 stored+proposed",
        ),
        (
            "$meta-add by GET",
            "GET /Patient/1/$meta-add",
            "unknown: operation `$meta-add` is not called by `GET`, or not here",
        ),
        (
            "$meta-add of a type",
            "POST /Patient/$meta-add",
            "unknown: operation `$meta-add` is not called by `POST`, or not here",
        ),
        (
            "$validate",
            "POST /Patient/$validate\n\n{\"resourceType\":\"Patient\"}",
            "operation Patient $validate: $validate Patient many",
        ),
        (
            "$validate of the system",
            "POST /$validate\n\n{\"resourceType\":\"Patient\"}",
            "operation $validate: $validate server none",
        ),
        (
            "$validate of one",
            "GET /Patient/1/$validate?profile=http://p",
            "operation Patient/1 $validate: $validate Patient/1 stored",
        ),
        (
            "$validate of another type",
            "POST /Patient/$validate\n\n{\"resourceType\":\"Observation\"}",
            "invalid: the body is not a `Patient`",
        ),
        ("$graphql", "GET /$graphql?query=%7BPatient(id:1)%7Bname%7D%7D", "operation $graphql: $graphql every many"),
        (
            "$graphql of one",
            "GET /Patient/1/$graphql?query=%7Bname%7D",
            "operation Patient/1 $graphql: $graphql every many",
        ),
        (
            "$graphql by POST",
            "POST /$graphql\nContent-Type: application/graphql\n\nquery A { Patient(id: \"}mutation{\") { name } } # mutation",
            "operation $graphql: $graphql every many",
        ),
        (
            "$graphql in JSON",
            "POST /$graphql\n\n{\"query\":\"query { Patient { name } }\",\"variables\":{}}",
            "operation $graphql: $graphql every many",
        ),
        (
            "$graphql mutation",
            "POST /$graphql\n\n{\"query\":\"mutation { PatientDelete(id: 1) { id } }\"}",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql mutation by GET",
            "GET /$graphql?query=mutation%7Ba%7D",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql mutation after a query",
            "POST /$graphql\n\n{\"query\":\"query A { a } mutation B { b }\",\"operationName\":\"B\"}",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql mutation after a comment",
            "POST /$graphql\n\n{\"query\":\"# { \\n\\ufeff,mutation{b}\"}",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql mutation after a comment's carriage return",
            "POST /$graphql\n\n{\"query\":\"{a} #\\rmutation{b}\"}",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql mutation after a string",
            "POST /$graphql\n\n{\"query\":\"{a(b:\\\"\\\\\\\"\\\")} mutation{b}\"}",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql mutation after a block string",
            "POST /$graphql\n\n{\"query\":\"{a(b:\\\"\\\"\\\" \\\\\\\"\\\"\\\" { \\\"\\\"\\\")} mutation{b}\"}",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql subscription",
            "POST /$graphql\n\n{\"query\":\"subscription { a }\"}",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql field called mutation",
            "POST /$graphql\n\n{\"query\":\"{ mutation }\"}",
            "operation $graphql: $graphql every many",
        ),
        (
            "$graphql open",
            "POST /$graphql\n\n{\"query\":\"{ a \"}",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql crossed",
            "POST /$graphql\n\n{\"query\":\"{ a(b: [ ) ] }\"}",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql string open",
            "POST /$graphql\n\n{\"query\":\"{ a(b: \\\"}) }\"}",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql without a query",
            "GET /$graphql",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql with two",
            "POST /$graphql?query=%7Ba%7D\n\n{\"query\":\"{ a }\"}",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql twice",
            "GET /$graphql?query=%7Ba%7D&query=mutation%7Ba%7D",
            "invalid: the GraphQL query is missing, not well formed, or does more than query",
        ),
        (
            "$graphql by form",
            "POST /$graphql\nContent-Type: application/x-www-form-urlencoded\n\nquery=%7Ba%7D",
            "invalid: `Content-Type` does not fit the body",
        ),
        ("$graphql by PUT", "PUT /$graphql", "unknown: operation `$graphql` is not called by `PUT`, or not here"),
        (
            "$graphql in another case",
            "GET /$graphQL?query=%7Ba%7D",
            "invalid: `$graphQL` differs from `$graphql` only in its case",
        ),
        ("$export of the system", "GET /$export", "operation $export: $export every many"),
        (
            "$export of types",
            "GET /$export?_type=Patient,Observation&_since=2020&_outputFormat=ndjson",
            "operation $export: $export Patient many; $export Observation many",
        ),
        (
            "$export of types given twice",
            "GET /$export?_type=Patient&_type=Observation",
            "operation $export: $export Patient many; $export Observation many",
        ),
        (
            "$export of patients",
            "GET /Patient/$export?_type=Observation",
            "operation Patient $export: $export Observation many; search-type Patient selector",
        ),
        (
            "$export of patients, all",
            "GET /Patient/$export",
            "operation Patient $export: $export Account many; $export AdverseEvent many … search-type Patient selector (67)",
        ),
        (
            "$export of a group",
            "GET /Group/7/$export?_type=Patient",
            "operation Group/7 $export: $export Patient many; read Group/7 selector stored",
        ),
        (
            "$export of a group, all",
            "GET /Group/7/$export",
            "operation Group/7 $export: $export Account many; $export AdverseEvent many … read Group/7 selector stored (67)",
        ),
        (
            "$export of groups",
            "GET /Group/$export",
            "operation Group $export: $export every many; search-type Group selector",
        ),
        (
            "$export of one patient",
            "GET /Patient/1/$export",
            "operation Patient/1 $export: $export every many; read Patient/1 selector stored",
        ),
        (
            "$export by POST",
            "POST /$export\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"_type\",\"valueString\":\"Patient\"},{\"name\":\"patient\",\"valueReference\":{\"reference\":\"Patient/1\"}}]}",
            "operation $export: $export Patient many; search-type Patient selector",
        ),
        (
            "$export with filters",
            "GET /$export?_type=Observation&_typeFilter=Observation?code=a,b,Condition?subject:Patient.name=x",
            "operation $export: $export Observation many; $export Condition many; search-type Patient chain",
        ),
        (
            "$export with a filter encoded",
            "GET /$export?_type=Observation&_typeFilter=Observation%3Fcode%3Da%26_has:Provenance:target:agent%3Dx",
            "operation $export: $export Observation many; search-type Provenance chain",
        ),
        (
            "$export with a filter that includes",
            "GET /$export?_type=Observation&_typeFilter=Observation?_include=Observation:subject:Patient",
            "operation $export: $export Observation many; search-type Patient include",
        ),
        (
            "$export with a spaced filter",
            "GET /$export?_type=Observation&_typeFilter=Observation?code=a,%20Condition?subject:Patient.name=x",
            "operation $export: $export Observation many; $export Condition many; search-type Patient chain",
        ),
        (
            "$export with a filter of nothing",
            "GET /$export?_typeFilter=",
            "invalid: parameter `_typeFilter` has a value that is not one of its own",
        ),
        ("$export with a filter of no type", "GET /$export?_typeFilter=Foo?x=1", "invalid: `Foo` is no resource type"),
        (
            "$export with a filter in another case",
            "GET /$export?_typeFilter=patient?name=1",
            "invalid: `patient` differs from `Patient` only in its case",
        ),
        (
            "$export with a filter's token",
            "GET /$export?_typeFilter=Patient?access_token=1",
            "invalid: a token stands in the parameters; it belongs into `Authorization`",
        ),
        (
            "$export with provenance",
            "GET /$export?_type=Patient&includeAssociatedData=LatestProvenanceResources",
            "operation $export: $export Patient many; $export Provenance many",
        ),
        (
            "$export with what nobody knows",
            "GET /$export?_type=Patient&_anonymizationConfig=x",
            "operation $export: $export Patient many; $export every chain",
        ),
        (
            "$export of a type in another case",
            "GET /$export?_type=patient",
            "invalid: parameter `_type` names a resource type that is not FHIR's",
        ),
        (
            "$export of types in another case",
            "GET /$export?_TYPE=Patient",
            "invalid: parameter `_TYPE` differs from `_type` only in its case",
        ),
        (
            "$export of what no Parameters say",
            "POST /$export\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"_type\",\"valueString\":\"Patient\",\"valueCode\":\"Observation\"}]}",
            "invalid: the operation's Parameters are not of FHIR's form",
        ),
        (
            "$export of a list in Parameters",
            "POST /$export\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"_type\",\"valueString\":[\"Patient\"]}]}",
            "invalid: the operation's Parameters are not of FHIR's form",
        ),
        ("$export by DELETE", "DELETE /$export", "unknown: operation `$export` is not called by `DELETE`, or not here"),
        (
            "$import",
            "POST /$import\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"input\",\"part\":[]}]}",
            "operation $import: $import server none",
        ),
        ("$import by GET", "GET /$import", "unknown: operation `$import` is not called by `GET`, or not here"),
        (
            "$convert-data",
            "POST /$convert-data\n\n{\"resourceType\":\"Parameters\"}",
            "operation $convert-data: $convert-data server none",
        ),
        ("$reindex", "POST /$reindex", "operation $reindex: $reindex server none"),
        ("$reindex of one", "GET /Patient/1/$reindex", "operation Patient/1 $reindex: $reindex Patient/1 stored"),
        (
            "$status",
            "PUT /SearchParameter/$status\n\n{\"resourceType\":\"Parameters\"}",
            "operation SearchParameter $status: $status SearchParameter many",
        ),
        (
            "$process-message",
            "POST /$process-message\n\n{\"resourceType\":\"Bundle\"}",
            "operation $process-message: $process-message server none",
        ),
        (
            "an operation nobody knows",
            "POST /Patient/1/$frobnicate\n\n{\"resourceType\":\"Parameters\"}",
            "operation Patient/1 $frobnicate: operation Patient/1 stored",
        ),
        (
            "an operation nobody knows, of a type",
            "GET /Patient/$frobnicate",
            "operation Patient $frobnicate: operation Patient many",
        ),
        (
            "an operation nobody knows, of the system",
            "GET /$frobnicate",
            "operation $frobnicate: operation server none",
        ),
        (
            "an operation by form",
            "POST /$export\n\n_type=Patient",
            "invalid: the body is not of the form that this interaction takes",
        ),
        (
            "an operation by a list",
            "POST /$export\n\n[]",
            "invalid: the body is not of the form that this interaction takes",
        ),
        (
            "an operation by no resource",
            "POST /$export\n\n{\"_type\":\"Patient\"}",
            "invalid: the body is not of the form that this interaction takes",
        ),
        (
            "an operation's name in another case",
            "GET /$Export",
            "invalid: `$Export` differs from `$export` only in its case",
        ),
        ("an operation without a name", "GET /$", "invalid: the operation's name is none"),
        ("an operation with a strange name", "GET /$-x", "invalid: the operation's name is none"),
        ("an operation with a longer path", "GET /Patient/1/$everything/2", "unknown: FHIR has no such path"),
        (
            "a token in Parameters",
            "POST /$export\n\n{\"resourceType\":\"Parameters\",\"parameter\":[{\"name\":\"access_token\",\"valueString\":\"x\"}]}",
            "invalid: a token stands in the parameters; it belongs into `Authorization`",
        ),
    ]);
}

#[test]
fn paths_that_two_readers_may_read_differently() {
    check_all(&[
        (
            "an encoded slash",
            "GET /Patient%2F1",
            "invalid: the URL: an encoded slash or backslash in the path, at byte 8",
        ),
        (
            "an encoded slash in a small letter",
            "GET /Patient/1%2f_history",
            "invalid: the URL: an encoded slash or backslash in the path, at byte 10",
        ),
        (
            "an encoded backslash",
            "GET /Patient%5c1",
            "invalid: the URL: an encoded slash or backslash in the path, at byte 8",
        ),
        ("a backslash", "GET /Patient\\1", "invalid: the URL: a backslash, at byte 8"),
        (
            "dot segments",
            "GET /Patient/../Observation/1",
            "invalid: the URL: a dot segment or an encoded dot in the path, at byte 9",
        ),
        ("a dot segment", "GET /./Patient", "invalid: the URL: a dot segment or an encoded dot in the path, at byte 1"),
        (
            "dot segments at the end",
            "GET /Patient/1/..",
            "invalid: the URL: a dot segment or an encoded dot in the path, at byte 11",
        ),
        (
            "encoded dot segments",
            "GET /Patient/%2e%2e/Observation",
            "invalid: the URL: a dot segment or an encoded dot in the path, at byte 9",
        ),
        (
            "dot segments after the base",
            "GET https://fhir.example/r4/../admin",
            "invalid: the URL: a dot segment or an encoded dot in the path, at byte 24",
        ),
        (
            "an authority",
            "GET //evil.example/Patient/1",
            "invalid: the URL: the URL begins with `//`, which names another host",
        ),
        ("an empty segment", "GET /Patient//1", "invalid: the URL: an empty path segment, at byte 9"),
        ("a slash at the end", "GET /Patient/1/", "invalid: the URL: the path ends with a slash, at byte 10"),
        ("a slash before the query", "GET /Patient/?name=x", "invalid: the URL: the path ends with a slash, at byte 8"),
        (
            "a path parameter",
            "GET /Patient;x=/1",
            "invalid: the URL: a semicolon, at byte 8; in a value it is written `%3B`",
        ),
        (
            "a path parameter encoded",
            "GET /Patient%3Bx/1",
            "invalid: the URL: percent-encoding in the path, where FHIR needs none, at byte 8",
        ),
        (
            "a semicolon in the query",
            "GET /Patient?name=x;_include=Patient:organization",
            "invalid: the URL: a semicolon, at byte 15; in a value it is written `%3B`",
        ),
        ("a zero byte", "GET /Patient/1%00.json", "invalid: the URL: a control character, at byte 10"),
        ("a line end encoded", "GET /Patient/1%0d%0aX:y", "invalid: the URL: a control character, at byte 10"),
        ("a line end in a value", "GET /Patient?name=%0d%0a", "invalid: the URL: a control character, at byte 14"),
        ("a tab", "GET /Patient/1\t", "invalid: the URL: a control character, at byte 10"),
        (
            "double encoding",
            "GET /Patient/%252e%252e",
            "invalid: the URL: a percent sign that is itself encoded, at byte 9",
        ),
        (
            "double encoding in a name",
            "GET /Patient?%255Finclude=*",
            "invalid: the URL: a percent sign that is itself encoded, at byte 9",
        ),
        (
            "a type encoded",
            "GET /%50atient/1",
            "invalid: the URL: percent-encoding in the path, where FHIR needs none, at byte 1",
        ),
        (
            "an id encoded",
            "GET /Patient/%31",
            "invalid: the URL: percent-encoding in the path, where FHIR needs none, at byte 9",
        ),
        (
            "no UTF-8 in the path",
            "GET /Patient/%FF",
            "invalid: the URL: percent-encoding in the path, where FHIR needs none, at byte 9",
        ),
        (
            "no UTF-8 in a value",
            "GET /Patient?name=%C0%AF",
            "invalid: the URL: percent-encoding that is not UTF-8, at byte 14",
        ),
        ("no UTF-8 in a name", "GET /Patient?%FF=1", "invalid: the URL: percent-encoding that is not UTF-8, at byte 9"),
        (
            "an escape cut short",
            "GET /Patient?name=%4",
            "invalid: the URL: a percent sign without two hexadecimal digits, at byte 14",
        ),
        (
            "letters outside ASCII",
            "GET /Pati\u{435}nt/1",
            "invalid: the URL: a character outside ASCII that is not percent-encoded, at byte 5",
        ),
        (
            "a fragment",
            "GET /Patient/1#x",
            "invalid: the URL: a fragment (`#`) has no meaning in a request, at byte 10",
        ),
        (
            "a slash in a value",
            "GET /Observation?subject=Patient%2F1",
            "search-type Observation: search-type Observation many",
        ),
        ("no slash at the beginning", "GET Patient/1", "invalid: the URL: the URL does not begin with `/`"),
        ("a parameter without a name", "GET /Patient?=x", "invalid: the URL: a parameter without a name, at byte 9"),
        (
            "brackets in a name",
            "GET /Patient?name[]=x",
            "invalid: the URL: a parameter name holds a character that no FHIR name holds, at byte 9",
        ),
        (
            "a space in a name",
            "GET /Patient?+_include=*",
            "invalid: the URL: a parameter name holds a character that no FHIR name holds, at byte 9",
        ),
        (
            "a form with line ends",
            "POST /Patient/_search\n\nname=x\r\n_include=*",
            "invalid: the form: a control character, at byte 6",
        ),
        (
            "a form with a semicolon",
            "POST /Patient/_search\n\nname=x;_include=*",
            "invalid: the form: a semicolon, at byte 6; in a value it is written `%3B`",
        ),
        (
            "another host",
            "GET https://evil.example/r4/Patient/1",
            "invalid: the URL: the absolute URL is under none of the configured bases",
        ),
        (
            "a longer host",
            "GET https://fhir.example.evil/r4/Patient/1",
            "invalid: the URL: the absolute URL is under none of the configured bases",
        ),
        (
            "a user before another host",
            "GET https://fhir.example@evil.example/r4/Patient/1",
            "invalid: the URL: the absolute URL is under none of the configured bases",
        ),
        (
            "a longer base",
            "GET https://fhir.example/r4x/Patient/1",
            "invalid: the URL: the absolute URL is under none of the configured bases",
        ),
        (
            "beside the base",
            "GET https://fhir.example/Patient/1",
            "invalid: the URL: the absolute URL is under none of the configured bases",
        ),
        (
            "the base in another case",
            "GET https://FHIR.example/r4/Patient/1",
            "invalid: the URL: the absolute URL is under none of the configured bases",
        ),
        (
            "the base with its port",
            "GET https://fhir.example:443/r4/Patient/1",
            "invalid: the URL: the absolute URL is under none of the configured bases",
        ),
        (
            "the base without its s",
            "GET http://fhir.example/r4/Patient/1",
            "invalid: the URL: the absolute URL is under none of the configured bases",
        ),
        (
            "the base with an empty segment",
            "GET https://fhir.example/r4//Patient/1",
            "invalid: the URL: an empty path segment, at byte 24",
        ),
    ]);
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

#[test]
fn names_that_are_not_fhirs() {
    check_all(&[
        ("a type", "GET /Foo/1", "invalid: `Foo` is no resource type"),
        ("an abstract type", "GET /DomainResource/1", "invalid: `DomainResource` is no resource type"),
        ("a data type", "GET /HumanName", "invalid: `HumanName` is no resource type"),
        ("a type in another case", "GET /patient/1", "invalid: `patient` differs from `Patient` only in its case"),
        ("a type in capitals", "GET /PATIENT", "invalid: `PATIENT` differs from `Patient` only in its case"),
        ("a type of R5", "GET /Transport/1", "invalid: `Transport` is no resource type"),
        ("a type of R4B", "GET /Ingredient/1", "invalid: `Ingredient` is no resource type"),
        ("an id with an underscore", "GET /Patient/a_b", "invalid: the id is not a FHIR id"),
        (
            "an id of 65",
            "GET /Patient/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "invalid: the id is not a FHIR id",
        ),
        ("an id with a star", "GET /Patient/1*", "invalid: the id is not a FHIR id"),
        ("a version that is none", "GET /Patient/1/_history/a_b", "invalid: the version is not a FHIR id"),
        ("_history in another case", "GET /Patient/1/_History", "invalid: `_History` is no resource type"),
        ("_search in another case", "POST /Patient/_Search", "invalid: the id is not a FHIR id"),
        ("metadata in another case", "GET /Metadata", "invalid: `Metadata` is no resource type"),
        ("something below metadata", "GET /metadata/Patient", "invalid: `metadata` is no resource type"),
        ("another well-known", "GET /.well-known/openid-configuration", "invalid: `.well-known` is no resource type"),
        ("a longer path", "GET /Patient/1/_history/2/3", "unknown: FHIR has no such path"),
        ("a much longer path", "GET /Patient/1/Observation/2/3/4/5", "unknown: FHIR has no such path"),
        (
            "a token in the path",
            "GET /eyJhbGciOiJIUzI1NiJ9.eyJvaWQiOiIxMjMifQ.c2lnbmF0dXJl/Patient",
            "invalid: `…` is no resource type",
        ),
        (
            "a token as an id",
            "GET /Patient/eyJhbGciOiJIUzI1NiJ9.eyJvaWQiOiIxMjMifQ.gzSraSYS8EXBxLN_oWnFSRgCzcmJmMjLiuyu5CSpyHI",
            "invalid: the id is not a FHIR id",
        ),
        (
            "access_token",
            "GET /Patient?access_token=eyJh",
            "invalid: a token stands in the parameters; it belongs into `Authorization`",
        ),
        (
            "access_token in another case",
            "GET /Patient/1?Access_Token=eyJh",
            "invalid: a token stands in the parameters; it belongs into `Authorization`",
        ),
        (
            "access_token with a modifier",
            "GET /Patient/1?access_token:x=eyJh",
            "invalid: a token stands in the parameters; it belongs into `Authorization`",
        ),
        (
            "access_token in a form",
            "POST /Patient/_search\n\naccess_token=eyJh",
            "invalid: a token stands in the parameters; it belongs into `Authorization`",
        ),
        (
            "access_token at a public place",
            "GET /metadata?access_token=eyJh",
            "invalid: a token stands in the parameters; it belongs into `Authorization`",
        ),
        (
            "access_token in a write",
            "DELETE /Patient/1?access_token=eyJh",
            "invalid: a token stands in the parameters; it belongs into `Authorization`",
        ),
        (
            "a token as a parameter's name",
            "GET /metadata?eyJhbGciOiJIUzI1NiJ9=1",
            "invalid: parameter `…` has no meaning here",
        ),
        ("a method that is none", "TRACE /Patient/1", "unknown: FHIR has no method `TRACE`"),
        ("OPTIONS", "OPTIONS /Patient/1", "unknown: FHIR has no method `OPTIONS`"),
        ("a method in small letters", "get /Patient/1", "unknown: FHIR has no method `get`"),
        (
            "POST to an instance",
            "POST /Patient/1\n\n{\"resourceType\":\"Patient\"}",
            "unknown: FHIR has no `POST` here",
        ),
        ("PUT to a history", "PUT /Patient/1/_history", "unknown: FHIR has no `PUT` here"),
        ("DELETE of a type's history", "DELETE /Patient/_history", "unknown: FHIR has no `DELETE` here"),
        ("POST of metadata", "POST /metadata", "unknown: FHIR has no `POST` here"),
        ("PUT to the base", "PUT /", "unknown: FHIR has no `PUT` here"),
        ("DELETE of a compartment", "DELETE /Patient/1/Observation?code=x", "unknown: FHIR has no `DELETE` here"),
        ("a strange parameter of metadata", "GET /metadata?foo=1", "invalid: parameter `foo` has no meaning here"),
        (
            "a parameter of metadata in another case",
            "GET /metadata?_Format=json",
            "invalid: parameter `_Format` differs from `_format` only in its case",
        ),
    ]);
}

#[test]
fn headers_and_bodies_that_disagree() {
    check_all(&[
        (
            "_method that disagrees",
            "POST /Patient/_search?_method=GET\n\nname=x",
            "invalid: `_method` disagrees with the method",
        ),
        ("_method that agrees", "GET /Patient/1?_method=GET", "read Patient/1: read Patient/1 stored"),
        ("_method in another case", "GET /Patient/1?_Method=GET", "invalid: `_method` disagrees with the method"),
        (
            "_method that agrees in another case",
            "GET /Patient/1?_method=get",
            "invalid: `_method` disagrees with the method",
        ),
        (
            "_method in the form",
            "POST /Patient/_search\n\n_method=DELETE",
            "invalid: `_method` disagrees with the method",
        ),
        ("_method twice", "GET /Patient/1?_method=GET&_method=DELETE", "invalid: `_method` disagrees with the method"),
        (
            "_method in a filter",
            "GET /$export?_typeFilter=Patient?_method=DELETE",
            "invalid: `_method` disagrees with the method",
        ),
        (
            "X-HTTP-Method-Override",
            "POST /Patient/1\nX-HTTP-Method-Override: DELETE",
            "invalid: `x-http-method-override` disagrees with the method",
        ),
        (
            "X-HTTP-Method-Override of a read",
            "GET /Patient/1\nx-http-method-override: DELETE",
            "invalid: `x-http-method-override` disagrees with the method",
        ),
        (
            "X-HTTP-Method-Override that agrees",
            "GET /Patient/1\nX-HTTP-Method-Override: GET",
            "read Patient/1: read Patient/1 stored",
        ),
        (
            "X-HTTP-Method-Override given twice",
            "GET /Patient/1\nX-HTTP-Method-Override: GET\nX-HTTP-Method-Override: DELETE",
            "invalid: `x-http-method-override` disagrees with the method",
        ),
        ("X-HTTP-Method", "GET /Patient/1\nX-HTTP-Method: PUT", "invalid: `x-http-method` disagrees with the method"),
        (
            "X-Method-Override",
            "GET /Patient/1\nX-Method-Override: PUT",
            "invalid: `x-method-override` disagrees with the method",
        ),
        (
            "its underscore alias",
            "GET /Patient/1\nX_HTTP_Method_Override: DELETE",
            "invalid: `x-http-method-override` disagrees with the method",
        ),
        (
            "HEAD overridden by GET",
            "HEAD /Patient/1\nX-HTTP-Method-Override: GET",
            "invalid: `x-http-method-override` disagrees with the method",
        ),
        (
            "headers of caching",
            "GET /Patient/1\nIf-None-Match: W/\"1\"\nIf-Modified-Since: x\nPrefer: return=minimal",
            "read Patient/1: read Patient/1 stored",
        ),
        (
            "Content-Type twice",
            "PUT /Patient/1\nContent-Type: application/json\nContent_Type: text/plain\n\n{\"resourceType\":\"Patient\",\"id\":\"1\"}",
            "invalid: header `Content-Type` is given twice",
        ),
        (
            "a create that says form",
            "POST /Patient\nContent-Type: application/x-www-form-urlencoded\n\n{\"resourceType\":\"Patient\"}",
            "invalid: `Content-Type` does not fit the body",
        ),
        (
            "a create in another charset",
            "POST /Patient\nContent-Type: application/fhir+json; charset=utf-16\n\n{\"resourceType\":\"Patient\"}",
            "invalid: `Content-Type` does not fit the body",
        ),
        (
            "another id",
            "PUT /Patient/1\n\n{\"resourceType\":\"Patient\",\"id\":\"2\"}",
            "invalid: the body's id is not the URL's",
        ),
        ("no id", "PUT /Patient/1\n\n{\"resourceType\":\"Patient\"}", "invalid: the body's id is not the URL's"),
        (
            "an id that is a number",
            "PUT /Patient/1\n\n{\"resourceType\":\"Patient\",\"id\":1}",
            "invalid: the body's id is not the URL's",
        ),
        (
            "an id in another case",
            "PUT /Patient/a\n\n{\"resourceType\":\"Patient\",\"id\":\"A\"}",
            "invalid: the body's id is not the URL's",
        ),
        (
            "another type",
            "PUT /Patient/1\n\n{\"resourceType\":\"Observation\",\"id\":\"1\"}",
            "invalid: the body is not a `Patient`",
        ),
        (
            "another type to create",
            "POST /Patient\n\n{\"resourceType\":\"Observation\"}",
            "invalid: the body is not a `Patient`",
        ),
        ("no type", "POST /Patient\n\n{}", "invalid: the body is not a `Patient`"),
        (
            "a list to create",
            "POST /Patient\n\n[{\"resourceType\":\"Patient\"}]",
            "invalid: the body is not of the form that this interaction takes",
        ),
        (
            "a form to create",
            "POST /Patient\n\nresourceType=Patient",
            "invalid: the body is not of the form that this interaction takes",
        ),
        ("nothing to create", "POST /Patient", "invalid: this interaction needs a body"),
        ("nothing to update", "PUT /Patient/1", "invalid: this interaction needs a body"),
        (
            "a chosen id that is none",
            "POST /Patient\n\n{\"resourceType\":\"Patient\",\"id\":\"../x\"}",
            "invalid: the body's id is not the URL's",
        ),
        (
            "a chosen id that is null",
            "POST /Patient\n\n{\"resourceType\":\"Patient\",\"id\":null}",
            "invalid: the body's id is not the URL's",
        ),
        (
            "a merge patch",
            "PATCH /Patient/1\n\n{\"active\":false}",
            "invalid: the body is not of the form that this interaction takes",
        ),
        (
            "a whole resource as a patch",
            "PATCH /Patient/1\n\n{\"resourceType\":\"Patient\"}",
            "invalid: the body is not of the form that this interaction takes",
        ),
        (
            "a read with a body",
            "GET /Patient/1\n\n{\"resourceType\":\"Patient\"}",
            "invalid: this interaction has no body",
        ),
        (
            "a delete with a body",
            "DELETE /Patient/1\n\n{\"resourceType\":\"Patient\"}",
            "invalid: this interaction has no body",
        ),
    ]);
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
fn bundles() {
    check_all(&[
        ("empty", "POST /\n\n{\"resourceType\":\"Bundle\",\"type\":\"batch\"}", "batch: batch server none"),
        (
            "empty, under the base",
            "POST https://fhir.example/r4\nContent-Type: application/fhir+json\n\n{\"resourceType\":\"Bundle\",\"type\":\"transaction\",\"entry\":[]}",
            "transaction: transaction server none",
        ),
        (
            "a bundle of results",
            "POST /\n\n{\"resourceType\":\"Bundle\",\"type\":\"searchset\"}",
            "invalid: a bundle posted to the base is a batch or a transaction",
        ),
        (
            "a bundle without a type",
            "POST /\n\n{\"resourceType\":\"Bundle\"}",
            "invalid: a bundle posted to the base is a batch or a transaction",
        ),
        (
            "a bundle's type in another case",
            "POST /\n\n{\"resourceType\":\"Bundle\",\"type\":\"Batch\"}",
            "invalid: a bundle posted to the base is a batch or a transaction",
        ),
        ("no bundle", "POST /\n\n{\"resourceType\":\"Patient\"}", "invalid: the body is not a `Bundle`"),
        ("no body", "POST /", "invalid: this interaction needs a body"),
        (
            "a form as a bundle",
            "POST /\n\n_type=Patient",
            "invalid: the body is not of the form that this interaction takes",
        ),
        ("a list as a bundle", "POST /\n\n[]", "invalid: the body is not a `Bundle`"),
        (
            "entries that are none",
            "POST /\n\n{\"resourceType\":\"Bundle\",\"type\":\"batch\",\"entry\":{}}",
            "invalid: the bundle's form is not FHIR's, at `/entry`",
        ),
        (
            "a bundle with criteria",
            "POST /?name=x\n\n{\"resourceType\":\"Bundle\",\"type\":\"batch\"}",
            "invalid: parameter `name` has no meaning here",
        ),
        (
            "a bundle with a form",
            "POST /?_pretty=true\n\n{\"resourceType\":\"Bundle\",\"type\":\"batch\"}",
            "batch: batch server none",
        ),
        (
            "a bundle that says form",
            "POST /\nContent-Type: application/x-www-form-urlencoded\n\n{\"resourceType\":\"Bundle\",\"type\":\"batch\"}",
            "invalid: `Content-Type` does not fit the body",
        ),
    ]);
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
            "operation Patient/1 $everything in Patient/1: $everything every many",
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
        created("by an identifier", "Patient?identifier=x", "+ search-type Patient condition"),
        created("under the base", "https://fhir.example/r4/Patient?identifier=x", "+ search-type Patient condition"),
        created("with a slash", "/Patient?identifier=x", "+ search-type Patient condition"),
        created(
            "through a chain",
            "Patient?organization.name=x",
            "+ search-type Patient condition; search-type Organization chain",
        ),
        // a server that looks only at what follows the last slash searches its own patients
        created(
            "under another host",
            "https://evil.example/fhir/Patient?identifier=x",
            "+ search-type Patient condition",
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
        "update Bundle/1 +body: update Bundle/1 stored+proposed; search-type Practitioner condition",
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
