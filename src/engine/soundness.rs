//! A filter never shows more than the policies permit: the property, for proptest and for fuzzing.
//! Hides the worlds that it draws: policies, principals, searches and a store of resources.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::embedded;
use crate::engine::decide::{Answer, Decision, Enforces, Evidence, Obligations, Stored, decide, result};
use crate::engine::entities::Facts;
use crate::engine::properties::{Draw, standing};
use crate::engine::standing::Standing;
use crate::fhir::definitions::FhirVersion;
use crate::fhir::operation::{self, Body, Operation};
use crate::policy::snapshot::{Settings, Snapshot};
use search::{BASE, Server};

pub mod search;

/// Policies made of the atoms below, each for the members of a role of its own: a principal's roles choose among them.
const POLICIES: usize = 160;

/// For any draw of roles, scopes, search and store:
/// what the answer shows is what the policies permit, resource by resource, on every kind of server (at most that where
/// the filter says that it is not complete); a forbid more, or a scope less, shows nothing that was not permitted before.
pub fn holds(input: &[u8]) -> bool {
    let Ok(snapshot) = SNAPSHOT.as_ref() else { return false };
    let mut draw = Draw::of(input);
    let world = World::drawn(&mut draw);
    let Ok(whole) = world.is_sound(snapshot) else { return false };
    let shows_no_more =
        |fewer: World| fewer.is_sound(snapshot).is_ok_and(|less| less.shown.is_subset(&whole.permitted));
    world.fewer().into_iter().all(shows_no_more)
}

/// What went wrong, for people.
pub fn told(input: &[u8]) -> String {
    let snapshot = match SNAPSHOT.as_ref() {
        Ok(snapshot) => snapshot,
        Err(findings) => return findings.clone(),
    };
    let world = World::drawn(&mut Draw::of(input));
    let policies: Vec<String> = world.policies().into_iter().map(|at| policy(at).0).collect();
    let worlds = world.fewer();
    let mut answers = [&world].into_iter().chain(&worlds).map(|world| world.is_sound(snapshot));
    let wrong = answers.find_map(Result::err).unwrap_or_else(|| "it is not monotonous".to_owned());
    format!("{wrong}\n{}\n{} {}\n{}", world.claims, world.method, world.url, policies.join("\n"))
}

/// How a search is answered in a world of this input: its filter's queries, for counting what was tried.
pub fn kind_of_answer(input: &[u8]) -> &'static str {
    let (Ok(snapshot), world) = (SNAPSHOT.as_ref(), World::drawn(&mut Draw::of(input))) else { return "none" };
    match world.answer(snapshot).map(|(answer, _, _)| answer.decision) {
        Some(Decision::Permit(Obligations { filter: Some(filter), check_results: true, .. })) if filter.is_complete => {
            "filter and check"
        }
        Some(Decision::Permit(Obligations { filter: Some(filter), .. })) if filter.is_complete => "complete filter",
        Some(Decision::Permit(Obligations { filter: Some(_), .. })) => "incomplete filter",
        Some(Decision::Permit(Obligations { check_results: true, .. })) => "check alone",
        Some(Decision::Permit(_)) => "permit",
        Some(Decision::Deny(_)) | None => "deny",
    }
}

/// Resources of the store, by their place in it.
#[derive(Debug)]
struct Seen {
    /// on any kind of server
    shown: BTreeSet<usize>,
    permitted: BTreeSet<usize>,
}

struct World {
    claims: Value,
    method: &'static str,
    url: &'static str,
    enforces: Enforces,
    store: Vec<Value>,
}

impl World {
    fn drawn(draw: &mut Draw<'_>) -> World {
        let enforces = match draw.byte() % 4 {
            0 => Enforces { filter: true, check_results: false, redact: true },
            _ => Enforces { filter: true, check_results: true, redact: true },
        };
        let count = draw.byte() % 4;
        let roles: Vec<String> = (0..count).map(|_| format!("p{}", draw.byte() % POLICIES)).collect();
        let (method, url) = draw.one(&REQUESTS).copied().unwrap_or(("GET", "/Observation"));
        let scopes: Vec<&str> = (0..draw.byte() % 4).filter_map(|_| draw.one(&SCOPES).copied()).collect();
        let claims = match draw.byte() % 4 {
            0 | 1 => json!({ "iss": "https://i", "sub": "u", "roles": roles, "patient": "1" }),
            2 => json!({ "iss": "https://i", "sub": "u", "roles": roles, "patient": "1", "scope": scopes.join(" ") }),
            _ => {
                let roles: Vec<String> = roles.into_iter().chain(["FHIR SMART User".to_owned()]).collect();
                json!({ "iss": "https://sts.windows.net/9a3b1c52-0f1e-4c7d-8a55-2b6f0e9d1c11/", "oid": "u",
                    "roles": roles, "patient": "1", "scp": scopes.join(" ") })
            }
        };
        let store = (0..1 + draw.byte() % 8).map(|at| resource(draw, at)).collect();
        World { claims, method, url, enforces, store }
    }

    /// The policies of its principal's roles.
    fn policies(&self) -> BTreeSet<usize> {
        let roles = self.claims.get("roles").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        roles.filter_map(|role| role.strip_prefix('p')?.parse().ok()).collect()
    }

    fn answer(&self, snapshot: &Snapshot) -> Option<(Answer, Operation, Standing)> {
        let request = operation::Request { method: self.method, url: self.url, headers: &[], body: Body::None };
        let operation = operation::parse(&request, snapshot.definitions, &snapshot.request).ok()?;
        let standing = standing(&self.claims, snapshot)?;
        let evidence = Evidence { stored: Stored::NotLoaded, proposed: None, body: None };
        let facts = Facts { now: 1_767_225_600, ..Facts::default() };
        let answer = decide(snapshot, &standing, &operation, &evidence, &facts, self.enforces);
        Some((answer, operation, standing))
    }

    /// What of the store is seen, or what is wrong.
    fn is_sound(&self, snapshot: &Snapshot) -> Result<Seen, String> {
        let (answer, operation, standing) = self.answer(snapshot).ok_or("the world is no request")?;
        let facts = Facts { now: 1_767_225_600, ..Facts::default() };
        let permitted = |resource: &Value| result(snapshot, &standing, &operation, &facts, resource).is_some();
        let store = self.store.iter().enumerate();
        let mut seen = Seen {
            permitted: store.filter(|(_, resource)| permitted(resource)).map(|(at, _)| at).collect(),
            shown: BTreeSet::new(),
        };
        let Decision::Permit(obligations) = answer.decision else { return Ok(seen) };
        for server in Server::all() {
            for (at, resource) in self.store.iter().enumerate() {
                if !server.returns(resource, self.url).ok_or("a request that the server does not know")? {
                    continue;
                }
                let permitted = seen.permitted.contains(&at);
                let passes = !obligations.check_results || permitted;
                let (found, by_url, is_complete) = match &obligations.filter {
                    None => (true, None, true),
                    Some(filter) => {
                        let mut found = false;
                        for query in filter.any_of.iter() {
                            found |=
                                server.finds(resource, query).ok_or_else(|| format!("an unknown query {query}"))?;
                        }
                        let by_url = match &filter.url {
                            Some(url) => {
                                Some(server.returns(resource, url).ok_or_else(|| format!("an unknown URL {url}"))?)
                            }
                            None => None,
                        };
                        (found, by_url, filter.is_complete)
                    }
                };
                let wrong = |what: &str| Err(format!("{what}: {resource} on {server:?} by {obligations:?}"));
                if found && passes && !permitted {
                    return wrong("shows more");
                }
                if is_complete && permitted && !found {
                    return wrong("is said to be complete, and shows less");
                }
                if by_url.is_some_and(|by_url| by_url && !found) {
                    return wrong("the URL shows more");
                }
                // a patient's own record may stand for those that are linked to it
                let is_own = resource.get("resourceType") == Some(&json!("Patient"));
                if by_url == Some(false) && found && !is_own && !operation.conditional {
                    return wrong("the URL shows less");
                }
                if found && passes {
                    seen.shown.insert(at);
                }
            }
        }
        Ok(seen)
    }

    /// Worlds that must not show more: with one of the first forbids, or without one of the scopes where a clinical one
    /// is left and no policy in play looks at scopes by itself.
    fn fewer(&self) -> Vec<World> {
        let with = |claims: Value| World { claims, store: self.store.clone(), ..*self };
        let mut fewer = Vec::new();
        for forbid in (0..POLICIES).filter(|at| policy(*at).1).take(6) {
            let mut claims = self.claims.clone();
            if let Some(roles) = claims.get_mut("roles").and_then(Value::as_array_mut) {
                roles.push(json!(format!("p{forbid}")));
            }
            fewer.push(with(claims));
        }
        let reads_scopes = self.policies().into_iter().any(|at| policy(at).0.contains("principal.smart"));
        for name in ["scope", "scp"].into_iter().filter(|_| !reads_scopes) {
            let scopes: Vec<&str> =
                self.claims.get(name).and_then(Value::as_str).unwrap_or_default().split(' ').collect();
            for at in 0..scopes.len() {
                let left: Vec<&str> =
                    scopes.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, scope)| *scope).collect();
                // without any clinical scope, roles decide
                if left.iter().any(|scope| scope.contains('/')) {
                    let mut claims = self.claims.clone();
                    if let Some(claims) = claims.as_object_mut() {
                        claims.insert(name.to_owned(), json!(left.join(" ")));
                    }
                    fewer.push(with(claims));
                }
            }
        }
        fewer
    }
}

const REQUESTS: [(&str, &str); 18] = [
    ("GET", "/Observation"),
    ("GET", "/Observation?category=laboratory"),
    ("GET", "/Observation?subject=Patient/2&status:missing=false"),
    ("GET", "/Observation?_security=R"),
    ("GET", "/Patient"),
    ("GET", "/Patient?_id=1,2"),
    ("GET", "/Encounter?status=final"),
    ("GET", "/Encounter"),
    ("GET", "/Condition"),
    ("GET", "/Group"),
    ("POST", "/Observation/_search?code=a"),
    ("GET", "/Patient/1/Observation"),
    ("GET", "/Patient/2/Observation?category:not=vital"),
    ("GET", "/Encounter/e/Observation"),
    ("GET", "/Patient/1/Condition?_summary=false&category=laboratory"),
    ("GET", "/Practitioner/a/Patient"),
    ("DELETE", "/Observation?status=final"),
    ("DELETE", "/Condition?code=a"),
];

const SCOPES: [&str; 10] = [
    "patient/*.cruds",
    "patient/Observation.rs",
    "patient/Patient.rs",
    "patient/Observation.rs?category=laboratory",
    "patient/Observation.ds?category=urn:c|vital",
    "patient/Observation.s?status=http://hl7.org/fhir/observation-status|final",
    "patient/Condition.rs?code=a,b",
    "patient/Observation.rs?category=|laboratory",
    "user/*.cruds",
    "openid",
];

/// Facts about a resource, in Cedar.
const ATOMS: [&str; 44] = [
    r#"resource in Patient::"1""#,
    r#"resource in Patient::"2""#,
    r#"resource in Practitioner::"a""#,
    r#"resource in Encounter::"e""#,
    r#"resource in Device::"d""#,
    r#"resource in [Patient::"1", Patient::"2"]"#,
    "(principal has patient && resource in principal.patient)",
    r#"resource == Observation::"r1""#,
    r#"resource == Patient::"1""#,
    r#"(resource is Observation && [Observation::"r1", Observation::"r2"].contains(resource))"#,
    r#"(resource.hasTag("category") && resource.getTag("category").contains("laboratory"))"#,
    r#"(resource.hasTag("category") && resource.getTag("category").contains("vital"))"#,
    r#"(resource.hasTag("category") && resource.getTag("category").contains("urn:c|laboratory"))"#,
    r#"(resource.hasTag("category") && resource.getTag("category").contains("|laboratory"))"#,
    r#"(resource.hasTag("category") && resource.getTag("category").containsAny(["laboratory", "urn:c|vital"]))"#,
    r#"(resource.hasTag("category") && ["vital", "x,y", "x|y"].containsAny(resource.getTag("category")))"#,
    r#"(resource.hasTag("category") && resource.getTag("category").containsAll(["laboratory", "vital"]))"#,
    r#"(resource.hasTag("category") && resource.getTag("category") == ["laboratory", "|laboratory"])"#,
    r#"(resource.hasTag("category") && ["laboratory", "|laboratory"].containsAll(resource.getTag("category")))"#,
    r#"(resource.hasTag("category") && resource.getTag("category").contains("urn:c|"))"#,
    r#"resource.hasTag("category")"#,
    r#"resource.hasTag("status")"#,
    r#"(resource.hasTag("status") && resource.getTag("status").contains("final"))"#,
    r#"(resource.hasTag("status") && resource.getTag("status").contains("|final"))"#,
    r#"(resource.hasTag("status") && resource.getTag("status").contains("http://hl7.org/fhir/observation-status|final"))"#,
    r#"(resource.hasTag("code") && resource.getTag("code").containsAny(["a", "b"]))"#,
    r#"(resource.hasTag("subject") && resource.getTag("subject").contains("Patient/1"))"#,
    r#"(resource.hasTag("subject") && resource.getTag("subject").containsAny(["Patient/2", "Group/g"]))"#,
    r#"(resource.hasTag("performer") && resource.getTag("performer").contains("Practitioner/a"))"#,
    r#"(resource.hasTag("performer") && resource.getTag("performer").contains("https://far.example/Practitioner/a"))"#,
    r#"resource.security.contains("R")"#,
    r#"resource.security.contains("urn:s|R")"#,
    r#"resource.security.containsAny(["urn:s|R", "V"])"#,
    "resource.security.isEmpty()",
    r#"resource.tag.contains("x")"#,
    r#"resource.profile.contains("http://p")"#,
    r#"(resource has source && resource.source == "urn:s")"#,
    r#"(resource has source && resource.source like "urn:*")"#,
    "resource has source",
    "resource is Observation",
    r#"context.type == "Patient""#,
    r#"["Observation", "Condition"].contains(context.type)"#,
    "context.emergency",
    r#"principal.smart.patient.s.contains("Observation")"#,
];

/// A policy's text, and whether it forbids: made from its number alone.
fn policy(at: usize) -> (String, bool) {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(at as u64 + 1));
    let forbids = at % 3 == 2;
    let effect = if forbids { "forbid" } else { "permit" };
    let condition = numbers.condition(2);
    let text = format!(
        "@id(\"world-{at}\")\n{effect} (principal in Role::\"p{at}\", action in [Action::\"s\", Action::\"d\"], resource)\nwhen {{ {condition} }};\n"
    );
    (text, forbids)
}

/// A small generator (xorshift): the same numbers at every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % bound.max(1)
    }

    fn condition(&mut self, depth: usize) -> String {
        let choice = if depth == 0 { 0 } else { self.below(8) };
        match choice {
            0..=2 => ATOMS.get(self.below(ATOMS.len())).copied().unwrap_or("false").to_owned(),
            3 => format!("!{}", self.inner(depth)),
            4 | 5 => format!("{} && {}", self.inner(depth), self.inner(depth)),
            6 => format!("{} || {}", self.inner(depth), self.inner(depth)),
            _ => format!("if {} then {} else {}", self.inner(depth), self.inner(depth), self.inner(depth)),
        }
    }

    fn inner(&mut self, depth: usize) -> String {
        format!("({})", self.condition(depth - 1))
    }
}

static SNAPSHOT: LazyLock<Result<Snapshot, String>> = LazyLock::new(|| {
    let mut folder = embedded::folder();
    let text = (0..POLICIES).fold(String::new(), |mut text, at| {
        // INVARIANT: writing to a String cannot fail
        let _ = write!(text, "{}", policy(at).0);
        text
    });
    folder.0.insert("worlds.cedar".to_owned(), text.into_bytes());
    let request = operation::Settings { bases: vec![BASE.to_owned()], ..operation::Settings::default() };
    Snapshot::load(&folder, &Settings { version: FhirVersion::R4, themes: Vec::new(), request })
        .map_err(|findings| format!("{findings:#?}"))
});

fn resource(draw: &mut Draw<'_>, at: usize) -> Value {
    let kinds = ["Observation", "Observation", "Patient", "Encounter", "Condition", "Group"];
    let kind = draw.one(&kinds).copied().unwrap_or("Observation");
    let id = if kind == "Patient" { format!("{}", 1 + at % 3) } else { format!("r{at}") };
    let mut resource = json!({ "resourceType": kind, "id": id });
    let mut set = |name: &str, value: Value| {
        if let (Some(resource), false) = (resource.as_object_mut(), value.is_null()) {
            resource.insert(name.to_owned(), value);
        }
    };
    let meta = json!({ "security": draw.labels(&["R", "V", "N"]), "tag": draw.labels(&["x", "y"]),
        "profile": [draw.one(&["http://p", "http://p|1", "http://q"])] });
    let mut meta = if draw.byte().is_multiple_of(4) { json!({}) } else { meta };
    if let (Some(meta), Some(source)) = (meta.as_object_mut(), draw.one(&["", "urn:s", "urn:t", "http://s"]))
        && !source.is_empty()
    {
        meta.insert("source".to_owned(), json!(source));
    }
    set("meta", meta);
    let persons = ["Patient/1", "Patient/2", "Group/g", "Device/d", ""];
    let subject = draw.reference(&persons);
    let actor = draw.reference(&["Practitioner/a", "Patient/1", "https://far.example/Practitioner/a", ""]);
    match kind {
        "Patient" => {
            set("gender", draw.code(&["male", "female"]));
            set("link", json!([{ "other": subject, "type": "seealso" }]));
            set("generalPractitioner", json!([actor]));
        }
        "Group" => set("member", json!([{ "entity": subject }, { "entity": actor }])),
        "Encounter" => {
            set("status", draw.code(&["final", "planned"]));
            set("subject", subject);
            set("participant", json!([{ "individual": actor }]));
        }
        _ => {
            set("subject", subject);
            set("category", json!([draw.concept(), draw.concept()]));
            set("code", draw.concept());
            set("encounter", draw.reference(&["Encounter/e", "Encounter/f", ""]));
            if kind == "Observation" {
                set("status", draw.code(&["final", "amended"]));
                set("performer", json!([actor, draw.reference(&persons)]));
                set("device", draw.reference(&["Device/d", ""]));
            } else {
                set("asserter", actor);
            }
        }
    }
    resource
}

impl Draw<'_> {
    fn reference(&mut self, texts: &[&str]) -> Value {
        match (self.one(texts).copied().unwrap_or_default(), self.byte() % 8) {
            ("", 0) => json!({ "display": "somebody" }),
            ("", 1) => json!({ "reference": "#contained" }),
            ("", _) => Value::Null,
            (text, 0) => json!({ "reference": format!("{BASE}/{text}") }),
            (text, 1) => json!({ "reference": format!("{text}/_history/2") }),
            (text, _) => json!({ "reference": text }),
        }
    }

    fn code(&mut self, codes: &[&str]) -> Value {
        match self.byte() % 4 {
            0 => Value::Null,
            _ => json!(self.one(codes)),
        }
    }

    fn concept(&mut self) -> Value {
        let code = self.one(&["laboratory", "vital", "a", "b", "x,y", "x|y", "Laboratory"]).copied();
        match self.byte() % 5 {
            0 => json!({ "text": "words alone" }),
            1 => json!({ "coding": [{ "system": "urn:c", "code": code }] }),
            2 => json!({ "coding": [{ "system": "urn:d", "code": code }, { "code": "laboratory" }] }),
            _ => json!({ "coding": [{ "code": code }] }),
        }
    }

    fn labels(&mut self, codes: &[&str]) -> Value {
        let count = self.byte() % 3;
        let label = |draw: &mut Self| match draw.byte() % 3 {
            0 => json!({ "code": draw.one(codes) }),
            1 => json!({ "display": "no code" }),
            _ => json!({ "system": "urn:s", "code": draw.one(codes) }),
        };
        (0..count).map(|_| label(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Numbers, holds, kind_of_answer, told};
    use proptest::prelude::*;

    /// A property that only ever meets denials would hold of anything.
    #[test]
    fn worlds_are_answered_in_every_way() {
        let mut numbers = Numbers(7);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for _ in 0..1_000 {
            let input: Vec<u8> = (0..120).map(|_| u8::try_from(numbers.below(256)).unwrap()).collect();
            *counts.entry(kind_of_answer(&input)).or_default() += 1;
        }
        let ways = ["check alone", "complete filter", "deny", "filter and check", "incomplete filter", "permit"];
        assert!(ways.iter().all(|way| counts.get(way).is_some_and(|count| *count >= 20)), "{counts:?}");
        println!("{counts:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn a_filter_never_shows_more(input in proptest::collection::vec(any::<u8>(), 0..160)) {
            prop_assert!(holds(&input), "{}", told(&input));
        }
    }
}
