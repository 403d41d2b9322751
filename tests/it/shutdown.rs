//! The stop after a signal: readiness fails, webhooks are accepted for `shutdown.grace`, then the port closes.

use reqwest::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::fixtures::execution;
use crate::support::http::rest;
use crate::support::postgres::{UNREACHABLE, new_database, rows, url};
use crate::support::process::{Process, program};
use crate::support::wait::{until, within};

const RECEIVED: &str = r#"{"received":true}"#;

fn address(process: &Process) -> &str {
    process.url.strip_prefix("http://").and_then(|url| url.split('/').next()).unwrap()
}

/// Posts an execution over an open connection. Returns the acknowledgement, in lower case.
async fn post_over(stream: &mut TcpStream, id: &str) -> String {
    let body = execution(id, "completed").to_string();
    let head = "POST /webhooks/workflow-completed HTTP/1.1\r\nhost: localhost\r\ncontent-length: ";
    stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(RECEIVED.as_bytes()) {
        let mut part = [0; 1024];
        let length = within(stream.read(&mut part)).await.unwrap();
        assert_ne!(length, 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..length]);
    }
    String::from_utf8(answer).unwrap().to_ascii_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn during_the_grace_readiness_fails_and_webhooks_are_accepted_over_connections_that_close() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let mut command = program(dir.path());
    command.env("RECEIVER__SHUTDOWN__GRACE", "10m").env("RECEIVER__HTTP__HEALTH", "true");
    let mut process = Process::start(command.env("DATABASE_URL", UNREACHABLE));
    let mut open = TcpStream::connect(address(&process)).await.unwrap();
    let answer = post_over(&mut open, "before").await;
    assert!(answer.starts_with("http/1.1 200") && !answer.contains("connection: close"), "{answer}");

    process.signal(Signal::TERM);
    process.wait_for("shutdown.grace");
    let get = async |address: &str| {
        let answer = reqwest::get(format!("http://{address}/health/ready")).await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (code, health) = get(&process.admin).await;
    assert_eq!((code, &health["status"]), (503, &json!("unavailable")), "{health}");
    assert_eq!(health["parts"]["spool"]["state"], "stopping", "{health}");
    assert_eq!(get(address(&process)).await, (503, json!({ "status": "unavailable" })));
    let mut new = TcpStream::connect(address(&process)).await.unwrap();
    for (stream, id) in [(&mut open, "over an open connection"), (&mut new, "over a new connection")] {
        let answer = post_over(stream, id).await;
        assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
        assert_eq!(rest(stream).await, "", "the connection is closed");
    }
    let http2 = Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = http2.post(&process.url).body(execution("over HTTP/2", "completed").to_string()).send();
    assert_eq!(answer.await.unwrap().status(), 200);

    process.signal(Signal::TERM);
    let (status, log) = process.ended();
    assert_eq!(status.code(), Some(1), "a second signal ends the grace at once: {log:#?}");
    Process::start(program(dir.path()).env("DATABASE_URL", url(&database))).terminate();
    assert_eq!(rows(&database, "SELECT execution_id FROM executions").await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_the_port_closes_and_the_spool_is_recorded() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let mut command = program(dir.path());
    command.env("RECEIVER__SHUTDOWN__GRACE", "300ms").env("DATABASE_URL", url(&database));
    let mut process = Process::start(&mut command);
    let mut http2 = Client::builder().http2_prior_knowledge().build().unwrap();
    process.signal(Signal::TERM);
    process.wait_for("shutdown.grace");
    let mut accepted = 0;
    // Until the port is closed.
    loop {
        let id = format!("e{accepted}");
        let request = http2.post(&process.url).body(execution(&id, "completed").to_string());
        match within(request.send()).await {
            Ok(answer) => {
                assert_eq!(answer.status(), 200);
                accepted += 1;
            }
            Err(error) if error.is_connect() => break,
            // GOAWAY, before the request was sent.
            Err(_) => http2 = Client::builder().http2_prior_knowledge().build().unwrap(),
        }
    }
    let (status, log) = process.ended();
    assert!(status.success() && accepted > 0, "{log:#?}");
    assert_eq!(rows(&database, "SELECT execution_id FROM executions").await.len(), accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_gets_an_answer_to_its_first_request_after_the_port_is_closed() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let mut process = Process::start(program(dir.path()).env("DATABASE_URL", UNREACHABLE));
    let mut new = TcpStream::connect(address(&process)).await.unwrap();
    process.signal(Signal::TERM);
    let address = address(&process);
    until(async || TcpStream::connect(address).await.is_err()).await;
    let answer = post_over(&mut new, "e").await;
    assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert_eq!(rest(&mut new).await, "", "the connection is closed");

    process.wait_for("another signal stops at once");
    process.signal(Signal::TERM);
    assert_eq!(process.ended().0.code(), Some(1));
    Process::start(program(dir.path()).env("DATABASE_URL", url(&database))).terminate();
    assert_eq!(
        rows(&database, "SELECT execution_id FROM executions").await,
        [json!({ "execution_id": "e" })]
    );
}
