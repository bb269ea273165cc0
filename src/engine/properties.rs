//! What must hold of every decision, as one property for proptest and for fuzzing.
//! Hides the worlds that it draws: claims, requests and resources that meet at the edges of the default policies.

use std::str::FromStr;
use std::sync::LazyLock;

use cedar_policy::{
    Authorizer, Decision as Cedar, Entities, EntityUid, Policy, PolicyId, PolicySet, Request, SlotId, Template,
};
use serde_json::{Value, json};

use crate::embedded;
use crate::engine::decide::{Answer, Asker, Code, Enforces, Evidence, Question, Stored, Verdict, decide, questions};
use crate::engine::entities::{Content, Facts, View, context, resource_entity, resource_uid};
use crate::engine::standing::Standing;
use crate::fhir::definitions::FhirVersion;
use crate::fhir::operation::{self, Body, Operation};
use crate::policy::links::LINKS;
use crate::policy::snapshot::{CLAIMS as CLAIMS_FILE, Settings, Snapshot};
use crate::token::jws::Claims;

/// Draws a world from `input` and holds decisions against each other:
/// nobody is permitted anything but what everyone may read; a forbid more never permits more; a permit without the
/// resource stands with every resource; a standing asked twice answers the same; and the index answers as Cedar's own authorizer does over all policies.
pub fn holds(input: &[u8]) -> bool {
    let mut draw = Draw::of(input);
    let claims = draw.value(&CLAIMS).clone();
    let resource = draw.value(&RESOURCES);
    let proposed = draw.value(&RESOURCES);
    let facts = Facts { emergency: draw.byte().is_multiple_of(2), now: 1_767_225_600, ..Facts::default() };
    let (method, url, body) = draw.request();
    let (Some(plain), Some(strict)) = (snapshot(&PLAIN), snapshot(&STRICT)) else { return false };
    let request = operation::Request {
        method: &method,
        url: &url,
        headers: &[],
        body: body.as_ref().map_or(Body::None, Body::Json),
    };
    let Ok(operation) = operation::parse(&request, plain.definitions, &plain.request) else { return true };
    let world = World { claims, operation, facts, body };
    let known = Evidence { stored: Stored::Known(resource), proposed: Some(proposed), body: world.body.as_ref() };
    let unknown = Evidence { stored: Stored::NotLoaded, proposed: None, body: world.body.as_ref() };
    let (with, without) = (world.decide(plain, &known), world.decide(plain, &unknown));
    // evidence that does not fit the request is refused, which says nothing about the policies
    let fits = questions(plain, &world.operation, &known).is_ok();
    (!fits || with.is_permit() || !without.is_permit())
        && (with.is_permit() || !world.decide(strict, &known).is_permit())
        && (without.is_permit() || !world.decide(strict, &unknown).is_permit())
        && (world.operation.public || !world.of_nobody(plain, &known).is_permit())
        && world.answers_again_as_before(plain, [&known, &unknown])
        && world.answers_again_as_before(strict, [&known, &unknown])
        && [plain, strict].into_iter().all(|snapshot| {
            policies_of(snapshot).is_some_and(|all| world.answers_as_cedar_does(snapshot, &all, &known))
        })
}

/// Draws policies, and holds what the index finds of them against Cedar's own authorizer over all of them: the decision,
/// the policies that determine it, and whether one fails.
#[doc(hidden)]
pub fn index_holds(input: &[u8]) -> bool {
    let mut draw = Draw::of(input);
    let count = 4 + draw.byte() % 12;
    let drawn: Vec<Drawn> = (0..count).map(|number| Drawn::of(number, &mut draw)).collect();
    let mut folder = embedded::folder();
    folder.0.retain(|path, _| path == CLAIMS_FILE);
    folder.0.insert("drawn.cedar".to_owned(), drawn.iter().map(|drawn| drawn.text.as_str()).collect::<String>().into());
    let links: Vec<Value> = drawn.iter().filter_map(Drawn::link).collect();
    if !links.is_empty() {
        folder.0.insert(LINKS.to_owned(), json!({ "links": links }).to_string().into_bytes());
    }
    let settings = Settings { version: FhirVersion::R4, themes: Vec::new(), request: operation::Settings::default() };
    let (Ok(snapshot), Some(all)) = (Snapshot::load(&folder, &settings), whole_set(&drawn)) else { return false };
    (0..24).all(|_| {
        let Some(world) = World::draw(&mut draw, &snapshot) else { return true };
        let known = Evidence { stored: Stored::Known(draw.value(&RESOURCES)), proposed: None, body: None };
        let unknown = Evidence { stored: Stored::NotLoaded, ..known };
        world.answers_as_cedar_does(&snapshot, &all, &known)
            && world.answers_again_as_before(&snapshot, [&known, &unknown])
    })
}

const PRINCIPALS: [&str; 7] = [
    "principal",
    "principal is User",
    "principal in Role::\"FHIR Data Reader\"",
    "principal in Role::\"admin\"",
    "principal is User in Role::\"FHIR Data Reader\"",
    "principal == User::\"https://i|1\"",
    "principal == User::\"https://i|2\"",
];
const ACTIONS: [&str; 4] =
    ["action", "action in Action::\"r\"", "action == Action::\"read\"", "action == Action::\"delete\""];
const SCOPES: [&str; 7] = [
    "resource",
    "resource is Observation",
    "resource is Patient",
    "resource == Observation::\"55\"",
    "resource == Observation::\"56\"",
    "resource in Patient::\"123\"",
    "resource is Observation in Patient::\"456\"",
];
const CONDITIONS: [&str; 16] = [
    "",
    "when { principal in Role::\"admin\" && resource.security.contains(\"R\") }",
    "when { principal in [Role::\"admin\", Role::\"FHIR Data Reader\"] }",
    "when { principal == User::\"https://i|1\" } unless { context.emergency }",
    "unless { principal in Role::\"admin\" }",
    "when { context.emergency && principal in Role::\"admin\" }",
    "when { resource.security.contains(\"R\") }",
    "when { resource in Patient::\"123\" && context.emergency }",
    "when { principal has patient && resource in principal.patient }",
    "when { context.now < datetime(\"2020-01-01\") }",
    // the resource by another name
    "when { principal has patient && principal.patient has source }",
    "when { principal has patient && principal.patient in Practitioner::\"7\" }",
    "unless { Patient::\"123\" in Practitioner::\"7\" }",
    "when { principal has patient && principal.patient.hasTag(\"identifier\") && resource in principal.patient }",
    // fails wherever it is asked, and where it is asked at all
    "when { 9223372036854775807 + 1 > 0 }",
    "when { context.emergency && resource.security.contains(\"R\") && 9223372036854775807 + 1 > 0 }",
];

/// A policy, or a template that is linked once.
struct Drawn {
    number: usize,
    text: String,
    /// the entities that fill a template's slots
    slots: Vec<(&'static str, &'static str)>,
}

impl Drawn {
    fn of(number: usize, draw: &mut Draw<'_>) -> Drawn {
        let mut one = |of: &[&'static str]| draw.one(of).copied().unwrap_or_default();
        let effect = one(&["permit", "permit", "forbid"]);
        let (mut principal, action, mut resource) = (one(&PRINCIPALS), one(&ACTIONS), one(&SCOPES));
        let condition = one(&CONDITIONS);
        let mut slots = Vec::new();
        match one(&["", "", "", "principal", "resource", "both"]) {
            "principal" => {
                principal = "principal in ?principal";
                slots.push(("principal", one(&["Role::\"admin\"", "User::\"https://i|1\""])));
            }
            "resource" => {
                resource = "resource in ?resource";
                slots.push(("resource", one(&["Patient::\"123\"", "Observation::\"55\""])));
            }
            "both" => {
                (principal, resource) = ("principal == ?principal", "resource == ?resource");
                slots.push(("principal", "User::\"https://i|1\""));
                slots.push(("resource", one(&["Observation::\"55\"", "Observation::\"56\""])));
            }
            _ => {}
        }
        let text = format!("@id(\"p{number}\") {effect} ({principal}, {action}, {resource}) {condition};\n");
        Drawn { number, text, slots }
    }

    /// As links.yaml has it.
    fn link(&self) -> Option<Value> {
        let mut link = json!({ "template": format!("p{}", self.number), "id": format!("linked-p{}", self.number) });
        for (slot, entity) in &self.slots {
            link.as_object_mut()?.insert((*slot).to_owned(), json!(entity));
        }
        (!self.slots.is_empty()).then_some(link)
    }
}

/// All that was drawn, as Cedar itself reads and links it.
fn whole_set(drawn: &[Drawn]) -> Option<PolicySet> {
    let mut all = PolicySet::new();
    for Drawn { number, text, slots } in drawn {
        let id = PolicyId::new(format!("p{number}"));
        if slots.is_empty() {
            all.add(Policy::parse(Some(id), text).ok()?).ok()?;
            continue;
        }
        let filled = slots.iter().map(|(slot, entity)| {
            let slot = if *slot == "principal" { SlotId::principal() } else { SlotId::resource() };
            Some((slot, EntityUid::from_str(entity).ok()?))
        });
        all.add_template(Template::parse(Some(id.clone()), text).ok()?).ok()?;
        all.link(id, PolicyId::new(format!("linked-p{number}")), filled.collect::<Option<_>>()?).ok()?;
    }
    Some(all)
}

/// All policies of a snapshot that has no templates.
fn policies_of(snapshot: &Snapshot) -> Option<PolicySet> {
    PolicySet::from_policies(snapshot.index.policies().iter().map(|indexed| indexed.policy().clone())).ok()
}

#[derive(Clone)]
struct World {
    claims: Value,
    operation: Operation,
    facts: Facts,
    body: Option<Value>,
}

impl World {
    /// Somebody reads something.
    fn draw(draw: &mut Draw<'_>, snapshot: &Snapshot) -> Option<World> {
        let claims = draw.value(&CLAIMS).clone();
        let facts = Facts { emergency: draw.byte().is_multiple_of(2), now: 1_767_225_600, ..Facts::default() };
        let url = *draw.one(&["/Observation/55", "/Observation/56", "/Patient/123", "/Observation?code=x"])?;
        let request = operation::Request { method: "GET", url, headers: &[], body: Body::None };
        let operation = operation::parse(&request, snapshot.definitions, &snapshot.request).ok()?;
        Some(World { claims, operation, facts, body: None })
    }

    fn decide(&self, snapshot: &Snapshot, evidence: &Evidence<'_>) -> Answer {
        self.decide_for(&self.claims, snapshot, evidence)
    }

    fn of_nobody(&self, snapshot: &Snapshot, evidence: &Evidence<'_>) -> Answer {
        self.decide_for(&json!({}), snapshot, evidence)
    }

    fn decide_for(&self, claims: &Value, snapshot: &Snapshot, evidence: &Evidence<'_>) -> Answer {
        match standing(claims, snapshot) {
            Some(standing) => self.ask(snapshot, &standing, evidence),
            None => Answer::deny(Code::InvalidToken, "the claims are refused"),
        }
    }

    fn ask(&self, snapshot: &Snapshot, standing: &Standing, evidence: &Evidence<'_>) -> Answer {
        decide(snapshot, standing, &self.operation, evidence, &self.facts, Enforces::default())
    }

    /// A standing that was asked other things before answers as a new one.
    fn answers_again_as_before(&self, snapshot: &Snapshot, others: [&Evidence<'_>; 2]) -> bool {
        let Some(kept) = standing(&self.claims, snapshot) else { return true };
        let calm = World { facts: Facts { emergency: !self.facts.emergency, ..self.facts.clone() }, ..self.clone() };
        let anew: Vec<_> = others
            .into_iter()
            .flat_map(|evidence| [(&calm, evidence), (self, evidence)])
            .map(|(world, evidence)| (world, evidence, world.decide(snapshot, evidence)))
            .collect();
        anew.iter().chain(&anew).all(|(world, evidence, answer)| world.ask(snapshot, &kept, evidence) == *answer)
    }

    /// Each question of which the content is known, under each view, asked of all policies at once.
    fn answers_as_cedar_does(&self, snapshot: &Snapshot, all: &PolicySet, evidence: &Evidence<'_>) -> bool {
        let Some(standing) = standing(&self.claims, snapshot) else { return true };
        let asker = Asker { snapshot, standing: &standing, facts: &self.facts, enforces: Enforces::default() };
        let Ok(questions) = questions(snapshot, &self.operation, evidence) else { return true };
        let known = questions.iter().filter(|question| !matches!(question.content, Content::Unknown)).take(3);
        known.into_iter().all(|question| {
            standing.views.roles.iter().chain(&standing.views.scopes).all(|view| {
                let cedar = self.cedar(snapshot, all, question, view);
                cedar.is_some_and(|cedar| match (asker.under_one_view(&self.operation, question, view), cedar) {
                    (Verdict::Failed(_), Verdict::Failed(_)) => true,
                    (ours, cedars) => ours == cedars,
                })
            })
        })
    }

    fn cedar(&self, snapshot: &Snapshot, all: &PolicySet, question: &Question<'_>, view: &View) -> Option<Verdict> {
        let reads = crate::policy::analysis::Reads::everything();
        let uid = resource_uid(question.of, question.id).ok()?;
        let resource = resource_entity(snapshot, question.of, question.id, question.content, &reads).ok()?;
        let name = self.operation.name.as_deref();
        let context = context(&self.facts, question.of, question.access.role, name, &reads).ok()?;
        let action = snapshot.action(question.access.action)?;
        let request = Request::new(view.uid.clone(), action.uid(), uid, context, None).ok()?;
        let entities = Entities::from_entities([view.entity.clone(), action.clone(), resource], None).ok()?;
        let response = Authorizer::new().is_authorized(&request, all, &entities);
        let reasons: std::collections::BTreeSet<String> =
            response.diagnostics().reason().map(|id| AsRef::<str>::as_ref(id).to_owned()).collect();
        if let Some(error) = response.diagnostics().errors().next() {
            return Some(Verdict::Failed(error.to_string()));
        }
        Some(match (response.decision(), reasons.is_empty()) {
            (Cedar::Allow, _) => Verdict::Permit(reasons),
            (Cedar::Deny, false) => Verdict::Forbid(reasons),
            (Cedar::Deny, true) => Verdict::NoPermit,
        })
    }
}

pub(super) fn standing(claims: &Value, snapshot: &Snapshot) -> Option<Standing> {
    let claims = Claims::vouched(claims.as_object().cloned().unwrap_or_default());
    let principal = snapshot.rules.principal(&claims, &snapshot.request.bases).ok()?;
    Standing::of(principal, &snapshot.index).ok()
}

type Loaded = LazyLock<Option<Snapshot>>;

static PLAIN: Loaded = LazyLock::new(|| load(&[]));
static STRICT: Loaded = LazyLock::new(|| load(&["confidentiality"]));

fn snapshot(loaded: &'static Loaded) -> Option<&'static Snapshot> {
    loaded.as_ref()
}

fn load(themes: &[&str]) -> Option<Snapshot> {
    let settings = Settings {
        version: FhirVersion::R4,
        themes: themes.iter().map(|theme| (*theme).to_owned()).collect(),
        request: operation::Settings::default(),
    };
    Snapshot::load(&embedded::folder(), &settings).ok()
}

/// Choices, byte by byte; zeros where the input ends.
pub(super) struct Draw<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Draw<'a> {
    pub(super) fn of(input: &'a [u8]) -> Draw<'a> {
        Draw { input, at: 0 }
    }

    pub(super) fn one<'t, T>(&mut self, things: &'t [T]) -> Option<&'t T> {
        things.get(self.byte() % things.len().max(1))
    }

    pub(super) fn byte(&mut self) -> usize {
        let byte = self.input.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        usize::from(byte)
    }

    fn value<'t>(&mut self, things: &'t LazyLock<Vec<Value>>) -> &'t Value {
        self.one(things).unwrap_or(&Value::Null)
    }

    /// A request of the list, or one whose URL is the rest of the input.
    fn request(&mut self) -> (String, String, Option<Value>) {
        let choice = self.byte();
        if choice >= 192 {
            let method = ["GET", "DELETE", "POST", "PUT", "PATCH"].get(choice % 5).copied().unwrap_or("GET");
            let rest = self.input.get(self.at..).unwrap_or_default();
            return (method.to_owned(), format!("/{}", String::from_utf8_lossy(rest)), None);
        }
        let request = REQUESTS.get(choice % REQUESTS.len()).copied().unwrap_or("GET /metadata");
        let (method, url) = request.split_once(' ').unwrap_or(("GET", "/metadata"));
        let body = match method {
            "POST" if url == "/" => Some(BUNDLE.clone()),
            "PUT" | "POST" => Some(self.value(&RESOURCES).clone()),
            "PATCH" => Some(json!([])),
            _ => None,
        };
        (method.to_owned(), url.to_owned(), body)
    }
}

const REQUESTS: [&str; 20] = [
    "GET /Observation/55",
    "GET /Patient/123",
    "GET /Observation/55/_history/1",
    "PUT /Observation/55",
    "PATCH /Observation/55",
    "DELETE /Observation/55",
    "DELETE /Observation/55?_hardDelete=true",
    "POST /Observation",
    "GET /Observation?category=laboratory",
    "GET /Observation?subject:Patient.name=x&_include=*",
    "GET /Patient/123/Observation",
    "GET /Practitioner?name=x",
    "GET /Patient/123/$everything",
    "GET /$export",
    "GET /Medication/m",
    "GET /metadata",
    "POST /",
    "DELETE /Observation?code=x",
    "GET /?_type=Observation,Patient",
    "GET /Patient?_has:Observation:subject:code=x",
];

static CLAIMS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let entra = "https://sts.windows.net/9a3b1c52-0f1e-4c7d-8a55-2b6f0e9d1c11/";
    let smart = |scope: &str| json!({ "iss": "https://idp", "sub": "u", "patient": "123", "scope": scope });
    vec![
        json!({}),
        json!({ "iss": "https://i", "oid": "1", "roles": ["FHIR Data Reader"] }),
        json!({ "iss": "https://i", "oid": "1", "roles": ["FHIR Data Writer"] }),
        json!({ "iss": "https://i", "oid": "1", "roles": ["admin", "break-glass"] }),
        json!({ "iss": "https://i", "oid": "1", "roles": ["globalWriter", "FHIR Data Converter"] }),
        smart("patient/*.cruds"),
        smart("patient/Observation.rs?category=laboratory patient/Observation.u"),
        smart("patient/Observation.read system:Patient.read"),
        json!({ "iss": "https://idp", "sub": "u", "patient": "123", "scope": "patient/*.cruds", "roles": ["admin", "break-glass"] }),
        json!({ "iss": "https://idp", "sub": "u", "fhirUser": "Practitioner/7", "scope": "user/*.cruds" }),
        json!({ "iss": "https://idp", "sub": "u", "fhirUser": "Patient/123", "scope": "user/*.cruds" }),
        json!({ "iss": "https://idp", "sub": "svc", "scope": "system/*.cruds" }),
        json!({ "iss": entra, "oid": "u", "patient": "123", "roles": ["smartUser", "FHIR Data Writer"], "scp": "patient.Observation.cruds" }),
        json!({ "iss": entra, "oid": "u", "patient": "123", "roles": ["FHIR Data Reader"], "scp": "patient.Observation.cruds" }),
    ]
});

static RESOURCES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let observation = |patient: &str, category: &str, label: &str| {
        json!({ "resourceType": "Observation", "id": "55", "subject": { "reference": patient },
            "category": [{ "coding": [{ "code": category }] }],
            "meta": { "security": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": label }] } })
    };
    vec![
        observation("Patient/123", "laboratory", "N"),
        observation("Patient/123", "vital-signs", "R"),
        observation("Patient/456", "laboratory", "N"),
        observation("Patient/456", "laboratory", "V"),
        json!({ "resourceType": "Observation", "id": "55" }),
        json!({ "resourceType": "Patient", "id": "123", "meta": { "source": "urn:s" }, "identifier": [{ "value": "x" }],
            "generalPractitioner": [{ "reference": "Practitioner/7" }] }),
        json!({ "resourceType": "Medication", "id": "m" }),
    ]
});

static BUNDLE: LazyLock<Value> = LazyLock::new(|| {
    json!({ "resourceType": "Bundle", "type": "transaction", "entry": [
        { "request": { "method": "POST", "url": "Observation" },
          "resource": { "resourceType": "Observation", "subject": { "reference": "Patient/123" } } },
        { "request": { "method": "GET", "url": "Practitioner/7" } },
    ] })
});

#[cfg(test)]
mod tests {
    use super::{holds, index_holds};
    use proptest::prelude::*;

    #[test]
    fn every_claim_meets_every_request_and_resource() {
        for claims in 0..14_u8 {
            for request in 0..20_u8 {
                for resource in [0, 1, 4_u8] {
                    let input = [claims, resource, (resource + 1) % 7, 1, request, resource];
                    assert!(holds(&input), "{input:?}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn the_index_answers_as_the_whole_set_does(input in proptest::collection::vec(any::<u8>(), 160..200)) {
            prop_assert!(index_holds(&input));
        }
    }

    proptest! {
        #[test]
        fn holds_for_any_draw(input in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(holds(&input));
        }
    }
}
