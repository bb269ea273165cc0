//! ◆ Envoy's gRPC services: `ext_authz` asks about a request, `ext_proc` passes request and answer through here.
//! Hides protobuf and the order of `ext_proc`'s messages.
//! INVARIANT: a stream ends well only where nothing is left to be judged: Envoy goes on without us then. Whatever else
//! ends it is an error, which Envoy answers with one (`failure_mode_allow: false`).
//! INVARIANT: Envoy has told that it sends every body and waits for ours, or it is not served.
//! Source: Envoy API v3, `service/auth/v3/external_auth.proto`, `service/ext_proc/v3/external_processor.proto`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Message;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Respond;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody, ImmediateResponse,
    ProcessingRequest, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::rpc;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::codegen::Service as _;
use tonic::{Code, Status, Streaming};

use crate::http::exchange::{Answering, Check, Go, Head, Onward, Passed, UNCHECKABLE};
use crate::http::proxy::{self, Reply, Sent};
use crate::http::server::{Answer, Ask, Handler, unpanicked};
use crate::http::service::{LARGE_BYTES, Service};
use crate::sources::serving::State;

/// The service as the port has it: its own questions, and Envoy's calls beside.
#[derive(Clone)]
pub struct Grpc {
    service: Arc<Service>,
    body_bytes_max: usize,
    /// KiB that all exchanges together may hold back
    memory: Arc<Semaphore>,
}

/// In one message to Envoy, as its API recommends.
const CHUNK_BYTES: usize = 64 * 1024;
const KIB: usize = 1024;
/// A message holds more than a body's chunk: headers, and of `ext_authz` the body.
const MESSAGE_BYTES_BEYOND_BODY: usize = 256 * 1024;

impl Grpc {
    /// `body_bytes_max`: of a request. `held_bytes_max`: of requests and answers that wait to be whole, all together.
    pub fn new(service: Arc<Service>, body_bytes_max: usize, held_bytes_max: usize) -> Grpc {
        let memory = Arc::new(Semaphore::new((held_bytes_max / KIB).min(Semaphore::MAX_PERMITS)));
        Grpc { service, body_bytes_max, memory }
    }
}

impl Handler for Grpc {
    async fn answer(&self, ask: Ask) -> Answer {
        Arc::clone(&self.service).respond(ask).await
    }

    async fn call(&self, request: Request<Incoming>) -> Response<tonic::body::Body> {
        let message_bytes_max = self.body_bytes_max.saturating_add(MESSAGE_BYTES_BEYOND_BODY);
        let path = request.uri().path();
        let answered = if path.starts_with("/envoy.service.auth.v3.Authorization/") {
            AuthorizationServer::new(self.clone()).max_decoding_message_size(message_bytes_max).call(request).await
        } else if path.starts_with("/envoy.service.ext_proc.v3.ExternalProcessor/") {
            ExternalProcessorServer::new(self.clone()).max_decoding_message_size(message_bytes_max).call(request).await
        } else {
            return Status::unimplemented("no such service").into_http();
        };
        answered.unwrap_or_else(|never| match never {})
    }
}

#[tonic::async_trait]
impl Authorization for Grpc {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.and_then(|attributes| attributes.request);
        let Some(http) = attributes.and_then(|request| request.http) else {
            return Err(Status::invalid_argument("`attributes.request.http` is missing"));
        };
        let headers = headers_of(&http);
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let body = if http.raw_body.is_empty() { http.body.as_bytes() } else { &http.raw_body };
        let sent = Sent { method: &http.method, target: &http.path, headers: &headers, body };
        let checked = unpanicked(self.service.forwarded(&sent, proxy::check)).await;
        let reply = checked.ok_or_else(|| Status::internal("the request could not be worked on"))?;
        Ok(tonic::Response::new(check_response(reply)))
    }
}

/// The request's headers, without HTTP/2's own: as they came, or, where Envoy is not told to `encode_raw_headers`, joined.
fn headers_of(http: &HttpRequest) -> Vec<(String, Vec<u8>)> {
    let raw = http.header_map.as_ref().map(plain);
    let joined = || http.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
    let mut headers = raw.unwrap_or_else(joined);
    headers.retain(|(name, _)| !name.starts_with(':'));
    headers
}

fn plain(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let value = |header: &HeaderValue| match header.raw_value.is_empty() {
        true => header.value.clone().into_bytes(),
        false => header.raw_value.clone(),
    };
    map.headers.iter().map(|header| (header.key.to_ascii_lowercase(), value(header))).collect()
}

fn check_response(reply: Reply) -> CheckResponse {
    let Reply { status, headers, body } = reply;
    let code = match status {
        200 => Code::Ok,
        401 => Code::Unauthenticated,
        503 => Code::Unavailable,
        _ => Code::PermissionDenied,
    };
    let path = headers.iter().find(|(name, _)| *name == "x-fhir-url").map(|(_, url)| (":path", url.clone()));
    let set = |(name, value): (&str, String)| option(HeaderValue { value, ..named(name) });
    let mut headers: Vec<_> = headers.into_iter().map(set).collect();
    let http_response = if code == Code::Ok {
        headers.extend(path.map(set));
        HttpResponse::OkResponse(OkHttpResponse { headers, ..OkHttpResponse::default() })
    } else {
        let body = String::from_utf8_lossy(&body).into_owned();
        HttpResponse::DeniedResponse(DeniedHttpResponse { status: http_status(status), headers, body })
    };
    CheckResponse {
        status: Some(rpc::Status { code: code.into(), ..rpc::Status::default() }),
        http_response: Some(http_response),
        ..CheckResponse::default()
    }
}

/// In place of whatever has this name; as `ext_proc` reads it, which `ext_authz` does not.
fn set(name: &str, value: String) -> HeaderValueOption {
    option(HeaderValue { raw_value: value.into_bytes(), ..named(name) })
}

fn named(name: &str) -> HeaderValue {
    HeaderValue { key: name.to_owned(), ..HeaderValue::default() }
}

fn option(header: HeaderValue) -> HeaderValueOption {
    let append_action = HeaderAppendAction::OverwriteIfExistsOrAdd.into();
    HeaderValueOption { header: Some(header), append_action, ..HeaderValueOption::default() }
}

fn http_status(status: u16) -> Option<HttpStatus> {
    Some(HttpStatus { code: i32::from(status) })
}

type Responses = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ExternalProcessor for Grpc {
    type ProcessStream = Responses;

    async fn process(
        &self,
        request: tonic::Request<Streaming<ProcessingRequest>>,
    ) -> Result<tonic::Response<Responses>, Status> {
        let pass = Pass {
            grpc: self.clone(),
            state: self.service.state(),
            messages: request.into_inner(),
            is_configured: false,
            phase: Phase::Begin,
            place: None,
            responses: VecDeque::new(),
        };
        let next = |mut pass: Pass| async move {
            match unpanicked(pass.next()).await {
                Some(next) => Ok(next?.map(|response| (response, pass))),
                None => Err(Status::internal("the exchange could not be worked on")),
            }
        };
        Ok(tonic::Response::new(Box::pin(try_unfold(pass, next))))
    }
}

/// One exchange that passes through.
struct Pass {
    grpc: Grpc,
    /// the same for request and answer, whatever is reloaded meanwhile
    state: Arc<State>,
    messages: Streaming<ProcessingRequest>,
    is_configured: bool,
    phase: Phase,
    /// in the memory that exchanges share
    place: Option<OwnedSemaphorePermit>,
    responses: VecDeque<Respond>,
}

/// Where an exchange stands.
enum Phase {
    Begin,
    /// the request's head, and its body as far as it has come
    Asking(Vec<(String, Vec<u8>)>, Vec<u8>),
    /// the request is sent on; its answer is to be judged
    Waiting(Box<Check>),
    /// the answer comes; whether its head has gone on
    Answering(Box<Answering>, bool),
    /// nothing is left to be judged
    Done,
}

impl Pass {
    /// The next message to Envoy; `None` where it goes on without us.
    async fn next(&mut self) -> Result<Option<ProcessingResponse>, Status> {
        loop {
            if let Some(response) = self.responses.pop_front() {
                return Ok(Some(ProcessingResponse { response: Some(response), ..ProcessingResponse::default() }));
            }
            if matches!(self.phase, Phase::Done) {
                return Ok(None);
            }
            match self.messages.message().await? {
                Some(message) => self.take(message).await?,
                // the client has gone
                None => return Err(Status::cancelled("the exchange was broken off")),
            }
        }
    }

    async fn take(&mut self, message: ProcessingRequest) -> Result<(), Status> {
        if !self.is_configured {
            is_configured(&message)?;
            self.is_configured = true;
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Begin);
        self.phase = match (phase, message.request) {
            (Phase::Begin, Some(Message::RequestHeaders(head))) => {
                let headers = head.headers.as_ref().map(plain).unwrap_or_default();
                match head.end_of_stream {
                    true => self.ask(&headers, None, false).await,
                    false => Phase::Asking(headers, Vec::new()),
                }
            }
            (
                Phase::Asking(headers, mut body),
                Some(Message::RequestBody(HttpBody { body: chunk, end_of_stream, .. })),
            ) => {
                if body.len().saturating_add(chunk.len()) > self.grpc.body_bytes_max {
                    self.stop(proxy::failed(413))
                } else if !self.holds(body.len() + chunk.len()) {
                    self.stop(proxy::failed(503))
                } else {
                    body.extend(chunk);
                    match end_of_stream {
                        true => self.ask(&headers, Some(body), false).await,
                        false => Phase::Asking(headers, body),
                    }
                }
            }
            (Phase::Asking(headers, body), Some(Message::RequestTrailers(_))) => {
                self.ask(&headers, Some(body), true).await
            }
            (Phase::Waiting(check), Some(Message::ResponseHeaders(head))) => {
                let headers = head.headers.as_ref().map(plain).unwrap_or_default();
                self.answer(*check, &headers, head.end_of_stream)
            }
            (
                Phase::Answering(answering, is_begun),
                Some(Message::ResponseBody(HttpBody { body, end_of_stream, .. })),
            ) => self.pass(answering, is_begun, &body, end_of_stream, false)?,
            (Phase::Answering(answering, is_begun), Some(Message::ResponseTrailers(_))) => {
                self.pass(answering, is_begun, &[], true, true)?
            }
            (phase, None) => phase,
            (_, Some(_)) => return Err(Status::failed_precondition("a message out of its order")),
        };
        Ok(())
    }

    /// Whether there is room to hold back so many bytes.
    fn holds(&mut self, bytes: usize) -> bool {
        let wanted = bytes.div_ceil(KIB);
        let had = self.place.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if wanted < had {
            // given back as it is dropped
            drop(self.place.as_mut().and_then(|place| place.split(had - wanted)));
            return true;
        }
        let Ok(more) = u32::try_from(wanted - had) else { return false };
        match (Arc::clone(&self.grpc.memory).try_acquire_many_owned(more), &mut self.place) {
            (Ok(more), Some(place)) => place.merge(more),
            (Ok(more), none) => *none = Some(more),
            (Err(_), _) => return false,
        }
        true
    }

    /// The request is whole.
    async fn ask(&mut self, headers: &[(String, Vec<u8>)], body: Option<Vec<u8>>, has_trailers: bool) -> Phase {
        let text = |name: &str| {
            let value = headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice());
            value.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
        };
        let plain = headers.iter().filter(|(name, _)| !name.starts_with(':'));
        let plain: Vec<(&str, &[u8])> = plain.map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let sent = Sent {
            method: text(":method"),
            target: text(":path"),
            headers: &plain,
            body: body.as_deref().unwrap_or_default(),
        };
        match self.grpc.service.exchanged(&self.state, &sent).await {
            Onward::Stop(reply) => self.stop(reply),
            Onward::Go(go) => self.go(*go, body, has_trailers),
        }
    }

    fn stop(&mut self, reply: Reply) -> Phase {
        let Reply { status, headers, body } = reply;
        // what a proxy copies from an answer is no matter here, and an empty header none of the client's
        let told = headers.into_iter().filter(|(_, value)| !value.is_empty());
        let headers = HeaderMutation {
            set_headers: told.map(|(name, value)| set(name, value)).collect(),
            ..HeaderMutation::default()
        };
        self.responses.push_back(Respond::ImmediateResponse(ImmediateResponse {
            status: http_status(status),
            headers: Some(headers),
            body,
            ..ImmediateResponse::default()
        }));
        Phase::Done
    }

    /// The request is sent on.
    fn go(&mut self, go: Go, body: Option<Vec<u8>>, has_trailers: bool) -> Phase {
        let Go { url, decision_id, if_none_exist, body: another, check } = go;
        let mut set_headers = vec![set(":path", url), set("x-decision-id", decision_id)];
        set_headers.extend(if_none_exist.map(|criteria| set("if-none-exist", criteria)));
        let mut remove_headers = vec!["x-fhir-url".to_owned()];
        if check.is_some() {
            set_headers.push(set("accept", "application/fhir+json".to_owned()));
            remove_headers.extend(UNCHECKABLE.iter().map(|name| (*name).to_owned()));
        }
        self.responses.push_back(Respond::RequestHeaders(headers_response(set_headers, remove_headers)));
        if let Some(body) = body {
            let body = another.map_or(body, String::into_bytes);
            for chunk in chunks(&body, !has_trailers) {
                self.responses.push_back(Respond::RequestBody(chunk));
            }
            if has_trailers {
                self.responses.push_back(Respond::RequestTrailers(TrailersResponse::default()));
            }
        }
        check.map_or(Phase::Done, |check| Phase::Waiting(Box::new(check)))
    }

    /// The answer begins.
    fn answer(&mut self, check: Check, headers: &[(String, Vec<u8>)], is_all: bool) -> Phase {
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let status =
            headers.iter().find(|(name, _)| *name == ":status").and_then(|(_, value)| std::str::from_utf8(value).ok());
        let status = status.and_then(|status| status.parse().ok()).unwrap_or(500);
        match check.head(status, &headers, is_all, self.grpc.service.json_depth_max()) {
            Head::Go => {
                self.responses.push_back(Respond::ResponseHeaders(headers_response(Vec::new(), Vec::new())));
                Phase::Done
            }
            Head::Stop(reply) => self.stop(reply),
            Head::Judge(answering) => Phase::Answering(answering, false),
        }
    }

    /// More of the answer's body. Its head goes on with the first that may.
    fn pass(
        &mut self,
        mut answering: Box<Answering>,
        is_begun: bool,
        bytes: &[u8],
        is_end: bool,
        has_trailers: bool,
    ) -> Result<Phase, Status> {
        let large = answering.held().saturating_add(bytes.len()) > LARGE_BYTES;
        let mut push = || answering.push(&self.state.snapshot, bytes, is_end);
        // so that other exchanges of this thread need not wait for a large part
        let passed = if large { tokio::task::block_in_place(push) } else { push() };
        let passed = if self.holds(answering.held()) { passed } else { Passed::Stop(proxy::failed(503)) };
        match passed {
            Passed::Held => Ok(Phase::Answering(answering, is_begun)),
            Passed::Stop(_) if is_begun => Err(Status::aborted("the answer cannot be checked to its end")),
            Passed::Stop(reply) => Ok(self.stop(reply)),
            Passed::Go(left) => {
                if !is_begun {
                    self.responses.push_back(Respond::ResponseHeaders(headers_response(Vec::new(), Vec::new())));
                }
                let is_last = is_end && !has_trailers;
                if is_last || !left.is_empty() {
                    for chunk in chunks(&left, is_last) {
                        self.responses.push_back(Respond::ResponseBody(chunk));
                    }
                }
                if has_trailers {
                    self.responses.push_back(Respond::ResponseTrailers(TrailersResponse::default()));
                }
                Ok(if is_end { Phase::Done } else { Phase::Answering(answering, true) })
            }
        }
    }
}

/// Whether Envoy sends bodies as they come, both ways, and takes ours for them.
fn is_configured(first: &ProcessingRequest) -> Result<(), Status> {
    let duplex = i32::from(BodySendMode::FullDuplexStreamed);
    let is_duplex = first
        .protocol_config
        .is_some_and(|modes| modes.request_body_mode == duplex && modes.response_body_mode == duplex);
    match is_duplex && !first.observability_mode {
        true => Ok(()),
        false => Err(Status::failed_precondition(
            "set `request_body_mode` and `response_body_mode` to FULL_DUPLEX_STREAMED, and no `observability_mode`",
        )),
    }
}

fn headers_response(set_headers: Vec<HeaderValueOption>, remove_headers: Vec<String>) -> HeadersResponse {
    let header_mutation = Some(HeaderMutation { set_headers, remove_headers });
    HeadersResponse { response: Some(CommonResponse { header_mutation, ..CommonResponse::default() }) }
}

/// A body in messages; at least one.
fn chunks(body: &[u8], is_end: bool) -> Vec<BodyResponse> {
    let parts: Vec<&[u8]> = if body.is_empty() { vec![body] } else { body.chunks(CHUNK_BYTES).collect() };
    let last = parts.len();
    let chunk = |(index, part): (usize, &[u8])| {
        let end_of_stream = is_end && index + 1 == last;
        let streamed = StreamedBodyResponse { body: part.to_vec(), end_of_stream, ..StreamedBodyResponse::default() };
        let body_mutation = Some(BodyMutation { mutation: Some(Mutation::StreamedResponse(streamed)) });
        BodyResponse { response: Some(CommonResponse { body_mutation, ..CommonResponse::default() }) }
    };
    parts.into_iter().enumerate().map(chunk).collect()
}
