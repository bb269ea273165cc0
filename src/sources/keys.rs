//! ◆ The keys of issuers: read from files and environment, fetched from URLs, refreshed, rotated.
//! Hides HTTP, discovery and the rate limit. INVARIANT: a failed fetch leaves the last good keys in place.
//! INVARIANT: keys come only from where the configuration says: no redirect is followed, no host of a token is asked,
//! and nothing but https is spoken beyond loopback.
//! Source: OpenID Connect Discovery 1.0, 4; RFC 7517; shared/BYPASSES F13.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::Mutex;
use ureq::tls::{RootCerts, TlsConfig};

use crate::json;
use crate::token::issuers::{Issuer, IssuerPattern, Issuers, KeySource, Keys};

/// A key that nobody knows has its issuer asked again no sooner than this.
const FETCH_INTERVAL_MIN: Duration = Duration::from_secs(30);
/// Keys are fetched anew this often, so that a rotation is seen before its first token.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const DOCUMENT_BYTES_MAX: u64 = 1024 * 1024;
const DOCUMENT_DEPTH_MAX: usize = 32;

/// Configured keys that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the keys of issuer `{issuer}` cannot be read: {reason}")]
pub struct KeysUnreadable {
    issuer: String,
    reason: String,
}

/// The issuers with their keys as they are now.
pub struct KeyRing {
    shared: Arc<Shared>,
}

struct Shared {
    issuers: ArcSwap<Issuers>,
    /// by the issuer's index: when its keys were last asked for
    attempts: Vec<Mutex<Option<Instant>>>,
}

impl KeyRing {
    /// Reads the keys that lie in files and in the environment; those of URLs come with [`KeyRing::start`], or stay as
    /// `previous` has them. Files are relative to `folder`.
    pub fn load(issuers: Issuers, folder: &Path, previous: Option<&KeyRing>) -> Result<KeyRing, KeysUnreadable> {
        let before = previous.map(KeyRing::issuers);
        let mut ring = issuers.clone();
        let mut attempts = Vec::new();
        for (index, (issuer, _)) in issuers.iter().enumerate() {
            let keys = match local(issuer, folder) {
                Some(read) => {
                    read.map_err(|reason| KeysUnreadable { issuer: issuer.pattern.as_str().to_owned(), reason })?
                }
                None => kept(before.as_deref(), issuer).unwrap_or_default(),
            };
            ring = ring.with_keys(index, keys);
            attempts.push(Mutex::new(None));
        }
        Ok(KeyRing { shared: Arc::new(Shared { issuers: ArcSwap::from_pointee(ring), attempts }) })
    }

    pub fn issuers(&self) -> Arc<Issuers> {
        self.shared.issuers.load_full()
    }

    /// Whether every issuer that has a source of keys has keys.
    pub fn ready(&self) -> bool {
        self.issuers().iter().all(|(issuer, keys)| issuer.key_source == KeySource::None || !keys.is_empty())
    }

    /// Fetches the keys of the issuer at `index` anew, unless that was tried a moment ago. Whoever asks meanwhile waits
    /// for that one fetch.
    pub async fn refresh(&self, index: usize) {
        self.shared.refresh(index).await;
    }

    /// Keeps fetched keys fresh for as long as this ring is there. Needs a tokio runtime.
    pub fn start(&self) {
        for (index, (issuer, _)) in self.issuers().iter().enumerate() {
            if is_remote(issuer) {
                tokio::spawn(keep_fresh(Arc::downgrade(&self.shared), index));
            }
        }
    }
}

async fn keep_fresh(ring: Weak<Shared>, index: usize) {
    while let Some(shared) = ring.upgrade() {
        shared.refresh(index).await;
        let has_keys = shared.issuers.load().iter().nth(index).is_some_and(|(_, keys)| !keys.is_empty());
        drop(shared);
        tokio::time::sleep(if has_keys { REFRESH_INTERVAL } else { FETCH_INTERVAL_MIN }).await;
    }
}

impl Shared {
    async fn refresh(&self, index: usize) {
        let issuer = self.issuers.load().iter().nth(index).map(|(issuer, _)| issuer.clone());
        let (Some(issuer), Some(attempt)) = (issuer, self.attempts.get(index)) else { return };
        if !is_remote(&issuer) {
            return;
        }
        // held while fetching: the others who lack the same key wait here, then find the attempt made
        let mut attempt = attempt.lock().await;
        if attempt.is_some_and(|at| at.elapsed() < FETCH_INTERVAL_MIN) {
            return;
        }
        let name = issuer.pattern.as_str().to_owned();
        let fetched = tokio::task::spawn_blocking(move || fetch(&issuer)).await;
        *attempt = Some(Instant::now());
        match fetched {
            Ok(Ok(keys)) => {
                tracing::info!(issuer = name, keys = keys.len(), "keys fetched");
                let keys = Arc::new(keys);
                self.issuers.rcu(|issuers| issuers.with_keys(index, Arc::clone(&keys)));
            }
            Ok(Err(reason)) => tracing::warn!(issuer = name, reason, "keys not fetched; the last ones stay"),
            Err(error) => tracing::error!(issuer = name, %error, "fetching keys failed; the last ones stay"),
        }
    }
}

fn is_remote(issuer: &Issuer) -> bool {
    match issuer.key_source {
        KeySource::JwksUrl(_) | KeySource::Discovery(_) => true,
        KeySource::None | KeySource::JwksFile(_) | KeySource::SecretFile(_) | KeySource::SecretEnvironment(_) => false,
    }
}

/// The keys that an unchanged issuer had before.
fn kept(before: Option<&Issuers>, issuer: &Issuer) -> Option<Arc<Keys>> {
    let same = |other: &Issuer| other.pattern == issuer.pattern && other.key_source == issuer.key_source;
    before?.iter().find(|(other, _)| same(other)).map(|(_, keys)| Arc::clone(keys))
}

/// Keys of this machine; `None` where they are fetched.
fn local(issuer: &Issuer, folder: &Path) -> Option<Result<Arc<Keys>, String>> {
    let file = |path: &String| {
        let path = folder.join(path);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let keys = match &issuer.key_source {
        KeySource::JwksUrl(_) | KeySource::Discovery(_) => return None,
        KeySource::None => Ok(Keys::empty()),
        KeySource::JwksFile(path) => {
            file(path).and_then(|bytes| Keys::from_jwks(&bytes).map_err(|error| format!("{path}: {error}")))
        }
        KeySource::SecretFile(path) => {
            file(path).and_then(|bytes| Keys::from_secret(&bytes).map_err(|error| format!("{path}: {error}")))
        }
        KeySource::SecretEnvironment(name) => match std::env::var(name) {
            Ok(secret) => Keys::from_secret(secret.as_bytes()).map_err(|error| format!("${name}: {error}")),
            Err(_) => Err(format!("the environment variable `{name}` is not set; set it to the secret")),
        },
    };
    Some(keys.map(Arc::new))
}

/// Brings an issuer's published keys. Blocks, for at most two fetches' time.
fn fetch(issuer: &Issuer) -> Result<Keys, String> {
    let agent = agent(FETCH_TIMEOUT);
    let url = match &issuer.key_source {
        KeySource::JwksUrl(url) => url.clone(),
        KeySource::Discovery(base) => {
            let url = format!("{}/.well-known/openid-configuration", base.trim_end_matches('/'));
            jwks_uri(&get(&agent, &url)?, &issuer.pattern)?
        }
        KeySource::None | KeySource::JwksFile(_) | KeySource::SecretFile(_) | KeySource::SecretEnvironment(_) => {
            return Err("the keys are not fetched".to_owned());
        }
    };
    let keys = Keys::from_published_jwks(&get(&agent, &url)?).map_err(|error| error.to_string())?;
    if keys.is_empty() {
        return Err("the key set holds no usable key".to_owned());
    }
    Ok(keys)
}

/// Speaks HTTP and HTTPS, follows no redirect.
pub(super) fn agent(timeout: Duration) -> ureq::Agent {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider)
        .build();
    ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(timeout))
        .max_redirects(0)
        .max_redirects_will_error(true)
        .build()
        .new_agent()
}

fn get(agent: &ureq::Agent, url: &str) -> Result<Vec<u8>, String> {
    if !is_safe(url) {
        return Err(format!("{url}: keys are fetched by https, or from loopback"));
    }
    let mut response = agent.get(url).call().map_err(|error| format!("{url}: {error}"))?;
    if response.status() != 200 {
        return Err(format!("{url}: status {}", response.status().as_u16()));
    }
    let body = response.body_mut().with_config().limit(DOCUMENT_BYTES_MAX).read_to_vec();
    body.map_err(|error| format!("{url}: {error}"))
}

/// https, or plain http to this machine.
pub(super) fn is_safe(url: &str) -> bool {
    let Ok(uri) = url.parse::<ureq::http::Uri>() else { return false };
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => !has_user,
        (Some("http"), Some(host)) => !has_user && is_loopback(host),
        (_, _) => false,
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The key set's URL in a discovery document, which must be the configured issuer's own.
fn jwks_uri(document: &[u8], pattern: &IssuerPattern) -> Result<String, String> {
    let document = json::parse(document, DOCUMENT_DEPTH_MAX).map_err(|error| format!("discovery: {error}"))?;
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
    // Entra's document for several tenants holds its own placeholder
    let expected = pattern.as_str().replace("{tid}", "{tenantid}");
    if text("issuer") != expected {
        return Err("discovery: the document is another issuer's".to_owned());
    }
    Ok(text("jwks_uri").to_owned())
}

#[cfg(test)]
mod tests {
    use super::{KeyRing, is_safe, jwks_uri};
    use crate::token::issuers::{Algorithm, Issuer, IssuerPattern, Issuers, KeySource};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    const ED25519: &str =
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"KID"}"#;

    /// A server of this test's own on loopback: answers every request with what `answer` gives, and counts them.
    fn server(answer: impl Fn(usize, &str) -> String + Send + 'static) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = vec![0; 4096];
                let read = stream.read(&mut head).unwrap();
                let path = String::from_utf8_lossy(&head[..read]).split(' ').nth(1).unwrap_or_default().to_owned();
                let answer = answer(counted.fetch_add(1, Ordering::SeqCst), &path);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        (base, count)
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    fn set(kid: &str) -> String {
        format!("{{\"keys\":[{}]}}", ED25519.replace("KID", kid))
    }

    fn ring(source: KeySource) -> KeyRing {
        ring_after(source, None)
    }

    fn ring_after(source: KeySource, previous: Option<&KeyRing>) -> KeyRing {
        let issuer = Issuer {
            pattern: IssuerPattern::parse("https://idp.example").unwrap(),
            algorithms: vec![Algorithm::EdDSA],
            audiences: vec!["a".to_owned()],
            leeway_seconds: 0,
            tenants: Vec::new(),
            without_exp: false,
            without_aud: false,
            key_source: source,
        };
        KeyRing::load(Issuers::new(vec![issuer]), Path::new("."), previous).unwrap()
    }

    fn keys(ring: &KeyRing) -> usize {
        ring.issuers().iter().map(|(_, keys)| keys.len()).sum()
    }

    fn block_on(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(future);
    }

    #[test]
    fn keys_are_fetched_once_however_many_lack_them_and_kept_over_a_reload() {
        block_on(async {
            let (base, count) = server(|_, _| ok(&set("one")));
            let source = KeySource::JwksUrl(format!("{base}/keys"));
            let ring = ring(source.clone());
            assert!(!ring.ready());
            tokio::join!(ring.refresh(0), ring.refresh(0), ring.refresh(0));
            ring.refresh(0).await;
            assert_eq!((keys(&ring), count.load(Ordering::SeqCst)), (1, 1));
            assert!(ring.ready());
            assert_eq!(keys(&ring_after(source, Some(&ring))), 1);
            assert_eq!(keys(&ring_after(KeySource::JwksUrl(format!("{base}/others")), Some(&ring))), 0);
        });
    }

    #[test]
    fn discovery_leads_to_the_issuers_own_keys_and_to_no_others() {
        block_on(async {
            let at = Arc::new(Mutex::new(String::new()));
            let known = Arc::clone(&at);
            let (base, _) = server(move |_, path| match path {
                "/.well-known/openid-configuration" => {
                    let base = known.lock().unwrap().clone();
                    ok(&format!("{{\"issuer\":\"https://idp.example\",\"jwks_uri\":\"{base}/keys\"}}"))
                }
                _ => ok(&set("one")),
            });
            *at.lock().unwrap() = base.clone();
            let ring = ring(KeySource::Discovery(base));
            ring.refresh(0).await;
            assert_eq!(keys(&ring), 1);
        });
        let exact = IssuerPattern::parse("https://idp.example").unwrap();
        let template = IssuerPattern::parse("https://login.microsoftonline.com/{tid}/v2.0").unwrap();
        assert!(jwks_uri(br#"{"issuer":"https://idp.example.evil","jwks_uri":"https://x"}"#, &exact).is_err());
        assert!(jwks_uri(br#"{"issuer":"https://idp.example/","jwks_uri":"https://x"}"#, &exact).is_err());
        let document = br#"{"issuer":"https://login.microsoftonline.com/{tenantid}/v2.0","jwks_uri":"https://k"}"#;
        assert_eq!(jwks_uri(document, &template).unwrap(), "https://k");
    }

    #[test]
    fn what_is_no_key_set_leaves_the_last_good_keys() {
        let redirect =
            "HTTP/1.1 302 Found\r\nlocation: /keys\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned();
        let huge = format!("{{\"keys\":[], \"x\":\"{}\"}}", "x".repeat(1024 * 1024));
        let failing = "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned();
        for bad in [redirect, ok(&huge), failing, ok("{\"keys\":[]}"), ok("no JSON"), String::new()] {
            block_on(async {
                let (base, count) = server(move |_, path| if path == "/good" { ok(&set("one")) } else { bad.clone() });
                let good = ring(KeySource::JwksUrl(format!("{base}/good")));
                good.refresh(0).await;
                assert_eq!(keys(&good), 1);
                let bad = ring(KeySource::JwksUrl(format!("{base}/bad")));
                bad.refresh(0).await;
                assert_eq!(keys(&bad), 0);
                assert!(!bad.ready());
                assert_eq!(count.load(Ordering::SeqCst), 2, "nothing is asked twice, and no redirect is followed");
            });
        }
    }

    #[test]
    fn only_https_and_loopback_are_asked() {
        for url in ["https://idp.example/keys", "http://127.0.0.1:9/k", "http://[::1]/k", "http://localhost/k"] {
            assert!(is_safe(url), "{url}");
        }
        for url in [
            "http://idp.example/k",
            "http://127.0.0.1.evil.example/k",
            "ftp://127.0.0.1/k",
            "https://u@idp/k",
            "k",
            "http://localhost.evil/k",
        ] {
            assert!(!is_safe(url), "{url}");
        }
    }
}
