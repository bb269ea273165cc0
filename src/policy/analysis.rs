//! A policy taken apart when it is loaded: whom its scope means, what it looks at, what decides it before the resource is known.
//! Hides Cedar's JSON of policies. INVARIANT: a guard is weaker than its policy: where the guard is not satisfied, the
//! policy is not either. INVARIANT: of a principal that a policy does not mean, it is neither satisfied nor an error.
//! Source: Cedar's JSON policy format.

use std::collections::BTreeSet;

use cedar_policy::{Effect, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use serde_json::{Value, json};

/// A policy, and what was found out about it.
#[derive(Debug, Clone)]
pub struct Analysed {
    policy: Policy,
    means: Means,
    reads: Reads,
    looks: Looks,
    /// the entity types that it names
    types: BTreeSet<String>,
    form: Form,
    /// the policy as a permit, where it is none
    as_permit: Option<Policy>,
    /// the part of it that is decided before the resource is known, as a permit; `None` where that is all of it
    guard: Option<Policy>,
}

/// Whom a policy means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    Anyone,
    /// who is one of these, or is in one
    These(Vec<EntityUid>),
}

/// A SHA-256 over what validation looks at: policies of one form are all valid, or none is.
pub type Form = [u8; 32];

/// What a policy, or a slice of them, looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reads {
    /// the tags of the resource, by name; `None` where a name is computed, so that any may be read
    tags: Option<BTreeSet<String>>,
    /// `context.now`, or the context as a whole
    pub now: bool,
    /// `context.source`, or the context as a whole
    pub source: bool,
}

/// What of the resource decides whether a policy is satisfied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looks {
    /// its type at most
    Nothing,
    /// which one it is: `resource == Patient::"1"` in the scope
    Id,
    /// its labels, tags or compartments
    Content,
}

/// The policy cannot be taken apart: it uses JSON that this version of Cedar does not write.
#[derive(Debug, thiserror::Error)]
#[error("policy `{id}` cannot be read: {reason}")]
pub struct AnalysisError {
    pub id: String,
    pub reason: String,
}

impl Analysed {
    /// Takes `policy` apart; it carries its stable id already. A condition that is nested too deeply is refused.
    pub fn new(policy: Policy) -> Result<Analysed, AnalysisError> {
        let failed = |reason: String| AnalysisError { id: policy.id().to_string(), reason };
        let json = policy.to_json().map_err(|error| failed(error.to_string()))?;
        is_shallow(&json).map_err(failed)?;
        let conditions = json.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut reads = Reads::nothing();
        let mut content = false;
        for body in conditions.iter().filter_map(|condition| condition.get("body")) {
            content |= looks_at_resource(body);
            reads.note(body);
        }
        let looks = match (content, policy.resource_constraint()) {
            (true, _) | (_, ResourceConstraint::In(_) | ResourceConstraint::IsIn(..)) => Looks::Content,
            (false, ResourceConstraint::Eq(_)) => Looks::Id,
            (false, ResourceConstraint::Any | ResourceConstraint::Is(_)) => Looks::Nothing,
        };
        let mut types = BTreeSet::new();
        types_in(&json, &mut types);
        let means = means(&policy.principal_constraint(), &conditions);
        let form = form(&json);
        let parse =
            |json| Policy::from_json(Some(policy.id().clone()), json).map_err(|error| failed(error.to_string()));
        let mut permit = json;
        set(&mut permit, "effect", json!("permit"));
        let guard = match looks {
            Looks::Nothing => None,
            Looks::Id | Looks::Content => {
                let mut guard = permit.clone();
                set(&mut guard, "resource", guard_scope(&policy.resource_constraint()));
                set(&mut guard, "conditions", Value::Array(before_the_resource(&conditions)));
                Some(parse(guard)?)
            }
        };
        let as_permit = match policy.effect() {
            Effect::Permit => None,
            Effect::Forbid => Some(parse(permit)?),
        };
        Ok(Analysed { policy, means, reads, looks, types, form, as_permit, guard })
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub fn means(&self) -> &Means {
        &self.means
    }

    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(super) fn looks(&self) -> Looks {
        self.looks
    }

    pub fn form(&self) -> &Form {
        &self.form
    }

    /// The policy as a permit, whatever its effect.
    pub fn as_permit(&self) -> &Policy {
        self.as_permit.as_ref().unwrap_or(&self.policy)
    }

    /// The part of it that is decided before the resource is known, as a permit.
    pub fn guard(&self) -> &Policy {
        self.guard.as_ref().unwrap_or(self.as_permit())
    }

    /// The resource type that its scope names.
    pub fn about(&self) -> Option<String> {
        match self.policy.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::In(_) => None,
            ResourceConstraint::Eq(uid) => Some(uid.type_name().to_string()),
            ResourceConstraint::Is(name) | ResourceConstraint::IsIn(name, _) => Some(name.to_string()),
        }
    }

    /// The tags of the resource that it names.
    pub fn resource_tags(&self) -> impl Iterator<Item = &str> {
        self.reads.tags.iter().flatten().map(String::as_str)
    }

    /// The entity types that it names, of resources and others.
    pub fn types(&self) -> &BTreeSet<String> {
        &self.types
    }
}

/// By the scope, or else by what is asked before all else: the first condition, or the left side of its `&&`.
fn means(scope: &PrincipalConstraint, conditions: &[Value]) -> Means {
    match scope {
        PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::IsIn(_, uid) => {
            Means::These(vec![uid.clone()])
        }
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => {
            let first = conditions.first().filter(|first| first.get("kind").and_then(Value::as_str) == Some("when"));
            first.and_then(|first| named_first(first.get("body")?)).map_or(Means::Anyone, Means::These)
        }
    }
}

/// The entities of `principal in X`, `principal in [X, Y]` or `principal == X`, where an expression asks that first.
fn named_first(expression: &Value) -> Option<Vec<EntityUid>> {
    let mut first = expression;
    while let Some(left) = first.get("&&").and_then(|and| and.get("left")) {
        first = left;
    }
    let operands = first.get("in").or_else(|| first.get("=="))?;
    if !is_variable(operands.get("left"), "principal") {
        return None;
    }
    let right = operands.get("right")?;
    match right.get("Set").and_then(Value::as_array) {
        Some(items) => items.iter().map(entity).collect(),
        None => Some(vec![entity(right)?]),
    }
}

fn entity(expression: &Value) -> Option<EntityUid> {
    EntityUid::from_json(expression.get("Value")?.clone()).ok()
}

/// Validation goes by types: neither annotations matter to it, nor which entity of a type the scope names, unless its
/// id may look like another.
fn form(json: &Value) -> Form {
    let mut form = json.clone();
    set(&mut form, "annotations", Value::Null);
    for place in ["/principal/entity/id", "/principal/in/entity/id", "/resource/entity/id", "/resource/in/entity/id"] {
        if let Some(id) = form.pointer_mut(place).filter(|id| id.as_str().is_some_and(str::is_ascii)) {
            *id = Value::Null;
        }
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, form.to_string().as_bytes());
    let mut form = Form::default();
    form.copy_from_slice(digest.as_ref());
    form
}

/// Brackets and `if`s within a policy's text: more are refused, since Cedar's parser recurses into them, and a stack that
/// overflows ends the process.
const NESTING_MAX: usize = 100;
/// Letters of operators within a policy's text: a chain of them is nested too.
const OPERATORS_MAX: usize = 2_000;

/// The offset at which the text of policies is nested too deeply to be parsed. Every `if` of a policy counts, since what
/// follows its `else` is within it.
pub fn too_deep_at(text: &str) -> Option<usize> {
    let (mut brackets, mut ifs, mut operators) = (0_usize, 0_usize, 0_usize);
    let mut before = b' ';
    let mut bytes = text.bytes().enumerate();
    while let Some((offset, byte)) = bytes.next() {
        let rest = text.as_bytes().get(offset + 1..).unwrap_or_default();
        match byte {
            b'"' => {
                while let Some((_, quoted)) = bytes.next().filter(|(_, quoted)| *quoted != b'"') {
                    if quoted == b'\\' {
                        bytes.next();
                    }
                }
            }
            b'/' if rest.first() == Some(&b'/') => drop(bytes.find(|(_, byte)| matches!(byte, b'\n' | b'\r'))),
            b'(' | b'[' | b'{' => brackets += 1,
            b')' | b']' | b'}' => brackets = brackets.saturating_sub(1),
            b';' => (ifs, operators) = (0, 0),
            b'&' | b'|' | b'+' | b'-' | b'*' | b'.' | b'!' => operators += 1,
            b'i' if rest.first() == Some(&b'f')
                && !is_of_word(before)
                && !rest.get(1).copied().is_some_and(is_of_word) =>
            {
                ifs += 1;
            }
            _ => {}
        }
        if brackets + ifs > NESTING_MAX || operators > OPERATORS_MAX {
            return Some(offset);
        }
        before = byte;
    }
    None
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// A condition nested deeper than this is refused, before anything recurses into it.
const CONDITION_DEPTH_MAX: usize = 200;
/// One operator of Cedar is at most this many levels of its JSON: `{"&&": {"left": …}}`.
const JSON_LEVELS: usize = 3;

/// That a policy's JSON may be recursed into, or why not. Without recursion, since the depth is what is in doubt.
pub(super) fn is_shallow(value: &Value) -> Result<(), String> {
    let mut open = vec![(value, 0)];
    while let Some((value, depth)) = open.pop() {
        if depth > CONDITION_DEPTH_MAX * JSON_LEVELS {
            return Err(format!("its condition is nested deeper than {CONDITION_DEPTH_MAX}"));
        }
        open.extend(operands_of(value).map(|child| (child, depth + 1)));
    }
    Ok(())
}

/// Cedar's JSON names an entity type as `entity_type`, and as the `type` of an entity.
fn types_in(value: &Value, into: &mut BTreeSet<String>) {
    if let Some(object) = value.as_object() {
        let named = ["entity_type", "type"].into_iter().filter_map(|field| object.get(field)?.as_str());
        into.extend(named.map(str::to_owned));
    }
    for child in operands_of(value) {
        types_in(child, into);
    }
}

impl Reads {
    /// Nothing.
    pub fn nothing() -> Reads {
        Reads { tags: Some(BTreeSet::new()), now: false, source: false }
    }

    /// All that can be read.
    pub fn everything() -> Reads {
        Reads { tags: None, now: true, source: true }
    }

    /// The tags that may be read; `None` for any.
    pub fn tags(&self) -> Option<&BTreeSet<String>> {
        self.tags.as_ref()
    }

    pub(super) fn unite(&mut self, other: &Reads) {
        self.now |= other.now;
        self.source |= other.source;
        self.tags = match (self.tags.take(), &other.tags) {
            (Some(mut tags), Some(more)) => {
                tags.extend(more.iter().cloned());
                Some(tags)
            }
            (None, _) | (_, None) => None,
        };
    }

    fn note(&mut self, expression: &Value) {
        walk(expression, &mut |operator, operands| match operator {
            // tags of the resource, or of what may be the resource; the principal's are its own
            "getTag" | "hasTag" if is_variable(operands.get("left"), "principal") => {}
            "getTag" | "hasTag" => match literal(operands.get("right")) {
                Some(tag) => {
                    if let Some(tags) = &mut self.tags {
                        tags.insert(tag.to_owned());
                    }
                }
                None => self.tags = None,
            },
            "." | "has" if is_variable(operands.get("left"), "context") => {
                match operands.get("attr").and_then(Value::as_str) {
                    Some("now") => self.now = true,
                    Some("source") => self.source = true,
                    Some(_) | None => {}
                }
            }
            _ => {
                // `context == …`, `context in a set`: the context as a whole
                if operands_of(operands).any(|operand| is_variable(Some(operand), "context")) {
                    self.now = true;
                    self.source = true;
                }
            }
        });
    }
}

/// The scope of a guard: the type where the policy names one, and nothing else about the resource.
fn guard_scope(constraint: &ResourceConstraint) -> Value {
    match constraint {
        ResourceConstraint::Any | ResourceConstraint::In(_) => json!({ "op": "All" }),
        ResourceConstraint::Is(name) | ResourceConstraint::IsIn(name, _) => {
            json!({ "op": "is", "entity_type": name.to_string() })
        }
        ResourceConstraint::Eq(uid) => json!({ "op": "is", "entity_type": uid.type_name().to_string() }),
    }
}

/// The conditions up to the first that looks at the resource; of that one, the conjuncts before.
/// Cedar evaluates conditions, and the sides of `&&`, from left to right: what stands before decides before.
fn before_the_resource(conditions: &[Value]) -> Vec<Value> {
    let mut kept = Vec::new();
    for condition in conditions {
        let Some(body) = condition.get("body") else { break };
        if !looks_at_resource(body) {
            kept.push(condition.clone());
            continue;
        }
        if condition.get("kind").and_then(Value::as_str) == Some("when") {
            let mut conjuncts = Vec::new();
            leading_conjuncts(body, &mut conjuncts);
            kept.extend(conjuncts.into_iter().map(|conjunct| json!({ "kind": "when", "body": conjunct })));
        }
        break;
    }
    kept
}

/// Collects the conjuncts before the first that looks at the resource; true where none does.
fn leading_conjuncts<'v>(expression: &'v Value, into: &mut Vec<&'v Value>) -> bool {
    if let Some(and) = expression.get("&&")
        && let (Some(left), Some(right)) = (and.get("left"), and.get("right"))
    {
        return leading_conjuncts(left, into) && leading_conjuncts(right, into);
    }
    let plain = !looks_at_resource(expression);
    if plain {
        into.push(expression);
    }
    plain
}

/// Whether an expression depends on more of the resource than its type. What it reaches by another name
/// (`principal.patient`, `Patient::"1"`) may be the resource too, and is not found where that is not at hand.
fn looks_at_resource(expression: &Value) -> bool {
    if is_variable(Some(expression), "resource") {
        return true;
    }
    let Some(object) = expression.as_object() else { return false };
    object.iter().any(|(operator, operands)| {
        let left = operands.get("left");
        let is_of_type = operator == "is" && operands.get("in").is_none();
        let enters_another = match operator.as_str() {
            "in" | "is" | "getTag" | "hasTag" => !is_of_type && !is_at_hand(left),
            "." | "has" => !is_at_hand(left) && !is_record(left),
            _ => false,
        };
        let only_type = is_of_type && is_variable(left, "resource");
        enters_another || (!only_type && operands_of(operands).any(looks_at_resource))
    })
}

/// An entity that every question has.
fn is_at_hand(expression: Option<&Value>) -> bool {
    is_variable(expression, "principal") || is_variable(expression, "action")
}

/// What the schema says is a record: `context`, `principal.fhirUser`, `principal.smart`, `principal.smart.patient`.
fn is_record(expression: Option<&Value>) -> bool {
    let mut names = Vec::new();
    let mut root = expression;
    while let Some(member) = root.and_then(|expression| expression.get(".")) {
        names.push(member.get("attr").and_then(Value::as_str).unwrap_or_default());
        root = member.get("left");
    }
    match names.as_slice() {
        [] => is_variable(root, "context"),
        ["fhirUser" | "smart"] | ["patient" | "user" | "system", "smart"] => is_variable(root, "principal"),
        _ => false,
    }
}

/// Calls `visit` with each operator of an expression and its operands, outermost first.
fn walk<'v>(expression: &'v Value, visit: &mut impl FnMut(&'v str, &'v Value)) {
    let Some(object) = expression.as_object() else { return };
    for (operator, operands) in object {
        // a literal's content is no expression
        if operator == "Value" {
            continue;
        }
        visit(operator, operands);
        for operand in operands_of(operands) {
            walk(operand, visit);
        }
    }
}

/// The operands of an operator, as Cedar's JSON writes them: `{left, right, arg, if, then, else, in}`, an array for sets
/// and extension calls, an object of values for records.
fn operands_of(operands: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match operands {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(fields) => Box::new(fields.values()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Box::new(std::iter::empty()),
    }
}

fn is_variable(expression: Option<&Value>, name: &str) -> bool {
    expression.and_then(|expression| expression.get("Var")).and_then(Value::as_str) == Some(name)
}

fn literal(expression: Option<&Value>) -> Option<&str> {
    expression?.get("Value")?.as_str()
}

fn set(policy: &mut Value, field: &str, value: Value) {
    if let Some(object) = policy.as_object_mut() {
        object.insert(field.to_owned(), value);
    }
}
