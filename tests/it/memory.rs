//! Memory of requests: heads and bodies are bounded, and each request without memory is answered.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use reqwest::Client;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};
use workflow_receiver::config::Secrets;

use crate::support::fixtures::{body_of_size, execution};
use crate::support::http::{gzip, problem, rest, signed};
use crate::support::postgres::{UNREACHABLE, no_database};
use crate::support::process::{Process, program};
use crate::support::receiver::TestReceiver;
use crate::support::wait::{until, within};

const PATH: &str = "/webhooks/workflow-completed";

fn address(process: &Process) -> String {
    process.url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned()
}

/// Sends the whole request before it reads the answer, as many clients do.
async fn sent_before_reading(mut stream: TcpStream, request: Vec<u8>) -> String {
    let sent = within(stream.write_all(&request)).await;
    let mut answer = Vec::new();
    let read = within(stream.read_to_end(&mut answer)).await;
    assert!(sent.is_ok() && read.is_ok(), "{sent:?} {read:?} {answer:?}");
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_large_bodies_are_all_answered_within_bounded_memory() {
    const BODY: usize = 4 << 20;
    const IN_FLIGHT: usize = 32 << 20;
    let dir = TempDir::new().unwrap();
    let process = Process::start(
        program(dir.path())
            .env("DATABASE_URL", UNREACHABLE)
            .env("RECEIVER__HTTP__MAX_BODY_BYTES", BODY.to_string())
            .env("RECEIVER__HTTP__MAX_BYTES_IN_FLIGHT", IN_FLIGHT.to_string()),
    );
    let before = process.resident_kib();
    let body = body_of_size("000000", BODY - 1024);
    let bodies: Vec<_> = (0..60).map(|n| body.replacen("000000", &format!("{n:06}"), 1)).collect();
    let mut requests = JoinSet::new();
    for body in bodies {
        let stream = TcpStream::connect(address(&process)).await.unwrap();
        let size = body.len();
        let head =
            format!("POST {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n");
        requests.spawn(sent_before_reading(stream, [head, body].concat().into_bytes()));
    }
    let answers = requests.join_all().await;
    let with = |status: &str| answers.iter().filter(|answer| answer.starts_with(status)).count();
    let (accepted, rejected) = (with("HTTP/1.1 200 "), with("HTTP/1.1 503 "));
    assert_eq!(accepted + rejected, 60, "{answers:#?}");
    assert!(accepted >= IN_FLIGHT / BODY, "{accepted} accepted");
    for answer in answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 503 ")) {
        assert!(answer.contains("retry-after: 1"), "{answer}");
    }
    let peak = process.peak_resident_kib();
    println!("{accepted} accepted, {rejected} rejected, {before} KiB before, {peak} KiB at most");
    // The budget, and a fixed part for the spool's writer and the recorder.
    let bound = before + (IN_FLIGHT as u64 >> 10) + (72 << 10);
    assert!(peak < bound, "{before} KiB before, {peak} KiB at most, more than {bound} KiB");
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_bodies_with_forged_signatures_leave_memory_for_signed_ones() {
    let token = "a-token-of-enough-length";
    let receiver = TestReceiver::start_with(|s| {
        s.http.max_body_bytes = 1 << 20;
        s.http.max_bytes_in_flight = 4 << 20;
        s.http.body_timeout = Duration::from_secs(15);
        s.auth.webhook_secrets = Secrets::of(&["whsec_x"]);
        s.auth.url_tokens = Secrets::of(&[token]);
    })
    .await;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let forged = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\nx-webhook-timestamp: {now}\r\nx-webhook-signature: sha256={}\r\n\
         content-length: 1000000\r\n\r\n",
        "0".repeat(64)
    );
    let mut stalled = Vec::new();
    for _ in 0..24 {
        let mut stream = receiver.connect().await;
        let request = [forged.as_bytes(), &vec![b' '; 235_000]].concat();
        stalled.push(tokio::spawn(async move {
            let _ = stream.write_all(&request).await;
            rest(&mut stream).await
        }));
    }
    // Together they have sent nearly `max_bytes_in_flight`.
    until(async || {
        receiver.metric("requests_receiving_body").await == 24.0
            && receiver.metric("body_memory_bytes").await > 1_500_000.0
    })
    .await;
    // A sender verified by the head gets memory at once: unverified senders can use only half of it.
    let by_token =
        receiver.client.post(format!("{}/{token}", receiver.url)).body(body_of_size("token", 900_000));
    assert_eq!(by_token.send().await.unwrap().status(), 200);
    // A sender whose signature is verified after the body gets the memory of the stalled bodies.
    for n in 0..4 {
        let body = body_of_size(&format!("signed {n}"), 900_000);
        let request = signed(receiver.client.post(&receiver.url), "whsec_x", now, &body);
        let answer = request.body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    // Evicted and late requests are answered.
    for stalled in stalled {
        let answer = stalled.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    until(async || receiver.metric("body_memory_bytes").await == 0.0).await;
}

/// Announces a large body with a forged signature, sends `bytes` of it, and stalls. Repeats that after the answer.
/// `pace` limits the rate of all senders together.
async fn forged_sender(address: String, bytes: usize, stalled: Arc<AtomicUsize>, pace: Arc<Mutex<Interval>>) {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let forged = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\nx-webhook-timestamp: {now}\r\nx-webhook-signature: sha256={}\r\n\
         content-length: 16000000\r\n\r\n",
        "0".repeat(64)
    );
    let request = [forged.into_bytes(), vec![b' '; bytes]].concat();
    loop {
        let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
        let _ = stream.write_all(&request).await;
        stalled.fetch_add(1, Relaxed);
        let mut answer = [0; 12];
        let _ = stream.read_exact(&mut answer).await;
        pace.lock().await.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_unauthenticated_senders_do_not_block_a_large_signed_body() {
    const FORGED_SENDERS: usize = 1500;
    let dir = TempDir::new().unwrap();
    let process = Process::start(
        program(dir.path())
            .env("DATABASE_URL", UNREACHABLE)
            .env("RECEIVER__AUTH__WEBHOOK_SECRETS", "whsec_x"),
    );
    let stalled = Arc::new(AtomicUsize::new(0));
    // 14 MB/s.
    let pace = Arc::new(Mutex::new(interval(Duration::from_millis(5))));
    pace.lock().await.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut forged_senders = JoinSet::new();
    for _ in 0..FORGED_SENDERS {
        forged_senders.spawn(forged_sender(address(&process), 70_000, stalled.clone(), pace.clone()));
    }
    until(async || {
        tokio::task::yield_now().await;
        stalled.load(Relaxed) >= FORGED_SENDERS
    })
    .await;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    for n in 0..4 {
        let body = body_of_size(&format!("signed {n}"), 2_000_000);
        let request = signed(Client::new().post(&process.url), "whsec_x", now, &body);
        let since = Instant::now();
        let answer = request.send().await.unwrap();
        println!("{} after {:?}", answer.status(), since.elapsed());
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        assert!(since.elapsed() < Duration::from_secs(8), "answered after {:?}", since.elapsed());
    }
    forged_senders.shutdown().await;
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_and_its_decompressed_body_both_count() {
    let receiver = TestReceiver::start_with(|s| {
        s.http.max_body_bytes = 1 << 20;
        s.http.max_bytes_in_flight = 100_000;
    })
    .await;
    let gzipped =
        |body: Vec<u8>| receiver.client.post(&receiver.url).header("content-encoding", "gzip").body(body);
    let small = gzipped(gzip(body_of_size("fits", 150_000))).send().await.unwrap();
    assert_eq!(small.status(), 200);
    let large = gzipped(gzip(body_of_size("does not", 200_000))).send().await.unwrap();
    assert_eq!(problem(large, 503).await.0, "busy");
    let plain = receiver.post(body_of_size("does not", 200_000)).await;
    assert_eq!(problem(plain, 503).await.0, "busy");
    until(async || receiver.metric("body_memory_bytes").await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_bodies_are_received_in_bounded_memory() {
    let receiver = TestReceiver::start_with(|s| {
        s.http.max_body_bytes = 1 << 20;
        s.http.max_bytes_in_flight = 1 << 20;
    })
    .await;
    for n in 0..3 {
        let body = body_of_size(&n.to_string(), 900_000).into_bytes();
        let pieces =
            body.chunks(10_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect::<Vec<_>>();
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
        assert_eq!(receiver.post(body).await.status(), 200);
    }
    until(async || receiver.metric("body_memory_bytes").await == 0.0).await;
    let recorded = receiver.rows("SELECT length(payload ->> 'fill') AS fill FROM executions").await;
    assert!(
        recorded.len() == 3 && recorded.iter().all(|row| row["fill"].as_u64() > Some(899_000)),
        "{recorded:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_request_heads_need_bounded_memory() {
    const CONNECTIONS: usize = 2_000;
    let dir = TempDir::new().unwrap();
    let process = Process::start(
        program(dir.path()).env("DATABASE_URL", UNREACHABLE).env("RECEIVER__HTTP__HEADER_TIMEOUT", "2m"),
    );
    let before = process.resident_kib();
    let head = [&b"POST / HTTP/1.1\r\nhost: x\r\nx: "[..], &vec![b'x'; 60_000]].concat();
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(address(&process)).await.unwrap();
        let _ = within(stream.write_all(&head)).await;
        streams.push(stream);
    }
    // When this request is answered, all earlier connections have been read.
    let honest = Client::new().post(&process.url).body(execution("honest", "completed").to_string());
    assert_eq!(honest.send().await.unwrap().status(), 200);
    let peak = process.peak_resident_kib();
    println!("{before} KiB before, {peak} KiB at most");
    assert!(peak < before + (48 << 10), "{before} KiB before, {peak} KiB at most");
    drop(streams);
    process.terminate();
}

/// More than the socket buffers hold.
const MUCH: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_sender_that_is_still_sending_gets_the_answer_and_no_reset() {
    let receiver = TestReceiver::start_with(|s| {
        s.http.max_body_bytes = 10 << 20;
        s.http.max_bytes_in_flight = 1 << 20;
        s.http.max_requests = 2;
        s.auth.url_tokens = Secrets::of(&["a-token-of-enough-length"]);
    })
    .await;
    let known = format!("{PATH}/a-token-of-enough-length");
    let post = |path: &str, more: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n");
        [head.as_bytes(), &vec![b' '; MUCH]].concat()
    };
    let announced = format!("content-length: {MUCH}\r\n");
    for (request, status) in [
        (post("/elsewhere", &announced), "404"),
        (post(PATH, &announced), "401"),
        // Larger than `max_bytes_in_flight`.
        (post(&known, &announced), "503"),
        (post(&known, "content-length: 20000000\r\n"), "413"),
        (post(&known, &format!("x: {}\r\n", "x".repeat(100_000))), "431"),
        (post(&known, "content-length: x\r\n"), "400"),
    ] {
        let answer = sent_before_reading(receiver.connect().await, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    // All requests in flight wait for the disk: the next one is rejected before its body is read.
    let held = receiver.hold_spool();
    let mut waiting = JoinSet::new();
    for n in 0..2 {
        let url = format!("{}/a-token-of-enough-length", receiver.url);
        let body = execution(&n.to_string(), "completed").to_string();
        waiting.spawn(async move { Client::new().post(url).body(body).send().await.unwrap().status() });
    }
    until(async || {
        receiver.metric("requests_in_flight").await == 2.0
            && receiver.metric("requests_receiving_body").await == 0.0
    })
    .await;
    let answer = sent_before_reading(receiver.connect().await, post(&known, &announced)).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
    drop(held);
    assert!(waiting.join_all().await.iter().all(|status| *status == 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_late_bodies_are_all_answered_408() {
    let receiver =
        TestReceiver::start_on(no_database(), |s| s.http.body_timeout = Duration::from_millis(150)).await;
    let mut late = JoinSet::new();
    for _ in 0..200 {
        let mut stream = receiver.connect().await;
        late.spawn(async move {
            let head = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{");
            stream.write_all(head.as_bytes()).await.unwrap();
            rest(&mut stream).await
        });
    }
    for answer in late.join_all().await {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    }
}
