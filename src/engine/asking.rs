//! One question to Cedar, under each view of a principal.
//! Hides the two steps in which policies are asked: without the resource, which is remembered; then those that are open
//! still, with it. INVARIANT: a policy is asked as a whole wherever its guard is satisfied or fails, and nowhere else.
//! INVARIANT: a policy that errors denies, whatever the others say. Cedar's own authorizer would skip it, even a forbid.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Entities, Entity, EntityUid, PolicyId, PolicySet, Request,
};
use serde_json::Value;

use crate::claims::scope::Constraint;
use crate::engine::decide::{Asker, Open, Question, Verdict};
use crate::engine::entities::{Content, View, context, resource_entity, resource_uid};
use crate::engine::residual::{self, Atom, Formula};
use crate::fhir::definitions::ResourceType;
use crate::fhir::operation::Operation;
use crate::fhir::resource;
use crate::policy::analysis::Reads;
use crate::policy::index::{Side, Slice};

/// What was found about a question without the resource, under each view that has a say.
#[derive(Debug)]
pub struct Opening {
    /// of the whole principal, whose forbids are those of each of its views
    whole: Found,
    roles: Option<ByEffect>,
    /// by the view's place among the scopes
    scopes: Vec<(usize, ByEffect)>,
    /// whether it stays, whenever and from wherever somebody asks
    pub is_timeless: bool,
}

/// The policies that one view found, by effect.
#[derive(Debug, Default)]
struct ByEffect {
    permits: Found,
    forbids: Found,
}

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

/// The resource of a question and its context, in Cedar.
struct Scene {
    action: Entity,
    uid: EntityUid,
    /// `None`: no more of it is known than its uid
    resource: Option<Entity>,
    context: Context,
}

impl Opening {
    /// What it takes in memory, reckoned rather too much.
    pub fn bytes(&self) -> usize {
        const POLICY: usize = 4 * 1024;
        let views = self.roles.iter().chain(self.scopes.iter().map(|(_, found)| found));
        let found = views.flat_map(|found| [&found.permits, &found.forbids]).chain([&self.whole]);
        found.map(|found| POLICY * (1 + found.sure.len() + found.open.num_of_policies())).sum()
    }
}

impl Asker<'_> {
    /// What is found about a question without its resource; of an earlier call, or now.
    pub(super) fn opening(&self, operation: &Operation, question: &Question<'_>) -> Result<Arc<Opening>, String> {
        let asked = self.asked(operation, question);
        if let Some(known) = self.standing.opening(&asked) {
            return Ok(known);
        }
        let slice = self.slice(question).ok_or_else(|| unknown_type(question))?;
        let opening = Arc::new(self.open(operation, question, &slice)?);
        if opening.is_timeless {
            self.standing.keep_opening(asked, Arc::clone(&opening));
        }
        Ok(opening)
    }

    fn open(&self, operation: &Operation, question: &Question<'_>, slice: &Slice) -> Result<Opening, String> {
        let scene = self.scene(operation, &Question { content: Content::Unknown, ..*question }, slice)?;
        let id_is_known = question.id.is_some();
        let by_effect = |view: &View| self.by_guards(&scene, view, slice, id_is_known);
        let views = &self.standing.views;
        let (action, of) = (question.access.action, question.of);
        let speaking = views.scopes.iter().enumerate().filter(|(_, view)| view.speaks_for(action, of));
        Ok(Opening {
            whole: match &views.whole {
                Some(view) => Found::under(&slice.forbids, id_is_known, &self.asked_by(&scene, view)?)?,
                None => Found::default(),
            },
            roles: views.roles.as_ref().map(by_effect).transpose()?,
            scopes: speaking.map(|(place, view)| Ok((place, by_effect(view)?))).collect::<Result<_, String>>()?,
            is_timeless: slice.is_timeless(),
        })
    }

    fn by_guards(&self, scene: &Scene, view: &View, slice: &Slice, id_is_known: bool) -> Result<ByEffect, String> {
        let asked = self.asked_by(scene, view)?;
        Ok(ByEffect {
            permits: Found::under(&slice.permits, id_is_known, &asked)?,
            forbids: Found::under(&slice.forbids, id_is_known, &asked)?,
        })
    }

    /// The verdict of all views: where the resource is known, what is open is asked with it.
    pub(super) fn verdict(&self, operation: &Operation, question: &Question<'_>, opening: &Opening) -> Verdict {
        self.joined(operation, question, opening).unwrap_or_else(Verdict::Failed)
    }

    fn joined(&self, operation: &Operation, question: &Question<'_>, opening: &Opening) -> Result<Verdict, String> {
        let views = &self.standing.views;
        let with = With { operation, question, scene: OnceCell::new() };
        // what forbids the whole principal forbids each of its views
        let forbids = match &views.whole {
            Some(view) => self.settled(&with, view, &opening.whole)?,
            None => Settled::default(),
        };
        let verdict = |view: &View, found: &ByEffect| {
            let permits = self.settled(&with, view, &found.permits)?;
            let own = self.settled(&with, view, &found.forbids)?;
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
        let with = With { operation, question, scene: OnceCell::new() };
        let verdict = || {
            let slice = self.slice(question).ok_or_else(|| unknown_type(question))?;
            let without = self.scene(operation, &Question { content: Content::Unknown, ..*question }, &slice)?;
            let found = self.by_guards(&without, view, &slice, question.id.is_some())?;
            let permits = self.settled(&with, view, &found.permits)?;
            Ok(permits.verdict(&[&self.settled(&with, view, &found.forbids)?]))
        };
        verdict().unwrap_or_else(Verdict::Failed)
    }

    /// Asks what is open, where the resource is known.
    fn settled(&self, with: &With<'_>, view: &View, found: &Found) -> Result<Settled, String> {
        let Found { sure, open, failure } = found;
        let mut settled = Settled { sure: sure.clone(), depends: BTreeSet::new() };
        match with.question.content {
            _ if open.is_empty() => {}
            Content::Unknown => match failure {
                Some(failure) => return Err(failure.clone()),
                None => settled.depends = open.policies().map(|policy| id_of(policy.id())).collect(),
            },
            Content::Known(_) | Content::Nothing => {
                let (request, entities) = self.asked_by(self.scene_with(with)?, view)?;
                settled.sure.extend(satisfied(open, &request, &entities)?);
            }
        }
        Ok(settled)
    }

    fn scene_with<'w>(&self, with: &'w With<'_>) -> Result<&'w Scene, String> {
        if let Some(scene) = with.scene.get() {
            return Ok(scene);
        }
        let slice = self.slice(with.question).ok_or_else(|| unknown_type(with.question))?;
        let scene = self.scene(with.operation, with.question, &slice)?;
        Ok(with.scene.get_or_init(|| scene))
    }

    fn scene(&self, operation: &Operation, question: &Question<'_>, slice: &Slice) -> Result<Scene, String> {
        let Question { access, of, id, content, .. } = *question;
        let name = operation.name.as_deref();
        let context = context(self.facts, of, access.role, name, &slice.reads).map_err(|error| error.to_string())?;
        // guards see no more of a resource than its uid, so that one that is not known needs no entity
        let resource = match content {
            Content::Unknown => None,
            Content::Known(_) | Content::Nothing => {
                Some(resource_entity(self.snapshot, of, id, content, &slice.reads).map_err(|error| error.to_string())?)
            }
        };
        let action = self.snapshot.action(access.action).ok_or("the schema lacks the action")?.clone();
        let uid = resource_uid(of, id).map_err(|error| error.to_string())?;
        Ok(Scene { action, uid, resource, context })
    }

    fn asked_by(&self, scene: &Scene, view: &View) -> Result<(Request, Entities), String> {
        let Scene { action, uid, resource, context } = scene;
        let request = Request::new(view.uid.clone(), action.uid(), uid.clone(), context.clone(), None);
        let entities = [&view.entity, action].into_iter().chain(resource).cloned();
        let entities = Entities::from_entities(entities, None).map_err(|error| error.to_string())?;
        Ok((request.map_err(|error| error.to_string())?, entities))
    }

    /// What is visible of resources of a type, whatever is known of one beside. As `joined` joins verdicts: roles and
    /// scopes must both permit where both are there, and nothing may forbid.
    pub(super) fn formula(&self, operation: &Operation, question: &Question<'_>, opening: &Opening) -> Option<Formula> {
        let views = &self.standing.views;
        let mut forbidden = Vec::new();
        if let Some(view) = &views.whole {
            forbidden.push(self.residual(operation, question, view, &opening.whole)?);
        }
        let mut permitted = |view: &View, found: &ByEffect| {
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
    operation: &'q Operation,
    question: &'q Question<'q>,
    scene: OnceCell<Scene>,
}

/// What is known of one effect when no more can be asked.
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

impl Found {
    /// Asks the guards of policies: a guard that is satisfied, or fails, only says that its policy depends on the resource.
    fn under(side: &Side, id_is_known: bool, (request, entities): &(Request, Entities)) -> Result<Found, String> {
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
