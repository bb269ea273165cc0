//! The cost of a decision over HTTP, against a bare hyper server that reads the same body and answers as many bytes, and
//! against other engines where they are installed: `cargo bench --bench load`. Needs `wrk` and Linux.
//! Every server is a process of its own on loopback, driven in turn over kept connections, in alternating rounds; what
//! it used is taken from the operating system's accounts. Prints medians and ratios; decides nothing.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark that fails serves nobody"
)]

mod driver;
mod peers;
mod questions;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use driver::{Drive, Server, median};
use questions::Question;

const ROUNDS: usize = 3;
/// `cargo bench --bench load -- questions` does this part alone.
const PARTS: [&str; 3] = ["policies", "questions", "latency"];
const POLICIES: [usize; 3] = [8, 1_000, 10_000];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).map(String::as_str) == Some("bare") {
        return driver::bare(arguments[2].parse().unwrap());
    }
    let folder = Folder::new();
    println!("{ROUNDS} alternating rounds of {} s each, {} connections\n", driver::SECONDS, driver::CONNECTIONS);
    let is_asked_for = |part: &str| {
        !PARTS.iter().any(|known| arguments.contains(&(*known).to_owned())) || arguments.contains(&part.to_owned())
    };
    if is_asked_for("policies") {
        by_policies(&folder.0);
    }
    if is_asked_for("questions") {
        by_question(&folder.0);
    }
    if is_asked_for("latency") {
        at_half_load();
    }
}

/// The same question of so many policies, and of other engines with as many.
fn by_policies(folder: &Path) {
    println!("| policies | server | CPU µs | × bare | rps | p50 | p99 | MiB | start s |");
    println!("|---:|---|---:|---:|---:|---:|---:|---:|---:|");
    for count in POLICIES {
        let pairs = questions::pairs(count);
        let dir = folder.join(format!("policies-{count}"));
        questions::write_policies(&dir, &pairs);
        let question = questions::of_pair(&pairs[0]);
        let started = Instant::now();
        let ours = Server::cedarward(&["--policies", dir.to_str().unwrap()]);
        let mut servers = vec![("Cedarward", started.elapsed(), ours, question.clone())];
        servers.extend(peers::installed(folder, &pairs));
        let bare = Server::bare(&servers[0].2.once(&question));
        let mut rows = vec![Vec::new(); servers.len()];
        let mut bare_rounds = Vec::new();
        for _ in 0..ROUNDS {
            bare_rounds.push(bare.drive(&question, folder));
            for (row, (_, _, server, question)) in rows.iter_mut().zip(&servers) {
                row.push(server.drive(question, folder));
            }
        }
        let bare_cpu = median(bare_rounds.iter().map(|drive| drive.cpu_us));
        print_row(count, ("bare hyper", Duration::ZERO, &bare), &bare_rounds, bare_cpu);
        for (row, (name, took, server, _)) in rows.iter().zip(&servers) {
            print_row(count, (*name, *took, server), row, bare_cpu);
        }
    }
    println!();
}

fn print_row(policies: usize, (name, took, server): (&str, Duration, &Server), rounds: &[Drive], bare_cpu: f64) {
    let of = |figure: fn(&Drive) -> f64| median(rounds.iter().map(figure));
    let cpu = of(|drive| drive.cpu_us);
    println!(
        "| {policies} | {name} | {cpu:.1} | {:.2} | {:.0} | {:.0} µs | {:.0} µs | {:.0} | {:.2} |",
        cpu / bare_cpu,
        of(|drive| drive.per_second),
        of(|drive| drive.p50_us),
        of(|drive| drive.p99_us),
        server.resident_mib(),
        took.as_secs_f64(),
    );
}

/// The questions that differ in what they need, of the default policies.
fn by_question(folder: &Path) {
    let keys = questions::Keys::write(folder);
    let ours = Server::cedarward(&["--policies", keys.policies.to_str().unwrap()]);
    println!("| question, default policies | bare µs | CPU µs | × bare | × claims | p50 | p99 |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let mut claims_cpu = None;
    for Question { name, bodies } in questions::all(&keys) {
        let answer = ours.once(&bodies);
        assert!(answer.starts_with("{\"decision\":\"permit\""), "{name}: {answer}");
        let bare = Server::bare(&answer);
        let mut bare_rounds = Vec::new();
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            bare_rounds.push(bare.drive(&bodies, folder));
            rounds.push(ours.drive(&bodies, folder));
        }
        let of = |rounds: &[Drive], figure: fn(&Drive) -> f64| median(rounds.iter().map(figure));
        let (bare_cpu, cpu) = (of(&bare_rounds, |drive| drive.cpu_us), of(&rounds, |drive| drive.cpu_us));
        let claims_cpu = *claims_cpu.get_or_insert(cpu);
        println!(
            "| {name} | {bare_cpu:.1} | {cpu:.1} | {:.2} | {:.2} | {:.0} µs | {:.0} µs |",
            cpu / bare_cpu,
            cpu / claims_cpu,
            of(&rounds, |drive| drive.p50_us),
            of(&rounds, |drive| drive.p99_us),
        );
    }
    println!("\nresident after all that: {:.0} MiB\n", ours.resident_mib());
}

/// What a client waits for when the server has half of what it can do.
fn at_half_load() {
    let ours = Server::cedarward(&[]);
    let question = questions::reader();
    let most = ours.paced(&question, f64::INFINITY).per_second;
    let half = ours.paced(&question, most / 2.0);
    println!(
        "at half of {most:.0} requests/s, sent on time over {} connections: p50 {:.0} µs, p99 {:.0} µs",
        driver::CONNECTIONS,
        half.p50_us,
        half.p99_us
    );
}

/// A folder of our own; gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("cedarward-load-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
