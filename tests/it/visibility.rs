//! Requests that no route accepts, and connections that end without a response, are counted, and logged with a remedy.

use std::time::Duration;

use reqwest::{Client, Method};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::fixtures::execution;
use crate::support::http::rest;
use crate::support::postgres::{UNREACHABLE, no_database};
use crate::support::process::{Process, program};
use crate::support::receiver::{TestReceiver, fast_retries};
use crate::support::wait::{until, within};

/// The beginning of a `ClientHello`.
const TLS: &[u8] = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
const PROXY_1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n";
const PROXY_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\xdb\xfc\x01\xbb";
const TOKEN: &str = "a-token-that-no-log-may-contain";

/// Connections to the webhook port that ended without a response.
async fn unanswered(receiver: &TestReceiver, reason: &str) -> f64 {
    receiver.metric(&format!("connections_unanswered_total{{port=\"webhooks\",reason=\"{reason}\"}}")).await
}

/// Waits until the metric has this value.
async fn until_unanswered(receiver: &TestReceiver, reason: &str, count: f64) {
    until(async || unanswered(receiver, reason).await == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_handshake_and_a_proxy_header_are_counted_and_closed_without_a_response() {
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    for (sent, reason, count) in [
        (TLS, "tls_on_plain_port", 1.0),
        (&TLS[..1], "tls_on_plain_port", 2.0),
        (PROXY_1, "proxy_protocol", 1.0),
        (PROXY_2, "proxy_protocol", 2.0),
    ] {
        assert_eq!(receiver.raw(sent).await, "", "{reason}");
        until_unanswered(&receiver, reason, count).await;
    }
    // A request may begin with one blank line, and only the first bytes of a connection are compared.
    for head in ["\r\nGET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nPROXY: \r\n"] {
        let answer = receiver.raw(format!("{head}host: x\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
    assert_eq!(receiver.metric("webhooks_answered_total{status=\"400\"}").await, 0.0);
    for reason in ["no_request", "head_timeout", "head_interrupted", "request_dropped"] {
        assert_eq!(unanswered(&receiver, reason).await, 0.0, "{reason}");
    }
    // The admin port has its own series.
    let mut admin = TcpStream::connect(receiver.admin.strip_prefix("http://").unwrap()).await.unwrap();
    admin.write_all(TLS).await.unwrap();
    assert_eq!(rest(&mut admin).await, "");
    let on_admin = "connections_unanswered_total{port=\"admin\",reason=\"tls_on_plain_port\"}";
    until(async || receiver.metric(on_admin).await == 1.0).await;
    assert_eq!(unanswered(&receiver, "tls_on_plain_port").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_within_a_head_or_before_it_is_counted() {
    let receiver = TestReceiver::start_on(no_database(), |settings| {
        fast_retries(settings);
        settings.http.header_timeout = Duration::from_millis(500);
    })
    .await;
    drop(receiver.connect().await);
    until_unanswered(&receiver, "no_request", 1.0).await;
    let mut half = receiver.connect().await;
    half.write_all(b"POST /webhooks").await.unwrap();
    half.shutdown().await.unwrap();
    assert_eq!(rest(&mut half).await, "");
    until_unanswered(&receiver, "head_interrupted", 1.0).await;
    assert_eq!(receiver.raw("POST /webhooks").await, "", "the head is never completed");
    until_unanswered(&receiver, "head_timeout", 1.0).await;
    // Closing an idle connection after a response is no problem.
    receiver.accept(execution("e", "completed")).await;
    let answer = receiver.raw("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    for (reason, count) in
        [("no_request", 1.0), ("head_interrupted", 1.0), ("head_timeout", 1.0), ("request_dropped", 0.0)]
    {
        assert_eq!(unanswered(&receiver, reason).await, count, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_connection_is_evicted_is_counted() {
    let receiver = TestReceiver::start_on(no_database(), |settings| {
        fast_retries(settings);
        settings.http.max_connections = 16;
    })
    .await;
    let mut stalled = receiver.connect().await;
    let head = "POST /webhooks/workflow-completed HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{";
    stalled.write_all(head.as_bytes()).await.unwrap();
    until(async || receiver.metric("requests_receiving_body").await == 1.0).await;
    let mut others = Vec::new();
    for _ in 0..16 {
        others.push(receiver.connect().await);
    }
    assert_eq!(within(stalled.read(&mut [0; 64])).await.unwrap_or(0), 0, "closed without a response");
    until_unanswered(&receiver, "request_dropped", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_response_of_the_webhook_port_is_counted_by_its_status() {
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    let base = receiver.url.strip_suffix("/webhooks/workflow-completed").unwrap();
    let send = async |method: Method, path: &str| {
        let request = receiver.client.request(method, format!("{base}{path}")).body("{}");
        request.send().await.unwrap()
    };
    for (method, path, status, reason) in [
        (Method::POST, "//webhooks/workflow-completed", 404, "double_slash"),
        (Method::POST, "/webhooks//workflow-completed", 404, "double_slash"),
        (Method::POST, "/", 404, "unknown_path"),
        (Method::POST, "/webhook/workflow-completed", 404, "unknown_path"),
        (Method::GET, "/webhooks/workflow-completed", 405, "wrong_method"),
        (Method::PUT, "/webhooks/workflow-completed/some-token", 405, "wrong_method"),
        (Method::GET, "/", 404, "other"),
        (Method::HEAD, "//", 404, "other"),
    ] {
        let counted = format!("webhooks_unrouted_total{{reason=\"{reason}\"}}");
        let (answered, before) =
            (format!("webhooks_answered_total{{status=\"{status}\"}}"), receiver.metric(&counted).await);
        let answered_before = receiver.metric(&answered).await;
        let answer = send(method.clone(), path).await;
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(answer.text().await.unwrap().contains("two slashes"), reason == "double_slash");
        assert_eq!(receiver.metric(&counted).await, before + 1.0, "{method} {path}: {reason}");
        assert_eq!(receiver.metric(&answered).await, answered_before + 1.0, "{method} {path}: {status}");
    }
    // The HTTP library answers these two.
    for (sent, status) in [
        ("not http at all\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nlarge: {}\r\n\r\n", "x".repeat(40_000)), 431),
    ] {
        let answer = receiver.raw(sent).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let answered = format!("webhooks_answered_total{{status=\"{status}\"}}");
        until(async || receiver.metric(&answered).await == 1.0).await;
    }
    for reason in ["no_request", "head_timeout", "head_interrupted", "request_dropped"] {
        assert_eq!(unanswered(&receiver, reason).await, 0.0, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_cause_and_remedy_once_a_minute_and_never_the_path() {
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(program(dir.path()).env("DATABASE_URL", UNREACHABLE));
    let base = process.url.strip_suffix("/webhooks/workflow-completed").unwrap().to_owned();
    let address = base.strip_prefix("http://").unwrap();
    for _ in 0..3 {
        for (method, path) in [
            (Method::POST, format!("//webhooks/workflow-completed/{TOKEN}")),
            (Method::POST, format!("/hooks/{TOKEN}?token={TOKEN}")),
            (Method::GET, format!("/webhooks/workflow-completed/{TOKEN}")),
        ] {
            let answer = Client::new().request(method, format!("{base}{path}")).send().await.unwrap();
            assert!(answer.status().is_client_error());
        }
        let large = format!("GET /{TOKEN} HTTP/1.1\r\nlarge: {}\r\n\r\n", "x".repeat(40_000));
        let malformed = format!("{TOKEN} {TOKEN} {TOKEN}\r\n\r\n");
        for sent in [TLS, PROXY_1, malformed.as_bytes(), large.as_bytes()] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            rest(&mut stream).await;
        }
    }
    let causes = [
        ("its path has two slashes (//)", "webhook_url"),
        ("a POST to an unknown path was answered 404", "/webhooks/workflow-completed"),
        ("answered 405 because it is not a POST", "redirect"),
        ("a TLS handshake arrived on a port without TLS", "proxy that terminates TLS"),
        ("a connection began with a PROXY protocol header", "turn the PROXY protocol off"),
        ("not HTTP and was answered 400", "which client"),
        ("larger than 16 KiB and was answered 431", "shorten the URL"),
    ];
    for (cause, remedy) in causes {
        let line = process.wait_for(cause);
        assert!(line.contains("\"level\":\"WARN\"") && line.contains(remedy), "{line}");
    }
    let log = process.terminate();
    for (cause, _) in causes {
        assert_eq!(log.iter().filter(|line| line.contains(cause)).count(), 1, "{cause}: {log:#?}");
    }
    assert!(!log.iter().any(|line| line.contains(TOKEN)), "{log:#?}");
}
