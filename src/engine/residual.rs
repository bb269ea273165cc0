//! Policies asked without the resource → what they still want to know of it, as a formula over facts about a resource.
//! Hides Cedar's type-aware partial evaluation, and the JSON of its residuals.
//! INVARIANT: a resource is shown by a policy if and only if the policy's formula is true of it; of a residual that might
//! fail when it is evaluated, or that cannot be read, there is no formula.
//! INVARIANT: a formula is in negation normal form: what is negated is an atom.

use std::collections::BTreeSet;

use cedar_policy::{Entities, Entity, PartialEntities, PartialEntityUid, PartialRequest, Policy, PolicySet, Schema};
use serde_json::Value;

use crate::engine::entities::View;
use crate::fhir::definitions::{Compartment, Definitions, FhirId, ResourceType};
use crate::fhir::resource;

/// A condition on a resource of one type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Formula {
    Literal(Literal),
    /// of none: true
    All(Vec<Formula>),
    /// of none: false
    Any(Vec<Formula>),
}

/// A fact, or that it is none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Literal {
    pub atom: Atom,
    pub holds: bool,
}

/// A fact about a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Atom {
    /// it is in this compartment
    Member(Compartment, FhirId),
    /// it has one of these ids
    Id(BTreeSet<FhirId>),
    /// the element has one of these values, as Cedar's tags and labels hold them
    Has(Element, BTreeSet<String>),
    /// the element has any value
    Present(Element),
    /// FHIR's search `parameter=value` finds it with one of these: the constraint of a scope
    Found { parameter: String, values: BTreeSet<String> },
    /// what no search can say: the expression, as Cedar's JSON has it
    Other(String),
}

/// What of a resource policies read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// the tag of a search parameter, by its code
    Tag(String),
    /// an element of `meta`, by the code of the search parameter that every type has for it
    Label(&'static str),
}

impl Formula {
    /// What it takes in memory, reckoned rather too much.
    pub fn bytes(&self) -> usize {
        const PART: usize = 128;
        match self {
            Formula::Literal(Literal { atom, .. }) => {
                PART + match atom {
                    Atom::Member(_, id) => id.as_str().len(),
                    Atom::Id(ids) => ids.iter().map(|id| PART + id.as_str().len()).sum(),
                    Atom::Has(_, values) | Atom::Found { values, .. } => {
                        values.iter().map(|value| PART + value.len()).sum()
                    }
                    Atom::Present(_) => 0,
                    Atom::Other(text) => text.len(),
                }
            }
            Formula::All(parts) | Formula::Any(parts) => PART + parts.iter().map(Formula::bytes).sum::<usize>(),
        }
    }

    pub const TRUE: Formula = Formula::All(Vec::new());
    pub const FALSE: Formula = Formula::Any(Vec::new());

    pub fn atom(atom: Atom) -> Formula {
        Formula::Literal(Literal { atom, holds: true })
    }

    /// True where every part is.
    pub fn all(parts: impl IntoIterator<Item = Formula>) -> Formula {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Formula::All(parts) => flat.extend(parts),
                Formula::Any(parts) if parts.is_empty() => return Formula::FALSE,
                Formula::Any(_) | Formula::Literal(_) => flat.push(part),
            }
        }
        one(flat, Formula::All)
    }

    /// True where one part is.
    pub fn any(parts: impl IntoIterator<Item = Formula>) -> Formula {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Formula::Any(parts) => flat.extend(parts),
                Formula::All(parts) if parts.is_empty() => return Formula::TRUE,
                Formula::All(_) | Formula::Literal(_) => flat.push(part),
            }
        }
        one(flat, Formula::Any)
    }

    pub fn negated(self) -> Formula {
        match self {
            Formula::Literal(Literal { atom, holds }) => Formula::Literal(Literal { atom, holds: !holds }),
            Formula::All(parts) => Formula::any(parts.into_iter().map(Formula::negated)),
            Formula::Any(parts) => Formula::all(parts.into_iter().map(Formula::negated)),
        }
    }

    /// The formula with every atom that `known` judges replaced by its truth.
    pub fn given(&self, known: &impl Fn(&Atom) -> Option<bool>) -> Formula {
        match self {
            Formula::Literal(Literal { atom, holds }) => match known(atom) {
                Some(truth) if truth == *holds => Formula::TRUE,
                Some(_) => Formula::FALSE,
                None => self.clone(),
            },
            Formula::All(parts) => Formula::all(parts.iter().map(|part| part.given(known))),
            Formula::Any(parts) => Formula::any(parts.iter().map(|part| part.given(known))),
        }
    }
}

fn one(mut parts: Vec<Formula>, many: impl Fn(Vec<Formula>) -> Formula) -> Formula {
    match (parts.len(), parts.pop()) {
        (1, Some(part)) => part,
        (_, Some(last)) => {
            parts.push(last);
            many(parts)
        }
        (_, None) => many(parts),
    }
}

/// What is known of a resource before it is at hand.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub of: ResourceType,
    pub id: Option<&'a FhirId>,
    /// the compartment that is searched
    pub within: Option<&'a (Compartment, FhirId)>,
    pub definitions: &'a Definitions,
}

impl Known<'_> {
    /// Whether no more is known of the resources than their type.
    pub fn is_of_type_alone(&self) -> bool {
        self.id.is_none() && self.within.is_none()
    }

    /// Whether an atom is true of every such resource, or of none.
    pub fn judge(&self, atom: &Atom) -> Option<bool> {
        match atom {
            Atom::Member(compartment, member) => {
                let is_searched = self.within.is_some_and(|(of, id)| of == compartment && id == member);
                let is_own = self.of.as_str() == compartment.as_str();
                let may_be_listed = !self.definitions.compartment_parameters(*compartment, self.of).is_empty();
                match (is_searched || (is_own && self.id == Some(member)), is_own || may_be_listed) {
                    (true, _) => Some(true),
                    (false, true) => None,
                    (false, false) => Some(false),
                }
            }
            Atom::Id(ids) => self.id.map(|id| ids.contains(id)),
            Atom::Has(Element::Tag(code), _) | Atom::Present(Element::Tag(code)) => {
                match resource::is_covered(self.definitions, self.of, code) {
                    true => None,
                    // a type without the parameter has no such tag
                    false => Some(false),
                }
            }
            Atom::Has(Element::Label(_), _) | Atom::Present(Element::Label(_)) => None,
            Atom::Found { .. } | Atom::Other(_) => None,
        }
    }
}

/// Everything that partial evaluation needs beside the policies.
pub struct Asked<'a> {
    pub view: &'a View,
    pub action: cedar_policy::EntityUid,
    /// with everything that the schema requires
    pub context: cedar_policy::Context,
    pub of: ResourceType,
    pub schema: &'a Schema,
}

/// What each of these policies (all of them written as permits) wants to know of the resource; `None` where that cannot
/// be said, or where a policy fails.
pub fn formulas(policies: &PolicySet, asked: Asked<'_>) -> Option<Vec<Formula>> {
    let Asked { view, action, context, of, schema } = asked;
    let uid = &view.uid;
    let principal = PartialEntityUid::new(uid.type_name().clone(), Some(uid.id().clone()));
    let resource = PartialEntityUid::new(of.as_str().parse().ok()?, None);
    let request = PartialRequest::new(principal, action, resource, Some(context), schema).ok()?;
    let entities = principal_of(view, schema)?;
    let response = policies.tpe(&request, &entities, schema).ok()?;
    if response.error_permits().next().is_some() {
        return None;
    }
    let reader = Reader { of };
    let mut formulas: Vec<Formula> = response.true_permits().map(|_| Formula::TRUE).collect();
    for policy in response.residual_policies() {
        formulas.push(reader.policy(&policy)?);
    }
    Some(formulas)
}

/// The principal, and the roles and groups that it is in, of which there is nothing more to know.
fn principal_of(view: &View, schema: &Schema) -> Option<PartialEntities> {
    let (_, _, parents) = view.entity.clone().into_inner();
    let parents = parents.into_iter().map(Entity::with_uid);
    let entities = Entities::from_entities(parents.chain([view.entity.clone()]), None).ok()?;
    PartialEntities::from_concrete(entities, schema).ok()
}

/// Cedar's JSON of a residual → its formula.
struct Reader {
    of: ResourceType,
}

impl Reader {
    fn policy(&self, policy: &Policy) -> Option<Formula> {
        let json = policy.to_json().ok()?;
        let conditions = json.get("conditions")?.as_array()?;
        let mut parts = Vec::new();
        for condition in conditions {
            let body = self.formula(condition.get("body")?)?;
            parts.push(match condition.get("kind")?.as_str()? {
                "when" => body,
                "unless" => body.negated(),
                _ => return None,
            });
        }
        Some(Formula::all(parts))
    }

    fn formula(&self, expression: &Value) -> Option<Formula> {
        let (operator, operands) = operator(expression)?;
        let side = |name: &str| operands.get(name);
        match operator {
            "Value" => operands.as_bool().map(|truth| if truth { Formula::TRUE } else { Formula::FALSE }),
            "&&" => Some(Formula::all([self.formula(side("left")?)?, self.formula(side("right")?)?])),
            "||" => Some(Formula::any([self.formula(side("left")?)?, self.formula(side("right")?)?])),
            "!" => Some(self.formula(side("arg")?)?.negated()),
            "if-then-else" => {
                let condition = self.formula(side("if")?)?;
                let (then, otherwise) = (self.formula(side("then")?)?, self.formula(side("else")?)?);
                let first = Formula::all([condition.clone(), then]);
                Some(Formula::any([first, Formula::all([condition.negated(), otherwise])]))
            }
            "in" => self.member(side("left")?, side("right")?),
            "==" => self.equal(side("left")?, side("right")?),
            "!=" => Some(self.equal(side("left")?, side("right")?)?.negated()),
            "contains" => self.contains(side("left")?, side("right")?),
            "containsAny" => self.contains_any(side("left")?, side("right")?),
            "containsAll" => self.contains_all(side("left")?, side("right")?),
            "isEmpty" => Some(Formula::atom(Atom::Present(set_of(side("arg")?)?)).negated()),
            "hasTag" if is_resource(side("left")?) => {
                let code = text(side("right")?)?;
                Some(Formula::atom(Atom::Present(Element::Tag(code.to_owned()))))
            }
            "has" if is_resource(side("left")?) => match side("attr")?.as_str()? {
                "source" => Some(Formula::atom(Atom::Present(SOURCE))),
                "security" | "tag" | "profile" => Some(Formula::TRUE),
                _ => None,
            },
            "like" if is_source(side("left")?) => self.like(side("pattern")?.as_array()?),
            _ => None,
        }
    }

    /// `resource in X`, `resource in [X, Y]`.
    fn member(&self, left: &Value, right: &Value) -> Option<Formula> {
        if !is_resource(left) {
            return None;
        }
        let of = match entity(right) {
            Some(entity) => vec![entity],
            None => entities(right)?,
        };
        let one = |(name, id): (&str, &str)| match (Compartment::parse(name), FhirId::parse(id)) {
            (Some(compartment), Some(id)) => Some(Formula::atom(Atom::Member(compartment, id))),
            // in itself at most, under an id that FHIR does not have: in nothing
            (Some(_), None) => Some(Formula::FALSE),
            (None, _) => self.is(name, id),
        };
        Some(Formula::any(of.into_iter().map(one).collect::<Option<Vec<_>>>()?))
    }

    /// `resource == X`
    fn is(&self, name: &str, id: &str) -> Option<Formula> {
        Some(match FhirId::parse(id) {
            Some(id) if name == self.of.as_str() => Formula::atom(Atom::Id(BTreeSet::from([id]))),
            Some(_) | None => Formula::FALSE,
        })
    }

    fn equal(&self, left: &Value, right: &Value) -> Option<Formula> {
        for (one, other) in [(left, right), (right, left)] {
            if is_resource(one) {
                let (name, id) = entity(other)?;
                return self.is(name, id);
            }
            if is_source(one) {
                let source = text(other)?.to_owned();
                return Some(Formula::atom(Atom::Has(SOURCE, BTreeSet::from([source]))));
            }
        }
        (is_set(left) && is_set(right)).then(|| other("==", left, right))
    }

    fn contains(&self, left: &Value, right: &Value) -> Option<Formula> {
        if is_resource(right) {
            let of: Option<Vec<_>> = entities(left)?.into_iter().map(|(name, id)| self.is(name, id)).collect();
            return Some(Formula::any(of?));
        }
        if is_source(right) {
            let sources = texts(left)?.into_iter().map(str::to_owned).collect();
            return Some(Formula::atom(Atom::Has(SOURCE, sources)));
        }
        has(set_of(left)?, [text(right)?])
    }

    fn contains_any(&self, left: &Value, right: &Value) -> Option<Formula> {
        match (set_of(left), set_of(right)) {
            (Some(element), None) => has(element, texts(right)?),
            (None, Some(element)) => has(element, texts(left)?),
            (Some(_), Some(_)) => Some(other("containsAny", left, right)),
            (None, None) => None,
        }
    }

    fn contains_all(&self, left: &Value, right: &Value) -> Option<Formula> {
        match (set_of(left), texts(right)) {
            (Some(element), Some(values)) => {
                let each: Option<Vec<_>> = values.into_iter().map(|value| has(element.clone(), [value])).collect();
                Some(Formula::all(each?))
            }
            (_, _) => (is_set(left) && is_set(right)).then(|| other("containsAll", left, right)),
        }
    }

    /// A pattern is a list of literals and wildcards.
    fn like(&self, pattern: &[Value]) -> Option<Formula> {
        let literal = |part: &Value| part.get("Literal").and_then(Value::as_str).map(str::to_owned);
        match pattern.iter().map(literal).collect::<Option<String>>() {
            Some(source) => Some(Formula::atom(Atom::Has(SOURCE, BTreeSet::from([source])))),
            None => Some(Formula::atom(Atom::Other(format!("like {}", Value::from(pattern))))),
        }
    }
}

/// A fact that no search can say, of something that cannot fail.
fn other(operator: &str, left: &Value, right: &Value) -> Formula {
    Formula::atom(Atom::Other(format!("{operator} {left} {right}")))
}

const SOURCE: Element = Element::Label("_source");

fn operator(expression: &Value) -> Option<(&str, &Value)> {
    let mut operators = expression.as_object()?.iter();
    match (operators.next(), operators.next()) {
        (Some((operator, operands)), None) => Some((operator, operands)),
        (_, _) => None,
    }
}

/// That a set has one of these values.
fn has<'v>(element: Element, values: impl IntoIterator<Item = &'v str>) -> Option<Formula> {
    let values: BTreeSet<String> = values.into_iter().map(str::to_owned).collect();
    Some(if values.is_empty() { Formula::FALSE } else { Formula::atom(Atom::Has(element, values)) })
}

/// A set of strings of the resource: a label, or a tag that is known by its name.
fn set_of(expression: &Value) -> Option<Element> {
    match operator(expression)? {
        (".", operands) if is_resource(operands.get("left")?) => match operands.get("attr")?.as_str()? {
            "security" => Some(Element::Label("_security")),
            "tag" => Some(Element::Label("_tag")),
            "profile" => Some(Element::Label("_profile")),
            _ => None,
        },
        ("getTag", operands) if is_resource(operands.get("left")?) => {
            Some(Element::Tag(text(operands.get("right")?)?.to_owned()))
        }
        (_, _) => None,
    }
}

/// A set of strings, of the resource or known, so that comparing it cannot fail.
fn is_set(expression: &Value) -> bool {
    set_of(expression).is_some() || texts(expression).is_some()
}

fn is_resource(expression: &Value) -> bool {
    expression.get("Var").and_then(Value::as_str) == Some("resource")
}

fn is_source(expression: &Value) -> bool {
    match operator(expression) {
        Some((".", operands)) => {
            operands.get("left").is_some_and(is_resource)
                && operands.get("attr").and_then(Value::as_str) == Some("source")
        }
        Some(_) | None => false,
    }
}

fn text(expression: &Value) -> Option<&str> {
    expression.get("Value")?.as_str()
}

/// The items of a set, written as a value or as an expression.
fn items(expression: &Value) -> Option<Vec<&Value>> {
    match operator(expression)? {
        ("Value", Value::Array(items)) => Some(items.iter().collect()),
        ("Set", Value::Array(items)) => items.iter().map(|item| item.get("Value")).collect(),
        (_, _) => None,
    }
}

fn texts(expression: &Value) -> Option<Vec<&str>> {
    items(expression)?.into_iter().map(Value::as_str).collect()
}

fn entities(expression: &Value) -> Option<Vec<(&str, &str)>> {
    items(expression)?.into_iter().map(named).collect()
}

fn entity(expression: &Value) -> Option<(&str, &str)> {
    named(expression.get("Value")?)
}

/// Cedar's JSON of an entity's name.
fn named(value: &Value) -> Option<(&str, &str)> {
    let entity = value.get("__entity")?;
    Some((entity.get("type")?.as_str()?, entity.get("id")?.as_str()?))
}
