//! Which policies can matter to a question: by its action, its type, its resource's id and its principal's roles.
//! Hides how policies are found, and that slices are kept.
//! INVARIANT: a slice holds every policy that can be satisfied, or fail, for its question, so it answers as the whole set does.
//! INVARIANT: what a question costs goes by the policies that can matter to it, not by those that there are.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{ActionConstraint, Effect, EntityUid, Policy, PolicySet, ResourceConstraint};

use crate::cache::Cache;
use crate::fhir::action::Action;
use crate::fhir::definitions::{Definitions, FhirId, ResourceType};
use crate::policy::analysis::{Analysed, Looks, Means, Reads};

/// The policies that can matter to a question.
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
    /// where only its type and id are known
    by_id: Guards,
    /// where only its type is known
    by_type: Guards,
}

/// Policies to be asked without the resource.
#[derive(Debug)]
struct Guards {
    /// a policy itself where it needs no more of the resource, else its guard; `None` where all stand as themselves
    policies: Option<PolicySet>,
    /// those that stand as guards: a satisfied one says "it depends", not "yes"
    undecided: HashSet<String>,
}

/// Every policy of a snapshot, and where to find those that matter.
pub struct Index {
    policies: Vec<Analysed>,
    /// an action, with every group that it is in
    actions: HashMap<Action, HashSet<EntityUid>>,
    types: HashSet<&'static str>,
    /// the policies that mean anyone
    of_anyone: ByType,
    /// the entities that policies mean, and for each the policies that mean it and who is in it
    entities: HashMap<EntityUid, usize>,
    of_these: Vec<ByType>,
    /// the resources that scopes name, by type and id
    resources: HashMap<String, HashMap<String, usize>>,
    slices: Cache<Asked, Arc<Slice>>,
}

/// Policies, by their place among all, by the type that their scope names.
#[derive(Default)]
struct ByType {
    of: HashMap<String, Vec<usize>>,
    any: Vec<usize>,
}

/// What sets a principal apart from others: the entities that it is or is in, as far as policies mean them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Membership(Arc<[usize]>);

/// Which resource a question is about, as far as scopes tell resources apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Which {
    /// it may be any
    Any,
    /// one that no scope names
    Unnamed,
    /// one of those that scopes name
    Named(usize),
}

/// All that a slice depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Asked {
    action: Action,
    of: &'static str,
    which: Which,
    by: Membership,
}

/// What slices take at most; and what is reckoned for one, and for each of its policies.
const SLICES_BYTES_MAX: usize = crate::cache::BYTES_MAX_DEFAULT / 4;
const SLICE_BYTES: usize = 2 * 1024;
const POLICY_BYTES: usize = 4 * 1024;

impl Index {
    /// `groups` gives an action with all its groups, as the schema has them.
    pub fn new(
        policies: Vec<Analysed>,
        definitions: &Definitions,
        groups: impl Fn(Action) -> HashSet<EntityUid>,
    ) -> Index {
        let mut index = Index {
            policies: Vec::new(),
            actions: Action::all().map(|(action, _)| (action, groups(action))).collect(),
            types: definitions.resource_types().map(ResourceType::as_str).chain([super::schema::SERVER]).collect(),
            of_anyone: ByType::default(),
            entities: HashMap::new(),
            of_these: Vec::new(),
            resources: HashMap::new(),
            slices: Cache::new(SLICES_BYTES_MAX),
        };
        policies.iter().enumerate().for_each(|(place, policy)| index.add(place, policy));
        Index { policies, ..index }
    }

    fn add(&mut self, place: usize, policy: &Analysed) {
        let about = policy.about();
        match policy.means() {
            Means::Anyone => self.of_anyone.add(place, about.as_deref()),
            Means::These(uids) => {
                for uid in uids {
                    let next = self.of_these.len();
                    let known = *self.entities.entry(uid.clone()).or_insert(next);
                    if known == next {
                        self.of_these.push(ByType::default());
                    }
                    self.of_these.get_mut(known).into_iter().for_each(|these| these.add(place, about.as_deref()));
                }
            }
        }
        if let ResourceConstraint::Eq(uid) = policy.policy().resource_constraint() {
            let ids = self.resources.entry(uid.type_name().to_string()).or_default();
            let (id, next): (&str, _) = (uid.id().as_ref(), ids.len());
            ids.entry(id.to_owned()).or_insert(next);
        }
    }

    pub fn policies(&self) -> &[Analysed] {
        &self.policies
    }

    /// What sets a principal apart that is, or is in, these entities.
    pub fn membership<'u>(&self, uids: impl IntoIterator<Item = &'u EntityUid>) -> Membership {
        let mut known: Vec<usize> = uids.into_iter().filter_map(|uid| self.entities.get(uid)).copied().collect();
        known.sort_unstable();
        known.dedup();
        Membership(known.into())
    }

    /// Whether scopes tell this resource of a type from others. No id: it may be any.
    pub fn which(&self, of: &str, id: Option<&FhirId>) -> Which {
        let Some(id) = id else { return Which::Any };
        let named = self.resources.get(of).and_then(|ids| ids.get(id.as_str()));
        named.map_or(Which::Unnamed, |named| Which::Named(*named))
    }

    /// The policies that can matter where such a principal asks for `action` on `of`, a resource type or `FhirServer`;
    /// `None` for a type that the snapshot's FHIR version does not have.
    pub fn slice(&self, action: Action, of: &'static str, which: Which, by: &Membership) -> Option<Arc<Slice>> {
        let asked = Asked { action, of, which, by: by.clone() };
        if let Some(known) = self.slices.get(&asked) {
            return Some(known);
        }
        let with_groups = self.actions.get(&action).filter(|_| self.types.contains(of))?;
        let slice = Arc::new(Slice::new(self.candidates(with_groups, &asked)));
        let bytes = SLICE_BYTES + size_of_val(&*asked.by.0) + slice.len() * POLICY_BYTES;
        self.slices.keep(asked, Arc::clone(&slice), bytes);
        Some(slice)
    }

    fn candidates(&self, with_groups: &HashSet<EntityUid>, asked: &Asked) -> Vec<&Analysed> {
        let of_these = asked.by.0.iter().filter_map(|entity| self.of_these.get(*entity));
        let mut places: Vec<usize> =
            [&self.of_anyone].into_iter().chain(of_these).flat_map(|by_type| by_type.of(asked.of)).collect();
        places.sort_unstable();
        places.dedup();
        let named = |uid: &EntityUid| {
            let id: &str = uid.id().as_ref();
            self.resources.get(asked.of).and_then(|ids| ids.get(id)).map(|named| Which::Named(*named))
        };
        let resource_matches = |policy: &Analysed| match policy.policy().resource_constraint() {
            ResourceConstraint::Eq(uid) => asked.which == Which::Any || Some(asked.which) == named(&uid),
            ResourceConstraint::Any
            | ResourceConstraint::In(_)
            | ResourceConstraint::Is(_)
            | ResourceConstraint::IsIn(..) => true,
        };
        places
            .into_iter()
            .filter_map(|place| self.policies.get(place))
            .filter(|policy| action_matches(&policy.policy().action_constraint(), with_groups))
            .filter(|policy| resource_matches(policy))
            .collect()
    }

    /// The permits for `action` on `of`, whoever they mean.
    pub fn permits(&self, action: Action, of: &str) -> impl Iterator<Item = &Policy> {
        let with_groups = self.actions.get(&action);
        self.policies
            .iter()
            .filter(move |policy| policy.about().is_none_or(|about| about == of))
            .map(Analysed::policy)
            .filter(move |policy| {
                policy.effect() == Effect::Permit
                    && with_groups.is_some_and(|groups| action_matches(&policy.action_constraint(), groups))
            })
    }
}

impl ByType {
    fn add(&mut self, place: usize, about: Option<&str>) {
        match about {
            None => self.any.push(place),
            Some(about) => self.of.entry(about.to_owned()).or_default().push(place),
        }
    }

    fn of(&self, name: &str) -> impl Iterator<Item = usize> {
        self.any.iter().chain(self.of.get(name).into_iter().flatten()).copied()
    }
}

impl Slice {
    fn new(policies: Vec<&Analysed>) -> Slice {
        let mut reads = Reads::nothing();
        policies.iter().for_each(|policy| reads.unite(policy.reads()));
        let (permits, forbids): (Vec<&Analysed>, Vec<&Analysed>) =
            policies.into_iter().partition(|policy| policy.policy().effect() == Effect::Permit);
        Slice { permits: Side::new(&permits), forbids: Side::new(&forbids), reads }
    }

    /// Whether its answer stays, whenever and from wherever somebody asks.
    pub fn is_timeless(&self) -> bool {
        !self.reads.now && !self.reads.source
    }

    fn len(&self) -> usize {
        self.permits.len() + self.forbids.len()
    }
}

impl Side {
    fn new(policies: &[&Analysed]) -> Side {
        Side {
            whole: policy_set(policies.iter().map(|policy| policy.as_permit())),
            by_id: Guards::new(policies, |looks| looks == Looks::Content),
            by_type: Guards::new(policies, |looks| looks != Looks::Nothing),
        }
    }

    fn len(&self) -> usize {
        self.whole.num_of_policies()
    }

    pub fn is_empty(&self) -> bool {
        self.whole.is_empty()
    }

    /// What is asked without the resource, by its type and, where that is known, its id; and which of these policies,
    /// where they are satisfied, say "it depends" and not "yes".
    pub fn guards(&self, id_is_known: bool) -> (&PolicySet, &HashSet<String>) {
        let guards = if id_is_known { &self.by_id } else { &self.by_type };
        (guards.policies.as_ref().unwrap_or(&self.whole), &guards.undecided)
    }
}

impl Guards {
    fn new(policies: &[&Analysed], is_undecided: impl Fn(Looks) -> bool) -> Guards {
        let (undecided, decided): (Vec<&Analysed>, Vec<&Analysed>) =
            policies.iter().partition(|policy| is_undecided(policy.looks()));
        let guards = undecided.iter().map(|policy| policy.guard());
        let all = guards.chain(decided.iter().map(|policy| policy.as_permit()));
        Guards {
            policies: (!undecided.is_empty()).then(|| policy_set(all)),
            undecided: undecided.iter().map(|policy| policy.policy().id().to_string()).collect(),
        }
    }
}

fn policy_set<'p>(policies: impl Iterator<Item = &'p Policy>) -> PolicySet {
    let mut set = PolicySet::new();
    for policy in policies {
        // INVARIANT: ids are unique within a snapshot (`snapshot::load`), which is all that `add` could object to
        let added = set.add(policy.clone());
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

/// The Cedar id of an action or group.
pub fn action_uid(name: &str) -> Option<EntityUid> {
    let type_name = cedar_policy::EntityTypeName::from_str("Action").ok()?;
    Some(EntityUid::from_type_name_and_id(type_name, cedar_policy::EntityId::new(name)))
}
