//! The server as a client meets it: raw bytes through a real socket, answers read back as bytes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cedarward::http::{
    framing::Violation,
    server::{Answer, Ask, Handler, Limits, serve},
};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::timeout,
};

/// No test waits longer than that for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says back what it was asked; some paths make it misbehave.
async fn echo(ask: Ask, gate: Arc<Gate>) -> Answer {
    let mut headers = Vec::new();
    match ask.path.as_str() {
        "/panic" => panic!("on purpose"),
        "/never" => std::future::pending().await,
        "/gate" => {
            gate.entered.notify_one();
            gate.open.notified().await;
        }
        "/text" => headers.push(("Content-Type", "text/plain".to_owned())),
        "/unwritable" => headers.push(("x-name", "a\r\nb".to_owned())),
        "/informational" => return Answer { status: 101, headers, body: Vec::new() },
        _ => {}
    }
    let query = ask.query.unwrap_or_default();
    let body = format!("{} {} {query} {}", ask.method, ask.path, String::from_utf8_lossy(&ask.body));
    Answer { status: 200, headers, body: body.into_bytes() }
}

#[derive(Default)]
struct Gate {
    entered: Notify,
    open: Notify,
}

struct Echo(Arc<Gate>);

impl Handler for Echo {
    async fn answer(&self, ask: Ask) -> Answer {
        echo(ask, Arc::clone(&self.0)).await
    }

    async fn call(&self, _: hyper::Request<hyper::body::Incoming>) -> hyper::Response<tonic::body::Body> {
        panic!("a call that panics")
    }
}

struct Served {
    address: SocketAddr,
    gate: Arc<Gate>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<std::io::Result<()>>,
}

async fn start(limits: Limits) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gate = Arc::new(Gate::default());
    let (stop, stopped) = oneshot::channel();
    let shutdown = async move { stopped.await.unwrap_or_default() };
    let ended = tokio::spawn(serve(listener, limits, Echo(gate.clone()), shutdown));
    Served { address, gate, stop, ended }
}

/// Sizes that a test meets quickly.
fn small() -> Limits {
    Limits { body_bytes_max: 1000, headers_bytes_max: 2000, url_bytes_max: 100, ..Limits::default() }
}

/// Times that a test waits for; not for one whose requests must be in time on a machine at work.
fn hasty() -> Limits {
    let short = Duration::from_millis(200);
    Limits { head_timeout: short, body_timeout: short, request_timeout: short, ..small() }
}

struct Client(TcpStream);

impl Served {
    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends all, says that there is no more, and reads all answers to the connection's end.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> Vec<Reply> {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client.0.shutdown().await.unwrap();
        client.until_end().await
    }

    /// As `exchange`, but the client leaves its half open: the end is the server's doing.
    async fn refusal(&self, bytes: impl AsRef<[u8]>) -> Vec<Reply> {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client.until_end().await
    }
}

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.0.write_all(bytes.as_ref())).await.expect("the server reads").unwrap();
    }

    async fn until_end(&mut self) -> Vec<Reply> {
        let mut bytes = Vec::new();
        timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await.expect("the connection ends").unwrap();
        let mut rest = bytes.as_slice();
        let mut replies = Vec::new();
        while !rest.is_empty() {
            let (reply, after) = Reply::parse(rest).expect("whole answers");
            replies.push(reply);
            rest = after;
        }
        replies
    }

    /// The next answer of a connection that goes on.
    async fn next(&mut self) -> Reply {
        let mut bytes = Vec::new();
        loop {
            if let Some((reply, rest)) = Reply::parse(&bytes) {
                assert!(rest.is_empty(), "one answer for one request");
                return reply;
            }
            let read = timeout(PATIENCE, self.0.read_buf(&mut bytes)).await.expect("an answer").unwrap();
            assert_ne!(read, 0, "the connection has ended before the answer: {:?}", String::from_utf8_lossy(&bytes));
        }
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Option<(Reply, &[u8])> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut reply = Reply { status, head, body: String::new() };
        // The one test that asks by HEAD reads its answer by itself.
        let length: usize = reply.header("content-length").map_or(0, |value| value.parse().unwrap());
        reply.body = String::from_utf8(bytes.get(end..end + length)?.to_vec()).unwrap();
        Some((reply, &bytes[end + length..]))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("an error of the API");
        assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json"));
        body["error"]["code"].as_str().unwrap().to_owned()
    }

    /// An answer of the server itself, after which it closes where it says so.
    fn check_error(&self, name: &str, status: u16, code: &str, closes: bool) {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{name}: {self:?}");
        assert_eq!(self.header("connection") == Some("close"), closes, "{name}: {}", self.head);
        assert_eq!(self.header("retry-after"), (status == 503).then_some("1"), "{name}: {}", self.head);
    }

    fn check_echo(&self, name: &str, body: &str) {
        assert_eq!((self.status, self.body.as_str()), (200, body), "{name}");
    }
}

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn what_is_well_formed_is_answered() {
    let served = start(small()).await;
    let cases: &[(&str, &str, &[&str])] = &[
        ("a path and a query", "GET /a%20b?c=d|e HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /a%20b c=d|e "]),
        ("an absolute target", "GET http://other.example:80/a?b HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /a b "]),
        (
            "an absolute target with a query alone",
            "GET http://other.example?b HTTP/1.1\r\nHost: a\r\n\r\n",
            &["GET / b "],
        ),
        ("an absolute target without a path", "GET http://other.example HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /  "]),
        ("two slashes", "GET //a/b HTTP/1.1\r\nHost: a\r\n\r\n", &["GET //a/b  "]),
        ("the server itself", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &["OPTIONS *  "]),
        ("a length", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", &["POST /a  hello"]),
        (
            "chunks with an extension and a trailer",
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n",
            &["POST /a  hello!"],
        ),
        (
            "identity",
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Encoding: Identity\r\nContent-Length: 1\r\n\r\nx",
            &["POST /a  x"],
        ),
        (
            "an upgrade that is ignored",
            "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
            &["GET /a  "],
        ),
        ("HTTP/1.0", "GET /a HTTP/1.0\r\nHost: a\r\n\r\n", &["GET /a  "]),
        (
            "three in a row",
            "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxyGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
            &["GET /1  ", "POST /2  xy", "GET /3  "],
        ),
    ];
    for (name, request, expected) in cases {
        let replies = served.exchange(request).await;
        assert_eq!(replies.len(), expected.len(), "{name}: {replies:?}");
        for (reply, body) in replies.iter().zip(*expected) {
            reply.check_echo(name, body);
            assert!(reply.header("date").is_some(), "{name}");
            assert_eq!(reply.header("content-type"), Some("application/json"), "{name}");
        }
        let mut client = served.connect().await;
        for byte in request.as_bytes() {
            client.send([*byte]).await;
        }
        client.0.shutdown().await.unwrap();
        assert_eq!(client.until_end().await.len(), expected.len(), "{name}, byte by byte");
    }
}

#[tokio::test]
async fn each_violation_is_answered_in_its_turn_and_ends_the_connection() {
    let (patient, impatient) = (start(small()).await, start(hasty()).await);
    let long = "x".repeat(3000);
    let cases: &[(Violation, &str)] = &[
        (Violation::RequestLine, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        (Violation::Target, "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (Violation::TargetTooLong, &format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
        (Violation::HeadersTooLarge, &format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n")),
        (Violation::HeadersTooLarge, &format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100))),
        (Violation::BareLineFeed, "GET / HTTP/1.1\nHost: a\n\n"),
        (Violation::FieldName, "GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n"),
        (Violation::SpaceBeforeColon, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        (Violation::ObsFold, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"),
        (Violation::FieldValue, "GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n"),
        (Violation::Alias, "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\nhello"),
        (Violation::Host, "GET / HTTP/1.1\r\n\r\n"),
        (Violation::Host, "GET / HTTP/1.0\r\n\r\n"),
        (Violation::Host, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (Violation::HostValue, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        (Violation::TwoLengths, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        (Violation::TwoLengths, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello"),
        (Violation::LengthValue, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello"),
        (
            Violation::LengthWithEncoding,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            Violation::TransferEncoding,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        (Violation::ChunkSize, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n"),
        (Violation::ChunkEnd, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n"),
        (Violation::Trailer, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n"),
        (Violation::HeadTimeout, "GET / HTTP/1.1\r\nHost: a\r\n"),
    ];
    for (violation, bad) in cases {
        let name = format!("{violation:?}");
        let (status, code) = violation.answer();
        let served = if status == 408 { &impatient } else { &patient };
        // What follows the violation must not be taken for a request.
        let replies = served.refusal(format!("{bad}{}", if status == 408 { "" } else { GOOD })).await;
        assert_eq!(replies.len(), 1, "{name}: {replies:?}");
        replies[0].check_error(&name, status, code, true);

        let replies = served.refusal(format!("{GOOD}{bad}")).await;
        assert_eq!(replies.len(), 2, "{name}, pipelined: {replies:?}");
        replies[0].check_echo(&name, "GET /good  ");
        replies[1].check_error(&name, status, code, true);

        if status != 408 {
            let mut client = served.connect().await;
            // What comes after the refusal may meet a closed connection.
            for byte in bad.as_bytes() {
                if client.0.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
            let replies = client.until_end().await;
            assert_eq!(replies.len(), 1, "{name}, byte by byte: {replies:?}");
            replies[0].check_error(&name, status, code, true);
        }
    }
    for violation in Violation::ALL {
        assert!(cases.iter().any(|(tried, _)| *tried == violation), "{violation:?} has its case");
    }
}

#[tokio::test]
async fn a_client_cannot_speak_as_a_stand_in() {
    let served = start(small()).await;
    let replies = served.refusal("!HeadTimeout / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    replies[0].check_error("a stand-in", 400, "bad-framing", true);
}

#[tokio::test]
async fn bodies_over_the_limit() {
    let served = start(small()).await;
    let head = "POST /a HTTP/1.1\r\nHost: a\r\n";
    let replies = served.refusal(format!("{head}Content-Length: 1001\r\n\r\n")).await;
    replies[0].check_error("announced, and never sent", 413, "body-too-large", true);

    let replies = served.refusal(format!("{head}Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n")).await;
    replies[0].check_error("announced, and not asked for", 413, "body-too-large", true);

    let chunks = format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", "64\r\n".to_owned() + &"x".repeat(100) + "\r\n");
    let chunks = chunks + &("64\r\n".to_owned() + &"x".repeat(100) + "\r\n").repeat(10);
    let replies = served.refusal(chunks).await;
    replies[0].check_error("in chunks without an end", 413, "body-too-large", true);

    // The client sends all of it before it looks for an answer: it must not find a reset in its place.
    let large = format!("{head}Content-Length: 8000000\r\n\r\n{}", "x".repeat(8_000_000));
    let replies = served.refusal(large).await;
    replies[0].check_error("sent to the end", 413, "body-too-large", true);

    let just = format!("{head}Content-Length: 1000\r\n\r\n{}", "x".repeat(1000));
    served.exchange(just).await[0].check_echo("just within", &format!("POST /a  {}", "x".repeat(1000)));
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    let served = start(Limits::default()).await;
    let body: String = (0..400_000).map(|number| format!("{number:07}\n")).collect();
    let head = "POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n";
    let mut client = served.connect().await;
    client.send(format!("{head}Content-Length: {}\r\n\r\n", body.len())).await;
    assert_eq!(client.next().await.status, 100);
    client.send(&body).await;
    client.next().await.check_echo("in one piece", &format!("POST /a  {body}"));
}

#[tokio::test]
async fn some_paths_take_larger_bodies_a_few_at_a_time() {
    let limits = Limits { large_paths: &["/large"], large_body_bytes_max: 3000, large_requests_max: 1, ..small() };
    let served = start(limits).await;
    let of = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length))
    };
    let echo = |length: usize| format!("POST /large  {}", "x".repeat(length));
    served.exchange(of("/large", 3000)).await[0].check_echo("a large body", &echo(3000));
    served.exchange(of("/large", 3001)).await[0].check_error("one too large", 413, "body-too-large", true);
    served.exchange(of("/a", 1001)).await[0].check_error("at another path", 413, "body-too-large", true);
    // one that is on its way takes the only place
    let mut slow = served.connect().await;
    let first = of("/large", 2000);
    let (begun, rest) = first.split_at(1500);
    slow.send(begun).await;
    let refused = loop {
        let reply = served.exchange(of("/large", 2000)).await.remove(0);
        if reply.status != 200 {
            break reply;
        }
    };
    refused.check_error("a second one", 503, "over-capacity", true);
    served.exchange(of("/large", 900)).await[0].check_echo("a small one", &echo(900));
    slow.send(rest).await;
    slow.next().await.check_echo("the first", &echo(2000));
}

#[tokio::test]
async fn encodings_are_refused() {
    let served = start(small()).await;
    for encoding in ["gzip", "identity, gzip", "identity\r\nContent-Encoding: br", ""] {
        let head = format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Encoding: {encoding}\r\nContent-Length: 1\r\n\r\nx");
        served.exchange(head).await[0].check_error(encoding, 415, "unsupported-encoding", true);
    }
    let mut client = served.connect().await;
    client.send("GET /a HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\n\r\n").await;
    client.next().await.check_error("without a body the connection goes on", 415, "unsupported-encoding", false);
    client.send(GOOD).await;
    client.next().await.check_echo("after it", "GET /good  ");
}

#[tokio::test]
async fn who_is_slow_is_told_and_left() {
    let served = start(hasty()).await;
    let head = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel";
    served.refusal(head).await[0].check_error("a slow body", 408, "timeout", true);
    let replies = served.refusal("GET").await;
    replies[0].check_error("a slow request line", 408, "timeout", true);
    assert!(served.refusal("").await.is_empty(), "a connection without a word is closed without a word");
    assert!(served.refusal("PRI * HTTP/2.0\r\n").await.len() == 1, "half an HTTP/2 preface");
}

#[tokio::test]
async fn a_head_that_trickles_is_not_given_more_time() {
    let served = start(hasty()).await;
    let mut client = served.connect().await;
    client.send("GET / HTTP/1.1\r\nX: ").await;
    let trickle = async {
        while client.0.write_all(b"y").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, trickle).await.expect("the server closes in spite of every byte");
}

#[tokio::test]
async fn a_handler_that_fails_gives_an_error() {
    let served = start(Limits { request_timeout: Duration::from_millis(500), ..small() }).await;
    let cases = [
        ("/panic", 500, "internal"),
        ("/never", 503, "timeout"),
        ("/unwritable", 500, "internal"),
        ("/informational", 500, "internal"),
    ];
    let mut client = served.connect().await;
    for (path, status, code) in cases {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let reply = client.next().await;
        reply.check_error(path, status, code, false);
        assert!(!reply.body.contains("permit"));
        client.send(GOOD).await;
        client.next().await.check_echo("the connection goes on", "GET /good  ");
    }
}

#[tokio::test]
async fn a_head_request_gets_no_body() {
    let served = start(small()).await;
    let mut client = served.connect().await;
    client.send("HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.0.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    timeout(PATIENCE, client.0.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.ends_with("\r\n\r\n") && text.contains("content-length: 9\r\n"), "{text}");
}

#[tokio::test]
async fn who_has_closed_its_half_waits_for_the_answer() {
    let served = start(Limits::default()).await;
    let mut client = served.connect().await;
    client.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.0.shutdown().await.unwrap();
    timeout(PATIENCE, served.gate.entered.notified()).await.unwrap();
    served.gate.open.notify_one();
    client.until_end().await[0].check_echo("answered", "GET /gate  ");
}

#[tokio::test]
async fn an_answer_may_name_its_type() {
    let served = start(small()).await;
    let replies = served.exchange("GET /text HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(replies[0].header("content-type"), Some("text/plain"));
}

#[tokio::test]
async fn too_many_requests_at_a_time() {
    let served = start(Limits { requests_max: 1, ..Limits::default() }).await;
    let mut first = served.connect().await;
    first.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await;
    timeout(PATIENCE, served.gate.entered.notified()).await.unwrap();
    let mut second = served.connect().await;
    second.send(GOOD).await;
    second.next().await.check_error("the second", 503, "over-capacity", false);
    served.gate.open.notify_one();
    first.next().await.check_echo("the first", "GET /gate  ");
    second.send(GOOD).await;
    second.next().await.check_echo("the second again", "GET /good  ");
}

#[tokio::test]
async fn connections_over_the_limit_wait() {
    let served = start(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut first = served.connect().await;
    first.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await;
    timeout(PATIENCE, served.gate.entered.notified()).await.unwrap();
    let mut second = served.connect().await;
    second.send(GOOD).await;
    let early = timeout(Duration::from_millis(50), second.next()).await;
    assert!(early.is_err(), "not answered while the first is open");
    served.gate.open.notify_one();
    first.next().await.check_echo("the first", "GET /gate  ");
    drop(first);
    second.next().await.check_echo("the second", "GET /good  ");
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_in_work() {
    let served = start(Limits::default()).await;
    let mut idle = served.connect().await;
    idle.send(GOOD).await;
    idle.next().await.check_echo("idle", "GET /good  ");
    let mut silent = served.connect().await;
    let mut begun = served.connect().await;
    begun.send("GET / HT").await;
    let mut busy = served.connect().await;
    busy.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await;
    timeout(PATIENCE, served.gate.entered.notified()).await.unwrap();
    served.stop.send(()).unwrap();
    assert!(idle.until_end().await.is_empty(), "who is idle is let go");
    assert!(silent.until_end().await.is_empty(), "who has said nothing is let go");
    assert!(begun.until_end().await.is_empty(), "who has only begun is let go");
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody new is let in");
    assert!(!served.ended.is_finished());
    served.gate.open.notify_one();
    let replies = busy.until_end().await;
    replies[0].check_echo("who is in work gets the answer", "GET /gate  ");
    timeout(PATIENCE, served.ended).await.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let limits = Limits { drain_timeout: Duration::from_millis(100), ..Limits::default() };
    let served = start(limits).await;
    let mut busy = served.connect().await;
    busy.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await;
    timeout(PATIENCE, served.gate.entered.notified()).await.unwrap();
    served.stop.send(()).unwrap();
    timeout(PATIENCE, served.ended).await.expect("the server ends").unwrap().unwrap();
}

/// HTTP/2 frames, by hand: enough to ask and to see the answer.
mod h2 {
    use super::*;

    pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const GOAWAY: u8 = 7;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// `:scheme http`, `:method`, `:path`, and further fields by their index in the static table; no authority.
    pub fn fields(method: &str, path: &str, further: &[(u8, &str)]) -> Vec<u8> {
        let mut block = vec![0x86];
        for (index, value) in [(2, method), (4, path)].iter().chain(further) {
            let length = u8::try_from(value.len()).ok().filter(|length| *length < 127).unwrap();
            // Literals without indexing: an index over 14 takes a second byte.
            match index {
                0..15 => block.push(*index),
                15.. => block.extend([15, *index - 15]),
            }
            block.push(length);
            block.extend(value.bytes());
        }
        block
    }

    pub const CONTENT_ENCODING: u8 = 26;
    pub const CONTENT_LENGTH: u8 = 28;

    impl Client {
        /// The next frame of a kind: its flags and its payload.
        pub async fn frame(&mut self, wanted: u8) -> (u8, Vec<u8>) {
            loop {
                let mut head = [0; 9];
                timeout(PATIENCE, self.0.read_exact(&mut head)).await.expect("a frame").unwrap();
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let mut payload = vec![0; length];
                timeout(PATIENCE, self.0.read_exact(&mut payload)).await.expect("its payload").unwrap();
                if head[3] == wanted {
                    return (head[4], payload);
                }
            }
        }
    }
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let served = start(Limits { request_timeout: Duration::from_millis(500), ..small() }).await;
    let ask = |method: &str, path: &str, further: &[(u8, &str)], body: &[u8]| {
        let end = if body.is_empty() { h2::END_STREAM } else { 0 };
        let mut bytes = h2::PREFACE.to_vec();
        bytes.extend(h2::frame(h2::HEADERS, h2::END_HEADERS | end, 1, &h2::fields(method, path, further)));
        if !body.is_empty() {
            bytes.extend(h2::frame(h2::DATA, h2::END_STREAM, 1, body));
        }
        bytes
    };
    let mut announced = h2::PREFACE.to_vec();
    let fields = h2::fields("POST", "/a", &[(h2::CONTENT_LENGTH, "1001")]);
    announced.extend(h2::frame(h2::HEADERS, h2::END_HEADERS, 1, &fields));
    let long = format!("/{}", "x".repeat(101));
    let status = |code: u16| code.to_string().into_bytes();
    let cases = [
        ("no authority", ask("GET", "/a?b", &[], b""), status(200), "GET /a b "),
        ("a body", ask("POST", "/a", &[], b"hello"), status(200), "POST /a  hello"),
        (
            "an encoding",
            ask("POST", "/a", &[(h2::CONTENT_ENCODING, "gzip")], b"x"),
            status(415),
            "unsupported-encoding",
        ),
        ("a body announced, and never sent", announced, status(413), "body-too-large"),
        ("a body too long", ask("POST", "/a", &[], &[b'x'; 1001]), status(413), "body-too-large"),
        ("a target too long", ask("GET", &long, &[], b""), status(414), "url-too-long"),
        ("raw UTF-8 in the target", ask("GET", "/\u{e9}", &[], b""), status(400), "bad-framing"),
        ("a panic", ask("GET", "/panic", &[], b""), status(500), "internal"),
        ("a slow handler", ask("GET", "/never", &[], b""), status(503), "timeout"),
    ];
    for (name, request, status, expected) in cases {
        let mut client = served.connect().await;
        client.send(&request).await;
        let (_, fields) = client.frame(h2::HEADERS).await;
        // 200, 400 and 500 are entries of HPACK's static table, the others literals.
        let indexed: &[(&[u8], u8)] = &[(b"200", 0x88), (b"400", 0x8c), (b"500", 0x8e)];
        match indexed.iter().find(|(code, _)| *code == status) {
            Some((_, index)) => assert_eq!(fields[0], *index, "{name}"),
            None => assert_eq!(decoded(&fields), status, "{name}"),
        }
        let (_, body) = client.frame(h2::DATA).await;
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains(expected), "{name}: {body}");
    }
    let mut client = served.connect().await;
    client.send(ask("HEAD", "/a", &[], b"")).await;
    let (flags, _) = client.frame(h2::HEADERS).await;
    assert_eq!(flags & h2::END_STREAM, h2::END_STREAM, "HEAD has no body");
}

/// The digits of a `:status` that is the first, Huffman-coded literal of a field block (RFC 7541, appendix B: the
/// codes of `0`, `1` and `2` have five bits, those of `3` to `9` six).
fn decoded(fields: &[u8]) -> Vec<u8> {
    assert_eq!((fields[0] & 0x3f, fields[1] & 0x80), (8, 0x80), "a literal `:status`");
    let bits: String = fields[2..][..usize::from(fields[1] & 0x7f)].iter().map(|byte| format!("{byte:08b}")).collect();
    let mut rest = bits.as_str();
    let mut digits = Vec::new();
    while digits.len() < 3 {
        let (short, after) = rest.split_at(5);
        let (long, after_long) = rest.split_at(6);
        let code = |bits| u8::from_str_radix(bits, 2).unwrap();
        let short_codes = 0..3;
        (digits, rest) = if short_codes.contains(&code(short)) {
            ([digits, vec![b'0' + code(short)]].concat(), after)
        } else {
            ([digits, vec![b'3' + code(long) - 0x19]].concat(), after_long)
        };
    }
    digits
}

#[tokio::test]
async fn http2_streams_that_are_reset_in_haste_end_the_connection() {
    let served = start(Limits::default()).await;
    let mut client = served.connect().await;
    let mut bytes = h2::PREFACE.to_vec();
    for number in 0..2000 {
        let stream = 2 * number + 1;
        let fields = h2::fields("GET", "/never", &[]);
        bytes.extend(h2::frame(h2::HEADERS, h2::END_HEADERS | h2::END_STREAM, stream, &fields));
        bytes.extend(h2::frame(h2::RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    // The server may close before it has taken them all.
    let _ = client.0.write_all(&bytes).await;
    let (_, payload) = client.frame(h2::GOAWAY).await;
    assert_eq!(payload[4..8], 11u32.to_be_bytes(), "ENHANCE_YOUR_CALM");
}

/// Pieces that make well-formed requests when they come in order, and every kind of confusion when they do not.
const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "GET /b?c=\"|{}^` HTTP/1.1\r\n",
    "GET http://a:99999/ HTTP/1.1\r\n",
    "GET http://[::1]:1?x HTTP/1.0\r\n",
    "Host: a\r\n",
    "Connection: close\r\n",
    "Expect: 100-continue\r\n",
    "Content-Length: 18446744073709551615\r\n",
    "\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// The twin of `framing`: whatever is sent, hyper finds nothing to refuse that has not been refused before it in
    /// our own words.
    #[test]
    fn every_answer_is_the_handlers_or_an_error_of_the_api(
        pieces in proptest::collection::vec(0..PIECES.len(), 1..8),
        bend in any::<prop::sample::Index>(),
        byte in proptest::option::of(any::<u8>()),
    ) {
        let mut input: Vec<u8> = pieces.iter().flat_map(|piece| PIECES[*piece].bytes()).collect();
        if let Some(byte) = byte {
            let at = bend.index(input.len());
            input[at] = byte;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let replies = runtime.block_on(async {
            let served = start(Limits::default()).await;
            served.exchange(&input).await
        });
        for reply in replies {
            match reply.status {
                100 => {}
                200 => prop_assert!(!reply.body.starts_with('!')),
                _ => prop_assert_ne!(reply.code(), "internal"),
            }
        }
    }
}
