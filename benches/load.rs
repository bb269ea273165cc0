//! CPU per decision over HTTP, against a bare hyper server that reads the same body and answers as many bytes.
//! `cargo bench --bench load`: both run as processes of their own, are driven in turn over kept connections, and what
//! they used is taken from the operating system's accounts. Prints ratios; decides nothing.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails serves nobody")]

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, service::service_fn};

const CONNECTIONS: usize = 4;
const REQUESTS: usize = 10_000;
const ROUNDS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).map(String::as_str) == Some("bare") {
        return bare(arguments[2].parse().unwrap());
    }
    let ours = Server::start(Command::new(env!("CARGO_BIN_EXE_cedarward")).args(["serve", "--listen", "127.0.0.1:0"]));
    println!("{:<34} {:>10} {:>10} {:>7} {:>9} {:>9}", "question", "bare µs", "ours µs", "ratio", "p50 µs", "p99 µs");
    for (name, body) in questions() {
        let answer = ours.once(&body);
        assert!(answer.starts_with("{\"decision\":\"permit\""), "{name}: {answer}");
        let bare =
            Server::start(Command::new(std::env::current_exe().unwrap()).args(["bare", &answer.len().to_string()]));
        bare.drive(&body, REQUESTS / 10);
        ours.drive(&body, REQUESTS / 10);
        let mut rounds: Vec<(f64, f64, f64, f64)> = (0..ROUNDS)
            .map(|_| {
                let (bare_cpu, _) = bare.drive(&body, REQUESTS);
                let (our_cpu, mut latencies) = ours.drive(&body, REQUESTS);
                latencies.sort_by(f64::total_cmp);
                let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize];
                (bare_cpu, our_cpu, at(0.5), at(0.99))
            })
            .collect();
        rounds.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
        let (bare_cpu, our_cpu, p50, p99) = rounds[ROUNDS / 2];
        println!("{name:<34} {bare_cpu:>10.1} {our_cpu:>10.1} {:>7.2} {p50:>9.0} {p99:>9.0}", our_cpu / bare_cpu);
    }
}

fn questions() -> Vec<(&'static str, String)> {
    let reader = r#"{"iss":"https://issuerurl","oid":"123","roles":["FHIR Data Reader"]}"#;
    let patient =
        r#"{"iss":"https://idp","sub":"u","patient":"123","scope":"patient/Observation.rs?category=laboratory"}"#;
    let laboratory = r#"{"resourceType":"Observation","id":"55","status":"final","subject":{"reference":"Patient/123"},"category":[{"coding":[{"code":"laboratory"}]}]}"#;
    let ask = |claims: &str, rest: &str| format!(r#"{{"claims":{claims},{rest}}}"#);
    vec![
        ("a reader reads", ask(reader, r#""request":{"method":"GET","url":"/Observation/55"}"#)),
        (
            "a reader searches, with an include",
            ask(reader, r#""request":{"method":"GET","url":"/Observation?code=1234-5&_include=Observation:subject"}"#),
        ),
        (
            "a patient app searches, narrowed",
            ask(
                r#"{"iss":"https://idp","sub":"u","patient":"123","scope":"patient/*.rs"}"#,
                r#""enforces":["filter"],"request":{"method":"GET","url":"/Observation?code=1234-5"}"#,
            ),
        ),
        (
            "a patient app, resource at hand",
            ask(patient, &format!(r#""request":{{"method":"GET","url":"/Observation/55"}},"resource":{laboratory}"#)),
        ),
    ]
}

/// A server process on loopback; ended when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(command: &mut Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("//").next().unwrap().parse().unwrap();
        Server { child, address }
    }

    fn once(&self, body: &str) -> String {
        let mut connection = Connection::open(self.address);
        connection.ask(&request(body))
    }

    /// Microseconds of CPU a request, and each request's latency in microseconds.
    fn drive(&self, body: &str, requests: usize) -> (f64, Vec<f64>) {
        let before = self.cpu_seconds();
        let request = request(body);
        let latencies = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut connection = Connection::open(self.address);
                        (0..requests / CONNECTIONS)
                            .map(|_| {
                                let started = Instant::now();
                                connection.ask(&request);
                                started.elapsed().as_secs_f64() * 1e6
                            })
                            .collect::<Vec<f64>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        ((self.cpu_seconds() - before) / requests as f64 * 1e6, latencies)
    }

    /// utime and stime of /proc/PID/schedstat's process, over all threads.
    fn cpu_seconds(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanoseconds = |task: std::io::Result<std::fs::DirEntry>| {
            let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|first| first.parse::<f64>().ok()).unwrap_or_default()
        };
        tasks.map(nanoseconds).sum::<f64>() / 1e9
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(body: &str) -> Vec<u8> {
    let head = "POST /v1/authorize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, buffer: vec![0; 64 * 1024] }
    }

    /// The body of the answer, which must be a 200.
    fn ask(&mut self, request: &[u8]) -> String {
        self.stream.write_all(request).unwrap();
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert!(read > 0, "the server closed the connection");
            filled += read;
            let so_far = &self.buffer[..filled];
            let Some(head) = so_far.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&so_far[..head]).to_lowercase();
            assert!(text.starts_with("http/1.1 200"), "{text}");
            let length: usize =
                text.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
            if filled >= head + 4 + length {
                return String::from_utf8_lossy(&so_far[head + 4..head + 4 + length]).into_owned();
            }
        }
    }
}

/// Reads each body and answers `bytes` bytes.
fn bare(bytes: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("listening on http://{}", listener.local_addr().unwrap());
        let answer = Bytes::from(vec![b'x'; bytes]);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let serve = service_fn(move |request: Request<Incoming>| {
                    let answer = answer.clone();
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        assert!(!body.is_empty());
                        let response = Response::builder().header("content-type", "application/json");
                        Ok::<_, Infallible>(response.body(Full::new(answer)).unwrap())
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), serve)
                    .await;
            });
        }
    });
}
