//! A formula about resources → FHIR searches that find what it is true of.
//! Hides the normal form (a union of conjunctions), and what FHIR's search can say and cannot.
//! INVARIANT: a filter never finds more than the formula is true of, unless it says that what it finds must be checked.
//! INVARIANT: what a search cannot say is never dropped: its part of the union is checked, or is not there.
//! Source: FHIR search.html (R4 §3.1.1.4 token, reference and uri, `:not`, `:missing`; §3.1.1.1.4 compartments).

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use crate::engine::residual::{Atom, Element, Formula, Known, Literal};
use crate::fhir::definitions::{Compartment, FhirId, ParameterKind};
use crate::fhir::resource::{self, Bases};
use crate::fhir::url::{Parameter, write_parameters};

/// Parts of a union, and alternatives within one, beyond which nothing is said.
const PARTS_MAX: usize = 64;

/// What a search may find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// What is visible is the union of these, each the criteria to add to a search; of none: whatever it finds.
    pub any_of: Vec<Vec<Parameter>>,
    /// These, written.
    pub queries: Arc<[String]>,
    /// Whether they find all that is visible.
    pub is_complete: bool,
    /// Whether they find more, so that each result must be checked.
    pub is_checked: bool,
    /// The union as one search.
    pub whole: Option<Whole>,
}

/// One search that finds what a union does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whole {
    /// of the type, with these criteria
    Type(Vec<Parameter>),
    /// of the type within a compartment, whose definition unites several references, with these criteria
    Compartment(Compartment, FhirId, Vec<Parameter>),
}

/// What is visible of resources, and the searches that find it, made when they are first asked for.
#[derive(Debug)]
pub struct Visible {
    pub formula: Formula,
    /// without a check of each result, and with
    filters: [OnceLock<Option<Filter>>; 2],
}

impl Visible {
    pub fn of(formula: Formula) -> Visible {
        Visible { formula, filters: [OnceLock::new(), OnceLock::new()] }
    }

    /// As [`filter`]. `known` is what the formula was made by, whoever asks.
    pub fn filter(&self, known: &Known<'_>, may_check: bool) -> Option<&Filter> {
        let [unchecked, checked] = &self.filters;
        let found = if may_check { checked } else { unchecked };
        found.get_or_init(|| filter(&self.formula, known, may_check)).as_ref()
    }

    /// What it takes in memory at most, reckoned rather too much.
    pub fn bytes(&self) -> usize {
        // each search says what the formula says, and is written once
        5 * self.formula.bytes()
    }
}

/// The filter of a formula from which `known` has taken all that it judges; `None` where nothing can be shown.
/// `may_check`: whether each result can be checked.
pub fn filter(formula: &Formula, known: &Known<'_>, may_check: bool) -> Option<Filter> {
    let parts: Vec<Part> =
        merged(conjunctions(formula)?).into_iter().map(|literals| Part::of(literals, known)).collect();
    let (kept, dropped): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| may_check || !part.finds_more());
    let mut any_of = Vec::new();
    for part in &kept {
        any_of.extend(part.queries()?);
    }
    if any_of.is_empty() || any_of.len() > PARTS_MAX {
        return None;
    }
    if any_of.iter().any(Vec::is_empty) {
        any_of.clear();
    }
    let whole = match kept.as_slice() {
        [part] => part.whole(known),
        _ => None,
    };
    Some(Filter {
        queries: any_of.iter().map(write_parameters).collect(),
        any_of,
        is_complete: dropped.is_empty() && !kept.iter().any(Part::finds_less),
        is_checked: kept.iter().any(Part::finds_more),
        whole,
    })
}

type Conjunction = BTreeSet<Literal>;

/// The formula as a union of conjunctions, without those that others hold; `None` where there are too many.
fn conjunctions(formula: &Formula) -> Option<Vec<Conjunction>> {
    let union = match formula {
        Formula::Literal(literal) => vec![Conjunction::from([literal.clone()])],
        Formula::Any(parts) => {
            let mut union = Vec::new();
            for part in parts {
                union.extend(conjunctions(part)?);
            }
            union
        }
        Formula::All(parts) => {
            let mut union = vec![Conjunction::new()];
            for part in parts {
                let further = conjunctions(part)?;
                let both = |one: &Conjunction| further.iter().map(|other| one | other).collect::<Vec<_>>();
                union = without_held(union.iter().flat_map(both).filter_map(consistent).collect())?;
            }
            union
        }
    };
    without_held(union)
}

/// Without the literals that others of it imply; `None` where two contradict each other.
fn consistent(literals: Conjunction) -> Option<Conjunction> {
    let contradicts = |one: &Literal| {
        let denied = Literal { atom: one.atom.clone(), holds: !one.holds };
        literals.iter().any(|other| implies(other, &denied))
    };
    if literals.iter().any(contradicts) {
        return None;
    }
    let is_implied = |one: &Literal| literals.iter().any(|other| other != one && implies(other, one));
    Some(literals.iter().filter(|one| !is_implied(one)).cloned().collect())
}

/// Without the conjunctions that another one holds: what they are true of, that one is true of.
fn without_held(union: Vec<Conjunction>) -> Option<Vec<Conjunction>> {
    let holds = |wide: &Conjunction, narrow: &Conjunction| {
        wide.iter().all(|literal| narrow.iter().any(|stronger| implies(stronger, literal)))
    };
    let mut kept: Vec<Conjunction> = Vec::new();
    for part in union {
        if kept.iter().any(|wide| holds(wide, &part)) {
            continue;
        }
        kept.retain(|narrow| !holds(&part, narrow));
        kept.push(part);
        if kept.len() > PARTS_MAX {
            return None;
        }
    }
    Some(kept)
}

/// Whether the second literal is true of whatever the first is true of; `false` where that is not seen at once.
fn implies(one: &Literal, other: &Literal) -> bool {
    match (&one.atom, one.holds, &other.atom, other.holds) {
        (a, x, b, y) if a == b => x == y,
        (Atom::Has(a, few), true, Atom::Has(b, many), true) => a == b && few.is_subset(many),
        (Atom::Has(a, many), false, Atom::Has(b, few), false) => a == b && few.is_subset(many),
        (Atom::Has(a, _), true, Atom::Present(b), true) => a == b,
        (Atom::Present(a), false, Atom::Has(b, _), false) => a == b,
        (Atom::Id(few), true, Atom::Id(many), true) => few.is_subset(many),
        (Atom::Found { parameter: a, values: few }, true, Atom::Found { parameter: b, values: many }, true) => {
            a == b && few.is_subset(many)
        }
        (_, _, _, _) => false,
    }
}

/// Parts that differ in one value alone are one part with both values.
fn merged(mut union: Vec<Conjunction>) -> Vec<Conjunction> {
    let mut at = 0;
    while let Some(part) = union.get(at).cloned() {
        let mut others = union.iter().enumerate().skip(at + 1);
        match others.find_map(|(index, other)| Some((index, united(&part, other)?))) {
            Some((index, both)) => {
                union.remove(index);
                if let Some(part) = union.get_mut(at) {
                    *part = both;
                }
                at = 0;
            }
            None => at += 1,
        }
    }
    union
}

fn united(one: &Conjunction, other: &Conjunction) -> Option<Conjunction> {
    let mut only_one = one.difference(other);
    let mut only_other = other.difference(one);
    let (Some(a), None, Some(b), None) = (only_one.next(), only_one.next(), only_other.next(), only_other.next())
    else {
        return None;
    };
    let atom = match (&a.atom, &b.atom, a.holds && b.holds) {
        (Atom::Has(element, some), Atom::Has(same, more), true) if element == same => {
            Atom::Has(element.clone(), some | more)
        }
        (Atom::Id(some), Atom::Id(more), true) => Atom::Id(some | more),
        (Atom::Found { parameter, values }, Atom::Found { parameter: same, values: more }, true)
            if parameter == same =>
        {
            Atom::Found { parameter: parameter.clone(), values: values | more }
        }
        (_, _, _) => return None,
    };
    let mut both: Conjunction = one.intersection(other).cloned().collect();
    both.insert(Literal { atom, holds: true });
    Some(both)
}

/// One conjunction in FHIR's words.
struct Part(Vec<Said>);

/// One literal in FHIR's words.
struct Said {
    /// one of these, each with all its criteria
    any_of: Vec<Vec<Parameter>>,
    finds_more: bool,
    finds_less: bool,
    member: Option<(Compartment, FhirId)>,
}

impl Part {
    fn of(literals: Conjunction, known: &Known<'_>) -> Part {
        Part(literals.iter().map(|literal| said(literal, known)).collect())
    }

    fn finds_more(&self) -> bool {
        self.0.iter().any(|said| said.finds_more)
    }

    fn finds_less(&self) -> bool {
        self.0.iter().any(|said| said.finds_less)
    }

    /// Each way of saying it.
    fn queries(&self) -> Option<Vec<Vec<Parameter>>> {
        let mut queries = vec![Vec::new()];
        for said in &self.0 {
            let both = |query: &Vec<Parameter>| {
                said.any_of.iter().map(|more| [query.as_slice(), more].concat()).collect::<Vec<_>>()
            };
            queries = queries.iter().flat_map(both).collect();
            if queries.len() > PARTS_MAX {
                return None;
            }
        }
        Some(queries)
    }

    /// As one search. A resource that has the compartment itself is found by its id: what FHIR lists beside it there are
    /// other records of the same person, and a search of a compartment for its own type is known to few servers.
    fn whole(&self, known: &Known<'_>) -> Option<Whole> {
        let (one_way, several): (Vec<_>, Vec<_>) = self.0.iter().partition(|said| said.any_of.len() == 1);
        let criteria: Vec<Parameter> = one_way.iter().flat_map(|said| said.any_of.concat()).collect();
        match several.as_slice() {
            [] => Some(Whole::Type(criteria)),
            [said] => match &said.member {
                Some((compartment, _)) if known.of.as_str() == compartment.as_str() => {
                    Some(Whole::Type([criteria, said.any_of.first()?.clone()].concat()))
                }
                Some((compartment, id)) => Some(Whole::Compartment(*compartment, id.clone(), criteria)),
                None => None,
            },
            [_, _, ..] => None,
        }
    }
}

impl Said {
    fn exactly(criteria: Vec<Parameter>) -> Said {
        Said { any_of: vec![criteria], finds_more: false, finds_less: false, member: None }
    }

    /// What cannot be said, or only a part of it: it finds more.
    fn more(criteria: Vec<Parameter>) -> Said {
        Said { finds_more: true, ..Said::exactly(criteria) }
    }
}

fn said(literal: &Literal, known: &Known<'_>) -> Said {
    match (&literal.atom, literal.holds) {
        (Atom::Member(compartment, id), true) => member(*compartment, id, known),
        (Atom::Id(ids), true) => {
            let ids: Vec<&str> = ids.iter().map(FhirId::as_str).collect();
            Said::exactly(vec![criterion("_id", ids.join(","))])
        }
        (Atom::Id(ids), false) => {
            Said::exactly(ids.iter().map(|id| criterion("_id:not", id.as_str().to_owned())).collect())
        }
        (Atom::Has(element, values), true) => one_of(element, values, known),
        (Atom::Has(element, values), false) => none_of(element, values, known),
        (Atom::Present(element), true) => {
            // `:missing` asks for the element, which may be there without a value to search for
            Said::more(vec![criterion(&format!("{}:missing", code(element)), "false".to_owned())])
        }
        (Atom::Present(element), false) => {
            let missing = criterion(&format!("{}:missing", code(element)), "true".to_owned());
            Said { finds_less: true, ..Said::exactly(vec![missing]) }
        }
        (Atom::Found { parameter, values }, true) => {
            let is_plain = values
                .iter()
                .flat_map(|value| value.split(','))
                .all(|value| value.split_once('|').is_none_or(|(system, _)| !system.is_empty() && !is_implied(system)));
            // as the scope writes them: a comma is FHIR's "or" there as here
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let criteria = vec![criterion(parameter, values.join(","))];
            if is_plain { Said::exactly(criteria) } else { Said::more(criteria) }
        }
        (Atom::Member(..) | Atom::Found { .. } | Atom::Other(_), false) | (Atom::Other(_), true) => {
            Said::more(Vec::new())
        }
    }
}

/// By every parameter that CompartmentDefinition names for the type, and by its own id.
fn member(compartment: Compartment, id: &FhirId, known: &Known<'_>) -> Said {
    let own = (known.of.as_str() == compartment.as_str()).then(|| vec![criterion("_id", id.as_str().to_owned())]);
    let listed = known.definitions.compartment_parameters(compartment, known.of).iter();
    let reference = format!("{}/{id}", compartment.as_str());
    let any_of = own.into_iter().chain(listed.map(|code| vec![criterion(code, reference.clone())])).collect();
    Said { any_of, finds_more: false, finds_less: false, member: Some((compartment, id.clone())) }
}

fn one_of(element: &Element, values: &BTreeSet<String>, known: &Known<'_>) -> Said {
    let code = code(element);
    let mut texts = Vec::new();
    let mut finds_less = false;
    for value in values {
        let text = match kind(element, known) {
            Some(ParameterKind::Token) => {
                finds_less |= value.starts_with('|');
                token(element, value)
            }
            Some(ParameterKind::Uri) => escaped(value),
            Some(ParameterKind::Reference) => reference(code, value, known),
            Some(_) | None => None,
        };
        match text {
            Some(text) => texts.push(text),
            None => return Said::more(Vec::new()),
        }
    }
    Said { finds_less, ..Said::exactly(vec![criterion(code, texts.join(","))]) }
}

/// FHIR defines `:not` for tokens, as "no value matches", so that it finds what has no value too; each value by itself,
/// since what `:not=a,b` means was told only in R5. A code by itself and a system's are matched as tags hold them; of
/// `|code` servers differ.
fn none_of(element: &Element, values: &BTreeSet<String>, known: &Known<'_>) -> Said {
    let mut criteria = Vec::new();
    let mut finds_less = false;
    for value in values {
        let is_token = kind(element, known) == Some(ParameterKind::Token) && !value.starts_with('|');
        let Some(text) = token_text(value).filter(|_| is_token) else { return Said::more(Vec::new()) };
        finds_less |= token(element, value).is_none();
        criteria.push(criterion(&format!("{}:not", code(element)), text));
    }
    Said { finds_less, ..Said::exactly(criteria) }
}

fn code(element: &Element) -> &str {
    match element {
        Element::Tag(code) => code,
        Element::Label(code) => code,
    }
}

fn kind(element: &Element, known: &Known<'_>) -> Option<ParameterKind> {
    match element {
        Element::Label("_security" | "_tag") => Some(ParameterKind::Token),
        Element::Label(_) => Some(ParameterKind::Uri),
        Element::Tag(code) => known.definitions.parameter(known.of, code).map(|parameter| parameter.kind),
    }
}

/// `code`, `system|code` or `|code` as a search value. `None` where a search may find more than has this value: a `code`
/// element has no system in its tag, but a server may take that of its binding for it.
fn token(element: &Element, value: &str) -> Option<String> {
    let is_coding = matches!(element, Element::Label(_));
    let system = value.split_once('|').map(|(system, _)| system).filter(|system| !system.is_empty());
    token_text(value).filter(|_| is_coding || !system.is_some_and(is_implied))
}

/// `None` where it cannot be written: without a code, or with bars that may be the code's or the system's.
fn token_text(value: &str) -> Option<String> {
    match value.split('|').collect::<Vec<_>>().as_slice() {
        [code] if !code.is_empty() => escaped(code),
        [system, code] if !code.is_empty() => Some(format!("{}|{}", escaped(system)?, escaped(code)?)),
        _ => None,
    }
}

/// Whether a search may find a system that a tag does not have: elements of type `code` are bound to FHIR's own code systems
/// and the registries that it uses; and a ContactPoint's `phone|555`, whose system is no URI, is in no tag.
fn is_implied(system: &str) -> bool {
    let fhir = system.strip_prefix("http://hl7.org/fhir/").is_some_and(|name| !name.contains('/'));
    fhir || !system.contains(':') || system.starts_with("urn:ietf:") || system.starts_with("urn:iso:")
}

/// A literal reference to what the parameter may refer to; how canonicals and URLs match, servers differ.
fn reference(code: &str, value: &str, known: &Known<'_>) -> Option<String> {
    let parameter = known.definitions.parameter(known.of, code)?;
    let reference = resource::reference(value, known.definitions, &Bases::default())?;
    let is_whole = value == format!("{}/{}", reference.resource_type, reference.id);
    (is_whole && parameter.targets.contains(&reference.resource_type)).then(|| value.to_owned())
}

/// FHIR's escapes; `None` for what no URL of ours holds.
fn escaped(text: &str) -> Option<String> {
    if text.chars().any(char::is_control) {
        return None;
    }
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '\\' | ',' | '|' | '$') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    Some(escaped)
}

fn criterion(name: &str, value: String) -> Parameter {
    Parameter { name: name.to_owned(), value }
}
