//! `decide()`: one question to Cedar for each access of an operation, the answers joined.
//! Hides how a question is asked with and without the resource, and how the views of a principal are joined.
//! INVARIANT: every access is permitted, or the operation is denied; an operation without accesses is denied.
//! INVARIANT: a policy that errors denies, whatever the others say. Cedar's own authorizer would skip it, even a forbid.
//! INVARIANT: what depends on a resource that is not at hand is no permit, but under obligations that the caller enforces.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::claims::rules::{Authority, Kind};
use crate::engine::entities::{Content, Facts};
use crate::engine::filter::{Filter, Visible};
use crate::engine::narrow::{Accounts, Needs, is_found, may_be_left_out};
use crate::engine::residual::{Formula, Known};
use crate::engine::standing::{Asked, Standing};
use crate::fhir::definitions::{FhirId, ResourceType};
use crate::fhir::operation::{
    Access, AccessRole, EvidenceKind, Interaction, Operation, OperationError, Proposed, Reach,
};
use crate::fhir::{resource, transaction};
use crate::policy::index::Slice;
use crate::policy::schema::SERVER;
use crate::policy::snapshot::Snapshot;

pub use crate::engine::narrow::Narrowed;

/// What is known of the resources that a request is about.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// the resource as it is stored now
    pub stored: Stored<'a>,
    /// the resource as it will be, by the caller's word: for a patch, or an operation that changes one
    pub proposed: Option<&'a Value>,
    /// the body of the request
    pub body: Option<&'a Value>,
}

/// The resource as it is stored now.
#[derive(Debug, Clone, Copy)]
pub enum Stored<'a> {
    NotLoaded,
    /// the server has looked, and there is none
    Absent,
    Known(&'a Value),
}

/// The obligations that the caller is able to carry out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Enforces {
    pub filter: bool,
    pub check_results: bool,
    pub redact: bool,
}

/// The answer to an operation; for a batch or transaction, with one for each entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Answer {
    pub decision: Decision,
    /// the policies that decided
    pub policies: BTreeSet<Determining>,
    /// in the bundle's order
    pub entries: Vec<Answer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    Permit(Obligations),
    Deny(Denial),
}

/// What a caller must do for a permit to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Obligations {
    /// the search that shows no more than may be seen
    pub filter: Option<Narrowed>,
    /// each resource must pass `/v1/filter` before it is returned
    pub check_results: bool,
    /// element paths to remove from what is returned
    pub redact: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    pub code: Code,
    /// for the client: nothing about policies, nor about whether a resource exists
    pub message: String,
    /// nobody asked: the client is to sign in
    pub unauthenticated: bool,
    /// the SMART scope that would help, for `insufficient_scope`
    pub scope: Option<String>,
}

/// Why not. Ordered: of several denials the last one is told, since mending the others would not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    Unenforceable,
    NeedsResource,
    NoPermit,
    Forbidden,
    UnknownInteraction,
    InvalidRequest,
    InvalidToken,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Determining {
    pub id: String,
    pub permits: bool,
}

/// Decides one operation. Never fails: a failure inside is a deny.
pub fn decide(
    snapshot: &Snapshot,
    standing: &Standing,
    operation: &Operation,
    evidence: &Evidence<'_>,
    facts: &Facts,
    enforces: Enforces,
) -> Answer {
    Asker { snapshot, standing, facts, enforces }.operation(operation, evidence)
}

/// Whether a resource that an answer is about to return may be, as it is stored: `None`, or the element paths to remove.
pub fn result(
    snapshot: &Snapshot,
    standing: &Standing,
    operation: &Operation,
    facts: &Facts,
    json: &Value,
) -> Option<BTreeSet<String>> {
    Asker { snapshot, standing, facts, enforces: Enforces::default() }.result(operation, json)
}

/// A denial before any policy is asked: the token, the request or the evidence is not acceptable.
impl Answer {
    pub fn deny(code: Code, message: impl Into<String>) -> Answer {
        let denial = Denial { code, message: message.into(), unauthenticated: false, scope: None };
        Answer { decision: Decision::Deny(denial), policies: BTreeSet::new(), entries: Vec::new() }
    }

    /// The denial of a request that is not FHIR, or an interaction that FHIR does not have.
    pub fn of_error(error: &OperationError) -> Answer {
        let code = match error {
            OperationError::Invalid(_) => Code::InvalidRequest,
            OperationError::Unknown(_) => Code::UnknownInteraction,
        };
        Answer::deny(code, error.to_string())
    }

    pub fn is_permit(&self) -> bool {
        matches!(self.decision, Decision::Permit(_))
    }

    /// A transaction stands as a whole, and so do the obligations of its entries.
    fn take_obligations_of_entries(&mut self) {
        let Decision::Permit(obligations) = &mut self.decision else { return };
        for entry in &self.entries {
            if let Decision::Permit(further) = &entry.decision {
                obligations.check_results |= further.check_results;
                obligations.redact.extend(further.redact.iter().cloned());
            }
        }
    }
}

/// What one question found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// by these policies
    Permit(BTreeSet<String>),
    /// by these policies
    Forbid(BTreeSet<String>),
    NoPermit,
    /// it depends on the resource
    Undecided(Open),
    /// the question could not be asked, or a policy failed; for the explanation alone
    Failed(String),
}

impl Verdict {
    /// The policies that it names.
    pub fn policies(&self) -> impl Iterator<Item = &String> {
        let (some, others) = match self {
            Verdict::Permit(ids) | Verdict::Forbid(ids) => (Some(ids), None),
            Verdict::Undecided(open) => (Some(&open.sure), Some(&open.maybe)),
            Verdict::NoPermit | Verdict::Failed(_) => (None, None),
        };
        some.into_iter().chain(others).flatten()
    }
}

/// Which permits there are where a verdict depends on the resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Open {
    /// those that are satisfied whatever it holds
    pub sure: BTreeSet<String>,
    /// those that depend on it
    pub maybe: BTreeSet<String>,
    /// whether a forbid depends on it
    pub may_be_forbidden: bool,
}

/// One thing asked about: an action on a type, and what is known of the resource.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub access: &'a Access,
    pub of: &'static str,
    pub id: Option<&'a FhirId>,
    pub content: Content<'a>,
    /// what to say where the answer depends on the resource
    pub lacking: Code,
}

pub(super) struct Asker<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) standing: &'a Standing,
    pub(super) facts: &'a Facts,
    pub(super) enforces: Enforces,
}

impl Asker<'_> {
    fn operation(&self, operation: &Operation, evidence: &Evidence<'_>) -> Answer {
        let mut answer = match questions(self.snapshot, operation, evidence) {
            Ok(questions) => self.all(operation, &questions),
            Err(message) => Answer::deny(Code::InvalidRequest, message),
        };
        answer.entries = self.entries(operation, evidence);
        let denied = answer.entries.iter().find(|entry| !entry.is_permit());
        if let (Interaction::Transaction, true, Some(denied)) = (operation.interaction, answer.is_permit(), denied) {
            (answer.decision, answer.policies) = (denied.decision.clone(), denied.policies.clone());
        }
        if operation.interaction == Interaction::Transaction {
            answer.take_obligations_of_entries();
        }
        if let Decision::Deny(denial) = &mut answer.decision {
            denial.unauthenticated = self.standing.principal.authority == Authority::Nobody;
            denial.scope = denial.scope.take().or_else(|| self.scope_that_helps(operation, denial.code));
        }
        answer
    }

    fn entries(&self, operation: &Operation, evidence: &Evidence<'_>) -> Vec<Answer> {
        // the entries of a transaction know each other; those of a batch do not
        let resolved = match (operation.interaction, evidence.body) {
            (Interaction::Transaction, Some(bundle)) => transaction::resolved(bundle, &operation.entries),
            (_, _) => Vec::new(),
        };
        let entry = |(index, entry): (usize, &Result<Operation, OperationError>)| match entry {
            Ok(operation) => {
                let as_sent = || evidence.body.and_then(|bundle| bundle.get("entry")?.get(index)?.get("resource"));
                let body = resolved.get(index).and_then(Option::as_ref).or_else(as_sent);
                self.operation(operation, &Evidence { stored: Stored::NotLoaded, proposed: None, body })
            }
            Err(error) => Answer::of_error(error),
        };
        operation.entries.iter().enumerate().map(entry).collect()
    }

    /// All questions of an operation: the worst answer is the operation's, but for what can be narrowed.
    fn all(&self, operation: &Operation, questions: &[Question<'_>]) -> Answer {
        let mut redact = BTreeSet::new();
        let mut policies: BTreeSet<&String> = BTreeSet::new();
        let mut accounts = Accounts::default();
        let verdicts = self.verdicts(operation, questions);
        for (question, verdict) in &verdicts {
            match &**verdict {
                Verdict::Permit(ids) => {
                    redact.extend(self.agreed_to_hide(ids));
                    policies.extend(ids);
                    let of = self.snapshot.definitions.resource_type(question.of);
                    accounts.visible.extend(of.filter(|_| is_found(question)));
                }
                Verdict::Undecided(open) => accounts.open.push((question, open)),
                Verdict::Forbid(ids) => accounts.denied.push((question, (Code::Forbidden, ids.clone()))),
                Verdict::NoPermit | Verdict::Failed(_) => {
                    accounts.denied.push((question, (Code::NoPermit, BTreeSet::new())));
                }
            }
        }
        for (_, open) in &accounts.open {
            redact.extend(self.may_hide(open));
            policies.extend(open.sure.iter().chain(&open.maybe));
        }
        let needs = match questions {
            [] => Err((Code::NoPermit, BTreeSet::new())),
            _ => self.narrowed(operation, accounts),
        };
        let needs = match needs {
            Ok(_) if !redact.is_empty() && (!self.enforces.redact || self.asks_about(operation, &redact)) => {
                Err((Code::Unenforceable, BTreeSet::new()))
            }
            needs => needs,
        };
        let determining = |id: String, permits| Determining { id, permits };
        match needs {
            Ok(Needs { filter, check_results }) => Answer {
                decision: Decision::Permit(Obligations { filter, check_results, redact }),
                policies: policies.into_iter().map(|id| determining(id.clone(), true)).collect(),
                entries: Vec::new(),
            },
            Err((code, ids)) => Answer {
                policies: ids.into_iter().map(|id| determining(id, false)).collect(),
                ..Answer::deny(code, message(code))
            },
        }
    }

    /// The verdict of each question. Partial evaluation is dear: where concrete evaluation denies already, or from the
    /// first question on that is denied for good, what is open stays so.
    fn verdicts<'q>(
        &self,
        operation: &Operation,
        questions: &'q [Question<'q>],
    ) -> Vec<(&'q Question<'q>, Arc<Verdict>)> {
        let ask = |question: &'q Question<'q>| (question, self.verdict(operation, question));
        let mut verdicts: Vec<_> = questions.iter().map(ask).collect();
        let is_denied = |question: &Question<'_>, verdict: &Verdict| {
            let denies = matches!(verdict, Verdict::NoPermit | Verdict::Forbid(_) | Verdict::Failed(_));
            denies && !may_be_left_out(operation, question)
        };
        if !verdicts.iter().any(|(question, verdict)| is_denied(question, verdict)) {
            for (question, verdict) in &mut verdicts {
                *verdict = self.refined(operation, question, Arc::clone(verdict));
                if is_denied(question, verdict) {
                    break;
                }
            }
        }
        verdicts
    }

    /// It is judged under each access that may have brought it.
    fn result(&self, operation: &Operation, json: &Value) -> Option<BTreeSet<String>> {
        let of = self.snapshot.definitions.resource_type(json.get("resourceType")?.as_str()?)?;
        let id = FhirId::parse(json.get("id")?.as_str()?)?;
        let mut redact = BTreeSet::new();
        let mut brought = false;
        for access in operation.accesses() {
            let reaches = match &access.target {
                Reach::Server => false,
                Reach::Every => true,
                Reach::Type(target) => *target == of,
                Reach::Instance(target, own) => *target == of && *own == id,
            };
            if !reaches || !matches!(access.role, AccessRole::Primary | AccessRole::Include) {
                continue;
            }
            let content = if resource::is_whole(json) { Content::Known(json) } else { Content::Unknown };
            let question = Question::new(access, of.as_str(), Some(&id), content, Code::NeedsResource);
            let verdict = self.question(operation, &question);
            let Verdict::Permit(ids) = &*verdict else { return None };
            redact.extend(self.agreed_to_hide(ids));
            brought = true;
        }
        brought.then_some(redact)
    }

    /// One question under every view of the principal: roles and scopes must both permit where both are there.
    pub(super) fn question(&self, operation: &Operation, question: &Question<'_>) -> Arc<Verdict> {
        self.refined(operation, question, self.verdict(operation, question))
    }

    /// What guards leave open may be settled by what is known of the resource before it is at hand.
    fn refined(&self, operation: &Operation, question: &Question<'_>, verdict: Arc<Verdict>) -> Arc<Verdict> {
        let (Verdict::Undecided(open), Content::Unknown) = (&*verdict, question.content) else { return verdict };
        let Some(visible) = self.visible(operation, question) else { return verdict };
        let permits = if open.sure.is_empty() { &open.maybe } else { &open.sure };
        // which of the permits are satisfied is not known: they must agree on what they hide
        let disagree = || open.sure.is_empty() && self.agreed_to_hide(permits) != self.may_hide(open);
        match &visible.formula {
            formula if *formula == Formula::FALSE => Arc::new(Verdict::NoPermit),
            formula if *formula == Formula::TRUE && !disagree() => Arc::new(Verdict::Permit(permits.clone())),
            _ => verdict,
        }
    }

    /// The policies that can matter to a question.
    pub(super) fn slice(&self, question: &Question<'_>) -> Option<Arc<Slice>> {
        let which = self.snapshot.index.which(question.of, question.id);
        self.snapshot.index.slice(question.access.action, question.of, which, &self.standing.membership)
    }

    pub(super) fn asked(&self, operation: &Operation, question: &Question<'_>) -> Asked {
        let which = self.snapshot.index.which(question.of, question.id);
        let Access { action, role, .. } = question.access;
        self.standing.asked((*action, question.of, which), *role, operation.name.as_deref(), self.facts)
    }

    /// What a question leaves visible of the resources that it is about; `None` where that cannot be said.
    pub(super) fn visible(&self, operation: &Operation, question: &Question<'_>) -> Option<Arc<Visible>> {
        let of = self.snapshot.definitions.resource_type(question.of)?;
        let known = self.known(operation, question, of);
        let visible = self.visible_of_type(operation, &Question { id: None, ..*question }, of)?;
        match known.is_of_type_alone() {
            true => Some(visible),
            false => Some(Arc::new(Visible::of(visible.formula.given(&|atom| known.judge(atom))))),
        }
    }

    /// What a question leaves visible, as searches, for the explanation.
    pub(super) fn searches(&self, operation: &Operation, question: &Question<'_>) -> Option<Filter> {
        let of = self.snapshot.definitions.resource_type(question.of)?;
        self.visible(operation, question)?.filter(&self.known(operation, question, of), true).cloned()
    }

    /// What is known of the resources of a question. All that a search of a compartment finds is in it.
    pub(super) fn known<'a>(
        &'a self,
        operation: &'a Operation,
        question: &Question<'a>,
        of: ResourceType,
    ) -> Known<'a> {
        let is_within =
            operation.interaction == Interaction::SearchCompartment && question.access.role == AccessRole::Primary;
        let within = operation.compartment.as_ref().filter(|_| is_within);
        Known { of, id: question.id, within, definitions: self.snapshot.definitions }
    }

    /// Element paths that every permit of these hides: one that hides less permits the rest.
    fn agreed_to_hide(&self, permits: &BTreeSet<String>) -> BTreeSet<String> {
        let hidden = permits.iter().map(|id| self.snapshot.redact(id));
        let hidden = hidden.collect::<Option<Vec<&BTreeSet<String>>>>().unwrap_or_default();
        hidden.into_iter().cloned().reduce(|a, b| a.intersection(&b).cloned().collect()).unwrap_or_default()
    }

    /// Element paths to hide where it depends on the resource which permits there are: those of any that may stand
    /// alone.
    fn may_hide(&self, open: &Open) -> BTreeSet<String> {
        match open.sure.is_empty() {
            false => self.agreed_to_hide(&open.sure),
            true => open.maybe.iter().flat_map(|id| self.agreed_to_hide(&BTreeSet::from([id.clone()]))).collect(),
        }
    }

    /// Whether a search asks about what is to be removed from its results: whom it finds would tell.
    fn asks_about(&self, operation: &Operation, redact: &BTreeSet<String>) -> bool {
        let codes: Vec<&str> = operation.search.iter().flat_map(|search| search.codes_asked()).collect();
        redact.iter().filter_map(|path| Some((path, path.split_once('.')?.0))).any(|(path, of)| {
            let of = self.snapshot.definitions.resource_type(of);
            codes.iter().any(|code| {
                let parameter = of.and_then(|of| self.snapshot.definitions.parameter(of, code));
                WHOLE_TEXT.contains(code) || parameter.is_some_and(|parameter| parameter.looks_at(path))
            })
        })
    }

    /// The SMART scope that covers an operation's own access, at the level at which this principal asks.
    fn scope_that_helps(&self, operation: &Operation, code: Code) -> Option<String> {
        let (of, letter) = (operation.resource_type?, operation.accesses().first()?.action.letters().first()?);
        let level = match (&self.standing.principal.patient, self.standing.principal.kind) {
            (Some(_), _) => "patient",
            (None, Kind::User) => "user",
            (None, Kind::Client) => "system",
        };
        let scopes_count = match self.standing.principal.authority {
            Authority::Scopes | Authority::RolesAndScopes => true,
            Authority::Nobody | Authority::Roles => false,
        };
        (code == Code::NoPermit && scopes_count).then(|| format!("{level}/{}.{letter}", of.as_str()))
    }
}

/// Search parameters that look at all of a resource.
const WHOLE_TEXT: &[&str] = &["_content", "_filter", "_query", "_text"];

/// What a client is told: never what is stored, nor which policy said so.
fn message(code: Code) -> &'static str {
    match code {
        Code::Unenforceable | Code::NeedsResource | Code::NoPermit | Code::Forbidden => "the access is not permitted",
        Code::UnknownInteraction => "the request is no interaction of FHIR",
        Code::InvalidRequest => "the request is not acceptable",
        Code::InvalidToken => "the token is not acceptable",
    }
}

/// The questions of an operation, or why the evidence does not fit it.
pub(super) fn questions<'a>(
    snapshot: &'a Snapshot,
    operation: &'a Operation,
    evidence: &Evidence<'a>,
) -> Result<Vec<Question<'a>>, String> {
    check_evidence(operation, evidence)?;
    let mut questions = Vec::new();
    for access in operation.accesses() {
        match &access.target {
            Reach::Server => questions.push(Question::new(access, SERVER, None, Content::Nothing, Code::NoPermit)),
            Reach::Every => questions.extend(snapshot.definitions.resource_types().map(|of| unknown(access, of, None))),
            Reach::Type(of) => of_one(&mut questions, operation, access, *of, None, evidence),
            Reach::Instance(of, id) => of_one(&mut questions, operation, access, *of, Some(id), evidence),
        }
    }
    Ok(questions)
}

impl<'a> Question<'a> {
    fn new(
        access: &'a Access,
        of: &'static str,
        id: Option<&'a FhirId>,
        content: Content<'a>,
        lacking: Code,
    ) -> Question<'a> {
        Question { access, of, id, content, lacking }
    }
}

/// A question about resources that nobody has at hand.
fn unknown<'a>(access: &'a Access, of: ResourceType, id: Option<&'a FhirId>) -> Question<'a> {
    Question::new(access, of.as_str(), id, Content::Unknown, Code::Unenforceable)
}

/// The questions of one access to one type: as stored, as proposed, or both.
fn of_one<'a>(
    questions: &mut Vec<Question<'a>>,
    operation: &'a Operation,
    access: &'a Access,
    of: ResourceType,
    id: Option<&'a FhirId>,
    evidence: &Evidence<'a>,
) {
    let ask = |content| Question::new(access, of.as_str(), id, content, Code::NeedsResource);
    let stored = match evidence.stored {
        // what is at hand is of the type that the request names, and says nothing about another
        _ if operation.resource_type != Some(of) => Content::Unknown,
        Stored::NotLoaded => Content::Unknown,
        Stored::Absent => Content::Nothing,
        // a part of it says nothing of the rest
        Stored::Known(json) if !resource::is_whole(json) => Content::Unknown,
        Stored::Known(json) => Content::Known(json),
    };
    let proposed = match operation.proposed {
        Proposed::No => None,
        Proposed::Body => evidence.body,
        Proposed::Caller => evidence.proposed,
    };
    let proposed = proposed.map_or(Content::Unknown, Content::Known);
    match access.evidence {
        EvidenceKind::Many | EvidenceKind::Versions => questions.push(unknown(access, of, id)),
        EvidenceKind::Stored => questions.push(ask(stored)),
        EvidenceKind::Proposed => questions.push(ask(proposed)),
        EvidenceKind::StoredAndProposed => {
            // a PUT where nothing is stored creates: only what it creates is judged
            if !matches!(stored, Content::Nothing) {
                questions.push(ask(stored));
            }
            questions.push(ask(proposed));
        }
        EvidenceKind::None => questions.push(ask(Content::Nothing)),
    }
}

/// The stored and the proposed resource must be the one that the request names.
fn check_evidence(operation: &Operation, evidence: &Evidence<'_>) -> Result<(), String> {
    if let Stored::Known(json) = evidence.stored {
        is_the_one(operation, json, "resource")?;
    }
    match (evidence.proposed, operation.proposed) {
        (None, _) => Ok(()),
        (Some(json), Proposed::Caller) => is_the_one(operation, json, "proposed"),
        (Some(_), Proposed::Body) => Err("`proposed` is the request's body here, and may not be given".to_owned()),
        (Some(_), Proposed::No) => Err("the request proposes no resource, so `proposed` may not be given".to_owned()),
    }
}

fn is_the_one(operation: &Operation, json: &Value, field: &str) -> Result<(), String> {
    let text = |name: &str| json.get(name).and_then(Value::as_str);
    let type_fits = match operation.resource_type {
        Some(of) => text("resourceType") == Some(of.as_str()),
        None => false,
    };
    let id_fits = operation.id.as_ref().is_none_or(|id| text("id") == Some(id.as_str()));
    match (type_fits, id_fits) {
        (true, true) => Ok(()),
        (false, _) => Err(format!("the type of `{field}` is not the one that the request names")),
        (true, false) => Err(format!("the id of `{field}` is not the one that the request names")),
    }
}
