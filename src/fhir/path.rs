//! HL7's search-parameter expressions → what they select in a resource's JSON: the small part of FHIRPath that the
//! parameters of kind token, reference and uri are written in.
//! Hides the grammar and how FHIR's JSON writes choice elements (`value[x]` is `valueCodeableConcept`).
//! INVARIANT: an expression is compiled as a whole or not at all; what is not known here is an error, never left out.
//! INVARIANT: neither compiling nor selecting recurses on its input, but for `NESTING_MAX` brackets.
//! Source: FHIRPath 2.0; FHIR "Search Parameter Registry" and json.html "Representing a choice of types".

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::fhir::definitions::{Definitions, FhirVersion, ParameterKind, ResourceType, SearchParameter};

/// Brackets within brackets; HL7's expressions have one.
const NESTING_MAX: usize = 4;

/// What HL7 calls references, though the elements hold none (R5's `_in`, R4B's `Ingredient.manufacturer`).
const NO_REFERENCES: [&str; 2] = ["Resource.id", "Ingredient.manufacturer"];

/// A compiled expression: the union of its alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<Alternative>);

/// What an expression selects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hit<'v> {
    /// An element as it stands in the JSON; never null, and an array only where a FHIR array holds another.
    Value(&'v Value),
    /// `.where(resolve() is Type)`: the element counts only if it refers to that type.
    ReferenceTo(&'v Value, ResourceType),
    /// What a condition gives.
    Truth(bool),
}

/// Why an expression is not compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("there is no expression")]
    Empty,
    #[error("the expression is not about this type, at byte {at}")]
    OtherType { at: usize },
    #[error("not in the subset of FHIRPath that is compiled, at byte {at}")]
    Unsupported { at: usize },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Alternative {
    Elements(Vec<Step>),
    References(Vec<Step>, ResourceType),
    /// `X.exists() and X != false`
    ExistsAndIsNotFalse(Vec<Step>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    /// The JSON names of a choice element, one for each data type that counts.
    Choice(Vec<String>),
    Item(usize),
    /// `where(member='text')`
    Where(String, String),
    /// A resource inside a resource, of this type.
    Resource(ResourceType),
}

impl Path {
    /// The compiled expression of a parameter of kind token, reference or uri; `None` where there is no such parameter
    /// or its expression is not in the subset: such a parameter is not covered.
    pub fn of(definitions: &Definitions, of: ResourceType, code: &str) -> Option<&'static Path> {
        static R4: LazyLock<Paths> = LazyLock::new(|| paths(FhirVersion::R4));
        static R4B: LazyLock<Paths> = LazyLock::new(|| paths(FhirVersion::R4B));
        static R5: LazyLock<Paths> = LazyLock::new(|| paths(FhirVersion::R5));
        let paths = match definitions.version() {
            FhirVersion::R4 => &*R4,
            FhirVersion::R4B => &*R4B,
            FhirVersion::R5 => &*R5,
        };
        paths.get(of.as_str())?.get(code)
    }

    /// Compiles HL7's `expression` for the type `of`, all of whose alternatives must begin with that type or with
    /// Resource or DomainResource.
    pub fn compile(expression: &str, of: ResourceType, definitions: &Definitions) -> Result<Path, PathError> {
        if expression.trim().is_empty() {
            return Err(PathError::Empty);
        }
        let mut parser = Parser { text: expression, at: 0, of, definitions };
        let mut alternatives = vec![parser.alternative()?];
        while parser.eat("|") {
            alternatives.push(parser.alternative()?);
        }
        parser.end()?;
        Ok(Path(alternatives))
    }

    /// What the expression selects in `resource`, alternative by alternative; nothing where the JSON has other shapes.
    pub fn select<'v>(&self, resource: &'v Value) -> Vec<Hit<'v>> {
        self.0.iter().flat_map(|alternative| alternative.select(resource)).collect()
    }
}

type Paths = HashMap<&'static str, HashMap<&'static str, Path>>;

fn paths(version: FhirVersion) -> Paths {
    let definitions = Definitions::of(version);
    let compile = |of, parameter: &SearchParameter| {
        let fits = match parameter.kind {
            ParameterKind::Token | ParameterKind::Uri => true,
            ParameterKind::Reference => !NO_REFERENCES.contains(&parameter.expression),
            ParameterKind::String
            | ParameterKind::Date
            | ParameterKind::Number
            | ParameterKind::Quantity
            | ParameterKind::Composite
            | ParameterKind::Special => false,
        };
        let path = fits.then(|| Path::compile(parameter.expression, of, definitions).ok()).flatten()?;
        Some((parameter.code, path))
    };
    let of_type =
        |of| definitions.parameters(of).filter_map(|parameter| compile(of, parameter)).collect::<HashMap<_, _>>();
    definitions.resource_types().map(|of| (of.as_str(), of_type(of))).collect()
}

impl Alternative {
    fn select<'v>(&self, resource: &'v Value) -> Vec<Hit<'v>> {
        match self {
            Alternative::Elements(steps) => walk(steps, resource).into_iter().map(Hit::Value).collect(),
            Alternative::References(steps, of) => {
                walk(steps, resource).into_iter().map(|value| Hit::ReferenceTo(value, *of)).collect()
            }
            Alternative::ExistsAndIsNotFalse(steps) => {
                let found = walk(steps, resource);
                vec![Hit::Truth(found.first().is_some_and(|value| **value != Value::Bool(false)))]
            }
        }
    }
}

fn walk<'v>(steps: &[Step], resource: &'v Value) -> Vec<&'v Value> {
    steps.iter().fold(vec![resource], |values, step| step.take(values))
}

impl Step {
    fn take<'v>(&self, values: Vec<&'v Value>) -> Vec<&'v Value> {
        match self {
            Step::Member(name) => values.into_iter().flat_map(|value| member(value, name)).collect(),
            Step::Choice(names) => {
                values.into_iter().flat_map(|value| names.iter().flat_map(|name| member(value, name))).collect()
            }
            Step::Item(index) => values.into_iter().skip(*index).take(1).collect(),
            Step::Where(name, text) => {
                values.into_iter().filter(|value| value.get(name).and_then(Value::as_str) == Some(text)).collect()
            }
            Step::Resource(of) => values
                .into_iter()
                .filter(|value| value.get("resourceType").and_then(Value::as_str) == Some(of.as_str()))
                .collect(),
        }
    }
}

/// The elements of that name: the items of an array, or the one value.
fn member<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    let found = value.as_object().and_then(|object| object.get(name));
    let items = match found {
        Some(Value::Array(items)) => items.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    items.iter().filter(|item| !item.is_null())
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    of: ResourceType,
    definitions: &'t Definitions,
}

/// An operand as far as it is read: its steps, its path for looking up choices, and whether a filter by `resolve()`
/// ended it.
struct Operand {
    steps: Vec<Step>,
    path: String,
    refers_to: Option<ResourceType>,
}

impl<'t> Parser<'t> {
    fn alternative(&mut self) -> Result<Alternative, PathError> {
        let operand = self.cast_operand(0)?;
        let at = self.at;
        if !self.eat(".exists()") {
            return Ok(match operand.refers_to {
                Some(of) => Alternative::References(self.plain(operand.steps, operand.path), of),
                None => Alternative::Elements(self.plain(operand.steps, operand.path)),
            });
        }
        let again = if self.eat_word("and") { self.operand(0)? } else { return Err(PathError::Unsupported { at }) };
        let same = again.steps == operand.steps && again.refers_to.is_none() && operand.refers_to.is_none();
        if !same || !self.eat("!=") || !self.eat_word("false") {
            return Err(PathError::Unsupported { at });
        }
        Ok(Alternative::ExistsAndIsNotFalse(self.plain(operand.steps, operand.path)))
    }

    /// `operand`, or `operand as Type`.
    fn cast_operand(&mut self, depth: usize) -> Result<Operand, PathError> {
        let operand = self.operand(depth)?;
        if self.eat_word("as") { self.cast(operand) } else { Ok(operand) }
    }

    /// `Type` or `( … )`, and what follows: members, items, filters, casts.
    fn operand(&mut self, depth: usize) -> Result<Operand, PathError> {
        let at = self.at;
        let mut operand = if self.eat("(") {
            if depth >= NESTING_MAX {
                return Err(PathError::Unsupported { at });
            }
            let inner = self.cast_operand(depth + 1)?;
            self.must_be(")")?;
            inner
        } else {
            let name = self.name()?;
            if ![self.of.as_str(), "Resource", "DomainResource"].contains(&name) {
                return Err(PathError::OtherType { at });
            }
            Operand { steps: Vec::new(), path: name.to_owned(), refers_to: None }
        };
        loop {
            let at = self.at;
            if self.eat("[") {
                let digits = self.take_while(|c| c.is_ascii_digit());
                operand.steps.push(Step::Item(digits.parse().map_err(|_| PathError::Unsupported { at })?));
                self.must_be("]")?;
            } else if self.ahead(".exists()") || !self.eat(".") {
                return Ok(operand);
            } else if operand.refers_to.is_some() {
                return Err(PathError::Unsupported { at });
            } else {
                operand = self.invocation(operand)?;
            }
        }
    }

    /// What stands after a dot.
    fn invocation(&mut self, mut operand: Operand) -> Result<Operand, PathError> {
        let at = self.at;
        let name = self.name()?.to_owned();
        if !self.eat("(") {
            operand.steps = self.plain(operand.steps, operand.path.clone());
            operand.path = format!("{}.{name}", operand.path);
            operand.steps.push(Step::Member(name));
            return Ok(operand);
        }
        operand = match name.as_str() {
            "as" | "ofType" => self.cast(operand)?,
            "where" if self.eat("resolve()") => {
                if !self.eat_word("is") {
                    return Err(PathError::Unsupported { at });
                }
                let of = self.name()?;
                operand.refers_to = Some(self.definitions.resource_type(of).ok_or(PathError::Unsupported { at })?);
                operand
            }
            "where" => {
                let member = self.name()?.to_owned();
                self.must_be("=")?;
                self.must_be("'")?;
                let text = self.take_while(|c| c != '\'' && c != '\\').to_owned();
                self.must_be("'")?;
                operand.steps.push(Step::Where(member, text));
                operand
            }
            _ => return Err(PathError::Unsupported { at }),
        };
        self.must_be(")")?;
        Ok(operand)
    }

    /// `as Type` of a choice element → its JSON name; of a resource inside a resource → a filter.
    fn cast(&mut self, mut operand: Operand) -> Result<Operand, PathError> {
        let at = self.at;
        let name = self.name()?.to_owned();
        if operand.refers_to.is_some() {
            return Err(PathError::Unsupported { at });
        }
        match (self.definitions.resource_type(&name), operand.steps.pop()) {
            (Some(of), Some(last @ Step::Member(_))) => operand.steps.extend([last, Step::Resource(of)]),
            (None, Some(Step::Member(element))) => operand.steps.push(Step::Choice(vec![json_name(&element, &name)])),
            (_, Some(Step::Choice(_) | Step::Item(_) | Step::Where(..) | Step::Resource(_)) | None) => {
                return Err(PathError::Unsupported { at });
            }
        }
        Ok(operand)
    }

    /// Steps whose last one, where it is a choice element without a cast, reaches every type of it.
    fn plain(&self, mut steps: Vec<Step>, path: String) -> Vec<Step> {
        if let (Some(Step::Member(element)), Some(types)) = (steps.last(), self.definitions.choice(self.of, &path)) {
            let names = types.iter().map(|name| json_name(element, name)).collect();
            steps.pop();
            steps.push(Step::Choice(names));
        }
        steps
    }

    fn name(&mut self) -> Result<&'t str, PathError> {
        self.skip_space();
        let at = self.at;
        let starts = self.rest().starts_with(|c: char| c.is_ascii_alphabetic());
        let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        if starts { Ok(name) } else { Err(PathError::Unsupported { at }) }
    }

    /// A word of the language, and not the beginning of a longer one.
    fn eat_word(&mut self, word: &str) -> bool {
        self.skip_space();
        let follows = self.rest().strip_prefix(word);
        let whole = follows.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
        whole && self.eat(word)
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.ahead(token);
        if found {
            self.skip_space();
            self.at += token.len();
        }
        found
    }

    fn ahead(&self, token: &str) -> bool {
        self.rest().trim_start().starts_with(token)
    }

    fn must_be(&mut self, token: &str) -> Result<(), PathError> {
        if self.eat(token) { Ok(()) } else { Err(PathError::Unsupported { at: self.at }) }
    }

    fn end(&mut self) -> Result<(), PathError> {
        self.skip_space();
        if self.rest().is_empty() { Ok(()) } else { Err(PathError::Unsupported { at: self.at }) }
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }
}

/// `value` of type `boolean` → `valueBoolean`.
fn json_name(element: &str, data_type: &str) -> String {
    let mut letters = data_type.chars();
    letters.next().map_or_else(
        || element.to_owned(),
        |first| format!("{element}{}{}", first.to_ascii_uppercase(), letters.as_str()),
    )
}

/// Any text compiles or is refused; what compiles selects from a resource without failing.
#[doc(hidden)]
pub fn holds(text: &str) -> bool {
    let definitions = Definitions::of(FhirVersion::R4);
    let Some(of) = definitions.resource_type("Observation") else { return false };
    let resource = serde_json::json!({ "value": [[{ "value": [null, 1] }], 2], "valueString": { "reference": "x" } });
    match Path::compile(text, of, definitions) {
        Ok(path) => path.select(&resource).iter().all(|hit| *hit != Hit::Value(&Value::Null)),
        Err(PathError::Empty) => text.trim().is_empty(),
        Err(PathError::OtherType { at } | PathError::Unsupported { at }) => at <= text.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(name: &str, of: &str, expression: &str, resource: Value, expected: Value) {
        let definitions = Definitions::of(FhirVersion::R4);
        let of = definitions.resource_type(of).unwrap();
        let path = Path::compile(expression, of, definitions).unwrap_or_else(|error| panic!("{name}: {error}"));
        let hits: Vec<Value> = path
            .select(&resource)
            .into_iter()
            .map(|hit| match hit {
                Hit::Value(value) => value.clone(),
                Hit::ReferenceTo(value, of) => json!({ of.as_str(): value }),
                Hit::Truth(truth) => json!({ "is": truth }),
            })
            .collect();
        assert_eq!(Value::Array(hits), expected, "{name}");
    }

    #[test]
    fn expressions_select_what_fhirpath_says() {
        let of = "Observation";
        let body = || {
            json!({ "id": "1", "status": "final", "component": [
                { "code": { "text": "a" }, "valueString": "s", "valueCodeableConcept": { "text": "v" } },
                null,
                { "code": [{ "text": "b" }, { "text": "c" }], "valueInteger": 2 } ] })
        };
        check("a plain element", of, "Observation.status", body(), json!(["final"]));
        check("an inherited element", of, "Resource.id", body(), json!(["1"]));
        let codes = json!([{ "text": "a" }, { "text": "b" }, { "text": "c" }]);
        check("arrays flatten, null is nothing", of, "Observation.component.code", body(), codes);
        for expression in [
            "(Observation.component.value as CodeableConcept)",
            "Observation.component.value as CodeableConcept",
            "Observation.component.value.as(CodeableConcept)",
            "Observation.component.value.ofType(CodeableConcept)",
            "(Observation.component.value.ofType(CodeableConcept))",
        ] {
            check("a cast", of, expression, body(), json!([{ "text": "v" }]));
        }
        check("a cast to a primitive", of, "(Observation.component.value as integer)", body(), json!([2]));
        check("a union", of, "Observation.id | Observation.status", body(), json!(["1", "final"]));
        check("an item", of, "Observation.component[1].value as integer", body(), json!([2]));
        check("an item beyond", of, "Observation.component[7].code", body(), json!([]));
        check("a plain cast name is no element", of, "Observation.value", json!({ "valueString": "s" }), json!([]));
        let event = json!({ "eventUri": "u", "eventCoding": { "code": "c" }, "eventDate": "2020", "event": "x" });
        check("a choice without a cast reaches all its types", "MessageHeader", "MessageHeader.event", event, {
            json!([{ "code": "c" }, "u"])
        });
        let telecom = json!({ "telecom": [{ "system": "email", "value": "e" }, { "system": "phone" }, "email"] });
        let email = json!([{ "system": "email", "value": "e" }]);
        check("where", "Patient", "Patient.telecom.where(system='email')", telecom, email);
        let related = json!({ "relatedArtifact": [{ "type": "depends-on", "resource": "L" }, { "resource": "M" }] });
        let depends = "Library.relatedArtifact.where(type='depends-on').resource";
        check("a member after where", "Library", depends, related, json!(["L"]));
        let subject = json!({ "subject": { "reference": "Patient/1" } });
        let patient = "Observation.subject.where(resolve() is Patient)";
        check("where it refers to", of, patient, subject, json!([{ "Patient": { "reference": "Patient/1" } }]));
        let deceased = "Patient.deceased.exists() and Patient.deceased != false";
        for (body, truth) in [
            (json!({}), false),
            (json!({ "deceasedBoolean": false }), false),
            (json!({ "deceasedBoolean": true }), true),
            (json!({ "deceasedDateTime": "2020" }), true),
        ] {
            check("exists and is not false", "Patient", deceased, body, json!([{ "is": truth }]));
        }
        let bundle = json!({ "entry": [{ "resource": { "resourceType": "Composition" } }, { "resource": {} }] });
        let composition = "Bundle.entry[0].resource as Composition";
        check("a resource's type", "Bundle", composition, bundle.clone(), json!([{ "resourceType": "Composition" }]));
        check("another type", "Bundle", "Bundle.entry[0].resource as MessageHeader", bundle, json!([]));
        for odd in [json!(null), json!([1]), json!("component"), json!({ "component": "code" })] {
            check("other shapes", of, "Observation.component.code", odd, json!([]));
        }
    }

    #[test]
    fn what_is_not_known_is_refused_whole() {
        let definitions = Definitions::of(FhirVersion::R4);
        let of = definitions.resource_type("Observation").unwrap();
        for (expression, error) in [
            ("", PathError::Empty),
            ("Patient.name", PathError::OtherType { at: 0 }),
            ("Observation.code | Patient.name", PathError::OtherType { at: 18 }),
            ("Observation.code.first()", PathError::Unsupported { at: 17 }),
            ("Observation.code and true", PathError::Unsupported { at: 17 }),
            ("Observation.where(resolve() is Nobody)", PathError::Unsupported { at: 12 }),
            ("Observation.subject.where(resolve() is Patient).name", PathError::Unsupported { at: 47 }),
            ("Observation.code.exists() and Observation.status != false", PathError::Unsupported { at: 16 }),
            ("Observation.", PathError::Unsupported { at: 12 }),
            ("(((((Observation.code)))))", PathError::Unsupported { at: 4 }),
        ] {
            assert_eq!(Path::compile(expression, of, definitions), Err(error), "{expression}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_compiled_or_refused(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "Observation", ".", "value", "(", ")", " as ", "String", "where", "resolve()", " is ", "Patient", "[",
                    "]", "0", "'", "=", "|", ".exists()", " and ", "!=", "false", "ofType", "é", " ",
                ]),
                0..14,
            ),
            noise in ".{0,8}",
        ) {
            prop_assert!(holds(&words.concat()));
            prop_assert!(holds(&["Observation.", &words.concat(), &noise].concat()));
        }
    }

    /// What docs/search-parameters.md says; `tests/definitions/run --write` puts it there.
    #[test]
    fn the_table_of_what_is_covered_is_true() {
        let documented = include_str!("../../docs/search-parameters.md");
        let actual = documentation();
        assert!(documented == actual, "docs/search-parameters.md should be\n{actual}");
    }

    #[test]
    fn nothing_is_lost() {
        // Kinds token, reference and uri; a common parameter counts once.
        for (version, covered, not_covered) in
            [(FhirVersion::R4, 1245, 1), (FhirVersion::R4B, 1282, 4), (FhirVersion::R5, 1474, 7)]
        {
            let coverage = Coverage::of(version);
            let counted = coverage.covered.values().map(Vec::len).sum::<usize>();
            assert_eq!((counted, coverage.not_covered.len()), (covered, not_covered), "{version:?}");
        }
    }

    const COMMON: &str = "every type";

    #[derive(Default)]
    struct Coverage {
        /// By type, and under `COMMON` what every type inherits.
        covered: BTreeMap<&'static str, Vec<&'static str>>,
        not_covered: Vec<String>,
        shapes: BTreeMap<&'static str, usize>,
    }

    impl Coverage {
        fn of(version: FhirVersion) -> Coverage {
            let definitions = Definitions::of(version);
            let mut coverage = Coverage::default();
            for (at, of) in definitions.resource_types().enumerate() {
                for parameter in definitions.parameters(of) {
                    let common = parameter.code.starts_with('_');
                    let judged = [ParameterKind::Token, ParameterKind::Reference, ParameterKind::Uri];
                    if !judged.contains(&parameter.kind) || (common && at > 0) {
                        continue;
                    }
                    let name = if common { COMMON } else { of.as_str() };
                    let Some(path) = Path::of(definitions, of, parameter.code) else {
                        let why = if parameter.expression.is_empty() { "no expression" } else { parameter.expression };
                        coverage.not_covered.push(format!("{name} `{}`: `{why}`", parameter.code));
                        continue;
                    };
                    coverage.covered.entry(name).or_default().push(parameter.code);
                    for alternative in &path.0 {
                        *coverage.shapes.entry(shape(alternative)).or_default() += 1;
                    }
                }
            }
            coverage
        }
    }

    fn shape(alternative: &Alternative) -> &'static str {
        let steps = match alternative {
            Alternative::References(..) => return "`.where(resolve() is Type)`",
            Alternative::ExistsAndIsNotFalse(_) => return "`.exists() and … != false`",
            Alternative::Elements(steps) => steps,
        };
        let has = |wanted: fn(&Step) -> bool| steps.iter().any(wanted);
        match () {
            () if has(|step| matches!(step, Step::Item(_))) => "`[0]`",
            () if has(|step| matches!(step, Step::Where(..))) => "`.where(element='code')`",
            () if has(|step| matches!(step, Step::Choice(names) if names.len() == 1)) => {
                "`as Type`, `.as(Type)`, `.ofType(Type)`"
            }
            () if has(|step| matches!(step, Step::Choice(_))) => "an element path to `value[x]` of any type",
            () => "a plain element path",
        }
    }

    fn documentation() -> String {
        let mut text = String::from(DOCUMENTATION);
        for version in FhirVersion::ALL {
            let Coverage { covered, not_covered, shapes } = Coverage::of(version);
            let codes: usize = covered.values().map(Vec::len).sum();
            let (name, missing) = (version.as_str(), not_covered.len());
            text.push_str(&format!("\n## {name}\n\nCovered: {codes} parameters. Not covered: {missing}.\n\n"));
            text.push_str("| shape | alternatives |\n| --- | --- |\n");
            text.extend(shapes.iter().map(|(shape, count)| format!("| {shape} | {count} |\n")));
            text.push_str("\nNot covered:\n\n");
            text.extend(not_covered.iter().map(|line| format!("- {line}\n")));
            text.push_str("\n| type | covered |\n| --- | --- |\n");
            text.extend(covered.iter().map(|(of, codes)| format!("| {of} | {} |\n", codes.join(", "))));
        }
        text
    }

    const DOCUMENTATION: &str = "\
# Search parameters that policies can read

A policy reads a resource by tags that are named as its search parameters: `resource.getTag(\"category\")`. A tag is
covered where the parameter is of kind token, reference or uri and HL7's expression for the type is one of the shapes
below. A policy that uses a tag which is not covered does not validate; parameters of other kinds are no tags.

Made from the definitions by `tests/definitions/run --write`; a test compares it.
";
}
