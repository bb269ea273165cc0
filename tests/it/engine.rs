//! Properties of deciding: the index answers as the whole set does, and no policy added ever opens what it should close.

use cedarward::cache::BYTES_MAX_DEFAULT;
use cedarward::embedded;
use cedarward::engine::standing::Standings;
use cedarward::http::api::{self, Desk};
use cedarward::policy::folder::Folder;
use cedarward::policy::snapshot::Snapshot;
use cedarward::token::issuers::Issuers;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::tables::settings;

const NOW: i64 = 1_767_225_600;

/// Asks one question of `/v1/authorize`, as bytes, and gives the answer.
pub fn ask(snapshot: &Snapshot, question: &Value) -> Value {
    ask_at(snapshot, question, None, NOW)
}

fn ask_at(snapshot: &Snapshot, question: &Value, standings: Option<&Standings>, now: i64) -> Value {
    let issuers = Issuers::new(snapshot.rules.issuers().to_vec());
    let limits = api::Limits::default();
    let desk = Desk { standings, ..Desk::alone(snapshot, &issuers, &limits, now) };
    let answered = api::authorize(&desk, question.to_string().as_bytes()).unwrap().unwrap();
    serde_json::from_slice(&answered.body).unwrap()
}

fn with(extra: &str) -> Folder {
    let mut folder = embedded::folder();
    folder.0.insert("extra.cedar".to_owned(), extra.as_bytes().to_vec());
    folder
}

pub fn load(extra: &str) -> Snapshot {
    match Snapshot::load(&with(extra), &settings()) {
        Ok(snapshot) => snapshot,
        Err(findings) => panic!("{extra}\n{findings:#?}"),
    }
}

fn lab(patient: &str) -> Value {
    json!({ "resourceType": "Observation", "id": "55", "subject": { "reference": format!("Patient/{patient}") },
        "category": [{ "coding": [{ "system": "http://s", "code": "laboratory" }] }],
        "meta": { "security": [{ "system": "http://c", "code": "R" }] } })
}

fn reader() -> Value {
    json!({ "iss": "https://issuerurl", "oid": "1", "roles": ["FHIR Data Reader", "nurse"] })
}

#[test]
fn policies_of_every_form_answer_as_they_read() {
    // policy, whether it names what the reader asks: GET /Observation/55 of patient 123, stored
    let conditions = [
        ("resource in Patient::\"123\"", true),
        ("resource in Patient::\"456\"", false),
        ("resource is Observation", true),
        ("resource is Patient", false),
        ("resource == Observation::\"55\"", true),
        ("resource.hasTag(\"category\") && resource.getTag(\"category\").contains(\"laboratory\")", true),
        ("resource.hasTag(\"category\") && resource.getTag(\"category\").contains(\"http://s|laboratory\")", true),
        ("resource.hasTag(\"category\") && resource.getTag(\"category\").contains(\"vital-signs\")", false),
        ("resource.hasTag(\"performer\")", false),
        ("resource.security.contains(\"http://c|R\")", true),
        ("resource.security.contains(\"R\")", true),
        ("principal in Role::\"nurse\"", true),
        ("context.type == \"Observation\"", true),
        ("context.access == \"primary\"", true),
        ("context.emergency", false),
        ("context.now > datetime(\"2025-01-01\")", true),
        ("context has source && context.source.isInRange(ip(\"192.0.2.0/24\"))", true),
        ("context.purposes.contains(\"TREAT\")", true),
        ("principal.issuer == \"https://issuerurl\"", true),
    ];
    for (condition, matches) in conditions {
        let snapshot = load(&format!("@id(\"x\") forbid (principal, action, resource) when {{ {condition} }};"));
        let question = json!({ "claims": reader(), "request": { "method": "GET", "url": "/Observation/55" },
            "resource": lab("123"), "context": { "purposeOfUse": ["TREAT"], "sourceAddress": "192.0.2.7" } });
        let answer = ask(&snapshot, &question);
        assert_eq!(answer["decision"] == "deny", matches, "{condition}: {answer}");
        // and where the resource is not at hand, no answer may be more than with it
        let mut without = question.clone();
        without.as_object_mut().unwrap().remove("resource");
        let answer = ask(&snapshot, &without);
        assert!(!matches || answer["decision"] == "deny", "{condition}, without the resource: {answer}");
    }
}

#[test]
fn a_policy_that_fails_denies_though_cedar_would_skip_it() {
    for effect in ["forbid", "permit"] {
        // strictly valid, and overflows when it is evaluated
        let policy = format!(
            "@id(\"x\") {effect} (principal, action, resource) \
             when {{ 9223372036854775807 + (if context.emergency then 0 else 1) > 0 }};"
        );
        let snapshot = load(&policy);
        let question =
            json!({ "claims": reader(), "request": { "method": "GET", "url": "/Observation/55" }, "explain": true });
        let answer = ask(&snapshot, &question);
        assert_eq!(answer["decision"], "deny", "{answer}");
        assert_eq!(answer["explanation"]["accesses"][0]["verdict"], "failed", "{answer}");
    }
}

#[test]
fn what_a_redacting_permit_hides_is_hidden_only_where_no_other_permits() {
    let policy = "@id(\"x\") @redact(\"Patient.telecom, Patient.address\") \
        permit (principal in Role::\"clerk\", action == Action::\"read\", resource is Patient);\n\
        @id(\"y\") @redact(\"Patient.telecom, Patient.name\") \
        permit (principal in Role::\"porter\", action == Action::\"read\", resource is Patient);";
    let snapshot = load(policy);
    let check = |roles: &[&str], enforces: &[&str], decision: &str, redact: Value| {
        let question = json!({ "claims": { "iss": "https://i", "sub": "1", "roles": roles }, "enforces": enforces,
            "request": { "method": "GET", "url": "/Patient/1" } });
        let answer = ask(&snapshot, &question);
        assert_eq!((&answer["decision"], &answer["obligations"]["redact"]), (&json!(decision), &redact), "{answer}");
    };
    check(&["clerk"], &["redact"], "permit", json!(["Patient.address", "Patient.telecom"]));
    check(&["clerk", "porter"], &["redact"], "permit", json!(["Patient.telecom"]));
    check(&["clerk", "FHIR Data Reader"], &[], "permit", Value::Null);
    check(&["clerk"], &[], "deny", Value::Null);
}

#[test]
fn a_folder_with_any_error_does_not_load_and_says_all_that_is_wrong() {
    let check = |extra: &str, expected: &[&str]| match Snapshot::load(&with(extra), &settings()) {
        Ok(_) => panic!("loaded: {extra}"),
        Err(findings) => {
            let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
            for part in expected {
                assert!(told.iter().any(|finding| finding.contains(part)), "{part}: {told:#?}");
            }
        }
    };
    check("permit (principal, action, resource);", &["extra.cedar:1:1", "no usable `@id`"]);
    check(
        "@id(\"role-admin\") permit (principal, action, resource);",
        &["roles.cedar:21:1", "is taken at extra.cedar:1"],
    );
    check("\n\n  nonsense", &["extra.cedar:3:11"]);
    check(
        "@id(\"a\") permit (principal, action, resource) when { principal.nothing };\n\
         @id(\"b\") permit (principal, action == Action::\"fly\", resource);\n\
         permit (principal, action, resource);",
        &["extra.cedar:1:", "extra.cedar:2:", "extra.cedar:3:1"],
    );
    check("permit (principal == ?principal, action, resource);", &["extra.cedar:1:1", "no usable `@id`"]);
    for (open, close) in
        [("(", ")"), ("!(", ")"), ("[", "]"), ("{a: ", "}"), ("if true then true else ", ""), ("true && ", "")]
    {
        let nested = format!("{}true{}", open.repeat(50_000), close.repeat(50_000));
        check(&format!("@id(\"a\") permit (principal, action, resource) when {{ {nested} }};"), &["nested too deeply"]);
    }
    // what only looks like it
    let flat = format!(
        "// {0}\n@id(\"a\") permit (principal, action, resource) when {{ principal.issuer == \"{0} \\\"{0}\" }};",
        "(".repeat(500)
    );
    load(&flat);
    check(
        "@id(\"a\") permit (principal, action, resource) when { resource.hasTag(\"colour\") };",
        &["`colour` is no tag"],
    );
    check("@id(\"a\") permit (principal, action, resource is Pacient);", &["extra.cedar:1:"]);
    check("@id(\"a\") @redact(\"telecom\") permit (principal, action, resource);", &["`@redact` names `telecom`"]);
    check("@id(\"a\") @redact(\"Patient.name\") forbid (principal, action, resource);", &["stands on a forbid"]);
    let mut folder = embedded::folder();
    folder.0.remove("claims.yaml");
    assert!(Snapshot::load(&folder, &settings()).err().unwrap()[0].to_string().contains("no claim rules"));
}

const TEMPLATES: &str = r#"
    @id("shared") permit (principal == ?principal, action in Action::"r", resource in ?resource);
    @id("sealed") forbid (principal, action, resource in ?resource) unless { context.emergency };
"#;

fn with_links(links: &str) -> Result<Snapshot, Vec<String>> {
    let mut folder = with(TEMPLATES);
    folder.0.insert("links.yaml".to_owned(), links.as_bytes().to_vec());
    Snapshot::load(&folder, &settings()).map_err(|findings| findings.iter().map(ToString::to_string).collect())
}

#[test]
fn a_template_decides_by_its_links_and_by_nothing_else() {
    let links = r#"
links:
  - { template: shared, id: shared-with-app, principal: 'Client::"https://i|app"', resource: 'Patient::"123"' }
  - { template: sealed, id: sealed-456, resource: 'Patient::"456"' }
"#;
    let linked = with_links(links).unwrap();
    let unlinked = load(TEMPLATES);
    assert_ne!(linked.revision, unlinked.revision);
    let app = json!({ "iss": "https://i", "sub": "app" });
    let check = |snapshot: &Snapshot, claims: &Value, patient: &str, policies: Value| {
        let question = json!({ "claims": claims, "request": { "method": "GET", "url": "/Observation/55" },
            "resource": lab(patient) });
        let answer = ask(snapshot, &question);
        assert_eq!(answer["policies"], policies, "{answer}");
    };
    let permit = |id: &str| json!([{ "id": id, "effect": "permit" }]);
    check(&linked, &app, "123", permit("shared-with-app"));
    check(&linked, &app, "789", json!([]));
    check(&linked, &json!({ "iss": "https://i", "sub": "bob" }), "123", json!([]));
    check(&linked, &reader(), "456", json!([{ "id": "sealed-456", "effect": "forbid" }]));
    check(&unlinked, &app, "123", json!([]));
    check(&unlinked, &reader(), "456", permit("role-fhir-data-reader"));
    let told: Vec<String> = unlinked.warnings.iter().map(ToString::to_string).collect();
    assert!(
        told.iter().any(|warning| warning.starts_with("extra.cedar:3:5: the template `sealed` has no link")),
        "{told:?}"
    );
    // the last link is taken back
    check(&with_links("links: []").unwrap(), &app, "123", json!([]));
    assert!(linked.warnings.is_empty(), "{:?}", linked.warnings);
}

#[test]
fn the_resource_by_another_name_is_the_resource() {
    let app = json!({ "iss": "https://idp", "sub": "u", "patient": "123", "scope": "patient/*.cruds" });
    let patient = json!({ "resourceType": "Patient", "id": "123", "meta": { "source": "urn:s" },
        "identifier": [{ "value": "x" }], "generalPractitioner": [{ "reference": "Practitioner/7" }] });
    for condition in [
        "principal has patient && principal.patient has source",
        "principal has patient && principal.patient in Practitioner::\"7\"",
        "Patient::\"123\" in Practitioner::\"7\"",
        "principal has patient && principal.patient is Patient in Practitioner::\"7\"",
        "principal has patient && principal.patient.hasTag(\"identifier\") && resource in principal.patient",
        "[principal] == [principal] && {a: if context.emergency then Patient::\"1\" else Patient::\"123\"}.a has source",
    ] {
        let snapshot = load(&format!("@id(\"x\") forbid (principal, action, resource) when {{ {condition} }};"));
        let ask = |url: &str, resource: Option<&Value>| {
            let mut question =
                json!({ "claims": app, "request": { "method": "GET", "url": url }, "enforces": ["filter"] });
            if let Some(resource) = resource {
                question["resource"] = resource.clone();
            }
            ask(&snapshot, &question)
        };
        let known = ask("/Patient/123", Some(&patient));
        assert_eq!(known["code"], "forbidden", "{condition}: {known}");
        for unknown in [ask("/Patient/123", None), ask("/Patient?name=x", None)] {
            assert_eq!(unknown["decision"], "deny", "{condition}: {unknown}");
        }
    }
}

#[test]
fn links_that_fit_no_template_are_told() {
    let check = |link: &str, at: &str, message: &str| {
        let findings = with_links(&format!("links:\n  - {{ {link} }}\n")).err().unwrap_or_default();
        let is_told = |finding: &&String| finding.starts_with(at) && finding.contains(message);
        assert!(findings.iter().any(|finding| is_told(&finding)), "{link}: {findings:#?}");
    };
    let ann = "principal: 'User::\"https://i|ann\"'";
    let record = "resource: 'Patient::\"123\"'";
    check("template: shard, id: a", "links.yaml:2:", "there is no template `shard`");
    check(&format!("template: role-admin, id: a, {ann}"), "links.yaml:2:", "there is no template `role-admin`");
    check(&format!("template: shared, id: a, {record}"), "links.yaml:2:", "`principal` is missing");
    check(&format!("template: sealed, id: a, {record}, {ann}"), "links.yaml:2:", "the template has no `?principal`");
    check("template: sealed, id: a, resource: Patient/123", "links.yaml:2:", "this is no entity");
    check(&format!("template: sealed, {record}"), "links.yaml:2:", "a link has a `id`");
    for links in ["links:", "{}", "- a", "", "links: {}"] {
        assert!(with_links(links).is_err(), "{links}");
    }
    let mut folder = with(TEMPLATES);
    folder.0.insert("team/links.yaml".to_owned(), b"links: []".to_vec());
    assert!(Snapshot::load(&folder, &settings()).err().unwrap()[0].to_string().contains("not read from here"));
    check(&format!("template: sealed, id: role-admin, {record}"), "links.yaml:2:", "the id `role-admin` is taken");
    check(&format!("template: sealed, id: sealed, {record}"), "links.yaml:2:", "the id `sealed` is taken");
    check("template: sealed, id: a, resource: 'Pacient::\"1\"'", "links.yaml:2:", "Pacient");
    check(&format!("template: sealed, id: a, {record}, ressource: x"), "links.yaml:2:", "did you mean `resource`?");
}

/// Policies that look at everything that a question can hold beside the resource.
const WATCHFUL: &str = r#"
    @id("night") forbid (principal, action, resource is Patient) when { context.now > datetime("2026-06-01") };
    @id("away") forbid (principal, action, resource is Group)
        when { context has source && context.source.isInRange(ip("192.0.2.0/24")) };
    @id("purpose") permit (principal in Role::"clerk", action, resource is Group)
        when { context.purposes.contains("TREAT") };
    @id("test") forbid (principal, action, resource is Group) when { context.server == "test" };
    @id("emergency") permit (principal in Role::"clerk", action, resource) when { context.emergency };
    @id("include") forbid (principal, action, resource is Patient) when { context.access == "include" };
    @id("operation") permit (principal in Role::"clerk", action == Action::"operation", resource)
        when { context has operation && context.operation == "$frob" };
    @id("redacting") @redact("Group.member")
        permit (principal in Role::"clerk", action == Action::"read", resource is Group);
"#;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// P3, P5, P6: whatever was asked before, and by whom, the answer is the one that is given without caches.
    #[test]
    fn caches_never_change_an_answer(
        asked in prop::collection::vec((0..6usize, 0..12usize, 0..4usize, 0..5usize, any::<bool>()), 2..60)
    ) {
        static SNAPSHOT: std::sync::LazyLock<Snapshot> = std::sync::LazyLock::new(|| load(WATCHFUL));
        let claims = [
            json!({ "iss": "https://i", "sub": "1", "roles": ["clerk"] }),
            json!({ "iss": "https://i", "sub": "1", "roles": ["FHIR Data Reader"] }),
            json!({ "iss": "https://i", "sub": "2", "roles": ["clerk"] }),
            json!({ "iss": "https://i", "sub": "1", "patient": "123", "scope": "patient/*.rs" }),
            json!({ "iss": "https://i", "sub": "1", "patient": "456", "scope": "patient/*.rs" }),
            json!({ "iss": "https://i", "sub": "1", "patient": "123", "scope": "patient/Observation.rs?category=laboratory" }),
        ];
        let requests = [
            "/Observation/55", "/Group/1", "/Patient/123", "/Observation?_include=Observation:subject:Patient",
            "/Group?_revinclude=Patient:link", "/Patient/1/$frob", "/Patient/1/$other", "/$frob", "/Practitioner?name=x",
            "/Observation/55/_history", "/metadata", "/Patient?zodiac=leo",
        ];
        let contexts = [
            json!({}), json!({ "emergency": true }), json!({ "purposeOfUse": ["TREAT"] }),
            json!({ "sourceAddress": "192.0.2.7" }), json!({ "server": "test", "purposeOfUse": ["TREAT"] }),
        ];
        let standings = Standings::new(BYTES_MAX_DEFAULT);
        for (claim, request, resource, context, late) in asked {
            let mut question = json!({ "claims": claims[claim], "context": contexts[context], "explain": true,
                "enforces": ["redact"], "request": { "method": "GET", "url": requests[request] } });
            if request == 0 && resource > 0 {
                question["resource"] = [lab("123"), lab("456"), Value::Null][resource - 1].clone();
            }
            let now = if late { NOW + 300 * 86_400 } else { NOW };
            let fresh = ask_at(&SNAPSHOT, &question, None, now);
            prop_assert_eq!(ask_at(&SNAPSHOT, &question, Some(&standings), now), fresh);
        }
    }
}
