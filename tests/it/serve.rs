//! The binary as a user runs it: it serves, reloads, refuses what is broken, and its commands exit as API.md says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(20);

fn cedarward(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cedarward"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str], input: &str) -> Output {
    let mut child =
        cedarward(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A folder of this test's own, removed when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("cedarward-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server of this test's own, ended when the test ends.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let mut child = cedarward(&["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").expect(&line).to_owned();
        Server { child, address }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n");
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn decision(&self, question: &Value) -> Value {
        let (status, body) = self.ask("POST", "/v1/authorize", &question.to_string());
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn revision(&self) -> String {
        let (_, body) = self.ask("GET", "/v1/policies", "");
        serde_json::from_str::<Value>(&body).unwrap()["revision"].as_str().unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < WAIT, "not within {WAIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn nurse_reads() -> Value {
    json!({ "claims": { "iss": "https://i", "oid": "1", "roles": ["nurse"] },
        "request": { "method": "GET", "url": "/Observation/55" } })
}

#[test]
fn it_serves_the_embedded_policies_and_drains_on_sigterm() {
    let mut server = Server::start(&[]);
    let reader = json!({ "claims": { "iss": "https://i", "oid": "1", "roles": ["FHIR Data Reader"] },
        "request": { "method": "GET", "url": "/Observation/55" } });
    assert_eq!(server.decision(&reader)["decision"], "permit");
    assert_eq!(server.ask("GET", "/healthz", "").0, 200);
    assert_eq!(server.ask("GET", "/readyz", "").0, 200);
    assert!(server.ask("GET", "/metrics", "").1.contains("cedarward_decisions_total{decision=\"permit\"} 1"));
    assert_eq!(server.ask("GET", "/v1/authorize", "").0, 405);
    assert_eq!(server.ask("GET", "/nowhere", "").0, 404);
    assert_eq!(server.ask("POST", "/v1/authorize", "{").0, 400);
    let kill = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn an_edit_is_served_a_broken_one_is_refused_and_the_mended_one_is_served_again() {
    let folder = Folder::new("reload");
    assert_eq!(status(&run(&["init", folder.text()], "")), 0);
    let server = Server::start(&["--policies", folder.text()]);
    assert_eq!(server.decision(&nurse_reads())["decision"], "deny");
    let first = server.revision();

    let nurse = folder.0.join("nurse.cedar");
    let policy =
        "@id(\"nurse\") permit (principal in Role::\"nurse\", action in Action::\"data-action/read\", resource);";
    std::fs::write(&nurse, policy).unwrap();
    until("the nurse's policy is served", || server.decision(&nurse_reads())["decision"] == "permit");
    let second = server.revision();
    assert_ne!(first, second);

    std::fs::write(&nurse, "@id(\"nurse\") permit (principal in").unwrap();
    until("the broken policy is refused", || {
        server.ask("GET", "/metrics", "").1.contains("cedarward_policy_loads_total{result=\"refused\"} 1")
    });
    assert_eq!(server.decision(&nurse_reads())["decision"], "permit");
    assert_eq!(server.revision(), second);

    std::fs::remove_file(&nurse).unwrap();
    until("the nurse's policy is gone", || server.decision(&nurse_reads())["decision"] == "deny");
    assert_eq!(server.revision(), first);

    std::fs::remove_file(folder.0.join("claims.yaml")).unwrap();
    until("a folder without claim rules is refused", || {
        server.ask("GET", "/metrics", "").1.contains("cedarward_policy_loads_total{result=\"refused\"} 2")
    });
    assert_eq!(server.revision(), first);
}

#[test]
fn the_commands_exit_as_they_say() {
    let check = |claims: Value| {
        let question = json!({ "claims": claims, "request": { "method": "GET", "url": "/Patient/1" } });
        run(&["check"], &question.to_string())
    };
    assert_eq!(status(&check(json!({ "iss": "https://i", "roles": ["admin"] }))), 0);
    assert_eq!(status(&check(json!({ "iss": "https://i", "roles": ["nobody"] }))), 1);
    assert_eq!(status(&run(&["check"], "{")), 2);
    assert_eq!(status(&run(&["validate", "policies"], "")), 0);
    assert_eq!(status(&run(&["test", "policies"], "")), 0);
    assert_eq!(status(&run(&["validate", "no/such/folder"], "")), 2);
    let beyond = run(&["serve", "--listen", "0.0.0.0:0"], "");
    assert_eq!(status(&beyond), 2);
    assert!(String::from_utf8_lossy(&beyond.stderr).contains("beyond loopback"));
    let schema = run(&["schema"], "");
    assert!(String::from_utf8_lossy(&schema.stdout).contains("entity User, Client"));
}

#[test]
fn init_never_writes_over_what_is_there() {
    let folder = Folder::new("init");
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::write(folder.0.join("claims.yaml"), "mine").unwrap();
    assert_eq!(status(&run(&["init", folder.text()], "")), 1);
    assert_eq!(std::fs::read_to_string(folder.0.join("claims.yaml")).unwrap(), "mine");
    assert!(folder.0.join("roles.cedar").exists());
    assert_eq!(status(&run(&["validate", folder.text()], "")), 1);
}

#[test]
fn the_example_token_of_microsofts_page_is_shown_refused_and_its_claims_are_the_admin() {
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJvaWQiOiIxMjMiLCAiaXNzIjoiaHR0cHM6Ly9pc3N1ZXJ1cmwiLCJpYXQiOjE0MjI3Nzk2MzgsInJvbGVzIjpbImFkbWluIl19.gzSraSYS8EXBxLN_oWnFSRgCzcmJmMjLiuyu5CSpyHI";
    let shown = run(&["token", "decode"], token);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(status(&shown), 1, "{text}");
    assert!(text.contains("\"admin\"") && text.contains("nothing was verified"), "{text}");
    let request = json!({ "method": "GET", "url": "/Patient/1" });
    assert_eq!(status(&run(&["check"], &json!({ "token": token, "request": request }).to_string())), 1);
    let claims = json!({ "oid": "123", "iss": "https://issuerurl", "iat": 1_422_779_638, "roles": ["admin"] });
    assert_eq!(status(&run(&["check"], &json!({ "claims": claims, "request": request }).to_string())), 0);
}

#[test]
fn a_token_minted_with_an_own_secret_verifies_where_its_issuer_allows_what_it_lacks() {
    let folder = Folder::new("mint");
    assert_eq!(status(&run(&["init", folder.text()], "")), 0);
    let write = |name: &str, text: &str| std::fs::write(folder.0.join(name), text).unwrap();
    write("secret.key", "0123456789abcdef0123456789abcdef");
    write("payload.txt", r#"{"oid":"123","iss":"https://issuerurl","iat":1422779638,"roles":["admin"]}"#);
    let path = |name: &str| folder.0.join(name).display().to_string();
    let minted = run(&["token", "mint", "--claims", &path("payload.txt"), "--key", &path("secret.key")], "");
    let token = String::from_utf8_lossy(&minted.stdout).trim().to_owned();
    let question = json!({ "token": token, "request": { "method": "GET", "url": "/Patient/1" } }).to_string();
    let policies = ["check", "--policies", folder.text()];
    assert_eq!(status(&run(&policies, &question)), 1, "no issuer is configured yet");

    let claims = std::fs::read_to_string(folder.0.join("claims.yaml")).unwrap();
    let issuer = |allow: &str| {
        format!(
            "\nissuers:\n  - issuer: https://issuerurl\n    profile: smart\n    algorithms: [HS256]\n    \
             keys: {{ secretFile: secret.key }}\n    allow: [{allow}]\n"
        )
    };
    let with_issuer = |allow: &str| claims.replace("\nissuers: []\n", &issuer(allow));
    assert!(with_issuer("").contains("https://issuerurl\n"), "claims.yaml ends with an empty list of issuers");
    write("claims.yaml", &with_issuer("missing-exp, missing-aud"));
    let verified = run(&policies, &question);
    assert_eq!(
        status(&verified),
        0,
        "{}{}",
        String::from_utf8_lossy(&verified.stdout),
        String::from_utf8_lossy(&verified.stderr)
    );
    let decoded = run(&["token", "decode", "--policies", folder.text(), &token], "");
    assert_eq!(status(&decoded), 0);
    // the payload's first letter is `e`, as of every JSON object
    let tampered = token.replacen(".e", ".f", 1);
    assert_ne!(tampered, token);
    let question = json!({ "token": tampered, "request": { "method": "GET", "url": "/Patient/1" } }).to_string();
    assert_eq!(status(&run(&policies, &question)), 1);
    assert!(Path::new(&path("secret.key")).exists());
}
