//! Claims → principal, by the rules of claims.yaml. No claim has its name here.
//! INVARIANT: what is missing or malformed gives nothing, and a malformed `patient` or `fhirUser` still marks a user.
//! INVARIANT: roles and issuers are compared whole and exactly.
//! INVARIANT: scopes never add to what roles allow, nor roles to scopes, but as the profile's `clinicalScopes` says.
//! Source: shared/RULES "SMART"; SMART App Launch 2.2, "Scopes and Launch Context".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value as Json};

use super::condition::{Caught, ClaimPath, Condition, TEXTS_MAX, Template, TooManyTexts, catch};
use super::file;
use super::scope::{ClinicalScope, Scope, parse_spelled};
use crate::fhir::definitions::{Definitions, FhirId, FhirVersion, ResourceType};
use crate::finding::Finding;
use crate::token::issuers::{Issuer, IssuerPattern};
use crate::token::jws::Claims;

/// How many roles, or groups, one token may bring.
const VALUES_MAX: usize = 10_000;
/// How many scopes one token may bring.
const SCOPES_MAX: usize = 1_000;
/// How many notes a principal carries.
const NOTES_MAX: usize = 100;

/// Who asks: a person, or a program for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    User,
    Client,
}

/// What of a principal decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Authority {
    /// No one in particular: the claims name no one and bring nothing.
    Nobody,
    Roles,
    Scopes,
    /// Both must allow.
    RolesAndScopes,
}

/// The resource of the person who is signed in: a Patient, Practitioner, PractitionerRole, RelatedPerson or Person.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FhirUser {
    pub resource_type: ResourceType,
    pub id: FhirId,
}

/// Something in the claims that gave nothing, and why: for the people who debug access.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Note {
    /// A scope's text, the path of a claim, or a rule; never a claim's value.
    pub about: String,
    pub message: String,
}

/// Who asks and with what: all that policies can know of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub kind: Kind,
    /// Empty where the claims name none.
    pub issuer: String,
    /// The id; without one the client; without both empty.
    pub subject: String,
    pub client: Option<String>,
    pub tenant: Option<String>,
    pub roles: BTreeSet<String>,
    pub groups: BTreeSet<String>,
    /// As in the token.
    pub scopes: BTreeSet<String>,
    /// The clinical scopes that count.
    pub smart: Vec<ClinicalScope>,
    /// The launch patient.
    pub patient: Option<FhirId>,
    pub fhir_user: Option<FhirUser>,
    pub attributes: BTreeMap<String, BTreeSet<String>>,
    pub authority: Authority,
    pub notes: Vec<Note>,
}

/// The claims are not accepted: by a rule's `refuse`, or because they contradict themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub message: String,
}

/// The content of a claims.yaml without findings.
pub struct Rules {
    pub(super) issuers: Vec<Issuer>,
    /// The profile of each issuer, by index.
    pub(super) issuer_profiles: Vec<usize>,
    pub(super) profiles: Vec<Profile>,
    pub(super) default: usize,
    pub(super) rules: Vec<Rule>,
    pub(super) definitions: &'static Definitions,
}

impl fmt::Debug for Rules {
    /// Without the definitions, which are long and always the same.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Rules")
            .field("issuers", &self.issuers)
            .field("profiles", &self.profiles)
            .finish_non_exhaustive()
    }
}

/// How the claims of some issuers are read.
#[derive(Debug)]
pub(super) struct Profile {
    pub name: String,
    /// Issuers whose decoded claims are read so, where no entry names them.
    pub issuers: Vec<IssuerPattern>,
    pub claims: ClaimNames,
    pub slashes: Vec<String>,
    pub clinical: ClinicalScopes,
    pub launch_patient_from_fhir_user: bool,
    pub rules: Vec<Rule>,
}

/// Where each thing stands. Of `roles`, `groups` and `scopes` all count; of the others the first that is there.
#[derive(Debug, Default)]
pub(super) struct ClaimNames {
    pub id: Vec<ClaimPath>,
    pub client: Vec<ClaimPath>,
    pub tenant: Vec<ClaimPath>,
    pub roles: Vec<ClaimPath>,
    pub groups: Vec<ClaimPath>,
    pub scopes: Vec<ClaimPath>,
    pub patient: Vec<ClaimPath>,
    pub fhir_user: Vec<ClaimPath>,
}

/// What clinical scopes do to roles.
#[derive(Debug)]
pub(super) enum ClinicalScopes {
    /// Any of them, well formed or not, leaves nothing of the roles.
    ReplaceRoles,
    /// They count only beside one of these roles, and then both must allow.
    WithRole(BTreeSet<String>),
}

#[derive(Debug)]
pub(super) struct Rule {
    pub name: String,
    pub issuer: Option<IssuerPattern>,
    pub when: Option<Condition>,
    pub effect: Effect,
}

#[derive(Debug)]
pub(super) enum Effect {
    Grant(Vec<Grant>),
    Refuse(String),
}

#[derive(Debug)]
pub(super) enum Grant {
    Role(Template),
    Group(Template),
    Scope(Template),
    Patient(Template),
    FhirUser(Template),
    Attribute { name: String, value: Template },
    Kind(Kind),
}

impl Rules {
    /// Reads a claims.yaml. `file` is its name in findings.
    pub fn read(file: &str, text: &str, definitions: &'static Definitions) -> Result<Rules, Vec<Finding>> {
        file::read(file, text, definitions)
    }

    /// The issuers whose tokens may be verified, in the file's order.
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// Who the claims make the bearer. `bases` are the FHIR bases of this deployment, below which an absolute `fhirUser`
    /// must stand; with none of them it may stand below any http(s) URL.
    pub fn principal(&self, claims: &Claims, bases: &[String]) -> Result<Principal, Refusal> {
        let profile = self.profile(claims)?;
        let issuer = claims.issuer().unwrap_or_default();
        let mut draft = Draft::new(profile, claims.payload(), bases, self.definitions);
        draft.take_claims()?;
        // Who brings nothing at all is nobody, whatever the rules give to everyone.
        if !claims.payload().is_empty() {
            for rule in profile.rules.iter().chain(&self.rules) {
                draft.apply(rule, issuer)?;
            }
        }
        draft.finish(issuer)
    }

    fn profile(&self, claims: &Claims) -> Result<&Profile, Refusal> {
        let by_issuer = match claims.issuer() {
            None => None,
            Some(issuer) if claims.is_verified() => self.profile_of_verified(issuer),
            Some(issuer) => self.profile_of_vouched(issuer, claims.payload())?,
        };
        match by_issuer {
            Some(index) => self.profiles.get(index),
            None if claims.is_verified() => None,
            None => self.profiles.get(self.default),
        }
        .ok_or_else(|| refusal("no entry of claims.yaml names the issuer of this token"))
    }

    /// The entry that the signature was checked by: an exact one before a template.
    fn profile_of_verified(&self, issuer: &str) -> Option<usize> {
        let entries =
            || self.issuers.iter().zip(&self.issuer_profiles).filter(|(entry, _)| entry.pattern.names(issuer));
        let exact = entries().find(|(entry, _)| !entry.pattern.is_template());
        exact.or_else(|| entries().next()).map(|(_, profile)| *profile)
    }

    /// The entry that names the issuer, exactly or by template, or else the profile that claims it.
    fn profile_of_vouched(&self, issuer: &str, claims: &Map<String, Json>) -> Result<Option<usize>, Refusal> {
        let entries = self.issuers.iter().zip(&self.issuer_profiles);
        let (templates, exact): (Vec<_>, Vec<_>) = entries.partition(|(entry, _)| entry.pattern.is_template());
        for (entry, index) in exact.into_iter().chain(templates) {
            let Some(named) = names(&entry.pattern, issuer) else { continue };
            self.judge_tenant(named, *index, claims)?;
            let listed = |tenant| entry.tenants.is_empty() || entry.tenants.iter().any(|listed| listed == tenant);
            return match named {
                Named::Exactly => Ok(Some(*index)),
                Named::OfTenant(tenant) if listed(tenant) => Ok(Some(*index)),
                Named::OfTenant(_) => {
                    Err(refusal("the token's tenant is not among the `tenants` of its issuer's entry"))
                }
            };
        }
        for (index, profile) in self.profiles.iter().enumerate() {
            if let Some(named) = profile.issuers.iter().find_map(|pattern| names(pattern, issuer)) {
                self.judge_tenant(named, index, claims)?;
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// A token that names a tenant is of that tenant's issuer.
    fn judge_tenant(&self, named: Named<'_>, profile: usize, claims: &Map<String, Json>) -> Result<(), Refusal> {
        let paths = self.profiles.get(profile).map_or(&[][..], |profile| &profile.claims.tenant);
        match (named, paths.iter().find_map(|path| path.find(claims))) {
            (Named::OfTenant(tenant), Some(claimed)) if claimed.as_str() != Some(tenant) => {
                Err(refusal("the token's tenant is not the one that its issuer names"))
            }
            (Named::OfTenant(_) | Named::Exactly, _) => Ok(()),
        }
    }
}

/// How a pattern names an issuer.
#[derive(Clone, Copy)]
enum Named<'i> {
    Exactly,
    /// By its template, with this tenant.
    OfTenant(&'i str),
}

/// Whether `pattern` names `issuer`. For decoded claims any plain segment may stand for the tenant: test tokens have
/// names there, and nobody's signature hangs on it.
fn names<'i>(pattern: &IssuerPattern, issuer: &'i str) -> Option<Named<'i>> {
    let Some((before, after)) = pattern.as_str().split_once("{tid}") else {
        return (issuer == pattern.as_str()).then_some(Named::Exactly);
    };
    let tenant = issuer.strip_prefix(before)?.strip_suffix(after)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_segment = !tenant.is_empty() && !matches!(tenant, "." | "..") && tenant.chars().all(plain);
    is_segment.then_some(Named::OfTenant(tenant))
}

/// What has been found of a principal so far.
struct Draft<'r> {
    profile: &'r Profile,
    claims: &'r Map<String, Json>,
    bases: &'r [String],
    definitions: &'static Definitions,
    id: Option<String>,
    client: Option<String>,
    tenant: Option<String>,
    roles: BTreeSet<String>,
    groups: BTreeSet<String>,
    scopes: BTreeSet<String>,
    /// Whether there was anything in the place of a `patient` or a `fhirUser`, or a rule says `User`.
    is_user: bool,
    /// Whether there was anything in the place of a `patient`: what is malformed is not replaced by another.
    has_patient: bool,
    patients: Vec<FhirId>,
    fhir_users: Vec<FhirUser>,
    attributes: BTreeMap<String, BTreeSet<String>>,
    notes: Vec<Note>,
}

impl<'r> Draft<'r> {
    fn new(
        profile: &'r Profile,
        claims: &'r Map<String, Json>,
        bases: &'r [String],
        definitions: &'static Definitions,
    ) -> Draft<'r> {
        Draft {
            profile,
            claims,
            bases,
            definitions,
            id: None,
            client: None,
            tenant: None,
            roles: BTreeSet::new(),
            groups: BTreeSet::new(),
            scopes: BTreeSet::new(),
            is_user: false,
            has_patient: false,
            patients: Vec::new(),
            fhir_users: Vec::new(),
            attributes: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// Takes what the profile's `claims` name.
    fn take_claims(&mut self) -> Result<(), Refusal> {
        let names = &self.profile.claims;
        self.id = self.one_text(&names.id);
        self.client = self.one_text(&names.client);
        self.tenant = self.one_text(&names.tenant);
        for text in self.many_texts(&names.roles) {
            add(&mut self.roles, text, VALUES_MAX, "roles")?;
        }
        for text in self.many_texts(&names.groups) {
            add(&mut self.groups, text, VALUES_MAX, "groups")?;
        }
        for text in self.many_texts(&names.scopes) {
            self.take_scopes(text)?;
        }
        self.has_patient = self.first(&names.patient).is_some();
        self.is_user = self.has_patient || self.first(&names.fhir_user).is_some();
        if let Some(text) = self.one_text(&names.patient) {
            self.take_patient(&text, about_claim(&names.patient, self.claims));
        }
        if let Some(text) = self.one_text(&names.fhir_user) {
            self.take_fhir_user(&text, about_claim(&names.fhir_user, self.claims));
        }
        Ok(())
    }

    fn first(&self, paths: &'r [ClaimPath]) -> Option<(&'r ClaimPath, &'r Json)> {
        paths.iter().find_map(|path| path.find(self.claims).map(|value| (path, value)))
    }

    /// The first of these claims that is there, if it is a text.
    fn one_text(&mut self, paths: &'r [ClaimPath]) -> Option<String> {
        let (path, value) = self.first(paths)?;
        let text = value.as_str().filter(|text| !text.is_empty());
        if text.is_none() {
            self.note(path.to_string(), "a text is wanted here that is not empty; it is passed over");
        }
        text.map(str::to_owned)
    }

    /// The texts of all these claims, each a text or an array of texts.
    fn many_texts(&mut self, paths: &'r [ClaimPath]) -> Vec<&'r str> {
        let mut texts = Vec::new();
        for path in paths {
            let Some(value) = path.find(self.claims) else { continue };
            let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let before = texts.len();
            texts.extend(items.iter().filter_map(Json::as_str));
            let odd = items.len() - (texts.len() - before);
            if odd > 0 {
                self.note(path.to_string(), &format!("{odd} of its values are no text and are passed over"));
            }
        }
        texts
    }

    /// One space separates scopes; what other white space joins stays one, and malformed.
    fn take_scopes(&mut self, text: &str) -> Result<(), Refusal> {
        text.split(' ').try_for_each(|scope| add(&mut self.scopes, scope, SCOPES_MAX, "scopes"))
    }

    fn take_patient(&mut self, text: &str, about: String) {
        self.is_user = true;
        self.has_patient = true;
        match FhirId::parse(text) {
            Some(id) if self.patients.contains(&id) => {}
            Some(id) => self.patients.push(id),
            None => self.note(about, "it is no FHIR id, so it gives no launch patient"),
        }
    }

    fn take_fhir_user(&mut self, text: &str, about: String) {
        self.is_user = true;
        match FhirUser::parse(text, self.bases, self.definitions) {
            Ok(user) if self.fhir_users.contains(&user) => {}
            Ok(user) => self.fhir_users.push(user),
            Err(message) => self.note(about, message),
        }
    }

    fn apply(&mut self, rule: &Rule, issuer: &str) -> Result<(), Refusal> {
        let is_of_issuer = rule.issuer.as_ref().is_none_or(|pattern| names(pattern, issuer).is_some());
        let is_met = rule.when.as_ref().is_none_or(|condition| condition.is_met(self.claims));
        if !is_of_issuer || !is_met {
            return Ok(());
        }
        match &rule.effect {
            Effect::Refuse(message) => Err(refusal(message)),
            Effect::Grant(grants) => {
                let captured = rule.when.as_ref().and_then(Condition::captured);
                let caught = captured.map_or(Caught::new(), |(path, pattern)| catch(path, pattern, self.claims));
                grants.iter().try_for_each(|grant| self.grant(grant, rule, &caught))
            }
        }
    }

    fn grant(&mut self, grant: &Grant, rule: &Rule, caught: &Caught) -> Result<(), Refusal> {
        let claims = self.claims;
        let texts = |template: &Template| {
            template.texts(claims, caught).map_err(|TooManyTexts| {
                refusal(&format!("the rule `{}` makes more than {TEXTS_MAX} values of this token", rule.name))
            })
        };
        let about = || format!("rule `{}`", rule.name);
        match grant {
            Grant::Role(template) => {
                texts(template)?.iter().try_for_each(|text| add(&mut self.roles, text, VALUES_MAX, "roles"))
            }
            Grant::Group(template) => {
                texts(template)?.iter().try_for_each(|text| add(&mut self.groups, text, VALUES_MAX, "groups"))
            }
            Grant::Scope(template) => texts(template)?.iter().try_for_each(|text| self.take_scopes(text)),
            Grant::Patient(template) => {
                texts(template)?.iter().for_each(|text| self.take_patient(text, about()));
                Ok(())
            }
            Grant::FhirUser(template) => {
                texts(template)?.iter().for_each(|text| self.take_fhir_user(text, about()));
                Ok(())
            }
            Grant::Attribute { name, value } => {
                let made = texts(value)?;
                if !made.is_empty() {
                    let values = self.attributes.entry(name.clone()).or_default();
                    made.iter().try_for_each(|text| add(values, text, VALUES_MAX, "attribute values"))?;
                }
                Ok(())
            }
            Grant::Kind(Kind::User) => {
                self.is_user = true;
                Ok(())
            }
            // What else the claims say of a user outweighs this.
            Grant::Kind(Kind::Client) => Ok(()),
        }
    }

    fn finish(mut self, issuer: &str) -> Result<Principal, Refusal> {
        let fhir_user = self.the_one_fhir_user();
        let patient = self.the_launch_patient(fhir_user.as_ref());
        let (smart, authority) = self.judge_scopes();
        let brings_nothing = self.id.is_none()
            && self.client.is_none()
            && [&self.roles, &self.groups, &self.scopes].into_iter().all(BTreeSet::is_empty)
            && patient.is_none()
            && fhir_user.is_none();
        Ok(Principal {
            kind: if self.is_user { Kind::User } else { Kind::Client },
            issuer: issuer.to_owned(),
            subject: self.id.or_else(|| self.client.clone()).unwrap_or_default(),
            client: self.client,
            tenant: self.tenant,
            roles: self.roles,
            groups: self.groups,
            scopes: self.scopes,
            smart,
            patient,
            fhir_user,
            attributes: self.attributes,
            authority: if brings_nothing { Authority::Nobody } else { authority },
            notes: self.notes,
        })
    }

    fn the_one_fhir_user(&mut self) -> Option<FhirUser> {
        if self.fhir_users.len() > 1 {
            self.note("fhirUser".to_owned(), "claims and rules name several, so none counts");
            return None;
        }
        self.fhir_users.pop()
    }

    fn the_launch_patient(&mut self, fhir_user: Option<&FhirUser>) -> Option<FhirId> {
        if self.patients.len() > 1 {
            self.note("patient".to_owned(), "claims and rules name several, so none counts");
            return None;
        }
        let falls_back = self.profile.launch_patient_from_fhir_user && !self.has_patient;
        let own = fhir_user.filter(|user| falls_back && user.resource_type.as_str() == "Patient");
        self.patients.pop().or_else(|| own.map(|user| user.id.clone()))
    }

    /// The clinical scopes that count, and what decides.
    fn judge_scopes(&mut self) -> (Vec<ClinicalScope>, Authority) {
        let mut well_formed = Vec::new();
        let mut has_clinical = false;
        for text in std::mem::take(&mut self.scopes) {
            match parse_spelled(&text, &self.profile.slashes, self.definitions) {
                Scope::Clinical(scope) => {
                    has_clinical = true;
                    well_formed.push(scope);
                }
                Scope::Malformed { text, why } => {
                    has_clinical = true;
                    self.note(text, &format!("this scope grants nothing: {why}"));
                }
                Scope::Known | Scope::Other => {}
            }
            self.scopes.insert(text);
        }
        if !has_clinical {
            return (Vec::new(), Authority::Roles);
        }
        match &self.profile.clinical {
            ClinicalScopes::ReplaceRoles => (well_formed, Authority::Scopes),
            ClinicalScopes::WithRole(roles) if !roles.is_disjoint(&self.roles) => {
                (well_formed, Authority::RolesAndScopes)
            }
            ClinicalScopes::WithRole(roles) => {
                let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
                let message = format!("clinical scopes count only beside a role of {}", super::nodes::list(&roles));
                self.note("clinicalScopes".to_owned(), &message);
                (Vec::new(), Authority::Roles)
            }
        }
    }

    fn note(&mut self, about: String, message: &str) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(Note { about, message: message.to_owned() });
        }
    }
}

/// Puts a text that is not empty into a bounded set.
fn add(set: &mut BTreeSet<String>, text: &str, max: usize, what: &str) -> Result<(), Refusal> {
    if !text.is_empty() && !set.contains(text) {
        set.insert(text.to_owned());
    }
    if set.len() > max { Err(refusal(&format!("the token brings more than {max} {what}"))) } else { Ok(()) }
}

fn about_claim(paths: &[ClaimPath], claims: &Map<String, Json>) -> String {
    paths.iter().find(|path| path.find(claims).is_some()).map(ToString::to_string).unwrap_or_default()
}

fn refusal(message: &str) -> Refusal {
    Refusal { message: message.to_owned() }
}

impl FhirUser {
    const TYPES: [&str; 5] = ["Patient", "Practitioner", "PractitionerRole", "RelatedPerson", "Person"];

    /// `Type/id`, or an absolute URL that ends so: directly below one of `bases`, or, where there is none, below any
    /// http(s) URL. Else what is wrong.
    fn parse(text: &str, bases: &[String], definitions: &Definitions) -> Result<FhirUser, &'static str> {
        let relative = if text.contains("://") { below_base(text, bases)? } else { text };
        let (name, id) = relative.split_once('/').ok_or("it is neither `Type/id` nor an absolute URL that ends so")?;
        let resource_type = Some(name)
            .filter(|name| FhirUser::TYPES.contains(name))
            .and_then(|name| definitions.resource_type(name))
            .ok_or("it is no Patient, Practitioner, PractitionerRole, RelatedPerson or Person")?;
        let id = FhirId::parse(id).ok_or("what follows the resource type is no FHIR id")?;
        Ok(FhirUser { resource_type, id })
    }
}

fn below_base<'u>(url: &'u str, bases: &[String]) -> Result<&'u str, &'static str> {
    if !bases.is_empty() {
        let below = |base: &String| url.strip_prefix(base.trim_end_matches('/'))?.strip_prefix('/');
        return bases.iter().find_map(below).ok_or("its URL is below none of the configured FHIR bases");
    }
    let odd = "its URL is no plain http(s) URL";
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '\\' | '%' | ';' | '@');
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).ok_or(odd)?;
    let segments_are_plain = rest.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    if !segments_are_plain || !rest.chars().all(plain) {
        return Err(odd);
    }
    // Host, then any path, then the type and the id.
    let (_, path) = rest.split_once('/').ok_or(odd)?;
    let type_at = path.rmatch_indices('/').nth(1).map_or(0, |(slash, _)| slash + 1);
    path.get(type_at..).ok_or(odd)
}

/// The properties of claims.yaml and of what its rules make of claims; fuzz targets call them too. Both texts are read
/// as they are: any claims.yaml gives rules or at least one finding, any JSON object of claims a principal or a refusal.
#[doc(hidden)]
pub fn holds(text: &str) -> bool {
    match Rules::read("claims.yaml", text, Definitions::of(FhirVersion::R4)) {
        Ok(rules) => {
            rules.principal(&Claims::vouched(Map::new()), &[]).is_ok_and(|nobody| nobody.authority == Authority::Nobody)
        }
        Err(findings) => !findings.is_empty() && findings.iter().all(|finding| !finding.message.is_empty()),
    }
}

/// Claims never panic; what marks a user never leaves a client; and one malformed scope more, in `scope_claim`, adds no
/// clinical grant and changes nothing else for the better. (Empty claims are left out: one scope more is no longer nobody.)
#[doc(hidden)]
pub fn principal_holds(rules: &Rules, payload: &Map<String, Json>, scope_claim: &str) -> bool {
    const MALFORMED: &str = "patient/Observation.sr";
    let principal_of = |payload: &Map<String, Json>| rules.principal(&Claims::vouched(payload.clone()), &[]);
    let Ok(principal) = principal_of(payload) else { return true };
    let is_user = principal.kind == Kind::User || principal.patient.is_none() && principal.fhir_user.is_none();
    let scopes_decide = matches!(principal.authority, Authority::Scopes | Authority::RolesAndScopes);
    let spoiled_scope = match payload.get(scope_claim) {
        Some(Json::String(text)) => format!("{text} {MALFORMED}").into(),
        Some(Json::Array(items)) => items.iter().cloned().chain([MALFORMED.into()]).collect(),
        Some(Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_)) | None => MALFORMED.into(),
    };
    let mut spoiled = payload.clone();
    spoiled.insert(scope_claim.to_owned(), spoiled_scope);
    let never_more = principal_of(&spoiled).is_ok_and(|spoiled| {
        let same =
            spoiled.smart == principal.smart && spoiled.roles == principal.roles && spoiled.kind == principal.kind;
        same && (spoiled.authority == principal.authority || !scopes_decide)
    });
    is_user && (principal.smart.is_empty() || scopes_decide) && (never_more || principal.scopes.len() >= SCOPES_MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::token::issuers::{Algorithm, Issuers, Keys};
    use crate::token::jws::{self, MintKey};

    const SHIPPED: &str = include_str!("../../policies/claims.yaml");

    fn read(text: &str) -> Result<Rules, String> {
        let lines = |findings: Vec<Finding>| findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        Rules::read("claims.yaml", text, Definitions::of(FhirVersion::R4)).map_err(lines)
    }

    /// The shipped rules with other issuers and rules.
    fn shipped_with(issuers_and_rules: &str) -> Rules {
        let profiles = SHIPPED.split("\nissuers: []").next().unwrap();
        read(&format!("{profiles}\n{issuers_and_rules}")).unwrap()
    }

    /// All of a principal that is not empty, in one line for each.
    fn told(principal: &Principal) -> Vec<String> {
        let set = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(", ");
        let smart: Vec<String> = principal.smart.iter().map(ToString::to_string).collect();
        let fhir_user = principal.fhir_user.as_ref();
        let fhir_user = fhir_user.map(|user| format!("{}/{}", user.resource_type.as_str(), user.id.as_str()));
        let attributes = principal.attributes.iter().map(|(name, values)| format!("{name} = {}", set(values)));
        let mut lines = vec![format!("{:?} {:?} by {:?}", principal.kind, principal.subject, principal.authority)];
        for (name, value) in [
            ("client", principal.client.clone().unwrap_or_default()),
            ("tenant", principal.tenant.clone().unwrap_or_default()),
            ("roles", set(&principal.roles)),
            ("groups", set(&principal.groups)),
            ("smart", smart.join(", ")),
            ("patient", principal.patient.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default()),
            ("fhirUser", fhir_user.unwrap_or_default()),
            ("attributes", attributes.collect::<Vec<_>>().join(", ")),
        ] {
            if !value.is_empty() {
                lines.push(format!("{name}: {value}"));
            }
        }
        lines.extend(principal.notes.iter().map(|note| format!("note: {}: {}", note.about, note.message)));
        lines
    }

    fn check_at(bases: &[&str], rules: &Rules, case: &str, claims: Json, expected: &[&str]) {
        let bases: Vec<String> = bases.iter().map(|base| (*base).to_owned()).collect();
        let payload = claims.as_object().cloned().unwrap();
        for scope_claim in ["scope", "scp"] {
            assert!(payload.is_empty() || principal_holds(rules, &payload, scope_claim), "{case}");
        }
        match rules.principal(&Claims::vouched(payload), &bases) {
            Ok(principal) => assert_eq!(told(&principal), expected, "{case}"),
            Err(refusal) => assert_eq!(vec![format!("refused: {refusal}")], expected, "{case}"),
        }
    }

    fn check(case: &str, claims: Json, expected: &[&str]) {
        check_at(&[], &read(SHIPPED).unwrap(), case, claims, expected);
    }

    /// Claims of another issuer than Entra.
    fn other(mut claims: Json) -> Json {
        claims["iss"] = json!("https://login.example.org");
        claims["sub"] = json!("ann");
        claims
    }

    const TENANT: &str = "11111111-2222-3333-4444-555555555555";

    fn entra(mut claims: Json) -> Json {
        claims["iss"] = format!("https://login.microsoftonline.com/{TENANT}/v2.0").into();
        claims["tid"] = TENANT.into();
        claims["oid"] = json!("ann");
        claims
    }

    #[test]
    fn nobody_in_particular() {
        let nobody = "Client \"\" by Nobody";
        check("no claims", json!({}), &[nobody]);
        check("an issuer alone", json!({"iss": "https://login.example.org", "exp": 1}), &[nobody]);
        check("empty roles", json!({"iss": "x", "roles": []}), &[nobody]);
        check(
            "roles without text",
            json!({"roles": [1, null]}),
            &[nobody, "note: roles: 2 of its values are no text and are passed over"],
        );
        check("a role", json!({"roles": ["a"]}), &["Client \"\" by Roles", "roles: a"]);
        check(
            "a malformed patient is still a user's",
            json!({"patient": 7}),
            &["User \"\" by Nobody", "note: patient: a text is wanted here that is not empty; it is passed over"],
        );
        let everyone = shipped_with("rules: [{name: all, grant: {role: admin}}]");
        check_at(&[], &everyone, "rules give nothing to nobody", json!({}), &[nobody]);
        check_at(
            &[],
            &everyone,
            "rules may give to anyone",
            json!({"iss": "x"}),
            &["Client \"\" by Roles", "roles: admin"],
        );
    }

    #[test]
    fn issuers_other_than_entra() {
        let example = json!({"oid": "123", "iss": "https://issuerurl", "iat": 1_422_779_638, "roles": ["admin"]});
        check("the example token is the role admin", example, &["Client \"123\" by Roles", "roles: admin"]);
        check(
            "one role as a text, taken whole",
            other(json!({"roles": "FHIR Data Reader"})),
            &["Client \"ann\" by Roles", "roles: FHIR Data Reader"],
        );
        check(
            "letter case stays",
            other(json!({"roles": ["Admin", "admin ", "a,b"]})),
            &["Client \"ann\" by Roles", "roles: Admin, a,b, admin "],
        );
        check("groups are no roles", other(json!({"groups": ["g"]})), &["Client \"ann\" by Roles", "groups: g"]);
        check(
            "scopes alone decide",
            other(json!({"roles": ["admin"], "scope": "openid patient/*.rs", "patient": "1"})),
            &["User \"ann\" by Scopes", "roles: admin", "smart: patient/*.rs", "patient: 1"],
        );
        check(
            "scopes that are not clinical leave the roles",
            other(json!({"roles": "admin", "scope": "openid launch user.read api/read"})),
            &["Client \"ann\" by Roles", "roles: admin"],
        );
        check(
            "a malformed clinical scope takes the roles away too",
            other(json!({"roles": "admin", "scope": "system:Patient.read"})),
            &[
                "Client \"ann\" by Scopes",
                "roles: admin",
                "note: system:Patient.read: this scope grants nothing: a clinical scope begins exactly with `patient/`, `user/` or `system/`",
            ],
        );
        check(
            "the others stand beside a malformed one",
            other(json!({"scope": ["system/Patient.rs", "system/Patient.sr", "system/Condition.read system/*.c"]})),
            &[
                "Client \"ann\" by Scopes",
                "smart: system/*.c, system/Condition.rs, system/Patient.rs",
                "note: system/Patient.sr: this scope grants nothing: the letters are some of `cruds` in that order, none twice; or v1's `read`, `write`, `*`",
            ],
        );
        check(
            "a tab separates nothing",
            other(json!({"scope": "system/Patient.rs\tsystem/Condition.rs  openid"})),
            &[
                "Client \"ann\" by Scopes",
                "note: system/Patient.rs\tsystem/Condition.rs: this scope grants nothing: a scope holds no white space and no control character; scopes are separated by one space",
            ],
        );
        check(
            "dots are no slashes",
            other(json!({"scope": "patient.Observation.read"})),
            &[
                "Client \"ann\" by Scopes",
                "note: patient.Observation.read: this scope grants nothing: a clinical scope begins exactly with `patient/`, `user/` or `system/`",
            ],
        );
        check(
            "`scope` and `scp` add up",
            other(json!({"scope": "system/Patient.r", "scp": ["system/Group.r"]})),
            &["Client \"ann\" by Scopes", "smart: system/Group.r, system/Patient.r"],
        );
        check(
            "v1 beside v2, patient beside user, and a constraint",
            other(
                json!({"scope": "patient/Observation.read user/Observation.rs?category=http://x|a patient/Observation.cud", "patient": "p", "fhirUser": "Practitioner/d"}),
            ),
            &[
                "User \"ann\" by Scopes",
                "smart: patient/Observation.cud, patient/Observation.rs, user/Observation.rs?category=http://x|a",
                "patient: p",
                "fhirUser: Practitioner/d",
            ],
        );
        check(
            "the fhirUser is no launch patient here",
            other(json!({"scope": "patient/*.rs", "fhirUser": "Patient/7"})),
            &["User \"ann\" by Scopes", "smart: patient/*.rs", "fhirUser: Patient/7"],
        );
        check(
            "scopes of a wrong type",
            other(json!({"scope": {"a": 1}, "scp": 5})),
            &[
                "Client \"ann\" by Roles",
                "note: scope: 1 of its values are no text and are passed over",
                "note: scp: 1 of its values are no text and are passed over",
            ],
        );
        check(
            "the client is the subject where there is no id",
            json!({"iss": "x", "azp": "app"}),
            &["Client \"app\" by Roles", "client: app"],
        );
        check(
            "the first id that is there counts, well formed or not",
            json!({"sub": 5, "oid": "ann", "roles": ["r"]}),
            &[
                "Client \"\" by Roles",
                "roles: r",
                "note: sub: a text is wanted here that is not empty; it is passed over",
            ],
        );
        let many = vec!["s"; 3].into_iter().chain(std::iter::repeat_n("t", 3)).collect::<Vec<_>>();
        check(
            "what is there twice counts once",
            other(json!({"roles": many})),
            &["Client \"ann\" by Roles", "roles: s, t"],
        );
        let scopes: Vec<String> = (0..=SCOPES_MAX).map(|number| format!("s{number}")).collect();
        check("too many scopes", other(json!({"scope": scopes})), &["refused: the token brings more than 1000 scopes"]);
    }

    #[test]
    fn issuers_of_entra() {
        let tenant = format!("tenant: {TENANT}");
        let check = |case: &str, claims: Json, expected: &[&str]| {
            let expected: Vec<&str> = match expected.iter().position(|line| line.starts_with("client: ")) {
                Some(at) => [&expected[..=at], &[&tenant], &expected[at + 1..]].concat(),
                None if expected[0].starts_with("refused") => expected.to_vec(),
                None => [&expected[..1], &[&tenant], &expected[1..]].concat(),
            };
            check(case, claims, &expected);
        };
        check(
            "roles and groups are roles",
            entra(json!({"roles": ["FHIR Data Reader"], "groups": ["0f9c"], "azp": "app"})),
            &["Client \"ann\" by Roles", "client: app", "roles: 0f9c, FHIR Data Reader", "groups: 0f9c"],
        );
        check(
            "scopes count beside the role, and both must allow",
            entra(
                json!({"roles": ["FHIR SMART User"], "scp": "patient.Observation.rs patient%2fCondition.read user$Patient.r User.Read", "patient": "1"}),
            ),
            &[
                "User \"ann\" by RolesAndScopes",
                "roles: FHIR SMART User",
                "smart: patient/Condition.rs, patient/Observation.rs, user/Patient.r",
                "patient: 1",
            ],
        );
        check(
            "smartUser as well",
            entra(json!({"roles": "smartUser", "scp": "system/*.rs"})),
            &["Client \"ann\" by RolesAndScopes", "roles: smartUser", "smart: system/*.rs"],
        );
        check(
            "another case is another role",
            entra(json!({"roles": ["fhir smart user"], "scp": "system/*.rs"})),
            &[
                "Client \"ann\" by Roles",
                "roles: fhir smart user",
                "note: clinicalScopes: clinical scopes count only beside a role of `FHIR SMART User`, `smartUser`",
            ],
        );
        check(
            "without the role they count for nothing, and roles decide",
            entra(json!({"roles": ["FHIR Data Reader"], "scp": "patient/*.rs"})),
            &[
                "Client \"ann\" by Roles",
                "roles: FHIR Data Reader",
                "note: clinicalScopes: clinical scopes count only beside a role of `FHIR SMART User`, `smartUser`",
            ],
        );
        check(
            "with the role, without clinical scopes, roles decide",
            entra(json!({"roles": ["FHIR SMART User"], "scp": "user_impersonation"})),
            &["Client \"ann\" by Roles", "roles: FHIR SMART User"],
        );
        check(
            "a malformed scope beside the role still asks for both",
            entra(json!({"roles": ["smartUser", "admin"], "scp": "patient.Observation.sr"})),
            &[
                "Client \"ann\" by RolesAndScopes",
                "roles: admin, smartUser",
                "note: patient.Observation.sr: this scope grants nothing: the letters are some of `cruds` in that order, none twice; or v1's `read`, `write`, `*`",
            ],
        );
        check(
            "`scope` is not Entra's",
            entra(json!({"roles": ["smartUser"], "scope": "system/*.rs"})),
            &["Client \"ann\" by Roles", "roles: smartUser"],
        );
        check(
            "a fhirUser that is a Patient is the launch patient",
            entra(json!({"fhirUser": "https://fhir.example.org/Patient/7"})),
            &["User \"ann\" by Roles", "patient: 7", "fhirUser: Patient/7"],
        );
        check(
            "`patient` comes before it",
            entra(json!({"patient": "8", "fhirUser": "Patient/7"})),
            &["User \"ann\" by Roles", "patient: 8", "fhirUser: Patient/7"],
        );
        check(
            "a malformed `patient` is not replaced by it",
            entra(json!({"patient": ["8"], "fhirUser": "Patient/7"})),
            &[
                "User \"ann\" by Roles",
                "fhirUser: Patient/7",
                "note: patient: a text is wanted here that is not empty; it is passed over",
            ],
        );
        check(
            "a practitioner is no launch patient",
            entra(json!({"fhirUser": "Practitioner/7"})),
            &["User \"ann\" by Roles", "fhirUser: Practitioner/7"],
        );
        for claim in ["upn", "preferred_username", "unique_name", "name"] {
            check(claim, entra(json!({ claim: "Ann" })), &["User \"ann\" by Roles"]);
        }
        check("a user's token", entra(json!({"idtyp": "user"})), &["User \"ann\" by Roles"]);
        check(
            "an app's token",
            entra(json!({"idtyp": "app", "appid": "app"})),
            &["Client \"ann\" by Roles", "client: app"],
        );
    }

    #[test]
    fn which_issuers_are_entra() {
        // `groups` become roles only by Entra's profile
        let check = |issuer: Json, tid: Json, expected: &str| {
            let mut claims = json!({"iss": issuer, "groups": ["g"]});
            if !tid.is_null() {
                claims["tid"] = tid;
            }
            let rules = read(SHIPPED).unwrap();
            let made = rules.principal(&Claims::vouched(claims.as_object().cloned().unwrap()), &[]);
            let found = match &made {
                Ok(principal) if principal.roles.contains("g") => "entra",
                Ok(_) => "smart",
                Err(refusal) => &refusal.message,
            };
            assert_eq!(found, expected, "{issuer}");
        };
        let mismatch = "the token's tenant is not the one that its issuer names";
        check(json!(format!("https://login.microsoftonline.com/{TENANT}/v2.0")), json!(TENANT), "entra");
        check(json!(format!("https://sts.windows.net/{TENANT}/")), json!(TENANT), "entra");
        check(json!("https://sts.windows.net/contoso-tenant/"), Json::Null, "entra");
        check(json!("https://sts.windows.net/contoso-tenant/"), json!("contoso-tenant"), "entra");
        check(json!("https://sts.windows.net/contoso-tenant/"), json!("Contoso-tenant"), mismatch);
        check(json!("https://sts.windows.net/contoso-tenant/"), json!(["contoso-tenant"]), mismatch);
        check(json!("https://sts.windows.net/contoso-tenant"), Json::Null, "smart");
        check(json!("https://sts.windows.net//"), Json::Null, "smart");
        check(json!("https://sts.windows.net/../"), Json::Null, "smart");
        check(json!("https://sts.windows.net/a/b/"), Json::Null, "smart");
        check(json!("https://sts.windows.net/a%2fb/"), Json::Null, "smart");
        check(json!("https://sts.windows.net.example.org/a/"), Json::Null, "smart");
        check(json!("http://sts.windows.net/a/"), Json::Null, "smart");
        check(json!("https://STS.windows.net/a/"), Json::Null, "smart");
        check(json!("https://login.microsoftonline.com/a/v2.0/"), Json::Null, "smart");
        check(json!("https://login.microsoftonline.com/a/v1.0"), Json::Null, "smart");
        check(json!(["https://sts.windows.net/a/"]), Json::Null, "smart");
    }

    #[test]
    fn an_entry_names_the_profile_of_decoded_claims() {
        let rules = shipped_with(
            "issuers:
  - { issuer: 'https://sts.windows.net/{tid}/', profile: entra, tenants: [a, b] }
  - { issuer: 'https://sts.windows.net/b/', profile: smart }
  - { issuer: 'https://other.example.org', profile: entra }",
        );
        let check = |issuer: &str, expected: &[&str]| {
            let claims = json!({"iss": issuer, "groups": ["g"], "oid": "ann"});
            check_at(&[], &rules, issuer, claims, expected);
        };
        let entra = ["Client \"ann\" by Roles", "roles: g", "groups: g"];
        let smart = ["Client \"ann\" by Roles", "groups: g"];
        check("https://sts.windows.net/a/", &entra);
        check("https://sts.windows.net/b/", &smart);
        check(
            "https://sts.windows.net/c/",
            &["refused: the token's tenant is not among the `tenants` of its issuer's entry"],
        );
        check("https://other.example.org", &entra);
        check("https://other.example.org/", &smart);
        check("https://login.microsoftonline.com/c/v2.0", &entra);
    }

    #[test]
    fn a_verified_token_is_read_by_the_profile_of_its_entry() {
        let rules = shipped_with(
            "issuers:
  - { issuer: 'https://issuerurl', profile: entra, algorithms: [HS256], allow: [missing-exp, missing-aud], keys: { secretFile: f } }",
        );
        let secret = b"a secret of this test alone, 32 bytes and more";
        let keys = Arc::new(Keys::from_secret(secret).unwrap());
        let verified = |claims: Json, issuers: &Issuers| {
            let token =
                jws::mint(claims.as_object().unwrap(), Algorithm::HS256, MintKey::Secret(secret), None).unwrap();
            jws::verify(&token, issuers, &jws::Limits::default(), 0).unwrap()
        };
        let issuers = Issuers::new(rules.issuers().to_vec()).with_keys(0, Arc::clone(&keys));
        let claims = verified(json!({"iss": "https://issuerurl", "oid": "123", "groups": ["g"]}), &issuers);
        let principal = rules.principal(&claims, &[]).unwrap();
        assert_eq!(told(&principal), ["Client \"123\" by Roles", "roles: g", "groups: g"]);
        // The rules were swapped for others that do not name it: no default profile for what was verified.
        let refused = read(SHIPPED).unwrap().principal(&claims, &[]).unwrap_err();
        assert_eq!(refused.message, "no entry of claims.yaml names the issuer of this token");
    }

    #[test]
    fn launch_patients_and_users() {
        let check = |bases: &[&str], claim: &str, value: Json, expected: &str| {
            let rules = read(SHIPPED).unwrap();
            let claims = other(json!({ claim: value }));
            let principal = rules.principal(&Claims::vouched(claims.as_object().cloned().unwrap()), &[]);
            assert_eq!(principal.unwrap().kind, Kind::User, "{claims}: it marks a user");
            let lines: &[&str] = &["User \"ann\" by Roles", expected];
            check_at(bases, &rules, &claims.to_string(), claims, lines);
        };
        let patient = |value: Json, expected: &str| check(&[], "patient", value, expected);
        let no_text = "note: patient: a text is wanted here that is not empty; it is passed over";
        let no_id = "note: patient: it is no FHIR id, so it gives no launch patient";
        patient(json!("p-1.A"), "patient: p-1.A");
        for value in [json!(""), json!(null), json!(1), json!(["p"]), json!({"id": "p"}), json!(true)] {
            patient(value, no_text);
        }
        for value in ["Patient/p", "p q", " p", "p\n", "p|q", "ä", "https://x/Patient/p", &"p".repeat(65)] {
            patient(json!(value), no_id);
        }

        let user = |bases: &[&str], value: &str, expected: &str| check(bases, "fhirUser", json!(value), expected);
        let neither = "note: fhirUser: it is neither `Type/id` nor an absolute URL that ends so";
        let no_type = "note: fhirUser: it is no Patient, Practitioner, PractitionerRole, RelatedPerson or Person";
        let no_id = "note: fhirUser: what follows the resource type is no FHIR id";
        let odd = "note: fhirUser: its URL is no plain http(s) URL";
        let foreign = "note: fhirUser: its URL is below none of the configured FHIR bases";
        for name in ["Patient", "Practitioner", "PractitionerRole", "RelatedPerson", "Person"] {
            user(&[], &format!("{name}/1"), &format!("fhirUser: {name}/1"));
        }
        user(&[], "Device/1", no_type);
        user(&[], "patient/1", no_type);
        user(&[], "/Patient/1", no_type);
        user(&[], "Patient", neither);
        user(&[], "Patient/", no_id);
        user(&[], "Patient/1/_history/2", no_id);
        user(&[], "Patient/1?x=y", no_id);
        user(&[], "https://x.example.org/Patient/1", "fhirUser: Patient/1");
        user(&[], "http://x.example.org:8080/a/b/Practitioner/1", "fhirUser: Practitioner/1");
        user(&[], "https://Patient/1", neither);
        user(&[], "https:///Patient/1", odd);
        user(&[], "https://x//Patient/1", odd);
        user(&[], "https://x/../Patient/1", odd);
        user(&[], "https://x/a?b=/Patient/1", odd);
        user(&[], "https://x#/Patient/1", odd);
        user(&[], "https://a@x/Patient/1", odd);
        user(&[], "ftp://x/Patient/1", odd);
        user(&[], "https://x/Patient/1/", odd);
        user(&[], "https://x/Patient/1/_history/2", no_type);
        let bases = ["https://fhir.example.org/r4", "https://other.example.org/"];
        user(&bases, "Patient/1", "fhirUser: Patient/1");
        user(&bases, "https://fhir.example.org/r4/Patient/1", "fhirUser: Patient/1");
        user(&bases, "https://other.example.org/Patient/1", "fhirUser: Patient/1");
        user(&bases, "https://fhir.example.org/r4b/Patient/1", foreign);
        user(&bases, "https://fhir.example.org/Patient/1", foreign);
        user(&bases, "https://FHIR.example.org/r4/Patient/1", foreign);
        user(&bases, "https://fhir.example.org/r4/tenant/Patient/1", no_type);
        user(&bases, "https://x.example.org/Patient/1", foreign);
        check(
            &[],
            "fhirUser",
            json!(["Patient/1"]),
            "note: fhirUser: a text is wanted here that is not empty; it is passed over",
        );
    }

    #[test]
    fn rules_grant_and_refuse() {
        let check = |rules: &str, claims: Json, expected: &[&str]| {
            check_at(&[], &shipped_with(&format!("rules:\n{rules}")), rules, other(claims), expected);
        };
        let ann = "Client \"ann\" by Roles";
        let user = "User \"ann\" by Roles";
        let nurse = "- {name: a, when: {claim: dept, equals: ward}, grant: {role: nurse}}";
        check(nurse, json!({"dept": "ward"}), &[ann, "roles: nurse"]);
        check(nurse, json!({"dept": "wards"}), &[ann]);
        let of_issuer = "- {name: a, issuer: https://login.example.org, grant: {role: nurse}}";
        check(of_issuer, json!({}), &[ann, "roles: nurse"]);
        check("- {name: a, issuer: https://login.example.org/, grant: {role: nurse}}", json!({}), &[ann]);
        let several = "- {name: a, grant: [{role: '${x}', group: 'g-${x}'}, {attribute: {x: '${x}', y: z}}]}";
        check(
            several,
            json!({"x": ["p", 7]}),
            &[ann, "roles: 7, p", "groups: g-7, g-p", "attributes: x = 7, p, y = z"],
        );
        check(several, json!({}), &[ann, "attributes: y = z"]);
        let scope = "- {name: a, grant: {scope: 'openid system/Patient.rs'}}\n- {name: b, grant: {scope: '${more}'}}";
        check(
            scope,
            json!({"more": "system/Group.sr"}),
            &[
                "Client \"ann\" by Scopes",
                "smart: system/Patient.rs",
                "note: system/Group.sr: this scope grants nothing: the letters are some of `cruds` in that order, none twice; or v1's `read`, `write`, `*`",
            ],
        );
        let patient = "- {name: a, when: {claim: account, matches: 'Patient/([a-z]+)(!)?'}, grant: {patient: '${1}', role: 'x${2}'}}";
        check(patient, json!({"account": "Patient/ann"}), &[user, "patient: ann"]);
        check(patient, json!({"account": "xPatient/ann"}), &[ann]);
        check(patient, json!({"account": "Patient/ann\n"}), &[ann]);
        check(
            patient,
            json!({"account": ["Patient/ann", "Patient/bob"]}),
            &[user, "note: patient: claims and rules name several, so none counts"],
        );
        check(patient, json!({"account": "Patient/ann", "patient": "ann"}), &[user, "patient: ann"]);
        check(
            patient,
            json!({"account": "Patient/ann", "patient": "bob"}),
            &[user, "note: patient: claims and rules name several, so none counts"],
        );
        check(
            patient,
            json!({"account": "Patient/ann", "patient": "Patient/ann"}),
            &[user, "patient: ann", "note: patient: it is no FHIR id, so it gives no launch patient"],
        );
        check(
            "- {name: a, grant: {patient: '${x}'}}",
            json!({"x": "a b"}),
            &[user, "note: rule `a`: it is no FHIR id, so it gives no launch patient"],
        );
        check(
            "- {name: a, grant: {fhirUser: 'Practitioner/${x}'}}",
            json!({"x": "d"}),
            &[user, "fhirUser: Practitioner/d"],
        );
        check(
            "- {name: a, grant: {fhirUser: 'Practitioner/${x}'}}",
            json!({"x": ["d", "e"]}),
            &[user, "note: fhirUser: claims and rules name several, so none counts"],
        );
        check("- {name: a, grant: {kind: User}}\n- {name: b, grant: {kind: Client}}", json!({}), &[user]);
        check(
            "- {name: b, grant: {kind: Client}}",
            json!({"patient": []}),
            &[user, "note: patient: a text is wanted here that is not empty; it is passed over"],
        );
        let refuse = "- {name: a, when: {claim: acct, equals: 1}, refuse: no guests}\n- {name: b, grant: {role: r}}";
        check(refuse, json!({"acct": 1}), &["refused: no guests"]);
        check(refuse, json!({"acct": "1"}), &[ann, "roles: r"]);
        let many: Vec<String> = (0..=TEXTS_MAX).map(|number| number.to_string()).collect();
        check(
            "- {name: a, grant: {role: 'r${x}'}}",
            json!({"x": many}),
            &["refused: the rule `a` makes more than 1000 values of this token"],
        );
    }

    #[test]
    fn the_examples_in_the_shipped_file_are_good() {
        // Each commented block, its `# ` taken away, in its place.
        let uncommented = |text: &str| {
            let code = |line: &str| {
                let bare = line.trim_start().strip_prefix("# ")?;
                let indented = line.starts_with("  #") || bare.starts_with("  ");
                let is_code = bare.trim_start().starts_with("- ") || bare.contains(": ") || bare.ends_with(':');
                let is_code = is_code && !bare.trim_start().starts_with(char::is_uppercase);
                (indented && is_code).then(|| line.replacen("# ", "", 1))
            };
            text.lines().filter_map(code).collect::<Vec<_>>().join("\n")
        };
        let (profiles, rest) = SHIPPED.split_once("# The profile for decoded claims").unwrap();
        let (issuers, rules) = rest.split_once("rules: []").unwrap();
        let (written, examples) = profiles.split_once("  # Keycloak").unwrap();
        let text = format!(
            "{written}\n{}\ndefault: smart\nissuers:\n{}\nrules:\n{}\n",
            uncommented(examples),
            uncommented(issuers),
            uncommented(rules)
        );
        let rules = read(&text).unwrap_or_else(|findings| panic!("{findings}\n{text}"));
        assert_eq!(rules.profiles.len(), 5, "{text}");
        assert_eq!(rules.issuers.len(), 3, "{text}");
        assert_eq!(rules.rules.len(), 3, "{text}");
        let claims = json!({"iss": "x", "portal_account": "Patient/p", "department": "d", "acct": 0});
        check_at(
            &[],
            &rules,
            "the portal",
            claims,
            &["User \"\" by Roles", "patient: p", "fhirUser: Patient/p", "attributes: department = d"],
        );
    }

    /// Claims of the names that the shipped rules read, with values of any shape.
    fn claims() -> impl Strategy<Value = Json> {
        let text = prop::sample::select(vec![
            "",
            "p",
            "FHIR SMART User",
            "admin",
            "patient/*.rs user/Observation.cruds",
            "system.*.read",
            "Patient/1",
            "https://x/Practitioner/2",
            "user",
            "patient/Observation.rs?code=a",
            "system:Patient.read",
            " ",
            "\u{e4}\n",
        ]);
        let leaf = prop_oneof![
            6 => text.prop_map(Json::from),
            1 => any::<i64>().prop_map(Json::from),
            1 => any::<bool>().prop_map(Json::from),
            1 => Just(Json::Null),
        ];
        let value = leaf.prop_recursive(2, 8, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::hash_map("[a-z]{1,3}", inner, 0..3)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        });
        let name = prop::sample::select(vec![
            "oid", "sub", "azp", "tid", "roles", "groups", "scp", "scope", "patient", "fhirUser", "idtyp", "name",
        ]);
        let issuer = prop::sample::select(vec!["https://sts.windows.net/a/", "https://x", ""]);
        (prop::collection::hash_map(name, value, 0..8), issuer).prop_map(|(map, issuer)| {
            let mut claims: Map<String, Json> = map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            claims.insert("iss".to_owned(), issuer.into());
            Json::Object(claims)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        #[test]
        fn any_claims_hold(claims in claims()) {
            let rules = read(SHIPPED).unwrap();
            let payload = claims.as_object().cloned().unwrap();
            prop_assert!(principal_holds(&rules, &payload, "scope"));
            prop_assert!(principal_holds(&rules, &payload, "scp"));
        }

        #[test]
        fn any_bent_file_holds(cuts in prop::collection::vec((any::<prop::sample::Index>(), "[-:{}\\[\\]&*!'\"# \n${a-z]{0,3}"), 0..4)) {
            let mut text: Vec<char> = SHIPPED.replace("\n# ", "\n").chars().collect();
            for (index, insert) in cuts {
                let at = index.index(text.len());
                text.splice(at..(at + 2).min(text.len()), insert.chars());
            }
            prop_assert!(holds(&text.into_iter().collect::<String>()));
        }

        #[test]
        fn any_text_holds(text in "[-:{}\\[\\]&*!'\"# \n${a-z<>|~%@]{0,60}") {
            prop_assert!(holds(&text));
        }
    }
}
