//! OpenID AuthZEN Authorization API 1.0: its subject, action and resource → a question of `/v1/authorize`, and the answer back.
//! Hides which FHIR request an action on a resource is.
//! INVARIANT: `true` is a permit without obligations, nothing else: AuthZEN has no word for what a caller must do besides.
//! INVARIANT: a member that is not known, or is no string where one belongs, gives no `true`.
//! Source: OpenID AuthZEN Authorization API 1.0, sections 6 to 10; shared/API.md "OpenID AuthZEN".

use serde_json::{Map, Value, json};

use crate::fhir::action::Action;
use crate::http::api::{self, Answered, ApiError, Desk, Lacking, bytes, not_json};
use crate::http::proxy::is_unconditional;
use crate::json;

/// Evaluations in one call.
const EVALUATIONS_MAX: usize = api::BATCH_MAX;

type Asked = Result<Result<Answered, ApiError>, Lacking>;

/// `POST /access/v1/evaluation`
pub fn evaluation(desk: &Desk<'_>, body: &[u8]) -> Asked {
    let read = read(desk, body).and_then(|request| {
        only(&request, "", &["subject", "action", "resource", "context"])?;
        Ok(request)
    });
    match read {
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
        let merged: Map<String, Value> =
            request.iter().chain(evaluation).map(|(k, v)| (k.clone(), v.clone())).collect();
        let at = format!("/evaluations/{index}");
        let checked = only(evaluation, &at, &["subject", "action", "resource", "context"]);
        let (answer, decision) = match checked.and_then(|()| question(&merged, &at)) {
            Ok(question) => match api::answer_of(desk, &question)? {
                Ok((answer, summary)) => {
                    summaries.push(summary);
                    told(&answer)
                }
                Err(error) => failed(&error),
            },
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
    let read = read(desk, body).and_then(|request| {
        only(&request, "", &["subject", "resource", "context", "page"])?;
        Ok(request)
    });
    let request = match read {
        Ok(request) => request,
        Err(error) => return Ok(Err(error)),
    };
    let mut results = Vec::new();
    for (action, _) in Action::all().filter(|(action, _)| is_searchable(action.as_str())) {
        let mut asked = request.clone();
        asked.remove("page");
        asked.insert("action".to_owned(), json!({ "name": action.as_str() }));
        let question = match question(&asked, "") {
            Ok(question) => question,
            // an action that needs more than a resource
            Err(error) if error.at.as_deref().is_some_and(|at| at.starts_with("/action")) => continue,
            Err(error) => return Ok(Err(error)),
        };
        match api::answer_of(desk, &question)? {
            Ok((answer, _)) if told(&answer).1 => results.push(json!({ "name": action.as_str() })),
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    let page = json!({ "next_token": "", "count": results.len(), "total": results.len() });
    Ok(Ok(Answered { body: bytes(&json!({ "results": results, "page": page })), summaries: Vec::new() }))
}

/// `GET /.well-known/authzen-configuration`, of the service at this base URL.
pub fn configuration(base: &str) -> Value {
    json!({
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
        "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
        "search_action_endpoint": format!("{base}/access/v1/search/action"),
    })
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
    let question = match question(request, "") {
        Ok(question) => question,
        Err(error) => return Ok(Err(error)),
    };
    Ok(api::answer_of(desk, &question)?
        .map(|(answer, summary)| Answered { body: bytes(&told(&answer).0), summaries: vec![summary] }))
}

fn several(mut request: Members) -> Result<(Members, Vec<Members>, Semantic), ApiError> {
    only(&request, "", &["subject", "action", "resource", "context", "evaluations", "options"])?;
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
fn question(evaluation: &Members, at: &str) -> Result<Value, ApiError> {
    let part = |name: &str, known: &[&str]| {
        let here = format!("{at}/{name}");
        match evaluation.get(name) {
            Some(Value::Object(members)) => only(members, &here, known).map(|()| members),
            Some(_) => Err(ApiError::malformed(&here, "an object is expected here")),
            None => Err(ApiError::malformed(at, format!("`{name}` is missing"))),
        }
    };
    let (subject, action) = (part("subject", &["type", "id", "properties"])?, part("action", &["name", "properties"])?);
    let resource = part("resource", &["type", "id", "properties"])?;
    text(subject, &format!("{at}/subject"), "type")?;
    text(subject, &format!("{at}/subject"), "id")?;
    let name = text(action, &format!("{at}/action"), "name")?;
    let (of, id) =
        (text(resource, &format!("{at}/resource"), "type")?, text(resource, &format!("{at}/resource"), "id")?);
    let properties = |of: &Members, place: &str, known: &[&str]| match of.get("properties") {
        None => Ok(Map::new()),
        Some(Value::Object(members)) => {
            only(members, &format!("{at}/{place}/properties"), known).map(|()| members.clone())
        }
        Some(_) => Err(ApiError::malformed(&format!("{at}/{place}/properties"), "an object is expected here")),
    };
    let mut question = properties(subject, "subject", &["claims", "token"])?;
    if question.is_empty() {
        question.insert("claims".to_owned(), json!({}));
    }
    let said = properties(action, "action", &["query", "version"])?;
    let mut given = properties(resource, "resource", &["resource", "proposed"])?;
    let word = |name: &str| said.get(name).and_then(Value::as_str).unwrap_or_default();
    let Some((method, path)) = place(name, of, id, word("version")) else {
        let message = "no FHIR interaction or `$operation` on such a resource";
        return Err(ApiError::malformed(&format!("{at}/action/name"), message));
    };
    let query = word("query");
    let url = if query.is_empty() { path } else { format!("{path}?{query}") };
    let mut request = json!({ "method": method, "url": url });
    if let (true, Some(proposed), Some(request)) = (
        matches!(name, "create" | "update" | "batch" | "transaction"),
        given.get("proposed").cloned(),
        request.as_object_mut(),
    ) {
        given.remove("proposed");
        request.insert("body".to_owned(), proposed);
    }
    if let (true, "POST", Some(request)) = (name.starts_with('$'), method, request.as_object_mut()) {
        // called without parameters
        request.insert("body".to_owned(), json!({ "resourceType": "Parameters" }));
    }
    question.insert("request".to_owned(), request);
    question.extend(given);
    question.extend(evaluation.get("context").map(|context| ("context".to_owned(), context.clone())));
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

fn only(members: &Members, at: &str, known: &[&str]) -> Result<(), ApiError> {
    match members.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(ApiError::malformed(
            &format!("{at}/{name}"),
            format!("unknown field; known here: {}", known.join(", ")),
        )),
    }
}

fn text<'m>(members: &'m Members, at: &str, name: &str) -> Result<&'m str, ApiError> {
    match members.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(ApiError::malformed(&format!("{at}/{name}"), format!("`{name}` must be a string"))),
        None => Err(ApiError::malformed(at, format!("`{name}` is missing"))),
    }
}
