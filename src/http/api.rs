//! The wire contract: the bytes of a question → the bytes of an answer. No socket, no clock.
//! Hides the JSON of API.md, and which failure is which `code` and status.
//! INVARIANT: a field that is not known, stands twice or is `null` where a value is meant gives no decision.
//! Source: shared/API.md; RFC 6750 for challenges; FHIR R4 OperationOutcome.

use core::convert::Infallible;
use core::fmt;
use core::net::IpAddr;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::engine::decide::{
    Answer, Code, Decision, Denial, Enforces, Evidence, Narrowed, Obligations, Stored, decide,
};
use crate::engine::domain::Domain;
use crate::engine::entities::Facts;
use crate::engine::explain::{Explanation, explain};
use crate::engine::standing::{Standing, Standings};
use crate::fhir::definitions::{FhirId, ResourceType};
use crate::fhir::operation::{self, Interaction, Operation};
use crate::json;
use crate::policy::snapshot::Snapshot;
use crate::token::issuers::Issuers;
use crate::token::jws::{self, Claims, TokenError};

/// Questions in one call of `/v1/authorize/batch`.
pub const BATCH_MAX: usize = 1_000;

/// Limits on what is read, beyond the size of a body.
#[derive(Debug, Clone)]
pub struct Limits {
    pub token: jws::Limits,
    /// nesting of a request's JSON
    pub json_depth_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { token: jws::Limits::default(), json_depth_max: 128 }
    }
}

/// Everything that answers: one state of the world, and the moment of the question.
pub struct Desk<'a> {
    pub snapshot: &'a Snapshot,
    pub issuers: &'a Issuers,
    pub limits: &'a Limits,
    /// what AuthZEN asks instead of the snapshot, where the deployment has such a folder
    pub domain: Option<&'a Domain>,
    /// the principals that asked this snapshot lately; without, each is made anew
    pub standings: Option<&'a Standings>,
    /// whether a key that is not at hand is no key: nobody can fetch it, or somebody just did
    pub keys_are_final: bool,
    /// for a proxy's request: what somebody brought of the FHIR server's resources; `None` where nobody can
    pub brought: Option<&'a [Brought]>,
    /// seconds since 1970
    pub now: i64,
    /// a new id for each decision
    pub ids: &'a dyn Fn() -> String,
}

impl<'a> Desk<'a> {
    /// One question by itself: no caches, no ids, and nobody who could fetch a key.
    pub fn alone(snapshot: &'a Snapshot, issuers: &'a Issuers, limits: &'a Limits, now: i64) -> Desk<'a> {
        Desk {
            snapshot,
            issuers,
            limits,
            domain: None,
            standings: None,
            keys_are_final: true,
            brought: None,
            now,
            ids: &String::new,
        }
    }
}

/// What is not at hand and may be brought: bring it and ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lacking {
    /// A key that the issuer at this index of `Issuers` may have.
    Key(usize),
    /// The resource as it is stored at this place.
    Resource(Place),
}

/// Where a resource lies below the FHIR base: `Observation/55`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub of: ResourceType,
    pub id: FhirId,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.of, self.id.as_str())
    }
}

/// What was brought of the FHIR server: `None` where it has no such resource.
pub type Brought = (Place, Option<Arc<Value>>);

/// An error of the API itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// a JSON pointer, or line:column
    pub at: Option<String>,
}

impl ApiError {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), at: None }
    }

    pub(super) fn malformed(at: &str, message: impl Into<String>) -> ApiError {
        ApiError { at: Some(at.to_owned()), ..ApiError::new(400, "invalid-request", message) }
    }

    pub fn body(&self) -> Vec<u8> {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let (Some(at), Some(object)) = (&self.at, error.as_object_mut()) {
            object.insert("at".to_owned(), json!(at));
        }
        bytes(&json!({ "error": error }))
    }
}

/// What happened, for the log and the counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub id: String,
    pub permit: bool,
    pub code: Option<&'static str>,
    pub interaction: Option<&'static str>,
    pub resource_type: Option<&'static str>,
}

/// An answer of 200, and what it says.
#[derive(Debug)]
pub struct Answered {
    pub body: Vec<u8>,
    pub summaries: Vec<Summary>,
}

/// `POST /v1/authorize`: one question, one decision.
pub fn authorize(desk: &Desk<'_>, body: &[u8]) -> Result<Result<Answered, ApiError>, Lacking> {
    let read = json::text(body).map_err(not_json);
    Ok(match read.and_then(|text| Question::read(desk, &Fields::of_whole(text, desk.limits.json_depth_max)?)) {
        Ok(question) => {
            let told = question.told(desk)?;
            Ok(Answered { body: bytes(&told.wire(desk)), summaries: vec![told.summary()] })
        }
        Err(error) => Err(error),
    })
}

/// `POST /v1/authorize/batch`: many questions, as many decisions; one that is malformed is a deny in its place.
pub fn authorize_batch(desk: &Desk<'_>, body: &[u8]) -> Result<Result<Answered, ApiError>, Lacking> {
    // the questions stand two levels deeper than one alone; what is no JSON is refused as a whole
    let depth_max = desk.limits.json_depth_max + 2;
    let read = json::parse(body, depth_max).and_then(|_| json::text(body)).map_err(not_json);
    let questions = match read.and_then(|text| batch(&Fields::of_whole(text, depth_max)?)) {
        Ok(questions) => questions,
        Err(error) => return Ok(Err(error)),
    };
    let told = questions.into_iter().map(|fields| match fields.and_then(|fields| Question::read(desk, &fields)) {
        Ok(question) => question.told(desk),
        Err(error) => {
            let message = format!("{} at {}", error.message, error.at.unwrap_or_default());
            let answer = Answer::deny(Code::InvalidRequest, message);
            Ok(Told { id: (desk.ids)(), answer, operation: None, explanation: None })
        }
    });
    let told = told.collect::<Result<Vec<Told>, Lacking>>()?;
    let decisions: Vec<Wire<'_>> = told.iter().map(|told| told.wire(desk)).collect();
    let body = bytes(&Batch { decisions });
    Ok(Ok(Answered { body, summaries: told.into_iter().map(Told::summary).collect() }))
}

/// One question as JSON, of a caller that may not know the request's body; and its answer.
pub(super) fn answer_of(desk: &Desk<'_>, value: &Value) -> Result<Result<(Value, Summary), ApiError>, Lacking> {
    let text = value.to_string();
    match Fields::of_whole(&text, desk.limits.json_depth_max).and_then(|fields| Question::read(desk, &fields)) {
        Ok(mut question) => {
            question.asker.request.is_unseen = question.asker.request.body.is_none();
            let told = question.told(desk)?;
            Ok(Ok((as_json(&told.wire(desk)), told.summary())))
        }
        Err(error) => Ok(Err(error)),
    }
}

/// The questions of a batch.
fn batch<'t>(fields: &Fields<'t>) -> Result<Vec<Result<Fields<'t>, ApiError>>, ApiError> {
    fields.only(&["requests"])?;
    let Some(requests) = fields.get("requests") else {
        return Err(ApiError::malformed("", "`requests` is missing"));
    };
    let questions = fields.items("requests", requests, || "`requests` must be an array".to_owned())?;
    if questions.len() > BATCH_MAX {
        let message = format!("{} requests are more than {BATCH_MAX}; split them", questions.len());
        return Err(ApiError::malformed("/requests", message));
    }
    // around each are the object and the array
    let depth_left = fields.depth_left.saturating_sub(1);
    let question = |(index, text): (usize, &&'t str)| {
        let array = Fields { members: Vec::new(), whole: fields.whole, here: String::new(), depth_left };
        array.within(format!("/requests/{index}"), text)
    };
    Ok(questions.iter().enumerate().map(question).collect())
}

pub(super) fn not_json(error: json::JsonError) -> ApiError {
    let at = format!("{}:{}", error.line, error.column);
    ApiError { at: Some(at), ..ApiError::new(400, "invalid-json", error.message) }
}

/// One question as it was sent, its form checked.
struct Question<'v> {
    asker: Asker<'v>,
    stored: Known<'v>,
    proposed: Option<Cow<'v, Value>>,
    enforces: Enforces,
    explain: bool,
}

/// The resource as it is stored, read or at hand.
enum Known<'v> {
    NotLoaded,
    Absent,
    Resource(Cow<'v, Value>),
}

/// Who asks, for which request, under which circumstances: what every question holds.
pub(super) struct Asker<'v> {
    who: Bearer<'v>,
    request: Asked<'v>,
    facts: Facts,
}

enum Bearer<'v> {
    Token(Cow<'v, str>),
    /// Claims, and their text.
    Claims(Map<String, Value>, &'v str),
    /// Claims that were read before.
    Known(Arc<Standing>),
}

impl<'v> Bearer<'v> {
    /// By the text of claims, unless they are known; then they are not read again.
    fn of_claims<E>(
        desk: &Desk<'_>,
        text: &'v str,
        read: impl FnOnce() -> Result<Map<String, Value>, E>,
    ) -> Result<Bearer<'v>, E> {
        match desk.standings.and_then(|standings| standings.known_claims(text)) {
            Some(known) => Ok(Bearer::Known(known)),
            None => Ok(Bearer::Claims(read()?, text)),
        }
    }

    /// Nobody in particular: a proxy's client without a token.
    fn nobody(desk: &Desk<'_>) -> Bearer<'v> {
        let Ok(nobody) = Bearer::of_claims(desk, "{}", || Ok::<_, Infallible>(Map::new()));
        nobody
    }
}

struct Asked<'v> {
    method: Cow<'v, str>,
    url: Cow<'v, str>,
    headers: Vec<Header<'v>>,
    body: Option<Cow<'v, Value>>,
    /// Whether there may be a body all the same.
    is_unseen: bool,
}

/// Its name and its value.
type Header<'v> = (Cow<'v, str>, Cow<'v, str>);

/// A request as a proxy knows it.
pub(super) struct Forwarded<'v> {
    pub(super) token: Option<&'v str>,
    pub(super) method: &'v str,
    pub(super) url: &'v str,
    pub(super) headers: Vec<(&'v str, &'v str)>,
    /// JSON, or a form as a string.
    pub(super) body: Option<&'v Value>,
    /// Whether there may be a body that the proxy does not pass.
    pub(super) is_unseen: bool,
    pub(super) enforces: Enforces,
}

impl<'v> Forwarded<'v> {
    /// The answer that `/v1/authorize` would give; with the stored resource, where it depends on it and somebody can bring it.
    pub(super) fn answer(self, desk: &Desk<'_>) -> Result<(Value, Summary, Decided), Lacking> {
        let Forwarded { token, method, url, headers, body, is_unseen, enforces } = self;
        let who = token.map_or_else(|| Bearer::nobody(desk), |token| Bearer::Token(Cow::Borrowed(token)));
        let headers = headers.into_iter().map(|(name, value)| (Cow::Borrowed(name), Cow::Borrowed(value))).collect();
        let body = body.map(Cow::Borrowed);
        let request = Asked { method: Cow::Borrowed(method), url: Cow::Borrowed(url), headers, body, is_unseen };
        let asker = Asker { who, request, facts: Facts::default() };
        let mut question = Question { asker, stored: Known::NotLoaded, proposed: None, enforces, explain: false };
        let mut decided = question.decided(desk)?;
        if let (Some(place), Some(brought)) = (decided.lacks(), desk.brought) {
            let (_, stored) = brought.iter().find(|(known, _)| *known == place).ok_or(Lacking::Resource(place))?;
            question.stored = stored.as_deref().map_or(Known::Absent, |json| Known::Resource(Cow::Borrowed(json)));
            decided = question.decided(desk)?;
        }
        let Decided { id, answer, operation, .. } = &decided;
        let operation = operation.as_ref().ok();
        let wire = as_json(&Wire::of(desk, Some(id), answer, operation, None));
        Ok((wire, summary(id.clone(), answer, operation), decided))
    }
}

/// A question's answer, and what it was found by.
pub(super) struct Decided {
    pub(super) id: String,
    pub(super) answer: Answer,
    pub(super) operation: Result<Operation, operation::OperationError>,
    /// `None`: the token is no good
    pub(super) standing: Option<Arc<Standing>>,
    pub(super) facts: Facts,
}

impl Decided {
    /// The resource without which there is no answer.
    fn lacks(&self) -> Option<Place> {
        let Decision::Deny(Denial { code: Code::NeedsResource, .. }) = &self.answer.decision else { return None };
        let operation = self.operation.as_ref().ok()?;
        let is_of_one = matches!(
            operation.interaction,
            Interaction::Read | Interaction::Update | Interaction::Patch | Interaction::Delete
        );
        match (operation.resource_type, &operation.id) {
            (Some(of), Some(id)) if is_of_one => Some(Place { of, id: id.clone() }),
            (_, _) => None,
        }
    }
}

/// What is told of a decision.
struct Told {
    id: String,
    answer: Answer,
    operation: Option<Operation>,
    explanation: Option<Explanation>,
}

impl Told {
    fn wire<'a>(&'a self, desk: &'a Desk<'_>) -> Wire<'a> {
        Wire::of(desk, Some(&self.id), &self.answer, self.operation.as_ref(), self.explanation.as_ref())
    }

    fn summary(self) -> Summary {
        summary(self.id, &self.answer, self.operation.as_ref())
    }
}

fn summary(id: String, answer: &Answer, operation: Option<&Operation>) -> Summary {
    Summary {
        id,
        permit: answer.is_permit(),
        code: match &answer.decision {
            Decision::Permit(_) => None,
            Decision::Deny(denial) => Some(code_of(denial.code)),
        },
        interaction: operation.map(|operation| operation.interaction.as_str()),
        resource_type: operation.and_then(|operation| operation.resource_type).map(|of| of.as_str()),
    }
}

/// A `Wire` is JSON of strings and lists: it always serializes.
fn as_json(wire: &Wire<'_>) -> Value {
    serde_json::to_value(wire).unwrap_or_default()
}

impl<'v> Question<'v> {
    fn read(desk: &Desk<'_>, fields: &Fields<'v>) -> Result<Question<'v>, ApiError> {
        fields.only(&["token", "claims", "request", "resource", "proposed", "context", "enforces", "explain"])?;
        let asker = Asker::read(desk, fields)?;
        let stored = match fields.get("resource") {
            None => Known::NotLoaded,
            Some("null") => Known::Absent,
            Some(text) => Known::Resource(Cow::Owned(fields.object_value("resource", text, ", or null")?)),
        };
        let proposed = match fields.get("proposed") {
            None => None,
            Some(text) => Some(Cow::Owned(fields.object_value("proposed", text, "")?)),
        };
        Ok(Question { asker, stored, proposed, enforces: enforces(fields)?, explain: fields.flag("explain")? })
    }

    fn decided(&self, desk: &Desk<'_>) -> Result<Decided, Lacking> {
        let operation = self.asker.operation(desk);
        let facts = self.asker.facts(desk);
        let (answer, standing) = match (self.asker.standing(desk)?, &operation) {
            (Err(message), _) => (Answer::deny(Code::InvalidToken, message), None),
            (Ok(standing), Err(error)) => (Answer::of_error(error), Some(standing)),
            (Ok(standing), Ok(operation)) => {
                let answer = decide(desk.snapshot, &standing, operation, &self.evidence(), &facts, self.enforces);
                (answer, Some(standing))
            }
        };
        Ok(Decided { id: (desk.ids)(), answer, operation, standing, facts })
    }

    fn told(&self, desk: &Desk<'_>) -> Result<Told, Lacking> {
        let decided = self.decided(desk)?;
        let explanation = match (self.explain, &decided.standing, &decided.operation) {
            (true, Some(standing), Ok(operation)) => {
                Some(explain(desk.snapshot, standing, operation, &self.evidence(), &decided.facts))
            }
            (_, _, _) => None,
        };
        let Decided { id, answer, operation, .. } = decided;
        Ok(Told { id, answer, operation: operation.ok(), explanation })
    }

    fn evidence(&self) -> Evidence<'_> {
        let stored = match &self.stored {
            Known::NotLoaded => Stored::NotLoaded,
            Known::Absent => Stored::Absent,
            Known::Resource(json) => Stored::Known(json),
        };
        Evidence { stored, proposed: self.proposed.as_deref(), body: self.asker.request.body.as_deref() }
    }
}

impl<'v> Asker<'v> {
    pub(super) fn read(desk: &Desk<'_>, fields: &Fields<'v>) -> Result<Asker<'v>, ApiError> {
        let who = match (fields.get("token"), fields.get("claims")) {
            (Some(_), Some(_)) => return Err(fields.malformed("both `token` and `claims` are given; send one")),
            (None, None) => return Err(fields.malformed("neither `token` nor `claims` is given")),
            (Some(_), None) => Bearer::Token(fields.text("token")?.unwrap_or_default()),
            (None, Some(text)) => Bearer::of_claims(desk, text, || fields.object("claims", text))?,
        };
        let request = fields.get("request").ok_or_else(|| fields.malformed("`request` is missing"))?;
        let request = Asked::read(&fields.below("request", request)?)?;
        let facts = match fields.get("context") {
            None => Facts::default(),
            Some(context) => facts(&fields.below("context", context)?)?,
        };
        Ok(Asker { who, request, facts })
    }

    pub(super) fn facts(&self, desk: &Desk<'_>) -> Facts {
        Facts { now: desk.now, ..self.facts.clone() }
    }

    pub(super) fn operation(&self, desk: &Desk<'_>) -> Result<Operation, operation::OperationError> {
        let body = match self.request.body.as_deref() {
            None if self.request.is_unseen => operation::Body::Unseen,
            None => operation::Body::None,
            Some(Value::String(form)) => operation::Body::Form(form),
            Some(json) => operation::Body::Json(json),
        };
        let headers: Vec<(&str, &str)> = self.request.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let request =
            operation::Request { method: &self.request.method, url: &self.request.url, headers: &headers, body };
        operation::parse(&request, desk.snapshot.definitions, &desk.snapshot.request)
    }

    /// Who asks; or, for the client, why the token is no good.
    pub(super) fn standing(&self, desk: &Desk<'_>) -> Result<Result<Arc<Standing>, String>, Lacking> {
        let principal = |claims: &Claims| {
            let principal = desk.snapshot.rules.principal(claims, &desk.snapshot.request.bases);
            principal.map_err(|refusal| refusal.message)
        };
        let make = |principal| match desk.standings {
            Some(standings) => standings.make(&desk.snapshot.index, principal),
            None => Standing::of(principal, &desk.snapshot.index).map(Arc::new),
        };
        Ok(match &self.who {
            Bearer::Known(standing) => Ok(Arc::clone(standing)),
            Bearer::Claims(payload, text) => {
                let claims = Claims::vouched(payload.clone());
                let in_form = claims.judge_times_form().map_err(|error| error.to_string());
                let standing = in_form.and_then(|()| principal(&claims)).and_then(make);
                if let (Some(standings), Ok(standing)) = (desk.standings, &standing) {
                    standings.keep_claims(text, standing);
                }
                standing
            }
            Bearer::Token(token) => {
                if let Some(known) = desk.standings.and_then(|known| known.of_token(token, desk.issuers, desk.now)) {
                    return Ok(Ok(known));
                }
                match jws::verify_for_long(token, desk.issuers, &desk.limits.token, desk.now) {
                    Ok((claims, validity)) => {
                        let standing = principal(&claims).and_then(make);
                        if let (Some(standings), Ok(standing)) = (desk.standings, &standing) {
                            standings.keep_token(token, validity, standing);
                        }
                        standing
                    }
                    Err(TokenError::KeyUnknown { issuer_index }) if !desk.keys_are_final => {
                        return Err(Lacking::Key(issuer_index));
                    }
                    Err(error) => Err(error.to_string()),
                }
            }
        })
    }
}

impl<'v> Asked<'v> {
    fn read(fields: &Fields<'v>) -> Result<Asked<'v>, ApiError> {
        fields.only(&["method", "url", "headers", "body"])?;
        let required = |name: &str| fields.text(name)?.ok_or_else(|| fields.malformed(format!("`{name}` is missing")));
        let (method, url, headers) = (required("method")?, required("url")?, headers(fields)?);
        let body = match fields.get("body").map(|text| fields.value(text)).transpose()? {
            Some(Value::Null | Value::Bool(_) | Value::Number(_)) => {
                let message = "`body` must be JSON of FHIR, or a form as a string";
                return Err(ApiError::malformed(&fields.at("body"), message));
            }
            body => body.map(Cow::Owned),
        };
        Ok(Asked { method, url, headers, body, is_unseen: false })
    }
}

fn headers<'v>(fields: &Fields<'v>) -> Result<Vec<Header<'v>>, ApiError> {
    let Some(text) = fields.get("headers") else { return Ok(Vec::new()) };
    let fields = fields.below("headers", text)?;
    let mut headers: Vec<Header<'v>> = Vec::new();
    for (name, text) in &fields.members {
        let Some(value) = fields.string(text)? else {
            return Err(ApiError::malformed(&fields.at(name), "a header's value must be a string"));
        };
        // one header in two spellings would be read differently by different readers
        if headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
            return Err(ApiError::malformed(&fields.at(name), "the header stands twice"));
        }
        headers.push((name.clone(), value));
    }
    Ok(headers)
}

fn facts(fields: &Fields<'_>) -> Result<Facts, ApiError> {
    fields.only(&["purposeOfUse", "emergency", "sourceAddress", "server"])?;
    let source = match fields.text("sourceAddress")? {
        None => None,
        Some(address) => Some(
            address
                .parse::<IpAddr>()
                .map_err(|_| ApiError::malformed(&fields.at("sourceAddress"), "`sourceAddress` is no IP address"))?,
        ),
    };
    Ok(Facts {
        purposes: fields.texts("purposeOfUse")?.into_iter().map(Cow::into_owned).collect(),
        emergency: fields.flag("emergency")?,
        source,
        server: fields.text("server")?.unwrap_or_default().into_owned(),
        now: 0,
    })
}

fn enforces(fields: &Fields<'_>) -> Result<Enforces, ApiError> {
    let mut enforces = Enforces::default();
    for (index, name) in fields.texts("enforces")?.into_iter().enumerate() {
        match &*name {
            "filter" => enforces.filter = true,
            "checkResults" => enforces.check_results = true,
            "redact" => enforces.redact = true,
            _ => {
                let at = pointer(&fields.at("enforces"), &index.to_string());
                return Err(ApiError::malformed(&at, "unknown obligation; know `filter`, `checkResults` and `redact`"));
            }
        }
    }
    Ok(enforces)
}

/// The fields of a JSON object as texts, each read once it is known what it must be; and where the object stands.
pub(super) struct Fields<'t> {
    pub(super) members: Vec<(Cow<'t, str>, &'t str)>,
    /// the JSON text of which the object is a part
    whole: &'t str,
    here: String,
    /// levels that a field may have
    depth_left: usize,
}

impl<'t> Fields<'t> {
    /// Of a text that is all one object.
    pub(super) fn of_whole(whole: &'t str, depth_max: usize) -> Result<Fields<'t>, ApiError> {
        let text = whole.trim_start_matches([' ', '\t', '\r', '\n']);
        if !text.starts_with('{') {
            // what is no JSON at all is told first
            json::parse_str(whole, depth_max).map_err(not_json)?;
        }
        Fields { members: Vec::new(), whole, here: String::new(), depth_left: depth_max }.within(String::new(), text)
    }

    /// Some of the members of the object that all of a text is.
    pub(super) fn some_of(whole: &'t str, members: Vec<(Cow<'t, str>, &'t str)>, depth_max: usize) -> Fields<'t> {
        Fields { members, whole, here: String::new(), depth_left: depth_max.saturating_sub(1) }
    }

    /// The fields of an object that is one of these.
    fn below(&self, name: &str, text: &'t str) -> Result<Fields<'t>, ApiError> {
        self.within(self.at(name), text)
    }

    fn within(&self, here: String, text: &'t str) -> Result<Fields<'t>, ApiError> {
        if !text.starts_with('{') {
            return Err(ApiError::malformed(&here, "an object is expected here"));
        }
        let members = json::members(text).map_err(|error| self.broken(error, text))?;
        Ok(Fields { members, whole: self.whole, here, depth_left: self.depth_left.saturating_sub(1) })
    }

    pub(super) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.members.iter().find(|(name, _)| !known.contains(&name.as_ref())) {
            None => Ok(()),
            Some((name, _)) => {
                let message = format!("unknown field; known here: {}", known.join(", "));
                Err(ApiError::malformed(&self.at(name), message))
            }
        }
    }

    fn get(&self, name: &str) -> Option<&'t str> {
        self.members.iter().find(|(known, _)| known == name).map(|(_, text)| *text)
    }

    fn at(&self, name: &str) -> String {
        pointer(&self.here, name)
    }

    fn malformed(&self, message: impl Into<String>) -> ApiError {
        ApiError::malformed(&self.here, message)
    }

    fn broken(&self, error: json::JsonError, part: &str) -> ApiError {
        not_json(error.within(self.whole, part))
    }

    /// What the text of a field says.
    fn value(&self, text: &str) -> Result<Value, ApiError> {
        json::parse_str(text, self.depth_left).map_err(|error| self.broken(error, text))
    }

    fn object(&self, name: &str, text: &str) -> Result<Map<String, Value>, ApiError> {
        match self.value(text)? {
            Value::Object(object) => Ok(object),
            _ => Err(ApiError::malformed(&self.at(name), "an object is expected here")),
        }
    }

    fn object_value(&self, name: &str, text: &str, or: &str) -> Result<Value, ApiError> {
        match self.value(text)? {
            object @ Value::Object(_) => Ok(object),
            _ => Err(ApiError::malformed(&self.at(name), format!("`{name}` must be an object{or}"))),
        }
    }

    fn string(&self, text: &'t str) -> Result<Option<Cow<'t, str>>, ApiError> {
        json::string(text).transpose().map_err(|error| self.broken(error, text))
    }

    fn items(&self, name: &str, text: &'t str, message: impl Fn() -> String) -> Result<Vec<&'t str>, ApiError> {
        match text.starts_with('[') {
            true => json::items(text).map_err(|error| self.broken(error, text)),
            false => Err(ApiError::malformed(&self.at(name), message())),
        }
    }

    fn text(&self, name: &str) -> Result<Option<Cow<'t, str>>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match self.string(text)? {
            None => Err(ApiError::malformed(&self.at(name), format!("`{name}` must be a string"))),
            text => Ok(text),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<Cow<'t, str>>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(Vec::new()) };
        let message = || format!("`{name}` must be an array of strings");
        let items = self.items(name, text, message)?;
        let item = |item| self.string(item)?.ok_or_else(|| ApiError::malformed(&self.at(name), message()));
        items.into_iter().map(item).collect()
    }

    fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(ApiError::malformed(&self.at(name), format!("`{name}` must be true or false"))),
        }
    }
}

/// RFC 6901.
fn pointer(parent: &str, name: &str) -> String {
    let name =
        if name.contains(['~', '/']) { name.replace('~', "~0").replace('/', "~1").into() } else { Cow::Borrowed(name) };
    [parent, "/", &name].concat()
}

#[derive(Serialize)]
struct Batch<'a> {
    decisions: Vec<Wire<'a>>,
}

/// A decision on the wire.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    obligations: Option<WireObligations<'a>>,
    policies: Vec<WirePolicy<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<WireOperation<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entries: Vec<Wire<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<&'a Explanation>,
    revision: &'a str,
}

#[derive(Serialize)]
struct WirePolicy<'a> {
    id: &'a str,
    effect: &'static str,
}

#[derive(Serialize)]
struct WireOperation<'a> {
    interaction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireObligations<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<WireFilter<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    check_results: bool,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    redact: &'a BTreeSet<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireFilter<'a> {
    any_of: Vec<WireQuery<'a>>,
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_none_exist: Option<&'a str>,
}

#[derive(Serialize)]
struct WireQuery<'a> {
    query: &'a str,
}

impl<'a> Wire<'a> {
    fn of(
        desk: &'a Desk<'_>,
        id: Option<&'a str>,
        answer: &'a Answer,
        operation: Option<&'a Operation>,
        explanation: Option<&'a Explanation>,
    ) -> Wire<'a> {
        let effect = |permits| if permits { "permit" } else { "forbid" };
        let entries = answer.entries.iter().enumerate().map(|(index, entry)| {
            let operation = operation.and_then(|bundle| bundle.entries.get(index)?.as_ref().ok());
            Wire::of(desk, None, entry, operation, None)
        });
        let policies = answer.policies.iter();
        let mut wire = Wire {
            decision: "deny",
            id,
            code: None,
            status: None,
            challenge: None,
            outcome: None,
            obligations: None,
            policies: policies.map(|policy| WirePolicy { id: &policy.id, effect: effect(policy.permits) }).collect(),
            operation: operation.map(wire_operation),
            entries: entries.collect(),
            explanation,
            revision: desk.snapshot.revision.as_str(),
        };
        match &answer.decision {
            Decision::Permit(obligations) => {
                wire.decision = "permit";
                wire.obligations = wire_obligations(obligations);
            }
            Decision::Deny(denial) => {
                let (code, status, issue) = match denial.code {
                    // RFC 6750, 3: a request without a token is told to bring one, not that it is forbidden
                    code if denial.unauthenticated && status_of(code) == 403 => ("invalid-token", 401, "login"),
                    code => (code_of(code), status_of(code), issue_of(code)),
                };
                wire.code = Some(code);
                wire.status = Some(status);
                wire.challenge = challenge(status, denial.unauthenticated, denial.scope.as_deref());
                wire.outcome = Some(json!({
                    "resourceType": "OperationOutcome",
                    "issue": [{ "severity": "error", "code": issue, "diagnostics": denial.message }],
                }));
            }
        }
        wire
    }
}

fn wire_operation(operation: &Operation) -> WireOperation<'_> {
    WireOperation {
        interaction: operation.interaction.as_str(),
        r#type: operation.resource_type.map(|of| of.as_str()),
        id: operation.id.as_ref().map(FhirId::as_str),
        name: operation.name.as_deref(),
    }
}

fn wire_obligations(obligations: &Obligations) -> Option<WireObligations<'_>> {
    let Obligations { filter, check_results, redact } = obligations;
    let filter = filter.as_ref().map(|Narrowed { any_of, is_complete, url, if_none_exist }| WireFilter {
        any_of: any_of.iter().map(|query| WireQuery { query }).collect(),
        complete: *is_complete,
        url: url.as_deref(),
        if_none_exist: if_none_exist.as_deref(),
    });
    let is_owed = filter.is_some() || *check_results || !redact.is_empty();
    is_owed.then_some(WireObligations { filter, check_results: *check_results, redact })
}

fn code_of(code: Code) -> &'static str {
    match code {
        Code::InvalidToken => "invalid-token",
        Code::InvalidRequest => "invalid-request",
        Code::UnknownInteraction => "unknown-interaction",
        Code::Forbidden => "forbidden",
        Code::NoPermit => "no-permit",
        Code::NeedsResource => "needs-resource",
        Code::Unenforceable => "unenforceable",
    }
}

fn status_of(code: Code) -> u16 {
    match code {
        Code::InvalidToken => 401,
        Code::InvalidRequest => 400,
        Code::UnknownInteraction | Code::Forbidden | Code::NoPermit | Code::NeedsResource | Code::Unenforceable => 403,
    }
}

/// The FHIR issue type of a denial.
fn issue_of(code: Code) -> &'static str {
    match code {
        Code::InvalidToken => "login",
        Code::InvalidRequest => "invalid",
        Code::UnknownInteraction => "not-supported",
        Code::Forbidden | Code::NoPermit | Code::NeedsResource | Code::Unenforceable => "forbidden",
    }
}

/// `WWW-Authenticate` by RFC 6750, 3.
fn challenge(status: u16, unauthenticated: bool, scope: Option<&str>) -> Option<String> {
    match (status, unauthenticated, scope) {
        (401, true, _) => Some("Bearer".to_owned()),
        (401, false, _) => Some("Bearer error=\"invalid_token\"".to_owned()),
        (403, _, Some(scope)) => Some(format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"")),
        (403, _, None) => Some("Bearer error=\"insufficient_scope\"".to_owned()),
        (_, _, _) => None,
    }
}

/// JSON of our own making always serializes: its keys are strings, and it holds no floats that are no numbers.
pub(super) fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ANSWER_BYTES);
    match serde_json::to_writer(&mut bytes, value) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

/// Most answers are shorter.
const ANSWER_BYTES: usize = 768;

/// For any bytes, as a question or as many: an answer or an error with its status, never a panic; and who shows no more
/// than empty claims is permitted nothing but what is public.
#[doc(hidden)]
pub fn holds(input: &[u8], snapshot: &Snapshot) -> bool {
    let issuers = Issuers::new(snapshot.rules.issuers().to_vec());
    let limits = Limits::default();
    let desk = Desk::alone(snapshot, &issuers, &limits, 0);
    let sound = |answered: Result<Result<Answered, ApiError>, Lacking>| match answered {
        Ok(Ok(answered)) => serde_json::from_slice::<Value>(&answered.body).is_ok_and(|body| body.is_object()),
        Ok(Err(error)) => (400..500).contains(&error.status) && !error.message.is_empty(),
        Err(_) => false,
    };
    let nobody = json::parse(input, limits.json_depth_max).ok().and_then(|mut question| {
        let object = question.as_object_mut()?;
        object.remove("token");
        object.insert("claims".to_owned(), json!({}));
        authorize(&desk, question.to_string().as_bytes()).ok()?.ok()
    });
    let nobody_is_permitted_too_much = nobody.is_some_and(|answered| {
        answered.summaries.iter().any(|summary| summary.permit && summary.interaction != Some("capabilities"))
    });
    sound(authorize(&desk, input)) && sound(authorize_batch(&desk, input)) && !nobody_is_permitted_too_much
}

#[cfg(test)]
mod tests {
    use super::{Desk, Limits, authorize, authorize_batch, holds};
    use crate::embedded;
    use crate::fhir::definitions::FhirVersion;
    use crate::fhir::operation;
    use crate::policy::snapshot::{Settings, Snapshot};
    use crate::token::issuers::Issuers;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::LazyLock;

    static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
        let settings =
            Settings { version: FhirVersion::R4, themes: Vec::new(), request: operation::Settings::default() };
        Snapshot::load(&embedded::folder(), &settings).map_err(|findings| format!("{findings:#?}")).unwrap()
    });

    fn ask(batch: bool, body: &str) -> Result<Value, (u16, &'static str, Option<String>)> {
        let issuers = Issuers::new(Vec::new());
        let limits = Limits::default();
        let desk = Desk { ids: &|| "id".to_owned(), ..Desk::alone(&SNAPSHOT, &issuers, &limits, 0) };
        let answered = if batch { authorize_batch(&desk, body.as_bytes()) } else { authorize(&desk, body.as_bytes()) };
        match answered.unwrap() {
            Ok(answered) => Ok(serde_json::from_slice(&answered.body).unwrap()),
            Err(error) => Err((error.status, error.code, error.at)),
        }
    }

    #[test]
    fn malformed_questions_are_errors_that_say_where() {
        let check = |body: &str, code: &str, at: &str| {
            let error = ask(false, body).expect_err(body);
            assert_eq!((error.0, error.1, error.2.as_deref()), (400, code, Some(at)), "{body}");
        };
        let request = r#""request":{"method":"GET","url":"/Patient/1"}"#;
        check("", "invalid-json", "1:0");
        check("[]", "invalid-request", "");
        check(&format!(r#"{{"claims":{{}},"claims":{{}},{request}}}"#), "invalid-json", "1:21");
        check(&format!(r#"{{"claims":{{}},"reosurce":{{}},{request}}}"#), "invalid-request", "/reosurce");
        check(&format!("{{{request}}}"), "invalid-request", "");
        check(&format!(r#"{{"claims":{{}},"token":"x",{request}}}"#), "invalid-request", "");
        check(&format!(r#"{{"claims":null,{request}}}"#), "invalid-request", "/claims");
        check(&format!(r#"{{"token":null,{request}}}"#), "invalid-request", "/token");
        check(&format!(r#"{{"claims":{{}},"resource":[],{request}}}"#), "invalid-request", "/resource");
        check(&format!(r#"{{"claims":{{}},"proposed":null,{request}}}"#), "invalid-request", "/proposed");
        check(&format!(r#"{{"claims":{{}},"enforces":["filters"],{request}}}"#), "invalid-request", "/enforces/0");
        check(&format!(r#"{{"claims":{{}},"enforces":"filter",{request}}}"#), "invalid-request", "/enforces");
        check(&format!(r#"{{"claims":{{}},"explain":"yes",{request}}}"#), "invalid-request", "/explain");
        check(
            &format!(r#"{{"claims":{{}},"context":{{"emergency":1}},{request}}}"#),
            "invalid-request",
            "/context/emergency",
        );
        check(
            &format!(r#"{{"claims":{{}},"context":{{"sourceAddress":"x"}},{request}}}"#),
            "invalid-request",
            "/context/sourceAddress",
        );
        check(r#"{"claims":{}}"#, "invalid-request", "");
        check(r#"{"claims":{},"request":{"method":"GET"}}"#, "invalid-request", "/request");
        check(r#"{"claims":{},"request":{"method":"GET","url":"/x","body":null}}"#, "invalid-request", "/request/body");
        check(
            r#"{"claims":{},"request":{"method":"GET","url":"/x","headers":{"a":1}}}"#,
            "invalid-request",
            "/request/headers/a",
        );
        check(
            r#"{"claims":{},"request":{"method":"GET","url":"/x","headers":{"a":"","A":""}}}"#,
            "invalid-request",
            "/request/headers/A",
        );
    }

    #[test]
    fn a_batch_answers_in_order_and_denies_what_it_cannot_read() {
        let body = r#"{"requests":[
            {"claims":{},"request":{"method":"GET","url":"/metadata"}},
            {"claims":{},"reqest":{}},
            {"claims":{"oid":"1","roles":["admin"]},"request":{"method":"GET","url":"/Patient/1"}}]}"#;
        let answer = ask(true, body).unwrap();
        let decisions: Vec<&str> =
            answer["decisions"].as_array().unwrap().iter().map(|one| one["decision"].as_str().unwrap()).collect();
        assert_eq!(decisions, ["permit", "deny", "permit"]);
        assert_eq!(answer["decisions"][1]["code"], "invalid-request");
        let many = format!(r#"{{"requests":[{}]}}"#, vec!["{}"; 1_001].join(","));
        assert_eq!(ask(true, &many).unwrap_err().0, 400);
    }

    #[test]
    fn a_deny_tells_its_client_what_rfc_6750_asks_for() {
        let denied = |claims: Value, method: &str| {
            let question = json!({ "claims": claims, "request": { "method": method, "url": "/Patient/1" } });
            ask(false, &question.to_string()).unwrap()
        };
        let reader = json!({ "iss": "https://i", "oid": "1", "roles": ["FHIR Data Reader"] });
        let answer = denied(reader, "DELETE");
        assert_eq!((&answer["code"], &answer["status"]), (&json!("no-permit"), &json!(403)));
        assert_eq!(answer["challenge"], "Bearer error=\"insufficient_scope\"");
        assert_eq!(answer["outcome"]["resourceType"], "OperationOutcome");
        let nobody = denied(json!({}), "GET");
        assert_eq!((&nobody["status"], &nobody["challenge"]), (&json!(401), &json!("Bearer")));
        let token = r#"{"token":"a.b.c","request":{"method":"GET","url":"/Patient/1"}}"#;
        let refused = ask(false, token).unwrap();
        assert_eq!((&refused["code"], &refused["status"]), (&json!("invalid-token"), &json!(401)));
        assert_eq!(refused["challenge"], "Bearer error=\"invalid_token\"");
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_refused(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(holds(&input, &SNAPSHOT));
        }

        #[test]
        fn any_url_and_claims_are_answered(url in ".{0,60}", role in ".{0,20}", method in "[A-Z]{3,6}") {
            let question = json!({ "claims": { "iss": "https://i", "roles": [role] }, "request": { "method": method, "url": url } });
            prop_assert!(holds(question.to_string().as_bytes(), &SNAPSHOT));
        }
    }
}
