//! What becomes of an exchange that passes through: its request, and its answer however it is cut.

use std::sync::Arc;

use cedarward::http::api::{self, Brought, Desk, Lacking};
use cedarward::http::exchange::{Go, Head, Onward, Passed, request};
use cedarward::http::proxy::{Reply, Sent, Settings, check};
use cedarward::http::results;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::proxy::{Front, NOW, app, front, narrowing, reader, token};

impl Front {
    fn question<'a>(&'a self, limits: &'a api::Limits) -> Desk<'a> {
        Desk::alone(&self.snapshot, &self.issuers, limits, NOW)
    }

    fn sent(&self, authorization: &str, method: &str, target: &str, body: &str) -> Onward {
        let content_type =
            if body.starts_with('{') { "application/fhir+json" } else { "application/x-www-form-urlencoded" };
        let headers = [("authorization", authorization.as_bytes()), ("content-type", content_type.as_bytes())];
        let sent = Sent { method, target, headers: &headers, body: body.as_bytes() };
        let limits = api::Limits::default();
        request(&self.question(&limits), &self.settings, &sent).unwrap().0
    }

    fn went(&self, authorization: &str, method: &str, target: &str, body: &str) -> Go {
        match self.sent(authorization, method, target, body) {
            Onward::Go(go) => *go,
            Onward::Stop(reply) => panic!("{target}: {reply:?}"),
        }
    }

    /// What the client gets of this answer, cut here; `Err`: the reply in its place, or `None` where it breaks off.
    fn answered(&self, go: Go, status: u16, body: &str, cuts: &[usize]) -> Result<String, Option<Reply>> {
        let headers: [(&str, &[u8]); 1] = [("content-type", b"application/fhir+json; charset=utf-8")];
        let mut answering = match go.check.unwrap().head(status, &headers, false, 128) {
            Head::Judge(answering) => answering,
            Head::Stop(reply) => return Err(Some(reply)),
            Head::Go => return Ok(body.to_owned()),
        };
        let mut left = Vec::new();
        let mut is_begun = false;
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
        cuts.sort_unstable();
        let mut from = 0;
        for to in cuts.into_iter().chain([body.len()]) {
            let is_end = to == body.len();
            match answering.push(&self.snapshot, &body.as_bytes()[from..to], is_end) {
                Passed::Held => {}
                Passed::Go(bytes) => {
                    is_begun = true;
                    left.extend(bytes);
                }
                Passed::Stop(reply) => return Err((!is_begun).then_some(reply)),
            }
            from = to;
            if is_end {
                break;
            }
        }
        Ok(String::from_utf8(left).unwrap())
    }
}

fn fronted() -> Front {
    front(Settings { path: "/fhir".to_owned(), ..narrowing() })
}

fn observation(id: &str, patient: &str) -> Value {
    json!({ "resourceType": "Observation", "id": id, "subject": { "reference": format!("Patient/{patient}") }, "x": "}]\"\\" })
}

fn searchset(entries: &[Value]) -> Value {
    let entries: Vec<Value> = entries.iter().map(|resource| json!({ "resource": resource })).collect();
    json!({ "resourceType": "Bundle", "type": "searchset", "total": entries.len(), "entry": entries })
}

#[test]
fn forbidden_and_not_found_look_the_same() {
    let front = fronted();
    let go = || front.went(&app(), "GET", "/fhir/Observation/55", "");
    let own = observation("55", "123").to_string();
    assert_eq!(front.answered(go(), 200, &own, &[7]), Ok(own.clone()));
    let others = front.answered(go(), 200, &observation("55", "456").to_string(), &[7]);
    let outcome = r#"{"resourceType":"OperationOutcome","issue":[]}"#;
    let absent = front.answered(go(), 404, outcome, &[]);
    assert_eq!(others, absent);
    assert!(matches!(absent, Err(Some(Reply { status: 403, .. }))));
    for status in [203, 301, 304, 410] {
        assert_eq!(front.answered(go(), status, outcome, &[]), absent, "{status}");
        assert_eq!(front.answered(go(), status, &own, &[]), absent, "{status}");
    }
    assert!(matches!(front.answered(go(), 500, outcome, &[]), Err(Some(Reply { status: 502, .. }))));
}

#[test]
fn what_cannot_be_judged_does_not_go_on() {
    let front = fronted();
    let go = || front.went(&app(), "GET", "/fhir/Observation?_include=Observation:subject", "");
    for headers in [
        vec![],
        vec![("content-type", "application/fhir+xml")],
        vec![("content-type", "text/plain")],
        vec![("content-type", "application/fhir+json"), ("content-encoding", "gzip")],
    ] {
        let headers: Vec<(&str, &[u8])> = headers.into_iter().map(|(name, value)| (name, value.as_bytes())).collect();
        let head = go().check.unwrap().head(200, &headers, false, 128);
        assert!(matches!(head, Head::Stop(Reply { status: 403, .. })), "{headers:?}");
    }
    let whole = searchset(&[observation("1", "123")]).to_string();
    for broken in
        [whole.strip_suffix('}').unwrap(), "[]", "{", "null", &format!("{whole}x"), r#"{"resourceType":"Parameters"}"#]
    {
        let front = fronted();
        assert!(front.answered(go(), 200, broken, &[]).is_err(), "{broken}");
        assert!(front.answered(go(), 200, broken, &[whole.len() / 2]).is_err(), "{broken}");
    }
    assert!(matches!(front.sent(&app(), "HEAD", "/fhir/Observation/55", ""), Onward::Stop(Reply { status: 403, .. })));
    assert_eq!(front.answered(go(), 200, r#"{"resourceType":"OperationOutcome"}"#, &[]).unwrap().len(), 35);
}

#[test]
fn what_a_reader_asks_is_not_judged() {
    let front = fronted();
    for target in ["/fhir/Observation/55", "/fhir/Observation?code=1", "/fhir/Patient/1/$everything"] {
        assert!(front.went(&reader(), "GET", target, "").check.is_none(), "{target}");
    }
}

#[test]
fn a_server_that_ignores_a_criterion_tells_no_more() {
    let front = fronted();
    let go = front.went(&app(), "GET", "/fhir/Observation?code=1", "");
    assert_eq!(go.url, "/fhir/Patient/123/Observation?code=1");
    let left =
        front.answered(go, 200, &searchset(&[observation("1", "123"), observation("2", "456")]).to_string(), &[40]);
    let left: Value = serde_json::from_str(&left.unwrap()).unwrap();
    assert_eq!(left.pointer("/entry/0/resource/id"), Some(&json!("1")));
    assert_eq!(left.pointer("/entry/1"), None);
}

#[test]
fn a_batch_is_cut_to_what_is_permitted_and_its_answers_put_in_their_places() {
    let front = fronted();
    let entry = |(method, url): (&str, &str)| json!({ "request": { "method": method, "url": url } });
    let urls = [
        ("GET", "Observation/1"),
        ("DELETE", "Patient/456"),
        ("GET", "Encounter?status=finished"),
        ("GET", "Observation/2"),
    ];
    // letter by letter but for what is narrowed
    let body = format!(
        r#"{{"resourceType":"Bundle","type":"batch","entry":[{}]}}"#,
        urls.map(|url| entry(url).to_string().replace("\":", "\" : ")).join(" , ")
    );
    let go = front.went(&app(), "POST", "/fhir/", &body);
    assert_eq!(
        go.body.as_deref().unwrap(),
        r#"{"resourceType":"Bundle","type":"batch","entry":[{"request" : {"method" : "GET","url" : "Observation/1"}},{"request":{"method":"GET","url":"Encounter?status=finished&patient=Patient/123"}},{"request" : {"method" : "GET","url" : "Observation/2"}}]}"#
    );
    let encounter = |id: &str, patient: &str| json!({ "resourceType": "Encounter", "id": id, "subject": { "reference": format!("Patient/{patient}") } });
    let answer = |resource: Value| json!({ "resource": resource, "response": { "status": "200" } });
    let answers = json!({ "resourceType": "Bundle", "type": "batch-response", "entry": [
        answer(observation("1", "123")),
        answer(searchset(&[encounter("1", "123"), encounter("2", "456")])),
        answer(observation("2", "456")),
    ]});
    let left: Value = serde_json::from_str(&front.answered(go, 200, &answers.to_string(), &[90]).unwrap()).unwrap();
    let told = |pointer: &str| left.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(told("/entry/0/resource/id"), "1");
    assert_eq!(told("/entry/1/response/status"), "403");
    assert_eq!(told("/entry/2/resource/entry/0/resource/id"), "1");
    assert_eq!(told("/entry/2/resource/entry/1"), Value::Null);
    assert_eq!(told("/entry/3"), json!({ "response": { "status": "403" } }));
    assert_eq!(told("/entry/4"), Value::Null);
    // one answer less, or more, and nobody knows which is whose
    let go = || front.went(&app(), "POST", "/fhir/", &body);
    for wrong in [vec![], vec![json!({}); 2], vec![json!({}); 4]] {
        let answers = json!({ "resourceType": "Bundle", "type": "batch-response", "entry": wrong });
        assert!(front.answered(go(), 200, &answers.to_string(), &[]).is_err());
    }
    let none =
        r#"{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"DELETE","url":"Patient/456"}}]}"#;
    assert!(matches!(front.sent(&app(), "POST", "/fhir/", none), Onward::Stop(Reply { status: 403, .. })));
}

#[test]
fn a_proxys_request_is_decided_by_the_stored_resource_where_somebody_brings_it() {
    let front = fronted();
    let limits = api::Limits::default();
    let asked = |authorization: &str, method: &str, target: &str, brought: Option<&[Brought]>| {
        let headers = [("authorization", authorization.as_bytes())];
        let sent = Sent { method, target, headers: &headers, body: b"" };
        let desk = Desk { brought, ..front.question(&limits) };
        check(&desk, &front.settings, &sent).map(|(reply, _)| reply.status)
    };
    let writer = format!("Bearer {}", token(json!({ "sub": "u", "patient": "123", "scope": "patient/*.rds" })));
    for (method, authorization) in [("GET", &app()), ("DELETE", &writer)] {
        assert_eq!(asked(authorization, method, "/fhir/Observation/55", None), Ok(403));
        let Err(Lacking::Resource(place)) = asked(authorization, method, "/fhir/Observation/55", Some(&[])) else {
            panic!("{method}: the resource is needed");
        };
        assert_eq!(place.to_string(), "Observation/55");
        let of = |stored: Option<Value>| {
            let brought = [(place.clone(), stored.map(Arc::new))];
            asked(authorization, method, "/fhir/Observation/55", Some(&brought))
        };
        assert_eq!(of(Some(observation("55", "123"))), Ok(200), "{method}");
        assert_eq!(of(Some(observation("55", "456"))), Ok(403), "{method}");
        assert_eq!(of(None), Ok(403), "{method}");
    }
    // nothing is fetched that the answer does not depend on
    for (authorization, method, target, status) in [
        (reader(), "GET", "/fhir/Observation/55", 200),
        (reader(), "DELETE", "/fhir/Observation/55", 403),
        (app(), "GET", "/fhir/Patient/123", 200),
        (app(), "DELETE", "/fhir/Observation/55", 403),
        (app(), "GET", "/fhir/Observation?code=1", 200),
        (app(), "GET", "/fhir/Observation?_include=Observation:subject", 403),
        (app(), "GET", "/fhir/Observation/55/_history/1", 403),
    ] {
        assert_eq!(asked(&authorization, method, target, Some(&[])), Ok(status), "{method} {target}");
    }
}

#[test]
fn what_a_proxy_cannot_cut_it_does_not_get() {
    let front = fronted();
    let limits = api::Limits::default();
    let checked = |target: &str, kind: &str, body: &str| {
        let app = app();
        let headers = [("authorization", app.as_bytes()), ("content-type", kind.as_bytes())];
        let sent = Sent { method: "POST", target, headers: &headers, body: body.as_bytes() };
        check(&front.question(&limits), &front.settings, &sent).unwrap().0.status
    };
    let batch = |urls: &[&str]| {
        let entries: Vec<Value> =
            urls.iter().map(|url| json!({ "request": { "method": "GET", "url": url } })).collect();
        checked(
            "/fhir/",
            "application/json",
            &json!({ "resourceType": "Bundle", "type": "batch", "entry": entries }).to_string(),
        )
    };
    assert_eq!(batch(&["Patient/123"]), 200);
    for urls in [&["Patient/123", "Observation/1"][..], &["Encounter"], &["Patient/456"], &["Task?_id=1", "$x"]] {
        assert_eq!(batch(urls), 403, "{urls:?}");
    }
    assert_eq!(checked("/fhir/Encounter/_search", "application/x-www-form-urlencoded", "status=x"), 403);
}

fn member() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(r#""resourceType":"Bundle""#.to_owned()),
        Just(r#""type":"searchset""#.to_owned()),
        Just(r#""total":2"#.to_owned()),
        Just(r#""link":[{"relation":"self","url":"x"},{"relation":"last","url":"y"}]"#.to_owned()),
        Just(r#""id":"a\"b""#.to_owned()),
        prop::collection::vec(prop_oneof![Just("123"), Just("456")], 0..4).prop_map(|patients| {
            let entries = patients
                .iter()
                .enumerate()
                .map(|(id, patient)| format!(r#" {{"resource":{}}} "#, observation(&format!("o{id}"), patient)));
            format!(r#""entry" : [{}]"#, entries.collect::<Vec<_>>().join(","))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However an answer is cut, and in whatever order its members come, what passes is what `/v1/filter` leaves.
    #[test]
    fn an_answer_in_parts_is_the_answer_as_a_whole(
        members in prop::collection::vec(member(), 1..6),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let front = fronted();
        let text = format!("{{{}}}", members.join(" , "));
        let url = "/Observation?_include=Observation:subject";
        let passed = front.answered(front.went(&app(), "GET", &format!("/fhir{url}"), ""), 200, &text, &cuts);
        let limits = api::Limits::default();
        let bearer = app();
        let token = bearer.strip_prefix("Bearer ").unwrap();
        let question = format!(r#"{{"token":"{token}","request":{{"method":"GET","url":"{url}"}},"bundle":{text}}}"#);
        match results::filter(&front.question(&limits), question.as_bytes()).unwrap() {
            Ok(filtered) => {
                let filtered = String::from_utf8(filtered.body).unwrap();
                let bundle = filtered.strip_prefix(r#"{"bundle":"#).and_then(|rest| rest.strip_suffix('}'));
                prop_assert_eq!(passed, Ok(bundle.unwrap().to_owned()));
            }
            // no such bundle
            Err(_) => prop_assert!(passed.is_err(), "{:?}", passed),
        }
    }
}
