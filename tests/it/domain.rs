//! A policy folder that is not about FHIR, behind AuthZEN: the certification scenario by its numbers, pages, and what does not load.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use cedarward::cache::BYTES_MAX_DEFAULT;
use cedarward::engine::domain::{Deed, Domain, Party};
use cedarward::http::api;
use cedarward::http::proxy::Settings;
use cedarward::http::server::{Answer, Ask};
use cedarward::http::service::Service;
use cedarward::policy::folder::Folder;
use cedarward::sources::serving::{Origin, Serving};
use hyper::body::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::tables::settings;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/authzen/policies")
}

fn service() -> Arc<Service> {
    let origin = Origin { policies: None, domain: Some(folder()) };
    let serving =
        Serving::start(origin, settings(), BYTES_MAX_DEFAULT).unwrap_or_else(|findings| panic!("{findings:#?}"));
    let url = Some("https://pdp.example".to_owned());
    Service::new(Arc::new(serving), api::Limits::default(), Settings::default(), None, url)
}

fn sent(service: &Arc<Service>, method: &str, path: &str, kind: &str, body: &str) -> Answer {
    let headers = [("content-type", kind), ("x-request-id", "7-seven")];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let ask = Ask {
        method: method.parse().unwrap(),
        path: path.to_owned(),
        query: None,
        headers: headers.into_iter().collect(),
        body: Bytes::from(body.to_owned()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(Arc::clone(service).respond(ask))
}

fn searched(service: &Arc<Service>, place: &str, request: &Value) -> Value {
    let answer = sent(service, "POST", &format!("/access/v1/search/{place}"), "application/json", &request.to_string());
    assert_eq!(answer.status, 200);
    serde_json::from_slice(&answer.body).unwrap()
}

fn found(answer: &Value) -> Vec<&str> {
    let results = answer["results"].as_array().unwrap();
    results.iter().filter_map(|result| result["id"].as_str().or(result["name"].as_str())).collect()
}

#[test]
fn the_certification_scenario() {
    let text = std::fs::read_to_string(folder().join("../cases.yaml")).unwrap();
    let cases: Vec<Value> = serde_yaml::from_str(&text).unwrap();
    let service = service();
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case["case"].as_str().unwrap();
        let body = case["body"].as_str().map_or_else(|| case["request"].to_string(), str::to_owned);
        let path = format!("/access/v1/{}", case["at"].as_str().unwrap());
        let kind = case["kind"].as_str().unwrap_or("application/json");
        // 2.6: the same again and again
        for _ in 0..if name == "2.6" { 5 } else { 1 } {
            let answer = sent(&service, "POST", &path, kind, &body);
            let told: Value = serde_json::from_slice(&answer.body).unwrap();
            // 2.5.1, 5.4
            assert!(answer.headers.contains(&("x-request-id", "7-seven".to_owned())), "{name}");
            let decisions = told["evaluations"].as_array();
            let decisions = decisions.map(|all| all.iter().map(|one| one["decision"].clone()).collect::<Vec<_>>());
            let results = || found(&told).into_iter().map(Value::from).collect::<Vec<Value>>();
            let expected = case.as_object().unwrap();
            let is_right = answer.status
                == expected.get("status").map_or(200, |status| status.as_u64().unwrap() as u16)
                && expected.get("decision").is_none_or(|decision| told["decision"] == *decision)
                && expected.get("decisions").is_none_or(|all| decisions.map(Value::from).as_ref() == Some(all))
                && expected.get("exactly").is_none_or(|all| Value::from(results()) == *all)
                && expected
                    .get("results")
                    .is_none_or(|all| all.as_array().unwrap().iter().all(|one| results().contains(one)));
            if !is_right {
                wrong.push(format!("{name}: {} {told}", answer.status));
            }
        }
    }
    assert!(cases.len() > 50, "{}", cases.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// 6: metadata, under the name that the deployment says.
#[test]
fn every_endpoint_is_told() {
    let answer = sent(&service(), "GET", "/.well-known/authzen-configuration", "text/plain", "");
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(told["policy_decision_point"], "https://pdp.example");
    for (name, path) in [
        ("access_evaluation_endpoint", "evaluation"),
        ("access_evaluations_endpoint", "evaluations"),
        ("search_subject_endpoint", "search/subject"),
        ("search_resource_endpoint", "search/resource"),
        ("search_action_endpoint", "search/action"),
    ] {
        assert_eq!(told[name], format!("https://pdp.example/access/v1/{path}"));
    }
}

/// 4.5: page by page it is what one page has, and a token of another search is none.
#[test]
fn pages_come_to_the_whole() {
    let service = service();
    let mut request = json!({ "subject": { "type": "user" }, "action": { "name": "read" }, "resource": { "type": "record", "id": "record-1" } });
    let whole = searched(&service, "subject", &request);
    let mut paged: Vec<String> = Vec::new();
    request["page"] = json!({ "limit": 1 });
    loop {
        let page = searched(&service, "subject", &request);
        paged.extend(found(&page).into_iter().map(str::to_owned));
        match page["page"]["next_token"].as_str().unwrap() {
            "" => break,
            token => request["page"] = json!({ "limit": 1, "token": token }),
        }
    }
    assert_eq!(paged, found(&whole));
    assert_eq!(paged, ["alice", "bob"]);
    request["action"]["name"] = json!("write");
    let answer = sent(&service, "POST", "/access/v1/search/subject", "application/json", &request.to_string());
    assert_eq!(answer.status, 400);
}

fn loaded(change: impl FnOnce(&mut Folder)) -> Result<Domain, Vec<String>> {
    let mut read = cedarward::sources::folder::read(&folder()).unwrap();
    change(&mut read);
    Domain::load(&read).map_err(|findings| findings.iter().map(ToString::to_string).collect())
}

#[test]
fn what_is_wrong_with_a_folder_is_told() {
    let with = |name: &'static str, text: &'static str| {
        loaded(move |folder| drop(folder.0.insert(name.to_owned(), text.as_bytes().to_vec()))).err().unwrap().join("\n")
    };
    for (name, text, said) in [
        ("more.cedar", "permit (principal, action, resource) when { principal.rloe == \"x\" };", "rloe"),
        ("more.cedar", "permit (principal, action", "more.cedar:1"),
        ("more.cedar", "@id(\"alice\") permit (principal, action, resource);", "alice"),
        ("schema.cedarschema", "entity user {", "schema.cedarschema"),
        (
            "schema.cedarschema",
            "namespace M { action a; } namespace N { action a; }",
            "the action `a` stands in two namespaces",
        ),
        ("entities.json", "[{]", "entities.json:1:3"),
        ("entities.json", r#"[{"uid":{"type":"user","id":"a"},"attrs":{"role":7},"parents":[]}]"#, "role"),
    ] {
        let told = with(name, text);
        assert!(told.contains(said), "{name}: {told}");
    }
    let without = loaded(|folder| drop(folder.0.remove("schema.cedarschema"))).err().unwrap().join("\n");
    assert!(without.contains("schema.cedarschema"), "{without}");
    let first = loaded(|_| ()).unwrap_or_else(|findings| panic!("{findings:#?}")).revision.to_string();
    let edited = loaded(|folder| drop(folder.0.insert("entities.json".to_owned(), b"[]".to_vec())));
    assert_ne!(edited.unwrap_or_else(|findings| panic!("{findings:#?}")).revision.to_string(), first);
}

/// A folder whose forbids look at what a request could talk away.
fn guarded() -> Domain {
    let schema = "type Inner = { blocked?: Bool }; type Outer = Inner;
        entity user = { nick?: String, suspended?: Bool } tags String; entity record;
        action tagged appliesTo { principal: user, resource: record };
        action chained appliesTo { principal: user, resource: record, context: Outer };
        action meet appliesTo { principal: user, resource: user };
        namespace App { type Ctx = { blocked?: Bool }; entity Person; entity Thing;
            action open appliesTo { principal: Person, resource: Thing, context: Ctx }; }";
    let policies = "@id(\"all\") permit (principal, action, resource);
        @id(\"tag\") forbid (principal, action == Action::\"tagged\", resource) when { principal.hasTag(\"locked\") };
        @id(\"chain\") forbid (principal, action == Action::\"chained\", resource) when { context has blocked && context.blocked };
        @id(\"meet\") forbid (principal, action == Action::\"meet\", resource) when { principal has suspended && principal.suspended };
        @id(\"open\") forbid (principal, action == App::Action::\"open\", resource) when { context has blocked && context.blocked };";
    let entities = r#"[{ "uid": { "type": "user", "id": "a" }, "attrs": {}, "tags": { "locked": "yes" }, "parents": [] },
        { "uid": { "type": "user", "id": "b" }, "attrs": {}, "parents": [] }]"#;
    let files = [("schema.cedarschema", schema), ("a.cedar", policies), ("entities.json", entities)];
    let folder = Folder(files.into_iter().map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).collect());
    Domain::load(&folder).unwrap_or_else(|findings| panic!("{findings:#?}"))
}

#[test]
fn no_request_talks_a_forbid_away() {
    let domain = guarded();
    let (nothing, map) = (Map::new(), |value: Value| value.as_object().unwrap().clone());
    let (nick, suspended) = (map(json!({ "nick": "x" })), map(json!({ "suspended": true })));
    let check = |what: &str,
                 subject: (&str, &str, &Map<String, Value>),
                 name: &str,
                 context: Value,
                 resource: (&str, &str, &Map<String, Value>)| {
        let party = |(of, id, properties)| Party { of, id, properties };
        let deed = Deed { name, properties: &nothing, context: &map(context) };
        assert!(!domain.evaluate(party(subject), deed, party(resource)).permits, "{what}");
    };
    let record = ("record", "1", &nothing);
    check("a tag", ("user", "a", &nothing), "tagged", json!({}), record);
    check("a tag, beside a property", ("user", "a", &nick), "tagged", json!({}), record);
    let b = ("user", "b", &nothing);
    check("a context by two names", b, "chained", json!({ "blocked": true }), record);
    check("a context of a wrong type", b, "chained", json!({ "blocked": "yes" }), record);
    check(
        "a context of a namespace",
        ("App::Person", "p", &nothing),
        "open",
        json!({ "blocked": true }),
        ("App::Thing", "t", &nothing),
    );
    check("said of the subject", ("user", "b", &suspended), "meet", json!({}), ("user", "b", &nick));
    check(
        "said in two ways",
        ("user", "b", &suspended),
        "meet",
        json!({}),
        ("user", "b", &map(json!({ "suspended": false }))),
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// A search finds those, and only those, for whom an evaluation says true; and what is said beside never widens what is stored.
    #[test]
    fn a_search_finds_what_evaluations_permit(
        action in prop_oneof![Just("read"), Just("write"), Just("delete"), Just("burn")],
        resource in prop_oneof![Just("record-1"), Just("record-2"), Just("record-3")],
        status in prop_oneof![Just(json!({})), Just(json!({ "status": "archived" })), Just(json!({ "status": 7 }))],
        soft in any::<bool>(),
    ) {
        let (domain, nothing) = (loaded(|_| ()).unwrap_or_else(|findings| panic!("{findings:#?}")), Map::new());
        let properties = Map::from_iter([("soft".to_owned(), json!(soft))]);
        let deed = Deed { name: action, properties: &properties, context: &nothing };
        let status = status.as_object().unwrap().clone();
        let permitted: BTreeSet<String> = ["alice", "bob"]
            .into_iter()
            .filter(|id| {
                let subject = Party { of: "user", id, properties: &nothing };
                domain.evaluate(subject, deed, Party { of: "record", id: resource, properties: &status }).permits
            })
            .map(str::to_owned)
            .collect();
        let request = json!({
            "subject": { "type": "user" }, "action": { "name": action, "properties": properties },
            "resource": { "type": "record", "id": resource, "properties": status },
        });
        let answer = searched(&service(), "subject", &request);
        let searched: BTreeSet<String> = found(&answer).into_iter().map(str::to_owned).collect();
        prop_assert_eq!(&searched, &permitted);
        if resource != "record-3" {
            let stored = |id: &str| {
                let subject = Party { of: "user", id, properties: &nothing };
                domain.evaluate(subject, deed, Party { of: "record", id: resource, properties: &nothing }).permits
            };
            prop_assert!(permitted.iter().all(|id| stored(id)));
        }
    }
}
