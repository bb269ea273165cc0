//! ◆ The HTTP server: connections, limits, timeouts, shutdown; HTTP/1.1 and HTTP/2 (prior knowledge) on one port.
//! Hides hyper and tokio, and knows nothing of FHIR: a handler gets the whole request and gives the whole answer.
//! INVARIANT: what the server answers by itself is an error of the API, never a 2xx, so that no overload, slowness or
//! panic can be read as a permit. INVARIANT: HTTP/1 reaches hyper only through `framing`.
//! Source: API.md "Errors of the API itself"; RULES "Form and limits"; RFC 9112; RFC 9113.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body_util::{BodyExt, Either, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::{Body, Bytes, Incoming},
    header::{self, HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    task::JoinSet,
    time::{Instant, Sleep, sleep, timeout},
};

use super::framing::{self, Framing, Refusal, Violation};

/// What one server takes at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A request's body. Over it: 413.
    pub body_bytes_max: usize,
    /// Of a request to one of these paths, this much, for `large_requests_max` of them at a time. Over that: 503.
    pub large_paths: &'static [&'static str],
    pub large_body_bytes_max: usize,
    pub large_requests_max: usize,
    /// All header lines of a request. Over it: 431.
    pub headers_bytes_max: usize,
    /// A request's target. Over it: 414.
    pub url_bytes_max: usize,
    /// Connections open at a time; further ones wait to be accepted.
    pub connections_max: usize,
    /// Requests in work at a time, their bodies' arrival included. Over it: 503.
    pub requests_max: usize,
    /// gRPC calls in work at a time, from their first byte to the last of their answer. Over it: UNAVAILABLE.
    pub calls_max: usize,
    /// What gRPC calls hold back until it is whole, all together.
    pub calls_bytes_max: usize,
    /// From a head's first byte to its last, and from a connection's opening to its first byte.
    pub head_timeout: Duration,
    /// From a head to its body's last byte, and for a client to take the next bytes of its answer.
    pub body_timeout: Duration,
    /// For the handler.
    pub request_timeout: Duration,
    /// From the shutdown to its end, whatever is still in work.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes_max: 4 * 1024 * 1024,
            large_paths: &[],
            large_body_bytes_max: 64 * 1024 * 1024,
            large_requests_max: 8,
            headers_bytes_max: 64 * 1024,
            url_bytes_max: 16 * 1024,
            connections_max: 4096,
            requests_max: 1024,
            calls_max: 1024,
            calls_bytes_max: 256 * 1024 * 1024,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// A request, whole. Of an absolute target `path` is its path.
#[derive(Debug)]
pub struct Ask {
    pub method: Method,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer, whole. A body is `application/json` unless the headers say otherwise.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

/// How long a connection may stay silent between two requests, beyond the time that the handler has.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long, and for how much, a refused client is listened to, so that it gets to read why (RFC 9112, 9.6).
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Before the next try when the process has no file descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const H2_STREAMS_MAX: u32 = 256;
/// Streams that the peer resets before they are accepted, and those that we reset for its errors: with more of them
/// the connection is closed (rapid reset, CVE-2023-44487; MadeYouReset, CVE-2025-8671).
const H2_PENDING_RESETS_MAX: usize = 20;
const H2_ERROR_RESETS_MAX: usize = 1024;

/// Who answers: the requests that come whole, and the gRPC calls, which come and are answered in parts.
pub trait Handler: Send + Sync + 'static {
    fn answer(&self, ask: Ask) -> impl Future<Output = Answer> + Send;
    fn call(&self, request: Request<Incoming>) -> impl Future<Output = Response<tonic::body::Body>> + Send;
}

/// Serves until `shutdown` completes, then finishes what is in work, `drain_timeout` long at most.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    limits: Limits,
    handler: H,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS)));
    let drain_timeout = limits.drain_timeout;
    let site = Arc::new(Site::new(limits, handler));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, slot) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &slots) => accepted?,
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, slot, site.clone(), graceful.watcher()));
    }
    drop(listener);
    if timeout(drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests still in work at the end of the drain are dropped");
    }
    connections.shutdown().await;
    Ok(())
}

/// The next connection, once there is a slot for it.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Ok((stream, slot)),
            // The client has gone before we came to it.
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection could be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

async fn connection<H: Handler>(stream: TcpStream, slot: OwnedSemaphorePermit, site: Arc<Site<H>>, watcher: Watcher) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection is left with its delay");
    }
    let wire = TokioIo::new(Wire::new(stream, &site.limits));
    let service = service_fn({
        let site = site.clone();
        move |request| respond(site.clone(), request)
    });
    if let Err(error) = watcher.watch(site.hyper.serve_connection(wire, service).into_owned()).await {
        tracing::debug!(%error, "a connection has failed");
    }
    drop(slot);
}

/// What all connections share.
struct Site<H> {
    limits: Limits,
    requests: Semaphore,
    large_requests: Semaphore,
    calls: Arc<Semaphore>,
    hyper: auto::Builder<TokioExecutor>,
    handler: H,
}

impl<H> Site<H> {
    fn new(limits: Limits, handler: H) -> Site<H> {
        let mut hyper = auto::Builder::new(TokioExecutor::new());
        // A client that has sent its request and closed its half waits for the answer. `Wire` keeps the time of heads.
        hyper.http1().half_close(true).header_read_timeout(None);
        hyper
            .http2()
            .max_concurrent_streams(H2_STREAMS_MAX)
            .max_header_list_size(u32::try_from(limits.headers_bytes_max).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
            .max_local_error_reset_streams(H2_ERROR_RESETS_MAX);
        let requests = Semaphore::new(limits.requests_max.min(Semaphore::MAX_PERMITS));
        let large_requests = Semaphore::new(limits.large_requests_max.min(Semaphore::MAX_PERMITS));
        let calls = Arc::new(Semaphore::new(limits.calls_max.min(Semaphore::MAX_PERMITS)));
        Site { limits, requests, large_requests, calls, hyper, handler }
    }
}

type Sent = Either<Full<Bytes>, GrpcBody>;
type GrpcBody = http_body_util::combinators::UnsyncBoxBody<Bytes, tonic::Status>;

async fn respond<H: Handler>(site: Arc<Site<H>>, request: Request<Incoming>) -> Result<Response<Sent>, Infallible> {
    if request.version() == Version::HTTP_2 && is_grpc(request.headers()) {
        return Ok(called(&site, request).await.map(Either::Right));
    }
    Ok(responded(&site, request).await.map(Either::Left))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// A gRPC call. Its place is kept for as long as its answer is being given.
async fn called<H: Handler>(site: &Site<H>, request: Request<Incoming>) -> Response<GrpcBody> {
    let answer = match site.calls.clone().try_acquire_owned() {
        Ok(place) => {
            let answer = unpanicked(site.handler.call(request)).await;
            answer.map(|answer| answer.map(|body| body.map_frame(move |frame| (frame, &place).0).boxed_unsync()))
        }
        Err(_) => Some(failed_call(tonic::Status::unavailable("too many calls are in work"))),
    };
    answer.unwrap_or_else(|| failed_call(tonic::Status::internal("the call could not be worked on")))
}

fn failed_call(status: tonic::Status) -> Response<GrpcBody> {
    status.into_http::<tonic::body::Body>().map(BodyExt::boxed_unsync)
}

async fn responded<H: Handler>(site: &Site<H>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let is_head = request.method() == Method::HEAD;
    let is_http1 = request.version() < Version::HTTP_2;
    let answered = match attend(site, request).await {
        Ok(answer) => response(answer, is_head).ok_or(Fault::AnswerUnwritable),
        Err(fault) => Err(fault),
    };
    match answered {
        Ok(response) => response,
        Err(fault) => {
            let mut response = response(fault.answer(), is_head).unwrap_or_else(bare_fault);
            if is_http1 && fault.ends_connection() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}

/// Everything that may be refused before the handler is asked, in the order of its cost; then the handler.
async fn attend<H: Handler>(site: &Site<H>, request: Request<Incoming>) -> Result<Answer, Fault> {
    let limits = &site.limits;
    let (head, body) = request.into_parts();
    if head.version < Version::HTTP_2
        && let Some(violation) = Violation::of_stand_in(head.method.as_str())
    {
        return Err(Fault::Framing(violation));
    }
    let unread = !body.is_end_stream();
    let _place = site.requests.try_acquire().map_err(|_| Fault::OverCapacity { unread })?;
    // Of HTTP/1 `framing` has seen the target as it was sent.
    if head.version == Version::HTTP_2
        && let Some(target) = head.uri.path_and_query().map(|target| target.as_str())
    {
        if target.len() > limits.url_bytes_max {
            return Err(Fault::Framing(Violation::TargetTooLong));
        }
        if target != "*" && !framing::is_target(target.as_bytes()) {
            return Err(Fault::Framing(Violation::Target));
        }
    }
    if head.headers.get_all(header::CONTENT_ENCODING).iter().any(|value| !is_identity(value)) {
        return Err(Fault::Encoding { unread });
    }
    let arrival = whole(site, body, limits.large_paths.contains(&head.uri.path()));
    let (body, _large_place) = within(limits.body_timeout, arrival).await.ok_or(Fault::BodySlow)??;
    let ask = Ask {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body,
    };
    match within(limits.request_timeout, unpanicked(async { site.handler.answer(ask).await })).await {
        Some(Some(answer)) => Ok(answer),
        Some(None) => {
            tracing::error!("the handler has panicked; the request is answered with an error");
            Err(Fault::HandlerPanicked)
        }
        None => Err(Fault::HandlerSlow),
    }
}

/// The future's output, or none where it is not there in time. Most is there when it is asked for the second time, once
/// the connection has been read: only then a timer is set, since each wakes the thread that waits for all timers.
async fn within<F: Future>(patience: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut is_asked_again = false;
    let mut alarm = None;
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        if !is_asked_again {
            is_asked_again = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let alarm = alarm.get_or_insert_with(|| Box::pin(sleep(patience)));
        alarm.as_mut().poll(context).map(|()| None)
    })
    .await
}

fn is_identity(value: &HeaderValue) -> bool {
    value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity")
}

/// The body in one piece, and its place among the large ones if it is one. Where it comes in one frame, it is that frame.
async fn whole<H>(
    site: &Site<H>,
    mut body: Incoming,
    may_be_large: bool,
) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Fault> {
    let Limits { body_bytes_max, large_body_bytes_max, .. } = site.limits;
    let bytes_max = if may_be_large { large_body_bytes_max.max(body_bytes_max) } else { body_bytes_max };
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(Fault::BodyTooLarge);
    }
    let mut first = Bytes::new();
    let mut joined = Vec::new();
    let mut place = None;
    while let Some(frame) = body.frame().await {
        // What the error says is of hyper; what framing refused is a broken body too.
        let Ok(data) = frame.map_err(|_| Fault::BodyBroken)?.into_data() else { continue };
        let length = first.len().max(joined.len()) + data.len();
        if length > bytes_max {
            return Err(Fault::BodyTooLarge);
        }
        if length > body_bytes_max && place.is_none() {
            let taken = site.large_requests.try_acquire();
            place = Some(taken.map_err(|_| Fault::OverCapacity { unread: true })?);
        }
        if first.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&data);
        }
    }
    Ok((if joined.is_empty() { first } else { joined.into() }, place))
}

/// The future's output, or none where it panics.
pub(super) async fn unpanicked<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_payload) => Poll::Ready(None),
    })
    .await
}

/// None where the answer cannot be written as HTTP.
fn response(answer: Answer, is_head: bool) -> Option<Response<Full<Bytes>>> {
    let mut headers = HeaderMap::with_capacity(answer.headers.len() + 2);
    for (name, value) in answer.headers {
        headers.append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::try_from(value).ok()?);
    }
    let mut body = Bytes::from(answer.body);
    if !body.is_empty() && !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if is_head {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        body.clear();
    }
    let status = StatusCode::from_u16(answer.status).ok().filter(|status| !status.is_informational())?;
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Some(response)
}

fn bare_fault() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// Why the server answers by itself. `unread`: a body has been announced that nobody is going to read.
enum Fault {
    Framing(Violation),
    OverCapacity { unread: bool },
    Encoding { unread: bool },
    BodyTooLarge,
    BodySlow,
    BodyBroken,
    HandlerPanicked,
    HandlerSlow,
    AnswerUnwritable,
}

impl Fault {
    fn answer(&self) -> Answer {
        let (status, code, message) = match self {
            Fault::Framing(violation) => {
                let (status, code) = violation.answer();
                (status, code, violation.to_string())
            }
            Fault::OverCapacity { .. } => (503, "over-capacity", "too many requests are in work".to_owned()),
            Fault::Encoding { .. } => {
                (415, "unsupported-encoding", "`Content-Encoding` is not `identity`; send the body as it is".to_owned())
            }
            Fault::BodyTooLarge => (413, "body-too-large", "the body is over the limit".to_owned()),
            Fault::BodySlow => (408, "timeout", "the request's body did not arrive in time".to_owned()),
            Fault::BodyBroken => (400, "bad-framing", "the request's body is broken off or badly framed".to_owned()),
            Fault::HandlerPanicked | Fault::AnswerUnwritable => {
                (500, "internal", "the request could not be worked on".to_owned())
            }
            Fault::HandlerSlow => (503, "timeout", "the request could not be worked on in time".to_owned()),
        };
        let headers = match status {
            503 => vec![("retry-after", "1".to_owned())],
            _ => Vec::new(),
        };
        let body = serde_json::json!({ "error": { "code": code, "message": message } }).to_string().into_bytes();
        Answer { status, headers, body }
    }

    /// Of HTTP/1; in HTTP/2 a fault ends its stream alone.
    fn ends_connection(&self) -> bool {
        match self {
            Fault::Framing(_) | Fault::BodyTooLarge | Fault::BodySlow | Fault::BodyBroken => true,
            Fault::OverCapacity { unread } | Fault::Encoding { unread } => *unread,
            Fault::HandlerPanicked | Fault::HandlerSlow | Fault::AnswerUnwritable => false,
        }
    }
}

/// A stream whose reads go through `Framing`, and that gives up on a peer that keeps it waiting. In the good case the
/// bytes are judged where hyper has them put; a head or chunk line that is cut in two is held back until it is whole.
struct Wire<S> {
    stream: S,
    framing: Framing,
    /// Bytes from the stream that hyper does not have: `given..passed` it may have, the rest is not judged yet.
    held: Vec<u8>,
    given: usize,
    passed: usize,
    refused: Option<Refusal>,
    /// The peer, or our patience with it, has come to an end.
    ended: bool,
    head_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
    waiting: Option<Wait>,
    /// until when
    deadline: Instant,
    /// goes off then or before: it is not set anew for each request
    alarm: Pin<Box<Sleep>>,
    write_alarm: Option<Pin<Box<Sleep>>>,
    linger: Linger,
}

/// What a read waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    FirstByte,
    RestOfHead,
    /// The next request, or more of a body, whose time the service keeps.
    Anything,
}

enum Linger {
    NotYet,
    Until { alarm: Pin<Box<Sleep>>, bytes_left: usize },
    Done,
}

/// Read on the side while something is held back.
const SCRATCH_BYTES: usize = 8 * 1024;
/// Less room than that is hyper looking for the HTTP/2 preface: not worth a read of its own.
const ROOM_BYTES_MIN: usize = 1024;

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    fn new(stream: S, limits: &Limits) -> Wire<S> {
        Wire {
            stream,
            framing: Framing::new(limits.url_bytes_max, limits.headers_bytes_max),
            held: Vec::new(),
            given: 0,
            passed: 0,
            refused: None,
            ended: false,
            head_timeout: limits.head_timeout,
            idle_timeout: IDLE_TIMEOUT + limits.request_timeout,
            write_timeout: limits.body_timeout,
            waiting: None,
            deadline: Instant::now() + limits.head_timeout,
            alarm: Box::pin(sleep(limits.head_timeout)),
            write_alarm: None,
            linger: Linger::NotYet,
        }
    }

    /// Gives hyper what it may have. Whether there was anything.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let ready = self.held.get(self.given..self.passed).unwrap_or_default();
        let part = ready.get(..buffer.remaining()).unwrap_or(ready);
        buffer.put_slice(part);
        self.given += part.len();
        let gave = !part.is_empty();
        if self.given == self.passed && self.given > 0 {
            self.held.drain(..self.given);
            (self.given, self.passed) = (0, 0);
        }
        gave
    }

    /// Reads to where hyper wants it, and takes back what it may not have.
    fn read_in_place(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let start = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let new = buffer.filled().get(start..).unwrap_or_default();
        self.ended = new.is_empty();
        let judged = self.framing.judge(new);
        self.held.extend_from_slice(new.get(judged.passed..).unwrap_or_default());
        buffer.set_filled(start + judged.passed);
        self.take(judged.passed, 0, judged.refusal);
        Poll::Ready(Ok(()))
    }

    /// Reads to the end of what is held.
    fn read_aside(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [0; SCRATCH_BYTES];
        let mut scratch = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut scratch))?;
        self.ended = scratch.filled().is_empty();
        self.held.extend_from_slice(scratch.filled());
        let judged = self.framing.judge(&self.held);
        self.take(judged.passed, judged.passed, judged.refusal);
        Poll::Ready(Ok(()))
    }

    /// Notes a judgement: `bytes` went on, of which `held` from what is held.
    fn take(&mut self, bytes: usize, held: usize, refusal: Option<Refusal>) {
        self.passed = held;
        if bytes > 0 || self.waiting != Some(Wait::RestOfHead) {
            self.waiting = None;
        }
        if let Some(refusal) = refusal {
            self.refuse(refusal);
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refused = Some(refusal);
        self.held.truncate(self.passed);
        match refusal {
            Refusal::Head(violation) => {
                self.held.extend(violation.stand_in());
                self.passed = self.held.len();
            }
            Refusal::Body(_) => {}
        }
    }

    /// Nothing has arrived: is there time left to wait for it?
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let wait = if self.refused.is_some() || !self.framing.before_body() {
            Wait::Anything
        } else if !self.held.is_empty() {
            Wait::RestOfHead
        } else if self.framing.is_fresh() {
            Wait::FirstByte
        } else {
            Wait::Anything
        };
        if self.waiting != Some(wait) {
            self.waiting = Some(wait);
            let patience = match wait {
                Wait::FirstByte | Wait::RestOfHead => self.head_timeout,
                Wait::Anything => self.idle_timeout,
            };
            self.deadline = Instant::now() + patience;
            if self.deadline < self.alarm.deadline() {
                self.alarm.as_mut().reset(self.deadline);
            }
        }
        ready!(self.alarm.as_mut().poll(context));
        if Instant::now() < self.deadline {
            self.alarm.as_mut().reset(self.deadline);
            ready!(self.alarm.as_mut().poll(context));
        }
        match wait {
            Wait::RestOfHead => self.refuse(Refusal::Head(Violation::HeadTimeout)),
            Wait::FirstByte | Wait::Anything => self.ended = true,
        }
        Poll::Ready(())
    }

    /// Keeps the time of a write, and of its peer that does not take it.
    fn written<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.write_alarm = None;
            return outcome;
        }
        let timeout = self.write_timeout;
        let alarm = self.write_alarm.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(alarm.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Something is known to come, or to lie there, that nobody has read: to close now would reset the connection,
    /// and the client would lose the answer that it has not read yet.
    fn is_unread(&self) -> bool {
        !self.ended && !self.framing.is_opaque() && (self.refused.is_some() || !self.framing.before_body())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buffer.filled().len();
        loop {
            if buffer.remaining() == 0 || this.give(buffer) || this.ended {
                return Poll::Ready(Ok(()));
            }
            if let Some(Refusal::Body(violation)) = this.refused {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
            }
            let read = match (this.refused, this.held.is_empty() && buffer.remaining() >= ROOM_BYTES_MIN) {
                // The stand-in has been given, and after it there is nothing more to say or to hear.
                (Some(_), _) => Poll::Pending,
                (None, true) => this.read_in_place(context, buffer)?,
                (None, false) => this.read_aside(context)?,
            };
            if read.is_pending() {
                ready!(this.wait(context));
            } else if buffer.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.written(context, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.written(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.linger {
                Linger::NotYet => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
                    this.linger = if this.is_unread() {
                        Linger::Until { alarm: Box::pin(sleep(LINGER_TIMEOUT)), bytes_left: LINGER_BYTES_MAX }
                    } else {
                        Linger::Done
                    };
                }
                Linger::Until { alarm, bytes_left } => {
                    let mut scratch = [0; SCRATCH_BYTES];
                    let mut scratch = ReadBuf::new(&mut scratch);
                    let read = Pin::new(&mut this.stream).poll_read(context, &mut scratch);
                    let heard = scratch.filled().len();
                    match read {
                        Poll::Pending => ready!(alarm.as_mut().poll(context)),
                        Poll::Ready(Ok(())) if heard > 0 && *bytes_left > heard => {
                            *bytes_left -= heard;
                            continue;
                        }
                        Poll::Ready(Ok(()) | Err(_)) => {}
                    }
                    this.linger = Linger::Done;
                }
                Linger::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// No test waits longer than that for anything.
    const PATIENCE: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(20);
    const GOOD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    #[tokio::test]
    async fn who_is_silent_between_requests_is_left() {
        let (mut client, server) = duplex(1024);
        let mut wire = Wire::new(server, &Limits::default());
        wire.idle_timeout = SHORT;
        client.write_all(GOOD).await.unwrap();
        let mut bytes = Vec::new();
        timeout(PATIENCE, wire.read_to_end(&mut bytes)).await.expect("the end").unwrap();
        assert_eq!(bytes, GOOD);
    }

    #[tokio::test]
    async fn who_takes_no_answer_is_left() {
        let (_client, server) = duplex(64);
        let mut wire = Wire::new(server, &Limits { body_timeout: SHORT, ..Limits::default() });
        let written = timeout(PATIENCE, wire.write_all(&[0; 1000])).await.expect("the end");
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_is_whole_is_read_where_it_is_wanted() {
        let (mut client, server) = duplex(1024);
        let mut wire = Wire::new(server, &Limits::default());
        client.write_all(&[GOOD, GOOD].concat()).await.unwrap();
        let mut bytes = Vec::with_capacity(2048);
        wire.read_buf(&mut bytes).await.unwrap();
        assert_eq!((bytes, wire.held.capacity()), ([GOOD, GOOD].concat(), 0), "nothing has gone through `held`");
    }

    #[tokio::test]
    async fn a_refused_head_is_replaced_and_nothing_follows_it() {
        let (mut client, server) = duplex(1024);
        let mut wire = Wire::new(server, &Limits::default());
        wire.idle_timeout = SHORT;
        client.write_all(&[GOOD, b"GET / HTTP/1.1\r\n\r\n", GOOD].concat()).await.unwrap();
        let mut bytes = Vec::new();
        timeout(PATIENCE, wire.read_to_end(&mut bytes)).await.expect("the end").unwrap();
        assert_eq!(bytes, [GOOD, &Violation::Host.stand_in()].concat());
    }
}
