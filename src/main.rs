//! ◆ The commands. The only place that prints or exits, reads arguments and environment.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use cedarward::config::Config;
use cedarward::engine::explain;
use cedarward::finding::Finding;
use cedarward::http::api::{self, Desk};
use cedarward::http::{grpc::Grpc, server, service::Service};
use cedarward::policy::folder::Folder;
use cedarward::policy::schema;
use cedarward::policy::snapshot::Snapshot;
use cedarward::sources::resources::Upstream;
use cedarward::sources::serving::{Origin, Serving};
use cedarward::sources::{folder, keys::KeyRing};
use cedarward::token::issuers::{Algorithm, Issuers};
use cedarward::token::jws::{self, MintKey};
use cedarward::{embedded, tables};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};

/// Chosen by measurement: less time than the C library's, and less memory after a reload (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Read where it lies in the working folder, unless `--config` names another.
const CONFIG: &str = "cedarward.yaml";

/// The policy decision point for FHIR servers: token claims and a FHIR request in, a decision out.
#[derive(Parser)]
#[command(
    name = "cedarward",
    version,
    after_help = "Start with `cedarward serve`, then:\n  \
    curl -s localhost:8180/v1/authorize -H 'content-type: application/json' -d \
    '{\"claims\":{\"iss\":\"https://issuerurl\",\"oid\":\"123\",\"roles\":[\"admin\"]},\
    \"request\":{\"method\":\"GET\",\"url\":\"/Patient\"}}'"
)]
struct Cli {
    /// The configuration file [default: cedarward.yaml, where there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve decisions over HTTP
    Serve(Serve),
    /// Decide one request of /v1/authorize, from a file or stdin; exit 0 permit, 1 deny, 2 not answerable
    Check {
        /// The request as JSON; stdin where it is absent
        file: Option<PathBuf>,
        #[command(flatten)]
        folder: Policies,
    },
    /// Look into tokens, and make them for development
    #[command(subcommand)]
    Token(Token),
    /// Check a policy folder: policies, schema, claim rules; exit 0 all well, 1 findings, 2 could not run
    Validate {
        dir: PathBuf,
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[arg(long = "theme", value_name = "NAME")]
        themes: Vec<String>,
    },
    /// Run the decision tables of a policy folder, DIR/tests/*.yaml; exit 0 all well, 1 differences, 2 could not run
    Test {
        dir: PathBuf,
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Print the Cedar schema that policies are written against
    Schema,
    /// Write the default policies into a folder, for editing; files that are there already stay as they are
    Init { dir: PathBuf },
}

#[derive(Args)]
struct Policies {
    /// The policy folder [default: the policies that the binary carries]
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// An optional theme that is on, such as `confidentiality`; may be repeated
    #[arg(long = "theme", value_name = "NAME")]
    themes: Vec<String>,
}

#[derive(Args)]
struct Serve {
    /// The address to listen on [default: 127.0.0.1:8180]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    folder: Policies,
    /// Listen on addresses other than loopback. DANGEROUS: whoever reaches the port may ask what anyone may do, with
    /// claims of their choice; put it behind a network policy or a proxy that knows its callers
    #[arg(long)]
    dangerously_listen_beyond_loopback: bool,
}

#[derive(Subcommand)]
enum Token {
    /// Show a token: header, claims, what the rules make of them, and whether it is valid or why not
    Decode {
        /// The compact token; stdin where it is absent
        token: Option<String>,
        #[command(flatten)]
        folder: Policies,
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Sign a development token with a local key
    Mint {
        /// The claims, a JSON object
        #[arg(long, value_name = "FILE")]
        claims: PathBuf,
        /// A PEM private key, or a file whose bytes are an HMAC secret
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// HS256 … EdDSA
        #[arg(long, default_value = "HS256")]
        algorithm: String,
        /// The key's id, for the header
        #[arg(long)]
        kid: Option<String>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What ends a command early: what is wrong, and the exit status.
struct Stop(String, u8);

type Outcome = Result<u8, Stop>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = config(cli.config.as_deref()).and_then(|config| match cli.command {
        Command::Serve(serve) => run_server(config, serve),
        Command::Check { file, folder } => check(with(config, folder), file.as_deref()),
        Command::Token(Token::Decode { token, folder, format }) => decode(with(config, folder), token, format),
        Command::Token(Token::Mint { claims, key, algorithm, kid }) => mint(&claims, &key, &algorithm, kid.as_deref()),
        Command::Validate { dir, format, themes } => {
            validate(with(config, Policies { policies: None, themes }), &dir, format)
        }
        Command::Test { dir, format } => test(&config, &dir, format),
        Command::Schema => {
            let text = schema::text(cedarward::fhir::definitions::Definitions::of(config.snapshot.version));
            print(&text)
        }
        Command::Init { dir } => init(&dir),
    });
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(Stop(message, status)) => {
            eprintln!("cedarward: {message}");
            ExitCode::from(status)
        }
    }
}

fn config(named: Option<&Path>) -> Result<Config, Stop> {
    let path = named.unwrap_or(Path::new(CONFIG));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Stop(format!("{} cannot be read: {error}", path.display()), 2)),
    };
    Config::read(&path.display().to_string(), &text).map_err(|finding| Stop(finding.to_string(), 2))
}

fn with(mut config: Config, folder: Policies) -> Config {
    config.origin.policies = folder.policies.or(config.origin.policies);
    config.snapshot.themes.extend(folder.themes);
    config
}

fn run_server(config: Config, serve: Serve) -> Outcome {
    let mut config = with(config, serve.folder);
    config.listen = serve.listen.unwrap_or(config.listen);
    if !config.listen.ip().is_loopback() && !serve.dangerously_listen_beyond_loopback {
        let message = format!(
            "{} is beyond loopback: whoever reaches it may ask with claims of their choice\n  \
             help: listen on 127.0.0.1, or say --dangerously-listen-beyond-loopback",
            config.listen
        );
        return Err(Stop(message, 2));
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("CEDARWARD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    // a panic is caught and answered as an error; its message could hold what must not be logged, its place cannot
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(
            at = panic.location().map(tracing::field::display),
            "a panic; the request it stopped gets no permit"
        );
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Stop(format!("no runtime: {error}"), 2))?.block_on(run(config))
}

async fn run(config: Config) -> Outcome {
    // watched before it is read, so that no edit falls between
    let changes = Changes::of(&config.origin).map_err(|message| Stop(message, 2))?;
    let started = Serving::start(config.origin.clone(), config.snapshot.clone(), config.cache_bytes);
    let serving = Arc::new(started.map_err(|findings| Stop(render(&findings), 2))?);
    serving.state().keys.start();
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .map_err(|error| Stop(format!("cannot listen on {}: {error}", config.listen), 2))?;
    let address = listener.local_addr().map_err(|error| Stop(error.to_string(), 2))?;
    tokio::spawn(changes.reload_on_each(Arc::clone(&serving)));
    let stop = stop_signal().map_err(|error| Stop(format!("no signal handler: {error}"), 2))?;
    let upstream = config.upstream.map(Upstream::new).transpose();
    let upstream = upstream.map_err(|error| Stop(error.to_string(), 2))?;
    let service = Service::new(Arc::clone(&serving), config.api, config.proxy, upstream, config.authzen_url);
    tracing::info!(%address, revision = %serving.state().snapshot.revision, "ready");
    print(&format!("listening on http://{address}\n"))?;
    let handler = Grpc::new(service, config.server.body_bytes_max, config.server.calls_bytes_max);
    server::serve(listener, config.server, handler, stop).await.map_err(|error| Stop(error.to_string(), 2))?;
    tracing::info!("stopped");
    Ok(0)
}

fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// What asks for a reload: an edit in the folder, or SIGHUP.
struct Changes {
    edits: tokio::sync::mpsc::Receiver<()>,
    hangups: tokio::signal::unix::Signal,
    /// kept for as long as edits are to be told
    _watchers: Vec<folder::Watcher>,
    /// kept so that the channel stays open where nothing is watched
    _tell: tokio::sync::mpsc::Sender<()>,
}

impl Changes {
    fn of(origin: &Origin) -> Result<Changes, String> {
        let (tell, edits) = tokio::sync::mpsc::channel(1);
        let hangups = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
        let folders = [&origin.policies, &origin.domain].into_iter().flatten();
        let watchers: Result<Vec<_>, _> = folders.map(|folder| folder::watch(folder, tell.clone())).collect();
        Ok(Changes {
            edits,
            hangups: hangups.map_err(|error| error.to_string())?,
            _watchers: watchers.map_err(|error| error.to_string())?,
            _tell: tell,
        })
    }

    async fn reload_on_each(mut self, serving: Arc<Serving>) {
        loop {
            tokio::select! {
                _ = self.edits.recv() => {}
                _ = self.hangups.recv() => {}
            }
            let again = Arc::clone(&serving);
            // a panic in there is an error here, and the last good state keeps serving
            match tokio::task::spawn_blocking(move || again.reload()).await {
                Ok(Ok(state)) => {
                    state.keys.start();
                    tracing::info!(revision = %state.snapshot.revision, "policies loaded");
                }
                Ok(Err(findings)) => {
                    let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
                    let revision = serving.state().snapshot.revision.to_string();
                    tracing::error!(
                        ?findings,
                        still_serving = revision,
                        "policies refused; the last good ones keep serving"
                    );
                }
                Err(error) => tracing::error!(%error, "loading policies failed; the last good ones keep serving"),
            }
        }
    }
}

/// A state of the world for one command: snapshot and keys, without anything in the background.
fn load(config: &Config) -> Result<(Snapshot, Arc<Issuers>), Stop> {
    let serving = Serving::start(config.origin.clone(), config.snapshot.clone(), config.cache_bytes);
    let state = serving.map_err(|findings| Stop(render(&findings), 2))?.state();
    let state = Arc::into_inner(state).ok_or_else(|| Stop("the state is in use".to_owned(), 2))?;
    let issuers = KeyRing::issuers(&state.keys);
    Ok((state.snapshot, issuers))
}

fn check(config: Config, file: Option<&Path>) -> Outcome {
    let question = match file {
        Some(path) => std::fs::read(path).map_err(|error| format!("{}: {error}", path.display())),
        None => stdin().map(String::into_bytes),
    };
    let question = question.map_err(|message| Stop(message, 2))?;
    let (snapshot, issuers) = load(&config)?;
    let ids = || ulid::Ulid::generate().to_string();
    let desk = Desk { ids: &ids, ..Desk::alone(&snapshot, &issuers, &config.api, now()) };
    match api::authorize(&desk, &question) {
        Ok(Ok(answered)) => {
            let permit = answered.summaries.iter().all(|summary| summary.permit);
            print(&format!("{}\n", pretty(&answered.body)))?;
            Ok(if permit { 0 } else { 1 })
        }
        Ok(Err(error)) => {
            let at = error.at.as_deref().unwrap_or("the request");
            Err(Stop(format!("{at}: {error}"), 2))
        }
        Err(_) => Err(Stop("the issuer's keys are not at hand".to_owned(), 2)),
    }
}

fn decode(config: Config, token: Option<String>, format: Format) -> Outcome {
    let token = match token {
        Some(token) => token,
        None => stdin().map_err(|message| Stop(message, 2))?.trim().to_owned(),
    };
    let decoded = jws::decode(&token, &config.api.token).map_err(|error| Stop(format!("no token: {error}"), 1))?;
    let (snapshot, issuers) = load(&config)?;
    let verified = jws::verify(&token, &issuers, &config.api.token, now());
    let claims = match &verified {
        Ok(claims) => claims.clone(),
        Err(_) => jws::Claims::vouched(decoded.payload.clone()),
    };
    let principal = match snapshot.rules.principal(&claims, &config.snapshot.request.bases) {
        Ok(principal) => json!({
            "principal": explain::who(&principal),
            "notes": principal.notes.iter().map(|note| format!("{}: {}", note.about, note.message)).collect::<Vec<_>>(),
        }),
        Err(refusal) => json!({ "refused": refusal.message }),
    };
    let verdict = match &verified {
        Ok(_) => "valid: signature, issuer, audience and times were verified".to_owned(),
        Err(error) => format!("nothing was verified: {error}"),
    };
    let valid = verified.is_ok();
    let all = json!({ "header": decoded.header, "claims": decoded.payload, "rules": principal, "valid": valid, "verdict": verdict });
    match format {
        Format::Json => print(&format!("{all:#}\n"))?,
        Format::Text => print(&format!(
            "header\n{:#}\n\nclaims\n{:#}\n\nwhat the claim rules make of them\n{principal:#}\n\n{verdict}\n",
            Value::Object(decoded.header),
            Value::Object(decoded.payload)
        ))?,
    };
    Ok(if valid { 0 } else { 1 })
}

fn mint(claims: &Path, key: &Path, algorithm: &str, kid: Option<&str>) -> Outcome {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| Stop(format!("{} cannot be read: {error}", path.display()), 2))
    };
    let wrong = |path: &Path, message: String| Stop(format!("{}: {message}", path.display()), 2);
    let parsed = cedarward::json::parse(&read(claims)?, 64).map_err(|error| wrong(claims, error.to_string()))?;
    let Value::Object(payload) = parsed else { return Err(wrong(claims, "the claims are no JSON object".to_owned())) };
    let algorithm: Algorithm = algorithm.parse().map_err(|error| Stop(format!("{error}"), 2))?;
    let bytes = read(key)?;
    let signer = if algorithm.is_symmetric() { MintKey::Secret(&bytes) } else { MintKey::PrivatePem(&bytes) };
    let token = jws::mint(&payload, algorithm, signer, kid).map_err(|error| wrong(key, error.to_string()))?;
    print(&format!("{token}\n"))
}

fn validate(config: Config, dir: &Path, format: Format) -> Outcome {
    let read = read_folder(dir)?;
    let (findings, warnings) = match Snapshot::load(&read, &config.snapshot) {
        Ok(snapshot) => (Vec::new(), snapshot.warnings),
        Err(findings) => (findings, Vec::new()),
    };
    if format == Format::Json {
        let of = |findings: &[Finding]| {
            findings
                .iter()
                .map(|finding| {
                    json!({
                        "file": finding.file, "line": finding.line, "column": finding.column,
                        "message": finding.message, "help": finding.help,
                    })
                })
                .collect::<Vec<_>>()
        };
        print(&format!("{:#}\n", json!({ "findings": of(&findings), "warnings": of(&warnings) })))?;
    } else {
        eprint!("{}{}", sourced(&read, &findings), sourced(&read, &warnings));
        print(&format!("{}: {} findings, {} warnings\n", dir.display(), findings.len(), warnings.len()))?;
    }
    Ok(if findings.is_empty() { 0 } else { 1 })
}

fn test(config: &Config, dir: &Path, format: Format) -> Outcome {
    let read = read_folder(dir)?;
    let report = tables::run(&read, &config.snapshot);
    let failed = report.differences.len() + report.findings.len();
    if format == Format::Json {
        let differences: Vec<Value> = report.differences.iter().map(|difference| json!({
            "file": difference.file, "case": difference.case, "difference": difference.lines, "answer": difference.answer,
        })).collect();
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        print(&format!(
            "{:#}\n",
            json!({ "passed": report.passed, "differences": differences, "findings": findings })
        ))?;
    } else {
        eprint!("{}", sourced(&read, &report.findings));
        for difference in &report.differences {
            eprintln!("{}: {}\n  {}", difference.file, difference.case, difference.lines.join("\n  "));
            eprintln!("  the whole answer: {}\n", difference.answer);
        }
        print(&format!("{} passed, {failed} failed\n", report.passed))?;
    }
    Ok(if failed == 0 { 0 } else { 1 })
}

fn init(dir: &Path) -> Outcome {
    let mut kept = 0;
    for (path, text) in embedded::FILES {
        let target = dir.join(path);
        let written = target.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            // create_new: what is there stays, even if it came this very moment
            std::fs::OpenOptions::new().write(true).create_new(true).open(&target)?.write_all(text.as_bytes())
        });
        match written {
            Ok(()) => eprintln!("wrote {}", target.display()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                kept += 1;
                eprintln!("kept  {}, which was there already", target.display());
            }
            Err(error) => return Err(Stop(format!("{}: {error}", target.display()), 2)),
        }
    }
    Ok(if kept == 0 { 0 } else { 1 })
}

fn read_folder(dir: &Path) -> Result<Folder, Stop> {
    folder::read(dir).map_err(|error| Stop(error.to_string(), 2))
}

/// Findings with the lines that they are about.
fn sourced(folder: &Folder, findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| {
            let text = folder.0.get(&finding.file).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            format!("{:?}\n", miette::Report::new(Shown::of(finding, text)))
        })
        .collect()
}

/// A finding as miette shows it: the line, and a mark below.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{message}")]
struct Shown {
    message: String,
    #[help]
    help: Option<String>,
    #[source_code]
    text: miette::NamedSource<String>,
    #[label("here")]
    label: Option<miette::SourceOffset>,
}

impl Shown {
    fn of(finding: &Finding, text: Option<String>) -> Shown {
        let known = finding.line > 0 && text.is_some();
        let text = text.unwrap_or_default();
        let label = known.then(|| miette::SourceOffset::from_location(&text, finding.line, finding.column.max(1)));
        Shown {
            message: format!("{}:{}:{}: {}", finding.file, finding.line, finding.column, finding.message),
            help: finding.help.clone(),
            text: miette::NamedSource::new(&finding.file, text),
            label,
        }
    }
}

fn render(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    format!("the policies do not load:\n{}", lines.join("\n"))
}

fn pretty(body: &[u8]) -> String {
    serde_json::from_slice::<Value>(body).map(|value| format!("{value:#}")).unwrap_or_default()
}

fn stdin() -> Result<String, String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| format!("stdin: {error}"))?;
    Ok(text)
}

/// To stdout; a reader that has gone away is no success.
fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map(|()| 0).map_err(|error| Stop(format!("stdout: {error}"), 2))
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(i64::MAX)
}
