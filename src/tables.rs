//! Decision tables: YAML → cases → differences. What a nurse informaticist reviews, `cedarward test` and CI run.
//! Hides the file's form. Every case takes the whole path of a request: `http::api::authorize`.
//! INVARIANT: a case without an expectation, and a table with an unknown field or name, is a difference, never a pass.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::finding::Finding;
use crate::http::api::{self, Desk};
use crate::policy::folder::Folder;
use crate::policy::snapshot::{Settings, Snapshot};
use crate::token::issuers::Issuers;

/// The moment at which every case is asked, in seconds since 1970, unless the table sets `now`.
const NOW: i64 = 1_767_225_600;

/// How a run of tables went.
#[derive(Debug, Default)]
pub struct Report {
    pub passed: usize,
    pub differences: Vec<Difference>,
    /// tables or policies that could not be read
    pub findings: Vec<Finding>,
}

/// A case whose answer is not the expected one.
#[derive(Debug)]
pub struct Difference {
    pub file: String,
    pub case: String,
    /// one line each: what is expected, and what came
    pub lines: Vec<String>,
    /// the whole answer, with its explanation
    pub answer: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Table {
    /// themes that are on for this table
    #[serde(default)]
    themes: Vec<String>,
    #[serde(default)]
    now: Option<i64>,
    /// what the callers of this table enforce, unless a case says otherwise
    #[serde(default)]
    enforces: Option<Value>,
    #[serde(default)]
    claims: BTreeMap<String, Value>,
    #[serde(default)]
    resources: BTreeMap<String, Value>,
    #[serde(default)]
    cases: Vec<Case>,
    #[serde(default)]
    matrices: Vec<Matrix>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Case {
    name: String,
    /// a name of `claims`, or the claims themselves
    claims: Value,
    #[serde(flatten)]
    asked: Asked,
    /// `permit`, `deny`, a code of a deny, or a part of the answer
    expect: Value,
}

/// A request and what goes with it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Asked {
    /// `METHOD URL`
    request: String,
    #[serde(default)]
    headers: Option<Value>,
    /// a name of `resources`, a form as text after `form:`, or the body itself
    #[serde(default)]
    body: Option<Value>,
    /// a name of `resources`, `none` where there is none, or the resource itself
    #[serde(default)]
    resource: Option<Value>,
    #[serde(default)]
    proposed: Option<Value>,
    #[serde(default)]
    context: Option<Value>,
    #[serde(default)]
    enforces: Option<Value>,
}

/// Who may do what, at a glance: what is not listed under `permits` must be denied.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Matrix {
    name: String,
    requests: BTreeMap<String, MatrixRequest>,
    permits: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum MatrixRequest {
    Line(String),
    Full(Box<Asked>),
}

/// Runs every table of a folder against its policies.
pub fn run(folder: &Folder, settings: &Settings) -> Report {
    let mut report = Report::default();
    let mut snapshots: BTreeMap<Vec<String>, Snapshot> = BTreeMap::new();
    let tables = folder
        .0
        .iter()
        .filter(|(path, _)| path.starts_with("tests/") && (path.ends_with(".yaml") || path.ends_with(".yml")));
    for (path, bytes) in tables {
        let table = match read(path, bytes) {
            Ok(table) => table,
            Err(finding) => {
                report.findings.push(finding);
                continue;
            }
        };
        if !snapshots.contains_key(&table.themes) {
            let themes = settings.themes.iter().chain(&table.themes).cloned().collect();
            match Snapshot::load(folder, &Settings { themes, ..settings.clone() }) {
                Ok(snapshot) => drop(snapshots.insert(table.themes.clone(), snapshot)),
                Err(findings) => {
                    report.findings.extend(findings);
                    return report;
                }
            }
        }
        if let Some(snapshot) = snapshots.get(&table.themes) {
            run_table(path, &table, snapshot, &mut report);
        }
    }
    report
}

fn read(path: &str, bytes: &[u8]) -> Result<Table, Finding> {
    serde_yaml::from_slice(bytes).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        let help = Some("docs/testing.md shows the form of a decision table".to_owned());
        Finding { file: path.to_owned(), line, column, message: error.to_string(), help }
    })
}

fn run_table(path: &str, table: &Table, snapshot: &Snapshot, report: &mut Report) {
    let mut cases = table.cases.clone();
    for matrix in &table.matrices {
        match matrix.cases() {
            Ok(more) => cases.extend(more),
            Err(message) => report.differences.push(Difference::of_form(path, &matrix.name, message)),
        }
    }
    if cases.is_empty() {
        report.differences.push(Difference::of_form(path, "", "the table has no case".to_owned()));
    }
    for case in &cases {
        match table.question(case) {
            Ok(question) => {
                let answer = ask(snapshot, table.now.unwrap_or(NOW), &question);
                let mut lines = Vec::new();
                compare("", &expectation(&case.expect), &answer, &mut lines);
                if lines.is_empty() {
                    report.passed += 1;
                } else {
                    report.differences.push(Difference {
                        file: path.to_owned(),
                        case: case.name.clone(),
                        lines,
                        answer,
                    });
                }
            }
            Err(message) => report.differences.push(Difference::of_form(path, &case.name, message)),
        }
    }
}

impl Difference {
    fn of_form(file: &str, case: &str, message: String) -> Difference {
        Difference { file: file.to_owned(), case: case.to_owned(), lines: vec![message], answer: Value::Null }
    }
}

impl Matrix {
    fn cases(&self) -> Result<Vec<Case>, String> {
        let mut cases = Vec::new();
        for (claims, permitted) in &self.permits {
            if let Some(unknown) = permitted.iter().find(|name| !self.requests.contains_key(*name)) {
                return Err(format!("`{unknown}`, permitted to `{claims}`, is none of the matrix's requests"));
            }
            for (name, request) in &self.requests {
                let expect = if permitted.contains(name) { "permit" } else { "deny" };
                cases.push(Case {
                    name: format!("{}: {claims}, {name}", self.name),
                    claims: json!(claims),
                    asked: request.asked(),
                    expect: json!(expect),
                });
            }
        }
        Ok(cases)
    }
}

impl MatrixRequest {
    fn asked(&self) -> Asked {
        match self {
            MatrixRequest::Full(asked) => (**asked).clone(),
            MatrixRequest::Line(request) => Asked {
                request: request.clone(),
                headers: None,
                body: None,
                resource: None,
                proposed: None,
                context: None,
                enforces: None,
            },
        }
    }
}

impl Table {
    /// The JSON of `/v1/authorize` that a case stands for.
    fn question(&self, case: &Case) -> Result<Value, String> {
        let asked = &case.asked;
        let (method, url) = asked.request.split_once(' ').ok_or("`request` is `METHOD URL`")?;
        let mut request = json!({ "method": method, "url": url });
        insert(&mut request, "headers", asked.headers.clone());
        insert(&mut request, "body", asked.body.as_ref().map(|body| self.body(body)).transpose()?);
        let claims = match &case.claims {
            Value::String(name) => self.claims.get(name).cloned().ok_or(format!("no `claims` of the name `{name}`"))?,
            inline => inline.clone(),
        };
        let who = if claims.is_string() { "token" } else { "claims" };
        let mut question = json!({ who: claims, "request": request, "explain": true });
        insert(&mut question, "resource", asked.resource.as_ref().map(|named| self.resource(named)).transpose()?);
        insert(&mut question, "proposed", asked.proposed.as_ref().map(|named| self.resource(named)).transpose()?);
        insert(&mut question, "context", asked.context.clone());
        insert(&mut question, "enforces", asked.enforces.clone().or_else(|| self.enforces.clone()));
        Ok(question)
    }

    fn resource(&self, named: &Value) -> Result<Value, String> {
        match named {
            Value::String(name) if name == "none" => Ok(Value::Null),
            Value::String(name) => self.resources.get(name).cloned().ok_or(format!("no resource of the name `{name}`")),
            inline => Ok(inline.clone()),
        }
    }

    fn body(&self, named: &Value) -> Result<Value, String> {
        match named {
            Value::String(text) if text.starts_with("form:") => Ok(json!(text.trim_start_matches("form:"))),
            named => self.resource(named),
        }
    }
}

fn insert(object: &mut Value, name: &str, value: Option<Value>) {
    if let (Some(object), Some(value)) = (object.as_object_mut(), value) {
        object.insert(name.to_owned(), value);
    }
}

fn ask(snapshot: &Snapshot, now: i64, question: &Value) -> Value {
    let limits = api::Limits::default();
    let issuers = Issuers::new(snapshot.rules.issuers().to_vec());
    let desk = Desk::alone(snapshot, &issuers, &limits, now);
    match api::authorize(&desk, question.to_string().as_bytes()) {
        Ok(Ok(answered)) => serde_json::from_slice(&answered.body).unwrap_or(Value::Null),
        Ok(Err(error)) => json!({ "error": { "status": error.status, "message": error.message, "at": error.at } }),
        Err(lacking) => json!({ "error": { "message": format!("not at hand: {lacking:?}") } }),
    }
}

/// `permit` and `deny` are decisions, another word is the code of a deny, anything else a part of the answer.
fn expectation(expect: &Value) -> Value {
    match expect {
        Value::String(word) if word == "permit" => json!({ "decision": "permit", "obligations": Value::Null }),
        Value::String(word) if word == "deny" => json!({ "decision": "deny" }),
        Value::String(code) if code == "error" => json!({ "error": Value::Object(Map::new()) }),
        Value::String(code) => json!({ "decision": "deny", "code": code }),
        part => part.clone(),
    }
}

/// An expected object must be a part of the answer's; arrays stand item for item; `null` means that it is not there.
fn compare(at: &str, expected: &Value, found: &Value, lines: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(parts), Value::Object(whole)) => {
            for (name, part) in parts {
                compare(&format!("{at}/{name}"), part, whole.get(name).unwrap_or(&Value::Null), lines);
            }
        }
        (Value::Array(parts), Value::Array(whole)) if parts.len() == whole.len() => {
            for (index, (part, found)) in parts.iter().zip(whole).enumerate() {
                let part = if found.get("decision").is_some() { &expectation(part) } else { part };
                compare(&format!("{at}/{index}"), part, found, lines);
            }
        }
        (expected, found) if expected == found => {}
        (expected, found) => {
            lines.push(format!("{at}: expected {expected}"));
            lines.push(format!("{at}:    found {found}"));
        }
    }
}
