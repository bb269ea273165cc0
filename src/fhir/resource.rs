//! A resource's JSON → what policies see of it: compartments, labels, and the values of its search parameters.
//! Hides the shapes of FHIR's data types, and how a literal reference and a search value are written.
//! INVARIANT: a compartment is justified by a literal reference in an element that HL7's CompartmentDefinition names,
//! or by the resource's own id; never by another reference, nor by a URL below another server's base.
//! INVARIANT: JSON of other shapes than FHIR's has no values; labels alone are read in looser shapes too, as policies
//! forbid by them.
//! Source: FHIR references.html, search.html "token", "reference" and "uri"; HL7's CompartmentDefinitions.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::fhir::definitions::{
    Compartment, Definitions, FhirId, FhirVersion, ParameterKind, ResourceType, SearchParameter,
};
use crate::fhir::path::{Hit, Path};

/// The FHIR bases of this deployment, below which an absolute reference is one of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bases(Vec<String>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the FHIR base `{0}` is no http or https URL of a host and a plain path")]
pub struct BaseError(pub String);

impl Bases {
    /// Trailing slashes are taken off; scheme, host and path must be written as references write them.
    pub fn new(urls: impl IntoIterator<Item = impl Into<String>>) -> Result<Bases, BaseError> {
        let base = |url: String| {
            let trimmed = url.trim_end_matches('/');
            let rest = trimmed.strip_prefix("https://").or_else(|| trimmed.strip_prefix("http://"));
            let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '\\' | '@' | '%' | ';' | ',' | '|');
            let is_segment = |text: &str| !matches!(text, "" | "." | "..");
            match rest {
                Some(rest) if rest.chars().all(plain) && rest.split('/').all(is_segment) => Ok(trimmed.to_owned()),
                Some(_) | None => Err(BaseError(url)),
            }
        };
        urls.into_iter().map(Into::into).map(base).collect::<Result<_, _>>().map(Bases)
    }

    /// The bases without trailing slashes.
    pub fn as_strings(&self) -> &[String] {
        &self.0
    }

    /// What follows the base and a slash in `url`, compared byte by byte and by whole segments, so that neither
    /// `https://fhir.example.evil/…` nor `https://fhir.example/fhirX/…` is below `https://fhir.example/fhir`.
    pub fn relative<'u>(&self, url: &'u str) -> Option<&'u str> {
        self.0
            .iter()
            .filter_map(|base| url.strip_prefix(base.as_str())?.strip_prefix('/'))
            .min_by_key(|rest| rest.len())
    }
}

/// A literal reference to a resource of this server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    pub resource_type: ResourceType,
    pub id: FhirId,
}

impl Reference {
    fn text(&self) -> String {
        format!("{}/{}", self.resource_type, self.id)
    }
}

/// `Patient/123`, `Patient/123/_history/2` (the same resource), or either below one of `bases`; `None` for all else: URNs,
/// fragments, queries, other hosts.
pub fn reference(text: &str, definitions: &Definitions, bases: &Bases) -> Option<Reference> {
    let mut segments = bases.relative(text).unwrap_or(text).split('/');
    let resource_type = definitions.resource_type(segments.next()?)?;
    let id = FhirId::parse(segments.next()?)?;
    match (segments.next(), segments.next().map(FhirId::parse), segments.next()) {
        (None, None, None) | (Some("_history"), Some(Some(_)), None) => Some(Reference { resource_type, id }),
        (Some(_) | None, Some(_) | None, Some(_) | None) => None,
    }
}

/// One value of a token parameter. Primitive elements have no system, nor have those of a ContactPoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    pub system: Option<String>,
    /// Empty where there is a system alone.
    pub code: String,
    /// A code, boolean or other primitive, whose system a server may know from its binding.
    pub is_primitive: bool,
}

impl Token {
    /// As Cedar's tags and labels hold it: `code`, and `system|code` or `|code`. A code that has a bar of its own is not
    /// written alone, lest it pass for a code of some system.
    fn forms(&self) -> Vec<String> {
        let system = self.system.as_deref().unwrap_or_default();
        let whole = format!("{system}|{}", self.code);
        match self.code.as_str() {
            "" => Vec::new(),
            code if code.contains('|') => vec![whole],
            code => vec![code.to_owned(), whole],
        }
    }
}

/// One value of a reference parameter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Referred {
    Local(Reference),
    /// Whatever else is referred to, as it is written: `#contained`, URNs, other servers' URLs, canonical URLs.
    Literal(String),
}

/// The values of one search parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    Tokens(Vec<Token>),
    References(Vec<Referred>),
    Uris(Vec<String>),
}

/// Whether `values`, `tag_values` and `matches` know the parameter for this type: by its kind and expression.
pub fn is_covered(definitions: &Definitions, of: ResourceType, parameter: &str) -> bool {
    Path::of(definitions, of, parameter).is_some()
}

/// The values of a parameter in `resource`, in the order of the JSON; `None` where the parameter is not covered.
/// That `resource` is of this type, the caller has made sure.
pub fn values(
    resource: &Value,
    of: ResourceType,
    parameter: &str,
    definitions: &Definitions,
    bases: &Bases,
) -> Option<Values> {
    let hits = Path::of(definitions, of, parameter)?.select(resource);
    match definitions.parameter(of, parameter)?.kind {
        ParameterKind::Token => Some(Values::Tokens(hits.into_iter().flat_map(tokens).collect())),
        ParameterKind::Reference => {
            Some(Values::References(hits.into_iter().filter_map(|hit| referred(hit, definitions, bases)).collect()))
        }
        ParameterKind::Uri => Some(Values::Uris(hits.into_iter().filter_map(text_of).map(str::to_owned).collect())),
        ParameterKind::String
        | ParameterKind::Date
        | ParameterKind::Number
        | ParameterKind::Quantity
        | ParameterKind::Composite
        | ParameterKind::Special => None,
    }
}

/// The Cedar tag named as the parameter: tokens in both forms, references as `Type/id` (others as they are written),
/// URIs; sorted. `None` where the parameter is not covered.
pub fn tag_values(
    resource: &Value,
    of: ResourceType,
    parameter: &str,
    definitions: &Definitions,
    bases: &Bases,
) -> Option<Vec<String>> {
    let written: BTreeSet<String> = match values(resource, of, parameter, definitions, bases)? {
        Values::Tokens(tokens) => tokens.iter().flat_map(Token::forms).collect(),
        Values::References(references) => references
            .into_iter()
            .map(|referred| match referred {
                Referred::Local(reference) => reference.text(),
                Referred::Literal(text) => text,
            })
            .collect(),
        Values::Uris(uris) => uris.into_iter().collect(),
    };
    Some(written.into_iter().collect())
}

/// Whether FHIR's search `parameter=value` finds `resource`; `None` where that cannot be judged: a parameter that is not
/// covered (or has a modifier), a malformed value, or one where servers differ (another case, a system that a code's
/// binding implies, an absolute URL below no configured base).
pub fn matches(
    resource: &Value,
    of: ResourceType,
    parameter: &str,
    value: &str,
    definitions: &Definitions,
    bases: &Bases,
) -> Option<bool> {
    let parameter = definitions.parameter(of, parameter)?;
    let found = values(resource, of, parameter.code, definitions, bases)?;
    let verdicts = split(value, ',').into_iter().map(|text| match &found {
        Values::Tokens(tokens) => token_matches(tokens, text),
        Values::References(referred) => reference_matches(referred, text, parameter, definitions, bases),
        Values::Uris(uris) => unescaped(text).map(|text| uris.contains(&text)),
    });
    any(verdicts)
}

/// The compartments that `resource` is in, by CompartmentDefinition; a Patient and the like are in their own too, where
/// the caller gives the `id` (not for a create). That `resource` is of this type, the caller has made sure.
pub fn compartments(
    resource: &Value,
    of: ResourceType,
    id: Option<&FhirId>,
    definitions: &Definitions,
    bases: &Bases,
) -> Vec<(Compartment, FhirId)> {
    let mut found = BTreeSet::new();
    for compartment in Compartment::ALL {
        if of.as_str() == compartment.as_str() {
            found.extend(id.map(|id| (compartment, id.clone())));
        }
        for parameter in definitions.compartment_parameters(compartment, of) {
            let hits = Path::of(definitions, of, parameter).map(|path| path.select(resource)).unwrap_or_default();
            let members = hits.into_iter().filter_map(|hit| literal_reference(hit, definitions, bases));
            let members = members.filter(|member| member.resource_type.as_str() == compartment.as_str());
            found.extend(members.map(|member| (compartment, member.id)));
        }
    }
    found.into_iter().collect()
}

/// What `meta` says of a resource; `security` and `tag` in both forms of a token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels {
    pub security: Vec<String>,
    pub tag: Vec<String>,
    pub profile: Vec<String>,
    pub source: Option<String>,
}

/// The labels of a resource, found generously, since policies forbid by them: one where an array belongs counts as an
/// array of one, and a bare string as a code.
pub fn labels(resource: &Value) -> Labels {
    let metas = resource.get("meta").map(flattened).unwrap_or_default();
    let all =
        |name: &str| -> Vec<&Value> { metas.iter().filter_map(|meta| meta.get(name)).flat_map(flattened).collect() };
    let forms = |name: &str| {
        let forms: BTreeSet<String> =
            all(name).into_iter().flat_map(|value| tokens(Hit::Value(value))).flat_map(|token| token.forms()).collect();
        forms.into_iter().collect()
    };
    let strings = |name: &str| all(name).into_iter().filter_map(Value::as_str).map(str::to_owned);
    Labels {
        security: forms("security"),
        tag: forms("tag"),
        profile: strings("profile").collect(),
        source: strings("source").next(),
    }
}

/// Whether a resource can be judged as it is: it is not marked as a part of the one that is stored (`SUBSETTED`, as after
/// `_summary` and `_elements`), and its labels are of FHIR's form, as those that cannot be read may forbid.
pub fn is_whole(resource: &Value) -> bool {
    let metas = resource.get("meta").map(flattened).unwrap_or_default();
    let labels = |name: &str| metas.iter().filter_map(|meta| meta.get(name)).flat_map(flattened).collect::<Vec<_>>();
    let is_part = |tag: &Value| tag.get("code").and_then(Value::as_str) == Some("SUBSETTED");
    metas.iter().all(|meta| meta.is_object())
        && labels("security").iter().all(|label| label.is_object())
        && !labels("tag").into_iter().any(is_part)
}

/// The values in arrays within arrays, without recursion.
fn flattened(value: &Value) -> Vec<&Value> {
    let (mut open, mut flat) = (vec![value], Vec::new());
    while let Some(next) = open.pop() {
        match next {
            Value::Array(items) => open.extend(items.iter().rev()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => flat.push(next),
        }
    }
    flat
}

/// The tokens of one element, by its shape: CodeableReference, CodeableConcept, Coding, Identifier, ContactPoint, primitive.
fn tokens(hit: Hit<'_>) -> Vec<Token> {
    let value = match hit {
        Hit::Value(value) | Hit::ReferenceTo(value, _) => value,
        Hit::Truth(truth) => return vec![primitive(truth.to_string())],
    };
    match value {
        Value::Bool(truth) => vec![primitive(truth.to_string())],
        Value::Number(number) => vec![primitive(number.to_string())],
        Value::String(text) => vec![primitive(text.clone())],
        Value::Object(_) => {
            let concept = value.get("concept").filter(|concept| concept.is_object()).unwrap_or(value);
            match concept.get("coding") {
                Some(codings) => flattened(codings).into_iter().filter_map(coding).collect(),
                None => coding(concept).into_iter().collect(),
            }
        }
        Value::Null | Value::Array(_) => Vec::new(),
    }
}

fn primitive(code: String) -> Token {
    Token { system: None, code, is_primitive: true }
}

/// A Coding, Identifier or ContactPoint, which FHIR searches alike.
fn coding(value: &Value) -> Option<Token> {
    let text = |name| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (system, code) = match (text("system"), text("code"), text("value")) {
        (None, None, None) => return None,
        // The system of a ContactPoint is no URI, and no part of its token.
        (Some(system), None, value) if CONTACT_POINT_SYSTEMS.contains(&system) => (None, value?),
        (system, code, value) => (system, code.or(value).unwrap_or_default()),
    };
    Some(Token { system: system.map(str::to_owned), code: code.to_owned(), is_primitive: false })
}

const CONTACT_POINT_SYSTEMS: [&str; 7] = ["phone", "fax", "email", "pager", "url", "sms", "other"];

fn text_of(hit: Hit<'_>) -> Option<&str> {
    match hit {
        Hit::Value(value) => value.as_str(),
        Hit::ReferenceTo(..) | Hit::Truth(_) => None,
    }
}

/// The text of a Reference, or of the one in a CodeableReference.
fn reference_text(value: &Value) -> Option<&str> {
    let literal = value.get("reference")?;
    literal.as_str().or_else(|| literal.get("reference")?.as_str()).filter(|text| !text.is_empty())
}

/// A literal reference of the type that the expression asks for.
fn literal_reference(hit: Hit<'_>, definitions: &Definitions, bases: &Bases) -> Option<Reference> {
    match hit {
        Hit::Value(value) => reference(reference_text(value)?, definitions, bases),
        Hit::ReferenceTo(value, of) => {
            reference(reference_text(value)?, definitions, bases).filter(|reference| reference.resource_type == of)
        }
        Hit::Truth(_) => None,
    }
}

fn referred(hit: Hit<'_>, definitions: &Definitions, bases: &Bases) -> Option<Referred> {
    if let Some(reference) = literal_reference(hit, definitions, bases) {
        return Some(Referred::Local(reference));
    }
    match hit {
        Hit::Value(Value::String(canonical)) if !canonical.is_empty() => Some(Referred::Literal(canonical.clone())),
        Hit::Value(value) => match reference_text(value) {
            Some(text) => Some(Referred::Literal(text.to_owned())),
            None => inline(value, definitions).map(Referred::Local),
        },
        // What a URL of another server refers to, only its own words tell; what is local is of another type.
        Hit::ReferenceTo(value, of) => {
            let text = reference_text(value)?;
            let foreign = tail(text, definitions).is_some_and(|tail| tail.resource_type == of)
                && reference(text, definitions, bases).is_none();
            foreign.then(|| Referred::Literal(text.to_owned()))
        }
        Hit::Truth(_) => None,
    }
}

/// A resource that stands where a reference would, as the first entry of a document does.
fn inline(value: &Value, definitions: &Definitions) -> Option<Reference> {
    let resource_type = definitions.resource_type(value.get("resourceType")?.as_str()?)?;
    Some(Reference { resource_type, id: FhirId::parse(value.get("id")?.as_str()?)? })
}

/// `https://any.host/path/Patient/123` → `Patient/123`: what such a URL would be on its own server.
fn tail(text: &str, definitions: &Definitions) -> Option<Reference> {
    let (_, rest) = text.split_once("://")?;
    let path = rest.split_once("/_history/").map_or(rest, |(path, _)| path);
    let (front, id) = path.rsplit_once('/')?;
    let (_, name) = front.rsplit_once('/')?;
    Some(Reference { resource_type: definitions.resource_type(name)?, id: FhirId::parse(id)? })
}

/// `code`, `system|code`, `|code`, `system|`.
fn token_matches(tokens: &[Token], text: &str) -> Option<bool> {
    let mut parts = split(text, '|').into_iter().map(unescaped);
    let (first, second, third) = (parts.next()??, parts.next(), parts.next());
    let (system, code) = match (second, third) {
        (None, _) => (None, first),
        (Some(code), None) => (Some(first), code?),
        (Some(_), Some(_)) => return None,
    };
    if code.is_empty() && system.as_deref().unwrap_or_default().is_empty() {
        return None;
    }
    any(tokens.iter().map(|token| {
        let code_matches = if code.is_empty() { Some(true) } else { same(&token.code, &code) };
        match (&system, &token.system) {
            (None, _) => code_matches,
            (Some(asked), None) if asked.is_empty() => code_matches,
            // Whether the binding of this element implies that system, the server knows.
            (Some(_), None) if token.is_primitive && code_matches != Some(false) => None,
            (Some(asked), Some(system)) if asked == system => code_matches,
            (Some(_), Some(_) | None) => Some(false),
        }
    }))
}

/// Code systems differ in whether case counts, so another case is neither the same nor another.
fn same(code: &str, asked: &str) -> Option<bool> {
    if code == asked {
        return Some(true);
    }
    if code.to_lowercase() == asked.to_lowercase() { None } else { Some(false) }
}

/// `Type/id`, `id`, an absolute URL, a canonical URL with or without its version.
fn reference_matches(
    found: &[Referred],
    text: &str,
    parameter: &SearchParameter,
    definitions: &Definitions,
    bases: &Bases,
) -> Option<bool> {
    let text = unescaped(text)?;
    // Servers differ in what a version, a fragment or nothing asks for.
    if text.is_empty() || text.contains("/_history/") || text.starts_with('#') {
        return None;
    }
    let asked = reference(&text, definitions, bases);
    let bare = FhirId::parse(&text);
    if asked.is_none() && bare.is_none() && !text.contains(':') {
        return None;
    }
    any(found.iter().map(|referred| match (referred, &asked, &bare) {
        (Referred::Local(local), Some(asked), _) => Some(local == asked),
        (Referred::Local(local), None, Some(id)) => {
            Some(local.id == *id && parameter.targets.contains(&local.resource_type))
        }
        (Referred::Local(local), None, None) => unless_own(tail(&text, definitions).as_ref() == Some(local)),
        (Referred::Literal(literal), Some(asked), _) => {
            unless_own(*literal == text || tail(literal, definitions).as_ref() == Some(asked))
        }
        (Referred::Literal(literal), None, Some(id)) => {
            unless_own(*literal == text || tail(literal, definitions).is_some_and(|tail| tail.id == *id))
        }
        (Referred::Literal(literal), None, None) => {
            let unversioned = literal.split_once('|').map_or(literal.as_str(), |(url, _)| url);
            Some(*literal == text || unversioned == text)
        }
    }))
}

/// A URL below no configured base may be below one that nobody has configured; then a server would find it.
fn unless_own(would_match: bool) -> Option<bool> {
    if would_match { None } else { Some(false) }
}

/// One that matches is enough; else one that cannot be judged leaves all unjudged.
fn any(verdicts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = Some(false);
    for verdict in verdicts {
        match verdict {
            Some(true) => return Some(true),
            Some(false) => {}
            None => all = None,
        }
    }
    all
}

/// Splits at `separator` where no backslash stands before it; the parts keep their backslashes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut escaped = false;
    text.split(|c| {
        let splits = c == separator && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    })
    .collect()
}

/// FHIR's escapes `\,` `\|` `\$` `\\` undone; `None` where there is another.
fn unescaped(text: &str) -> Option<String> {
    let mut letters = text.chars();
    let mut plain = String::new();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => letters.next().filter(|next| matches!(next, ',' | '|' | '$' | '\\'))?,
            other => other,
        });
    }
    Some(plain)
}

/// Any JSON has compartments that a reference in it, or its id, justifies, and a judged search never contradicts a tag.
#[doc(hidden)]
pub fn holds(bytes: &[u8]) -> bool {
    let Ok(resource) = serde_json::from_slice::<Value>(bytes) else { return true };
    let Ok(bases) = Bases::new(["https://fhir.example/r4"]) else { return false };
    let definitions = Definitions::of(FhirVersion::R4);
    let Some(of) = resource.get("resourceType").and_then(Value::as_str).and_then(|of| definitions.resource_type(of))
    else {
        return labels(&resource) == labels(&resource.clone());
    };
    let id = resource.get("id").and_then(Value::as_str).and_then(FhirId::parse);
    let written = reference_strings(&resource);
    let justified = |(compartment, member): (Compartment, FhirId)| {
        let text = format!("{}/{member}", compartment.as_str());
        let own = of.as_str() == compartment.as_str() && id.as_ref() == Some(&member);
        own || written.iter().any(|reference| match reference.split_once(text.as_str()) {
            Some(("" | "https://fhir.example/r4/", rest)) => rest.is_empty() || rest.starts_with("/_history/"),
            Some(_) | None => false,
        })
    };
    let security = tag_values(&resource, of, "_security", definitions, &bases).unwrap_or_default();
    let label_of = labels(&resource).security;
    compartments(&resource, of, id.as_ref(), definitions, &bases).into_iter().all(justified)
        && security.iter().all(|form| label_of.contains(form))
        && definitions.parameters(of).all(|parameter| tags_are_found(&resource, of, parameter, definitions, &bases))
}

/// What a tag holds, a search for it finds, or leaves unjudged.
fn tags_are_found(
    resource: &Value,
    of: ResourceType,
    parameter: &SearchParameter,
    definitions: &Definitions,
    bases: &Bases,
) -> bool {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(',', "\\,").replace('$', "\\$");
    let found =
        |text: &String| matches(resource, of, parameter.code, &escaped(text), definitions, bases) != Some(false);
    tag_values(resource, of, parameter.code, definitions, bases).is_none_or(|tags| tags.iter().all(found))
}

fn reference_strings(value: &Value) -> Vec<&str> {
    let (mut open, mut found) = (vec![value], Vec::new());
    while let Some(next) = open.pop() {
        match next {
            Value::Array(items) => open.extend(items),
            Value::Object(members) => {
                found.extend(members.get("reference").and_then(Value::as_str));
                open.extend(members.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn bases() -> Bases {
        Bases::new(["https://fhir.example/r4/", "https://other.example/fhir"]).unwrap()
    }

    fn of(name: &str) -> ResourceType {
        Definitions::of(FhirVersion::R4).resource_type(name).unwrap()
    }

    fn to(text: &str) -> Value {
        json!({ "reference": text })
    }

    fn compartments_of(resource: &Value, id: Option<&str>) -> String {
        let definitions = Definitions::of(FhirVersion::R4);
        let of = of(resource["resourceType"].as_str().unwrap());
        let id = id.map(|id| FhirId::parse(id).unwrap());
        let found = compartments(resource, of, id.as_ref(), definitions, &bases());
        found.iter().map(|(of, id)| format!("{}/{id}", of.as_str())).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_compartment_needs_a_literal_reference_where_hl7_says() {
        let check = |name: &str, id: Option<&str>, resource: Value, expected: &str| {
            assert_eq!(compartments_of(&resource, id), expected, "{name}");
        };
        let observation = |members: Value| {
            let mut resource = json!({ "resourceType": "Observation", "id": "o", "status": "final" });
            resource.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
            resource
        };
        let subject = |text: &str| observation(json!({ "subject": to(text) }));
        check(
            "by subject and performer",
            None,
            {
                observation(json!({ "subject": to("Patient/1"), "performer": [to("Practitioner/p"), to("Patient/2")] }))
            },
            "Patient/1 Patient/2 Practitioner/p",
        );
        check(
            "encounter and device",
            None,
            observation(json!({ "encounter": to("Encounter/e"), "device": to("Device/d") })),
            "Encounter/e Device/d",
        );
        check("focus is no membership", None, observation(json!({ "focus": [to("Patient/1")] })), "");
        check(
            "specimen, note and extensions are none",
            None,
            {
                observation(
                    json!({ "extension": [{ "valueReference": to("Patient/1") }], "hasMember": [to("Patient/1")],
                "note": [{ "authorReference": to("Patient/1") }], "specimen": to("Patient/1") }),
                )
            },
            "",
        );
        check("a version is of the same patient", None, subject("Patient/1/_history/2"), "Patient/1");
        check("below a base", None, subject("https://fhir.example/r4/Patient/1"), "Patient/1");
        check("a version below a base", None, subject("https://other.example/fhir/Patient/1/_history/2"), "Patient/1");
        for odd in [
            "https://fhir.example.evil/r4/Patient/1",
            "https://fhir.example/r4X/Patient/1",
            "https://fhir.example/r4/x/Patient/1",
            "https://fhir.example/r4//Patient/1",
            "https://fhir.example/Patient/1",
            "http://fhir.example/r4/Patient/1",
            "https://FHIR.example/r4/Patient/1",
            "https://user@fhir.example/r4/Patient/1",
            "//fhir.example/r4/Patient/1",
            "/Patient/1",
            "Patient/1/",
            "Patient/1/_history",
            "Patient/1/_history/",
            "Patient/1/_history/2/3",
            "Patient/1/_History/2",
            "Patient/1?x=y",
            "Patient/1#x",
            "Patient/1|2",
            " Patient/1",
            "Patient/1 ",
            "Patient/%31",
            "Patient/",
            "Patient",
            "Patient?identifier=x",
            "patient/1",
            "PATIENT/1",
            "../Patient/1",
            "#p",
            "urn:uuid:7a0b3c6e-0000-4000-8000-000000000000",
            "Group/1",
            "Resource/1",
            "",
        ] {
            check(odd, None, subject(odd), "");
        }
        let long = format!("Patient/{}", "x".repeat(65));
        check("an id of 65", None, subject(&long), "");
        for (name, shape) in [
            ("an identifier alone", json!({ "type": "Patient", "identifier": { "value": "1" } })),
            ("a contained patient", json!({ "reference": "#p" })),
            ("a bare string", json!("Patient/1")),
            ("an array within an array", json!([[to("Patient/1")]])),
            ("a reference of references", json!({ "reference": ["Patient/1"] })),
            ("a patient in place of a reference", json!({ "resourceType": "Patient", "id": "1" })),
            ("null", json!(null)),
            ("a number", json!(1)),
        ] {
            check(
                name,
                None,
                observation(json!({ "subject": shape, "contained": [{ "resourceType": "Patient" }] })),
                "",
            );
        }
        check("an array where one belongs", None, observation(json!({ "subject": [to("Patient/1")] })), "Patient/1");
        check(
            "an element that is none of the type's",
            None,
            observation(json!({ "subjectReference": to("Patient/1") })),
            "",
        );
        let patient = |link: Value| json!({ "resourceType": "Patient", "id": "1", "link": link });
        check("a patient is in its own", Some("1"), patient(json!([])), "Patient/1");
        check("of a create nobody knows the id", None, patient(json!([])), "");
        check("a linked patient, as HL7 says", Some("1"), patient(json!([{ "other": to("Patient/2") }])), {
            "Patient/1 Patient/2"
        });
        check(
            "a patient is in the compartment of its general practitioner, and no one else's",
            Some("1"),
            json!({ "resourceType": "Patient", "generalPractitioner": [to("Practitioner/p")] }),
            "Patient/1 Practitioner/p",
        );
        for own in ["Practitioner", "RelatedPerson", "Encounter", "Device"] {
            check("its own", Some("x"), json!({ "resourceType": own }), &format!("{own}/x"));
        }
        check("an id is no compartment for other types", Some("x"), json!({ "resourceType": "Location" }), "");
        let encounter = json!({ "resourceType": "Encounter", "subject": to("Patient/1"), "participant":
            [{ "individual": to("Patient/2") }, { "individual": to("Practitioner/p") }, { "individual": to("RelatedPerson/r") }] });
        check("an encounter's participants", None, encounter, "Patient/1 Practitioner/p RelatedPerson/r");
        check("an encounter of a group", None, json!({ "resourceType": "Encounter", "subject": to("Group/g") }), "");
        let task = json!({ "resourceType": "Task", "for": to("Patient/1"), "owner": to("Patient/1") });
        check("R4 has no Task", None, task, "");
        let appointment = json!({ "resourceType": "Appointment", "participant": [{ "actor": to("Patient/1") }] });
        check("an appointment", None, appointment, "Patient/1");
        let group =
            json!({ "resourceType": "Group", "member": [{ "entity": to("Patient/1") }, { "entity": to("Device/d") }] });
        check("a group", None, group, "Patient/1 Device/d");
        let payee =
            json!({ "resourceType": "Claim", "payee": { "party": to("Patient/2") }, "insurer": to("Patient/3") });
        check("a claim's payee", None, payee, "Patient/2");
        let device =
            json!({ "resourceType": "DeviceRequest", "codeReference": to("Device/d"), "subject": to("Patient/1") });
        check("a choice of types", None, device, "Patient/1 Device/d");
        let provenance = json!({ "resourceType": "Provenance", "target": [to("Patient/1"), to("Observation/o")] });
        check("a provenance", None, provenance, "Patient/1");
        check(
            "an organization is shared",
            None,
            json!({ "resourceType": "Organization", "partOf": to("Patient/1") }),
            "",
        );
    }

    #[test]
    fn as_many_types_are_in_each_compartment_as_hl7_says() {
        let types = |version: FhirVersion, compartment| {
            let definitions = Definitions::of(version);
            definitions
                .resource_types()
                .filter(|of| !definitions.compartment_parameters(compartment, *of).is_empty())
                .count()
        };
        let count = |version| Compartment::ALL.map(|compartment| types(version, compartment));
        assert_eq!(count(FhirVersion::R4), [66, 58, 31, 24, 32]);
        assert_eq!(count(FhirVersion::R4B), [66, 58, 31, 24, 32]);
        assert_eq!(count(FhirVersion::R5), [73, 56, 29, 25, 30]);
        let patient = |name| Definitions::of(FhirVersion::R4).compartment_parameters(Compartment::Patient, of(name));
        assert_eq!(patient("Observation"), ["subject", "performer"]);
        assert_eq!(patient("Encounter"), ["patient"]);
        assert_eq!(patient("Patient"), ["link"]);
        assert!(patient("Task").is_empty() && patient("Location").is_empty() && patient("Practitioner").is_empty());
    }

    #[test]
    fn every_parameter_of_a_compartment_is_covered() {
        let mut lost = Vec::new();
        for version in FhirVersion::ALL {
            let definitions = Definitions::of(version);
            for (of, compartment) in
                definitions.resource_types().flat_map(|of| Compartment::ALL.map(|compartment| (of, compartment)))
            {
                for code in definitions.compartment_parameters(compartment, of) {
                    let kind = definitions.parameter(of, code).map(|parameter| parameter.kind);
                    if kind != Some(ParameterKind::Reference) || !is_covered(definitions, of, code) {
                        lost.push(format!("{} {of} {code} {kind:?}", version.as_str()));
                    }
                }
            }
        }
        assert_eq!(lost, Vec::<String>::new());
    }

    #[test]
    fn tags_are_the_values_of_search_parameters() {
        let check = |name: &str, resource: Value, parameter: &str, expected: &[&str]| {
            let of = of(resource["resourceType"].as_str().unwrap());
            let tags = tag_values(&resource, of, parameter, Definitions::of(FhirVersion::R4), &bases());
            assert_eq!(tags.unwrap_or_else(|| vec!["not covered".to_owned()]), expected, "{name}");
        };
        let observation = || {
            json!({ "resourceType": "Observation", "id": "o", "status": "final",
                "identifier": [{ "system": "urn:i", "value": "7" }, { "value": "8" }],
                "category": [{ "coding": [{ "system": "urn:c", "code": "laboratory" }, { "code": "lab" }], "text": "t" }],
                "code": { "coding": [{ "system": "urn:c" }, { "display": "x" }] },
                "subject": to("https://fhir.example/r4/Patient/1"),
                "performer": [to("#x"), to("urn:uuid:1"), to("https://far.example/Patient/1"), to("Patient/2/_history/1")],
                "valueCodeableConcept": { "coding": [{ "system": "urn:v", "code": "v" }] },
                "component": [{ "valueCodeableConcept": { "coding": { "code": "w" } } }],
                "meta": { "profile": ["http://p", "http://q|1"], "source": "urn:s", "tag": [{ "system": "s", "code": "x|y" }] } })
        };
        check("a code", observation(), "status", &["final", "|final"]);
        check("an id", observation(), "_id", &["o", "|o"]);
        check("a concept's codings", observation(), "category", &["lab", "laboratory", "urn:c|laboratory", "|lab"]);
        check("neither a system nor a text is a code", observation(), "code", &[]);
        check("identifiers", observation(), "identifier", &["7", "8", "urn:i|7", "|8"]);
        check("a choice", observation(), "value-concept", &["urn:v|v", "v"]);
        check("a union", observation(), "combo-value-concept", &["urn:v|v", "v", "w", "|w"]);
        check("a reference below a base", observation(), "subject", &["Patient/1"]);
        check("a reference by type", observation(), "patient", &["Patient/1"]);
        let performers = &["#x", "Patient/2", "https://far.example/Patient/1", "urn:uuid:1"];
        check("other references as they are", observation(), "performer", performers);
        check("uris", observation(), "_profile", &["http://p", "http://q|1"]);
        check("one uri", observation(), "_source", &["urn:s"]);
        check("a bar in a code does not make a system", observation(), "_tag", &["s|x|y"]);
        check("absent is empty", observation(), "specimen", &[]);
        check("another kind is not covered", observation(), "date", &["not covered"]);
        check("an unknown one is not covered", observation(), "colour", &["not covered"]);
        check("a modifier is not covered", observation(), "status:not", &["not covered"]);
        check("without expression: not covered", observation(), "_query", &["not covered"]);
        let patient = || {
            json!({ "resourceType": "Patient", "active": true, "deceasedDateTime": "2020", "gender": "female",
                "telecom": [{ "system": "email", "value": "e@x" }, { "system": "phone", "value": "5" }] })
        };
        check("a boolean", patient(), "active", &["true", "|true"]);
        check("a condition", patient(), "deceased", &["true", "|true"]);
        check("a condition that is not", json!({ "resourceType": "Patient" }), "deceased", &["false", "|false"]);
        check("a contact point has no system", patient(), "telecom", &["5", "e@x", "|5", "|e@x"]);
        check("a contact point by system", patient(), "email", &["e@x", "|e@x"]);
        let library = json!({ "resourceType": "Library", "relatedArtifact": [{ "type": "depends-on", "resource": "http://l|2" }] });
        check("a canonical", library, "depends-on", &["http://l|2"]);
        let bundle = json!({ "resourceType": "Bundle", "entry": [{ "resource": { "resourceType": "Composition", "id": "c" } }] });
        check("a resource inside", bundle, "composition", &["Composition/c"]);
        let foreign = json!({ "resourceType": "Observation", "subject": to("https://far.example/Group/1") });
        check("a foreign reference of another type", foreign.clone(), "patient", &[]);
        let group = json!({ "resourceType": "Observation", "subject": to("Group/1") });
        check("a reference of another type", group, "patient", &[]);
        check("a foreign reference", foreign, "subject", &["https://far.example/Group/1"]);
    }

    #[test]
    fn searches_match_as_fhir_says() {
        let resource = json!({ "resourceType": "Observation", "id": "o", "status": "final",
            "category": [{ "coding": [{ "system": "urn:c", "code": "laboratory" }, { "code": "a,b|c$d\\" }] }],
            "code": { "coding": [{ "system": "urn:l", "code": "8-1" }] }, "identifier": [{ "system": "urn:i" }],
            "subject": to("Patient/1"), "device": to("https://far.example/x/Device/d"), "focus": [to("urn:uuid:1")],
            "performer": [to("Practitioner/9"), to("Medication/8")], "encounter": to("https://fhir.example/r4/Encounter/e/_history/1"),
            "meta": { "profile": ["http://p", "http://q|1"] } });
        let library = json!({ "resourceType": "Library", "relatedArtifact": [{ "type": "depends-on", "resource": "http://l|2" }] });
        let (yes, no, unjudged) = (Some(true), Some(false), None);
        for (search, expected) in [
            ("status=final", yes),
            ("status=amended", no),
            ("status=amended,final", yes),
            ("status=|final", yes),
            ("status=FINAL", unjudged),
            ("status=urn:status|final", unjudged),
            ("status=urn:status|amended", no),
            ("status=urn:status|", unjudged),
            ("status=", unjudged),
            ("status=|", unjudged),
            ("status=,amended", unjudged),
            ("status=,final", yes),
            ("status=final\\x", unjudged),
            ("category=laboratory", yes),
            ("category=urn:c|laboratory", yes),
            ("category=urn:C|laboratory", no),
            ("category=urn:c|", yes),
            ("category=|laboratory", no),
            ("category=urn:x|laboratory", no),
            ("category=a\\,b\\|c\\$d\\\\", yes),
            ("category=|a\\,b\\|c\\$d\\\\", yes),
            ("category=urn:c|laboratory|x", unjudged),
            ("category=x\\\\,laboratory", yes),
            ("category=x\\,laboratory", no),
            ("code=8-1", yes),
            ("code=8-10", no),
            ("identifier=urn:i|", yes),
            ("identifier=urn:i|7", no),
            ("subject=Patient/1", yes),
            ("subject=1", yes),
            ("subject=2,1", yes),
            ("subject=https://other.example/fhir/Patient/1", yes),
            ("subject=https://far.example/Patient/1", unjudged),
            ("subject=https://far.example/Patient/2", no),
            ("subject=Patient/12", no),
            ("subject=Group/1", no),
            ("subject=Patient/1/_history/1", unjudged),
            ("subject=#x", unjudged),
            ("subject=Nothing/1", unjudged),
            ("subject=", unjudged),
            ("patient=1", yes),
            ("patient=Patient/1", yes),
            ("encounter=e", yes),
            ("encounter=Encounter/e", yes),
            ("device=Device/d", unjudged),
            ("device=d", unjudged),
            ("device=Device/e", no),
            ("device=https://far.example/x/Device/d", yes),
            ("focus=urn:uuid:1", yes),
            ("focus=urn:uuid:2", no),
            ("performer=9", yes),
            ("performer=8", no),
            ("_id=o", yes),
            ("_id=x,y", no),
            ("_profile=http://p", yes),
            ("_profile=http://q", no),
            ("_profile=http://q|1", yes),
            ("date=2020", unjudged),
            ("status:not=final", unjudged),
            ("subject.name=x", unjudged),
            ("_query=x", unjudged),
            ("nothing=x", unjudged),
        ] {
            let (parameter, value) = search.split_once('=').unwrap();
            let definitions = Definitions::of(FhirVersion::R4);
            let actual = matches(&resource, of("Observation"), parameter, value, definitions, &bases());
            assert_eq!(actual, expected, "{search}");
        }
        for (value, expected) in [("http://l|2", yes), ("http://l", yes), ("http://l|3", no), ("http://m", no)] {
            let definitions = Definitions::of(FhirVersion::R4);
            let actual = matches(&library, of("Library"), "depends-on", value, definitions, &bases());
            assert_eq!(actual, expected, "{value}");
        }
    }

    #[test]
    fn labels_are_found_generously() {
        let check = |name: &str, meta: Value, expected: &[&str]| {
            assert_eq!(labels(&json!({ "meta": meta })).security, expected, "{name}");
        };
        check("a coding", json!({ "security": [{ "system": "urn:s", "code": "R" }] }), &["R", "urn:s|R"]);
        check("without system", json!({ "security": [{ "code": "R" }] }), &["R", "|R"]);
        check("one where an array belongs", json!({ "security": { "code": "R" } }), &["R", "|R"]);
        check("arrays within arrays", json!([{ "security": [[{ "code": "R" }]] }]), &["R", "|R"]);
        check("a bare string", json!({ "security": "R" }), &["R", "|R"]);
        check("a concept", json!({ "security": [{ "coding": [{ "code": "R" }] }] }), &["R", "|R"]);
        check(
            "exactly as it is",
            json!({ "security": [{ "code": " R" }, { "code": "r" }] }),
            &[" R", "r", "| R", "|r"],
        );
        check("none", json!({ "security": [null, {}, { "display": "R" }] }), &[]);
        check("no meta", json!(null), &[]);
        let all = labels(
            &json!({ "meta": { "tag": [{ "system": "t", "code": "x" }], "profile": "http://p", "source": "s" } }),
        );
        let expected = Labels {
            security: vec![],
            tag: vec!["t|x".into(), "x".into()],
            profile: vec!["http://p".into()],
            source: Some("s".into()),
        };
        assert_eq!(all, expected);
        assert_eq!(labels(&json!("x")), Labels::default());
    }

    #[test]
    fn newer_versions_have_their_own_shapes() {
        let check = |version, resource: Value, parameter: &str, expected: &[&str]| {
            let definitions = Definitions::of(version);
            let of = definitions.resource_type(resource["resourceType"].as_str().unwrap()).unwrap();
            let tags = tag_values(&resource, of, parameter, definitions, &bases());
            assert_eq!(tags.unwrap_or_else(|| vec!["not covered".to_owned()]), expected, "{parameter}");
        };
        let concept = json!({ "concept": { "coding": [{ "code": "c" }] }, "reference": to("Condition/1") });
        let definition = json!({ "resourceType": "ClinicalUseDefinition", "contraindication": { "diseaseSymptomProcedure": concept } });
        check(FhirVersion::R4B, definition.clone(), "contraindication", &["c", "|c"]);
        check(FhirVersion::R4B, definition, "contraindication-reference", &["Condition/1"]);
        check(FhirVersion::R4B, json!({ "resourceType": "Ingredient" }), "manufacturer", &["not covered"]);
        check(FhirVersion::R5, json!({ "resourceType": "Patient", "id": "1" }), "_in", &["not covered"]);
        check(
            FhirVersion::R5,
            json!({ "resourceType": "Patient", "meta": { "profile": ["http://p"] } }),
            "_profile",
            &["http://p"],
        );
    }

    #[test]
    fn a_base_is_a_plain_url() {
        for base in ["https://fhir.example", "http://[::1]:8080/fhir/", "https://fhir.example/a/b"] {
            assert_eq!(Bases::new([base]).unwrap().as_strings(), [base.trim_end_matches('/')]);
        }
        for base in [
            "",
            "/",
            "https://",
            "https:///x",
            "fhir.example",
            "ftp://x/y",
            "https://x/?y",
            "https://x/#y",
            "https://u@x/y",
            "https://x//y",
            "https://x/../y",
            "https://x/%2e",
        ] {
            assert_eq!(Bases::new([base]), Err(BaseError(base.to_owned())), "{base}");
        }
    }

    #[test]
    fn of_bases_within_each_other_the_longest_counts() {
        for both in [["https://x", "https://x/r4"], ["https://x/r4", "https://x"]] {
            let bases = Bases::new(both).unwrap();
            assert_eq!(bases.relative("https://x/r4/Patient/1"), Some("Patient/1"));
            assert_eq!(bases.relative("https://x/Patient/1"), Some("Patient/1"));
            assert_eq!(bases.relative("https://x"), None);
            assert_eq!(bases.relative("https://xx/Patient/1"), None);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let text = prop::sample::select(vec![
            "Patient/1",
            "Patient/2/_history/3",
            "https://fhir.example/r4/Patient/3",
            "https://far.example/Patient/4",
            "Device/5",
            "#p",
            "urn:uuid:6",
            "x",
            "a|b",
            "a,b",
            "\\",
            "email",
            "",
            "Patient/1 ",
            "http://p|2",
            "Observation",
        ]);
        let leaf = prop_oneof![
            8 => text.prop_map(Value::from),
            1 => prop::bool::ANY.prop_map(Value::from),
            1 => prop::num::i32::ANY.prop_map(Value::from),
            1 => Just(Value::Null)
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            let name = prop::sample::select(vec![
                "subject",
                "performer",
                "focus",
                "reference",
                "identifier",
                "category",
                "coding",
                "code",
                "system",
                "value",
                "meta",
                "security",
                "tag",
                "profile",
                "link",
                "other",
                "participant",
                "individual",
                "actor",
                "patient",
                "valueCodeableConcept",
                "entry",
                "resource",
                "resourceType",
                "id",
                "telecom",
                "deceasedBoolean",
            ]);
            prop_oneof![
                1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                3 => prop::collection::btree_map(name, inner, 0..6)
                    .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_judged_and_every_compartment_justified(
            mut resource in any_json(),
            of in prop::sample::select(vec!["Observation", "Patient", "Encounter", "Appointment", "Bundle", "Group", "List"]),
        ) {
            if let Value::Object(members) = &mut resource {
                members.insert("resourceType".to_owned(), Value::from(of));
            }
            prop_assert!(holds(resource.to_string().as_bytes()));
        }
    }
}
