//! ◆ The service: which path is which question, over the state that serves.
//! Hides routing, the counters, and the second try where a key was lacking.
//! INVARIANT: one request sees one state, whatever is reloaded meanwhile.
//! Source: shared/API.md.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use ulid::Ulid;

use crate::http::api::{self, Answered, ApiError, Brought, Desk, Lacking, Summary};
use crate::http::authzen;
use crate::http::exchange::{self, Onward};
use crate::http::proxy::{self, Reply, Sent};
use crate::http::results;
use crate::http::server::{Answer, Ask};
use crate::policy::snapshot::Snapshot;
use crate::sources::resources::Upstream;
use crate::sources::serving::{Serving, State};

/// What every request needs.
pub struct Service {
    serving: Arc<Serving>,
    limits: api::Limits,
    proxy: proxy::Settings,
    /// where stored resources are read that a proxy does not have
    upstream: Option<Arc<Upstream>>,
    /// under which clients know AuthZEN's endpoints
    authzen_url: Option<String>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    permits: AtomicU64,
    denials: AtomicU64,
    errors: AtomicU64,
}

/// The description of the API, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");

/// The paths that are served.
pub const PATHS: &[&str] = &[
    "/v1/authorize",
    "/v1/authorize/batch",
    "/v1/filter",
    "/v1/policies",
    "/access/v1/evaluation",
    "/access/v1/evaluations",
    "/access/v1/search/action",
    "/access/v1/search/resource",
    "/access/v1/search/subject",
    "/.well-known/authzen-configuration",
    "/forward-auth",
    "/ext-authz/{path}",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
];
const TAKES_POST: &[&str] = &["/v1/authorize", "/v1/authorize/batch", "/v1/filter"];

/// Tokens of one batch may lack the keys of several issuers; each is fetched once, up to this many.
const KEY_ROUNDS_MAX: usize = 4;
/// A body that takes longer than other requests should wait.
pub const LARGE_BYTES: usize = 256 * 1024;

type Authorize = fn(&Desk<'_>, &[u8]) -> Result<Result<Answered, ApiError>, Lacking>;
/// How a proxy's request is asked about.
pub type Forward = fn(&Desk<'_>, &proxy::Settings, &Sent<'_>) -> Result<(Reply, Option<Summary>), Lacking>;

impl Service {
    pub fn new(
        serving: Arc<Serving>,
        limits: api::Limits,
        proxy: proxy::Settings,
        upstream: Option<Upstream>,
        authzen_url: Option<String>,
    ) -> Arc<Service> {
        let upstream = upstream.map(Arc::new);
        Arc::new(Service { serving, limits, proxy, upstream, authzen_url, counters: Counters::default() })
    }

    /// The answer to one HTTP request.
    pub async fn respond(self: Arc<Service>, ask: Ask) -> Answer {
        let answer = match (ask.path.as_str(), ask.method.as_str()) {
            ("/v1/authorize", "POST") => self.decide(&ask, api::authorize).await,
            ("/v1/authorize/batch", "POST") => self.decide(&ask, api::authorize_batch).await,
            ("/v1/filter", "POST") => self.decide(&ask, results::filter).await,
            ("/access/v1/evaluation", "POST") => self.decide(&ask, authzen::evaluation).await,
            ("/access/v1/evaluations", "POST") => self.decide(&ask, authzen::evaluations).await,
            ("/access/v1/search/action", "POST") => self.decide(&ask, authzen::actions).await,
            ("/.well-known/authzen-configuration", "GET" | "HEAD") => Ok(self.configuration(&ask)),
            ("/forward-auth", _) => Ok(self.forwarded_by(&ask, proxy::forward_auth).await),
            (path, _) if path.starts_with(proxy::EXT_AUTHZ) => Ok(self.forwarded_by(&ask, proxy::ext_authz).await),
            ("/v1/policies", "GET" | "HEAD") => Ok(policies(&self.serving.state().snapshot)),
            ("/openapi.json", "GET" | "HEAD") => {
                Ok(Answer { status: 200, headers: Vec::new(), body: OPENAPI.as_bytes().to_vec() })
            }
            ("/healthz", "GET" | "HEAD") => Ok(text(200, "alive\n".to_owned())),
            ("/readyz", "GET" | "HEAD") => Ok(self.ready()),
            ("/metrics", "GET" | "HEAD") => Ok(text(200, self.metrics())),
            ("/access/v1/search/subject", "POST") => self.decide(&ask, authzen::subjects).await,
            ("/access/v1/search/resource", "POST") => self.decide(&ask, authzen::resources).await,
            (path, _) if !PATHS.contains(&path) => {
                Err((ApiError::new(404, "not-found", "there is nothing at this path"), None))
            }
            (path, _) => Err(not_allowed(if path.starts_with("/access/") || TAKES_POST.contains(&path) {
                "POST"
            } else {
                "GET, HEAD"
            })),
        };
        let mut answer = answer.unwrap_or_else(|(error, allow)| {
            self.counters.errors.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(status = error.status, code = error.code, at = error.at, "refused");
            let headers = allow.map(|methods| ("allow", methods.to_owned())).into_iter().collect();
            Answer { status: error.status, headers, body: error.body() }
        });
        // AuthZEN 1.0, section 10.1.3
        if let (true, Some(Ok(id))) = (ask.path.starts_with("/access/"), request_id(&ask)) {
            answer.headers.push(("x-request-id", id.to_owned()));
        }
        answer
    }

    async fn decide(&self, ask: &Ask, authorize: Authorize) -> Result<Answer, (ApiError, Option<&'static str>)> {
        is_json(ask).map_err(|error| (error, None))?;
        let asked = |desk: &Desk<'_>| {
            let once = || authorize(desk, &ask.body);
            // so that other requests of this thread need not wait for a large one, or for a search
            if ask.body.len() > LARGE_BYTES || ask.path.starts_with("/access/v1/search/") {
                tokio::task::block_in_place(once)
            } else {
                once()
            }
        };
        match self.asked(asked).await {
            Ok(Ok(answered)) => {
                answered.summaries.iter().for_each(|summary| self.count(summary));
                Ok(Answer { status: 200, headers: Vec::new(), body: answered.body })
            }
            Ok(Err(error)) => Err((error, None)),
            // not reached: in the last round keys are final, and resources are brought for proxies alone
            Err(_) => Err((ApiError::new(503, "keys-unavailable", "the issuer's keys are not at hand"), None)),
        }
    }

    /// A proxy asks about a request that is not sent here.
    async fn forwarded_by(&self, ask: &Ask, decide: Forward) -> Answer {
        let target = ask.query.as_ref().map_or(ask.path.clone(), |query| format!("{}?{query}", ask.path));
        let headers: Vec<(&str, &[u8])> =
            ask.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let sent = Sent { method: ask.method.as_str(), target: &target, headers: &headers, body: &ask.body };
        let Reply { status, headers, body } = self.forwarded(&sent, decide).await;
        Answer { status, headers, body }
    }

    /// What a proxy is told.
    pub async fn forwarded(&self, sent: &Sent<'_>, decide: Forward) -> Reply {
        let asked = self.asked(|desk| decide(desk, &self.proxy, sent)).await;
        let (reply, summary) = asked.unwrap_or_else(|_| (proxy::failed(503), None));
        summary.iter().for_each(|summary| self.count(summary));
        reply
    }

    /// What becomes of a request whose answer passes through here too.
    pub async fn exchanged(&self, state: &State, sent: &Sent<'_>) -> Onward {
        let asked = self.asked_of(state, |desk| exchange::request(desk, &self.proxy, sent)).await;
        let (onward, summary) = asked.unwrap_or_else(|_| (Onward::Stop(proxy::failed(503)), None));
        summary.iter().for_each(|summary| self.count(summary));
        onward
    }

    /// The state that serves now.
    pub fn state(&self) -> Arc<State> {
        self.serving.state()
    }

    /// Nesting of JSON that is read.
    pub fn json_depth_max(&self) -> usize {
        self.limits.json_depth_max
    }

    /// Asks; where something is lacking, brings it and asks again. In the last round keys are final.
    async fn asked<T>(&self, ask: impl Fn(&Desk<'_>) -> Result<T, Lacking>) -> Result<T, Lacking> {
        self.asked_of(&self.serving.state(), ask).await
    }

    async fn asked_of<T>(&self, state: &State, ask: impl Fn(&Desk<'_>) -> Result<T, Lacking>) -> Result<T, Lacking> {
        let mut brought: Vec<Brought> = Vec::new();
        let mut rounds = 0;
        loop {
            let issuers = state.keys.issuers();
            let answered = ask(&Desk {
                snapshot: &state.snapshot,
                issuers: &issuers,
                limits: &self.limits,
                domain: state.domain.as_ref(),
                standings: Some(&state.standings),
                keys_are_final: rounds == KEY_ROUNDS_MAX,
                brought: self.upstream.is_some().then_some(brought.as_slice()),
                now: now(),
                ids: &|| Ulid::generate().to_string(),
            });
            match (answered, &self.upstream) {
                (Err(Lacking::Key(issuer)), _) if rounds < KEY_ROUNDS_MAX => {
                    rounds += 1;
                    state.keys.refresh(issuer).await;
                }
                (Err(Lacking::Resource(place)), Some(upstream)) if brought.is_empty() => {
                    match upstream.fetch(&place).await {
                        Ok(found) => brought.push((place, found)),
                        Err(_) => return Err(Lacking::Resource(place)),
                    }
                }
                (answered, _) => return answered,
            }
        }
    }

    fn count(&self, summary: &Summary) {
        let counter = if summary.permit { &self.counters.permits } else { &self.counters.denials };
        counter.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            id = summary.id,
            permit = summary.permit,
            code = summary.code,
            interaction = summary.interaction,
            resource_type = summary.resource_type,
            "decided"
        );
    }

    /// `GET /.well-known/authzen-configuration`: by the name under which it was asked for, unless another is set.
    fn configuration(&self, ask: &Ask) -> Answer {
        let host = ask.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        let base = self.authzen_url.clone().unwrap_or_else(|| format!("http://{host}"));
        let body = authzen::configuration(&base, self.serving.state().domain.is_some()).to_string();
        Answer { status: 200, headers: Vec::new(), body: body.into_bytes() }
    }

    fn ready(&self) -> Answer {
        match self.serving.state().keys.ready() {
            true => text(200, "ready\n".to_owned()),
            false => text(503, "the keys of an issuer are not at hand\n".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
            // INVARIANT: writing to a String cannot fail
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let decisions = [
            ("{decision=\"permit\"}", get(&self.counters.permits)),
            ("{decision=\"deny\"}", get(&self.counters.denials)),
        ];
        metric("cedarward_decisions_total", "counter", "Decisions given.", &decisions);
        metric(
            "cedarward_api_errors_total",
            "counter",
            "Requests refused as malformed.",
            &[("", get(&self.counters.errors))],
        );
        let (loads, refusals) = self.serving.reloads();
        let reloads = [("{result=\"loaded\"}", loads), ("{result=\"refused\"}", refusals)];
        metric("cedarward_policy_loads_total", "counter", "Policy folders loaded and refused.", &reloads);
        let policies = self.serving.state().snapshot.described().len() as u64;
        metric("cedarward_policies", "gauge", "Policies in force.", &[("", policies)]);
        text
    }
}

/// `GET /v1/policies`: what is in force.
fn policies(snapshot: &Snapshot) -> Answer {
    let list: Vec<_> = snapshot
        .described()
        .iter()
        .map(|(id, policy)| {
            let effect = match policy.effect {
                cedar_policy::Effect::Permit => "permit",
                cedar_policy::Effect::Forbid => "forbid",
            };
            json!({ "id": id, "effect": effect, "file": policy.file, "description": policy.description })
        })
        .collect();
    let body = json!({ "revision": snapshot.revision.to_string(), "policies": list }).to_string();
    Answer { status: 200, headers: Vec::new(), body: body.into_bytes() }
}

fn request_id(ask: &Ask) -> Option<Result<&str, hyper::header::ToStrError>> {
    ask.headers.get("x-request-id").map(|id| id.to_str())
}

fn is_json(ask: &Ask) -> Result<(), ApiError> {
    let content_type = ask.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let known: &[&str] = match ask.path.starts_with("/access/") {
        true => &["application/json"],
        false => &["application/json", "application/fhir+json"],
    };
    if known.iter().any(|known| essence.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    // AuthZEN has one word for all that is wrong with a request
    let status = if ask.path.starts_with("/access/") { 400 } else { 415 };
    Err(ApiError::new(status, "unsupported-media-type", "send `Content-Type: application/json`"))
}

fn not_allowed(methods: &'static str) -> (ApiError, Option<&'static str>) {
    (ApiError::new(405, "method-not-allowed", format!("this path takes {methods}")), Some(methods))
}

fn text(status: u16, body: String) -> Answer {
    let headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
    Answer { status, headers, body: body.into_bytes() }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
    i64::try_from(since).unwrap_or(i64::MAX)
}
