//! `POST /v1/filter`: resources that a server is about to return → which of them it may, and what to remove in them.
//! Hides where a bundle tells of what is hidden.
//! INVARIANT: what cannot be judged is denied: no id, no such type, nothing in the request that brings it, a bad token.
//! INVARIANT: a bundle comes back with less, never with more.
//! Source: shared/API.md; FHIR R4 bundle.html, search.html "Managing returned resources".

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::engine::decide::{Enforces, Evidence, Stored, decide, result};
use crate::engine::entities::Facts;
use crate::engine::standing::Standing;
use crate::fhir::operation::Operation;
use crate::http::api::{Answered, ApiError, Asker, Desk, Fields, Lacking, Limits, bytes, not_json};
use crate::json;
use crate::policy::snapshot::Snapshot;
use crate::token::issuers::Issuers;

/// `POST /v1/filter`: a decision for each resource, or the bundle without what is denied. One resource at a time is read,
/// and what is not changed is given back letter by letter.
pub fn filter(desk: &Desk<'_>, body: &[u8]) -> Result<Result<Answered, ApiError>, Lacking> {
    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        // says where
        Err(_) => return Ok(json::parse(body, 1).map_err(not_json).and(Err(ApiError::malformed("", "not UTF-8")))),
    };
    let page = Page { text, depth_max: desk.limits.json_depth_max };
    let (question, results) = match page.question() {
        Ok(read) => read,
        Err(error) => return Ok(Err(error)),
    };
    let asker = match Asker::read(desk, &question) {
        Ok(asker) => asker,
        Err(error) => return Ok(Err(error)),
    };
    let facts = asker.facts(desk);
    let standing = asker.standing(desk)?;
    let operation = asker.operation(desk);
    let judge = match (&standing, &operation) {
        (Ok(standing), Ok(operation)) => Some(Judge { snapshot: desk.snapshot, standing, operation, facts: &facts }),
        (Err(_), _) | (_, Err(_)) => None,
    };
    let answer = match results {
        Results::Resources(resources) => page.decisions(&resources, judge.as_ref()),
        Results::Bundle(members) => page.narrowed(&members, judge.as_ref()),
    };
    Ok(answer.map(|body| Answered { body, summaries: Vec::new() }))
}

/// What is judged, in its text.
enum Results<'t> {
    Resources(Vec<&'t str>),
    /// the members of a bundle
    Bundle(Vec<(Cow<'t, str>, &'t str)>),
}

/// The whole body, of which parts are read.
#[derive(Clone, Copy)]
struct Page<'t> {
    text: &'t str,
    depth_max: usize,
}

impl<'t> Page<'t> {
    /// Who asks for what, and the results apart.
    fn question(self) -> Result<(Fields<'t>, Results<'t>), ApiError> {
        let malformed = |at: &str, message: &str| Err(ApiError::malformed(at, message));
        if !self.text.trim_start().starts_with('{') {
            self.read(self.text, 0)?;
            return malformed("", "an object is expected here");
        }
        let (mut question, mut resources, mut bundle) = (Vec::new(), None, None);
        for (name, text) in json::members(self.text).map_err(not_json)? {
            match name.as_ref() {
                "resources" => resources = Some(text),
                "bundle" => bundle = Some(text),
                _ => question.push((name, text)),
            }
        }
        let question = Fields::some_of(self.text, question, self.depth_max);
        if let Err(error) = question.only(&["token", "claims", "request", "context"]) {
            let message = "unknown field; known here: token, claims, request, context, resources, bundle";
            return Err(ApiError { message: message.to_owned(), ..error });
        }
        let results = match (resources, bundle) {
            (Some(text), None) if text.starts_with('[') => Results::Resources(self.items(text)?),
            (Some(_), None) => return malformed("/resources", "`resources` must be an array"),
            (None, Some(text)) if text.starts_with('{') => Results::Bundle(self.bundle(text)?),
            (None, Some(_)) => return malformed("/bundle", "`bundle` must be an object"),
            (Some(_), Some(_)) => return malformed("", "both `resources` and `bundle` are given; send one"),
            (None, None) => return malformed("", "neither `resources` nor `bundle` is given"),
        };
        Ok((question, results))
    }

    /// A bundle of results: a batch or a document is judged by its own interaction.
    fn bundle(self, text: &'t str) -> Result<Vec<(Cow<'t, str>, &'t str)>, ApiError> {
        let malformed = |at: &str, message: &str| Err(ApiError::malformed(at, message));
        let members = json::members(text).map_err(|error| not_json(error.within(self.text, text)))?;
        let member = |name: &str| members.iter().find(|(known, _)| known == name).map(|(_, text)| *text);
        let word = |name: &str| match member(name) {
            Some(text) => self.read(text, 0).map(|value| value.as_str().unwrap_or_default().to_owned()),
            None => Ok(String::new()),
        };
        let (of, kind) = (word("resourceType")?, word("type")?);
        if of != "Bundle" || !matches!(kind.as_str(), "searchset" | "history") {
            return malformed("/bundle", "`bundle` must be a Bundle of type `searchset` or `history`");
        }
        if member("entry").is_some_and(|text| !text.starts_with('[')) {
            return malformed("/bundle/entry", "`entry` must be an array");
        }
        Ok(members)
    }

    fn read(self, part: &str, deeper: usize) -> Result<Value, ApiError> {
        json::parse_str(part, self.depth_max + deeper).map_err(|error| not_json(error.within(self.text, part)))
    }

    fn items(self, part: &'t str) -> Result<Vec<&'t str>, ApiError> {
        json::items(part).map_err(|error| not_json(error.within(self.text, part)))
    }

    /// `{ "decisions": […], "redact": […] }`
    fn decisions(self, resources: &[&str], judge: Option<&Judge<'_>>) -> Result<Vec<u8>, ApiError> {
        let mut decisions = Vec::with_capacity(resources.len());
        let mut redact = Vec::with_capacity(resources.len());
        for (index, text) in resources.iter().enumerate() {
            let resource = self.read(text, 0)?;
            if !resource.is_object() {
                return Err(ApiError::malformed(&format!("/resources/{index}"), "a resource must be an object"));
            }
            let judged = judge.and_then(|judge| judge.judged(&resource));
            decisions.push(if judged.is_some() { "permit" } else { "deny" });
            redact.push(judged.unwrap_or_default());
        }
        Ok(bytes(&json!({ "decisions": decisions, "redact": redact })))
    }

    /// `{ "bundle": … }`: without the entries that are denied, and without what counts them.
    fn narrowed(self, members: &[(Cow<'_, str>, &str)], judge: Option<&Judge<'_>>) -> Result<Vec<u8>, ApiError> {
        let judged = |resource: &Value| judge.and_then(|judge| judge.judged(resource));
        let mut sieve = Sieve::new(judge.is_some_and(Judge::permits_all));
        for (name, text) in members {
            if name != "entry" {
                sieve.member(name, text, self.read(text, 0)?);
                continue;
            }
            for text in self.items(text)? {
                // an entry is around its resource
                sieve.entry(text, self.read(text, 1)?, judged);
            }
        }
        Ok(format!("{{\"bundle\":{}}}", sieve.end()).into_bytes())
    }
}

/// A bundle of results on its way: what goes in, part by part, and what is left of it.
pub(super) struct Sieve {
    /// whether nothing is hidden, so that counts tell nothing
    is_all_visible: bool,
    left: String,
    has_members: bool,
    is_in_entries: bool,
}

impl Sieve {
    pub(super) fn new(is_all_visible: bool) -> Sieve {
        Sieve { is_all_visible, left: "{".to_owned(), has_members: false, is_in_entries: false }
    }

    /// A member other than `entry`: its text, and what it says.
    pub(super) fn member(&mut self, name: &str, text: &str, value: Value) {
        match (name, value) {
            // a total counts what other pages hide
            ("total" | "_total", _) if !self.is_all_visible => {}
            // and so does the last page's link
            ("link", Value::Array(links)) if !self.is_all_visible => {
                let is_last = |link: &Value| link.get("relation").and_then(Value::as_str) == Some("last");
                let links: Vec<_> = links.into_iter().filter(|link| !is_last(link)).collect();
                if !links.is_empty() {
                    self.write(name, &Value::Array(links).to_string());
                }
            }
            (_, _) => self.write(name, text),
        }
    }

    /// One of `entry`. FHIR has no empty arrays: the first that is left begins it.
    pub(super) fn entry(&mut self, text: &str, entry: Value, judged: impl Fn(&Value) -> Option<BTreeSet<String>>) {
        let changed;
        let text = match entry_left(entry, self.is_all_visible, judged) {
            Left::As => text,
            Left::Changed(entry) => {
                changed = entry.to_string();
                &changed
            }
            Left::Out => return,
        };
        if self.is_in_entries {
            self.left.push(',');
            self.left.push_str(text);
        } else {
            self.write("entry", "[");
            self.left.push_str(text);
            self.is_in_entries = true;
        }
    }

    /// What is left so far, once.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.left)
    }

    /// The rest of what is left.
    pub(super) fn end(mut self) -> String {
        self.end_entries();
        self.left.push('}');
        self.left
    }

    fn write(&mut self, name: &str, text: &str) {
        self.end_entries();
        if self.has_members {
            self.left.push(',');
        }
        self.has_members = true;
        self.left.push_str(&Value::String(name.to_owned()).to_string());
        self.left.push(':');
        self.left.push_str(text);
    }

    fn end_entries(&mut self) {
        if self.is_in_entries {
            self.left.push(']');
            self.is_in_entries = false;
        }
    }
}

/// Whose results they are, and of which request.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) standing: &'a Standing,
    pub(super) operation: &'a Operation,
    pub(super) facts: &'a Facts,
}

impl Judge<'_> {
    /// `None`, or what is to be removed.
    pub(super) fn judged(&self, resource: &Value) -> Option<BTreeSet<String>> {
        result(self.snapshot, self.standing, self.operation, self.facts, resource)
    }

    /// Whether the request is permitted whatever it finds, so that nothing of its answer is hidden.
    pub(super) fn permits_all(&self) -> bool {
        let evidence = Evidence { stored: Stored::NotLoaded, proposed: None, body: None };
        let enforces = Enforces { filter: false, check_results: false, redact: true };
        decide(self.snapshot, self.standing, self.operation, &evidence, self.facts, enforces).is_permit()
    }
}

/// What is left of a part.
pub(super) enum Left {
    /// all of it, as it was written
    As,
    Changed(Value),
    Out,
}

/// What a server says about the search stays; an entry without a resource tells that there was one.
fn entry_left(mut entry: Value, is_all_visible: bool, judged: impl Fn(&Value) -> Option<BTreeSet<String>>) -> Left {
    let Some(resource) = entry.get("resource") else {
        return if is_all_visible { Left::As } else { Left::Out };
    };
    let mode = entry.get("search").and_then(|search| search.get("mode")).and_then(Value::as_str);
    let kind = resource.get("resourceType").and_then(Value::as_str);
    if (mode, kind) == (Some("outcome"), Some("OperationOutcome")) {
        return Left::As;
    }
    match resource_left(resource, judged) {
        Left::Changed(resource) => {
            entry.as_object_mut().map(|entry| entry.insert("resource".to_owned(), resource));
            Left::Changed(entry)
        }
        left => left,
    }
}

/// What is left of a resource: all, a part, or nothing.
pub(super) fn resource_left(resource: &Value, judged: impl Fn(&Value) -> Option<BTreeSet<String>>) -> Left {
    let Some(kind) = resource.get("resourceType").and_then(Value::as_str) else { return Left::Out };
    let Some(redact) = judged(resource) else { return Left::Out };
    let of_kind = redact.iter().filter_map(|path| path.split_once('.')).filter(|(of, _)| *of == kind);
    let paths: Vec<&str> = of_kind.map(|(_, path)| path).collect();
    if paths.is_empty() {
        return Left::As;
    }
    let mut left = resource.clone();
    paths.into_iter().for_each(|path| remove(&mut left, path));
    mark_as_subset(&mut left);
    Left::Changed(left)
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
        Err(_) => false,
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
