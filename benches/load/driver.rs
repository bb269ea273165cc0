//! Servers as processes, and how they are driven and measured. Hides wrk, sockets and the system's accounts.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, service::service_fn};

pub const CONNECTIONS: usize = 16;
pub const SECONDS: u64 = 3;
const START_SECONDS_MAX: u64 = 120;

/// What one drive found.
#[derive(Debug, Clone)]
pub struct Drive {
    /// of the server, for each request
    pub cpu_us: f64,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

/// What is sent: to this path, these bodies in turn.
#[derive(Debug, Clone)]
pub struct Bodies {
    pub path: &'static str,
    pub bodies: Vec<String>,
}

/// A server process on loopback; ended when dropped.
pub struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    pub fn cedarward(arguments: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cedarward"));
        Server::that_says_where(command.args(["serve", "--listen", "127.0.0.1:0"]).args(arguments))
    }

    pub fn bare(answer: &str) -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        Server::that_says_where(command.args(["bare", &answer.len().to_string()]))
    }

    fn that_says_where(command: &mut Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("//").next().unwrap().parse().unwrap();
        Server { child, address }
    }

    /// One that listens on a port that it was told; `None` where it cannot be run.
    pub fn on_port(command: &mut Command, port: u16) -> Option<Server> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let server = Server { child, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let started = Instant::now();
        while TcpStream::connect(server.address).is_err() {
            assert!(started.elapsed().as_secs() < START_SECONDS_MAX, "the server does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    /// The answer to the first of them, once the server is ready to give one.
    pub fn once(&self, bodies: &Bodies) -> String {
        self.answered(&request("POST", bodies.path, &bodies.bodies[0]))
    }

    pub fn send(&self, method: &str, path: &str, body: &str) -> String {
        self.answered(&request(method, path, body))
    }

    fn answered(&self, request: &[u8]) -> String {
        let started = Instant::now();
        loop {
            let mut connection = Connection::open(self.address);
            match connection.ask(request) {
                Ok(body) => return body,
                Err(head) => assert!(started.elapsed().as_secs() < START_SECONDS_MAX, "{head}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As much as wrk can send.
    pub fn drive(&self, bodies: &Bodies, folder: &Path) -> Drive {
        let script = folder.join("drive.lua");
        std::fs::write(&script, lua(bodies)).unwrap();
        let wrk = |seconds: u64| {
            let output = Command::new("wrk")
                .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s"), "-s"])
                .arg(&script)
                .arg(format!("http://{}{}", self.address, bodies.path))
                .output()
                .unwrap_or_else(|error| panic!("wrk: {error}; install it with the system's packages"));
            String::from_utf8(output.stdout).unwrap()
        };
        wrk(1);
        let before = self.cpu_seconds();
        let text = wrk(SECONDS);
        let cpu = self.cpu_seconds() - before;
        let figures = text.lines().find_map(|line| line.strip_prefix("figures ")).unwrap_or_else(|| panic!("{text}"));
        let figures: Vec<f64> = figures.split(' ').map(|figure| figure.parse().unwrap()).collect();
        let [requests, micros, p50_us, p99_us, errors] = figures[..] else { panic!("{text}") };
        assert!(errors == 0.0, "{errors} of {requests} requests failed: {text}");
        Drive { cpu_us: cpu / requests * 1e6, per_second: requests / micros * 1e6, p50_us, p99_us }
    }

    /// So many requests a second, each sent when it is due; what it waits from then on.
    pub fn paced(&self, bodies: &Bodies, per_second: f64) -> Drive {
        let request = request("POST", bodies.path, &bodies.bodies[0]);
        let interval = Duration::from_secs_f64(CONNECTIONS as f64 / per_second);
        let before = self.cpu_seconds();
        let started = Instant::now();
        let connection = |index: usize| {
            let request = &request;
            move || {
                let mut connection = Connection::open(self.address);
                let mut due = started + interval.mul_f64(index as f64 / CONNECTIONS as f64);
                let mut waited = Vec::new();
                while started.elapsed().as_secs() < SECONDS {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let since = if interval.is_zero() { Instant::now() } else { due };
                    connection.ask(request).unwrap();
                    waited.push(since.elapsed().as_secs_f64() * 1e6);
                    due += interval;
                }
                waited
            }
        };
        let mut waited: Vec<f64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CONNECTIONS).map(|index| scope.spawn(connection(index))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let seconds = started.elapsed().as_secs_f64();
        waited.sort_by(f64::total_cmp);
        let at = |share: f64| waited[(waited.len() as f64 * share) as usize];
        Drive {
            cpu_us: (self.cpu_seconds() - before) / waited.len() as f64 * 1e6,
            per_second: waited.len() as f64 / seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
        }
    }

    /// What all threads of the process and its children have used.
    fn cpu_seconds(&self) -> f64 {
        let threads = family(self.child.id()).into_iter().flat_map(threads);
        let used = |thread: String| {
            let text = std::fs::read_to_string(format!("{thread}/schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|first| first.parse::<f64>().ok()).unwrap_or_default()
        };
        threads.map(used).sum::<f64>() / 1e9
    }

    pub fn resident_mib(&self) -> f64 {
        let resident = |process: u32| {
            let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:").map(str::to_owned));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default()
        };
        family(self.child.id()).into_iter().map(resident).sum::<f64>() / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for process in family(self.child.id()).into_iter().skip(1) {
            let _ = Command::new("kill").arg(process.to_string()).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process and those that it started.
fn family(process: u32) -> Vec<u32> {
    let mut family = vec![process];
    let mut at = 0;
    while let Some(process) = family.get(at).copied() {
        let children = threads(process).map(|thread| std::fs::read_to_string(format!("{thread}/children")));
        let children: Vec<u32> = children
            .flat_map(|text| text.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|child| child.parse().ok())
            .collect();
        family.extend(children);
        at += 1;
    }
    family
}

fn threads(process: u32) -> impl Iterator<Item = String> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    threads.map(|thread| thread.path().display().to_string())
}

pub fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// wrk sends the bodies in turn, and prints what it found in one line.
fn lua(Bodies { bodies, .. }: &Bodies) -> String {
    let quoted: Vec<String> = bodies.iter().map(|body| format!("[==[{body}]==]")).collect();
    format!(
        r#"
local bodies = {{ {} }}
local headers = {{ ["content-type"] = "application/json" }}
local requests, at = {{}}, 0
function init(args)
  for i, body in ipairs(bodies) do requests[i] = wrk.format("POST", nil, headers, body) end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("figures %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), failed))
end
"#,
        quoted.join(",\n")
    )
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
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
        Connection { stream, buffer: vec![0; 64 * 1024 * 1024] }
    }

    /// The body of an answer of 200, or the head of another.
    fn ask(&mut self, request: &[u8]) -> Result<String, String> {
        self.stream.write_all(request).unwrap();
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert!(read > 0, "the server closed the connection");
            filled += read;
            let so_far = &self.buffer[..filled];
            let Some(head) = so_far.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&so_far[..head]).to_lowercase();
            if !text.starts_with("http/1.1 200") {
                return Err(text);
            }
            let length: usize =
                text.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
            if filled >= head + 4 + length {
                return Ok(String::from_utf8_lossy(&so_far[head + 4..head + 4 + length]).into_owned());
            }
        }
    }
}

/// Reads each body and answers `bytes` bytes.
pub fn bare(bytes: usize) {
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
