//! Which policies can matter to a question, and what they look at.
//! Hides how a policy is taken apart: its scope, the part of its condition that needs no resource, the tags it reads.
//! INVARIANT: a slice holds every policy whose scope can match its action and type, so it answers as the whole set does.
//! INVARIANT: a guard is weaker than its policy: where the guard is not satisfied, the policy is not either.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::str::FromStr;
use std::sync::OnceLock;

use cedar_policy::{ActionConstraint, Effect, EntityUid, Policy, PolicySet, ResourceConstraint};
use serde_json::{Value, json};

use crate::fhir::action::Action;
use crate::fhir::definitions::{Definitions, ResourceType};

/// A policy, and what was found out about it when it was loaded.
#[derive(Debug, Clone)]
pub struct Indexed {
    policy: Policy,
    reads: Reads,
    looks: Looks,
    /// the entity types that it names
    types: BTreeSet<String>,
    /// the policy as a permit, whatever its effect
    as_permit: Policy,
    /// the part of it that is decided before the resource is known, as a permit
    guard: Policy,
}

/// What a policy, or a slice of them, looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    /// the tags of the resource, by name; `None` where a name is computed, so that any may be read
    tags: Option<BTreeSet<String>>,
    /// `context.now`, or the context as a whole
    pub now: bool,
    /// `context.source`, or the context as a whole
    pub source: bool,
    /// which resource it is, by the scope
    pub id: bool,
}

/// What of the resource decides whether a policy is satisfied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
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
pub struct IndexError {
    pub id: String,
    pub reason: String,
}

impl Indexed {
    /// Takes `policy` apart; it carries its stable id already. A condition nested deeper than `depth_max` is refused.
    pub fn new(policy: Policy, depth_max: usize) -> Result<Indexed, IndexError> {
        let failed = |reason: String| IndexError { id: policy.id().to_string(), reason };
        let json = policy.to_json().map_err(|error| failed(error.to_string()))?;
        let mut reads = Reads { tags: Some(BTreeSet::new()), ..Reads::default() };
        if is_deeper(&json, depth_max * JSON_LEVELS) {
            return Err(failed(format!("its condition is nested deeper than {depth_max}")));
        }
        let conditions = json.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
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
        reads.id = looks == Looks::Id;
        let mut permit = json;
        set(&mut permit, "effect", json!("permit"));
        let mut guard = permit.clone();
        set(&mut guard, "resource", guard_scope(&policy.resource_constraint()));
        set(&mut guard, "conditions", Value::Array(before_the_resource(&conditions)));
        let parse =
            |json| Policy::from_json(Some(policy.id().clone()), json).map_err(|error| failed(error.to_string()));
        let (as_permit, guard) = (parse(permit)?, parse(guard)?);
        Ok(Indexed { policy, reads, looks, types, as_permit, guard })
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
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

    /// Adds the entity types that it names, of resources and others.
    pub fn types_named(&self, into: &mut BTreeSet<String>) {
        into.extend(self.types.iter().cloned());
    }
}

/// One operator of Cedar is at most this many levels of its JSON: `{"&&": {"left": …}}`.
const JSON_LEVELS: usize = 3;

/// Without recursion, since the depth is what is in doubt.
fn is_deeper(value: &Value, depth_max: usize) -> bool {
    let mut open = vec![(value, 0)];
    while let Some((value, depth)) = open.pop() {
        if depth > depth_max {
            return true;
        }
        open.extend(operands_of(value).map(|child| (child, depth + 1)));
    }
    false
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
    /// All that can be read.
    pub fn everything() -> Reads {
        Reads { tags: None, now: true, source: true, id: true }
    }

    /// The tags that may be read; `None` for any.
    pub fn tags(&self) -> Option<&BTreeSet<String>> {
        self.tags.as_ref()
    }

    fn unite(&mut self, other: &Reads) {
        self.now |= other.now;
        self.id |= other.id;
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

/// The policies that can matter to one action on one type.
#[derive(Debug)]
pub struct Slice {
    pub permits: Side,
    pub forbids: Side,
    pub reads: Reads,
}

/// One effect's part of a slice. All of it stands as permits, so that Cedar names every policy that is satisfied.
#[derive(Debug)]
pub struct Side {
    /// the policies, to be asked where the resource is known
    pub whole: PolicySet,
    /// what is asked where only its type and id are known
    pub by_id: Guards,
    /// what is asked where only its type is known
    pub by_type: Guards,
}

/// Policies asked without the resource.
#[derive(Debug)]
pub struct Guards {
    /// a policy itself where it needs no more of the resource, else its guard
    pub policies: PolicySet,
    /// those that stand as guards: a satisfied one says "it depends", not "yes"
    pub undecided: HashSet<String>,
}

/// Every policy of a snapshot, with a slice for each action and type, made when it is first asked for.
pub struct Index {
    policies: Vec<Indexed>,
    actions: HashMap<Action, ActionEntry>,
    types: HashMap<&'static str, usize>,
    slices: Vec<OnceLock<Box<Slice>>>,
}

struct ActionEntry {
    row: usize,
    /// the action itself and every group it is in
    with_groups: HashSet<EntityUid>,
}

impl Index {
    /// `groups` gives an action with all its groups, as the schema has them.
    pub fn new(
        policies: Vec<Indexed>,
        definitions: &Definitions,
        groups: impl Fn(Action) -> HashSet<EntityUid>,
    ) -> Index {
        let actions: HashMap<Action, ActionEntry> = Action::all()
            .enumerate()
            .map(|(row, (action, _))| (action, ActionEntry { row, with_groups: groups(action) }))
            .collect();
        let names = definitions.resource_types().map(ResourceType::as_str).chain([super::schema::SERVER]);
        let types: HashMap<&'static str, usize> = names.enumerate().map(|(column, name)| (name, column)).collect();
        let slices = std::iter::repeat_with(OnceLock::new).take(actions.len() * types.len()).collect();
        Index { policies, actions, types, slices }
    }

    pub fn policies(&self) -> &[Indexed] {
        &self.policies
    }

    /// The policies that can matter to `action` on `of`, a resource type or `FhirServer`; `None` for a type that the
    /// snapshot's FHIR version does not have.
    pub fn slice(&self, action: Action, of: &str) -> Option<&Slice> {
        let entry = self.actions.get(&action)?;
        let column = *self.types.get(of)?;
        let cell = self.slices.get(entry.row * self.types.len() + column)?;
        Some(cell.get_or_init(|| Box::new(self.make(entry, of))))
    }

    fn make(&self, action: &ActionEntry, of: &str) -> Slice {
        let candidates = |effect| {
            self.policies.iter().filter(move |indexed| {
                indexed.policy.effect() == effect
                    && action_matches(&indexed.policy.action_constraint(), &action.with_groups)
                    && type_matches(&indexed.policy.resource_constraint(), of)
            })
        };
        let mut reads = Reads { tags: Some(BTreeSet::new()), ..Reads::default() };
        for indexed in candidates(Effect::Permit).chain(candidates(Effect::Forbid)) {
            reads.unite(&indexed.reads);
        }
        Slice { permits: Side::new(candidates(Effect::Permit)), forbids: Side::new(candidates(Effect::Forbid)), reads }
    }
}

impl Side {
    fn new<'p>(policies: impl Iterator<Item = &'p Indexed> + Clone) -> Side {
        Side {
            whole: policy_set(policies.clone().map(|indexed| indexed.as_permit.clone())),
            by_id: Guards::new(policies.clone(), |looks| looks == Looks::Content),
            by_type: Guards::new(policies, |looks| looks != Looks::Nothing),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.whole.is_empty()
    }
}

impl Guards {
    fn new<'p>(policies: impl Iterator<Item = &'p Indexed> + Clone, undecided: impl Fn(Looks) -> bool) -> Guards {
        let as_asked = |indexed: &Indexed| match undecided(indexed.looks) {
            true => indexed.guard.clone(),
            false => indexed.as_permit.clone(),
        };
        Guards {
            policies: policy_set(policies.clone().map(as_asked)),
            undecided: policies
                .filter(|indexed| undecided(indexed.looks))
                .map(|indexed| indexed.policy.id().to_string())
                .collect(),
        }
    }
}

fn policy_set(policies: impl Iterator<Item = Policy>) -> PolicySet {
    let mut set = PolicySet::new();
    for policy in policies {
        // INVARIANT: ids are unique within a snapshot (`snapshot::load`), which is all that `add` could object to
        let added = set.add(policy);
        debug_assert!(added.is_ok(), "policy ids are unique");
    }
    set
}

fn action_matches(constraint: &ActionConstraint, with_groups: &HashSet<EntityUid>) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::In(groups) => groups.iter().any(|group| with_groups.contains(group)),
        ActionConstraint::Eq(action) => with_groups.contains(action),
    }
}

fn type_matches(constraint: &ResourceConstraint, of: &str) -> bool {
    match constraint {
        ResourceConstraint::Any | ResourceConstraint::In(_) => true,
        ResourceConstraint::Eq(uid) => uid.type_name().to_string() == of,
        ResourceConstraint::Is(name) | ResourceConstraint::IsIn(name, _) => name.to_string() == of,
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

/// Whether an expression depends on more of the resource than its type.
fn looks_at_resource(expression: &Value) -> bool {
    if is_variable(Some(expression), "resource") {
        return true;
    }
    let Some(object) = expression.as_object() else { return false };
    object.iter().any(|(operator, operands)| {
        let only_type =
            operator == "is" && operands.get("in").is_none() && is_variable(operands.get("left"), "resource");
        !only_type && operands_of(operands).any(looks_at_resource)
    })
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

/// The Cedar id of an action or group.
pub fn action_uid(name: &str) -> Option<EntityUid> {
    let type_name = cedar_policy::EntityTypeName::from_str("Action").ok()?;
    Some(EntityUid::from_type_name_and_id(type_name, cedar_policy::EntityId::new(name)))
}
