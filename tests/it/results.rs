//! `/v1/filter`: what a server may return of what it found, and the obligations that lead there.

use cedarward::http::api::{self, Desk};
use cedarward::http::results::{filter, holds};
use cedarward::json;
use cedarward::policy::snapshot::Snapshot;
use cedarward::token::issuers::Issuers;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::engine::{ask, load};

fn filtered(snapshot: &Snapshot, question: &Value) -> Result<Value, String> {
    let issuers = Issuers::new(snapshot.rules.issuers().to_vec());
    let limits = api::Limits::default();
    let desk = Desk::alone(snapshot, &issuers, &limits, 0);
    let answered = filter(&desk, question.to_string().as_bytes()).unwrap();
    answered
        .map(|answered| serde_json::from_slice(&answered.body).unwrap())
        .map_err(|error| format!("{} at {}", error.message, error.at.unwrap_or_default()))
}

fn app() -> Value {
    json!({ "iss": "https://i", "sub": "u", "patient": "123", "scope": "patient/*.rs" })
}

fn observation(id: &str, patient: &str) -> Value {
    json!({ "resourceType": "Observation", "id": id, "subject": { "reference": format!("Patient/{patient}") } })
}

fn get(url: &str) -> Value {
    json!({ "method": "GET", "url": url })
}

/// Claims, a request, whether it is permitted with every obligation enforced, and its code where none is.
#[test]
fn what_is_not_at_hand_is_checked_later_by_who_can() {
    let snapshot = load("");
    let reader = json!({ "iss": "https://i", "sub": "u", "roles": ["FHIR Data Reader"] });
    for (claims, url, obligations, code) in [
        (app(), "/Observation/55", json!({ "checkResults": true }), "needs-resource"),
        (app(), "/Observation/55/_history/1", json!({ "checkResults": true }), "unenforceable"),
        (app(), "/Observation/55/_history", json!({ "checkResults": true }), "unenforceable"),
        (app(), "/Observation/_history", json!({ "checkResults": true }), "unenforceable"),
        (app(), "/Practitioner?_revinclude=Observation:performer", json!({ "checkResults": true }), "unenforceable"),
        (app(), "/Patient/123/$everything", json!({ "checkResults": true }), "unenforceable"),
        (app(), "/_history", json!({ "checkResults": true }), "unenforceable"),
        (app(), "/?_type=Observation,Condition", json!({ "checkResults": true }), "unenforceable"),
        // what only counts shows nothing that could be checked, and a chain asks about what is hidden
        (app(), "/_history?_count=0", Value::Null, "unenforceable"),
        (app(), "/Observation/_history?_summary=count", Value::Null, "unenforceable"),
        (app(), "/?_type=Observation,Condition&_total=accurate", Value::Null, "unenforceable"),
        (app(), "/Practitioner?_has:Observation:performer:code=1", Value::Null, "unenforceable"),
        (app(), "/Patient/456/$everything", Value::Null, "needs-resource"),
        (app(), "/$export", Value::Null, "no-permit"),
    ] {
        let mut question = json!({ "claims": claims, "request": get(url) });
        assert_eq!(ask(&snapshot, &question)["code"], code, "{url}");
        question["enforces"] = json!(["filter", "checkResults", "redact"]);
        let answer = ask(&snapshot, &question);
        assert_eq!(answer["obligations"], obligations, "{url}: {answer}");
        assert_eq!(answer["decision"] == "permit", !obligations.is_null(), "{url}: {answer}");
        // a plain reader needs nothing of its caller
        let plain = ask(&snapshot, &json!({ "claims": reader, "request": get(url) }));
        assert!(plain["obligations"].is_null(), "{url}: {plain}");
    }
    let write = json!({ "claims": { "iss": "https://i", "sub": "u", "patient": "123", "scope": "patient/*.cruds" },
        "request": { "method": "DELETE", "url": "/Observation/55" }, "enforces": ["filter", "checkResults", "redact"] });
    assert_eq!(ask(&snapshot, &write)["code"], "needs-resource");
}

#[test]
fn a_transaction_takes_on_what_its_entries_need() {
    let snapshot = load("");
    let entry = json!({ "request": get("Observation/55") });
    let body = |kind: &str| json!({ "resourceType": "Bundle", "type": kind, "entry": [entry] });
    let asked = |kind: &str, enforces: Value| {
        let request = json!({ "method": "POST", "url": "/", "body": body(kind) });
        ask(&snapshot, &json!({ "claims": app(), "request": request, "enforces": enforces }))
    };
    let checked = json!({ "checkResults": true });
    let transaction = asked("transaction", json!(["checkResults"]));
    assert_eq!((&transaction["obligations"], &transaction["entries"][0]["obligations"]), (&checked, &checked));
    assert_eq!(asked("transaction", json!([]))["code"], "needs-resource");
    let batch = asked("batch", json!(["checkResults"]));
    assert_eq!((&batch["obligations"], &batch["entries"][0]["obligations"]), (&Value::Null, &checked));
    assert_eq!(asked("batch", json!([]))["entries"][0]["code"], "needs-resource");
}

/// Twin: what passes the filter of a read is what the read with its resource is permitted.
#[test]
fn it_agrees_with_the_answer_that_has_the_resource() {
    let snapshot = load("");
    let claims = [
        app(),
        json!({ "iss": "https://i", "sub": "u", "patient": "123", "scope": "patient/Observation.rs?category=laboratory" }),
        json!({ "iss": "https://i", "sub": "u", "fhirUser": "Practitioner/7", "scope": "user/Observation.rs" }),
        json!({ "iss": "https://i", "sub": "u", "roles": ["FHIR Data Reader"] }),
        json!({ "iss": "https://i", "sub": "u", "roles": ["FHIR Data Converter"] }),
        json!({}),
    ];
    let mut laboratory = observation("55", "123");
    laboratory["category"] = json!([{ "coding": [{ "code": "laboratory" }] }]);
    let mut other_laboratory = observation("55", "456");
    other_laboratory["category"] = laboratory["category"].clone();
    let mut permitted = 0;
    for claims in &claims {
        for stored in [&laboratory, &other_laboratory, &observation("55", "123"), &observation("55", "456")] {
            let asked =
                ask(&snapshot, &json!({ "claims": claims, "request": get("/Observation/55"), "resource": stored }));
            for url in ["/Observation/55", "/Observation/55/_history/2", "/Observation?code=1"] {
                let question = json!({ "claims": claims, "request": get(url), "resources": [stored] });
                let found = filtered(&snapshot, &question).unwrap();
                assert_eq!(found["decisions"][0], asked["decision"], "{claims} {url} {stored}");
            }
            permitted += usize::from(asked["decision"] == "permit");
        }
    }
    assert_eq!(permitted, 2 + 1 + 4 + 4);
}

#[test]
fn what_nothing_in_the_request_brings_is_denied() {
    let snapshot = load("");
    let check = |url: &str, resource: Value, expected: &str| {
        let question = json!({ "claims": app(), "request": get(url), "resources": [resource] });
        assert_eq!(filtered(&snapshot, &question).unwrap()["decisions"], json!([expected]), "{url} {question}");
    };
    check("/Observation/55", observation("55", "123"), "permit");
    check("/Observation/55", observation("56", "123"), "deny");
    check("/Observation/55", json!({ "resourceType": "Patient", "id": "123" }), "deny");
    check("/Observation", json!({ "resourceType": "Patient", "id": "123" }), "deny");
    check("/Observation?_include=Observation:subject", json!({ "resourceType": "Patient", "id": "123" }), "permit");
    check("/Observation?_include=Observation:subject", json!({ "resourceType": "Patient", "id": "456" }), "deny");
    check("/Observation", json!({ "resourceType": "Observation", "subject": { "reference": "Patient/123" } }), "deny");
    check("/Observation", json!({ "resourceType": "Observatory", "id": "1" }), "deny");
    check("/Observation", json!({}), "deny");
    check("/observation", observation("55", "123"), "deny");
    check("/metadata", observation("55", "123"), "deny");
    // what is contained is judged with its container
    let mut holder = observation("55", "123");
    holder["contained"] = json!([{ "resourceType": "Patient", "id": "456" }]);
    check("/Observation", holder, "permit");
    let no_token = json!({ "token": "x", "request": get("/Observation"), "resources": [observation("1", "123")] });
    assert_eq!(filtered(&snapshot, &no_token).unwrap()["decisions"], json!(["deny"]));
}

#[test]
fn a_bundle_comes_back_with_less() {
    let policy = "@id(\"x\") @redact(\"Patient.telecom, Patient.contact.name, Patient.deceased\") \
        permit (principal in Role::\"clerk\", action in [Action::\"read\", Action::\"search-type\"], resource is Patient)\
        when { resource.hasTag(\"active\") && resource.getTag(\"active\").contains(\"true\") };";
    let snapshot = load(policy);
    let clerk = json!({ "iss": "https://i", "sub": "u", "roles": ["clerk"] });
    let bundle = json!({ "resourceType": "Bundle", "type": "searchset", "total": 2,
        "link": [{ "relation": "next", "url": "?p=2" }, { "relation": "last", "url": "?p=9" }],
        "entry": [
            { "fullUrl": "Patient/1", "search": { "mode": "match" }, "resource": { "resourceType": "Patient", "id": "1", "active": true,
                "text": { "div": "555" }, "telecom": [{ "value": "555" }], "_telecom": [null], "telecommunication": 1, "deceasedBoolean": true,
                "contact": [{ "name": { "family": "x" }, "gender": "other" }] } },
            { "fullUrl": "Patient/2", "resource": { "resourceType": "Patient", "id": "2", "active": false } },
            { "fullUrl": "Patient/3" },
            { "search": { "mode": "outcome" }, "resource": { "resourceType": "OperationOutcome", "issue": [] } },
            { "resource": { "resourceType": "OperationOutcome", "id": "4", "issue": [] } },
        ] });
    let question = json!({ "claims": clerk, "request": get("/Patient"), "bundle": bundle });
    let left = filtered(&snapshot, &question).unwrap();
    assert_eq!(
        left["bundle"],
        json!({ "resourceType": "Bundle", "type": "searchset",
        "link": [{ "relation": "next", "url": "?p=2" }],
        "entry": [
            { "fullUrl": "Patient/1", "search": { "mode": "match" }, "resource": { "resourceType": "Patient", "id": "1", "active": true,
                "telecommunication": 1, "contact": [{ "gender": "other" }],
                "meta": { "tag": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED" }] } } },
            { "search": { "mode": "outcome" }, "resource": { "resourceType": "OperationOutcome", "issue": [] } },
        ] })
    );
    // who may read everything gets everything
    let mut reader = question.clone();
    reader["claims"] = json!({ "iss": "https://i", "sub": "u", "roles": ["FHIR Data Reader"] });
    let left = filtered(&snapshot, &reader).unwrap();
    assert_eq!((&left["bundle"]["total"], left["bundle"]["entry"].as_array().map(Vec::len)), (&json!(2), Some(4)));
    let mut nobody = question;
    nobody["claims"] = json!({});
    assert_eq!(filtered(&snapshot, &nobody).unwrap()["bundle"]["entry"].as_array().map(Vec::len), Some(1));
}

/// Whom a search by a removed element finds would tell what it holds.
#[test]
fn what_is_removed_is_not_asked_about() {
    let policies = "@id(\"x\") @redact(\"Patient.telecom, Patient.address.city\") permit (principal in Role::\"clerk\", action in Action::\"s\", resource);\
        @id(\"lab\") @redact(\"Observation.value\") permit (principal in Role::\"lab\", action in Action::\"s\", resource)\
        when { resource.hasTag(\"status\") && resource.getTag(\"status\").contains(\"final\") };";
    let snapshot = load(policies);
    let check = |role: &str, url: &str, expected: &str| {
        let claims = json!({ "iss": "https://i", "sub": "u", "roles": [role] });
        let asks = json!({ "claims": claims, "request": get(url), "enforces": ["filter", "checkResults", "redact"] });
        let answer = ask(&snapshot, &asks);
        assert_eq!(answer["code"].as_str().unwrap_or("permit"), expected, "{url}: {answer}");
    };
    check("clerk", "/Patient?name=x&birthdate=2000&_id=1", "permit");
    check("clerk", "/Patient?address-country=x", "permit");
    for about in [
        "telecom=5",
        "phone=5",
        "email:missing=true",
        "address-city=x",
        "address=x",
        "_content=5",
        "_text=5",
        "_sort=-telecom",
    ] {
        check("clerk", &format!("/Patient?{about}"), "unenforceable");
    }
    check("clerk", "/Observation?subject:Patient.phone=5", "unenforceable");
    check("clerk", "/Observation?subject:Patient.name=x", "permit");
    check("lab", "/Observation?code=x", "permit");
    for about in ["value-quantity=gt5", "value-string=x", "combo-value-quantity=5", "code-value-quantity=x$5"] {
        check("lab", &format!("/Observation?{about}"), "unenforceable");
    }
}

/// Decimals keep their digits (FHIR datatypes.html "decimal"), names their order.
#[test]
fn what_stays_stays_letter_by_letter() {
    let snapshot = load("");
    let entry = |patient: &str| {
        format!(
            r#"{{ "resource" : {{"resourceType":"Observation","valueQuantity":{{"value":1.10}},"id":"5",
                "subject":{{"reference":"Patient/{patient}"}},"status":"final"}} }}"#
        )
    };
    let link = r#"{"relation":"self", "url":"x"}"#;
    let bundle = |entries: &str| {
        format!(r#"{{"type":"searchset","entry":[{entries}],"resourceType":"Bundle","link":[{link}]}}"#)
    };
    let question =
        |bundle: &str| format!(r#"{{"claims":{},"request":{},"bundle":{bundle}}}"#, app(), get("/Observation"));
    let issuers = Issuers::new(snapshot.rules.issuers().to_vec());
    let limits = api::Limits::default();
    let desk = Desk::alone(&snapshot, &issuers, &limits, 0);
    let asked = |body: &str| filter(&desk, body.as_bytes()).unwrap();
    let both = bundle(&format!("{}, {}", entry("123"), entry("456")));
    let left = String::from_utf8(asked(&question(&both)).unwrap().body).unwrap();
    assert!(left.contains(&format!("\"entry\":[{}]", entry("123"))), "{left}");
    // and what is wrong is found where it stands
    for entries in [format!("{},\n{{\"a\":1,\"a\":2}}", entry("123")), "{\"a\":[1,]}".to_owned(), "{}]".to_owned()] {
        let question = question(&bundle(&entries));
        let error = asked(&question).unwrap_err();
        let wrong = json::parse(question.as_bytes(), 128).unwrap_err();
        assert_eq!(error.at, Some(format!("{}:{}", wrong.line, wrong.column)), "{entries}: {error}");
    }
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    assert_eq!(asked(&question(&bundle(&deep))).unwrap_err().code, "invalid-json");
}

#[test]
fn what_is_malformed_is_an_error() {
    let snapshot = load("");
    let check = |member: &str, value: Value, expected: &str| {
        let mut question = json!({ "claims": app(), "request": get("/Patient") });
        question[member] = value;
        assert_eq!(filtered(&snapshot, &question).unwrap_err(), expected);
    };
    check("context", json!({}), "neither `resources` nor `bundle` is given at ");
    check("resources", json!({}), "`resources` must be an array at /resources");
    check("resources", Value::Null, "`resources` must be an array at /resources");
    check("resources", json!([{}, 1]), "a resource must be an object at /resources/1");
    check("bundle", json!([]), "`bundle` must be an object at /bundle");
    check(
        "bundle",
        json!({ "resourceType": "Bundle", "type": "batch" }),
        "`bundle` must be a Bundle of type `searchset` or `history` at /bundle",
    );
    check(
        "bundle",
        json!({ "resourceType": "Bundle", "type": "searchset", "entry": {} }),
        "`entry` must be an array at /bundle/entry",
    );
    check(
        "enforces",
        json!([]),
        "unknown field; known here: token, claims, request, context, resources, bundle at /enforces",
    );
}

proptest! {
    /// Well-formed questions, then bent in one letter.
    #[test]
    fn whatever_is_asked(
        url in prop::sample::select(vec!["/Observation/55", "/Observation", "/Patient?_revinclude=Observation:subject", "/metadata", "/x"]),
        claims in prop::sample::select(vec![app(), json!({}), json!({ "iss": "https://i", "roles": ["admin"] })]),
        patient in prop::sample::select(vec!["123", "456"]),
        at in any::<prop::sample::Index>(),
        with in prop::option::of("[ -~]"),
    ) {
        static SNAPSHOT: std::sync::LazyLock<Snapshot> = std::sync::LazyLock::new(|| load(""));
        let resource = observation("55", patient);
        let mut text = json!({ "claims": claims, "request": get(url), "resource": resource }).to_string();
        if let Some(with) = with {
            let at = at.index(text.len());
            text.replace_range(at..=at, &with);
        }
        prop_assert!(holds(text.as_bytes(), &SNAPSHOT), "{text}");
    }
}
