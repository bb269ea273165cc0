//! ◆ The FHIR server's resources, read where a proxy has none and a decision depends on one.
//! Hides HTTP, the cache, and when to stop asking a server that does not answer.
//! INVARIANT: what is not surely the resource asked for, or surely none, is a failure: no answer, no cache, no permit.
//! Source: FHIR R4 http.html "read"; shared/API.md "Behind a reverse proxy".

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Semaphore;

use crate::http::api::Place;
use crate::json;
use crate::sources::keys::{agent, is_safe};

/// Where resources are read, and with how much patience.
#[derive(Debug, Clone)]
pub struct Settings {
    /// of FHIR, without a slash at its end
    pub base: String,
    pub authorization: Authorization,
    /// plain HTTP beyond this machine
    pub allow_plain_http: bool,
    /// for one read, waiting for its turn included
    pub timeout: Duration,
    /// reads at a time
    pub concurrency: usize,
    /// how long what was read is taken for what is stored
    pub cache_time: Duration,
    /// nesting of a resource
    pub depth_max: usize,
}

/// What stands in the `Authorization` header of a read: `Bearer …`, `Basic …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    None,
    /// read for each read, so that it may be rotated
    File(PathBuf),
    Environment(String),
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`resources.fhir`: {0}")]
pub struct Unusable(String);

/// The server could not be asked, or its answer not be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable;

/// Failures in a row after which the server is left alone for a while.
const FAILURES_MAX: u32 = 5;
/// How long; then one read tries again.
const PAUSE: Duration = Duration::from_secs(2);
const RESOURCE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Resources that are kept: so many of so many bytes at most.
const CACHED_MAX: usize = 512;
const CACHED_BYTES_MAX: usize = 64 * 1024;

/// The FHIR server behind the proxy.
pub struct Upstream {
    settings: Settings,
    agent: ureq::Agent,
    turns: Semaphore,
    cache: Mutex<HashMap<Place, Cached>>,
    breaker: Mutex<Breaker>,
}

/// When it was read, and what.
type Cached = (Instant, Option<Arc<Value>>);

#[derive(Default)]
struct Breaker {
    failures: u32,
    /// no read before
    until: Option<Instant>,
}

impl Breaker {
    /// Whether the server is asked. After a pause one read is let through, and the next pause begins.
    fn lets_through(&mut self, now: Instant) -> bool {
        match self.until {
            Some(until) if now < until => false,
            Some(_) => {
                self.until = Some(now + PAUSE);
                true
            }
            None => true,
        }
    }

    fn note(&mut self, is_answered: bool, now: Instant) {
        if is_answered {
            *self = Breaker::default();
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_MAX {
            self.until = Some(now + PAUSE);
        }
    }
}

impl Upstream {
    /// Asks nothing yet, but that the credentials are there.
    pub fn new(settings: Settings) -> Result<Upstream, Unusable> {
        let is_allowed = settings.allow_plain_http && settings.base.starts_with("http://");
        if !is_allowed && !is_safe(&settings.base) {
            let message = "the base must be https, or on loopback; or say `allowPlainHttp: true`";
            return Err(Unusable(format!("{}: {message}", settings.base)));
        }
        settings.authorization.read().map_err(Unusable)?;
        Ok(Upstream {
            agent: agent(settings.timeout),
            turns: Semaphore::new(settings.concurrency.min(Semaphore::MAX_PERMITS)),
            cache: Mutex::default(),
            breaker: Mutex::default(),
            settings,
        })
    }

    /// The resource as it is stored; `None` where there is none.
    pub async fn fetch(self: &Arc<Self>, place: &Place) -> Result<Option<Arc<Value>>, Unavailable> {
        if let Some(known) = self.cached(place) {
            return Ok(known);
        }
        if !locked(&self.breaker).lets_through(Instant::now()) {
            return Err(Unavailable);
        }
        let turn = tokio::time::timeout(self.settings.timeout, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| Unavailable)?.map_err(|_| Unavailable)?;
        let (upstream, asked) = (Arc::clone(self), place.clone());
        let read = tokio::task::spawn_blocking(move || upstream.read(&asked)).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        locked(&self.breaker).note(read.is_ok(), Instant::now());
        match read {
            Ok((found, bytes)) => {
                self.keep(place, found.clone(), bytes);
                Ok(found)
            }
            Err(reason) => {
                tracing::warn!(reason, "a stored resource could not be read; what depends on it is denied");
                Err(Unavailable)
            }
        }
    }

    /// Blocks. With the resource its size.
    fn read(&self, place: &Place) -> Result<(Option<Arc<Value>>, usize), String> {
        let url = format!("{}/{place}", self.settings.base);
        let mut request = self.agent.get(&url).header("accept", "application/fhir+json");
        if let Some(authorization) = self.settings.authorization.read()? {
            request = request.header("authorization", authorization);
        }
        // a status of 4xx or 5xx is an answer too
        let answered = request.config().http_status_as_error(false).build().call();
        let mut response = answered.map_err(|error| error.to_string())?;
        match response.status().as_u16() {
            200 => {}
            404 | 410 => return Ok((None, 0)),
            status => return Err(format!("status {status}")),
        }
        let body = response.body_mut().with_config().limit(RESOURCE_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| error.to_string())?;
        let resource = json::parse(&body, self.settings.depth_max).map_err(|error| error.to_string())?;
        let text = |name: &str| resource.get(name).and_then(Value::as_str);
        if text("resourceType") != Some(place.of.as_str()) || text("id") != Some(place.id.as_str()) {
            return Err("another resource than the one asked for".to_owned());
        }
        Ok((Some(Arc::new(resource)), body.len()))
    }

    fn cached(&self, place: &Place) -> Option<Option<Arc<Value>>> {
        let cache = locked(&self.cache);
        let (at, found) = cache.get(place)?;
        (at.elapsed() < self.settings.cache_time).then(|| found.clone())
    }

    fn keep(&self, place: &Place, found: Option<Arc<Value>>, bytes: usize) {
        let mut cache = locked(&self.cache);
        if cache.len() >= CACHED_MAX {
            cache.retain(|_, (at, _)| at.elapsed() < self.settings.cache_time);
        }
        if cache.len() < CACHED_MAX && bytes <= CACHED_BYTES_MAX && !self.settings.cache_time.is_zero() {
            cache.insert(place.clone(), (Instant::now(), found));
        }
    }
}

impl Authorization {
    fn read(&self) -> Result<Option<String>, String> {
        let text = match self {
            Authorization::None => return Ok(None),
            Authorization::File(path) => {
                std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
            Authorization::Environment(name) => {
                std::env::var(name).map_err(|_| format!("the environment variable `{name}` is not set"))?
            }
        };
        Ok(Some(text.trim().to_owned()))
    }
}

/// Nothing panics while it holds these; and what is half noted is still a valid state.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{Authorization, Breaker, FAILURES_MAX, PAUSE, Settings, Unavailable, Upstream};
    use crate::fhir::definitions::{Definitions, FhirId, FhirVersion};
    use crate::http::api::Place;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    fn place(id: &str) -> Place {
        let of = Definitions::of(FhirVersion::R4).resource_type("Observation").unwrap();
        Place { of, id: FhirId::parse(id).unwrap() }
    }

    /// A server of this test's own on loopback, its answers by path; and what it was asked.
    fn upstream(
        answer: impl Fn(&str) -> String + Send + 'static,
        cache: Duration,
    ) -> (Arc<Upstream>, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/fhir", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = vec![0; 4096];
                let read = stream.read(&mut head).unwrap();
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                told.lock().unwrap().push(head);
                let _ = stream.write_all(answer(&path).as_bytes());
            }
        });
        let settings = Settings {
            base,
            authorization: Authorization::None,
            allow_plain_http: false,
            timeout: Duration::from_secs(5),
            concurrency: 2,
            cache_time: cache,
            depth_max: 32,
        };
        (Arc::new(Upstream::new(settings).unwrap()), asked)
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    fn block_on(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(future);
    }

    #[test]
    fn what_was_read_is_kept_for_a_while_and_what_is_not_there_too() {
        block_on(async {
            let found = r#"{"resourceType":"Observation","id":"1"}"#;
            let of = move |path: &str| match path {
                "/fhir/Observation/1" => answer("200 OK", found),
                _ => answer("404 Not Found", ""),
            };
            let (server, asked) = upstream(of, Duration::from_secs(60));
            for _ in 0..3 {
                let read = server.fetch(&place("1")).await.unwrap();
                assert_eq!(read.unwrap().get("id"), Some(&"1".into()));
                assert_eq!(server.fetch(&place("2")).await, Ok(None));
            }
            assert_eq!(asked.lock().unwrap().len(), 2);
            let (server, asked) = upstream(of, Duration::ZERO);
            for _ in 0..3 {
                server.fetch(&place("1")).await.unwrap();
            }
            assert_eq!(asked.lock().unwrap().len(), 3);
        });
    }

    #[test]
    fn what_is_not_surely_the_resource_is_a_failure() {
        for wrong in [
            answer("200 OK", r#"{"resourceType":"Observation","id":"2"}"#),
            answer("200 OK", r#"{"resourceType":"Patient","id":"1"}"#),
            answer("200 OK", r#"{"resourceType":"Observation","id":"1","id":"1"}"#),
            answer("200 OK", "no JSON"),
            answer("302 Found\r\nlocation: /fhir/Observation/2", ""),
            answer("401 Unauthorized", ""),
            answer("500 Oh", ""),
            String::new(),
        ] {
            block_on(async {
                let (server, _) = upstream(move |_| wrong.clone(), Duration::from_secs(60));
                assert_eq!(server.fetch(&place("1")).await, Err(Unavailable));
            });
        }
    }

    #[test]
    fn a_server_that_fails_is_left_alone_and_tried_again_by_one() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES_MAX {
            breaker.note(false, start);
            assert!(breaker.lets_through(start));
        }
        breaker.note(false, start);
        assert!(!breaker.lets_through(start));
        let later = start + PAUSE;
        assert!(breaker.lets_through(later));
        assert!(!breaker.lets_through(later), "one tries; the others do not");
        breaker.note(true, later);
        assert!(breaker.lets_through(later));
    }

    #[test]
    fn a_failing_server_is_not_asked_by_everyone() {
        block_on(async {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let failing = move |_: &str| {
                counted.fetch_add(1, Ordering::SeqCst);
                answer("503 Oh", "")
            };
            let (server, _) = upstream(failing, Duration::ZERO);
            for _ in 0..50 {
                assert_eq!(server.fetch(&place("1")).await, Err(Unavailable));
            }
            // one more may try where the machine is slow
            assert!(count.load(Ordering::SeqCst) <= FAILURES_MAX as usize + 1);
        });
    }

    #[test]
    fn credentials_go_to_https_and_loopback_alone() {
        let settings = |base: &str, authorization, allow_plain_http| Settings {
            base: base.to_owned(),
            authorization,
            allow_plain_http,
            timeout: Duration::from_secs(1),
            concurrency: 1,
            cache_time: Duration::ZERO,
            depth_max: 32,
        };
        assert!(Upstream::new(settings("https://fhir.example", Authorization::None, false)).is_ok());
        assert!(Upstream::new(settings("http://fhir.example", Authorization::None, false)).is_err());
        assert!(Upstream::new(settings("http://fhir.example", Authorization::None, true)).is_ok());
        assert!(Upstream::new(settings("ftp://fhir.example", Authorization::None, true)).is_err());
        let lacking = Authorization::Environment("CEDARWARD_NO_SUCH_VARIABLE".to_owned());
        assert!(Upstream::new(settings("https://fhir.example", lacking, false)).is_err());
    }
}
