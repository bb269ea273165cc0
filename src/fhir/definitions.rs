//! HL7's definitions: resource types, search parameters and compartments of R4, R4B and R5.
//! Hides the tables, how they are read, and that a type inherits parameters from Resource and DomainResource.
//! INVARIANT: a `ResourceType` is the name of a type of some FHIR version; nothing else makes one.
//! INVARIANT: what a table does not say is not there: an unknown type has no parameters and is in no compartment.
//! Source: HL7's search-parameters and CompartmentDefinitions, as `tests/definitions/run` brings them into the tables.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

/// A version of FHIR that a server may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FhirVersion {
    /// 4.0.1
    R4,
    /// 4.3.0
    R4B,
    /// 5.0.0
    R5,
}

impl FhirVersion {
    pub const ALL: [FhirVersion; 3] = [FhirVersion::R4, FhirVersion::R4B, FhirVersion::R5];

    pub fn as_str(self) -> &'static str {
        match self {
            FhirVersion::R4 => "R4",
            FhirVersion::R4B => "R4B",
            FhirVersion::R5 => "R5",
        }
    }
}

/// A resource type that requests may name, never an abstract one; only `Definitions` makes one.
///
/// Types of two versions are equal where their names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceType(&'static str);

impl ResourceType {
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

/// FHIR's `id`: 1 to 64 of `A-Za-z0-9-.`, compared exactly.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FhirId(String);

impl FhirId {
    /// `None` for whatever is not an id as a whole; nothing is trimmed or folded.
    pub fn parse(text: &str) -> Option<FhirId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        (matches!(text.len(), 1..=64) && text.bytes().all(allowed)).then(|| FhirId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FhirId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The kinds of compartment that HL7 defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compartment {
    Patient,
    Practitioner,
    RelatedPerson,
    Encounter,
    Device,
}

impl Compartment {
    pub const ALL: [Compartment; 5] = [
        Compartment::Patient,
        Compartment::Practitioner,
        Compartment::RelatedPerson,
        Compartment::Encounter,
        Compartment::Device,
    ];

    /// The resource type whose instances have such a compartment.
    pub fn as_str(self) -> &'static str {
        match self {
            Compartment::Patient => "Patient",
            Compartment::Practitioner => "Practitioner",
            Compartment::RelatedPerson => "RelatedPerson",
            Compartment::Encounter => "Encounter",
            Compartment::Device => "Device",
        }
    }

    /// The compartment by the name of its type.
    pub fn parse(name: &str) -> Option<Compartment> {
        Compartment::ALL.into_iter().find(|compartment| compartment.as_str() == name)
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// FHIR's search-param-type value set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ParameterKind {
    Token,
    Reference,
    String,
    Date,
    Number,
    Quantity,
    Uri,
    Composite,
    Special,
}

impl ParameterKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ParameterKind::Token => "token",
            ParameterKind::Reference => "reference",
            ParameterKind::String => "string",
            ParameterKind::Date => "date",
            ParameterKind::Number => "number",
            ParameterKind::Quantity => "quantity",
            ParameterKind::Uri => "uri",
            ParameterKind::Composite => "composite",
            ParameterKind::Special => "special",
        }
    }

    fn parse(name: &str) -> Option<ParameterKind> {
        use ParameterKind::{Composite, Date, Number, Quantity, Reference, Special, String, Token, Uri};
        [Token, Reference, String, Date, Number, Quantity, Uri, Composite, Special]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// A search parameter of one type.
#[derive(Debug, Clone)]
pub struct SearchParameter {
    pub code: &'static str,
    pub kind: ParameterKind,
    /// What a reference may point to, in order; empty for other kinds. Where HL7 says "any", or nothing at all,
    /// these are all types: closed, as more is then checked.
    pub targets: Vec<ResourceType>,
    /// The alternatives of HL7's FHIRPath expression for this type, as HL7 writes them; empty where HL7 gives none.
    pub expression: &'static str,
}

impl SearchParameter {
    /// Whether its expression may look at this element (`Patient.telecom`), at a part of it, or at what holds it.
    pub fn looks_at(&self, element: &str) -> bool {
        let is_part = |whole: &str, part: &str| {
            part.strip_prefix(whole).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
        };
        self.expression.is_empty()
            || self.expression.split('|').any(|alternative| {
                let path = alternative.trim_start_matches(|c: char| c == '(' || c.is_whitespace());
                let end = path.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(path.len());
                let (path, _) = path.split_at(end);
                let path = path.split(".where").next().unwrap_or(path);
                is_part(element, path) || is_part(path, element)
            })
    }
}

/// The definitions of one FHIR version.
#[derive(Debug)]
pub struct Definitions {
    version: FhirVersion,
    names: Vec<ResourceType>,
    types: HashMap<&'static str, Type>,
    /// Resource and DomainResource, by name: what every type inherits, but no type of a request.
    abstracts: HashMap<&'static str, Type>,
}

#[derive(Debug, Default)]
struct Type {
    base: &'static str,
    /// In the order of their codes.
    parameters: Vec<SearchParameter>,
    compartments: [Vec<&'static str>; 5],
    choices: Vec<(&'static str, Vec<&'static str>)>,
}

impl Definitions {
    /// The definitions of a version; read on first use, in a few milliseconds.
    pub fn of(version: FhirVersion) -> &'static Definitions {
        static R4: LazyLock<Definitions> =
            LazyLock::new(|| parse(FhirVersion::R4, include_str!("definitions/r4.txt")).0);
        static R4B: LazyLock<Definitions> =
            LazyLock::new(|| parse(FhirVersion::R4B, include_str!("definitions/r4b.txt")).0);
        static R5: LazyLock<Definitions> =
            LazyLock::new(|| parse(FhirVersion::R5, include_str!("definitions/r5.txt")).0);
        match version {
            FhirVersion::R4 => &R4,
            FhirVersion::R4B => &R4B,
            FhirVersion::R5 => &R5,
        }
    }

    pub fn version(&self) -> FhirVersion {
        self.version
    }

    /// The type by its exact name; `None` for abstract types and data types.
    pub fn resource_type(&self, name: &str) -> Option<ResourceType> {
        self.types.get_key_value(name).map(|(name, _)| ResourceType(name))
    }

    /// Every type, in the order of names.
    pub fn resource_types(&self) -> impl Iterator<Item = ResourceType> + '_ {
        self.names.iter().copied()
    }

    /// The parameter of this type by code, the common ones (`_id`, `_tag`, `_text` …, of Resource and DomainResource)
    /// included. Where both have the code, the type's own counts.
    pub fn parameter(&self, of: ResourceType, code: &str) -> Option<&SearchParameter> {
        self.lineage(of).find_map(|of| {
            let at = of.parameters.binary_search_by(|parameter| parameter.code.cmp(code)).ok()?;
            of.parameters.get(at)
        })
    }

    /// The type's own parameters in the order of codes, then the common ones.
    pub fn parameters(&self, of: ResourceType) -> impl Iterator<Item = &SearchParameter> + '_ {
        self.lineage(of).flat_map(|of| of.parameters.iter())
    }

    /// The codes of the parameters that put a type into a compartment; empty: the type is not in it.
    /// HL7's `{def}`, for a type that has the compartment itself, is no parameter and not among them.
    pub fn compartment_parameters(&self, compartment: Compartment, of: ResourceType) -> &[&'static str] {
        self.types
            .get(of.as_str())
            .and_then(|of| of.compartments.get(compartment.index()))
            .map_or(&[], |codes| codes.as_slice())
    }

    /// The data types of a choice element (`Observation.value` for `value[x]`) that an expression names without one;
    /// `None` where the path is no such element.
    pub fn choice(&self, of: ResourceType, path: &str) -> Option<&[&'static str]> {
        let choices = &self.types.get(of.as_str())?.choices;
        choices.iter().find(|(known, _)| *known == path).map(|(_, types)| types.as_slice())
    }

    /// The type and what it inherits from; as every base is abstract, at most three.
    fn lineage(&self, of: ResourceType) -> impl Iterator<Item = &Type> + '_ {
        let own = self.types.get(of.as_str());
        let base = own.map_or("", |of| of.base);
        let above = if base == "DomainResource" { "Resource" } else { "" };
        own.into_iter().chain([base, above].into_iter().filter_map(|name| self.abstracts.get(name)))
    }
}

/// A table → what it says, and the lines that are none of it (a test: there are none).
fn parse(version: FhirVersion, table: &'static str) -> (Definitions, Vec<&'static str>) {
    let mut definitions = Definitions { version, names: Vec::new(), types: HashMap::new(), abstracts: HashMap::new() };
    let mut strange = Vec::new();
    let lines = || table.lines().filter(|line| !line.starts_with('#'));
    definitions.names =
        lines().filter_map(|line| Some(ResourceType(line.strip_prefix("type ")?.split_once(" of ")?.0))).collect();
    definitions.names.sort();
    let mut section: Option<&mut Type> = None;
    for line in lines() {
        if let Some((name, base)) = line.strip_prefix("type ").and_then(|rest| rest.split_once(" of ")) {
            section = Some(definitions.types.entry(name).or_default());
            if let Some(of) = section.as_deref_mut() {
                of.base = base;
            }
        } else if let Some(name) = line.strip_prefix("abstract ") {
            section = Some(definitions.abstracts.entry(name).or_default());
        } else if section.as_deref_mut().and_then(|of| read_line(line, of, &definitions.names)).is_none() {
            strange.push(line);
        }
    }
    for of in definitions.types.values_mut().chain(definitions.abstracts.values_mut()) {
        of.parameters.sort_by_key(|parameter| parameter.code);
    }
    (definitions, strange)
}

fn read_line(line: &'static str, of: &mut Type, names: &[ResourceType]) -> Option<()> {
    let (word, rest) = line.split_once(' ')?;
    match word {
        "choice" => {
            let (path, types) = rest.split_once(' ')?;
            of.choices.push((path, types.split(',').collect()));
        }
        "compartment" => {
            let (name, codes) = rest.split_once(' ')?;
            let codes = codes.split(',').filter(|code| *code != "{def}").collect();
            *of.compartments.get_mut(Compartment::parse(name)?.index())? = codes;
        }
        "parameter" => of.parameters.push(read_parameter(rest, names)?),
        _ => return None,
    }
    Some(())
}

fn read_parameter(rest: &'static str, names: &[ResourceType]) -> Option<SearchParameter> {
    let (head, expression) = rest.split_once(" = ").unwrap_or((rest, ""));
    let mut words = head.split(' ');
    let (code, kind, targets) = (words.next()?, ParameterKind::parse(words.next()?)?, words.next());
    let targets = match (kind, targets) {
        (ParameterKind::Reference, None | Some("Resource")) => names.to_vec(),
        (_, None) => Vec::new(),
        (_, Some(listed)) => listed
            .split(',')
            .map(|name| names.binary_search_by_key(&name, |known| known.0).ok().and_then(|at| names.get(at).copied()))
            .collect::<Option<_>>()?,
    };
    words.next().is_none().then_some(SearchParameter { code, kind, targets, expression })
}

/// Any text is an id or none, and a type or none, as a whole.
#[doc(hidden)]
pub fn holds(text: &str) -> bool {
    let definitions = Definitions::of(FhirVersion::R4);
    let of = definitions.resource_type(text);
    FhirId::parse(text).is_none_or(|id| id.as_str() == text && !text.is_empty() && !text.contains(['/', '|', ' ']))
        && of.is_none_or(|of| of.as_str() == text && definitions.resource_types().any(|known| known == of))
        && definitions.resource_types().all(|of| definitions.parameter(of, text).is_none_or(|found| found.code == text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLES: [(FhirVersion, &str); 3] = [
        (FhirVersion::R4, include_str!("definitions/r4.txt")),
        (FhirVersion::R4B, include_str!("definitions/r4b.txt")),
        (FhirVersion::R5, include_str!("definitions/r5.txt")),
    ];

    #[test]
    fn the_tables_are_read_whole() {
        for (version, table) in TABLES {
            let (definitions, strange) = parse(version, table);
            assert_eq!(strange, Vec::<&str>::new(), "{version:?}");
            assert_eq!(definitions.abstracts.len(), if version == FhirVersion::R5 { 4 } else { 2 });
            let bases_are_known = definitions.types.values().all(|of| definitions.abstracts.contains_key(of.base));
            assert!(bases_are_known && definitions.names.len() == definitions.types.len(), "{version:?}");
            for of in definitions.resource_types() {
                let codes: Vec<&str> = definitions.parameters(of).map(|parameter| parameter.code).collect();
                assert!(
                    codes.iter().all(|code| definitions.parameter(of, code).is_some_and(|found| found.code == *code))
                );
                let own = definitions.types[of.as_str()].parameters.iter();
                assert!(own.is_sorted_by(|a, b| a.code < b.code), "{of} has a code twice");
            }
        }
    }

    #[test]
    fn lines_that_say_nothing_known_are_found() {
        let head = "type Patient of DomainResource\n";
        for line in [
            "nonsense",
            "parameter",
            "parameter name",
            "parameter name text",
            "parameter subject reference Nobody = Patient.link",
            "parameter name string Patient more = Patient.name",
            "compartment Location subject",
            "compartment Patient",
            "choice Patient.deceased",
            "type Patient",
            "",
        ] {
            let table: &'static str = Box::leak(format!("{head}{line}\nparameter name string = Patient.name").into());
            let (definitions, strange) = parse(FhirVersion::R4, table);
            assert_eq!(strange, [line]);
            assert!(definitions.resource_type("Patient").is_some_and(|of| definitions.parameter(of, "name").is_some()));
        }
        assert_eq!(parse(FhirVersion::R4, "parameter name string").1, ["parameter name string"], "before any type");
    }

    #[test]
    fn as_many_as_hl7_defines() {
        // Types; then their own parameters of kind token and of kind reference. R4's bundle has 1,008 of both kinds,
        // many of them for several types.
        let count = |version| {
            let definitions = Definitions::of(version);
            let kinds = |wanted| {
                let own = definitions.types.values().flat_map(|of| &of.parameters);
                own.filter(|parameter| parameter.kind == wanted).count()
            };
            [definitions.names.len(), kinds(ParameterKind::Token), kinds(ParameterKind::Reference)]
        };
        assert_eq!(count(FhirVersion::R4), [146, 668, 517]);
        assert_eq!(count(FhirVersion::R4B), [141, 696, 524]);
        assert_eq!(count(FhirVersion::R5), [158, 814, 597]);
    }

    #[test]
    fn types_are_those_of_their_version() {
        let check = |version, name: &str, expected: bool| {
            let found = Definitions::of(version).resource_type(name);
            assert_eq!(found.map(ResourceType::as_str), expected.then_some(name), "{version:?} {name}");
        };
        for (name, in_r4, in_r4b, in_r5) in [
            ("Patient", true, true, true),
            ("Parameters", true, true, true),
            ("Binary", true, true, true),
            ("MedicationStatement", true, true, true),
            ("Media", true, true, false),
            ("RequestGroup", true, true, false),
            ("RequestOrchestration", false, false, true),
            ("EffectEvidenceSynthesis", true, false, false),
            ("SubscriptionTopic", false, true, true),
            ("Resource", false, false, false),
            ("DomainResource", false, false, false),
            ("CanonicalResource", false, false, false),
            ("HumanName", false, false, false),
            ("patient", false, false, false),
            ("Patient ", false, false, false),
            ("", false, false, false),
        ] {
            check(FhirVersion::R4, name, in_r4);
            check(FhirVersion::R4B, name, in_r4b);
            check(FhirVersion::R5, name, in_r5);
        }
        let of = |version| Definitions::of(version).resource_type("Patient");
        assert_eq!(of(FhirVersion::R4), of(FhirVersion::R5));
    }

    #[test]
    fn parameters_are_the_types_own_and_the_common_ones() {
        let check = |of: &str, code: &str, expected: Option<(ParameterKind, &str, &str)>| {
            let definitions = Definitions::of(FhirVersion::R4);
            let found = definitions.parameter(definitions.resource_type(of).unwrap(), code);
            let found = found.map(|found| {
                let targets: Vec<&str> = found.targets.iter().map(|target| target.as_str()).collect();
                let targets = if targets.len() > 100 { "any".to_owned() } else { targets.join(" ") };
                (found.kind, targets, found.expression)
            });
            let expected = expected.map(|(kind, targets, expression)| (kind, targets.to_owned(), expression));
            assert_eq!(found, expected, "{of} {code}");
        };
        use ParameterKind::{Composite, Date, Reference, String, Token, Uri};
        check("Patient", "_id", Some((Token, "", "Resource.id")));
        check("Patient", "_text", Some((String, "", "")));
        check("Bundle", "_profile", Some((Uri, "", "Resource.meta.profile")));
        check("Bundle", "_text", None);
        check("Patient", "colour", None);
        check("Patient", "", None);
        check("Patient", "Gender", None);
        check("Patient", "gender", Some((Token, "", "Patient.gender")));
        check("Person", "gender", Some((Token, "", "Person.gender")));
        let any = Some((Reference, "any", "Observation.focus"));
        check("Observation", "focus", any);
        let code = "Observation.code | Observation.component.code";
        check("Observation", "combo-code", Some((Token, "", code)));
        check("Observation", "code-value-date", Some((Composite, "", "Observation")));
        check(
            "Encounter",
            "patient",
            Some((Reference, "Group Patient", "Encounter.subject.where(resolve() is Patient)")),
        );
        check("Consent", "patient", Some((Reference, "Group Patient", "Consent.patient")));
        check("Encounter", "date", Some((Date, "", "Encounter.period")));
    }

    #[test]
    fn an_id_is_1_to_64_of_its_alphabet() {
        for (text, expected) in [
            ("1", true),
            ("a-b.C9", true),
            ("..", true),
            (&"x".repeat(64), true),
            (&"x".repeat(65), false),
            ("", false),
            ("a_b", false),
            ("a b", false),
            ("a/b", false),
            (" a", false),
            ("a\n", false),
            ("é", false),
            ("%31", false),
        ] {
            assert_eq!(FhirId::parse(text).is_some(), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_type_an_id_a_code_or_none(
            text in prop_oneof![
                "[A-Za-z0-9.-]{0,70}",
                ".{0,10}",
                prop::sample::select(vec!["Patient", "Resource", "_id", "patient", "_text"]).prop_map(str::to_owned),
            ],
        ) {
            prop_assert!(holds(&text));
        }
    }
}
