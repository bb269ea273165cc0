//! Principal, resource and context as Cedar sees them.
//! Hides entity ids, attributes and the views of a principal: what its roles give, and what each of its scopes gives.
//! INVARIANT: a principal of one issuer never has the id of another issuer's.
//! INVARIANT: a view has no more than the principal has, so that what it is permitted the principal is permitted.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::str::FromStr;
use std::sync::LazyLock;

use cedar_policy::{Context, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use serde_json::Value;

use crate::claims::rules::{Authority, Kind, Principal};
use crate::claims::scope::{ClinicalScope, Letter, Level, ScopeType};
use crate::fhir::action::Action;
use crate::fhir::definitions::{Definitions, FhirId, FhirVersion, ResourceType};
use crate::fhir::operation::AccessRole;
use crate::fhir::resource;
use crate::policy::analysis::Reads;
use crate::policy::schema::SERVER;
use crate::policy::snapshot::Snapshot;

/// The id of whoever shows no token.
const NOBODY: &str = "nobody";
/// The id of a resource that has none yet, or whose id is not known: no FHIR id has this form.
const UNKNOWN_ID: &str = "?";

/// Something could not be said in Cedar; the question is then a deny.
#[derive(Debug, thiserror::Error)]
pub enum EntityError {
    #[error("`{0}` is no entity type of this FHIR version")]
    Type(String),
    #[error("cannot be written as a Cedar entity: {0}")]
    Entity(String),
}

/// A principal as one question sees it.
#[derive(Debug)]
pub struct View {
    pub uid: EntityUid,
    pub entity: Entity,
    /// for a scope with constraints: this scope, which is then the view's only one
    pub constrained: Option<ClinicalScope>,
}

/// The views under which a principal is asked about: `roles` must permit where it is there, and one of `scopes` where
/// there are any.
#[derive(Debug)]
pub struct Views {
    pub roles: Option<View>,
    pub scopes: Vec<View>,
    /// All that the principal has: forbids see it even where its roles permit nothing.
    pub whole: Option<View>,
    /// what the principal is, and what it is in under any of them
    pub uids: Vec<EntityUid>,
}

impl Views {
    pub fn of(principal: &Principal) -> Result<Views, EntityError> {
        let plain: Vec<&ClinicalScope> = principal.smart.iter().filter(|scope| scope.constraints.is_empty()).collect();
        let with_roles = |smart: &[&ClinicalScope], scoped| view(principal, true, smart, scoped, None);
        let scopes = || {
            let constrained = principal.smart.iter().filter(|scope| !scope.constraints.is_empty());
            let each = constrained.map(|scope| view(principal, false, &[scope], true, Some(scope.clone())));
            [view(principal, false, &plain, true, None)].into_iter().chain(each).collect::<Result<Vec<_>, _>>()
        };
        let uids = [principal_uid(principal)?].into_iter().chain(parents(principal)?).collect();
        Ok(match principal.authority {
            Authority::Nobody | Authority::Roles => {
                Views { roles: Some(with_roles(&[], false)?), scopes: Vec::new(), whole: None, uids }
            }
            Authority::Scopes => {
                let everything: Vec<&ClinicalScope> = principal.smart.iter().collect();
                let has_more = !principal.roles.is_empty() || !principal.groups.is_empty();
                let whole = if has_more { Some(with_roles(&everything, true)?) } else { None };
                Views { roles: None, scopes: scopes()?, whole, uids }
            }
            Authority::RolesAndScopes => {
                Views { roles: Some(with_roles(&[], true)?), scopes: scopes()?, whole: None, uids }
            }
        })
    }

    pub fn count(&self) -> usize {
        self.roles.iter().chain(&self.scopes).chain(&self.whole).count()
    }
}

impl View {
    /// Whether this view can have a say about the question: one constrained scope speaks for its type and letters only.
    pub fn speaks_for(&self, action: Action, of: &str) -> bool {
        let Some(scope) = &self.constrained else { return true };
        let type_matches = match scope.resource_type {
            ScopeType::All => of != SERVER,
            ScopeType::Type(resource_type) => resource_type.as_str() == of,
        };
        type_matches && scope.letters.iter().any(|letter| action.letters().contains(&letter.as_str()))
    }
}

fn view(
    principal: &Principal,
    with_roles: bool,
    smart: &[&ClinicalScope],
    scoped: bool,
    constrained: Option<ClinicalScope>,
) -> Result<View, EntityError> {
    let uid = principal_uid(principal)?;
    let parents = if with_roles { parents(principal)? } else { HashSet::new() };
    let tags = principal.attributes.iter().map(|(name, values)| (name.clone(), strings(values)));
    let entity = Entity::new_with_tags(uid.clone(), attributes(principal, smart, scoped)?, parents, tags)
        .map_err(|error| EntityError::Entity(error.to_string()))?;
    Ok(View { uid, entity, constrained })
}

/// Its roles and groups.
fn parents(principal: &Principal) -> Result<HashSet<EntityUid>, EntityError> {
    let roles = principal.roles.iter().map(|role| uid_of("Role", role));
    roles.chain(principal.groups.iter().map(|group| uid_of("UserGroup", group))).collect()
}

fn principal_uid(principal: &Principal) -> Result<EntityUid, EntityError> {
    let kind = match principal.kind {
        Kind::User => "User",
        Kind::Client => "Client",
    };
    match principal.authority {
        Authority::Nobody => uid_of("Client", NOBODY),
        Authority::Roles | Authority::Scopes | Authority::RolesAndScopes => {
            // `|` ends the issuer, so it may not stand in it: no two issuers share an id
            let issuer = principal.issuer.replace('|', "%7C");
            uid_of(kind, &format!("{issuer}|{}", principal.subject))
        }
    }
}

fn attributes(
    principal: &Principal,
    smart: &[&ClinicalScope],
    scoped: bool,
) -> Result<Vec<(String, RestrictedExpression)>, EntityError> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let mut attributes = vec![
        ("issuer".to_owned(), text(&principal.issuer)),
        ("subject".to_owned(), text(&principal.subject)),
        ("scopes".to_owned(), strings(&principal.scopes)),
        ("smart".to_owned(), levels(smart)?),
        ("scoped".to_owned(), RestrictedExpression::new_bool(scoped)),
        ("fhirUser".to_owned(), fhir_user(principal)?),
    ];
    if let Some(client) = &principal.client {
        attributes.push(("client".to_owned(), text(client)));
    }
    if let Some(tenant) = &principal.tenant {
        attributes.push(("tenant".to_owned(), text(tenant)));
    }
    if let Some(patient) = &principal.patient {
        attributes.push(("patient".to_owned(), entity_value("Patient", patient)?));
    }
    Ok(attributes)
}

fn fhir_user(principal: &Principal) -> Result<RestrictedExpression, EntityError> {
    let Some(user) = &principal.fhir_user else { return record(Vec::new()) };
    let of = user.resource_type.as_str();
    // `PractitionerRole` is the attribute `practitionerRole`
    let mut name = of.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    record(vec![(name, entity_value(of, &user.id)?)])
}

fn levels(smart: &[&ClinicalScope]) -> Result<RestrictedExpression, EntityError> {
    let level = |level: Level| {
        let of_letter = |letter: Letter| {
            let types = smart.iter().filter(|scope| scope.level == level && scope.letters.contains(letter));
            let names = types.map(|scope| scope.resource_type.as_str().to_owned());
            RestrictedExpression::new_set(names.map(RestrictedExpression::new_string))
        };
        record(LETTERS.map(|letter| (letter.as_str().to_owned(), of_letter(letter))).into())
    };
    record(vec![
        ("patient".to_owned(), level(Level::Patient)?),
        ("user".to_owned(), level(Level::User)?),
        ("system".to_owned(), level(Level::System)?),
    ])
}

const LETTERS: [Letter; 5] = [Letter::C, Letter::R, Letter::U, Letter::D, Letter::S];

/// What a question knows of the resource.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// nothing but its type, and its id where the request names it
    Unknown,
    /// there is none: no labels, no tags, in no compartment
    Nothing,
    Known(&'a Value),
}

/// The id of a question's resource.
pub fn resource_uid(of: &str, id: Option<&FhirId>) -> Result<EntityUid, EntityError> {
    uid_of(of, id.map_or(UNKNOWN_ID, FhirId::as_str))
}

/// The resource of a question as an entity. Only the tags that `reads` names are read.
pub fn resource_entity(
    snapshot: &Snapshot,
    of: &str,
    id: Option<&FhirId>,
    content: Content<'_>,
    reads: &Reads,
) -> Result<Entity, EntityError> {
    let uid = resource_uid(of, id)?;
    let (labels, parents, tags) = match (content, snapshot.definitions.resource_type(of)) {
        (Content::Known(json), Some(resource_type)) => (
            resource::labels(json),
            compartments(snapshot, json, resource_type, id)?,
            tags(snapshot, json, resource_type, reads),
        ),
        (Content::Known(_) | Content::Unknown | Content::Nothing, _) => {
            (resource::Labels::default(), HashSet::new(), BTreeMap::new())
        }
    };
    let mut attributes = vec![
        ("security".to_owned(), strings(&labels.security)),
        ("tag".to_owned(), strings(&labels.tag)),
        ("profile".to_owned(), strings(&labels.profile)),
    ];
    if let Some(source) = labels.source {
        attributes.push(("source".to_owned(), RestrictedExpression::new_string(source)));
    }
    let tags = tags.into_iter().map(|(name, values)| (name, strings(&values)));
    Entity::new_with_tags(uid, attributes, parents, tags).map_err(|error| EntityError::Entity(error.to_string()))
}

fn compartments(
    snapshot: &Snapshot,
    json: &Value,
    of: ResourceType,
    id: Option<&FhirId>,
) -> Result<HashSet<EntityUid>, EntityError> {
    resource::compartments(json, of, id, snapshot.definitions, &snapshot.bases)
        .into_iter()
        // A resource that is its own compartment is `in` itself by Cedar's own rule.
        .filter(|(compartment, member)| !(compartment.as_str() == of.as_str() && Some(member) == id))
        .map(|(compartment, member)| uid_of(compartment.as_str(), member.as_str()))
        .collect()
}

fn tags(snapshot: &Snapshot, json: &Value, of: ResourceType, reads: &Reads) -> BTreeMap<String, Vec<String>> {
    let value = |name: &str| {
        let values = resource::tag_values(json, of, name, snapshot.definitions, &snapshot.bases)?;
        (!values.is_empty()).then(|| (name.to_owned(), values))
    };
    match reads.tags() {
        Some(names) => names.iter().filter_map(|name| value(name)).collect(),
        None => snapshot.definitions.parameters(of).filter_map(|parameter| value(parameter.code)).collect(),
    }
}

/// What the caller knows of a request, and no token holds.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub purposes: Vec<String>,
    pub emergency: bool,
    pub source: Option<IpAddr>,
    pub server: String,
    /// seconds since 1970
    pub now: i64,
}

/// The Cedar context of a question; time and address only where a policy reads them, since they cost most to write.
pub fn context(
    facts: &Facts,
    of: &str,
    role: AccessRole,
    operation: Option<&str>,
    reads: &Reads,
) -> Result<Context, EntityError> {
    let mut pairs = vec![
        ("type".to_owned(), RestrictedExpression::new_string(of.to_owned())),
        ("purposes".to_owned(), strings(&facts.purposes)),
        ("emergency".to_owned(), RestrictedExpression::new_bool(facts.emergency)),
        ("server".to_owned(), RestrictedExpression::new_string(facts.server.clone())),
        ("access".to_owned(), RestrictedExpression::new_string(role.as_str().to_owned())),
    ];
    if let Some(name) = operation {
        pairs.push(("operation".to_owned(), RestrictedExpression::new_string(name.to_owned())));
    }
    if reads.now {
        pairs.push(("now".to_owned(), RestrictedExpression::new_datetime(timestamp(facts.now))));
    }
    if let (true, Some(source)) = (reads.source, facts.source) {
        pairs.push(("source".to_owned(), RestrictedExpression::new_ip(source.to_string())));
    }
    Context::from_pairs(pairs).map_err(|error| EntityError::Entity(error.to_string()))
}

/// `2026-11-24T03:40:55Z` of seconds since 1970, as Cedar's `datetime` reads it.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn timestamp(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn record(pairs: Vec<(String, RestrictedExpression)>) -> Result<RestrictedExpression, EntityError> {
    RestrictedExpression::new_record(pairs).map_err(|error| EntityError::Entity(error.to_string()))
}

fn strings<'s>(values: impl IntoIterator<Item = &'s String>) -> RestrictedExpression {
    RestrictedExpression::new_set(values.into_iter().map(|value| RestrictedExpression::new_string(value.clone())))
}

fn entity_value(of: &str, id: &FhirId) -> Result<RestrictedExpression, EntityError> {
    Ok(RestrictedExpression::new_entity_uid(uid_of(of, id.as_str())?))
}

fn uid_of(of: &str, id: &str) -> Result<EntityUid, EntityError> {
    let name = TYPE_NAMES.get(of).ok_or_else(|| EntityError::Type(of.to_owned()))?;
    Ok(EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id)))
}

/// Entity type names, read once: Cedar parses a name as it parses an expression, which is too slow for each question.
static TYPE_NAMES: LazyLock<HashMap<&'static str, EntityTypeName>> = LazyLock::new(|| {
    let fhir: BTreeSet<&'static str> = [FhirVersion::R4, FhirVersion::R4B, FhirVersion::R5]
        .into_iter()
        .flat_map(|version| Definitions::of(version).resource_types().map(ResourceType::as_str).collect::<Vec<_>>())
        .collect();
    let ours = ["User", "Client", "Role", "UserGroup", SERVER];
    fhir.into_iter().chain(ours).filter_map(|name| Some((name, EntityTypeName::from_str(name).ok()?))).collect()
});

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn timestamps_are_civil() {
        let check = |seconds: i64, expected: &str| assert_eq!(timestamp(seconds), expected);
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(1_422_779_638, "2015-02-01T08:33:58Z");
        check(-1, "1969-12-31T23:59:59Z");
        check(4_107_542_399, "2100-02-28T23:59:59Z");
        check(4_107_542_400, "2100-03-01T00:00:00Z");
    }
}
