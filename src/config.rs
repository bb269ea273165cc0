//! cedarward.yaml and flags → Config. Every default and every limit stands here.
//! Hides the file's form. INVARIANT: a field that is not known is an error, so that no limit is misspelt away.

use core::time::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::cache::BYTES_MAX_DEFAULT;
use crate::engine::decide::Enforces;
use crate::fhir::definitions::FhirVersion;
use crate::fhir::operation;
use crate::fhir::resource::Bases;
use crate::finding::Finding;
use crate::http::{api, proxy, server};
use crate::policy::snapshot;
use crate::sources::resources;
use crate::sources::serving::Origin;
use crate::token::jws;

/// Where Cedarward listens unless told otherwise: loopback, since whoever may ask may also ask what others may do.
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8180);

/// Everything that is set, by file, flag or default.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub origin: Origin,
    /// under which clients know AuthZEN's endpoints
    pub authzen_url: Option<String>,
    pub snapshot: snapshot::Settings,
    pub proxy: proxy::Settings,
    /// the FHIR server, for resources that a proxy does not have
    pub upstream: Option<resources::Settings>,
    pub api: api::Limits,
    /// what is remembered of principals
    pub cache_bytes: usize,
    pub server: server::Limits,
}

/// What cedarward.yaml may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct File {
    listen: Option<SocketAddr>,
    policies: Option<PathBuf>,
    themes: Vec<String>,
    fhir: Fhir,
    proxy: Proxy,
    resources: Resources,
    authzen: Authzen,
    limits: Limits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Authzen {
    /// a folder that is not about FHIR
    policies: Option<PathBuf>,
    url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Resources {
    fhir: Option<Upstream>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Upstream {
    base: String,
    authorization_file: Option<PathBuf>,
    authorization_environment: Option<String>,
    #[serde(default)]
    allow_plain_http: bool,
    timeout_milliseconds: Option<u64>,
    concurrency: Option<usize>,
    cache_milliseconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Fhir {
    version: Option<Version>,
    /// base URLs under which an absolute URL or reference means this server
    bases: Vec<String>,
    /// search parameters beyond HL7's: `name` for every type, `Type.name` for one
    parameters: Vec<String>,
    /// whether the server searches compartments; it does unless this says `false`
    compartment_search: Option<bool>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Version {
    R4,
    R4B,
    R5,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Proxy {
    original: Option<Headers>,
    path: String,
    enforces: Vec<Obligation>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Headers {
    #[serde(rename = "X-Original")]
    Original,
    #[serde(rename = "X-Forwarded")]
    Forwarded,
}

/// What a proxy can carry out: it adds a filter to the URL. None of them changes what comes back.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Obligation {
    Filter,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Limits {
    token_bytes: Option<usize>,
    token_depth: Option<usize>,
    json_depth: Option<usize>,
    body_bytes: Option<usize>,
    filter_body_bytes: Option<usize>,
    filter_requests: Option<usize>,
    url_bytes: Option<usize>,
    header_bytes: Option<usize>,
    bundle_entries: Option<usize>,
    cache_bytes: Option<usize>,
    parameters: Option<usize>,
    connections: Option<usize>,
    requests: Option<usize>,
    calls: Option<usize>,
    calls_bytes: Option<usize>,
    head_seconds: Option<u64>,
    body_seconds: Option<u64>,
    request_seconds: Option<u64>,
    drain_seconds: Option<u64>,
}

impl Proxy {
    fn read(self, file: &str) -> Result<proxy::Settings, Finding> {
        let Proxy { original, path, enforces } = self;
        let path = path.trim_end_matches('/').to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
        if !(path.is_empty() || path.starts_with('/')) || path.contains("//") || !path.chars().all(plain) {
            let message = format!("`{path}` in `proxy.path` is no plain path");
            return Err(general(file, message, "write `/fhir`: the path below which the proxy serves FHIR"));
        }
        let original = match original {
            None => proxy::Original::Either,
            Some(Headers::Original) => proxy::Original::Original,
            Some(Headers::Forwarded) => proxy::Original::Forwarded,
        };
        let filter = enforces.iter().any(|obligation| matches!(obligation, Obligation::Filter));
        Ok(proxy::Settings { original, path, enforces: Enforces { filter, ..Enforces::default() } })
    }
}

impl Upstream {
    fn read(self, file: &str, depth_max: usize) -> Result<resources::Settings, Finding> {
        let authorization = match (self.authorization_file, self.authorization_environment) {
            (None, None) => resources::Authorization::None,
            (Some(path), None) => resources::Authorization::File(path),
            (None, Some(name)) => resources::Authorization::Environment(name),
            (Some(_), Some(_)) => {
                let message = "`resources.fhir` has two sources of credentials".to_owned();
                return Err(general(file, message, "keep `authorizationFile` or `authorizationEnvironment`"));
            }
        };
        Ok(resources::Settings {
            base: self.base.trim_end_matches('/').to_owned(),
            authorization,
            allow_plain_http: self.allow_plain_http,
            timeout: Duration::from_millis(self.timeout_milliseconds.unwrap_or(1_000)),
            concurrency: self.concurrency.unwrap_or(16),
            cache_time: Duration::from_millis(self.cache_milliseconds.unwrap_or(1_000)),
            depth_max,
        })
    }
}

impl Config {
    /// Reads `text`, the content of `file`; empty text gives every default.
    pub fn read(file: &str, text: &str) -> Result<Config, Finding> {
        let parsed: File = if text.trim().is_empty() {
            File::default()
        } else {
            serde_yaml::from_str(text).map_err(|error| yaml(file, &error))?
        };
        let parameters = parsed.fhir.parameters.iter().map(|name| parameter(file, name)).collect::<Result<_, _>>()?;
        let bases = Bases::new(parsed.fhir.bases).map_err(|error| {
            general(file, error.to_string(), "write `https://host/path`, without query or fragment")
        })?;
        let limits = parsed.limits;
        let request = operation::Settings::default();
        let token = jws::Limits::default();
        let api = api::Limits::default();
        let server = server::Limits::default();
        let seconds = |given: Option<u64>, default: Duration| given.map_or(default, Duration::from_secs);
        Ok(Config {
            listen: parsed.listen.unwrap_or(LISTEN),
            origin: Origin { policies: parsed.policies, domain: parsed.authzen.policies },
            authzen_url: parsed.authzen.url.map(|url| url.trim_end_matches('/').to_owned()),
            snapshot: snapshot::Settings {
                version: match parsed.fhir.version {
                    None | Some(Version::R4) => FhirVersion::R4,
                    Some(Version::R4B) => FhirVersion::R4B,
                    Some(Version::R5) => FhirVersion::R5,
                },
                themes: parsed.themes,
                request: operation::Settings {
                    bases: bases.as_strings().to_vec(),
                    parameters,
                    url_bytes_max: limits.url_bytes.unwrap_or(request.url_bytes_max),
                    parameters_max: limits.parameters.unwrap_or(request.parameters_max),
                    searches_compartments: parsed.fhir.compartment_search.unwrap_or(request.searches_compartments),
                    entries_max: limits.bundle_entries.unwrap_or(request.entries_max),
                },
            },
            proxy: parsed.proxy.read(file)?,
            upstream: parsed
                .resources
                .fhir
                .map(|upstream| upstream.read(file, limits.json_depth.unwrap_or(api.json_depth_max)))
                .transpose()?,
            api: api::Limits {
                token: jws::Limits {
                    token_bytes_max: limits.token_bytes.unwrap_or(token.token_bytes_max),
                    depth_max: limits.token_depth.unwrap_or(token.depth_max),
                },
                json_depth_max: limits.json_depth.unwrap_or(api.json_depth_max),
            },
            cache_bytes: limits.cache_bytes.unwrap_or(BYTES_MAX_DEFAULT),
            server: server::Limits {
                body_bytes_max: limits.body_bytes.unwrap_or(server.body_bytes_max),
                large_paths: &["/v1/filter"],
                large_body_bytes_max: limits.filter_body_bytes.unwrap_or(server.large_body_bytes_max),
                large_requests_max: limits.filter_requests.unwrap_or(server.large_requests_max),
                headers_bytes_max: limits.header_bytes.unwrap_or(server.headers_bytes_max),
                url_bytes_max: limits.url_bytes.unwrap_or(server.url_bytes_max),
                connections_max: limits.connections.unwrap_or(server.connections_max),
                requests_max: limits.requests.unwrap_or(server.requests_max),
                calls_max: limits.calls.unwrap_or(server.calls_max),
                calls_bytes_max: limits.calls_bytes.unwrap_or(server.calls_bytes_max),
                head_timeout: seconds(limits.head_seconds, server.head_timeout),
                body_timeout: seconds(limits.body_seconds, server.body_timeout),
                request_timeout: seconds(limits.request_seconds, server.request_timeout),
                drain_timeout: seconds(limits.drain_seconds, server.drain_timeout),
            },
        })
    }
}

/// `name`, or `Type.name`.
fn parameter(file: &str, name: &str) -> Result<(Option<String>, String), Finding> {
    let (of, code) = match name.split_once('.') {
        Some((of, code)) => (Some(of.to_owned()), code),
        None => (None, name),
    };
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_$".contains(c));
    if !plain(code) || !of.as_deref().is_none_or(plain) {
        let message = format!("`{name}` in `fhir.parameters` is no name of a search parameter");
        return Err(general(file, message, "write `name`, or `Type.name` for one resource type"));
    }
    Ok((of, code.to_owned()))
}

fn yaml(file: &str, error: &serde_yaml::Error) -> Finding {
    let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
    let help = Some("docs/operating.md lists every field".to_owned());
    Finding { file: file.to_owned(), line, column, message: error.to_string(), help }
}

fn general(file: &str, message: String, help: &str) -> Finding {
    Finding { file: file.to_owned(), line: 0, column: 0, message, help: Some(help.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn what_the_file_says_is_set_and_what_it_does_not_know_is_refused() {
        let empty = Config::read("cedarward.yaml", "").unwrap();
        assert_eq!(empty.listen, super::LISTEN);
        assert_eq!(empty.api.token.token_bytes_max, 16 * 1024);
        let set = Config::read("c", "fhir: {version: R5, parameters: [_offset]}\nlimits: {bodyBytes: 7}").unwrap();
        assert_eq!(set.server.body_bytes_max, 7);
        assert_eq!(set.snapshot.request.parameters, vec![(None, "_offset".to_owned())]);
        for wrong in
            ["limit: {}", "limits: {bodybytes: 7}", "fhir: {version: STU3}", "listen: everywhere", "fhir: {bases: [x]}"]
        {
            assert!(Config::read("c", wrong).is_err(), "{wrong}");
        }
    }
}
