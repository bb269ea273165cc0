//! One question to Cedar, under each view of a principal.
//! Hides the two steps in which policies are asked: without the resource, which is remembered; then those that are open
//! still, with it. INVARIANT: a policy is asked as a whole wherever its guard is satisfied or fails, and nowhere else.
//! INVARIANT: a policy that errors denies, whatever the others say. Cedar's own authorizer would skip it, even a forbid.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Entities, Entity, EntityUid, PolicyId, PolicySet, Request,
};
use serde_json::Value;

use crate::claims::scope::Constraint;
use crate::engine::decide::{Asker, Open, Question, Verdict};
use crate::engine::entities::{Content, View, context, resource_entity, resource_uid};
use crate::engine::filter::Visible;
use crate::engine::residual::{self, Atom, Formula, Known};
use crate::fhir::definitions::ResourceType;
use crate::fhir::operation::Operation;
use crate::fhir::resource;
use crate::policy::analysis::Reads;
use crate::policy::index::{Side, Slice};
use crate::policy::schema::SERVER;

/// What was found about a question without the resource, under each view that has a say.
#[derive(Debug)]
pub struct Opening {
    scene: Scene,
    /// of the whole principal the forbids alone, which are those of each of its views
    whole: Option<ByView>,
    roles: Option<ByView>,
    /// by the view's place among the scopes
    scopes: Vec<(usize, ByView)>,
    /// whether it stays, whenever and from wherever somebody asks
    is_timeless: bool,
    /// the verdict while no resource is known
    verdict: OnceLock<Arc<Verdict>>,
    /// what is visible of the type, where that depends on the resource; `None` where it cannot be said
    visible: OnceLock<Option<Arc<Visible>>>,
}

/// What is the same whoever asks, about whichever resource.
#[derive(Debug)]
struct Scene {
    action: Entity,
    context: Context,
    /// what the policies look at
    reads: Reads,
}

/// The policies that one view found.
#[derive(Debug)]
struct ByView {
    /// the view and the action, in Cedar
    entities: Entities,
    permits: Found,
    forbids: Found,
}

/// The policies of one effect.
#[derive(Debug, Default)]
struct Found {
    /// satisfied, whatever the resource holds
    sure: BTreeSet<String>,
    /// their answer depends on the resource; as permits
    open: PolicySet,
    /// what failed of the guards of those: without the resource there is no answer; with it, the scope of such a policy
    /// may not match, and then it does not fail
    failure: Option<String>,
}

impl Opening {
    /// What it takes in memory, reckoned rather too much: the entity of each view stands here again.
    pub fn bytes(&self, view_bytes: usize) -> usize {
        const POLICY: usize = 4 * 1024;
        let policies = |found: &Found| 1 + found.sure.len() + found.open.num_of_policies();
        let views = self.scopes.iter().map(|(_, found)| found).chain(&self.roles).chain(&self.whole);
        let found = views.map(|found| view_bytes + POLICY * (policies(&found.permits) + policies(&found.forbids)));
        let visible = self.visible.get().into_iter().flatten().map(|visible| visible.bytes());
        found.chain(visible).sum()
    }
}

impl Asker<'_> {
    /// What is found about a question without its resource; of an earlier call, or now.
    fn opening(&self, operation: &Operation, question: &Question<'_>) -> Result<Arc<Opening>, String> {
        let asked = self.asked(operation, question);
        if let Some(known) = self.standing.opening(&asked) {
            return Ok(known);
        }
        let slice = self.slice(question).ok_or_else(|| unknown_type(question))?;
        let opening = Arc::new(self.open(operation, question, &slice)?);
        self.keep(operation, question, &opening);
        Ok(opening)
    }

    fn keep(&self, operation: &Operation, question: &Question<'_>, opening: &Arc<Opening>) {
        if opening.is_timeless {
            self.standing.keep_opening(self.asked(operation, question), Arc::clone(opening));
        }
    }

    fn open(&self, operation: &Operation, question: &Question<'_>, slice: &Slice) -> Result<Opening, String> {
        let scene = self.scene(operation, question, slice)?;
        let both = |view: &View| scene.found(view, question, Some(&slice.permits), &slice.forbids);
        let views = &self.standing.views;
        let (action, of) = (question.access.action, question.of);
        let speaking = views.scopes.iter().enumerate().filter(|(_, view)| view.speaks_for(action, of));
        let whole = views.whole.as_ref().map(|view| scene.found(view, question, None, &slice.forbids));
        Ok(Opening {
            whole: whole.transpose()?,
            roles: views.roles.as_ref().map(both).transpose()?,
            scopes: speaking.map(|(place, view)| Ok((place, both(view)?))).collect::<Result<_, String>>()?,
            is_timeless: slice.is_timeless(),
            verdict: OnceLock::new(),
            visible: OnceLock::new(),
            scene,
        })
    }

    /// The verdict of all views: where the resource is known, what is open is asked with it; where it is not, by guards.
    pub(super) fn verdict(&self, operation: &Operation, question: &Question<'_>) -> Arc<Verdict> {
        let opening = match self.opening(operation, question) {
            Ok(opening) => opening,
            Err(message) => return Arc::new(Verdict::Failed(message)),
        };
        let verdict = || Arc::new(self.joined(question, &opening).unwrap_or_else(Verdict::Failed));
        match question.content {
            Content::Unknown => Arc::clone(opening.verdict.get_or_init(verdict)),
            // of the server there is nothing to know
            Content::Nothing if question.of == SERVER => Arc::clone(opening.verdict.get_or_init(verdict)),
            Content::Nothing | Content::Known(_) => verdict(),
        }
    }

    /// What is visible of a type in general; `None` where that cannot be said.
    pub(super) fn visible_of_type(
        &self,
        operation: &Operation,
        question: &Question<'_>,
        of: ResourceType,
    ) -> Option<Arc<Visible>> {
        let opening = self.opening(operation, question).ok()?;
        if let Some(visible) = opening.visible.get() {
            return visible.clone();
        }
        let known = Known { of, id: None, within: None, definitions: self.snapshot.definitions };
        let formula = self.formula(operation, question, &opening);
        let visible = formula.map(|formula| Arc::new(Visible::of(formula.given(&|atom| known.judge(atom)))));
        let visible = opening.visible.get_or_init(|| visible).clone();
        // it weighs more now
        self.keep(operation, question, &opening);
        visible
    }

    fn joined(&self, question: &Question<'_>, opening: &Opening) -> Result<Verdict, String> {
        let views = &self.standing.views;
        let with = With { question, scene: &opening.scene, resource: OnceCell::new() };
        // what forbids the whole principal forbids each of its views
        let forbids = match views.whole.as_ref().zip(opening.whole.as_ref()) {
            Some((view, found)) => self.settled(&with, view, found)?.forbids,
            None => Settled::default(),
        };
        let verdict = |view: &View, found: &ByView| {
            let BySettled { permits, forbids: own } = self.settled(&with, view, found)?;
            Ok::<_, String>(self.within(permits.verdict(&[&own, &forbids]), question, view))
        };
        let scopes = opening.scopes.iter().filter_map(|(place, found)| Some(verdict(views.scopes.get(*place)?, found)));
        let scopes = scopes.collect::<Result<Vec<Verdict>, String>>()?.into_iter().reduce(either);
        let roles = views.roles.as_ref().zip(opening.roles.as_ref()).map(|(view, found)| verdict(view, found));
        Ok(match (roles.transpose()?, scopes) {
            (Some(roles), Some(scopes)) => both(roles, scopes),
            (Some(verdict), None) | (None, Some(verdict)) => verdict,
            (None, None) => Verdict::NoPermit,
        })
    }

    /// What the policies say under one view, before it is joined with others or held against a scope's constraints.
    pub(super) fn under_one_view(&self, operation: &Operation, question: &Question<'_>, view: &View) -> Verdict {
        let verdict = || {
            let slice = self.slice(question).ok_or_else(|| unknown_type(question))?;
            let scene = self.scene(operation, question, &slice)?;
            let found = scene.found(view, question, Some(&slice.permits), &slice.forbids)?;
            let with = With { question, scene: &scene, resource: OnceCell::new() };
            let BySettled { permits, forbids } = self.settled(&with, view, &found)?;
            Ok(permits.verdict(&[&forbids]))
        };
        verdict().unwrap_or_else(Verdict::Failed)
    }

    /// Asks what is open, where the resource is known.
    fn settled(&self, with: &With<'_>, view: &View, found: &ByView) -> Result<BySettled, String> {
        let ByView { entities, permits, forbids } = found;
        let is_open = !permits.open.is_empty() || !forbids.open.is_empty();
        let asked = match with.question.content {
            Content::Known(_) | Content::Nothing if is_open => {
                let resource = self.resource(with)?;
                let entities = entities.clone().add_entities([resource.clone()], None);
                Some((with.scene.request(view, resource.uid())?, entities.map_err(|error| error.to_string())?))
            }
            Content::Known(_) | Content::Nothing | Content::Unknown => None,
        };
        Ok(BySettled { permits: permits.settled(asked.as_ref())?, forbids: forbids.settled(asked.as_ref())? })
    }

    fn resource<'w>(&self, with: &'w With<'_>) -> Result<&'w Entity, String> {
        if let Some(resource) = with.resource.get() {
            return Ok(resource);
        }
        let Question { of, id, content, .. } = *with.question;
        let resource = resource_entity(self.snapshot, of, id, content, &with.scene.reads);
        let resource = resource.map_err(|error| error.to_string())?;
        Ok(with.resource.get_or_init(|| resource))
    }

    fn scene(&self, operation: &Operation, question: &Question<'_>, slice: &Slice) -> Result<Scene, String> {
        let Question { access, of, .. } = *question;
        let name = operation.name.as_deref();
        let context = context(self.facts, of, access.role, name, &slice.reads).map_err(|error| error.to_string())?;
        let action = self.snapshot.action(access.action).ok_or("the schema lacks the action")?.clone();
        Ok(Scene { action, context, reads: slice.reads.clone() })
    }

    /// What is visible of resources of a type, whatever is known of one beside. As `joined` joins verdicts: roles and
    /// scopes must both permit where both are there, and nothing may forbid.
    fn formula(&self, operation: &Operation, question: &Question<'_>, opening: &Opening) -> Option<Formula> {
        let views = &self.standing.views;
        let mut forbidden = Vec::new();
        if let Some((view, found)) = views.whole.as_ref().zip(opening.whole.as_ref()) {
            forbidden.push(self.residual(operation, question, view, &found.forbids)?);
        }
        let mut permitted = |view: &View, found: &ByView| {
            forbidden.push(self.residual(operation, question, view, &found.forbids)?);
            let permits = self.residual(operation, question, view, &found.permits)?;
            let constraints = view.constrained.iter().flat_map(|scope| &scope.constraints);
            let found = constraints.map(|Constraint { parameter, value }| {
                Formula::atom(Atom::Found { parameter: parameter.clone(), values: BTreeSet::from([value.clone()]) })
            });
            Some(Formula::all([permits].into_iter().chain(found)))
        };
        let roles = match views.roles.as_ref().zip(opening.roles.as_ref()) {
            Some((view, found)) => Some(permitted(view, found)?),
            None => None,
        };
        let scopes = opening.scopes.iter().map(|(place, found)| permitted(views.scopes.get(*place)?, found));
        let scopes = scopes.collect::<Option<Vec<_>>>()?;
        let scopes = (!views.scopes.is_empty()).then(|| Formula::any(scopes));
        let permitted = match (roles, scopes) {
            (None, None) => return None,
            (roles, scopes) => Formula::all(roles.into_iter().chain(scopes)),
        };
        Some(Formula::all([permitted, Formula::any(forbidden).negated()]))
    }

    /// The formula of what was found of one effect: true where one of its policies is satisfied.
    fn residual(&self, operation: &Operation, question: &Question<'_>, view: &View, found: &Found) -> Option<Formula> {
        if found.failure.is_some() {
            return None;
        }
        if !found.sure.is_empty() {
            return Some(Formula::TRUE);
        }
        if found.open.is_empty() {
            return Some(Formula::FALSE);
        }
        let of = self.snapshot.definitions.resource_type(question.of)?;
        let role = question.access.role;
        let context = context(self.facts, question.of, role, operation.name.as_deref(), &Reads::everything()).ok()?;
        let asked = residual::Asked {
            view,
            action: self.snapshot.action(question.access.action)?.uid(),
            context,
            of,
            schema: self.snapshot.schema(question.access.action)?,
        };
        Some(Formula::any(residual::formulas(&found.open, asked)?))
    }

    /// A permit of a constrained scope, held against its constraints; what cannot be judged is not within them.
    fn within(&self, verdict: Verdict, question: &Question<'_>, view: &View) -> Verdict {
        let (Verdict::Permit(ids), Some(scope)) = (&verdict, &view.constrained) else { return verdict };
        let definitions = self.snapshot.definitions;
        let holds = |json: &Value, of: ResourceType| {
            scope.constraints.iter().all(|Constraint { parameter, value }| {
                resource::matches(json, of, parameter, value, definitions, &self.snapshot.bases) == Some(true)
            })
        };
        match (question.content, definitions.resource_type(question.of)) {
            (Content::Known(json), Some(of)) if holds(json, of) => Verdict::Permit(ids.clone()),
            (Content::Unknown, Some(_)) => Verdict::Undecided(Open { maybe: ids.clone(), ..Open::default() }),
            (Content::Known(_) | Content::Nothing | Content::Unknown, _) => Verdict::NoPermit,
        }
    }
}

/// A question asked with its resource, which is written in Cedar when it is first needed.
struct With<'q> {
    question: &'q Question<'q>,
    scene: &'q Scene,
    resource: OnceCell<Entity>,
}

/// What is known when no more can be asked.
struct BySettled {
    permits: Settled,
    forbids: Settled,
}

#[derive(Default)]
struct Settled {
    sure: BTreeSet<String>,
    depends: BTreeSet<String>,
}

impl Settled {
    /// Cedar's rule, with what is not known yet: one forbid denies, no permit denies.
    fn verdict(self, forbids: &[&Settled]) -> Verdict {
        let forbidding: BTreeSet<String> = forbids.iter().flat_map(|forbids| &forbids.sure).cloned().collect();
        let may_be_forbidden = forbids.iter().any(|forbids| !forbids.depends.is_empty());
        let Settled { sure, depends } = self;
        match (forbidding.is_empty(), sure.is_empty(), depends.is_empty()) {
            (false, _, _) => Verdict::Forbid(forbidding),
            (true, true, true) => Verdict::NoPermit,
            (true, false, _) if !may_be_forbidden => Verdict::Permit(sure),
            (true, _, _) => Verdict::Undecided(Open { sure, maybe: depends, may_be_forbidden }),
        }
    }
}

impl Scene {
    /// Asks the guards of policies under one view, without the resource; no more of it is seen than its uid.
    fn found(
        &self,
        view: &View,
        question: &Question<'_>,
        permits: Option<&Side>,
        forbids: &Side,
    ) -> Result<ByView, String> {
        let uid = resource_uid(question.of, question.id).map_err(|error| error.to_string())?;
        let request = self.request(view, uid)?;
        let entities = Entities::from_entities([view.entity.clone(), self.action.clone()], None);
        let entities = entities.map_err(|error| error.to_string())?;
        let under = |side| Found::under(side, question.id.is_some(), &request, &entities);
        let (permits, forbids) = (permits.map(under).transpose()?.unwrap_or_default(), under(forbids)?);
        Ok(ByView { entities, permits, forbids })
    }

    fn request(&self, view: &View, resource: EntityUid) -> Result<Request, String> {
        let request = Request::new(view.uid.clone(), self.action.uid(), resource, self.context.clone(), None);
        request.map_err(|error| error.to_string())
    }
}

impl Found {
    /// Asks the guards of policies: a guard that is satisfied, or fails, only says that its policy depends on the resource.
    fn under(side: &Side, id_is_known: bool, request: &Request, entities: &Entities) -> Result<Found, String> {
        let mut found = Found::default();
        if side.is_empty() {
            return Ok(found);
        }
        let (guards, undecided) = side.guards(id_is_known);
        let response = Authorizer::new().is_authorized(request, guards, entities);
        let diagnostics = response.diagnostics();
        for error in diagnostics.errors() {
            let AuthorizationError::PolicyEvaluationError(failed) = error;
            if !undecided.contains(AsRef::<str>::as_ref(failed.policy_id())) {
                return Err(error.to_string());
            }
            found.open(side, failed.policy_id())?;
            found.failure = Some(error.to_string());
        }
        for id in diagnostics.reason() {
            if undecided.contains(AsRef::<str>::as_ref(id)) {
                found.open(side, id)?;
            } else {
                found.sure.insert(id_of(id));
            }
        }
        Ok(found)
    }

    /// With the answers to what is open, where that could be asked.
    fn settled(&self, asked: Option<&(Request, Entities)>) -> Result<Settled, String> {
        let Found { sure, open, failure } = self;
        let mut settled = Settled { sure: sure.clone(), depends: BTreeSet::new() };
        match (asked, failure) {
            _ if open.is_empty() => {}
            (Some((request, entities)), _) => settled.sure.extend(satisfied(open, request, entities)?),
            (None, Some(failure)) => return Err(failure.clone()),
            (None, None) => settled.depends = open.policies().map(|policy| id_of(policy.id())).collect(),
        }
        Ok(settled)
    }

    fn open(&mut self, side: &Side, id: &PolicyId) -> Result<(), String> {
        let policy = side.whole.policy(id).ok_or("a guard has lost its policy")?;
        self.open.add(policy.clone()).map_err(|error| error.to_string())
    }
}

/// The policies of a set of permits that are satisfied; an error of any is an error.
fn satisfied(permits: &PolicySet, request: &Request, entities: &Entities) -> Result<BTreeSet<String>, String> {
    let response = Authorizer::new().is_authorized(request, permits, entities);
    if let Some(error) = response.diagnostics().errors().next() {
        return Err(error.to_string());
    }
    Ok(response.diagnostics().reason().map(id_of).collect())
}

fn id_of(id: &PolicyId) -> String {
    AsRef::<str>::as_ref(id).to_owned()
}

fn unknown_type(question: &Question<'_>) -> String {
    format!("`{}` is no type of this FHIR version", question.of)
}

/// Any of several scopes is enough, unless something forbids or fails.
fn either(a: Verdict, b: Verdict) -> Verdict {
    join(a, b, |verdict| match verdict {
        Verdict::Failed(_) => 5,
        Verdict::Forbid(_) => 4,
        Verdict::Undecided(Open { may_be_forbidden: true, .. }) => 3,
        Verdict::Permit(_) => 2,
        Verdict::Undecided(_) => 1,
        Verdict::NoPermit => 0,
    })
}

/// Roles and scopes must both permit.
fn both(a: Verdict, b: Verdict) -> Verdict {
    join(a, b, |verdict| match verdict {
        Verdict::Failed(_) => 4,
        Verdict::Forbid(_) => 3,
        Verdict::NoPermit => 2,
        Verdict::Undecided(_) => 1,
        Verdict::Permit(_) => 0,
    })
}

/// The verdict of the higher rank, with the policies of both where both permit, forbid or may permit.
fn join(a: Verdict, b: Verdict, rank: impl Fn(&Verdict) -> u8) -> Verdict {
    let (high, low) = if rank(&a) >= rank(&b) { (a, b) } else { (b, a) };
    match (high, low) {
        (Verdict::Permit(a), Verdict::Permit(b)) => Verdict::Permit(&a | &b),
        (Verdict::Forbid(a), Verdict::Forbid(b)) => Verdict::Forbid(&a | &b),
        (Verdict::Undecided(a), Verdict::Undecided(b)) => Verdict::Undecided(Open {
            sure: &a.sure | &b.sure,
            maybe: &a.maybe | &b.maybe,
            may_be_forbidden: a.may_be_forbidden || b.may_be_forbidden,
        }),
        (Verdict::Undecided(open), Verdict::Permit(ids)) => {
            Verdict::Undecided(Open { sure: &open.sure | &ids, ..open })
        }
        (high, _) => high,
    }
}
