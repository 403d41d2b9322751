//! Generated requests without end: no panic, no leak, no row that nobody sent.
//!
//! A short form is part of the tests; `make siege` sends a million (`SIEGE_REQUESTS`).

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use reqwest::Client;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{example, execution, new_database, rows, url, within};
use crate::process::{Process, program};

const SENDERS: u64 = 16;

/// A request as nobody should send it, or nearly as one should.
fn request(random: &mut StdRng, number: u64) -> Vec<u8> {
    const METHODS: [&str; 8] = ["POST", "POST", "POST", "POST", "GET", "HEAD", "\0", "OPTIONS"];
    const TARGETS: [&str; 7] = ["", "", "", "/", "/token", "?token=x&token", "%2f%00"];
    const HEADERS: [&str; 14] = [
        "content-encoding: gzip",
        "content-encoding: br",
        "x-webhook-signature: sha256=00",
        "x-webhook-timestamp: 99999999999999999999",
        "x-webhook-secret: \u{e9}\u{0}",
        "expect: 100-continue",
        "connection: close",
        "transfer-encoding: chunked",
        "content-length: 18446744073709551615",
        "content-length: 3",
        "content-type: multipart/form-data",
        ": x",
        "host:",
        "a b c",
    ];
    let unique = execution(&format!("{number:x}"), "completed").to_string();
    let mut body = match random.random_range(0..6) {
        0 => example("full-execution.json").into_bytes(),
        1 => (0..random.random_range(0..300)).map(|_| random.random()).collect(),
        2 => format!("{{\"executionId\":{number}}}").into_bytes(),
        3 => [r#"{"a":"#.repeat(random.random_range(1..200)), unique].concat().into_bytes(),
        _ => unique.into_bytes(),
    };
    for _ in 0..random.random_range(0..3) {
        if let Some(last) = body.len().checked_sub(1) {
            let at = random.random_range(0..=last);
            match random.random_range(0..3) {
                0 => body[at] = random.random(),
                1 => body.truncate(at),
                _ => body.insert(at, random.random()),
            }
        }
    }
    let (method, target) = (METHODS.choose(random).unwrap(), TARGETS.choose(random).unwrap());
    let mut head = format!("{method} /webhooks/workflow-completed{target} HTTP/1.1\r\nhost: x\r\n");
    if random.random_bool(0.9) {
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    for _ in 0..[0, 0, 0, 1, 1, 2].choose(random).copied().unwrap() {
        let _ = write!(head, "{}\r\n", HEADERS.choose(random).unwrap());
    }
    let mut request = [head.as_bytes(), b"\r\n", &body].concat();
    if random.random_bool(0.05) {
        let last = request.len() - 1;
        request[random.random_range(0..=last)] = random.random();
    }
    request
}

/// Sends until it is told to stop or is cut off, and counts the answers with status 200 and 422.
async fn send(address: String, seed: u64, requests: u64, taken: Arc<AtomicU64>, kept_aside: Arc<AtomicU64>) {
    let mut random = StdRng::seed_from_u64(seed);
    for n in 0..requests {
        let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
        let request = request(&mut random, n * SENDERS + seed);
        if stream.write_all(&request).await.is_err() {
            continue;
        }
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
        // One request may hold what looks like two.
        for (at, _) in String::from_utf8_lossy(&answer).match_indices("HTTP/1.1 ") {
            let status = answer.get(at + 9..at + 12).unwrap_or_default();
            match status {
                b"200" => taken.fetch_add(1, Ordering::Relaxed),
                b"422" => kept_aside.fetch_add(1, Ordering::Relaxed),
                b"400" | b"403" | b"404" | b"405" | b"408" | b"413" | b"415" | b"431" | b"100" | b"503" => 0,
                _ => panic!(
                    "{:?} was answered {:?}",
                    String::from_utf8_lossy(&request),
                    String::from_utf8_lossy(&answer)
                ),
            };
        }
    }
}

pub(crate) fn resident_kib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_siege_there_is_no_panic_no_leak_and_no_unexplained_row() {
    let requests: u64 = std::env::var("SIEGE_REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(4_000);
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let process = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
    let address = process.url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let (taken, kept_aside) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut memory = Vec::new();
    // In four parts, the first to warm up: a leak shows as growth in the others.
    for part in 0..4 {
        let mut senders = tokio::task::JoinSet::new();
        for sender in 0..SENDERS {
            let seed = part << 32 | sender;
            let (taken, kept_aside) = (taken.clone(), kept_aside.clone());
            senders.spawn(send(address.clone(), seed, requests / SENDERS / 4, taken, kept_aside));
        }
        senders.join_all().await;
        memory.push(resident_kib(&process));
    }
    let honest = Client::new().post(&process.url).body(execution("honest", "completed").to_string());
    assert_eq!(honest.send().await.unwrap().status(), 200);
    let metrics =
        reqwest::get(format!("http://{}/metrics", process.admin)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("workflow_receiver_panics_total 0"), "{metrics}");
    let log = process.terminate();
    assert!(!log.iter().any(|line| line.contains("panicked")), "{log:#?}");
    let counts = "SELECT (SELECT coalesce(sum(deliveries), 0) FROM executions) AS taken,
                         (SELECT coalesce(sum(deliveries), 0) FROM quarantine) AS kept_aside";
    let counted = rows(&database, counts).await;
    let sent = json!({ "taken": taken.load(Ordering::Relaxed) + 1, "kept_aside": kept_aside.load(Ordering::Relaxed) });
    println!("{requests} requests: {sent}, {memory:?} KiB resident");
    // An answer may be cut off by what came behind its request: never fewer rows than answers.
    for column in ["taken", "kept_aside"] {
        let (rows, answers) = (counted[0][column].as_u64().unwrap(), sent[column].as_u64().unwrap());
        assert!(
            rows >= answers && rows - answers <= requests / 100,
            "{column}: {rows} rows, {answers} answers"
        );
    }
    assert!(memory[3] < memory[0] + memory[0] / 2 + (8 << 10), "memory grows: {memory:?} KiB");
}
