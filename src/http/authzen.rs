//! OpenID AuthZEN Authorization API 1.0: its subject, action and resource → a question of `/v1/authorize`, or of a policy folder
//! that is not about FHIR; and the answer back. Hides which FHIR request an action on a resource is, and pages.
//! INVARIANT: `true` is a permit without obligations, nothing else: AuthZEN has no word for what a caller must do besides.
//! INVARIANT: members that are not known are ignored, as the specification wants it; none of them can make an answer `true`.
//! INVARIANT: a page's token is good for its own search and revision alone.
//! Source: OpenID AuthZEN Authorization API 1.0, sections 6 to 10; shared/API.md "OpenID AuthZEN".

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::engine::domain::{Deed, Domain, Party, Verdict};
use crate::fhir::action::Action;
use crate::http::api::{self, Answered, ApiError, Desk, Lacking, Summary, bytes, not_json};
use crate::http::proxy::is_unconditional;
use crate::json;
use crate::policy::snapshot::Revision;

/// Evaluations in one call.
const EVALUATIONS_MAX: usize = api::BATCH_MAX;
/// Results that one page of a search holds.
const PAGE_MAX: usize = 1_000;

type Asked = Result<Result<Answered, ApiError>, Lacking>;

/// `POST /access/v1/evaluation`
pub fn evaluation(desk: &Desk<'_>, body: &[u8]) -> Asked {
    match read(desk, body) {
        Ok(request) => single(desk, &request),
        Err(error) => Ok(Err(error)),
    }
}

/// `POST /access/v1/evaluations`: the members of the request are the defaults of each evaluation. Without any, it is one.
pub fn evaluations(desk: &Desk<'_>, body: &[u8]) -> Asked {
    let (request, evaluations, semantic) = match read(desk, body).and_then(several) {
        Ok(read) => read,
        Err(error) => return Ok(Err(error)),
    };
    if evaluations.is_empty() {
        return single(desk, &request);
    }
    let mut answers = Vec::with_capacity(evaluations.len());
    let mut summaries = Vec::new();
    for (index, evaluation) in evaluations.iter().enumerate() {
        let (answer, decision) = match evaluated(desk, &merged(&request, evaluation), &format!("/evaluations/{index}"))?
        {
            Ok((answer, decision, summary)) => {
                summaries.extend(summary);
                (answer, decision)
            }
            Err(error) => failed(&error),
        };
        answers.push(answer);
        match (semantic, decision) {
            (Semantic::DenyOnFirstDeny, false) | (Semantic::PermitOnFirstPermit, true) => break,
            (_, _) => {}
        }
    }
    Ok(Ok(Answered { body: bytes(&json!({ "evaluations": answers })), summaries }))
}

/// `POST /access/v1/search/action`: which actions the subject may do to the resource.
pub fn actions(desk: &Desk<'_>, body: &[u8]) -> Asked {
    let mut request = match read(desk, body) {
        Ok(request) => request,
        Err(error) => return Ok(Err(error)),
    };
    let of_fhir = Action::all().map(|(action, _)| action.as_str()).filter(|name| is_searchable(name));
    let names: Vec<&str> = desk.domain.map_or_else(|| of_fhir.collect(), |domain| domain.actions().collect());
    let mut results = Vec::new();
    for name in names {
        request.insert("action".to_owned(), json!({ "name": name }));
        match evaluated(desk, &request, "")? {
            Ok((_, true, _)) => results.push(json!({ "name": name })),
            Ok((_, false, _)) => {}
            // an action that needs more than a resource
            Err(error) if error.at.as_deref().is_some_and(|at| at.starts_with("/action")) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    let page = json!({ "next_token": "", "count": results.len(), "total": results.len() });
    Ok(Ok(Answered { body: bytes(&json!({ "results": results, "page": page })), summaries: Vec::new() }))
}

/// `POST /access/v1/search/subject`: who of the entity data may do it to the resource.
pub fn subjects(desk: &Desk<'_>, body: &[u8]) -> Asked {
    Ok(found(desk, body, "subject"))
}

/// `POST /access/v1/search/resource`: to what of the entity data the subject may do it.
pub fn resources(desk: &Desk<'_>, body: &[u8]) -> Asked {
    Ok(found(desk, body, "resource"))
}

/// `GET /.well-known/authzen-configuration`, of the service at this base URL.
pub fn configuration(base: &str, knows_entities: bool) -> Value {
    let mut said = json!({
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
        "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
        "search_action_endpoint": format!("{base}/access/v1/search/action"),
    });
    if let (true, Some(said)) = (knows_entities, said.as_object_mut()) {
        for of in ["subject", "resource"] {
            said.insert(format!("search_{of}_endpoint"), json!(format!("{base}/access/v1/search/{of}")));
        }
    }
    said
}

/// How many of several evaluations are made.
#[derive(Debug, Clone, Copy)]
enum Semantic {
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

type Members = Map<String, Value>;

fn read(desk: &Desk<'_>, body: &[u8]) -> Result<Members, ApiError> {
    match json::parse(body, desk.limits.json_depth_max + 4).map_err(not_json)? {
        Value::Object(members) => Ok(members),
        _ => Err(ApiError::malformed("", "an object is expected here")),
    }
}

fn single(desk: &Desk<'_>, request: &Members) -> Asked {
    Ok(evaluated(desk, request, "")?
        .map(|(answer, _, summary)| Answered { body: bytes(&answer), summaries: summary.into_iter().collect() }))
}

/// An evaluation with the defaults of all: each member replaces the default's, which still says what it leaves out of its names.
fn merged(defaults: &Members, evaluation: &Members) -> Members {
    let mut merged = defaults.clone();
    for (name, value) in evaluation {
        let mut value = value.clone();
        if let (Value::Object(members), Some(Value::Object(default))) = (&mut value, defaults.get(name))
            && name != "context"
        {
            for part in ["type", "id", "name"] {
                if let (false, Some(said)) = (members.contains_key(part), default.get(part)) {
                    members.insert(part.to_owned(), said.clone());
                }
            }
        }
        merged.insert(name.clone(), value);
    }
    merged
}

/// The answer to one evaluation in AuthZEN's words, whether it is `true`, and what to count.
type Evaluated = Result<(Value, bool, Option<Summary>), ApiError>;

fn evaluated(desk: &Desk<'_>, evaluation: &Members, at: &str) -> Result<Evaluated, Lacking> {
    let parts = match Parts::read(evaluation, at) {
        Ok(parts) => parts,
        Err(error) => return Ok(Err(error)),
    };
    if let Some(domain) = desk.domain {
        let verdict = domain.evaluate(parts.subject, parts.deed, parts.resource);
        let (id, permit) = ((desk.ids)(), verdict.permits);
        let code = if permit { None } else { Some("no-permit") };
        let told = of_verdict(domain, id.clone(), &verdict);
        let summary = Summary { id, permit, code, interaction: None, resource_type: None };
        return Ok(Ok((told, permit, Some(summary))));
    }
    let question = match question(&parts, at) {
        Ok(question) => question,
        Err(error) => return Ok(Err(error)),
    };
    Ok(api::answer_of(desk, &question)?.map(|(answer, summary)| {
        let (told, decision) = told(&answer);
        (told, decision, Some(summary))
    }))
}

fn of_verdict(domain: &Domain, id: String, verdict: &Verdict) -> Value {
    let mut context = json!({ "id": id, "policies": verdict.policies, "revision": domain.revision.to_string() });
    if let (Some(reason), Some(context)) = (&verdict.reason, context.as_object_mut()) {
        context.insert("reason".to_owned(), json!(reason));
    }
    json!({ "decision": verdict.permits, "context": context })
}

/// Subject, action, resource and context of an evaluation.
struct Parts<'m> {
    subject: Party<'m>,
    deed: Deed<'m>,
    resource: Party<'m>,
}

static NOTHING: std::sync::LazyLock<Members> = std::sync::LazyLock::new(Members::new);

impl<'m> Parts<'m> {
    fn read(evaluation: &'m Members, at: &str) -> Result<Parts<'m>, ApiError> {
        Ok(Parts {
            subject: party(evaluation, at, "subject")?,
            deed: deed(evaluation, at)?,
            resource: party(evaluation, at, "resource")?,
        })
    }
}

fn member<'m>(of: &'m Members, at: &str, name: &str) -> Result<&'m Members, ApiError> {
    match of.get(name) {
        Some(Value::Object(members)) => Ok(members),
        Some(_) => Err(ApiError::malformed(&format!("{at}/{name}"), "an object is expected here")),
        None => Err(ApiError::malformed(at, format!("`{name}` is missing"))),
    }
}

fn may_have<'m>(of: &'m Members, at: &str, name: &str) -> Result<&'m Members, ApiError> {
    if of.contains_key(name) { member(of, at, name) } else { Ok(&NOTHING) }
}

fn party<'m>(evaluation: &'m Members, at: &str, name: &str) -> Result<Party<'m>, ApiError> {
    let (here, said) = (format!("{at}/{name}"), member(evaluation, at, name)?);
    let (of, id) = (text(said, &here, "type")?, text(said, &here, "id")?);
    Ok(Party { of, id, properties: may_have(said, &here, "properties")? })
}

fn deed<'m>(evaluation: &'m Members, at: &str) -> Result<Deed<'m>, ApiError> {
    let (here, said) = (format!("{at}/action"), member(evaluation, at, "action")?);
    let properties = may_have(said, &here, "properties")?;
    Ok(Deed { name: text(said, &here, "name")?, properties, context: may_have(evaluation, at, "context")? })
}

/// A search for what of the entity data stands in one place of an evaluation.
fn found(desk: &Desk<'_>, body: &[u8], place: &str) -> Result<Answered, ApiError> {
    let Some(domain) = desk.domain else {
        let message = "what subjects and resources there are is not known here: docs/authzen.md";
        return Err(ApiError::new(404, "not-offered", message));
    };
    let mut request = read(desk, body)?;
    let page = Page::read(request.remove("page"), &request, &domain.revision)?;
    // who is sought has a type, and no id of its own
    let sought = member(&request, "", place)?.clone();
    let of = text(&sought, &format!("/{place}"), "type")?;
    let properties = may_have(&sought, &format!("/{place}"), "properties")?;
    let deed = deed(&request, "")?;
    let other = party(&request, "", if place == "subject" { "resource" } else { "subject" })?;
    let examined_max = domain.examined_max(properties, other);
    let mut results: Vec<&str> = Vec::new();
    let (mut last, mut has_more) = (None, false);
    for (examined, id) in domain.ids(of, page.after.as_deref()).enumerate() {
        if examined == examined_max {
            has_more = true;
            break;
        }
        let party = Party { of, id, properties };
        let (subject, resource) = if place == "subject" { (party, other) } else { (other, party) };
        if domain.evaluate(subject, deed, resource).permits {
            if results.len() == page.limit {
                has_more = true;
                break;
            }
            results.push(id);
        }
        last = Some(id);
    }
    let next_token = last.filter(|_| has_more).map(|last| page.token(last)).unwrap_or_default();
    let results: Vec<Value> = results.into_iter().map(|id| json!({ "type": of, "id": id })).collect();
    let page = json!({ "next_token": next_token, "count": results.len() });
    Ok(Answered { body: bytes(&json!({ "results": results, "page": page })), summaries: Vec::new() })
}

/// Which part of a search's results is asked for.
struct Page {
    limit: usize,
    /// the last id of the page before
    after: Option<String>,
    /// which search of which revision it is
    search: String,
}

impl Page {
    fn read(page: Option<Value>, request: &Members, revision: &Revision) -> Result<Page, ApiError> {
        let asked = Value::Object(request.clone()).to_string();
        let revision = revision.to_string();
        let search = Revision::of([("search", asked.as_bytes()), ("revision", revision.as_bytes())]).to_string();
        let mut read = Page { limit: PAGE_MAX, after: None, search };
        let page = match page {
            None => return Ok(read),
            Some(Value::Object(page)) => page,
            Some(_) => return Err(ApiError::malformed("/page", "an object is expected here")),
        };
        if let Some(limit) = page.get("limit") {
            let limit = limit.as_u64().and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
            let limit =
                limit.ok_or_else(|| ApiError::malformed("/page/limit", "a number from 1 on is expected here"))?;
            read.limit = limit.min(PAGE_MAX);
        }
        if let Some(token) = page.get("token").filter(|token| *token != &json!("")) {
            let wrong = || ApiError::malformed("/page/token", "no token of this search, or the policies have changed");
            let token = token.as_str().and_then(|token| URL_SAFE_NO_PAD.decode(token).ok()).ok_or_else(wrong)?;
            let token = String::from_utf8(token).map_err(|_| wrong())?;
            let (search, after) = token.split_once(' ').ok_or_else(wrong)?;
            if search != read.search {
                return Err(wrong());
            }
            read.after = Some(after.to_owned());
        }
        Ok(read)
    }

    fn token(&self, last: &str) -> String {
        URL_SAFE_NO_PAD.encode(format!("{} {last}", self.search))
    }
}

fn several(mut request: Members) -> Result<(Members, Vec<Members>, Semantic), ApiError> {
    // defaults that every evaluation replaces must be what they should, too
    for name in ["subject", "action", "resource", "context"] {
        may_have(&request, "", name)?;
    }
    may_have(&request, "", "options")?;
    let semantic = match request.remove("options") {
        None => Semantic::ExecuteAll,
        Some(options) => match options.get("evaluations_semantic").map(Value::as_str) {
            None | Some(Some("execute_all")) => Semantic::ExecuteAll,
            Some(Some("deny_on_first_deny")) => Semantic::DenyOnFirstDeny,
            Some(Some("permit_on_first_permit")) => Semantic::PermitOnFirstPermit,
            Some(_) => {
                let message = "know `execute_all`, `deny_on_first_deny` and `permit_on_first_permit`";
                return Err(ApiError::malformed("/options/evaluations_semantic", message));
            }
        },
    };
    let evaluations = match request.remove("evaluations") {
        None => Vec::new(),
        Some(Value::Array(items)) if items.len() <= EVALUATIONS_MAX => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| match item {
                Value::Object(members) => Ok(members),
                _ => Err(ApiError::malformed(&format!("/evaluations/{index}"), "an object is expected here")),
            })
            .collect::<Result<_, _>>()?,
        Some(Value::Array(items)) => {
            let message = format!("{} evaluations are more than {EVALUATIONS_MAX}; split them", items.len());
            return Err(ApiError::malformed("/evaluations", message));
        }
        Some(_) => return Err(ApiError::malformed("/evaluations", "`evaluations` must be an array")),
    };
    Ok((request, evaluations, semantic))
}

/// The answer in AuthZEN's words, and whether it is `true`.
fn told(answer: &Value) -> (Value, bool) {
    let permits = is_unconditional(answer);
    let mut context = Map::new();
    for name in ["id", "code", "revision"] {
        context.extend(answer.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    (json!({ "decision": permits, "context": context }), permits)
}

fn failed(error: &ApiError) -> (Value, bool) {
    let context = json!({ "error": { "status": error.status, "message": error.message } });
    (json!({ "decision": false, "context": context }), false)
}

/// The question of `/v1/authorize` that an evaluation is.
fn question(parts: &Parts<'_>, at: &str) -> Result<Value, ApiError> {
    let Parts { subject, deed, resource } = parts;
    let known = |members: &Members, names: &[&str]| -> Members {
        names.iter().filter_map(|name| Some(((*name).to_owned(), members.get(*name)?.clone()))).collect()
    };
    let mut question = known(subject.properties, &["claims", "token"]);
    if question.is_empty() {
        question.insert("claims".to_owned(), json!({}));
    }
    let mut given = known(resource.properties, &["resource", "proposed"]);
    let word = |name: &str| deed.properties.get(name).and_then(Value::as_str).unwrap_or_default();
    let Some((method, path)) = place(deed.name, resource.of, resource.id, word("version")) else {
        let message = "no FHIR interaction or `$operation` on such a resource";
        return Err(ApiError::malformed(&format!("{at}/action/name"), message));
    };
    let query = word("query");
    let url = if query.is_empty() { path } else { format!("{path}?{query}") };
    let mut request = json!({ "method": method, "url": url });
    if let (true, Some(proposed), Some(request)) = (
        matches!(deed.name, "create" | "update" | "batch" | "transaction"),
        given.get("proposed").cloned(),
        request.as_object_mut(),
    ) {
        given.remove("proposed");
        request.insert("body".to_owned(), proposed);
    }
    if let (true, "POST", Some(request)) = (deed.name.starts_with('$'), method, request.as_object_mut()) {
        // called without parameters
        request.insert("body".to_owned(), json!({ "resourceType": "Parameters" }));
    }
    question.insert("request".to_owned(), request);
    question.extend(given);
    let context = known(deed.context, &["purposeOfUse", "emergency", "sourceAddress", "server"]);
    question.insert("context".to_owned(), Value::Object(context));
    Ok(Value::Object(question))
}

/// The method and path of an interaction. What is about a type or the server has no use for an id, or for a type.
fn place(name: &str, of: &str, id: &str, version: &str) -> Option<(&'static str, String)> {
    Some(match name {
        "read" => ("GET", format!("/{of}/{id}")),
        "vread" if !version.is_empty() => ("GET", format!("/{of}/{id}/_history/{version}")),
        "update" => ("PUT", format!("/{of}/{id}")),
        "patch" => ("PATCH", format!("/{of}/{id}")),
        "delete" => ("DELETE", format!("/{of}/{id}")),
        "history-instance" => ("GET", format!("/{of}/{id}/_history")),
        "history-type" => ("GET", format!("/{of}/_history")),
        "history-system" => ("GET", "/_history".to_owned()),
        "create" => ("POST", format!("/{of}")),
        "search-type" => ("GET", format!("/{of}")),
        "search-compartment" => ("GET", format!("/{of}/{id}/*")),
        "search-system" => ("GET", "/".to_owned()),
        "capabilities" => ("GET", "/metadata".to_owned()),
        "batch" | "transaction" => ("POST", "/".to_owned()),
        name if name.starts_with('$') => {
            let place = match (of, id) {
                ("FhirServer", _) => format!("/{name}"),
                (of, "") => format!("/{of}/{name}"),
                (of, id) => format!("/{of}/{id}/{name}"),
            };
            (if takes_get(name) { "GET" } else { "POST" }, place)
        }
        _ => return None,
    })
}

/// Operations that change nothing may be called by GET.
fn takes_get(name: &str) -> bool {
    matches!(
        name,
        "$everything"
            | "$export"
            | "$lastn"
            | "$docref"
            | "$expand"
            | "$lookup"
            | "$validate-code"
            | "$translate"
            | "$subsumes"
            | "$meta"
    )
}

/// Actions that a resource by itself says enough about.
fn is_searchable(name: &str) -> bool {
    matches!(
        name,
        "read"
            | "update"
            | "patch"
            | "delete"
            | "history-instance"
            | "history-type"
            | "create"
            | "search-type"
            | "$everything"
            | "$meta"
    )
}

fn text<'m>(members: &'m Members, at: &str, name: &str) -> Result<&'m str, ApiError> {
    match members.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(ApiError::malformed(&format!("{at}/{name}"), format!("`{name}` must be a string"))),
        None => Err(ApiError::malformed(at, format!("`{name}` is missing"))),
    }
}
