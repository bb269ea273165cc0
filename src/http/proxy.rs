//! Behind a reverse proxy: the head of a forwarded request → go on, with the URL to use upstream, or stop, and what to say.
//! Hides the headers of nginx `auth_request`, Caddy and Traefik `forward_auth`, and the paths of Envoy's HTTP `ext_authz`.
//! INVARIANT: every reply sets `X-Fhir-Url` and `X-Decision-Id`, empty where it is no permit, so that a copy that the client
//! sent never survives (CVE-2026-30851).
//! INVARIANT: what is to be used upstream is what was judged: the URL as it came, letter by letter, or rewritten from what was read.
//! INVARIANT: an original request that stands in two places, or in none, is refused; so is what the proxy cannot enforce.
//! Source: shared/API.md "Behind a reverse proxy"; RFC 6750; nginx ngx_http_auth_request_module.

use serde_json::{Value, json};

use crate::engine::decide::Enforces;
use crate::http::api::{Desk, Forwarded, Lacking, Summary};
use crate::json;

/// What a deployment says of the proxy in front of its FHIR server.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub original: Original,
    /// the path below which the proxy serves FHIR, without a slash at its end; empty: all of it
    pub path: String,
    /// what the proxy carries out
    pub enforces: Enforces,
}

/// Where the original request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Original {
    /// in either pair of headers; where both are there, they must agree
    #[default]
    Either,
    /// `X-Original-Method`, `X-Original-URI`
    Original,
    /// `X-Forwarded-Method`, `X-Forwarded-Uri`
    Forwarded,
}

/// What the proxy sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    pub method: &'a str,
    /// with its query
    pub target: &'a str,
    /// every header line, names in lower case
    pub headers: &'a [(&'a str, &'a [u8])],
    pub body: &'a [u8],
}

/// What the proxy is to be told.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

/// Answers `/forward-auth`: the original request stands in headers.
pub fn forward_auth(
    desk: &Desk<'_>,
    settings: &Settings,
    sent: &Sent<'_>,
) -> Result<(Reply, Option<Summary>), Lacking> {
    match sent.original(settings.original) {
        Some((method, url)) => decide(desk, settings, sent, method, url),
        None => Ok((refusal("the original request is not told, or told in two ways"), None)),
    }
}

/// Answers `/ext-authz/…`: the original request is the one that came, below that prefix.
pub fn ext_authz(desk: &Desk<'_>, settings: &Settings, sent: &Sent<'_>) -> Result<(Reply, Option<Summary>), Lacking> {
    match sent.target.strip_prefix(EXT_AUTHZ).filter(|url| url.starts_with('/')) {
        Some(url) => decide(desk, settings, sent, sent.method, url),
        None => Ok((refusal("the original path is not told"), None)),
    }
}

/// Answers Envoy's `Check`: the original request is told as it is.
pub fn check(desk: &Desk<'_>, settings: &Settings, sent: &Sent<'_>) -> Result<(Reply, Option<Summary>), Lacking> {
    decide(desk, settings, sent, sent.method, sent.target)
}

/// Before the original path, as Envoy's `path_prefix`.
pub const EXT_AUTHZ: &str = "/ext-authz";

/// The headers of the original request that change its meaning; API.md lists them for `request.headers`.
const MEANING: &[&str] = &[
    "content-type",
    "if-match",
    "if-modified-since",
    "if-none-exist",
    "if-none-match",
    "prefer",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

impl<'a> Sent<'a> {
    fn original(&self, from: Original) -> Option<(&'a str, &'a str)> {
        let pair = |method, url| Some((self.text(method)?, self.text(url)?));
        let original = || pair("x-original-method", "x-original-uri");
        let forwarded = || pair("x-forwarded-method", "x-forwarded-uri");
        let names = ["x-original-method", "x-original-uri", "x-forwarded-method", "x-forwarded-uri"];
        let count = |name: &str| self.headers.iter().filter(|(known, _)| *known == name).count();
        let [original_method, original_url, forwarded_method, forwarded_url] = names.map(count);
        match from {
            Original::Original => original(),
            Original::Forwarded => forwarded(),
            Original::Either => match (original_method + original_url, forwarded_method + forwarded_url) {
                (_, 0) => original(),
                (0, _) => forwarded(),
                // the client may have sent the pair that the proxy does not set
                (_, _) => original().filter(|original| forwarded().as_ref() == Some(original)),
            },
        }
    }

    /// The value of a header that stands once, and is text.
    fn text(&self, name: &str) -> Option<&'a str> {
        let mut values = self.headers.iter().filter(|(known, _)| *known == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => std::str::from_utf8(value).ok().filter(|text| !text.is_empty()),
            (_, _) => None,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| *known == name)
    }

    /// `Ok(None)`: the client shows none.
    fn token(&self) -> Result<Option<&'a str>, &'static str> {
        if !self.has("authorization") {
            return Ok(None);
        }
        let credentials = self.text("authorization").ok_or("`Authorization` stands twice, or is no text")?;
        match credentials.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim_start_matches(' '))),
            Some(_) | None => Err("`Authorization` is no bearer token"),
        }
    }

    /// What the proxy passes of the body: JSON, or a form. `None`: nothing, or a part.
    fn body(&self, depth_max: usize) -> Result<Option<Value>, &'static str> {
        // Envoy says of each body that it passes whether it is a part
        let is_part = self.has("x-envoy-auth-partial-body") && self.text("x-envoy-auth-partial-body") != Some("false");
        if self.body.is_empty() || is_part {
            return Ok(None);
        }
        let content_type = self.text("content-type").unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            let form = std::str::from_utf8(self.body).map_err(|_| "the form is not UTF-8")?;
            return Ok(Some(Value::String(form.to_owned())));
        }
        json::parse(self.body, depth_max).map(Some).map_err(|_| "the body is no JSON")
    }
}

fn decide(
    desk: &Desk<'_>,
    settings: &Settings,
    sent: &Sent<'_>,
    method: &str,
    original: &str,
) -> Result<(Reply, Option<Summary>), Lacking> {
    let asked = match asked(desk, settings, sent, original) {
        Ok(asked) => asked,
        Err(reply) => return Ok((reply, None)),
    };
    let (answer, summary, _) = asked.forwarded(method, asked.body.is_none(), settings.enforces).answer(desk)?;
    // the URL of a form would be narrowed, and there are servers that read the form alone
    let is_form = matches!(asked.body, Some(Value::String(_)));
    if is_form && answer.pointer("/obligations/filter").is_some() {
        return Ok((refusal("the access is not permitted"), Some(summary)));
    }
    Ok((reply(&answer, settings, original), Some(summary)))
}

/// A proxy's request as it is asked about.
pub(super) struct Asked<'a> {
    token: Option<&'a str>,
    /// below the base
    url: String,
    headers: Vec<(&'a str, &'a str)>,
    pub(super) body: Option<Value>,
}

impl Asked<'_> {
    pub(super) fn forwarded<'v>(&'v self, method: &'v str, is_unseen: bool, enforces: Enforces) -> Forwarded<'v> {
        let Asked { token, url, headers, body } = self;
        Forwarded { token: *token, method, url, headers: headers.clone(), body: body.as_ref(), is_unseen, enforces }
    }
}

/// What is asked by a request to this URL; or, where that cannot be said, the reply.
pub(super) fn asked<'a>(
    desk: &Desk<'_>,
    settings: &Settings,
    sent: &Sent<'a>,
    original: &str,
) -> Result<Asked<'a>, Reply> {
    let token = sent.token().map_err(unauthorized)?;
    let below =
        original.strip_prefix(settings.path.as_str()).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    // the base itself is asked for without a slash as well as with one
    let below = below.map(|rest| if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") });
    let Some(url) = below.filter(|_| original.starts_with('/')) else {
        return Err(refusal("the path is not one of the FHIR server"));
    };
    let headers: Option<Vec<(&str, &str)>> =
        MEANING.iter().filter(|name| sent.has(name)).map(|name| Some((*name, sent.text(name)?))).collect();
    match (headers, sent.body(desk.limits.json_depth_max)) {
        (Some(headers), Ok(body)) => Ok(Asked { token, url, headers, body }),
        (_, _) => Err(refusal("the request is not acceptable")),
    }
}

/// An answer of `/v1/authorize`, for a proxy.
pub(super) fn reply(answer: &Value, settings: &Settings, original: &str) -> Reply {
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str);
    let outcome = || answer.get("outcome").cloned().unwrap_or_default();
    if text("/decision") != Some("permit") {
        return match text("/challenge") {
            Some(challenge) if answer.get("status") == Some(&json!(401)) => stop(401, Some(challenge), &outcome()),
            challenge => stop(403, challenge, &outcome()),
        };
    }
    // a batch is permitted although its entries are not: the proxy would send them all
    let entries = answer.get("entries").and_then(Value::as_array);
    if entries.into_iter().flatten().any(|entry| !is_unconditional(entry)) {
        return refusal("the access is not permitted");
    }
    let url = match (answer.pointer("/obligations/filter"), text("/obligations/filter/url")) {
        (None, _) => original.to_owned(),
        (Some(_), Some(url)) => format!("{}{url}", settings.path),
        // a union, or a header: nothing that a URL carries
        (Some(_), None) => return refusal("the access is not permitted"),
    };
    let id = text("/id").unwrap_or_default().to_owned();
    Reply { status: 200, headers: vec![("x-fhir-url", url), ("x-decision-id", id)], body: Vec::new() }
}

/// Whether an answer, of a bundle or of one of its entries, is a permit that asks nothing of anybody.
pub(super) fn is_unconditional(answer: &Value) -> bool {
    let entries = answer.get("entries").and_then(Value::as_array);
    answer.get("decision") == Some(&json!("permit"))
        && answer.get("obligations").is_none()
        && entries.into_iter().flatten().all(is_unconditional)
}

pub(super) fn refusal(message: &str) -> Reply {
    stop(403, None, &outcome_of("forbidden", message))
}

fn unauthorized(message: &str) -> Reply {
    stop(401, Some("Bearer error=\"invalid_token\""), &outcome_of("login", message))
}

/// The reply to whatever else fails before a decision.
pub fn failed(status: u16) -> Reply {
    let mut reply = stop(status, None, &outcome_of("transient", "the access could not be decided"));
    reply.headers.extend((status == 503).then(|| ("retry-after", "1".to_owned())));
    reply
}

fn outcome_of(code: &str, message: &str) -> Value {
    json!({ "resourceType": "OperationOutcome", "issue": [{ "severity": "error", "code": code, "diagnostics": message }] })
}

fn stop(status: u16, challenge: Option<&str>, outcome: &Value) -> Reply {
    let challenge = challenge.map(|challenge| ("www-authenticate", challenge.to_owned()));
    let cleared = [("x-fhir-url", String::new()), ("x-decision-id", String::new())];
    let kind = ("content-type", "application/fhir+json".to_owned());
    let headers = cleared.into_iter().chain([kind]).chain(challenge).collect();
    Reply { status, headers, body: outcome.to_string().into_bytes() }
}
