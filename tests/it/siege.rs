//! Generated requests, mostly malformed: no panic, no memory leak, no row without a request and no acknowledgement
//! without a row.
//!
//! `make siege` sends a million requests (`SIEGE_REQUESTS`); `make test` a few thousand.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::hash::Hash;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use reqwest::Client;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use workflow_receiver::execution::Execution;

use crate::support::fixtures::{example, execution};
use crate::support::postgres::{new_database, rows, url};
use crate::support::process::{Process, program};
use crate::support::wait::within;

const SENDERS: u64 = 16;

/// A malformed request, or one that is nearly right.
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

/// The body of `request`, by its first `content-length`; empty without one.
fn body_of(request: &[u8]) -> &[u8] {
    let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return &[] };
    let (head, rest) = (&request[..end], &request[end + 4..]);
    let length = head.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let length = line[..colon].eq_ignore_ascii_case(b"content-length");
        length.then(|| std::str::from_utf8(&line[colon + 1..]).ok()?.trim().parse::<usize>().ok()).flatten()
    });
    &rest[..length.unwrap_or(0).min(rest.len())]
}

/// The requests of one key: an execution's identifier, or the SHA-256 of a quarantined body.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    /// Answered 200 or 422: the row must count each.
    answered: i64,
    /// Without an answer: the row may count each.
    unclear: i64,
}

#[derive(Debug, Default)]
struct Counts {
    executions: HashMap<String, Count>,
    quarantine: HashMap<Vec<u8>, Count>,
}

impl Counts {
    /// Adds a request with the statuses of its answers.
    fn note(&mut self, request: &[u8], answers: &[&str]) {
        let body = body_of(request);
        let kept: Vec<_> = answers.iter().filter(|status| ["200", "422"].contains(status)).collect();
        assert!(kept.len() <= 1, "two deliveries in one request: {:?}", String::from_utf8_lossy(request));
        // 100 (Continue) is not the final answer.
        let final_answer = answers.iter().any(|status| *status != "100");
        let count = |count: &mut Count| match kept.first() {
            Some(_) => count.answered += 1,
            None => count.unclear += 1,
        };
        if kept.is_empty() && final_answer {
            return;
        }
        let is_execution = match kept.first() {
            Some(status) => **status == "200",
            None => Execution::parse(body).is_ok(),
        };
        if is_execution {
            let execution = Execution::parse(body);
            let execution = execution
                .unwrap_or_else(|why| panic!("answered 200: {why}: {:?}", String::from_utf8_lossy(request)));
            count(self.executions.entry(execution.execution_id.into_owned()).or_default());
        } else {
            count(self.quarantine.entry(Sha256::digest(body).to_vec()).or_default());
        }
    }

    fn merge(&mut self, other: Self) {
        let add = |count: &mut Count, more: Count| {
            count.answered += more.answered;
            count.unclear += more.unclear;
        };
        for (id, more) in other.executions {
            add(self.executions.entry(id).or_default(), more);
        }
        for (hash, more) in other.quarantine {
            add(self.quarantine.entry(hash).or_default(), more);
        }
    }
}

/// Rows that no request explains, and answers without a row.
fn unexplained<K: Debug + Eq + Hash>(sent: &HashMap<K, Count>, recorded: &HashMap<K, i64>) -> Vec<String> {
    let allowed = |key: &K| sent.get(key).copied().unwrap_or_default();
    let rows = recorded.iter().filter(|(key, deliveries)| {
        let Count { answered, unclear } = allowed(key);
        !(answered..=answered + unclear).contains(*deliveries)
    });
    let missing = sent.iter().filter(|(key, count)| count.answered > 0 && !recorded.contains_key(*key));
    rows.map(|(key, deliveries)| format!("{key:?}: {deliveries} recorded, {:?} sent", allowed(key)))
        .chain(missing.map(|(key, count)| format!("{key:?}: {count:?} sent, no row")))
        .collect()
}

/// The allowed growth of memory after `requests`: half of the growth with a leak of one kilobyte per request. `None`
/// for too few requests.
fn allowed_growth_kib(requests: u64) -> Option<u64> {
    (requests >= 100_000).then_some(requests / 2)
}

#[test]
fn a_leak_of_a_kilobyte_per_request_is_more_than_the_allowed_growth() {
    assert_eq!(allowed_growth_kib(3_000), None);
    assert!(allowed_growth_kib(750_000).is_some_and(|allowed| allowed < 750_000 * 1_000 / 1_024));
}

#[test]
fn the_siege_notices_a_row_without_a_request_and_an_answer_without_a_row() {
    let sent = HashMap::from([
        ("answered", Count { answered: 2, unclear: 1 }),
        ("unclear", Count { answered: 0, unclear: 1 }),
    ]);
    assert!(unexplained(&sent, &HashMap::from([("answered", 3)])).is_empty());
    for (wrong, rows) in [
        ("answered", vec![("answered", 1)]),
        ("answered", vec![("answered", 4)]),
        ("answered", vec![("unclear", 1)]),
        ("unclear", vec![("answered", 2), ("unclear", 2)]),
        ("unsent", vec![("answered", 2), ("unsent", 1)]),
    ] {
        let findings = unexplained(&sent, &rows.into_iter().collect());
        assert!(findings.len() == 1 && findings[0].contains(wrong), "{findings:?}");
    }
}

/// Sends generated requests and counts their answers.
async fn send(address: String, seed: u64, requests: u64) -> Counts {
    let mut random = StdRng::seed_from_u64(seed);
    let mut counts = Counts::default();
    for n in 0..requests {
        let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
        // The number is unique over all parts and senders.
        let request = request(&mut random, (seed >> 32) * requests * SENDERS + n * SENDERS + seed % SENDERS);
        // The receiver may answer and close the connection before it has read the whole request.
        let _ = stream.write_all(&request).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer);
        // The bytes of one request can form two requests.
        let statuses: Vec<_> =
            text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)).collect();
        for status in &statuses {
            let known = ["100", "200", "400", "403", "404", "405", "408", "413", "415", "422", "431", "503"];
            assert!(known.contains(status), "{:?} was answered {text:?}", String::from_utf8_lossy(&request));
        }
        counts.note(&request, &statuses);
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_cause_no_panic_no_memory_leak_and_no_unexplained_row() {
    let requests: u64 = std::env::var("SIEGE_REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(4_000);
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let process = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
    let address = process.url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let mut counts = Counts::default();
    let mut memory = Vec::new();
    // Four parts. The first one warms up; a leak shows as growth in the others.
    for part in 0..4 {
        let mut senders = tokio::task::JoinSet::new();
        for sender in 0..SENDERS {
            let seed = part << 32 | sender;
            senders.spawn(send(address.clone(), seed, requests / SENDERS / 4));
        }
        for more in senders.join_all().await {
            counts.merge(more);
        }
        memory.push(process.resident_kib());
    }
    let honest = Client::new().post(&process.url).body(execution("honest", "completed").to_string());
    assert_eq!(honest.send().await.unwrap().status(), 200);
    assert_eq!(process.counter("panics_total").await, 0);
    let log = process.terminate();
    assert!(!log.iter().any(|line| line.contains("panicked")), "{log:#?}");
    counts.executions.entry("honest".to_owned()).or_default().answered += 1;
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    let executions = "SELECT execution_id, deliveries::int8 FROM executions";
    let executions: Vec<(String, i64)> = sqlx::query_as(executions).fetch_all(&mut connection).await.unwrap();
    let bodies = "SELECT sha256(body), deliveries::int8 FROM quarantine";
    let bodies: Vec<(Vec<u8>, i64)> = sqlx::query_as(bodies).fetch_all(&mut connection).await.unwrap();
    let sum = |counts: &mut dyn Iterator<Item = &Count>| {
        counts.fold((0, 0), |sum, count| (sum.0 + count.answered, sum.1 + count.unclear))
    };
    let (accepted, rejected) = (sum(&mut counts.executions.values()), sum(&mut counts.quarantine.values()));
    println!(
        "{requests} requests: {accepted:?} answered 200 and unclear, {rejected:?} 422 and unclear, {memory:?} KiB resident"
    );
    let executions = unexplained(&counts.executions, &executions.into_iter().collect());
    let quarantine = unexplained(&counts.quarantine, &bodies.into_iter().collect());
    assert!(executions.is_empty() && quarantine.is_empty(), "{executions:#?} {quarantine:#?}");
    assert!(
        accepted.0 > i64::try_from(requests / 40).unwrap() && rejected.0 > 0,
        "too few requests reach the parser"
    );
    // Each conflict belongs to a recorded execution.
    let strays = "SELECT execution_id FROM execution_conflicts WHERE execution_id NOT IN (SELECT execution_id FROM executions)";
    assert_eq!(rows(&database, strays).await, Vec::<serde_json::Value>::new());
    if let Some(allowed) = allowed_growth_kib(requests / 4 * 3) {
        assert!(
            memory[3].saturating_sub(memory[0]) < allowed,
            "memory grows: {memory:?} KiB, allowed are {allowed}"
        );
    }
}
