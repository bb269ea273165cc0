//! An exchange that passes through here: the request is decided, and its answer judged before the client gets it.
//! Hides how a batch is cut to what is permitted and its answers put back in their places.
//! INVARIANT: of an answer that is to be judged nothing goes on before it is: neither status nor headers nor bytes.
//! INVARIANT: what cannot be judged does not go on: another format, an encoding, no such bundle.
//! INVARIANT: of one resource, forbidden and not found look the same.
//! Source: shared/API.md "Behind a reverse proxy", "POST /v1/filter"; FHIR R4 http.html.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::engine::decide::{Answer, Decision, Enforces, Narrowed, Obligations};
use crate::engine::entities::Facts;
use crate::engine::standing::Standing;
use crate::fhir::operation::{Interaction, Operation};
use crate::fhir::resource::is_whole;
use crate::http::api::{Decided, Desk, Lacking, Summary};
use crate::http::proxy::{self, Reply, Sent, Settings, asked, refusal};
use crate::http::results::{Judge, Left, Sieve, resource_left};
use crate::json::pieces::{Piece, Pieces};
use crate::json::{self, JsonError};
use crate::policy::snapshot::Snapshot;

/// What becomes of a request.
pub enum Onward {
    Stop(Reply),
    Go(Box<Go>),
}

/// A request as it is sent on.
pub struct Go {
    /// path and query
    pub url: String,
    pub decision_id: String,
    /// the header of a conditional create, in place of the client's
    pub if_none_exist: Option<String>,
    /// in place of the body that came
    pub body: Option<String>,
    /// what its answer must pass; `None`: nothing
    pub check: Option<Check>,
}

/// Headers of a request whose answer is judged that would have it come in parts, encoded, or not at all.
pub const UNCHECKABLE: &[&str] = &["accept-encoding", "if-modified-since", "if-none-match", "if-range", "range", "te"];

/// One part of an answer at most, where parts are judged one by one; else the whole of it.
const PART_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Here everything is carried out.
const ENFORCES: Enforces = Enforces { filter: true, check_results: true, redact: true };

/// Decides a request that has come whole.
pub fn request(desk: &Desk<'_>, settings: &Settings, sent: &Sent<'_>) -> Result<(Onward, Option<Summary>), Lacking> {
    let asked = match asked(desk, settings, sent, sent.target) {
        Ok(asked) => asked,
        Err(reply) => return Ok((Onward::Stop(reply), None)),
    };
    let (answer, summary, decided) = asked.forwarded(sent.method, false, ENFORCES).answer(desk)?;
    let onward = match onward(settings, sent, &answer, decided) {
        Some(go) => Onward::Go(Box::new(go)),
        None if summary.permit => Onward::Stop(refusal("the access is not permitted")),
        None => Onward::Stop(proxy::reply(&answer, settings, sent.target)),
    };
    Ok((onward, Some(summary)))
}

fn onward(settings: &Settings, sent: &Sent<'_>, told: &Value, decided: Decided) -> Option<Go> {
    let Decided { id, answer, operation, standing, facts } = decided;
    let (operation, standing) = (operation.ok()?, standing?);
    let need = Need::of(&operation, &answer)?;
    let (mut body, mut judging) = (None, need.judging);
    let mut parts = Vec::new();
    if matches!(operation.interaction, Interaction::Batch | Interaction::Transaction) {
        let text = std::str::from_utf8(sent.body).ok()?;
        parts = parts_of(&operation, &answer, told)?;
        body = resent(text, &parts);
        body.as_ref()?;
        let is_judged = |part: &Part| !matches!(part, Part::Sent { need: Need { judging: Judging::Nothing, .. }, .. });
        if judging == Judging::Nothing && parts.iter().any(is_judged) {
            judging = Judging::Strictly;
        }
    }
    if judging != Judging::Nothing && sent.method.eq_ignore_ascii_case("HEAD") {
        return None;
    }
    let (url, if_none_exist) = match need.narrowed {
        Some(Narrowed { url: Some(url), .. }) => (format!("{}{url}", settings.path), None),
        Some(Narrowed { if_none_exist, .. }) => (sent.target.to_owned(), if_none_exist),
        None => (sent.target.to_owned(), None),
    };
    let check = (judging != Judging::Nothing).then(|| Check { standing, operation, facts, judging, parts });
    Some(Go { url, decision_id: id, if_none_exist, body, check })
}

/// What a permitted operation needs of who passes it on.
#[derive(Debug, Clone)]
struct Need {
    narrowed: Option<Narrowed>,
    judging: Judging,
}

/// How an answer is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judging {
    Nothing,
    /// It was narrowed, and is right if the server did as it was told: whole resources are judged all the same,
    /// lest it ignored a criterion (FHIR R4 search.html, "lenient").
    Again,
    /// Nothing but what passes goes on.
    Strictly,
}

impl Need {
    /// `None`: denied, or nothing that can be carried out here.
    fn of(operation: &Operation, answer: &Answer) -> Option<Need> {
        let Decision::Permit(Obligations { filter, check_results, redact }) = &answer.decision else { return None };
        let is_carried = filter.as_ref().is_some_and(|filter| filter.url.is_some() || filter.if_none_exist.is_some());
        let judging = match (filter, is_carried) {
            _ if *check_results || !redact.is_empty() => Judging::Strictly,
            (None, _) => Judging::Nothing,
            (Some(_), true) if operation.is_checkable() => Judging::Again,
            (Some(_), true) => Judging::Nothing,
            // a union, which no request carries: all is fetched, and what is not visible left out
            (Some(_), false) if operation.is_checkable() => Judging::Strictly,
            (Some(_), false) => return None,
        };
        Some(Need { narrowed: filter.clone().filter(|_| is_carried), judging })
    }
}

/// An entry of a batch or transaction.
enum Part {
    Sent {
        need: Need,
    },
    /// with the entry of the answer that says so
    Denied(Value),
}

/// `None` where nothing is left to be sent.
fn parts_of(operation: &Operation, answer: &Answer, told: &Value) -> Option<Vec<Part>> {
    let part = |(index, answer): (usize, &Answer)| {
        let need = operation.entries.get(index)?.as_ref().ok().and_then(|entry| Need::of(entry, answer));
        match need {
            Some(need) => Some(Part::Sent { need }),
            // of a transaction all or nothing
            None if operation.interaction == Interaction::Transaction => None,
            None => {
                let told = told.get("entries")?.get(index)?;
                let status = told.get("status").and_then(Value::as_u64).unwrap_or(403);
                Some(Part::Denied(answer_of_denied(status, told.get("outcome").cloned())))
            }
        }
    };
    let parts: Vec<Part> = answer.entries.iter().enumerate().map(part).collect::<Option<_>>()?;
    let is_any_sent = parts.is_empty() || parts.iter().any(|part| matches!(part, Part::Sent { .. }));
    is_any_sent.then_some(parts)
}

fn answer_of_denied(status: u64, outcome: Option<Value>) -> Value {
    let mut response = json!({ "status": status.to_string() });
    if let (Some(outcome), Some(response)) = (outcome, response.as_object_mut()) {
        response.insert("outcome".to_owned(), outcome);
    }
    json!({ "response": response })
}

/// The bundle without what is denied, and with what is narrowed; each resource letter by letter as it came.
fn resent(text: &str, parts: &[Part]) -> Option<String> {
    let mut bundle = Object::new();
    for (name, text) in json::members(text).ok()? {
        if name != "entry" {
            bundle.member(&name, text);
            continue;
        }
        let mut entries = Vec::new();
        for (text, part) in json::items(text).ok()?.into_iter().zip(parts) {
            match part {
                Part::Denied(_) => {}
                Part::Sent { need: Need { narrowed: None, .. } } => entries.push(text.to_owned()),
                Part::Sent { need: Need { narrowed: Some(narrowed), .. } } => {
                    entries.push(narrowed_entry(text, narrowed)?)
                }
            }
        }
        if !entries.is_empty() {
            bundle.member("entry", &format!("[{}]", entries.join(",")));
        }
    }
    Some(bundle.end())
}

fn narrowed_entry(text: &str, narrowed: &Narrowed) -> Option<String> {
    let mut entry = Object::new();
    for (name, text) in json::members(text).ok()? {
        if name != "request" {
            entry.member(&name, text);
            continue;
        }
        let mut request: Value = serde_json::from_str(text).ok()?;
        let members = request.as_object_mut()?;
        if let Some(url) = &narrowed.url {
            members.insert("url".to_owned(), json!(url.trim_start_matches('/')));
        }
        if let Some(criteria) = &narrowed.if_none_exist {
            members.insert("ifNoneExist".to_owned(), json!(criteria));
        }
        entry.member("request", &request.to_string());
    }
    Some(entry.end())
}

/// A JSON object, written.
struct Object(String);

impl Object {
    fn new() -> Object {
        Object("{".to_owned())
    }

    fn member(&mut self, name: &str, text: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&Value::String(name.to_owned()).to_string());
        self.0.push(':');
        self.0.push_str(text);
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// What an answer must pass: whose it is, and to which request.
pub struct Check {
    standing: Arc<Standing>,
    operation: Operation,
    facts: Facts,
    judging: Judging,
    /// of a batch or transaction
    parts: Vec<Part>,
}

/// What becomes of an answer by its head.
pub enum Head {
    /// it holds nothing that is to be judged
    Go,
    Stop(Reply),
    Judge(Box<Answering>),
}

impl Check {
    /// The answer begins. `headers`: names in lower case. `is_all`: no body follows.
    pub fn head(self, status: u16, headers: &[(&str, &[u8])], is_all: bool, depth_max: usize) -> Head {
        let is_of_one =
            matches!(self.operation.interaction, Interaction::Read | Interaction::Vread | Interaction::HistoryInstance);
        match status {
            // no word about what is behind
            500.. => return Head::Stop(proxy::failed(502)),
            200 => {}
            _ if is_of_one => return Head::Stop(refusal("the access is not permitted")),
            _ => {}
        }
        if is_all {
            return if is_of_one { Head::Stop(refusal("the access is not permitted")) } else { Head::Go };
        }
        let value = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let essence = |value: &[u8]| {
            let text = String::from_utf8_lossy(value).to_ascii_lowercase();
            text.split(';').next().unwrap_or_default().trim().to_owned()
        };
        let is_json = value("content-type").map(essence).is_some_and(|of| {
            matches!(of.as_str(), "application/fhir+json" | "application/json" | "application/json+fhir")
        });
        let is_plain = value("content-encoding").is_none_or(|encoding| encoding.eq_ignore_ascii_case(b"identity"));
        if !is_json || !is_plain {
            return Head::Stop(refusal("the answer cannot be checked: ask for JSON"));
        }
        let pieces = Pieces::new(PART_BYTES_MAX);
        let body = Body::Unknown { text: Vec::new(), pieces, read: Vec::new() };
        Head::Judge(Box::new(Answering { check: self, is_of_one, depth_max, body }))
    }

    fn judge<'a>(&'a self, snapshot: &'a Snapshot) -> Judge<'a> {
        Judge { snapshot, standing: &self.standing, operation: &self.operation, facts: &self.facts }
    }
}

/// An answer on its way.
pub struct Answering {
    check: Check,
    is_of_one: bool,
    depth_max: usize,
    body: Body,
}

enum Body {
    /// it has not said yet what it is
    Unknown {
        text: Vec<u8>,
        pieces: Pieces,
        read: Vec<Piece>,
    },
    /// what a search or a history found, entry by entry
    Found {
        pieces: Pieces,
        sieve: Sieve,
    },
    /// judged when it is whole
    Whole(Vec<u8>),
    Done,
}

/// What may go on of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Passed {
    /// nothing yet, its head neither
    Held,
    /// these bytes, after its head
    Go(Vec<u8>),
    /// this in its place; or, where its head has gone on, nothing more
    Stop(Reply),
}

impl Answering {
    /// Bytes of the answer that are kept until they can be judged.
    pub fn held(&self) -> usize {
        match &self.body {
            Body::Unknown { text, pieces, .. } => text.len() + pieces.held(),
            Body::Found { pieces, .. } => pieces.held(),
            Body::Whole(text) => text.len(),
            Body::Done => 0,
        }
    }

    /// Takes the next bytes of the body.
    pub fn push(&mut self, snapshot: &Snapshot, bytes: &[u8], is_end: bool) -> Passed {
        match self.pushed(snapshot, bytes, is_end) {
            Ok(passed) => passed,
            Err(_) => {
                self.body = Body::Done;
                Passed::Stop(refusal("the answer cannot be checked"))
            }
        }
    }

    fn pushed(&mut self, snapshot: &Snapshot, bytes: &[u8], is_end: bool) -> Result<Passed, Unjudged> {
        match std::mem::replace(&mut self.body, Body::Done) {
            Body::Done => Err(Unjudged),
            Body::Found { pieces, sieve } => self.found(snapshot, pieces, sieve, Vec::new(), bytes, is_end),
            Body::Unknown { mut text, mut pieces, mut read } => {
                hold(&mut text, bytes)?;
                // what is no JSON turns out when it is whole
                let is_broken = pieces.push(bytes).map(|new| read.extend(new)).is_err();
                match said(&read) {
                    Said::Found if self.can_find() => {
                        self.found(snapshot, pieces, self.sieve(snapshot), read, &[], is_end)
                    }
                    Said::Nothing if !is_end && !is_broken => {
                        self.body = Body::Unknown { text, pieces, read };
                        Ok(Passed::Held)
                    }
                    Said::Nothing | Said::Found | Said::Other => self.whole(snapshot, text, is_end),
                }
            }
            Body::Whole(mut text) => {
                hold(&mut text, bytes)?;
                self.whole(snapshot, text, is_end)
            }
        }
    }

    /// Whether a bundle of this answer is what was found, and no resource or answer to a batch itself.
    fn can_find(&self) -> bool {
        let interaction = self.check.operation.interaction;
        self.check.parts.is_empty()
            && !matches!(
                interaction,
                Interaction::Read | Interaction::Vread | Interaction::Batch | Interaction::Transaction
            )
    }

    fn sieve(&self, snapshot: &Snapshot) -> Sieve {
        // of a narrowed search, the server's counts count what is visible
        Sieve::new(self.check.judging == Judging::Again || self.check.judge(snapshot).permits_all())
    }

    fn found(
        &mut self,
        snapshot: &Snapshot,
        mut pieces: Pieces,
        mut sieve: Sieve,
        mut read: Vec<Piece>,
        bytes: &[u8],
        is_end: bool,
    ) -> Result<Passed, Unjudged> {
        read.extend(pieces.push(bytes)?);
        let judge = self.check.judge(snapshot);
        let judged = |resource: &Value| judged(&judge, self.check.judging, resource);
        for piece in read {
            match piece {
                Piece::Member(name, text) => {
                    let value = json::parse_str(&text, self.depth_max)?;
                    // `entry` that is no list
                    if name == "entry" {
                        return Err(Unjudged);
                    }
                    sieve.member(&name, &text, value);
                }
                // an entry is around its resource
                Piece::Entry(text) => sieve.entry(&text, json::parse_str(&text, self.depth_max + 1)?, judged),
            }
        }
        if is_end {
            return if pieces.is_whole() { Ok(Passed::Go(sieve.end().into_bytes())) } else { Err(Unjudged) };
        }
        let left = sieve.take();
        self.body = Body::Found { pieces, sieve };
        Ok(Passed::Go(left.into_bytes()))
    }

    fn whole(&mut self, snapshot: &Snapshot, text: Vec<u8>, is_end: bool) -> Result<Passed, Unjudged> {
        if !is_end {
            self.body = Body::Whole(text);
            return Ok(Passed::Held);
        }
        if text.is_empty() {
            return Ok(Passed::Go(text));
        }
        let text = String::from_utf8(text).map_err(|_| Unjudged)?;
        // a bundle is around an entry, and that around its resource
        let value = json::parse_str(&text, self.depth_max + 3)?;
        let said = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        match (said("resourceType"), said("type")) {
            ("OperationOutcome", _) if !self.is_of_one => Ok(Passed::Go(text.into_bytes())),
            ("Bundle", "searchset" | "history") if self.can_find() => self.turned(snapshot, &text),
            ("Bundle", "batch-response" | "transaction-response") if !self.check.parts.is_empty() => {
                self.answered(snapshot, &text)
            }
            (_, _) => {
                let judge = self.check.judge(snapshot);
                match resource_left(&value, |resource| judge.judged(resource)) {
                    Left::As => Ok(Passed::Go(text.into_bytes())),
                    Left::Changed(resource) => Ok(Passed::Go(resource.to_string().into_bytes())),
                    Left::Out => Ok(Passed::Stop(refusal("the access is not permitted"))),
                }
            }
        }
    }

    /// A bundle of results whose `entry` came before its type.
    fn turned(&mut self, snapshot: &Snapshot, text: &str) -> Result<Passed, Unjudged> {
        let pieces = Pieces::new(PART_BYTES_MAX);
        self.found(snapshot, pieces, self.sieve(snapshot), Vec::new(), text.as_bytes(), true)
    }

    /// The answers of a bundle's entries: each is judged by its own, and those that were not sent stand in their places.
    fn answered(&self, snapshot: &Snapshot, text: &str) -> Result<Passed, Unjudged> {
        let mut bundle = Object::new();
        let members = json::members(text)?;
        let answers = members.iter().find(|(name, _)| name == "entry").map(|(_, text)| json::items(text));
        let mut answers = answers.transpose()?.unwrap_or_default().into_iter();
        let mut entries = Vec::new();
        for (index, part) in self.check.parts.iter().enumerate() {
            entries.push(match part {
                Part::Denied(answer) => answer.to_string(),
                Part::Sent { need } => {
                    let answer = answers.next().ok_or(Unjudged)?;
                    let operation = self.check.operation.entries.get(index).and_then(|entry| entry.as_ref().ok());
                    let judge = Judge { operation: operation.ok_or(Unjudged)?, ..self.check.judge(snapshot) };
                    self.answer_left(&judge, need.judging, answer)?
                }
            });
        }
        if answers.next().is_some() {
            return Err(Unjudged);
        }
        for (name, text) in members.iter().filter(|(name, _)| name != "entry") {
            bundle.member(name, text);
        }
        bundle.member("entry", &format!("[{}]", entries.join(",")));
        Ok(Passed::Go(bundle.end().into_bytes()))
    }

    /// What is left of the answer to one entry.
    fn answer_left(&self, judge: &Judge<'_>, judging: Judging, text: &str) -> Result<String, Unjudged> {
        let is_of_one = matches!(
            judge.operation.interaction,
            Interaction::Read | Interaction::Vread | Interaction::HistoryInstance
        );
        let denied = || answer_of_denied(403, None).to_string();
        if judging == Judging::Nothing {
            return Ok(text.to_owned());
        }
        let mut left = Object::new();
        let mut has_resource = false;
        for (name, text) in json::members(text)? {
            if name != "resource" {
                left.member(&name, text);
                continue;
            }
            has_resource = true;
            let resource = json::parse_str(text, self.depth_max + 1)?;
            let said = |name: &str| resource.get(name).and_then(Value::as_str).unwrap_or_default();
            if said("resourceType") == "Bundle" && !is_of_one {
                let mut sieve = Sieve::new(judging == Judging::Again || judge.permits_all());
                for (name, text) in json::members(text)? {
                    match name.as_ref() {
                        "entry" => {
                            for text in json::items(text)? {
                                let entry = json::parse_str(text, self.depth_max)?;
                                sieve.entry(text, entry, |resource| judged(judge, judging, resource));
                            }
                        }
                        _ => sieve.member(&name, text, json::parse_str(text, self.depth_max)?),
                    }
                }
                left.member("resource", &sieve.end());
                continue;
            }
            match resource_left(&resource, |resource| judge.judged(resource)) {
                Left::As => left.member("resource", text),
                Left::Changed(resource) => left.member("resource", &resource.to_string()),
                Left::Out => return Ok(denied()),
            }
        }
        // an answer about one that is not there says so
        if is_of_one && !has_resource {
            return Ok(denied());
        }
        Ok(left.end())
    }
}

/// The answer could not be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unjudged;

impl From<JsonError> for Unjudged {
    fn from(_: JsonError) -> Unjudged {
        Unjudged
    }
}

fn judged(judge: &Judge<'_>, judging: Judging, resource: &Value) -> Option<BTreeSet<String>> {
    match judging {
        // of a part nothing can be said; the criteria chose it
        Judging::Again if !is_whole(resource) => Some(BTreeSet::new()),
        Judging::Nothing | Judging::Again | Judging::Strictly => judge.judged(resource),
    }
}

fn hold(text: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Unjudged> {
    if text.len().saturating_add(bytes.len()) > PART_BYTES_MAX {
        return Err(Unjudged);
    }
    text.extend_from_slice(bytes);
    Ok(())
}

/// What an answer has said of itself so far.
enum Said {
    Nothing,
    /// a bundle of what was found
    Found,
    /// something else, or its entries before its type
    Other,
}

fn said(read: &[Piece]) -> Said {
    let mut bundle = None;
    let mut found = None;
    for piece in read {
        match piece {
            Piece::Member(name, text) if name == "resourceType" => bundle = Some(text == "\"Bundle\""),
            Piece::Member(name, text) if name == "type" => {
                found = Some(text == "\"searchset\"" || text == "\"history\"");
            }
            Piece::Member(_, _) => {}
            Piece::Entry(_) => {
                return if (bundle, found) == (Some(true), Some(true)) { Said::Found } else { Said::Other };
            }
        }
    }
    match (bundle, found) {
        (Some(true), Some(true)) => Said::Found,
        (Some(false), _) | (_, Some(false)) => Said::Other,
        (Some(true) | None, None) | (None, Some(true)) => Said::Nothing,
    }
}
