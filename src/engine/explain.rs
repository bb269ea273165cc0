//! Why, for the people who debug access: the principal as the rules read it, and each question with its verdict.
//! Asks again what `decide` asked, so that deciding itself carries nothing along for it.
//! INVARIANT: never for the client; and no claim value stands in it that the principal does not carry.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::claims::rules::{Authority, Kind, Principal};
use crate::engine::decide::{Asker, Enforces, Evidence, Verdict, questions};
use crate::engine::entities::Facts;
use crate::engine::standing::Standing;
use crate::fhir::definitions::FhirId;
use crate::fhir::operation::Operation;
use crate::policy::snapshot::Snapshot;

/// Questions beyond these are counted, not told: a search of everything asks about every type.
const QUESTIONS_MAX: usize = 50;
const CANDIDATES_MAX: usize = 20;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub principal: Who,
    /// what the claim rules left aside, and why
    pub notes: Vec<Remark>,
    pub accesses: Vec<Asked>,
    #[serde(skip_serializing_if = "is_zero")]
    pub accesses_not_shown: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Who {
    pub kind: &'static str,
    pub issuer: String,
    pub subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    pub roles: Vec<String>,
    pub groups: Vec<String>,
    /// the clinical scopes that count, as the token has them
    pub clinical_scopes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fhir_user: Option<String>,
    /// what must allow: nothing but what everyone may, its roles, its scopes, or both
    pub decides: &'static str,
}

#[derive(Debug, Serialize)]
pub struct Remark {
    pub about: String,
    pub message: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    pub action: &'static str,
    pub r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub access: &'static str,
    pub verdict: &'static str,
    pub policies: Vec<String>,
    /// what a policy failed on
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// where it depends on the resource: the searches that find what is visible
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub visible: Vec<String>,
    /// where it depends on the resource, and these searches find more than is visible
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub each_result_is_checked: bool,
    /// where nothing permits: the permits for this action and type, none of which is satisfied
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub would_permit: Vec<String>,
}

/// Explains what `decide` answers to the same arguments.
pub fn explain(
    snapshot: &Snapshot,
    standing: &Standing,
    operation: &Operation,
    evidence: &Evidence<'_>,
    facts: &Facts,
) -> Explanation {
    let asker = Asker { snapshot, standing, facts, enforces: Enforces::default() };
    let (accesses, all) = match questions(snapshot, operation, evidence) {
        Ok(questions) => {
            let shown = questions.iter().take(QUESTIONS_MAX);
            let told = shown.map(|question| {
                let (action, of) = (question.access.action, question.of);
                let verdict = asker.question(operation, question);
                let filter = match &*verdict {
                    Verdict::Undecided(_) => asker.searches(operation, question),
                    Verdict::Permit(_) | Verdict::Forbid(_) | Verdict::NoPermit | Verdict::Failed(_) => None,
                };
                Asked {
                    action: action.as_str(),
                    r#type: of.to_owned(),
                    id: question.id.map(|id| id.as_str().to_owned()),
                    access: question.access.role.as_str(),
                    would_permit: match &*verdict {
                        Verdict::NoPermit => candidates(snapshot, action, of),
                        Verdict::Permit(_) | Verdict::Forbid(_) | Verdict::Undecided(_) | Verdict::Failed(_) => {
                            Vec::new()
                        }
                    },
                    verdict: name(&verdict),
                    visible: filter.iter().flat_map(|filter| filter.queries.iter().cloned()).collect(),
                    each_result_is_checked: filter.is_some_and(|filter| filter.is_checked),
                    failure: if let Verdict::Failed(message) = &*verdict { Some(message.clone()) } else { None },
                    policies: verdict.policies().cloned().collect::<BTreeSet<String>>().into_iter().collect(),
                }
            });
            (told.collect(), questions.len())
        }
        Err(_) => (Vec::new(), 0),
    };
    Explanation {
        principal: who(&standing.principal),
        notes: standing
            .principal
            .notes
            .iter()
            .map(|note| Remark { about: note.about.clone(), message: note.message.clone() })
            .collect(),
        accesses,
        accesses_not_shown: all.saturating_sub(QUESTIONS_MAX),
    }
}

/// The principal as the claim rules read it.
pub fn who(principal: &Principal) -> Who {
    Who {
        kind: match principal.kind {
            Kind::User => "User",
            Kind::Client => "Client",
        },
        issuer: principal.issuer.clone(),
        subject: principal.subject.clone(),
        client: principal.client.clone(),
        tenant: principal.tenant.clone(),
        roles: principal.roles.iter().cloned().collect(),
        groups: principal.groups.iter().cloned().collect(),
        clinical_scopes: principal.smart.iter().map(ToString::to_string).collect(),
        patient: principal.patient.as_ref().map(|id| format!("Patient/{}", FhirId::as_str(id))),
        fhir_user: principal
            .fhir_user
            .as_ref()
            .map(|user| format!("{}/{}", user.resource_type.as_str(), user.id.as_str())),
        decides: match principal.authority {
            Authority::Nobody => "nothing: nobody in particular asks",
            Authority::Roles => "roles",
            Authority::Scopes => "scopes",
            Authority::RolesAndScopes => "roles and scopes, both",
        },
    }
}

fn candidates(snapshot: &Snapshot, action: crate::fhir::action::Action, of: &str) -> Vec<String> {
    let mut ids: Vec<String> =
        snapshot.index.permits(action, of).map(|policy| AsRef::<str>::as_ref(policy.id()).to_owned()).collect();
    ids.sort();
    ids.truncate(CANDIDATES_MAX);
    ids
}

fn name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Permit(_) => "permit",
        Verdict::Forbid(_) => "forbid",
        Verdict::NoPermit => "no permit",
        Verdict::Undecided(_) => "depends on the resource",
        Verdict::Failed(_) => "failed",
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}
