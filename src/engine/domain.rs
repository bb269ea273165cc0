//! A policy folder that is not about FHIR: own Cedar schema, own entities. Subject, action, resource → decision, and who or what there is.
//! Hides which Cedar entity a party of AuthZEN is, and what of its properties counts.
//! INVARIANT: what the entity data says of a party stands; what the caller says beside it is added, as far as the schema knows it.
//! So nobody talks himself into more than is known of him. What the schema knows and is not of its type gives no permit.
//! INVARIANT: a policy that errors denies, whatever the others say. Cedar's own authorizer would skip it, even a forbid.
//! Source: OpenID AuthZEN Authorization API 1.0, 5 "Information Model"; Cedar's schema and entity JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet, Request,
    Schema, ValidationMode, Validator, schema_str_to_json_with_resolved_types,
};
use serde_json::{Map, Value, json};

use crate::finding::Finding;
use crate::json;
use crate::policy::folder::Folder;
use crate::policy::snapshot::{Revision, finding, from_diagnostic, policy_set, text};

/// The files of such a folder beside `*.cedar`.
pub const SCHEMA: &str = "schema.cedarschema";
pub const ENTITIES: &str = "entities.json";

const ENTITIES_DEPTH_MAX: usize = 64;
/// Candidates that one page of a search looks at.
const EXAMINED_MAX: usize = 10_000;
/// Steps of one page of a search: a policy that is asked, or an entity that is copied.
const STEPS_MAX: usize = 2_000_000;

/// Policies, schema and entities that belong together.
pub struct Domain {
    pub revision: Revision,
    policies: PolicySet,
    schema: Schema,
    /// the schema as JSON, for the names of attributes; every name of a type in full
    shapes: Value,
    entities: Entities,
    /// the entities as they stand in the file, by type and id
    stored: BTreeMap<(String, String), Value>,
    /// by name
    actions: BTreeMap<String, EntityUid>,
}

/// A subject or resource as it is named, and what the caller says of it.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    pub of: &'a str,
    pub id: &'a str,
    pub properties: &'a Map<String, Value>,
}

/// What is asked beside subject and resource.
#[derive(Debug, Clone, Copy)]
pub struct Deed<'a> {
    pub name: &'a str,
    /// for `context.action`
    pub properties: &'a Map<String, Value>,
    pub context: &'a Map<String, Value>,
}

/// A decision, and by which policies; or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub permits: bool,
    pub policies: BTreeSet<String>,
    /// for people
    pub reason: Option<String>,
}

impl Verdict {
    fn none(reason: impl ToString) -> Verdict {
        Verdict { permits: false, policies: BTreeSet::new(), reason: Some(reason.to_string()) }
    }
}

impl Domain {
    /// Reads and validates the folder; or says all that is wrong with it.
    pub fn load(folder: &Folder) -> Result<Domain, Vec<Finding>> {
        let mut findings = Vec::new();
        let (policies, files) = policies(folder, &mut findings);
        let read = |name: &str| match folder.0.get(name) {
            Some(bytes) => text(name, bytes),
            None => Err(finding(name, (0, 0), "the folder has no such file".to_owned(), None)),
        };
        let schema = read(SCHEMA).and_then(|source| {
            let wrong = |error: &dyn miette::Diagnostic| from_diagnostic(SCHEMA, source, error);
            let (schema, _) = Schema::from_cedarschema_str(source).map_err(|error| wrong(&error))?;
            let (shapes, _) = schema_str_to_json_with_resolved_types(source).map_err(|error| wrong(&error))?;
            Ok((schema, shapes))
        });
        let (schema, shapes) = match schema {
            Ok(parsed) => parsed,
            Err(error) => {
                findings.push(error);
                return Err(findings);
            }
        };
        let result = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
        findings.extend(result.validation_errors().map(|error| {
            let (file, source) = files.get(error.policy_id()).copied().unwrap_or_default();
            let mut found = from_diagnostic(file, source, error);
            found.message = format!("policy `{}`: {}", error.policy_id(), found.message);
            found
        }));
        let entities = match entities(folder, &schema) {
            Ok(entities) => Some(entities),
            Err(error) => {
                findings.push(error);
                None
            }
        };
        let actions = actions(&schema, &mut findings);
        match entities {
            Some((entities, stored)) if findings.is_empty() => {
                let revision = Revision::of(folder.0.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())));
                Ok(Domain { revision, policies, schema, shapes, entities, stored, actions })
            }
            Some(_) | None => Err(findings),
        }
    }

    /// Whether the subject may do it to the resource. Whatever is not known, or not of its type, is no permit.
    pub fn evaluate(&self, subject: Party<'_>, deed: Deed<'_>, resource: Party<'_>) -> Verdict {
        let asked = self.asked(subject, deed, resource);
        let (request, entities) = match asked {
            Ok(asked) => asked,
            Err(reason) => return Verdict::none(reason),
        };
        let entities = entities.as_ref().unwrap_or(&self.entities);
        let response = Authorizer::new().is_authorized(&request, &self.policies, entities);
        if let Some(error) = response.diagnostics().errors().next() {
            return Verdict::none(error);
        }
        let policies = response.diagnostics().reason().map(ToString::to_string).collect();
        Verdict { permits: response.decision() == Decision::Allow, policies, reason: None }
    }

    /// The ids of a type in the entity data after this one, in their order.
    pub fn ids<'a>(&'a self, of: &'a str, after: Option<&'a str>) -> impl Iterator<Item = &'a str> {
        let known = self.stored.keys().filter(move |(known, _)| known == of).map(|(_, id)| id.as_str());
        known.filter(move |id| after.is_none_or(|after| *id > after))
    }

    /// How many candidates one page of a search looks at: fewer, where each needs entities of its own, which is a copy of all.
    pub fn examined_max(&self, candidates: &Map<String, Value>, other: Party<'_>) -> usize {
        let is_stored = self.stored.contains_key(&(other.of.to_owned(), other.id.to_owned()));
        let copies = !candidates.is_empty() || !other.properties.is_empty() || !is_stored;
        let steps = 1 + self.policies.num_of_policies() + if copies { self.entities.len() } else { 0 };
        (STEPS_MAX / steps).clamp(1, EXAMINED_MAX)
    }

    /// Every action by its name.
    pub fn actions(&self) -> impl Iterator<Item = &str> {
        self.actions.keys().map(String::as_str)
    }

    /// The request, and the entities where the caller adds to those that are known.
    fn asked(
        &self,
        subject: Party<'_>,
        deed: Deed<'_>,
        resource: Party<'_>,
    ) -> Result<(Request, Option<Entities>), String> {
        let action = self.actions.get(deed.name).ok_or("no such action")?;
        let said = at_once(subject, resource)?;
        let both = |party| said.as_ref().map_or(party, |properties| Party { properties, ..party });
        let (subject, resource) = (both(subject), both(resource));
        let mut added = Vec::new();
        let mut uid = |party: Party<'_>| {
            let (uid, entity) = self.party(party)?;
            added.extend(entity);
            Ok::<_, String>(uid)
        };
        let (principal, resource) = (uid(subject)?, uid(resource)?);
        let mut context = deed.context.clone();
        context.insert("action".to_owned(), Value::Object(deed.properties.clone()));
        let shape = self.shape_of_context(action);
        let mut context = Value::Object(context);
        self.fit(&mut context, shape.unwrap_or(&Value::Null));
        let context =
            Context::from_json_value(context, Some((&self.schema, action))).map_err(|error| error.to_string())?;
        let request = Request::new(principal, action.clone(), resource, context, Some(&self.schema));
        let request = request.map_err(|error| error.to_string())?;
        if added.is_empty() {
            return Ok((request, None));
        }
        let entities = self.entities.clone().upsert_entities(added, Some(&self.schema));
        Ok((request, Some(entities.map_err(|error| error.to_string())?)))
    }

    /// The entity of a party, where it is another than the stored one.
    fn party(&self, party: Party<'_>) -> Result<(EntityUid, Option<Entity>), String> {
        let of = EntityTypeName::from_str(party.of).map_err(|_| "no such type")?;
        let uid = EntityUid::from_type_name_and_id(of, EntityId::new(party.id));
        let stored = self.stored.get(&(party.of.to_owned(), party.id.to_owned()));
        let mut said = Value::Object(party.properties.clone());
        self.fit(&mut said, self.shape_of_entity(party.of).unwrap_or(&Value::Null));
        let known =
            stored.and_then(|entity| entity.get("attrs")).and_then(Value::as_object).cloned().unwrap_or_default();
        let mut attributes = said.as_object().cloned().unwrap_or_default();
        attributes.retain(|name, _| !known.contains_key(name));
        if stored.is_some() && attributes.is_empty() {
            return Ok((uid, None));
        }
        attributes.extend(known);
        // the rest of what is stored stays as it is: parents, and tags, which a forbid may look at
        let mut entity = stored.cloned().unwrap_or_else(|| json!({ "parents": [] }));
        if let Some(members) = entity.as_object_mut() {
            members.insert("uid".to_owned(), json!({ "type": party.of, "id": party.id }));
            members.insert("attrs".to_owned(), Value::Object(attributes));
        }
        let entity = Entity::from_json_value(entity, Some(&self.schema)).map_err(|error| error.to_string())?;
        Ok((uid, Some(entity)))
    }

    fn shape_of_entity(&self, of: &str) -> Option<&Value> {
        let (namespace, name) = of.rsplit_once("::").unwrap_or(("", of));
        self.shapes.get(namespace)?.get("entityTypes")?.get(name)?.get("shape")
    }

    fn shape_of_context(&self, action: &EntityUid) -> Option<&Value> {
        let namespace = self.shapes.get(action.type_name().namespace())?;
        namespace.get("actions")?.get(action.id().unescaped())?.get("appliesTo")?.get("context")
    }

    /// Takes out what the shape does not know, at every depth: AuthZEN's unknown properties are to be ignored.
    fn fit(&self, value: &mut Value, shape: &Value) {
        let Value::Object(members) = value else { return };
        let shape = self.resolved(shape);
        let attributes = shape.get("attributes").and_then(Value::as_object);
        let is_open = shape.get("additionalAttributes") == Some(&json!(true));
        members.retain(|name, _| is_open || attributes.is_some_and(|known| known.contains_key(name)));
        for (name, member) in members {
            match attributes.and_then(|known| known.get(name)) {
                // of what is no record the schema itself says what is wrong
                Some(inner) if self.resolved(inner).get("attributes").is_some() => self.fit(member, inner),
                Some(_) | None => {}
            }
        }
    }

    /// A shape, or what the common types that it names come to. Cedar refuses those that name themselves.
    fn resolved<'a>(&'a self, shape: &'a Value) -> &'a Value {
        let common = |shape: &Value| {
            let name = shape.get("type")?.as_str()?;
            let (namespace, name) = name.rsplit_once("::").unwrap_or(("", name));
            self.shapes.get(namespace)?.get("commonTypes")?.get(name)
        };
        std::iter::successors(Some(shape), |shape| common(shape)).last().unwrap_or(shape)
    }
}

/// Every action by its name; a request says no namespace.
fn actions(schema: &Schema, findings: &mut Vec<Finding>) -> BTreeMap<String, EntityUid> {
    let mut actions: BTreeMap<String, EntityUid> = BTreeMap::new();
    for uid in schema.actions() {
        if actions.insert(uid.id().unescaped().to_owned(), uid.clone()).is_some() {
            let message = format!("the action `{}` stands in two namespaces", uid.id().unescaped());
            let help = "requests name actions without a namespace: rename one of the two".to_owned();
            findings.push(finding(SCHEMA, (0, 0), message, Some(help)));
        }
    }
    actions
}

/// What is said of subject and resource, where they are one entity: both, or an error where it is not the same.
fn at_once(subject: Party<'_>, resource: Party<'_>) -> Result<Option<Map<String, Value>>, String> {
    if (subject.of, subject.id) != (resource.of, resource.id) {
        return Ok(None);
    }
    let mut said = subject.properties.clone();
    for (name, value) in resource.properties {
        if said.insert(name.clone(), value.clone()).is_some_and(|other| other != *value) {
            return Err(format!("subject and resource are one entity, and `{name}` is said of it in two ways"));
        }
    }
    Ok(Some(said))
}

/// Which file a policy stands in, and its text.
type Files<'f> = BTreeMap<PolicyId, (&'f str, &'f str)>;

/// The policies under the ids that they say, or that their file and place give.
fn policies<'f>(folder: &'f Folder, findings: &mut Vec<Finding>) -> (PolicySet, Files<'f>) {
    let mut all = PolicySet::new();
    let mut files = Files::new();
    for (path, bytes) in folder.0.iter().filter(|(path, _)| path.ends_with(".cedar")) {
        let source = match text(path, bytes) {
            Ok(source) => source,
            Err(error) => {
                findings.push(error);
                continue;
            }
        };
        let set = match policy_set(path, source) {
            Ok(set) => set,
            Err(more) => {
                findings.extend(more);
                continue;
            }
        };
        if set.templates().next().is_some() {
            let help = "write the policy out, with its principal and resource".to_owned();
            findings.push(finding(path, (0, 0), "templates are not supported".to_owned(), Some(help)));
        }
        for policy in set.policies() {
            let id = policy.annotation("id").map_or_else(|| format!("{path}#{}", policy.id()), str::to_owned);
            let id = PolicyId::new(id);
            files.insert(id.clone(), (path.as_str(), source));
            if let Err(error) = all.add(policy.new_id(id)) {
                let help = "give every policy an `@id` of its own".to_owned();
                findings.push(finding(path, (0, 0), error.to_string(), Some(help)));
            }
        }
    }
    (all, files)
}

type Stored = BTreeMap<(String, String), Value>;

/// The entity data, and each entity as it stands there. None is a folder whose parties come with their properties.
fn entities(folder: &Folder, schema: &Schema) -> Result<(Entities, Stored), Finding> {
    let Some(bytes) = folder.0.get(ENTITIES) else { return Ok((Entities::empty(), Stored::new())) };
    let wrong = |message: String| finding(ENTITIES, (0, 0), message, None);
    let value = json::parse(bytes, ENTITIES_DEPTH_MAX)
        .map_err(|error| finding(ENTITIES, (error.line, error.column), error.message, None))?;
    let entities =
        Entities::from_json_value(value.clone(), Some(schema)).map_err(|error| wrong(with_causes(&error)))?;
    let mut stored = Stored::new();
    for entity in value.as_array().into_iter().flatten() {
        let uid = entity.get("uid").map(|uid| uid.get("__entity").unwrap_or(uid));
        let said = |name: &str| uid.and_then(|uid| uid.get(name)).and_then(Value::as_str).map(str::to_owned);
        let (Some(of), Some(id)) = (said("type"), said("id")) else {
            return Err(wrong("an entity's `uid` must be an object with `type` and `id`".to_owned()));
        };
        stored.insert((of, id), entity.clone());
    }
    Ok((entities, stored))
}

/// Cedar says in its causes which entity is wrong.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |message, cause| format!("{message}: {cause}"))
}
