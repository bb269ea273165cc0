//! A small FHIR search server, written apart from the engine to hold its filters against.
//! Hides the paths of the few parameters that its worlds use, taken from HL7's definitions by hand.
//! Source: FHIR R4 search.html: token, reference, uri, `:not`, `:missing`, compartments.

use serde_json::Value;

use crate::fhir::url;

/// Where servers may differ.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// a `code` has the system of its binding
    pub implies_systems: bool,
    /// `:missing` asks for the element, not for a value in it
    pub missing_by_element: bool,
}

pub const BASE: &str = "https://fhir.example/r4";

enum Kind {
    Token,
    Uri,
    /// to any type, or to one
    Reference(Option<&'static str>),
}

use Kind::{Reference, Token, Uri};

#[rustfmt::skip] // a table to read
const PATHS: &[(&str, &str, &str, Kind)] = &[
    ("", "_id", "id", Token),
    ("", "_security", "meta.security", Token),
    ("", "_tag", "meta.tag", Token),
    ("", "_profile", "meta.profile", Uri),
    ("", "_source", "meta.source", Uri),
    ("Observation", "category", "category", Token),
    ("Observation", "code", "code", Token),
    ("Observation", "status", "status", Token),
    ("Observation", "subject", "subject", Reference(None)),
    ("Observation", "patient", "subject", Reference(Some("Patient"))),
    ("Observation", "performer", "performer", Reference(None)),
    ("Observation", "encounter", "encounter", Reference(None)),
    ("Observation", "device", "device", Reference(None)),
    ("Patient", "link", "link.other", Reference(None)),
    ("Patient", "gender", "gender", Token),
    ("Patient", "general-practitioner", "generalPractitioner", Reference(None)),
    ("Encounter", "patient", "subject", Reference(Some("Patient"))),
    ("Encounter", "subject", "subject", Reference(None)),
    ("Encounter", "practitioner", "participant.individual", Reference(Some("Practitioner"))),
    ("Encounter", "participant", "participant.individual", Reference(None)),
    ("Encounter", "status", "status", Token),
    ("Condition", "category", "category", Token),
    ("Condition", "code", "code", Token),
    ("Condition", "patient", "subject", Reference(Some("Patient"))),
    ("Condition", "subject", "subject", Reference(None)),
    ("Condition", "asserter", "asserter", Reference(None)),
    ("Condition", "encounter", "encounter", Reference(None)),
    ("Group", "member", "member.entity", Reference(None)),
    ("Group", "code", "code", Token),
];

/// By CompartmentDefinition; with no parameter, the type is in it by its id alone.
const COMPARTMENTS: &[(&str, &str, &[&str])] = &[
    ("Patient", "Observation", &["subject", "performer"]),
    ("Patient", "Patient", &["link"]),
    ("Patient", "Encounter", &["patient"]),
    ("Patient", "Condition", &["patient", "asserter"]),
    ("Patient", "Group", &["member"]),
    ("Practitioner", "Observation", &["performer"]),
    ("Practitioner", "Patient", &["general-practitioner"]),
    ("Practitioner", "Encounter", &["practitioner", "participant"]),
    ("Practitioner", "Condition", &["asserter"]),
    ("Practitioner", "Group", &["member"]),
    ("Encounter", "Observation", &["encounter"]),
    ("Encounter", "Condition", &["encounter"]),
    ("Device", "Observation", &["subject", "device"]),
    ("Device", "Group", &["member"]),
];

impl Server {
    /// Every way in which servers differ.
    pub fn all() -> [Server; 4] {
        [(false, false), (false, true), (true, false), (true, true)]
            .map(|(implies_systems, missing_by_element)| Server { implies_systems, missing_by_element })
    }

    /// Whether a GET of this URL returns the resource; `None` where this server does not know what it asks.
    pub fn returns(self, resource: &Value, url: &str) -> Option<bool> {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let segments: Vec<&str> = path.split('/').filter(|segment| !matches!(*segment, "" | "_search")).collect();
        let (is_there, of) = match segments.as_slice() {
            [of] => (true, *of),
            [compartment, id, of] => (self.is_in(resource, compartment, id)?, *of),
            _ => return None,
        };
        Some(kind(resource) == of && is_there && self.finds(resource, query)?)
    }

    /// Whether a search of its type with this query finds the resource.
    pub fn finds(self, resource: &Value, query: &str) -> Option<bool> {
        let mut found = true;
        for criterion in url::parameters(query, 256).ok()?.iter().filter(|criterion| criterion.name != "_summary") {
            found &= self.matches(resource, &criterion.name, &criterion.value)?;
        }
        Some(found)
    }

    pub fn is_in(self, resource: &Value, compartment: &str, id: &str) -> Option<bool> {
        let listed = COMPARTMENTS.iter().filter(|(of, member, _)| (*of, *member) == (compartment, kind(resource)));
        let mut is_in = kind(resource) == compartment && text(resource, "id") == id;
        for parameter in listed.flat_map(|(_, _, parameters)| *parameters) {
            is_in |= self.matches(resource, parameter, &format!("{compartment}/{id}"))?;
        }
        Some(is_in)
    }

    fn matches(self, resource: &Value, name: &str, value: &str) -> Option<bool> {
        let (code, modifier) = name.split_once(':').map_or((name, None), |(code, modifier)| (code, Some(modifier)));
        let (_, _, path, kind) =
            PATHS.iter().find(|(of, known, _, _)| (*of == kind(resource) || of.is_empty()) && *known == code)?;
        let elements = walk(vec![resource], path);
        match (modifier, kind) {
            (None, kind) => Some(self.any(&elements, kind, value)),
            (Some("not"), Token) => Some(!self.any(&elements, kind, value)),
            (Some("missing"), kind) => {
                let has_value = elements.iter().any(|element| self.has_value(element, kind));
                let is_there = if self.missing_by_element { !elements.is_empty() } else { has_value };
                Some(is_there != (value == "true"))
            }
            (Some(_), _) => None,
        }
    }

    fn any(self, elements: &[&Value], kind: &Kind, value: &str) -> bool {
        parted(value, ',').iter().any(|one| {
            elements.iter().any(|element| match kind {
                Token => self.token(element, one),
                Uri => element.as_str() == Some(plain(one).as_str()),
                Reference(target) => refers(element, *target).is_some_and(|text| text == plain(one)),
            })
        })
    }

    fn has_value(self, element: &Value, kind: &Kind) -> bool {
        match kind {
            Token => !codings(element).is_empty(),
            Uri => element.is_string(),
            Reference(target) => refers(element, *target).is_some(),
        }
    }

    fn token(self, element: &Value, wanted: &str) -> bool {
        let parts: Vec<String> = parted(wanted, '|').iter().map(|part| plain(part)).collect();
        let (system, code) = match parts.as_slice() {
            [code] => (None, code),
            [system, code] => (Some(system.as_str()), code),
            _ => return false,
        };
        codings(element).into_iter().any(|coding| {
            let fits = match (system, coding.system, coding.is_code && self.implies_systems) {
                (None, _, _) => true,
                (Some(wanted), _, true) => wanted.starts_with("http://hl7.org/fhir/"),
                (Some(""), system, false) => system.is_none(),
                (Some(wanted), system, false) => system == Some(wanted),
            };
            fits && (code.is_empty() || coding.code == *code)
        })
    }
}

struct Coding<'v> {
    system: Option<&'v str>,
    code: &'v str,
    /// an element of type `code`
    is_code: bool,
}

fn codings(element: &Value) -> Vec<Coding<'_>> {
    match element {
        Value::String(code) => vec![Coding { system: None, code, is_code: true }],
        element => match element.get("coding").and_then(Value::as_array) {
            Some(codings) => codings.iter().flat_map(codings_of).collect(),
            None => codings_of(element),
        },
    }
}

fn codings_of(coding: &Value) -> Vec<Coding<'_>> {
    let system = coding.get("system").and_then(Value::as_str);
    let code = coding.get("code").and_then(Value::as_str);
    code.map(|code| Coding { system, code, is_code: false }).into_iter().collect()
}

/// What a Reference refers to here, without its version.
fn refers(element: &Value, target: Option<&str>) -> Option<String> {
    let text = element.get("reference")?.as_str()?;
    let here = text.strip_prefix(BASE).and_then(|rest| rest.strip_prefix('/')).unwrap_or(text);
    let whole = here.split("/_history/").next().unwrap_or(here);
    let fits = target.is_none_or(|target| whole.strip_prefix(target).is_some_and(|rest| rest.starts_with('/')));
    fits.then(|| whole.to_owned())
}

fn walk<'v>(from: Vec<&'v Value>, path: &str) -> Vec<&'v Value> {
    path.split('.').fold(from, |values, name| {
        values
            .into_iter()
            .filter_map(|value| value.get(name))
            .flat_map(|value| value.as_array().map_or_else(|| vec![value], |items| items.iter().collect()))
            .collect()
    })
}

fn parted(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == separator {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(letter);
            if letter == '\\' {
                last.extend(letters.next());
            }
        }
    }
    parts
}

fn plain(text: &str) -> String {
    let mut letters = text.chars();
    let mut plain = String::new();
    while let Some(letter) = letters.next() {
        plain.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    plain
}

fn kind(resource: &Value) -> &str {
    text(resource, "resourceType")
}

fn text<'v>(resource: &'v Value, name: &str) -> &'v str {
    resource.get(name).and_then(Value::as_str).unwrap_or_default()
}
