//! `POST /v1/filter`: resources that a server is about to return → which of them it may, and what to remove in them.
//! Hides where a bundle tells of what is hidden.
//! INVARIANT: what cannot be judged is denied: no id, no such type, nothing in the request that brings it, a bad token.
//! INVARIANT: a bundle comes back with less, never with more.
//! Source: shared/API.md; FHIR R4 bundle.html, search.html "Managing returned resources".

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::engine::decide::{Enforces, Evidence, Stored, decide, result};
use crate::engine::entities::Facts;
use crate::engine::standing::Standing;
use crate::fhir::operation::Operation;
use crate::http::api::{Answered, ApiError, Asker, Desk, Fields, KeyLacking, Limits, bytes, not_json};
use crate::json;
use crate::policy::snapshot::Snapshot;
use crate::token::issuers::Issuers;

/// `POST /v1/filter`: a decision for each resource, or the bundle without what is denied.
pub fn filter(desk: &Desk<'_>, body: &[u8]) -> Result<Result<Answered, ApiError>, KeyLacking> {
    // the resources stand in a list, or in a bundle's entries
    let read = json::parse(body, desk.limits.json_depth_max + 4).map_err(not_json);
    let (asker, results) = match read.as_ref().map_err(Clone::clone).and_then(read_results) {
        Ok(read) => read,
        Err(error) => return Ok(Err(error)),
    };
    let facts = asker.facts(desk);
    let standing = asker.standing(desk)?;
    let operation = asker.operation(desk);
    let judge = match (&standing, &operation) {
        (Ok(standing), Ok(operation)) => Some(Judge { snapshot: desk.snapshot, standing, operation, facts: &facts }),
        (Err(_), _) | (_, Err(_)) => None,
    };
    let judged = |resource: &Value| judge.as_ref().and_then(|judge| judge.judged(resource));
    let answer = match results {
        Results::Resources(resources) => {
            let (decisions, redact): (Vec<_>, Vec<_>) = resources
                .iter()
                .map(|resource| match judged(resource) {
                    Some(redact) => ("permit", redact),
                    None => ("deny", BTreeSet::new()),
                })
                .unzip();
            json!({ "decisions": decisions, "redact": redact })
        }
        Results::Bundle(bundle) => {
            let is_all_visible = judge.as_ref().is_some_and(Judge::permits_all);
            json!({ "bundle": narrowed(bundle, is_all_visible, judged) })
        }
    };
    Ok(Ok(Answered { body: bytes(&answer), summaries: Vec::new() }))
}

enum Results<'v> {
    Resources(&'v [Value]),
    Bundle(&'v Map<String, Value>),
}

fn read_results(value: &Value) -> Result<(Asker<'_>, Results<'_>), ApiError> {
    let fields = Fields::of(value, "")?;
    fields.only(&["token", "claims", "request", "context", "resources", "bundle"])?;
    let asker = Asker::read(&fields)?;
    let malformed = |at: &str, message: &str| Err(ApiError::malformed(at, message));
    let results = match (fields.get("resources"), fields.get("bundle")) {
        (Some(Value::Array(resources)), None) => match resources.iter().position(|resource| !resource.is_object()) {
            None => Results::Resources(resources),
            Some(index) => return malformed(&format!("/resources/{index}"), "a resource must be an object"),
        },
        (Some(_), None) => return malformed("/resources", "`resources` must be an array"),
        (None, Some(bundle)) => Results::Bundle(read_bundle(bundle)?),
        (Some(_), Some(_)) => return Err(ApiError::malformed("", "both `resources` and `bundle` are given; send one")),
        (None, None) => return Err(ApiError::malformed("", "neither `resources` nor `bundle` is given")),
    };
    Ok((asker, results))
}

/// A bundle of results: a batch or a document is judged by its own interaction.
fn read_bundle(value: &Value) -> Result<&Map<String, Value>, ApiError> {
    let malformed = |at: &str, message: &str| Err(ApiError::malformed(at, message));
    let Some(bundle) = value.as_object() else {
        return malformed("/bundle", "`bundle` must be an object");
    };
    let text = |name: &str| bundle.get(name).and_then(Value::as_str);
    match (text("resourceType"), text("type"), bundle.get("entry")) {
        (Some("Bundle"), Some("searchset" | "history"), None | Some(Value::Array(_))) => Ok(bundle),
        (Some("Bundle"), Some("searchset" | "history"), Some(_)) => {
            malformed("/bundle/entry", "`entry` must be an array")
        }
        (_, _, _) => malformed("/bundle", "`bundle` must be a Bundle of type `searchset` or `history`"),
    }
}

struct Judge<'a> {
    snapshot: &'a Snapshot,
    standing: &'a Standing,
    operation: &'a Operation,
    facts: &'a Facts,
}

impl Judge<'_> {
    fn judged(&self, resource: &Value) -> Option<BTreeSet<String>> {
        result(self.snapshot, self.standing, self.operation, self.facts, resource)
    }

    /// Whether the request is permitted whatever it finds, so that nothing of its answer is hidden.
    fn permits_all(&self) -> bool {
        let evidence = Evidence { stored: Stored::NotLoaded, proposed: None, body: None };
        let enforces = Enforces { filter: false, check_results: false, redact: true };
        decide(self.snapshot, self.standing, self.operation, &evidence, self.facts, enforces).is_permit()
    }
}

/// The bundle without the entries that are denied, and without what counts them.
fn narrowed(
    bundle: &Map<String, Value>,
    is_all_visible: bool,
    judged: impl Fn(&Value) -> Option<BTreeSet<String>>,
) -> Map<String, Value> {
    let mut left = Map::new();
    for (name, value) in bundle {
        match (name.as_str(), value) {
            ("entry", Value::Array(entries)) => {
                let entries: Vec<_> =
                    entries.iter().filter_map(|entry| entry_left(entry, is_all_visible, &judged)).collect();
                // FHIR has no empty arrays
                if !entries.is_empty() {
                    left.insert(name.clone(), Value::Array(entries));
                }
            }
            // a total counts what other pages hide, and the last page's link as well
            ("total" | "_total", _) if !is_all_visible => {}
            ("link", Value::Array(links)) if !is_all_visible => {
                let is_last = |link: &&Value| link.get("relation").and_then(Value::as_str) == Some("last");
                let links: Vec<_> = links.iter().filter(|link| !is_last(link)).cloned().collect();
                if !links.is_empty() {
                    left.insert(name.clone(), Value::Array(links));
                }
            }
            (_, value) => {
                left.insert(name.clone(), value.clone());
            }
        }
    }
    left
}

/// What a server says about the search stays; an entry without a resource tells that there was one.
fn entry_left(
    entry: &Value,
    is_all_visible: bool,
    judged: impl Fn(&Value) -> Option<BTreeSet<String>>,
) -> Option<Value> {
    let Some(resource) = entry.get("resource") else {
        return is_all_visible.then(|| entry.clone());
    };
    let mode = entry.get("search").and_then(|search| search.get("mode")).and_then(Value::as_str);
    let kind = resource.get("resourceType").and_then(Value::as_str)?;
    if (mode, kind) == (Some("outcome"), "OperationOutcome") {
        return Some(entry.clone());
    }
    let redact = judged(resource)?;
    let mut entry = entry.clone();
    let paths: Vec<_> = redact
        .iter()
        .filter_map(|path| path.split_once('.'))
        .filter(|(of, _)| *of == kind)
        .map(|(_, path)| path)
        .collect();
    if let (Some(resource), false) = (entry.get_mut("resource"), paths.is_empty()) {
        paths.into_iter().for_each(|path| remove(resource, path));
        mark_as_subset(resource);
    }
    Some(entry)
}

/// The narrative tells again what was removed; and who gets a part must know, lest it be written back as the whole.
fn mark_as_subset(resource: &mut Value) {
    remove(resource, "text");
    let Some(resource) = resource.as_object_mut() else { return };
    let meta = resource.entry("meta").or_insert_with(|| json!({}));
    let Some(tags) = meta.as_object_mut().map(|meta| meta.entry("tag").or_insert_with(|| json!([]))) else { return };
    if let Some(tags) = tags.as_array_mut() {
        tags.push(
            json!({ "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED" }),
        );
    }
}

/// Removes an element, wherever its path leads: `contact.telecom` of each contact; `deceased` in each of its types.
fn remove(value: &mut Value, path: &str) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| remove(item, path)),
        Value::Object(members) => match path.split_once('.') {
            Some((first, rest)) => {
                members
                    .iter_mut()
                    .filter(|(name, _)| is_element(name, first))
                    .for_each(|(_, value)| remove(value, rest));
            }
            None => members.retain(|name, _| !is_element(name, path)),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// JSON's name of an element: itself, with `_` before it for its extensions, or with a type behind it for a choice.
fn is_element(name: &str, element: &str) -> bool {
    match name.strip_prefix('_').unwrap_or(name).strip_prefix(element) {
        Some(rest) => rest.is_empty() || CHOICES.contains(&rest),
        None => false,
    }
}

/// The data types that stand behind the name of a choice: `deceasedBoolean`.
#[rustfmt::skip] // a list to read, not a column
const CHOICES: &[&str] = &[
    "Address", "Age", "Annotation", "Attachment", "Availability", "Base64Binary", "Boolean", "Canonical", "Code",
    "CodeableConcept", "CodeableReference", "Coding", "ContactDetail", "ContactPoint", "Contributor", "Count",
    "DataRequirement", "Date", "DateTime", "Decimal", "Distance", "Dosage", "Duration", "Expression",
    "ExtendedContactDetail", "HumanName", "Id", "Identifier", "Instant", "Integer", "Integer64", "Markdown", "Meta",
    "Money", "Oid", "ParameterDefinition", "Period", "PositiveInt", "Quantity", "Range", "Ratio", "RatioRange",
    "Reference", "RelatedArtifact", "SampledData", "Signature", "String", "Time", "Timing", "TriggerDefinition",
    "UnsignedInt", "Uri", "Url", "UsageContext", "Uuid",
];

/// For any bytes, an answer or an error with its status. And where they are a question of `/v1/authorize` with a resource:
/// a bundle of it keeps what the decision permits, nothing else; and nobody in particular is shown nothing.
#[doc(hidden)]
pub fn holds(input: &[u8], snapshot: &Snapshot) -> bool {
    let issuers = Issuers::new(snapshot.rules.issuers().to_vec());
    let limits = Limits::default();
    let desk = Desk::alone(snapshot, &issuers, &limits, 0);
    let is_sound = match filter(&desk, input) {
        Ok(Ok(answered)) => serde_json::from_slice::<Value>(&answered.body).is_ok_and(|body| body.is_object()),
        Ok(Err(error)) => (400..500).contains(&error.status) && !error.message.is_empty(),
        Err(KeyLacking(_)) => false,
    };
    let Some(mut question) = json::parse(input, limits.json_depth_max).ok().filter(Value::is_object) else {
        return is_sound;
    };
    let Some(members) = question.as_object_mut() else { return is_sound };
    let Some(resource) = members.remove("resource").filter(Value::is_object) else { return is_sound };
    members.retain(|name, _| ["claims", "request", "context"].contains(&name.as_str()));
    let asked = |of: &Value, name: &str, value: Value| {
        let mut question = of.clone();
        question.as_object_mut()?.insert(name.to_owned(), value);
        let answered = filter(&desk, question.to_string().as_bytes()).ok()?.ok()?;
        serde_json::from_slice::<Value>(&answered.body).ok()
    };
    let is_permitted = |of: &Value| {
        asked(of, "resources", json!([resource])).map(|answer| answer.pointer("/decisions/0") == Some(&json!("permit")))
    };
    let bundle = json!({ "resourceType": "Bundle", "type": "searchset", "entry": [{ "resource": resource }] });
    let is_kept = asked(&question, "bundle", bundle).map(|answer| answer.pointer("/bundle/entry/0").is_some());
    let mut nobody = question.clone();
    if let Some(members) = nobody.as_object_mut() {
        members.insert("claims".to_owned(), json!({}));
    }
    is_sound && is_permitted(&question) == is_kept && is_permitted(&nobody) != Some(true)
}
