//! Slow, malformed and excessive requests. Other senders are still served.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use workflow_receiver::config::Secrets;

use crate::support::fixtures::{body_of_size, execution};
use crate::support::http::{gzip, problem, rest, sign, signed};
use crate::support::postgres::count_rows;
use crate::support::receiver::TestReceiver;
use crate::support::wait::{until, within};

const PATH: &str = "/webhooks/workflow-completed";

fn post(id: &str, more: &str) -> String {
    let body = execution(id, "completed").to_string();
    format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{more}\r\n{body}", body.len())
}

/// The head of a request with a body of this size.
fn head(size: usize) -> String {
    format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n")
}

async fn connected(receiver: &TestReceiver, sent: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = receiver.connect().await;
    stream.write_all(sent.as_ref()).await.unwrap();
    stream
}

/// Checks that other senders are served and that nothing has panicked.
async fn assert_serves_others(receiver: &TestReceiver) {
    receiver.accept(execution("honest", "completed")).await;
    assert_eq!(receiver.metric("panics_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_head_or_body_times_out() {
    let receiver = TestReceiver::start_with(|s| {
        // Long enough for the valid requests below, also on a busy machine.
        s.http.header_timeout = Duration::from_secs(2);
        s.http.idle_timeout = Duration::from_secs(2);
        s.http.body_timeout = Duration::from_secs(2);
    })
    .await;
    // Concurrently, so that the test waits for one timeout only.
    let slow =
        ["", "P", "POST / HTTP/1.1\r\nhost:", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
    futures_util::future::join_all(slow.map(async |head| {
        let mut stream = connected(&receiver, head).await;
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
    }))
    .await;
    let answer = receiver.raw(head(100) + "{").await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("http.body_timeout"), "{answer}");
    // Idle after a response: closed without a reset.
    let answer = receiver.raw(post("e", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_serves_others(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_request_stores_nothing_and_frees_its_resources() {
    let receiver = TestReceiver::start().await;
    for part in [
        "POST",
        &head(100),
        &(head(100) + "{\"execution_id\":"),
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"a",
    ] {
        let mut stream = connected(&receiver, part).await;
        stream.shutdown().await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_serves_others(&receiver).await;
    assert_eq!(count_rows(&receiver, "executions").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_connection_limit_the_connection_idle_longest_is_evicted() {
    let receiver = TestReceiver::start_with(|s| s.http.max_connections = 16).await;
    let mut slow = Vec::new();
    for _ in 0..64 {
        slow.push(connected(&receiver, "POST").await);
    }
    assert_serves_others(&receiver).await;
    for stream in slow.drain(..40) {
        let mut stream = stream;
        assert_eq!(rest(&mut stream).await, "", "closed without a response");
    }
}

/// Stalled bodies of unauthenticated and of authenticated senders, with few connections or few requests.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_bodies_do_not_lock_out_other_senders() {
    let token = "a-token-of-enough-length";
    for (connections, requests) in [(16, 4), (16, 64), (64, 4)] {
        let receiver = TestReceiver::start_with(|s| {
            s.http.max_connections = connections;
            s.http.max_requests = requests;
            s.auth.url_tokens = Secrets::of(&[token]);
            s.auth.webhook_secrets = Secrets::of(&["whsec_x"]);
        })
        .await;
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let forged =
            format!("x-webhook-timestamp: {now}\r\nx-webhook-signature: sha256={}\r\n", "0".repeat(64));
        let url = format!("{}/{token}", receiver.url);
        let mut stalled = Vec::new();
        for n in 0..80 {
            let more = if n % 2 == 0 { "" } else { &*forged };
            let head = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\n{more}content-length: 1000000\r\n\r\n");
            stalled.push(connected(&receiver, head).await);
            if n % 10 == 9 {
                let body = execution(&n.to_string(), "completed").to_string();
                let honest = Client::new().post(&url).body(body).send().await.unwrap();
                assert_eq!(honest.status(), 200, "{connections} connections, {requests} requests");
            }
        }
        assert_eq!(count_rows(&receiver, "executions").await, 8);
        assert!(receiver.metric("requests_in_flight").await <= requests as f64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_still_sending_receives_the_response() {
    let receiver = TestReceiver::start_with(|s| s.auth.webhook_secrets = Secrets::of(&["whsec_x"])).await;
    for _ in 0..20 {
        // More than all socket buffers.
        let head =
            format!("POST {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 900000\r\n\r\n");
        let answer = receiver.raw(head + &" ".repeat(900_000)).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_body_is_released_when_it_is_written_not_when_its_sender_disconnects() {
    let receiver = TestReceiver::start().await;
    let held = receiver.hold_spool();
    // Over HTTP/2, where a request can be cancelled.
    let http2 = Client::builder().http2_prior_knowledge().build().unwrap();
    let request = http2.post(&receiver.url).body(body_of_size("large", 1_000_000)).send();
    let sender = tokio::spawn(request);
    let all_there = async || {
        receiver.metric("requests_in_flight").await == 1.0
            && receiver.metric("requests_receiving_body").await == 0.0
            && receiver.metric("body_memory_bytes").await > 900_000.0
    };
    until(all_there).await;
    sender.abort();
    until(async || receiver.metric("requests_in_flight").await == 0.0).await;
    assert!(receiver.metric("body_memory_bytes").await > 800_000.0);
    drop(held);
    until(async || receiver.metric("body_memory_bytes").await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_sender_does_not_delay_shutdown() {
    let receiver = TestReceiver::start_with(|s| {
        s.http.header_timeout = Duration::from_millis(200);
        s.shutdown.drain_timeout = Duration::from_mins(10);
    })
    .await;
    let _slow = connected(&receiver, "POST / HTTP/1.1\r\nhost:").await;
    within(receiver.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_request_limit_the_slowest_request_is_evicted() {
    let receiver = TestReceiver::start_with(|s| s.http.max_requests = 2).await;
    let mut first = connected(&receiver, head(100)).await;
    let in_flight = async |n: f64| receiver.metric("requests_in_flight").await == n;
    until(async || in_flight(1.0).await).await;
    let _second = connected(&receiver, head(100)).await;
    until(async || in_flight(2.0).await).await;
    assert_serves_others(&receiver).await;
    let answer = rest(&mut first).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
    // Requests that wait for the receiver are not evicted; the next one is answered 503 at once.
    let held = receiver.hold_spool();
    let one = connected(&receiver, post("one", "connection: close\r\n")).await;
    let two = connected(&receiver, post("two", "connection: close\r\n")).await;
    until(async || in_flight(2.0).await && receiver.metric("requests_receiving_body").await == 0.0).await;
    let refused = receiver.post(execution("three", "completed").to_string()).await;
    assert_eq!(problem(refused, 503).await.0, "busy");
    drop(held);
    for mut stream in [one, two] {
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 "));
    }
    assert_serves_others(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_share_limited_memory_and_small_ones_always_fit() {
    let receiver = TestReceiver::start_with(|s| {
        s.http.max_body_bytes = 1 << 20;
        s.http.max_bytes_in_flight = 1 << 20;
    })
    .await;
    let large = body_of_size("large", 1_000_000);
    let mut stalled = connected(&receiver, head(large.len()) + &large[..900_000]).await;
    until(async || receiver.metric("body_memory_bytes").await > 800_000.0).await;
    receiver.accept(execution("small", "completed")).await;
    // The stalled body is evicted for this one.
    receiver.accept(body_of_size("second", 500_000)).await;
    assert!(rest(&mut stalled).await.starts_with("HTTP/1.1 503 "));
    until(async || receiver.metric("body_memory_bytes").await == 0.0).await;
    assert_serves_others(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let receiver = TestReceiver::start().await;
    let last = "HEAD /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answers = receiver
        .raw(
            post("a", "")
                + &post("b", "")
                + "POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
                + last,
        )
        .await;
    let statuses: Vec<_> =
        answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "404", "404"], "{answers}");
    assert_eq!(count_rows(&receiver, "executions").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_100_continue_is_answered_with_100_or_the_final_status() {
    let receiver = TestReceiver::start_with(|s| {
        s.http.max_body_bytes = 1024;
        s.auth.url_tokens = Secrets::of(&["a-token-of-enough-length"]);
    })
    .await;
    let expecting_continue = |path: &str, size: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
        )
    };
    let path = format!("{PATH}/a-token-of-enough-length");
    let body = execution("e", "completed").to_string();
    let mut stream = connected(&receiver, expecting_continue(&path, body.len())).await;
    let mut interim = [0; 25];
    within(stream.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 "));
    for (path, size, status) in [(&*path, 1025, "413"), (PATH, 10, "401"), ("/elsewhere", 10, "404")] {
        let answer = receiver.raw(expecting_continue(path, size)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_recorded_decompressed_and_limited_by_their_decompressed_size() {
    let receiver = TestReceiver::start_with(|s| s.http.max_body_bytes = 100_000).await;
    let post = |encoding: &str, body: Vec<u8>| -> RequestBuilder {
        receiver.client.post(&receiver.url).header("content-encoding", encoding).body(body)
    };
    let status = async |request: RequestBuilder| request.send().await.unwrap().status().as_u16();
    let body = body_of_size("gzip", 99_000);
    for encoding in ["gzip", "GZIP", "x-gzip", "identity, gzip"] {
        assert_eq!(status(post(encoding, gzip(&body))).await, 200, "{encoding}");
    }
    // Two gzip members.
    let (one, two) = body.split_at(50);
    assert_eq!(status(post("gzip", [gzip(one), gzip(two)].concat())).await, 200);
    let row = receiver.row("SELECT payload, deliveries FROM executions").await;
    assert_eq!(
        row,
        json!({ "payload": serde_json::from_str::<serde_json::Value>(&body).unwrap(), "deliveries": 5 })
    );

    let bomb = gzip(vec![b' '; 50_000_000]);
    assert_eq!(problem(post("gzip", bomb).send().await.unwrap(), 413).await.0, "too-large");
    let cut = gzip(&body)[..50].to_vec();
    // Both would take much time to decompress.
    let empty = gzip("");
    let empty_members = empty.repeat(4_000);
    let empty_blocks = [&empty[..10], &[0, 0, 0, 255, 255].repeat(15_000), &empty[10..]].concat();
    let members = gzip(" ".repeat(40)).repeat(17);
    for broken in [b"{}".to_vec(), cut, Vec::new(), empty_members, empty_blocks, members] {
        assert_eq!(problem(post("gzip", broken).send().await.unwrap(), 400).await.0, "not-gzip");
    }
    for unknown in ["br", "zstd", "deflate", "gzip, gzip", "\u{e9}"] {
        let answer = post(unknown, gzip("{}")).send().await.unwrap();
        assert_eq!(answer.headers()["accept-encoding"], "gzip");
        assert_eq!(problem(answer, 415).await.0, "unknown-encoding");
    }
    assert_serves_others(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_over_the_bytes_as_sent_compressed_or_not() {
    let receiver = TestReceiver::start_with(|s| s.auth.webhook_secrets = Secrets::of(&["whsec_x"])).await;
    let packed = gzip(execution("e", "completed").to_string());
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let request = receiver.client.post(&receiver.url).header("content-encoding", "gzip");
    let request = sign(request, "whsec_x", now, &packed);
    assert_eq!(request.body(packed).send().await.unwrap().status(), 200);
    let plain = execution("e", "completed").to_string();
    let request = signed(receiver.client.post(&receiver.url), "whsec_x", now, &plain);
    let answer = request.header("content-encoding", "gzip").body(gzip(&plain)).send().await.unwrap();
    assert_eq!(answer.status(), 401, "the signature covers other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_1_1_and_2_are_supported() {
    let receiver = TestReceiver::start().await;
    let body = execution("1.0", "completed").to_string();
    let answer =
        receiver.raw(format!("POST {PATH} HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    let http2 = Client::builder().http2_prior_knowledge().build().unwrap();
    let mut posts = tokio::task::JoinSet::new();
    for n in 0..50 {
        let request = http2.post(&receiver.url).body(body_of_size(&format!("2-{n}"), 100_000));
        posts.spawn(async move { request.send().await.unwrap().status() });
    }
    assert!(posts.join_all().await.iter().all(|status| *status == 200));
    let large = http2.post(&receiver.url).header("x", "x".repeat(20_000)).send().await.unwrap();
    assert_eq!(large.status(), 431, "a few bytes of HTTP/2 can encode a large head");
    let get = http2.get(&receiver.url).send().await.unwrap();
    assert_eq!(problem(get, 405).await.0, "method-not-allowed");
    assert_eq!(count_rows(&receiver, "executions").await, 51);
    assert_serves_others(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_their_status() {
    let receiver = TestReceiver::start().await;
    let close = "host: x\r\nconnection: close\r\n";
    let body = execution("odd", "completed").to_string();
    let size = body.len();
    let large = "x".repeat(70_000);
    let many = "a: b\r\n".repeat(200);
    for (request, status) in [
        (format!("HEAD {PATH} HTTP/1.1\r\n{close}\r\n"), "405"),
        (format!("OPTIONS * HTTP/1.1\r\n{close}\r\n"), "404"),
        (format!("CONNECT example.com:443 HTTP/1.1\r\n{close}\r\n"), "404"),
        (format!("BREW {PATH} HTTP/1.1\r\n{close}\r\n"), "405"),
        (
            format!("POST http://elsewhere{PATH} HTTP/1.1\r\n{close}content-length: {size}\r\n\r\n{body}"),
            "200",
        ),
        (format!("POST {PATH}/ HTTP/1.1\r\n{close}content-length: {size}\r\n\r\n{body}"), "200"),
        (format!("POST {PATH}?a=b&%ff&= HTTP/1.1\r\n{close}content-length: {size}\r\n\r\n{body}"), "200"),
        (format!("POST {PATH}/%00%ff HTTP/1.1\r\n{close}content-length: {size}\r\n\r\n{body}"), "200"),
        (format!("POST {PATH}/a/b HTTP/1.1\r\n{close}content-length: {size}\r\n\r\n{body}"), "404"),
        (format!("POST //webhooks/../{PATH} HTTP/1.1\r\n{close}\r\n"), "404"),
        (
            format!(
                "POST {PATH} HTTP/1.1\r\n{close}content-length: {size}\r\ntransfer-encoding: chunked\r\n\r\n{body}"
            ),
            "4",
        ),
        (format!("POST {PATH} HTTP/1.1\r\n{close}content-length: 5\r\ncontent-length: 6\r\n\r\n{body}"), "4"),
        (format!("POST {PATH} HTTP/1.1\r\n{close}content-length: -1\r\n\r\n{body}"), "4"),
        (format!("POST {PATH} HTTP/1.1\r\n{close}transfer-encoding: chunked\r\n\r\nzz\r\n{body}"), "4"),
        (format!("POST {PATH} HTTP/1.1\r\n{close}x: {large}\r\n\r\n"), "431"),
        (format!("POST /{large} HTTP/1.1\r\n{close}\r\n"), "4"),
        (format!("POST {PATH} HTTP/1.1\r\n{close}{many}\r\n"), "431"),
        ("\u{0}\u{1}\u{2}garbage\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = receiver.raw(&request).await;
        let shown = &request[..request.len().min(60)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{shown:?}: {answer}");
    }
    let chunks = format!(
        "POST {PATH} HTTP/1.1\r\n{close}transfer-encoding: chunked\r\n\r\n{size:x};ext=1\r\n{body}\r\n0\r\ntrailer: x\r\n\r\n"
    );
    assert!(receiver.raw(chunks).await.starts_with("HTTP/1.1 200 "));
    let bom = receiver.post(format!("\u{feff}{}", execution("bom", "completed"))).await;
    assert_eq!(bom.status(), 200);
    assert_eq!(count_rows(&receiver, "executions").await, 2);
    let trace = receiver.client.request(Method::TRACE, &receiver.url).send().await.unwrap();
    assert_eq!(trace.status(), 405);
    assert_serves_others(&receiver).await;
}
