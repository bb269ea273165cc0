//! A folder's bytes → the snapshot that decides, or everything that is wrong with them.
//! Hides where in a folder things stand, and how Cedar's diagnostics become findings.
//! INVARIANT: a folder with any error gives no snapshot; a snapshot never changes once it is made.
//! INVARIANT: every policy has an `@id`, and no two share one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use cedar_policy::{
    Effect, Entity, EntityUid, Policy, PolicyId, PolicySet, Schema, SchemaFragment, Template, ValidationMode, Validator,
};
use miette::Diagnostic;

use crate::claims::rules::Rules;
use crate::fhir::action::Action;
use crate::fhir::definitions::{Definitions, FhirVersion, ResourceType};
use crate::fhir::{operation, resource};
use crate::finding::Finding;
use crate::policy::analysis::{Analysed, Form, too_deep_at};
use crate::policy::folder::Folder;
use crate::policy::index::{Index, action_uid};
use crate::policy::links::{self, LINKS, Link};
use crate::policy::schema;

/// The claim rules of a folder.
pub const CLAIMS: &str = "claims.yaml";
const THEMES: &str = "themes/";
const TESTS: &str = "tests/";

/// What a snapshot is made for, beside the folder.
#[derive(Debug, Clone)]
pub struct Settings {
    pub version: FhirVersion,
    /// optional themes: `themes/NAME.cedar`
    pub themes: Vec<String>,
    pub request: operation::Settings,
}

/// Everything that decides, immutable: policies, claim rules, definitions.
pub struct Snapshot {
    pub revision: Revision,
    pub definitions: &'static Definitions,
    pub rules: Rules,
    pub request: operation::Settings,
    pub bases: resource::Bases,
    pub index: Index,
    actions: HashMap<Action, Entity>,
    described: BTreeMap<String, Described>,
    /// element paths of `@redact`, by the policy's id
    redact: HashMap<String, BTreeSet<String>>,
    fragments: Vec<SchemaFragment>,
    /// for each action, made when it is first asked for
    schemas: HashMap<Action, OnceLock<Option<Schema>>>,
    /// what is suspicious, but no error
    pub warnings: Vec<Finding>,
}

/// A policy as `GET /v1/policies` lists it.
#[derive(Debug, Clone)]
pub struct Described {
    pub effect: Effect,
    pub file: String,
    pub description: Option<String>,
}

/// The identity of what decides: a SHA-256 over policies, schema fragments, claim rules, FHIR version and themes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision(String);

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Snapshot {
    /// Reads a whole folder, or says all that is wrong with it.
    pub fn load(folder: &Folder, settings: &Settings) -> Result<Snapshot, Vec<Finding>> {
        let definitions = Definitions::of(settings.version);
        let mut findings = Vec::new();
        let rules = keep(claim_rules(folder, definitions), &mut findings);
        let files = policy_files(folder, &settings.themes, &mut findings);
        let (loaded, unlinked) = policies(&files, definitions, &mut findings);
        let fragments = schema_fragments(folder, &mut findings);
        let warnings = validate(&loaded, &files, &fragments, definitions, &mut findings);
        let bases = resource::Bases::new(settings.request.bases.iter().cloned())
            .map_err(|error| vec![Finding::of_file("fhir.bases", error)]);
        let bases = keep(bases, &mut findings);
        let (Some(rules), Some((actions, warnings)), Some(bases), true) = (rules, warnings, bases, findings.is_empty())
        else {
            findings.sort_by(by_place);
            return Err(findings);
        };
        let described = loaded.iter().map(|policy| (policy.id(), policy.described())).collect();
        let redact = loaded.iter().filter_map(|policy| Some((policy.id(), policy.redact()?))).collect();
        let groups = |action| groups_of(&actions, action);
        let index = Index::new(loaded.into_iter().map(|policy| policy.analysed).collect(), definitions, groups);
        Ok(Snapshot {
            revision: revision(folder, &files, settings),
            definitions,
            rules,
            bases,
            request: settings.request.clone(),
            index,
            actions,
            described,
            redact,
            fragments,
            schemas: Action::all().map(|(action, _)| (action, OnceLock::new())).collect(),
            warnings: unlinked.into_iter().chain(warnings).collect(),
        })
    }

    /// The schema with this one action applying to every type, for partial evaluation. It takes some milliseconds to make.
    pub fn schema(&self, action: Action) -> Option<&Schema> {
        let types: Vec<&str> = self.definitions.resource_types().map(ResourceType::as_str).collect();
        let of = |other| if other == action { types.as_slice() } else { &[] };
        let make = || schema_of(self.definitions, of, self.fragments.clone()).ok();
        self.schemas.get(&action)?.get_or_init(make).as_ref()
    }

    /// The Cedar entity of an action, with the groups it is in.
    pub fn action(&self, action: Action) -> Option<&Entity> {
        self.actions.get(&action)
    }

    /// The element paths that a policy hides, if it hides any.
    pub fn redact(&self, id: &str) -> Option<&BTreeSet<String>> {
        self.redact.get(id)
    }

    /// Every policy by its id.
    pub fn described(&self) -> &BTreeMap<String, Described> {
        &self.described
    }
}

/// One policy and where it stands.
struct Loaded {
    analysed: Analysed,
    file: String,
    offset: usize,
}

impl Loaded {
    fn policy(&self) -> &Policy {
        self.analysed.policy()
    }

    fn id(&self) -> String {
        let id: &str = self.policy().id().as_ref();
        id.to_owned()
    }

    fn described(&self) -> Described {
        Described {
            effect: self.policy().effect(),
            file: self.file.clone(),
            description: self.policy().annotation("description").map(str::to_owned),
        }
    }

    fn redact(&self) -> Option<BTreeSet<String>> {
        let paths = self.policy().annotation("redact")?.split(',').map(str::trim);
        Some(paths.filter(|path| !path.is_empty()).map(str::to_owned).collect())
    }
}

fn by_place(a: &Finding, b: &Finding) -> std::cmp::Ordering {
    (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column))
}

fn keep<T>(result: Result<T, Vec<Finding>>, findings: &mut Vec<Finding>) -> Option<T> {
    result.map_err(|more| findings.extend(more)).ok()
}

fn claim_rules(folder: &Folder, definitions: &'static Definitions) -> Result<Rules, Vec<Finding>> {
    let Some(bytes) = folder.0.get(CLAIMS) else {
        // Closed: rules that are missing may have refused somebody.
        let help = "`cedarward init DIR` writes the default one";
        return Err(vec![finding(CLAIMS, (0, 0), "the folder has no claim rules".to_owned(), Some(help.to_owned()))]);
    };
    Rules::read(CLAIMS, text(CLAIMS, bytes).map_err(|finding| vec![finding])?, definitions)
}

/// The policy files in force, by path: links.yaml, and all `.cedar` files but those of themes that are not on.
fn policy_files<'f>(folder: &'f Folder, themes: &[String], findings: &mut Vec<Finding>) -> BTreeMap<&'f str, &'f str> {
    let on: HashSet<String> = themes.iter().map(|theme| format!("{THEMES}{theme}.cedar")).collect();
    for missing in on.iter().filter(|path| !folder.0.contains_key(*path)) {
        let help = "name a file of the folder `themes/`, without `.cedar`".to_owned();
        findings.push(finding(missing, (0, 0), "there is no such theme".to_owned(), Some(help)));
    }
    let mut files = BTreeMap::new();
    for (path, bytes) in &folder.0 {
        let is_misplaced = ["links.yaml", "links.yml"].iter().any(|name| path.rsplit('/').next() == Some(*name))
            && path != LINKS
            && !path.starts_with(TESTS);
        if is_misplaced {
            let help = "put its links into `links.yaml` at the top of the folder".to_owned();
            findings.push(finding(path, (0, 0), "links are not read from here".to_owned(), Some(help)));
        }
        let in_force = path.ends_with(".cedar")
            && !path.starts_with(TESTS)
            && (!path.starts_with(THEMES) || on.contains(path.as_str()));
        if in_force || path == LINKS {
            match text(path, bytes) {
                Ok(text) => drop(files.insert(path.as_str(), text)),
                Err(finding) => findings.push(finding),
            }
        }
    }
    files
}

/// All policies, and warnings of templates that decide nothing.
fn policies(
    files: &BTreeMap<&str, &str>,
    definitions: &Definitions,
    findings: &mut Vec<Finding>,
) -> (Vec<Loaded>, Vec<Finding>) {
    let mut ids = Ids { files, taken: HashMap::new() };
    let mut templates = BTreeMap::new();
    let mut read: Vec<(&str, Policy, usize)> = Vec::new();
    for (file, text) in files.iter().filter(|(file, _)| **file != LINKS) {
        let (policies, more) = parse(file, text, findings);
        read.extend(policies.into_iter().map(|(policy, offset)| (*file, policy, offset)));
        for (template, offset) in more {
            match ids.take(template.annotation("id"), file, offset) {
                Ok(id) => drop(templates.insert(id, template)),
                Err(finding) => findings.push(finding),
            }
        }
    }
    let linked = files.get(LINKS).map(|text| links::written_out(text, &templates));
    let linked = linked.and_then(|linked| keep(linked, findings)).unwrap_or_default();
    let unlinked = templates.keys().filter(|id| !linked.iter().any(|link| link.template == **id));
    let unlinked = unlinked.map(|id| ids.of_template(id)).collect();
    read.extend(linked.into_iter().map(|Link { policy, offset, .. }| (LINKS, policy, offset)));
    let mut loaded = Vec::new();
    for (file, policy, offset) in read {
        let analysed = ids.take(policy.annotation("id"), file, offset).and_then(|id| {
            let wrong = |(message, help)| finding(file, ids.position(file, offset), message, help);
            analysed(policy.new_id(PolicyId::new(id)), definitions).map_err(wrong)
        });
        match analysed {
            Ok(analysed) => loaded.push(Loaded { analysed, file: file.to_owned(), offset }),
            Err(finding) => findings.push(finding),
        }
    }
    (loaded, unlinked)
}

/// The ids of policies and templates: each has one of its own.
struct Ids<'f> {
    files: &'f BTreeMap<&'f str, &'f str>,
    /// where each was first
    taken: HashMap<String, (&'f str, usize)>,
}

impl<'f> Ids<'f> {
    fn take(&mut self, id: Option<&str>, file: &'f str, offset: usize) -> Result<String, Finding> {
        let wrong = |message: String, help: &str| {
            Err(finding(file, self.position(file, offset), message, Some(help.to_owned())))
        };
        let id = id.unwrap_or_default();
        if id.is_empty() || id.len() > 200 || !id.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:".contains(c)) {
            let help = "write `@id(\"a-stable-name\")` before it, of letters, digits and `-_./:`";
            return wrong("the policy has no usable `@id`".to_owned(), help);
        }
        if let Some((other, offset)) = self.taken.get(id) {
            let (line, _) = self.position(other, *offset);
            return wrong(format!("the id `{id}` is taken at {other}:{line}"), "give every policy an `@id` of its own");
        }
        self.taken.insert(id.to_owned(), (file, offset));
        Ok(id.to_owned())
    }

    /// A warning.
    fn of_template(&self, id: &str) -> Finding {
        let (file, offset) = self.taken.get(id).copied().unwrap_or_default();
        let help = format!("fill it in in `{LINKS}`, or take it out");
        let message = format!("the template `{id}` has no link, so that it decides nothing");
        finding(file, self.position(file, offset), message, Some(help))
    }

    fn position(&self, file: &str, offset: usize) -> (usize, usize) {
        position(self.files.get(file).copied().unwrap_or_default(), offset)
    }
}

/// What stands in a file, each with its offset in the text.
type Placed<T> = Vec<(T, usize)>;

/// The policies of a file in its order, and its templates.
fn parse(file: &str, text: &str, findings: &mut Vec<Finding>) -> (Placed<Policy>, Placed<Template>) {
    let set = match policy_set(file, text) {
        Ok(set) => set,
        Err(more) => {
            findings.extend(more);
            return (Vec::new(), Vec::new());
        }
    };
    let offset = |template: &Template| text.find(&template.to_cedar()).unwrap_or_default();
    let templates = set.templates().map(|template| (template.clone(), offset(template))).collect();
    // Cedar numbers the policies of a text: `policy0`, `policy1` …
    let number = |policy: &Policy| {
        let id: &str = policy.id().as_ref();
        id.strip_prefix("policy").and_then(|number| number.parse::<usize>().ok())
    };
    let mut policies: Vec<Policy> = set.policies().cloned().collect();
    policies.sort_by_key(number);
    let mut end = 0;
    let offset = |policy: Policy| {
        // where Cedar writes it otherwise than it stands: after the one before
        let own = policy.to_cedar().unwrap_or_default();
        let start = text.get(end..).and_then(|rest| rest.find(own.as_str())).map_or(end, |found| end + found);
        end = text.len().min(start + own.len());
        (policy, start)
    };
    (policies.into_iter().map(offset).collect(), templates)
}

/// The policies and templates of a text; or all that keeps it from being read.
pub(crate) fn policy_set(file: &str, text: &str) -> Result<PolicySet, Vec<Finding>> {
    if let Some(offset) = too_deep_at(text) {
        let help = "take it apart into several policies".to_owned();
        return Err(vec![finding(file, position(text, offset), "nested too deeply".to_owned(), Some(help))]);
    }
    let set = PolicySet::from_str(text);
    set.map_err(|errors| errors.iter().map(|error| from_diagnostic(file, text, error)).collect())
}

/// A policy under its stable id, taken apart; or what is wrong with it, and the mend.
fn analysed(policy: Policy, definitions: &Definitions) -> Result<Analysed, (String, Option<String>)> {
    if let Some(redact) = policy.annotation("redact") {
        redact_is_read(redact, policy.effect(), definitions)?;
    }
    let analysed = Analysed::new(policy).map_err(|error| (error.to_string(), None))?;
    tags_exist(&analysed, definitions)?;
    Ok(analysed)
}

fn redact_is_read(redact: &str, effect: Effect, definitions: &Definitions) -> Result<(), (String, Option<String>)> {
    if effect == Effect::Forbid {
        return Err(("`@redact` stands on a forbid".to_owned(), Some("put it on a permit".to_owned())));
    }
    for path in redact.split(',').map(str::trim) {
        let mut parts = path.split('.');
        let known = parts.next().is_some_and(|of| definitions.resource_type(of).is_some());
        let mut elements = parts.peekable();
        let named = elements.peek().is_some()
            && elements.all(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()));
        if !known || !named {
            let help = "write element paths, such as `@redact(\"Patient.telecom, Patient.address\")`";
            return Err((format!("`@redact` names `{path}`, which is no element path"), Some(help.to_owned())));
        }
    }
    Ok(())
}

/// Tags of the resource are named as search parameters of the types that the policy is about.
fn tags_exist(analysed: &Analysed, definitions: &Definitions) -> Result<(), (String, Option<String>)> {
    let about = analysed.about();
    let types: Vec<ResourceType> = match about.as_deref() {
        Some(name) => definitions.resource_type(name).into_iter().collect(),
        None => definitions.resource_types().collect(),
    };
    for tag in analysed.resource_tags() {
        if !types.iter().any(|of| resource::is_covered(definitions, *of, tag)) {
            let of = about.as_deref().unwrap_or("any resource type");
            let help = "tags are named as FHIR search parameters of kind token, reference or uri; see docs/search-parameters.md";
            return Err((format!("`{tag}` is no tag of {of}"), Some(help.to_owned())));
        }
    }
    Ok(())
}

fn schema_fragments(folder: &Folder, findings: &mut Vec<Finding>) -> Vec<SchemaFragment> {
    let mut fragments = Vec::new();
    for (path, bytes) in folder.0.iter().filter(|(path, _)| path.ends_with(".cedarschema") && *path != schema::COPY) {
        match text(path, bytes) {
            Ok(text) => match SchemaFragment::from_cedarschema_str(text) {
                Ok((fragment, _)) => fragments.push(fragment),
                Err(error) => findings.push(from_diagnostic(path, text, &error)),
            },
            Err(finding) => findings.push(finding),
        }
    }
    fragments
}

/// Strict validation. Gives the entities of the actions, and warnings; `None` where there is no schema to speak of.
fn validate(
    loaded: &[Loaded],
    files: &BTreeMap<&str, &str>,
    fragments: &[SchemaFragment],
    definitions: &Definitions,
    findings: &mut Vec<Finding>,
) -> Option<(HashMap<Action, Entity>, Vec<Finding>)> {
    let bare = schema_for(&BTreeSet::new(), fragments, definitions);
    let entities = match bare.and_then(|schema| schema.action_entities().map_err(|error| error.to_string())) {
        Ok(entities) => entities,
        Err(message) => {
            findings.push(finding("*.cedarschema", (0, 0), message, None));
            return None;
        }
    };
    let mut warnings = Vec::new();
    for (types, forms) in by_types_and_form(loaded) {
        match schema_for(&types, fragments, definitions) {
            Ok(schema) => validate_forms(&Validator::new(schema), &forms, files, findings, &mut warnings),
            Err(message) => findings.push(finding("*.cedarschema", (0, 0), message, None)),
        }
    }
    warnings.sort_by(by_place);
    let by_uid: HashMap<EntityUid, Entity> =
        entities.iter().map(|entity| (entity.uid(), with_all_groups(entity, &entities))).collect();
    let actions =
        Action::all().filter_map(|(action, _)| Some((action, by_uid.get(&action_uid(action.as_str())?)?.clone())));
    Some((actions.collect(), warnings))
}

/// Policies of one form, which are valid together or not at all.
type Forms<'l> = BTreeMap<&'l Form, Vec<&'l Loaded>>;

/// The schema for policies grows with the types that they name, and validation with the schema.
fn by_types_and_form(loaded: &[Loaded]) -> BTreeMap<BTreeSet<String>, Forms<'_>> {
    let mut by_types: BTreeMap<BTreeSet<String>, Forms<'_>> = BTreeMap::new();
    for policy in loaded {
        let forms = by_types.entry(policy.analysed.types().clone()).or_default();
        forms.entry(policy.analysed.form()).or_default().push(policy);
    }
    by_types
}

/// Validates one policy of each form; where that is not without findings, each of the form for its own.
fn validate_forms(
    validator: &Validator,
    forms: &Forms<'_>,
    files: &BTreeMap<&str, &str>,
    findings: &mut Vec<Finding>,
    warnings: &mut Vec<Finding>,
) {
    let strictly = |policies: &[&Loaded]| validator.validate(&set_of(policies), ValidationMode::Strict);
    let ones: Vec<&Loaded> = forms.values().filter_map(|alike| alike.first().copied()).collect();
    if strictly(&ones).validation_passed_without_warnings() {
        return;
    }
    for alike in forms.values() {
        let one: Vec<&Loaded> = alike.iter().take(1).copied().collect();
        if strictly(&one).validation_passed_without_warnings() {
            continue;
        }
        for policy in alike {
            let result = strictly(&[policy]);
            let text = files.get(policy.file.as_str()).copied().unwrap_or_default();
            let place = |diagnostic: &dyn Diagnostic| {
                let mut found = from_diagnostic(&policy.file, text, diagnostic);
                // what a link fills in knows no place in its file
                if found.line == 0 || policy.file == LINKS {
                    (found.line, found.column) = position(text, policy.offset);
                }
                found
            };
            findings.extend(result.validation_errors().map(|error| place(error)));
            warnings.extend(result.validation_warnings().map(|warning| place(warning)));
        }
    }
}

fn set_of(policies: &[&Loaded]) -> PolicySet {
    let mut set = PolicySet::new();
    for policy in policies {
        // INVARIANT: ids are unique here (`policies`), which is all that `add` could object to
        let added = set.add(policy.policy().clone());
        debug_assert!(added.is_ok(), "policy ids are unique");
    }
    set
}

/// An action with every group it is in as a direct parent, so that it can be asked about without the groups at hand.
fn with_all_groups(action: &Entity, all: &cedar_policy::Entities) -> Entity {
    let groups: HashSet<EntityUid> = all.ancestors(&action.uid()).into_iter().flatten().cloned().collect();
    Entity::new_no_attrs(action.uid(), groups)
}

fn groups_of(actions: &HashMap<Action, Entity>, action: Action) -> HashSet<EntityUid> {
    let Some(entity) = actions.get(&action) else { return HashSet::new() };
    let (uid, _, groups) = entity.clone().into_inner();
    groups.into_iter().chain([uid]).collect()
}

/// The schema that policies need which name these types: its actions apply to them, and to a resource type that they
/// do not name.
fn schema_for(
    named: &BTreeSet<String>,
    fragments: &[SchemaFragment],
    definitions: &Definitions,
) -> Result<Schema, String> {
    let unnamed = definitions.resource_types().map(ResourceType::as_str).find(|name| !named.contains(*name));
    let types: Vec<&str> = definitions
        .resource_types()
        .map(ResourceType::as_str)
        .filter(|name| named.contains(*name) || Some(*name) == unnamed)
        .collect();
    schema_of(definitions, |_| &types, fragments.to_vec())
}

fn schema_of<'t>(
    definitions: &Definitions,
    types: impl Fn(Action) -> &'t [&'t str],
    fragments: Vec<SchemaFragment>,
) -> Result<Schema, String> {
    let (base, _) = SchemaFragment::from_cedarschema_str(&schema::text_for(definitions, types))
        .map_err(|error| error.to_string())?;
    Schema::from_schema_fragments([base].into_iter().chain(fragments)).map_err(|error| error.to_string())
}

fn revision(folder: &Folder, files: &BTreeMap<&str, &str>, settings: &Settings) -> Revision {
    let settings = format!("{settings:?}");
    let decides = |path: &str| {
        files.contains_key(path) || path == CLAIMS || (path.ends_with(".cedarschema") && path != schema::COPY)
    };
    let parts =
        folder.0.iter().filter(|(path, _)| decides(path)).map(|(path, bytes)| (path.as_str(), bytes.as_slice()));
    Revision::of([("settings", settings.as_bytes())].into_iter().chain(parts))
}

impl Revision {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of named parts in this order.
    pub(crate) fn of<'p>(parts: impl IntoIterator<Item = (&'p str, &'p [u8])>) -> Revision {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        // the length before the bytes, so that no two folders give the same stream
        for bytes in parts.into_iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes]) {
            digest.update(&(bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        }
        let hex: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Revision(format!("sha256:{hex}"))
    }
}

pub(crate) fn text<'b>(path: &str, bytes: &'b [u8]) -> Result<&'b str, Finding> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let at = position(&String::from_utf8_lossy(valid), error.valid_up_to());
        finding(path, at, "the file is not UTF-8".to_owned(), Some("save it as UTF-8".to_owned()))
    })
}

pub(crate) fn finding(file: &str, (line, column): (usize, usize), message: String, help: Option<String>) -> Finding {
    Finding { file: file.to_owned(), line, column, message, help }
}

/// Cedar's diagnostic, at its first label.
pub(crate) fn from_diagnostic(file: &str, text: &str, diagnostic: &dyn Diagnostic) -> Finding {
    let label = diagnostic.labels().and_then(|mut labels| labels.next());
    let at = label.as_ref().map_or((0, 0), |label| position(text, label.offset()));
    let mut message = diagnostic.to_string();
    if let Some(detail) = label.as_ref().and_then(|label| label.label()) {
        message = format!("{message}: {detail}");
    }
    finding(file, at, message, diagnostic.help().map(|help| help.to_string()))
}

/// Line and column of a byte offset, from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let column = String::from_utf8_lossy(before.get(line_start..).unwrap_or_default()).chars().count() + 1;
    (line, column)
}
