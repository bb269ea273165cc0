//! A FHIR request → an `Operation`: the interaction, and every access that it needs to what it reveals or changes.
//! Hides FHIR's routes, where a request says what (path, query, form, header, body, bundle), and what operations reach.
//! INVARIANT: an `Operation` has at least one `Access`, and whatever may reach more than is known reaches `Every`.
//! INVARIANT: where the parts of a request disagree, or two readers may read them differently, there is no `Operation`.
//! Source: FHIR http.html and search.html (R4; R5 for system-wide conditional delete and deletion of history),
//! operations.html, graphql.html; Bulk Data Access 2.0; US Core; the operations of Azure's FHIR services; RFC 6750 §2.3.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;

use crate::fhir::action::Action;
use crate::fhir::definitions::{Compartment, Definitions, FhirId, ResourceType};
use crate::fhir::graphql;
use crate::fhir::search::{By, Grammar, Level, Search, SearchError, Term, Touch, Touched, word};
use crate::fhir::url::{self, Limits, Parameter, Target, UrlError};

mod named;
mod narrowed;

pub use narrowed::Narrowing;

/// A FHIR request as it reached the server.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    /// The path below the FHIR base with its query, or an absolute URL under a configured base.
    pub url: &'a str,
    /// Names in any case. Only those that change the meaning are read.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: Body<'a>,
}

#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    None,
    Json(&'a Value),
    /// `application/x-www-form-urlencoded`, or the text of a GraphQL query.
    Form(&'a str),
    /// There may be one, but whoever asks does not see it: a proxy that asks about the head of a request.
    Unseen,
}

/// What a deployment configures about requests.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Absolute URLs below which FHIR is served.
    pub bases: Vec<String>,
    /// Search parameters beyond HL7's, by type and code; no type: every type has it.
    pub parameters: Vec<(Option<String>, String)>,
    pub url_bytes_max: usize,
    pub parameters_max: usize,
    pub entries_max: usize,
    /// Whether the FHIR server searches compartments: `/Patient/1/Observation`.
    pub searches_compartments: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            bases: Vec::new(),
            parameters: Vec::new(),
            url_bytes_max: 16 * 1024,
            parameters_max: 256,
            entries_max: 10_000,
            searches_compartments: true,
        }
    }
}

/// A request, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub interaction: Interaction,
    pub resource_type: Option<ResourceType>,
    pub id: Option<FhirId>,
    pub version: Option<FhirId>,
    /// The operation's name with its `$`.
    pub name: Option<String>,
    pub compartment: Option<(Compartment, FhirId)>,
    /// Whether the resource is chosen by criteria: `search` has them.
    pub conditional: bool,
    /// Whether it says of which types: by its path or `_type`.
    pub states_types: bool,
    /// Whether nobody can add to an operation's parameters: they stand in a body, or filter by type already.
    pub has_fixed_parameters: bool,
    /// The capability statement or the SMART configuration: the same for everyone.
    pub public: bool,
    /// Where the resource is that will be.
    pub proposed: Proposed,
    /// The URL as it was read.
    pub target: Target,
    /// The parameters of a search (URL and form), or the criteria of a conditional interaction (URL or `If-None-Exist`).
    pub search: Option<Search>,
    /// Of a batch or transaction: one for each entry, in order; the resource of each is its entry's `resource`.
    pub entries: Vec<Result<Operation, OperationError>>,
    accesses: Vec<Access>,
}

impl Operation {
    /// Every access that the request needs, the primary one first. At least one.
    pub fn accesses(&self) -> &[Access] {
        &self.accesses
    }
}

/// Where an operation's proposed resource is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposed {
    /// None is proposed.
    No,
    /// The request's body, or the bundle entry's `resource`.
    Body,
    /// Only the server knows: the caller gives it as `proposed`.
    Caller,
}

/// One thing to be permitted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Access {
    pub action: Action,
    pub target: Reach,
    pub role: AccessRole,
    pub evidence: EvidenceKind,
}

/// What an access is to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reach {
    /// The server itself, no resource.
    Server,
    Type(ResourceType),
    Instance(ResourceType, FhirId),
    /// Resources of every type.
    Every,
}

/// Why an operation needs an access; `context.access` of the Cedar model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AccessRole {
    Primary,
    /// What an include brings in.
    Include,
    /// What a criterion looks at, or a parameter of unknown reach.
    Chain,
    Sort,
    /// The criteria of a conditional interaction.
    Condition,
    /// The criteria of a reference within a resource.
    Reference,
    /// What selects, as the Group of an export.
    Selector,
}

impl AccessRole {
    pub fn as_str(self) -> &'static str {
        match self {
            AccessRole::Primary => "primary",
            AccessRole::Include => "include",
            AccessRole::Chain => "chain",
            AccessRole::Sort => "sort",
            AccessRole::Condition => "condition",
            AccessRole::Reference => "reference",
            AccessRole::Selector => "selector",
        }
    }
}

/// Which resource an access is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EvidenceKind {
    /// The resource as stored.
    Stored,
    /// The resource as it will be.
    Proposed,
    StoredAndProposed,
    /// Versions, of which the stored resource is only one.
    Versions,
    /// No single resource: searches.
    Many,
    /// No resource at all.
    None,
}

/// FHIR's restful interactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Interaction {
    Read,
    Vread,
    Update,
    Patch,
    Delete,
    HistoryInstance,
    HistoryType,
    HistorySystem,
    Create,
    SearchType,
    SearchSystem,
    SearchCompartment,
    Capabilities,
    Batch,
    Transaction,
    Operation,
}

impl Interaction {
    /// FHIR's code of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Interaction::Read => "read",
            Interaction::Vread => "vread",
            Interaction::Update => "update",
            Interaction::Patch => "patch",
            Interaction::Delete => "delete",
            Interaction::HistoryInstance => "history-instance",
            Interaction::HistoryType => "history-type",
            Interaction::HistorySystem => "history-system",
            Interaction::Create => "create",
            Interaction::SearchType => "search-type",
            Interaction::SearchSystem => "search-system",
            Interaction::SearchCompartment => "search-compartment",
            Interaction::Capabilities => "capabilities",
            Interaction::Batch => "batch",
            Interaction::Transaction => "transaction",
            Interaction::Operation => "operation",
        }
    }
}

/// Why a request is no operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// Ambiguous, or not FHIR: `invalid-request`.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Well formed, but no interaction of FHIR: `unknown-interaction`.
    #[error(transparent)]
    Unknown(#[from] Unknown),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("the URL: {0}")]
    Url(UrlError),
    #[error("the form: {0}")]
    Form(UrlError),
    #[error("`If-None-Exist`: {0}")]
    IfNoneExist(UrlError),
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error("`{name}` disagrees with the method")]
    MethodOverride { name: String },
    #[error("header `{name}` is given twice")]
    HeaderTwice { name: &'static str },
    #[error("a token stands in the parameters; it belongs into `Authorization`")]
    TokenInParameters,
    #[error("`{name}` is no resource type")]
    UnknownType { name: String },
    #[error("`{name}` differs from `{known}` only in its case")]
    CaseVariant { name: String, known: String },
    #[error("the id is not a FHIR id")]
    Id,
    #[error("the version is not a FHIR id")]
    Version,
    #[error("the operation's name is none")]
    OperationName,
    #[error("`{of}` is not in the {compartment} compartment")]
    NotInCompartment { of: &'static str, compartment: &'static str },
    #[error("parameter `{name}` has no meaning here")]
    Parameter { name: String },
    #[error("more than {max} parameters")]
    TooManyParameters { max: usize },
    #[error("this interaction has no body")]
    UnexpectedBody,
    #[error("this interaction needs a body")]
    MissingBody,
    #[error("this interaction cannot be judged without its body")]
    UnseenBody,
    #[error("the body is not of the form that this interaction takes")]
    BodyForm,
    #[error("the body is not a `{expected}`")]
    BodyType { expected: &'static str },
    #[error("the body's id is not the URL's")]
    BodyId,
    #[error("`Content-Type` does not fit the body")]
    ContentType,
    #[error("the criteria are empty")]
    EmptyCriteria,
    #[error("criterion `{name}` has no value, so that a server may ignore it")]
    EmptyCriterion { name: String },
    #[error("a reference by criteria cannot be read, at `{pointer}`")]
    ConditionalReference { pointer: &'static str },
    #[error("a bundle posted to the base is a batch or a transaction")]
    BundleType,
    #[error("the bundle's form is not FHIR's, at `{pointer}`")]
    Bundle { pointer: &'static str },
    #[error("a bundle within a bundle cannot be processed")]
    NestedBundle,
    #[error("more than {max} bundle entries")]
    TooManyEntries { max: usize },
    #[error("the operation's Parameters are not of FHIR's form")]
    Parameters,
    #[error("the GraphQL query is missing, not well formed, or does more than query")]
    GraphQl,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("FHIR has no method `{method}`")]
    Method { method: String },
    #[error("FHIR has no such path")]
    Path,
    #[error("FHIR has no `{method}` here")]
    Interaction { method: &'static str },
    #[error("a `{method}` by criteria needs criteria")]
    NoCriteria { method: &'static str },
    #[error("operation `{name}` is not called by `{method}`, or not here")]
    OperationMethod { name: String, method: &'static str },
}

type Parsed<T> = Result<T, OperationError>;

/// Reads a request.
pub fn parse(request: &Request<'_>, definitions: &Definitions, settings: &Settings) -> Parsed<Operation> {
    let room = Room { definitions, settings };
    let method = Method::parse(request.method)?;
    let headers = Headers::read(request.method, request.headers)?;
    Reader::new(room, method, headers, request.url, request.body, false)?.operation()
}

/// How a request's query parameters that fit every interaction are called.
const GENERAL: &[&str] = &["_elements", "_format", "_pretty", "_summary"];

const HISTORY: &[&str] =
    &["_at", "_count", "_elements", "_format", "_list", "_pretty", "_since", "_sort", "_summary", "_total"];

#[derive(Clone, Copy)]
struct Room<'a> {
    definitions: &'a Definitions,
    settings: &'a Settings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// `HEAD` too: it reveals what `GET` does.
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    fn parse(text: &str) -> Parsed<Method> {
        match text {
            "GET" | "HEAD" => Ok(Method::Get),
            "POST" => Ok(Method::Post),
            "PUT" => Ok(Method::Put),
            "PATCH" => Ok(Method::Patch),
            "DELETE" => Ok(Method::Delete),
            other => Err(Unknown::Method { method: word(other) }.into()),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
}

/// The headers that change what a request is.
#[derive(Clone, Copy, Default)]
struct Headers<'a> {
    if_none_exist: Option<&'a str>,
    content_type: Option<&'a str>,
}

impl<'a> Headers<'a> {
    fn read(method: &str, given: &[(&'a str, &'a str)]) -> Parsed<Headers<'a>> {
        let mut headers = Headers::default();
        for (name, value) in given {
            // some servers read `_` in a header's name as `-`
            let plain = name.to_ascii_lowercase().replace('_', "-");
            match plain.as_str() {
                "x-http-method-override" | "x-http-method" | "x-method-override" if *value != method => {
                    return Err(Invalid::MethodOverride { name: plain }.into());
                }
                "if-none-exist" => once(&mut headers.if_none_exist, value, "If-None-Exist")?,
                "content-type" => once(&mut headers.content_type, value, "Content-Type")?,
                _ => {}
            }
        }
        Ok(headers)
    }
}

fn once<'a>(slot: &mut Option<&'a str>, value: &'a str, name: &'static str) -> Parsed<()> {
    match slot.replace(value) {
        Some(_) => Err(Invalid::HeaderTwice { name }.into()),
        None => Ok(()),
    }
}

/// What a path names.
#[derive(Debug, Clone)]
enum Place {
    System,
    SystemSearch,
    SystemHistory,
    /// The capability statement and the SMART configuration.
    Public,
    Type(ResourceType),
    TypeSearch(ResourceType),
    TypeHistory(ResourceType),
    Instance(ResourceType, FhirId),
    InstanceHistory(ResourceType, FhirId),
    Version(ResourceType, FhirId, FhirId),
    Compartment(InCompartment),
    CompartmentSearch(InCompartment),
    Operation(At, String),
}

#[derive(Debug, Clone)]
struct InCompartment {
    compartment: Compartment,
    id: FhirId,
    /// The one type asked for; `None`: all that the compartment has.
    member: Option<ResourceType>,
}

/// The level at which an operation is called.
#[derive(Debug, Clone)]
enum At {
    System,
    Type(ResourceType),
    Instance(ResourceType, FhirId),
    Version(ResourceType, FhirId, FhirId),
}

impl At {
    fn reach(&self) -> Reach {
        match self {
            At::System => Reach::Server,
            At::Type(of) => Reach::Type(*of),
            At::Instance(of, id) | At::Version(of, id, _) => Reach::Instance(*of, id.clone()),
        }
    }

    fn evidence(&self) -> EvidenceKind {
        match self {
            At::System => EvidenceKind::None,
            At::Type(_) => EvidenceKind::Many,
            At::Instance(..) => EvidenceKind::Stored,
            At::Version(..) => EvidenceKind::Versions,
        }
    }

    fn resource_type(&self) -> Option<ResourceType> {
        match self {
            At::System => None,
            At::Type(of) | At::Instance(of, _) | At::Version(of, _, _) => Some(*of),
        }
    }

    fn is(&self, name: &str) -> bool {
        self.resource_type().is_some_and(|of| of.as_str() == name)
    }
}

/// The accesses of an operation under construction, each once, the first first.
#[derive(Debug)]
struct Accesses {
    list: Vec<Access>,
    seen: HashSet<Access>,
}

impl Accesses {
    fn of(first: Access) -> Accesses {
        let mut accesses = Accesses { list: Vec::new(), seen: HashSet::new() };
        accesses.add(first);
        accesses
    }

    /// The same action on each type; on every type where there is no list.
    fn each(action: Action, types: Option<&[ResourceType]>) -> Accesses {
        let mut reaches = types.unwrap_or_default().iter().copied().map(Reach::Type);
        let mut accesses = Accesses::of(primary(action, reaches.next().unwrap_or(Reach::Every), EvidenceKind::Many));
        for reach in reaches {
            accesses.add(primary(action, reach, EvidenceKind::Many));
        }
        accesses
    }

    fn add(&mut self, access: Access) {
        if self.seen.insert(access.clone()) {
            self.list.push(access);
        }
    }

    /// What a search reveals besides what it searches for.
    fn touch(&mut self, touches: BTreeSet<Touch>) {
        for Touch { touched, by } in touches {
            let role = match by {
                By::Chain | By::Unknown => AccessRole::Chain,
                By::Include => AccessRole::Include,
                By::Sort => AccessRole::Sort,
            };
            let target = reach_of(touched);
            self.add(Access { action: Action::SEARCH_TYPE, target, role, evidence: EvidenceKind::Many });
        }
    }
}

fn reach_of(touched: Touched) -> Reach {
    match touched {
        Touched::Type(of) => Reach::Type(of),
        Touched::Every => Reach::Every,
    }
}

fn primary(action: Action, target: Reach, evidence: EvidenceKind) -> Access {
    Access { action, target, role: AccessRole::Primary, evidence }
}

/// One request, or one entry of a bundle, being read.
struct Reader<'a> {
    room: Room<'a>,
    grammar: Grammar<'a>,
    method: Method,
    headers: Headers<'a>,
    target: Target,
    /// The URL's parameters without those about the method.
    query: Vec<Parameter>,
    body: Body<'a>,
    /// Whether there may be a body that is not at hand: then it may say anything.
    is_unseen: bool,
    within_bundle: bool,
}

impl<'a> Reader<'a> {
    fn new(
        room: Room<'a>,
        method: Method,
        headers: Headers<'a>,
        url: &str,
        body: Body<'a>,
        within_bundle: bool,
    ) -> Parsed<Reader<'a>> {
        let Settings { bases, parameters, url_bytes_max, parameters_max, .. } = room.settings;
        let limits = Limits { url_bytes_max: *url_bytes_max, parameters_max: *parameters_max };
        let target = url::parse(url, bases, limits).map_err(Invalid::Url)?;
        let body = match body {
            Body::Json(Value::Null) => Body::None,
            Body::Json(Value::String(text)) => Body::Form(text),
            other => other,
        };
        // what comes with the other methods, nobody reads
        let is_unseen = matches!(body, Body::Unseen) && matches!(method, Method::Post | Method::Put | Method::Patch);
        let body = if matches!(body, Body::Form("") | Body::Unseen) { Body::None } else { body };
        let grammar = Grammar { definitions: room.definitions, configured: parameters };
        let query = Vec::new();
        let mut reader = Reader { room, grammar, method, headers, target, query, body, is_unseen, within_bundle };
        reader.query = reader.without_control(&reader.target.query)?;
        Ok(reader)
    }

    /// Parameters about the request itself: `_method` must agree, a token is refused.
    fn without_control(&self, given: &[Parameter]) -> Parsed<Vec<Parameter>> {
        let mut kept = Vec::with_capacity(given.len());
        for parameter in given {
            let head = parameter.name.split([':', '.']).next().unwrap_or_default();
            if head.eq_ignore_ascii_case("access_token") {
                return Err(Invalid::TokenInParameters.into());
            }
            if head.eq_ignore_ascii_case("_method") {
                if parameter.name != "_method" || parameter.value != self.method.as_str() {
                    return Err(Invalid::MethodOverride { name: "_method".to_owned() }.into());
                }
            } else {
                kept.push(parameter.clone());
            }
        }
        Ok(kept)
    }

    fn operation(&self) -> Parsed<Operation> {
        let segments: Vec<&str> = self.target.segments.iter().map(String::as_str).collect();
        match (self.method, self.place(&segments)?) {
            (Method::Get, Place::Public) => self.public(),
            (Method::Get, Place::System) => self.search_system(),
            (Method::Post, Place::SystemSearch) => self.search_system(),
            (Method::Post, Place::System) => self.bundle(),
            (Method::Delete, Place::System) => self.conditional_delete(None),
            (Method::Get, Place::SystemHistory) => self.history(Interaction::HistorySystem, At::System),
            (Method::Get, Place::Type(of)) => self.search_type(of),
            (Method::Post, Place::TypeSearch(of)) => self.search_type(of),
            (Method::Post, Place::Type(of)) => self.create(of),
            (Method::Put, Place::Type(of)) => self.conditional_update(of),
            (Method::Patch, Place::Type(of)) => self.conditional_patch(of),
            (Method::Delete, Place::Type(of)) => self.conditional_delete(Some(of)),
            (Method::Get, Place::TypeHistory(of)) => self.history(Interaction::HistoryType, At::Type(of)),
            (Method::Get, Place::Instance(of, id)) => self.read(of, id),
            (Method::Put, Place::Instance(of, id)) => self.update(of, id),
            (Method::Patch, Place::Instance(of, id)) => self.patch(of, id),
            (Method::Delete, Place::Instance(of, id)) => self.delete(of, id),
            (Method::Get, Place::InstanceHistory(of, id)) => {
                self.history(Interaction::HistoryInstance, At::Instance(of, id))
            }
            (Method::Delete, Place::InstanceHistory(of, id)) => self.delete_history(of, id, None),
            (Method::Get, Place::Version(of, id, version)) => self.vread(of, id, version),
            (Method::Delete, Place::Version(of, id, version)) => self.delete_history(of, id, Some(version)),
            (Method::Get, Place::Compartment(place)) => self.search_compartment(place),
            (Method::Post, Place::CompartmentSearch(place)) => self.search_compartment(place),
            (_, Place::Operation(at, name)) => self.named(at, name),
            (
                method,
                Place::System
                | Place::SystemSearch
                | Place::SystemHistory
                | Place::Public
                | Place::TypeSearch(_)
                | Place::TypeHistory(_)
                | Place::Instance(..)
                | Place::InstanceHistory(..)
                | Place::Version(..)
                | Place::Compartment(_)
                | Place::CompartmentSearch(_),
            ) => Err(Unknown::Interaction { method: method.as_str() }.into()),
        }
    }

    fn place(&self, segments: &[&str]) -> Parsed<Place> {
        Ok(match segments {
            [] => Place::System,
            ["metadata"] | [".well-known", "smart-configuration"] => Place::Public,
            ["_search"] => Place::SystemSearch,
            ["_history"] => Place::SystemHistory,
            [name] if name.starts_with('$') => Place::Operation(At::System, self.name(name)?),
            [of] => Place::Type(self.resource_type(of)?),
            [of, "_search"] => Place::TypeSearch(self.resource_type(of)?),
            [of, "_history"] => Place::TypeHistory(self.resource_type(of)?),
            [of, name] if name.starts_with('$') => {
                Place::Operation(At::Type(self.resource_type(of)?), self.name(name)?)
            }
            [of, id] => Place::Instance(self.resource_type(of)?, self.id(id)?),
            [of, id, "_history"] => Place::InstanceHistory(self.resource_type(of)?, self.id(id)?),
            [of, id, "_search"] => Place::CompartmentSearch(self.in_compartment(of, id, "*")?),
            [of, id, name] if name.starts_with('$') => {
                Place::Operation(At::Instance(self.resource_type(of)?, self.id(id)?), self.name(name)?)
            }
            [of, id, member] => Place::Compartment(self.in_compartment(of, id, member)?),
            [of, id, "_history", version] => {
                Place::Version(self.resource_type(of)?, self.id(id)?, self.version(version)?)
            }
            [of, id, member, "_search"] => Place::CompartmentSearch(self.in_compartment(of, id, member)?),
            [of, id, "_history", version, name] if name.starts_with('$') => Place::Operation(
                At::Version(self.resource_type(of)?, self.id(id)?, self.version(version)?),
                self.name(name)?,
            ),
            [of, ..] => {
                self.resource_type(of)?;
                return Err(Unknown::Path.into());
            }
        })
    }

    fn resource_type(&self, name: &str) -> Parsed<ResourceType> {
        if let Some(of) = self.room.definitions.resource_type(name) {
            return Ok(of);
        }
        let variant = self.room.definitions.resource_types().find(|of| of.as_str().eq_ignore_ascii_case(name));
        Err(match variant {
            Some(of) => Invalid::CaseVariant { name: word(name), known: of.as_str().to_owned() },
            None => Invalid::UnknownType { name: word(name) },
        }
        .into())
    }

    /// Whether a lax server might take it for a type's name.
    fn names_type(&self, name: &str) -> bool {
        self.room.definitions.resource_types().any(|of| of.as_str().eq_ignore_ascii_case(name.trim()))
    }

    fn id(&self, text: &str) -> Parsed<FhirId> {
        Ok(FhirId::parse(text).ok_or(Invalid::Id)?)
    }

    fn version(&self, text: &str) -> Parsed<FhirId> {
        Ok(FhirId::parse(text).ok_or(Invalid::Version)?)
    }

    fn name(&self, name: &str) -> Parsed<String> {
        let rest = name.strip_prefix('$').unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let begins = rest.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
        if !begins || rest.len() > 64 || !rest.bytes().all(plain) {
            return Err(Invalid::OperationName.into());
        }
        let known = Action::all().map(|(action, _)| action.as_str());
        match known.filter(|known| *known != name).find(|known| known.eq_ignore_ascii_case(name)) {
            Some(known) => Err(Invalid::CaseVariant { name: word(name), known: known.to_owned() }.into()),
            None => Ok(name.to_owned()),
        }
    }

    fn in_compartment(&self, of: &str, id: &str, member: &str) -> Parsed<InCompartment> {
        let of = self.resource_type(of)?;
        let id = self.id(id)?;
        let member = if member == "*" { None } else { Some(self.resource_type(member)?) };
        let compartment = compartment_of(of).ok_or(Unknown::Path)?;
        if let Some(member) = member.filter(|member| !self.is_member(compartment, *member)) {
            let (of, compartment) = (member.as_str(), compartment.as_str());
            return Err(Invalid::NotInCompartment { of, compartment }.into());
        }
        Ok(InCompartment { compartment, id, member })
    }

    fn is_member(&self, compartment: Compartment, of: ResourceType) -> bool {
        of.as_str() == compartment.as_str() || !self.room.definitions.compartment_parameters(compartment, of).is_empty()
    }

    fn members(&self, compartment: Compartment) -> Vec<ResourceType> {
        self.room.definitions.resource_types().filter(|of| self.is_member(compartment, *of)).collect()
    }

    // ── reading and searching ──

    fn public(&self) -> Parsed<Operation> {
        self.no_body()?;
        const KNOWN: &[&str] = &["_elements", "_format", "_pretty", "_summary", "mode"];
        if !Grammar::all_known(&self.query, KNOWN).map_err(Invalid::from)? {
            let other = self.query.iter().find(|parameter| !KNOWN.contains(&parameter.name.as_str()));
            return Err(Invalid::Parameter { name: other.map_or_else(String::new, |other| word(&other.name)) }.into());
        }
        let access = primary(Action::CAPABILITIES, Reach::Server, EvidenceKind::None);
        Ok(Operation { public: true, ..self.build(Interaction::Capabilities, At::System, Accesses::of(access)) })
    }

    fn read(&self, of: ResourceType, id: FhirId) -> Parsed<Operation> {
        self.no_body()?;
        let at = At::Instance(of, id);
        let mut accesses = Accesses::of(primary(Action::READ, at.reach(), EvidenceKind::Stored));
        self.add_unknown(&mut accesses, Action::READ, GENERAL)?;
        Ok(self.build(Interaction::Read, at, accesses))
    }

    fn vread(&self, of: ResourceType, id: FhirId, version: FhirId) -> Parsed<Operation> {
        self.no_body()?;
        let at = At::Version(of, id, version);
        let mut accesses = Accesses::of(primary(Action::VREAD, at.reach(), EvidenceKind::Versions));
        self.add_unknown(&mut accesses, Action::VREAD, GENERAL)?;
        Ok(self.build(Interaction::Vread, at, accesses))
    }

    fn history(&self, interaction: Interaction, at: At) -> Parsed<Operation> {
        self.no_body()?;
        let (action, target) = match &at {
            At::System => (Action::HISTORY_SYSTEM, Reach::Every),
            At::Type(_) => (Action::HISTORY_TYPE, at.reach()),
            At::Instance(..) | At::Version(..) => (Action::HISTORY_INSTANCE, at.reach()),
        };
        let mut accesses = Accesses::of(primary(action, target, EvidenceKind::Versions));
        if self.query.iter().any(|parameter| parameter.name == "_list") {
            self.add_named(&mut accesses, Action::SEARCH_TYPE, AccessRole::Chain, &["List"]);
        }
        self.add_unknown(&mut accesses, action, HISTORY)?;
        let states_types = interaction != Interaction::HistorySystem;
        Ok(Operation { states_types, ..self.build(interaction, at, accesses) })
    }

    fn search_type(&self, of: ResourceType) -> Parsed<Operation> {
        let search = self.search(Level::Type(of))?;
        let mut accesses = Accesses::of(primary(Action::SEARCH_TYPE, Reach::Type(of), EvidenceKind::Many));
        accesses.touch(search.touches());
        self.add_unseen(&mut accesses);
        let operation = self.build(Interaction::SearchType, At::Type(of), accesses);
        Ok(Operation { search: Some(search), ..operation })
    }

    fn search_system(&self) -> Parsed<Operation> {
        let search = self.search(Level::System)?;
        let mut accesses = Accesses::each(Action::SEARCH_SYSTEM, search.types.as_deref());
        accesses.touch(search.touches());
        self.add_unseen(&mut accesses);
        let operation = self.build(Interaction::SearchSystem, At::System, accesses);
        Ok(Operation { states_types: search.types.is_some(), search: Some(search), ..operation })
    }

    fn search_compartment(&self, place: InCompartment) -> Parsed<Operation> {
        let InCompartment { compartment, id, member } = place;
        let search = match member {
            Some(member) => self.search(Level::Type(member))?,
            None => self.search(Level::Compartment(&self.members(compartment)))?,
        };
        let mut accesses = Accesses::each(Action::SEARCH_COMPARTMENT, search.types.as_deref());
        accesses.touch(search.touches());
        self.add_unseen(&mut accesses);
        let at = member.map_or(At::System, At::Type);
        let states_types =
            member.is_some() || search.terms.iter().any(|touching| matches!(touching.term, Term::Types(_)));
        let operation = self.build(Interaction::SearchCompartment, at, accesses);
        Ok(Operation { compartment: Some((compartment, id)), states_types, search: Some(search), ..operation })
    }

    /// The parameters of the URL and, with POST, of the form: they are one search.
    fn search(&self, level: Level<'_>) -> Parsed<Search> {
        let mut given = self.query.clone();
        match (self.method, self.body) {
            (Method::Get, _) => self.no_body()?,
            (_, Body::None | Body::Unseen) => self.content_type(true)?,
            (_, Body::Form(text)) => {
                self.content_type(true)?;
                let form = url::parameters(text, self.room.settings.parameters_max).map_err(Invalid::Form)?;
                given.extend(self.without_control(&form)?);
            }
            (_, Body::Json(_)) => return Err(Invalid::BodyForm.into()),
        }
        self.count(given.len())?;
        Ok(self.grammar.search(level, &given, &[]).map_err(Invalid::from)?)
    }

    // ── writing ──

    fn create(&self, of: ResourceType) -> Parsed<Operation> {
        let resource = self.resource(of)?;
        let at = At::Type(of);
        let mut accesses = Accesses::of(primary(Action::CREATE, at.reach(), EvidenceKind::Proposed));
        self.add_chosen_id(&mut accesses, of, resource)?;
        let search = self.headers.if_none_exist.map(|text| self.if_none_exist(of, text)).transpose()?;
        if let Some(search) = &search {
            condition(&mut accesses, AccessRole::Condition, Some(of), search, &[Action::CREATE]);
        }
        self.add_conditional_references(&mut accesses, resource)?;
        self.add_unknown(&mut accesses, Action::CREATE, GENERAL)?;
        let operation = self.build(Interaction::Create, at, accesses);
        Ok(Operation { conditional: search.is_some(), search, proposed: Proposed::Body, ..operation })
    }

    fn update(&self, of: ResourceType, id: FhirId) -> Parsed<Operation> {
        let resource = self.resource(of)?;
        if resource.is_some_and(|resource| resource.get("id").and_then(Value::as_str) != Some(id.as_str())) {
            return Err(Invalid::BodyId.into());
        }
        let at = At::Instance(of, id);
        let mut accesses = Accesses::of(primary(Action::UPDATE, at.reach(), EvidenceKind::StoredAndProposed));
        self.add_conditional_references(&mut accesses, resource)?;
        self.add_unknown(&mut accesses, Action::UPDATE, GENERAL)?;
        Ok(Operation { proposed: Proposed::Body, ..self.build(Interaction::Update, at, accesses) })
    }

    fn conditional_update(&self, of: ResourceType) -> Parsed<Operation> {
        let search = self.criteria(Level::Type(of), self.query.clone(), &[])?;
        let resource = self.resource(of)?;
        let at = At::Type(of);
        let mut accesses = Accesses::of(primary(Action::UPDATE, at.reach(), EvidenceKind::StoredAndProposed));
        self.add_chosen_id(&mut accesses, of, resource)?;
        condition(&mut accesses, AccessRole::Condition, Some(of), &search, &[Action::UPDATE]);
        self.add_conditional_references(&mut accesses, resource)?;
        let operation = self.build(Interaction::Update, at, accesses);
        Ok(Operation { conditional: true, search: Some(search), proposed: Proposed::Body, ..operation })
    }

    fn patch(&self, of: ResourceType, id: FhirId) -> Parsed<Operation> {
        self.patch_body()?;
        let at = At::Instance(of, id);
        let mut accesses = Accesses::of(primary(Action::PATCH, at.reach(), EvidenceKind::StoredAndProposed));
        self.add_unknown(&mut accesses, Action::PATCH, GENERAL)?;
        self.add_patched_references(&mut accesses)?;
        Ok(Operation { proposed: Proposed::Caller, ..self.build(Interaction::Patch, at, accesses) })
    }

    fn conditional_patch(&self, of: ResourceType) -> Parsed<Operation> {
        self.patch_body()?;
        let search = self.criteria(Level::Type(of), self.query.clone(), &[])?;
        let at = At::Type(of);
        let mut accesses = Accesses::of(primary(Action::PATCH, at.reach(), EvidenceKind::StoredAndProposed));
        condition(&mut accesses, AccessRole::Condition, Some(of), &search, &[Action::PATCH]);
        self.add_patched_references(&mut accesses)?;
        let operation = self.build(Interaction::Patch, at, accesses);
        Ok(Operation { conditional: true, search: Some(search), proposed: Proposed::Caller, ..operation })
    }

    fn delete(&self, of: ResourceType, id: FhirId) -> Parsed<Operation> {
        self.no_body()?;
        let at = At::Instance(of, id);
        let mut accesses = Accesses::of(primary(Action::DELETE, at.reach(), EvidenceKind::Stored));
        let (hard, others) = without_hard_delete(&self.query);
        if hard {
            accesses.add(primary(Action::HARD_DELETE, at.reach(), EvidenceKind::Stored));
        }
        if !Grammar::all_known(&others, GENERAL).map_err(Invalid::from)? {
            add_every(&mut accesses, Action::DELETE);
            if hard {
                add_every(&mut accesses, Action::HARD_DELETE);
            }
        }
        Ok(self.build(Interaction::Delete, at, accesses))
    }

    /// R5's deletion of all versions but the current, or of one: what is gone then does not come back.
    fn delete_history(&self, of: ResourceType, id: FhirId, version: Option<FhirId>) -> Parsed<Operation> {
        self.no_body()?;
        let at = match version {
            Some(version) => At::Version(of, id, version),
            None => At::Instance(of, id),
        };
        let mut accesses = Accesses::of(primary(Action::DELETE, at.reach(), EvidenceKind::Versions));
        accesses.add(primary(Action::HARD_DELETE, at.reach(), EvidenceKind::Versions));
        if !Grammar::all_known(&without_hard_delete(&self.query).1, GENERAL).map_err(Invalid::from)? {
            add_every(&mut accesses, Action::DELETE);
            add_every(&mut accesses, Action::HARD_DELETE);
        }
        Ok(self.build(Interaction::Delete, at, accesses))
    }

    /// Of one type, or (R5) of any. It may delete many, so no single resource is its evidence.
    fn conditional_delete(&self, of: Option<ResourceType>) -> Parsed<Operation> {
        self.no_body()?;
        let (hard, criteria) = without_hard_delete(&self.query);
        let search = self.criteria(of.map_or(Level::System, Level::Type), criteria, &[])?;
        let actions: &[Action] = if hard { &[Action::DELETE, Action::HARD_DELETE] } else { &[Action::DELETE] };
        let accesses = destruction(actions, of, &search);
        let operation = self.build(Interaction::Delete, of.map_or(At::System, At::Type), accesses);
        Ok(Operation { conditional: true, search: Some(search), ..operation })
    }

    /// The body of a create or an update; `None` where it is not at hand.
    fn resource(&self, of: ResourceType) -> Parsed<Option<&'a Value>> {
        self.content_type(false)?;
        match self.body {
            Body::None | Body::Unseen if self.is_unseen => Ok(None),
            Body::None | Body::Unseen => Err(self.no_such_body().into()),
            Body::Json(resource @ Value::Object(_)) if is_of(resource, of.as_str()) => Ok(Some(resource)),
            Body::Json(Value::Object(_)) => Err(Invalid::BodyType { expected: of.as_str() }.into()),
            Body::Json(_) | Body::Form(_) => Err(Invalid::BodyForm.into()),
        }
    }

    /// A JSON Patch, FHIRPath Patch Parameters, or none: an XML patch is nothing that a caller could pass.
    fn patch_body(&self) -> Parsed<()> {
        self.content_type(false)?;
        match self.body {
            Body::None | Body::Unseen | Body::Json(Value::Array(_)) => Ok(()),
            Body::Json(body) if is_of(body, "Parameters") => Ok(()),
            Body::Json(_) | Body::Form(_) => Err(Invalid::BodyForm.into()),
        }
    }

    /// A server should ignore the id in what is created; one that does not overwrites what bears it.
    fn add_chosen_id(&self, accesses: &mut Accesses, of: ResourceType, resource: Option<&Value>) -> Parsed<()> {
        let Some(resource) = resource else {
            accesses.add(primary(Action::UPDATE, Reach::Type(of), EvidenceKind::StoredAndProposed));
            return Ok(());
        };
        let id = match resource.get("id") {
            None => return Ok(()),
            Some(id) => id.as_str().and_then(FhirId::parse).ok_or(Invalid::BodyId)?,
        };
        accesses.add(primary(Action::UPDATE, Reach::Instance(of, id), EvidenceKind::StoredAndProposed));
        Ok(())
    }

    fn if_none_exist(&self, of: ResourceType, text: &str) -> Parsed<Search> {
        let text = text.strip_prefix('?').unwrap_or(text);
        let given = url::parameters(text, self.room.settings.parameters_max).map_err(Invalid::IfNoneExist)?;
        if given.is_empty() {
            return Err(Invalid::EmptyCriteria.into());
        }
        self.criteria(Level::Type(of), self.without_control(&given)?, &[])
    }

    /// The criteria of a conditional interaction. A criterion without a value is none: servers ignore it, and `,` and
    /// `|` are but the places where values would stand.
    fn criteria(&self, level: Level<'_>, given: Vec<Parameter>, also: &[&str]) -> Parsed<Search> {
        let search = self.grammar.search(level, &given, also).map_err(Invalid::from)?;
        if !search.has_criteria() {
            return Err(Unknown::NoCriteria { method: self.method.as_str() }.into());
        }
        match given.iter().find(|parameter| is_blank(&parameter.value)) {
            Some(empty) => Err(Invalid::EmptyCriterion { name: word(&empty.name) }.into()),
            None => Ok(search),
        }
    }

    /// `"reference": "Patient?identifier=…"`: the server searches for it, with the rights of whoever asks.
    fn add_conditional_references(&self, accesses: &mut Accesses, body: Option<&Value>) -> Parsed<()> {
        let Some(body) = body else {
            self.add_unseen(accesses);
            return Ok(());
        };
        self.add_searches(accesses, strings(body).filter(|(name, text)| *name == "reference" && text.contains('?')))
    }

    /// A patch may put a reference anywhere, so that each of its strings that reads as one is one.
    fn add_patched_references(&self, accesses: &mut Accesses) -> Parsed<()> {
        self.add_unseen(accesses);
        let Body::Json(patch) = self.body else {
            return Ok(());
        };
        let is_one = |text: &str| text.contains('?') && self.names_type(type_before_criteria(text));
        self.add_searches(accesses, strings(patch).filter(|(_, text)| is_one(text)))
    }

    fn add_searches<'t>(
        &self,
        accesses: &mut Accesses,
        references: impl Iterator<Item = (&'t str, &'t str)>,
    ) -> Parsed<()> {
        let texts: BTreeSet<&str> = references.map(|(_, text)| text).collect();
        self.count(texts.len())?;
        for text in texts {
            if let Some((of, search)) = self.conditional_reference(text)? {
                condition(accesses, AccessRole::Reference, Some(of), &search, &[]);
            }
        }
        Ok(())
    }

    /// `None`: what is no FHIR type, as a URL of another service. A type under another base counts all the same, as
    /// servers take what follows the last slash.
    fn conditional_reference(&self, text: &str) -> Parsed<Option<(ResourceType, Search)>> {
        let unread = Invalid::ConditionalReference { pointer: "reference" };
        let Settings { bases, url_bytes_max, parameters_max, .. } = self.room.settings;
        let limits = Limits { url_bytes_max: *url_bytes_max, parameters_max: *parameters_max };
        let (mut text, mut is_foreign) = (text, false);
        let target = loop {
            match url::parse(&rooted(text), bases, limits) {
                Ok(target) => break target,
                Err(UrlError::ForeignBase { .. }) if !is_foreign => {
                    let head = text.split('?').next().unwrap_or_default();
                    text = head.rfind('/').and_then(|slash| text.get(slash + 1..)).ok_or(unread.clone())?;
                    is_foreign = true;
                }
                Err(_) => return Err(unread.into()),
            }
        };
        let [of] = target.segments.as_slice() else {
            return Err(unread.into());
        };
        let of = match self.resource_type(of) {
            Err(_) if is_foreign && !self.names_type(of) => return Ok(None),
            read => read?,
        };
        let search = self.criteria(Level::Type(of), self.without_control(&target.query)?, &[])?;
        Ok(Some((of, search)))
    }

    // ── bundles ──

    fn bundle(&self) -> Parsed<Operation> {
        if self.within_bundle {
            return Err(Invalid::NestedBundle.into());
        }
        self.content_type(false)?;
        if !Grammar::all_known(&self.query, GENERAL).map_err(Invalid::from)? {
            let other = self.query.iter().find(|parameter| !GENERAL.contains(&parameter.name.as_str()));
            return Err(Invalid::Parameter { name: other.map_or_else(String::new, |other| word(&other.name)) }.into());
        }
        let body = match self.body {
            Body::None | Body::Unseen => return Err(self.no_such_body().into()),
            Body::Form(_) => return Err(Invalid::BodyForm.into()),
            Body::Json(body) if is_of(body, "Bundle") => body,
            Body::Json(_) => return Err(Invalid::BodyType { expected: "Bundle" }.into()),
        };
        let (interaction, action) = match body.get("type").and_then(Value::as_str) {
            Some("batch") => (Interaction::Batch, Action::BATCH),
            Some("transaction") => (Interaction::Transaction, Action::TRANSACTION),
            Some(_) | None => return Err(Invalid::BundleType.into()),
        };
        let entries: &[Value] = match body.get("entry") {
            None => &[],
            Some(Value::Array(entries)) => entries,
            Some(_) => return Err(Invalid::Bundle { pointer: "/entry" }.into()),
        };
        let max = self.room.settings.entries_max;
        if entries.len() > max {
            return Err(Invalid::TooManyEntries { max }.into());
        }
        let accesses = Accesses::of(primary(action, Reach::Server, EvidenceKind::None));
        let entries = entries.iter().map(|entry| self.entry(entry)).collect();
        Ok(Operation { entries, ..self.build(interaction, At::System, accesses) })
    }

    /// FHIR writes an entry's URL relative to the base (`Patient/1`). `/Patient/1` is taken too, and read the same:
    /// that is what servers do, and a resolver of RFC 3986 finds nothing else there. `//host` stays refused.
    fn entry(&self, entry: &'a Value) -> Parsed<Operation> {
        let request = entry.get("request").ok_or(Invalid::Bundle { pointer: "request" })?;
        let text = |name: &str, pointer: &'static str| match request.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Invalid::Bundle { pointer }),
        };
        let method = text("method", "request/method")?.ok_or(Invalid::Bundle { pointer: "request/method" })?;
        let url = text("url", "request/url")?.ok_or(Invalid::Bundle { pointer: "request/url" })?;
        if url.is_empty() {
            return Err(Invalid::Bundle { pointer: "request/url" }.into());
        }
        let if_none_exist = text("ifNoneExist", "request/ifNoneExist")?;
        let headers = Headers { if_none_exist, content_type: None };
        let body = match entry.get("resource") {
            None => Body::None,
            Some(resource @ Value::Object(_)) => Body::Json(resource),
            Some(_) => return Err(Invalid::Bundle { pointer: "resource" }.into()),
        };
        Reader::new(self.room, Method::parse(method)?, headers, &rooted(url), body, true)?.operation()
    }

    // ── operations ──

    fn named(&self, at: At, name: String) -> Parsed<Operation> {
        self.operation_method(&at, &name)?;
        if self.is_unseen {
            return Err(Invalid::UnseenBody.into());
        }
        if name == "$graphql" {
            return self.graphql(at, name);
        }
        let call = named::Call { reader: self, action: Action::of_operation(&name), inputs: self.inputs()?, at };
        let named::Read { accesses, search } = call.read(&name)?;
        let patient = match &call.at {
            At::Instance(of, id) => compartment_of(*of).map(|compartment| (compartment, id.clone())),
            At::System | At::Type(_) | At::Version(..) => None,
        };
        let compartment = patient.filter(|_| name == "$everything");
        let proposed = match name.as_str() {
            "$meta-add" | "$meta-delete" => Proposed::Caller,
            _ => Proposed::No,
        };
        let has = |name: &str| call.inputs.iter().any(|input| input.name == name);
        let (states_types, has_filters) = (has("_type"), has("_typeFilter"));
        let has_fixed_parameters = has_filters || !matches!(self.body, Body::None);
        let operation = self.build(Interaction::Operation, call.at, accesses);
        Ok(Operation {
            name: Some(name),
            compartment,
            states_types,
            has_fixed_parameters,
            proposed,
            search,
            ..operation
        })
    }

    /// What changes something is not called by GET; DELETE, PATCH and PUT are Azure's for four of them.
    fn operation_method(&self, at: &At, name: &str) -> Parsed<()> {
        let instance = matches!(at, At::Instance(..) | At::Version(..));
        let fits = match (name, self.method) {
            ("$bulk-delete", method) => matches!(method, Method::Post | Method::Delete),
            ("$purge-history", method) => {
                matches!(method, Method::Post | Method::Delete) && matches!(at, At::Instance(..))
            }
            ("$bulk-update", method) => matches!(method, Method::Post | Method::Patch),
            ("$status", method) => matches!(method, Method::Get | Method::Post | Method::Put),
            ("$meta-add" | "$meta-delete", method) => method == Method::Post && instance,
            (
                "$import" | "$convert-data" | "$match" | "$member-match" | "$closure" | "$submit-data"
                | "$process-message" | "$merge",
                method,
            ) => method == Method::Post,
            (_, method) => matches!(method, Method::Get | Method::Post),
        };
        match fits {
            true => Ok(()),
            false => Err(Unknown::OperationMethod { name: word(name), method: self.method.as_str() }.into()),
        }
    }

    /// The parameters of an operation, from its URL and its Parameters. Of what is no plain value, the name.
    fn inputs(&self) -> Parsed<Vec<Parameter>> {
        let mut inputs = self.query.clone();
        match (self.method, self.body) {
            (Method::Get | Method::Delete, _) => self.no_body()?,
            (Method::Post | Method::Put | Method::Patch, Body::None | Body::Unseen) => {}
            (Method::Post | Method::Put | Method::Patch, Body::Form(_)) => return Err(Invalid::BodyForm.into()),
            (Method::Post | Method::Put | Method::Patch, Body::Json(body)) => {
                self.content_type(false)?;
                inputs.extend(self.without_control(&body_inputs(body)?)?);
            }
        }
        self.count(inputs.iter().filter(|input| !input.value.is_empty()).count())?;
        Ok(inputs)
    }

    /// A query may go anywhere.
    fn graphql(&self, at: At, name: String) -> Parsed<Operation> {
        let mut texts: Vec<&str> =
            self.query.iter().filter(|given| given.name == "query").map(|given| given.value.as_str()).collect();
        match (self.method, self.body) {
            (Method::Get, _) => self.no_body()?,
            (_, Body::None | Body::Unseen) => {}
            (_, Body::Form(text)) => {
                let media = self.headers.content_type.map(media_type);
                if media.is_some_and(|media| !media.eq_ignore_ascii_case("application/graphql")) {
                    return Err(Invalid::ContentType.into());
                }
                texts.push(text);
            }
            (_, Body::Json(body)) => {
                self.content_type(false)?;
                texts.push(body.get("query").and_then(Value::as_str).ok_or(Invalid::GraphQl)?);
            }
        }
        let [text] = texts.as_slice() else {
            return Err(Invalid::GraphQl.into());
        };
        if !graphql::only_queries(text) {
            return Err(Invalid::GraphQl.into());
        }
        let access = primary(Action::of_operation(&name), Reach::Every, EvidenceKind::Many);
        Ok(Operation { name: Some(name), ..self.build(Interaction::Operation, at, Accesses::of(access)) })
    }

    // ── what they share ──

    fn build(&self, interaction: Interaction, at: At, accesses: Accesses) -> Operation {
        let resource_type = at.resource_type();
        let (id, version) = match at {
            At::System | At::Type(_) => (None, None),
            At::Instance(_, id) => (Some(id), None),
            At::Version(_, id, version) => (Some(id), Some(version)),
        };
        Operation {
            interaction,
            resource_type,
            id,
            version,
            name: None,
            compartment: None,
            conditional: false,
            states_types: true,
            has_fixed_parameters: false,
            public: false,
            proposed: Proposed::No,
            target: self.target.clone(),
            search: None,
            entries: Vec::new(),
            accesses: accesses.list,
        }
    }

    /// A parameter that is not known may make the interaction reach anything.
    fn add_unknown(&self, accesses: &mut Accesses, action: Action, known: &[&str]) -> Parsed<()> {
        if !Grammar::all_known(&self.query, known).map_err(Invalid::from)? {
            add_every(accesses, action);
        }
        Ok(())
    }

    fn add_named(&self, accesses: &mut Accesses, action: Action, role: AccessRole, names: &[&str]) {
        for of in names.iter().filter_map(|name| self.room.definitions.resource_type(name)) {
            accesses.add(Access { action, target: Reach::Type(of), role, evidence: EvidenceKind::Many });
        }
    }

    fn no_body(&self) -> Parsed<()> {
        match self.body {
            Body::None | Body::Unseen => Ok(()),
            Body::Json(Value::Object(members)) if members.is_empty() => Ok(()),
            Body::Json(_) | Body::Form(_) => Err(Invalid::UnexpectedBody.into()),
        }
    }

    fn no_such_body(&self) -> Invalid {
        if self.is_unseen { Invalid::UnseenBody } else { Invalid::MissingBody }
    }

    /// A body that is not at hand may search for anything, or refer to it by criteria.
    fn add_unseen(&self, accesses: &mut Accesses) {
        if self.is_unseen {
            add_every(accesses, Action::SEARCH_TYPE);
        }
    }

    fn count(&self, parameters: usize) -> Parsed<()> {
        let max = self.room.settings.parameters_max;
        if parameters > max { Err(Invalid::TooManyParameters { max }.into()) } else { Ok(()) }
    }

    /// Whether `Content-Type`, if it is given, says form where a form is read, and something else where none is.
    fn content_type(&self, form: bool) -> Parsed<()> {
        let Some(text) = self.headers.content_type else {
            return Ok(());
        };
        let says_form = media_type(text).eq_ignore_ascii_case("application/x-www-form-urlencoded");
        let foreign_charset = text.split(';').skip(1).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("charset") && !value.eq_ignore_ascii_case("utf-8")
        });
        if says_form != form || foreign_charset { Err(Invalid::ContentType.into()) } else { Ok(()) }
    }
}

fn compartment_of(of: ResourceType) -> Option<Compartment> {
    Compartment::ALL.into_iter().find(|compartment| compartment.as_str() == of.as_str())
}

fn every(action: Action) -> Access {
    Access { action, target: Reach::Every, role: AccessRole::Chain, evidence: EvidenceKind::Many }
}

fn add_every(accesses: &mut Accesses, action: Action) {
    accesses.add(every(action));
}

/// Adds the search of a conditional interaction. What an include or an unknown parameter brings in may undergo the same
/// as what is searched for, as servers delete what is included.
fn condition(accesses: &mut Accesses, role: AccessRole, of: Option<ResourceType>, search: &Search, does: &[Action]) {
    let (action, evidence) = (Action::SEARCH_TYPE, EvidenceKind::Many);
    let types = of.map(|of| vec![of]).or_else(|| search.types.clone());
    match types {
        Some(types) => {
            types.into_iter().for_each(|of| accesses.add(Access { action, target: Reach::Type(of), role, evidence }))
        }
        None => accesses.add(Access { action, target: Reach::Every, role, evidence }),
    }
    for Touch { touched, by } in search.touches() {
        let role = match by {
            By::Chain | By::Sort => continue,
            By::Include => AccessRole::Include,
            By::Unknown => AccessRole::Chain,
        };
        for action in does {
            accesses.add(Access { action: *action, target: reach_of(touched), role, evidence });
        }
    }
    accesses.touch(search.touches());
}

/// What is done to everything that a search finds; `of` of `None`: of whatever type.
fn destruction(actions: &[Action], of: Option<ResourceType>, search: &Search) -> Accesses {
    let types = of.map(|of| vec![of]).or_else(|| search.types.clone());
    let first = actions.first().copied().unwrap_or(Action::DELETE);
    let mut accesses = Accesses::each(first, types.as_deref());
    for action in actions {
        Accesses::each(*action, types.as_deref()).list.into_iter().for_each(|access| accesses.add(access));
    }
    condition(&mut accesses, AccessRole::Condition, of, search, actions);
    accesses
}

/// `_hardDelete` in any writing, and the other parameters. Only an unambiguous `false` is none.
fn without_hard_delete(query: &[Parameter]) -> (bool, Vec<Parameter>) {
    let (hard, others): (Vec<_>, Vec<_>) =
        query.iter().cloned().partition(|parameter| is_named(parameter, &["_hardDelete", "hardDelete"]));
    (hard.iter().any(|parameter| parameter.value != "false"), others)
}

fn is_named(parameter: &Parameter, names: &[&str]) -> bool {
    let head = parameter.name.split([':', '.']).next().unwrap_or_default();
    names.iter().any(|name| name.eq_ignore_ascii_case(head))
}

/// Every string of a JSON value, with the name of the member that it is, or is an item of.
fn strings(value: &Value) -> impl Iterator<Item = (&str, &str)> {
    let mut waiting = vec![("", value)];
    std::iter::from_fn(move || {
        loop {
            match waiting.pop()? {
                (name, Value::String(text)) => return Some((name, text.as_str())),
                (name, Value::Array(items)) => waiting.extend(items.iter().map(|item| (name, item))),
                (_, Value::Object(members)) => {
                    waiting.extend(members.iter().map(|(name, value)| (name.as_str(), value)));
                }
                (_, Value::Null | Value::Bool(_) | Value::Number(_)) => {}
            }
        }
    })
}

/// `Patient` of `…/Patient?identifier=…`.
fn type_before_criteria(text: &str) -> &str {
    text.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default()
}

fn is_blank(value: &str) -> bool {
    value.chars().all(|letter| letter.is_whitespace() || matches!(letter, ',' | '|'))
}

fn is_of(resource: &Value, name: &str) -> bool {
    resource.get("resourceType").and_then(Value::as_str) == Some(name)
}

fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// A relative URL, written from the base. What has a scheme, or begins with `/`, stays as it is.
fn rooted(url: &str) -> String {
    let scheme = url.split_once(':').is_some_and(|(scheme, _)| !scheme.contains(['/', '?', '$']));
    if url.starts_with('/') || scheme { url.to_owned() } else { format!("/{url}") }
}

/// The parameters of a Parameters body. Another resource is the operation's one parameter.
fn body_inputs(body: &Value) -> Parsed<Vec<Parameter>> {
    if !is_of(body, "Parameters") {
        let resource = body.get("resourceType").and_then(Value::as_str);
        return if resource.is_some() { Ok(Vec::new()) } else { Err(Invalid::BodyForm.into()) };
    }
    match body.get("parameter") {
        None => Ok(Vec::new()),
        Some(Value::Array(given)) => given.iter().map(body_input).collect(),
        Some(_) => Err(Invalid::Parameters.into()),
    }
}

fn body_input(given: &Value) -> Parsed<Parameter> {
    let members = given.as_object().ok_or(Invalid::Parameters)?;
    let name = members.get("name").and_then(Value::as_str).ok_or(Invalid::Parameters)?;
    let mut values = members.iter().filter(|(name, _)| name.starts_with("value"));
    let value = match (values.next(), values.next()) {
        (None, _) => String::new(),
        (Some((_, Value::String(text))), None) => text.clone(),
        (Some((_, Value::Bool(value))), None) => value.to_string(),
        (Some((_, Value::Number(value))), None) => value.to_string(),
        (Some((_, Value::Object(_))), None) => String::new(),
        (Some((_, Value::Null | Value::Array(_))), None) | (Some(_), Some(_)) => {
            return Err(Invalid::Parameters.into());
        }
    };
    Ok(Parameter { name: name.to_owned(), value })
}

/// The property of this file: no panic; at least one access; a further parameter never takes one away; and a body that
/// is not at hand stands for any.
/// The input's first line is the method and URL, the second a header, the rest the body.
#[doc(hidden)]
pub fn holds(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.splitn(3, '\n');
    let (method, url) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or(("GET", "/"));
    let header = lines.next().and_then(|line| line.split_once(": "));
    let body = lines.next().unwrap_or_default();
    let json = serde_json::from_str::<Value>(body).ok();
    let body = json.as_ref().map_or(Body::Form(body), Body::Json);
    let definitions = Definitions::of(crate::fhir::definitions::FhirVersion::R4);
    let settings = Settings { entries_max: 50, ..Settings::default() };
    let read = |url: &str| parse(&Request { method, url, headers: header.as_slice(), body }, definitions, &settings);
    let Ok(operation) = read(url) else {
        return true;
    };
    let within = |operation: &Operation| {
        operation.accesses.first().is_some_and(|first| first.role == AccessRole::Primary)
            && operation.search.as_ref().is_none_or(|search| written_is_read(search, definitions))
    };
    let further = ["_revinclude=Provenance:target", "subject:Patient.name=x", "_cascade=delete"];
    let keeps = further.iter().all(|parameter| {
        let url = format!("{url}{}{parameter}", if url.contains('?') { "&" } else { "?" });
        read(&url).map_or(true, |wider| operation.accesses.iter().all(|access| wider.accesses.contains(access)))
    });
    let unseen = Request { method, url, headers: header.as_slice(), body: Body::Unseen };
    let stands_for_it = match parse(&unseen, definitions, &settings) {
        Ok(unseen) => operation.accesses.iter().all(|access| is_covered(access, &unseen)),
        Err(_) => true,
    };
    within(&operation) && operation.entries.iter().flatten().all(within) && keeps && stands_for_it
}

/// Whether an operation has an access that reaches what this one does, by the same action.
fn is_covered(access: &Access, operation: &Operation) -> bool {
    operation.accesses.iter().any(|wider| {
        let reaches = match (&wider.target, &access.target) {
            (Reach::Every, _) => true,
            (Reach::Type(wider), Reach::Instance(of, _)) => wider == of,
            (wider, target) => wider == target,
        };
        wider.action == access.action && reaches
    })
}

/// Whether each term of a search, written and read again, is itself.
fn written_is_read(search: &Search, definitions: &Definitions) -> bool {
    let grammar = Grammar { definitions, configured: &[] };
    let level = match search.types.as_deref() {
        Some([of]) => Level::Type(*of),
        Some(types) => Level::Compartment(types),
        None => Level::System,
    };
    search.terms.iter().filter(|touching| !matches!(touching.term, Term::Types(_) | Term::Result(_))).all(|touching| {
        let again = grammar.search(level, &[touching.term.write()], &[]);
        again.is_ok_and(|again| again.terms.first() == Some(touching))
    })
}
