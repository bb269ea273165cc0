//! OpenID AuthZEN 1.0: evaluations of FHIR interactions, their semantics, the search for actions.

use cedarward::http::api::{self, Answered, ApiError, Desk, Lacking};
use cedarward::http::authzen::{actions, configuration, evaluation, evaluations};
use cedarward::token::issuers::Issuers;
use serde_json::{Value, json};

use crate::engine::load;

type Endpoint = fn(&Desk<'_>, &[u8]) -> Result<Result<Answered, ApiError>, Lacking>;

fn asked(endpoint: Endpoint, request: &Value) -> Result<Value, String> {
    let snapshot = load("");
    let issuers = Issuers::new(snapshot.rules.issuers().to_vec());
    let limits = api::Limits::default();
    let desk = Desk::alone(&snapshot, &issuers, &limits, 1_767_225_600);
    match endpoint(&desk, request.to_string().as_bytes()).unwrap() {
        Ok(answered) => Ok(serde_json::from_slice(&answered.body).unwrap()),
        Err(error) => Err(format!("{} {} at {}", error.status, error.message, error.at.unwrap_or_default())),
    }
}

fn subject(claims: Value) -> Value {
    json!({ "type": "user", "id": "u", "properties": { "claims": claims } })
}

fn reader() -> Value {
    subject(json!({ "iss": "https://i", "sub": "u", "roles": ["FHIR Data Reader"] }))
}

fn app() -> Value {
    subject(json!({ "iss": "https://i", "sub": "u", "patient": "123", "scope": "patient/*.rs" }))
}

fn request(subject: Value, action: &str, of: &str, id: &str) -> Value {
    json!({ "subject": subject, "action": { "name": action }, "resource": { "type": of, "id": id } })
}

#[test]
fn an_evaluation_is_true_for_a_permit_without_obligations() {
    let check = |name: &str, request: Value, expected: bool, code: Option<&str>| {
        let answer = asked(evaluation, &request).unwrap();
        assert_eq!(answer["decision"], json!(expected), "{name}: {answer}");
        assert_eq!(answer["context"]["code"].as_str(), code, "{name}");
    };
    check("a reader reads", request(reader(), "read", "Observation", "55"), true, None);
    check("a reader searches", request(reader(), "search-type", "Observation", "*"), true, None);
    check("a reader does not delete", request(reader(), "delete", "Observation", "55"), false, Some("no-permit"));
    check("a reader does not create", request(reader(), "create", "Observation", "*"), false, Some("no-permit"));
    check("a reader's record", request(reader(), "$everything", "Patient", "1"), true, None);
    check("a reader exports nothing", request(reader(), "$export", "FhirServer", ""), false, Some("no-permit"));
    check(
        "the capability statement",
        request(json!({ "type": "user", "id": "u" }), "capabilities", "FhirServer", ""),
        true,
        None,
    );
    check(
        "nobody",
        request(json!({ "type": "user", "id": "u" }), "read", "Patient", "1"),
        false,
        Some("invalid-token"),
    );
    check("an app's own patient", request(app(), "read", "Patient", "123"), true, None);
    check("what depends on the resource", request(app(), "read", "Observation", "55"), false, Some("needs-resource"));
    // AuthZEN has no word for a filter
    check("what would need a filter", request(app(), "search-type", "Observation", "*"), false, Some("unenforceable"));
    check("a type that is none", request(reader(), "read", "Observatory", "1"), false, Some("invalid-request"));
    check(
        "an id that is a path",
        request(reader(), "read", "Patient", "1/_history/2/x"),
        false,
        Some("unknown-interaction"),
    );
    let with = |patient: &str| {
        let mut request = request(app(), "read", "Observation", "55");
        let stored = json!({ "resourceType": "Observation", "id": "55", "subject": { "reference": format!("Patient/{patient}") } });
        request["resource"]["properties"] = json!({ "resource": stored });
        request
    };
    check("with the resource", with("123"), true, None);
    check("with another's", with("456"), false, Some("no-permit"));
    let mut writes = request(
        subject(json!({ "iss": "https://i", "sub": "u", "roles": ["FHIR Data Writer"] })),
        "update",
        "Observation",
        "55",
    );
    check("a writer's update, whatever it holds", writes.clone(), true, None);
    writes["resource"]["properties"] = json!({ "proposed": { "resourceType": "Observation", "id": "56" } });
    check("of another resource", writes, false, Some("invalid-request"));
}

#[test]
fn what_is_malformed_is_an_error() {
    let check = |change: fn(&mut Value), expected: &str| {
        let mut asks = request(reader(), "read", "Observation", "55");
        change(&mut asks);
        assert_eq!(asked(evaluation, &asks).unwrap_err(), expected);
    };
    check(|asks| asks["subject"] = json!("u"), "400 an object is expected here at /subject");
    check(|asks| drop(asks.as_object_mut().unwrap().remove("action")), "400 `action` is missing at ");
    check(|asks| asks["resource"]["id"] = json!(1), "400 `id` must be a string at /resource/id");
    check(
        |asks| asks["action"]["name"] = json!("can_read"),
        "400 no FHIR interaction or `$operation` on such a resource at /action/name",
    );
}

#[test]
fn a_batch_is_true_where_all_of_it_is_permitted() {
    for (method, expected) in [("GET", true), ("DELETE", false)] {
        let entries = json!([{ "request": { "method": "GET", "url": "Patient/1" } }, { "request": { "method": method, "url": "Patient/2" } }]);
        let mut asks = request(reader(), "batch", "FhirServer", "");
        asks["resource"]["properties"] =
            json!({ "proposed": { "resourceType": "Bundle", "type": "batch", "entry": entries } });
        assert_eq!(asked(evaluation, &asks).unwrap()["decision"], json!(expected), "{method}");
    }
}

/// As the specification wants it; and none of them makes an answer `true`.
#[test]
fn what_is_not_known_is_ignored() {
    for (action, expected) in [("read", true), ("delete", false)] {
        let mut asks = request(reader(), action, "Observation", "55");
        asks["subject"]["properties"]["roles"] = json!(["admin"]);
        asks["context"] = json!({ "emergncy": true, "enforces": ["filter"] });
        asks["resource"]["properties"] = json!({ "owner": "u" });
        asks["enforces"] = json!(["filter", "checkResults", "redact"]);
        asks["evaluations"] = json!([]);
        assert_eq!(asked(evaluation, &asks).unwrap()["decision"], json!(expected), "{action}");
    }
}

#[test]
fn evaluations_share_defaults_and_stop_as_they_are_told() {
    let decisions = |semantic: Option<&str>| {
        let mut asks = json!({ "subject": reader(), "action": { "name": "read" }, "resource": { "type": "Patient", "id": "1" },
            "evaluations": [{}, { "action": { "name": "delete" } }, { "subject": app() }, { "resource": { "type": 7 } }, { "action": { "name": "vread" } }] });
        if let Some(semantic) = semantic {
            asks["options"] = json!({ "evaluations_semantic": semantic });
        }
        let answer = asked(evaluations, &asks).unwrap();
        answer["evaluations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["decision"].as_bool().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(decisions(None), [true, false, false, false, false]);
    assert_eq!(decisions(Some("execute_all")), [true, false, false, false, false]);
    assert_eq!(decisions(Some("deny_on_first_deny")), [true, false]);
    assert_eq!(decisions(Some("permit_on_first_permit")), [true]);
    let mut alone = request(reader(), "read", "Patient", "1");
    assert_eq!(asked(evaluations, &alone).unwrap()["decision"], json!(true));
    alone["evaluations"] = json!([]);
    assert_eq!(asked(evaluations, &alone).unwrap()["decision"], json!(true));
    alone["options"] = json!({ "evaluations_semantic": "some" });
    assert!(asked(evaluations, &alone).unwrap_err().starts_with("400 know `execute_all`"));
}

#[test]
fn the_actions_on_a_resource() {
    let found = |subject: Value, of: &str, id: &str| {
        let answer = asked(actions, &json!({ "subject": subject, "resource": { "type": of, "id": id } })).unwrap();
        answer["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let readers = found(reader(), "Patient", "1");
    assert!(readers.contains(&"read".to_owned()) && readers.contains(&"$everything".to_owned()), "{readers:?}");
    assert!(!readers.contains(&"delete".to_owned()), "{readers:?}");
    assert_eq!(found(app(), "Patient", "456"), Vec::<String>::new());
    assert_eq!(found(json!({ "type": "user", "id": "nobody" }), "Patient", "1"), Vec::<String>::new());
}

#[test]
fn the_configuration_names_what_is_there() {
    let configuration = configuration("http://127.0.0.1:8180", false);
    assert_eq!(configuration["access_evaluation_endpoint"], "http://127.0.0.1:8180/access/v1/evaluation");
    assert!(configuration.get("search_subject_endpoint").is_none());
}
