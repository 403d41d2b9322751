//! Requests and answers.

use std::fmt::Write as _;
use std::io::Write as _;
use std::str::FromStr;

use flate2::Compression;
use flate2::write::GzEncoder;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;
use sha2::Sha256;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::receiver::TestReceiver;
use super::wait::within;

/// The JSON of an answer whose status is 200.
pub(crate) async fn get_json(receiver: &TestReceiver, path: &str) -> Value {
    let answer = receiver.get(path).await;
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// One field of each item of a page.
pub(crate) fn item_fields<'p>(page: &'p Value, field: &str) -> Vec<&'p Value> {
    page["items"].as_array().unwrap().iter().map(|item| &item[field]).collect()
}

/// The value of a metric on a page of `/metrics`. `name` has no `workflow_receiver_`, but the labels in braces.
pub(crate) fn metric_of<T: FromStr>(page: &str, name: &str) -> Option<T> {
    let name = format!("workflow_receiver_{name} ");
    page.lines().find_map(|line| line.strip_prefix(&name))?.parse().ok()
}

/// Checks an RFC 9457 answer. Returns the last part of its type, and its detail.
pub(crate) async fn problem(answer: Response, status: u16) -> (String, String) {
    assert_eq!(answer.status(), status);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["status"], status);
    assert_eq!(body["title"], StatusCode::from_u16(status).unwrap().canonical_reason().unwrap());
    let kind = body["type"].as_str().unwrap().strip_prefix("urn:workflow-receiver:problem:").unwrap();
    (kind.to_owned(), body["detail"].as_str().unwrap().to_owned())
}

/// A signed request with its body.
pub(crate) fn signed(request: RequestBuilder, secret: &str, timestamp: i64, body: &str) -> RequestBuilder {
    sign(request, secret, timestamp, body.as_bytes()).body(body.to_owned())
}

/// Adds the signature headers for `body`, but not the body.
pub(crate) fn sign(request: RequestBuilder, secret: &str, timestamp: i64, body: &[u8]) -> RequestBuilder {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut signature = "sha256=".to_owned();
    for byte in mac.finalize().into_bytes() {
        write!(signature, "{byte:02x}").unwrap();
    }
    request.header("X-Webhook-Timestamp", timestamp).header("X-Webhook-Signature", signature)
}

pub(crate) fn gzip(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_ref()).unwrap();
    encoder.finish().unwrap()
}

/// Everything the peer sends until it closes the connection.
pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset also ends it.
    let _ = within(stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}
