//! Other engines with as many policies, where they are on the PATH: `cerbos` (npm), `cedar-agent` (a crate), `opa` (a Go
//! module). Each is asked as its documentation shows, for the same role, type and action.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::driver::{Bodies, Server};
use crate::questions::Pair;

/// Its name, how long it took until it answered, the server, and the question.
pub type Peer = (&'static str, Duration, Server, Bodies);

/// `None` where it is not installed.
type Start = fn(&Path, &[Pair]) -> Option<(Server, Bodies)>;

const CERBOS_PORT: u16 = 18_592;
const CERBOS_GRPC_PORT: u16 = 18_595;
const CEDAR_AGENT_PORT: u16 = 18_593;
const OPA_PORT: u16 = 18_594;

pub fn installed(folder: &Path, pairs: &[Pair]) -> Vec<Peer> {
    let dir = folder.join(format!("peers-{}", pairs.len()));
    std::fs::create_dir_all(&dir).unwrap();
    let peers: [(&'static str, Start); 3] = [("Cerbos", cerbos), ("cedar-agent", cedar_agent), ("OPA", opa)];
    let start = |(name, peer): (&'static str, Start)| {
        let started = Instant::now();
        let (server, question) = peer(&dir, pairs)?;
        let answer = server.once(&question);
        let permits = ["EFFECT_ALLOW", "\"Allow\"", "\"result\":true"].iter().any(|word| answer.contains(word));
        assert!(permits, "{name}: {answer}");
        Some((name, started.elapsed(), server, question))
    };
    peers.into_iter().filter_map(start).collect()
}

/// One resource policy for each type, with a rule for each role.
fn cerbos(dir: &Path, pairs: &[Pair]) -> Option<(Server, Bodies)> {
    let dir = dir.join("cerbos");
    let mut types: Vec<&str> = pairs.iter().map(|pair| pair.of).collect();
    types.sort_unstable();
    types.dedup();
    std::fs::create_dir_all(dir.join("policies")).unwrap();
    for of in types {
        let mut text =
            format!("apiVersion: api.cerbos.dev/v1\nresourcePolicy:\n  resource: {of}\n  version: default\n  rules:\n");
        for pair in pairs.iter().filter(|pair| pair.of == of) {
            writeln!(text, "    - actions: [read]\n      effect: EFFECT_ALLOW\n      roles: [{}]", pair.role).unwrap();
        }
        std::fs::write(dir.join(format!("policies/{of}.yaml")), text).unwrap();
    }
    let config = json!({
        "server": { "httpListenAddr": format!("127.0.0.1:{CERBOS_PORT}"), "grpcListenAddr": format!("127.0.0.1:{CERBOS_GRPC_PORT}") },
        "storage": { "driver": "disk", "disk": { "directory": dir.join("policies"), "watchForChanges": false } },
        "telemetry": { "disabled": true },
    });
    std::fs::write(dir.join("cerbos.yaml"), config.to_string()).unwrap();
    let mut command = Command::new("cerbos");
    let server = Server::on_port(command.arg("server").arg("--config").arg(dir.join("cerbos.yaml")), CERBOS_PORT)?;
    let question = json!({
        "requestId": "1",
        "principal": { "id": "123", "roles": [pairs[0].role] },
        "resources": [{ "resource": { "kind": pairs[0].of, "id": "55" }, "actions": ["read"] }],
    });
    Some((server, Bodies { path: "/api/check/resources", bodies: vec![question.to_string()] }))
}

fn cedar_agent(_: &Path, pairs: &[Pair]) -> Option<(Server, Bodies)> {
    let port = CEDAR_AGENT_PORT.to_string();
    let mut command = Command::new("cedar-agent");
    let server = Server::on_port(command.args(["--addr", "127.0.0.1", "--port", &port]), CEDAR_AGENT_PORT)?;
    // its Cedar has no `is` yet, and it takes no long texts: types are groups, and policies come one by one
    for Pair { role, of } in pairs {
        let content =
            format!("permit (principal in Role::\"{role}\", action == Action::\"read\", resource in Type::\"{of}\");");
        server.send("POST", "/v1/policies", &json!({ "id": format!("{role}-{of}"), "content": content }).to_string());
    }
    let uid = |of: &str, id: &str| json!({ "type": of, "id": id });
    let entities = json!([
        { "uid": uid("User", "123"), "attrs": {}, "parents": [uid("Role", &pairs[0].role)] },
        { "uid": uid("Role", &pairs[0].role), "attrs": {}, "parents": [] },
        { "uid": uid(pairs[0].of, "55"), "attrs": {}, "parents": [uid("Type", pairs[0].of)] },
        { "uid": uid("Type", pairs[0].of), "attrs": {}, "parents": [] },
    ]);
    server.send("PUT", "/v1/data", &entities.to_string());
    let question = json!({
        "principal": "User::\"123\"", "action": "Action::\"read\"", "resource": format!("{}::\"55\"", pairs[0].of),
        "context": {},
    });
    Some((server, Bodies { path: "/v1/is_authorized", bodies: vec![question.to_string()] }))
}

/// Roles as data, which is how OPA stays flat.
fn opa(dir: &Path, pairs: &[Pair]) -> Option<(Server, Bodies)> {
    let mut grants = json!({});
    for Pair { role, of } in pairs {
        grants[role][*of] = json!(["read"]);
    }
    let rego = "package fhir\n\ndefault allow := false\n\nallow if {\n\tsome role in input.roles\n\tinput.action in data.grants[role][input.type]\n}\n";
    std::fs::write(dir.join("grants.json"), json!({ "grants": grants }).to_string()).unwrap();
    std::fs::write(dir.join("fhir.rego"), rego).unwrap();
    let address = format!("127.0.0.1:{OPA_PORT}");
    let mut command = Command::new("opa");
    let command = command.args(["run", "--server", "--log-level", "error", "--disable-telemetry", "--addr", &address]);
    let server = Server::on_port(command.arg(dir.join("fhir.rego")).arg(dir.join("grants.json")), OPA_PORT)?;
    let question = json!({ "input": { "roles": [pairs[0].role], "type": pairs[0].of, "action": "read" } });
    Some((server, Bodies { path: "/v1/data/fhir/allow", bodies: vec![question.to_string()] }))
}
