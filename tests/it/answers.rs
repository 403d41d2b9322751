//! Responses to webhooks.

use bytes::Bytes;
use reqwest::Method;
use serde_json::json;

use crate::support::fixtures::{execution, with};
use crate::support::http::problem;
use crate::support::postgres::count_rows;
use crate::support::receiver::TestReceiver;
use crate::support::wait::within;

#[tokio::test(flavor = "multi_thread")]
async fn every_status_is_acknowledged_with_200_received_true() {
    let receiver = TestReceiver::start().await;
    for status in ["completed", "failed", "cancelled", "running", "queued", "something new"] {
        receiver.accept(execution(status, status)).await;
        receiver.accept(execution(status, status)).await;
    }
    assert_eq!(count_rows(&receiver, "executions").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_content_type_does_not_matter() {
    let receiver = TestReceiver::start().await;
    for (n, kind) in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=x", "?"]
        .into_iter()
        .enumerate()
    {
        let body = execution(&n.to_string(), "completed").to_string();
        let request = receiver.client.post(&receiver.url).header("content-type", kind).body(body);
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    receiver.accept(execution("none", "completed")).await;
    assert_eq!(count_rows(&receiver, "executions").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_a_json_object_is_400_and_not_stored() {
    let receiver = TestReceiver::start().await;
    for body in ["", "{", "hello", "{\"a\":1}}", "{'a':1}", "\u{feff}"] {
        assert_eq!(problem(receiver.post(body).await, 400).await.0, "not-json", "{body}");
    }
    let (_, detail) = problem(receiver.post(Bytes::from_static(b"{\"a\":\"\xff\"}")).await, 400).await;
    assert!(detail.contains("invalid UTF-8 after 6 bytes"), "{detail}");
    for body in ["[]", "[1]", "\"text\"", "1", "true", "null"] {
        assert_eq!(problem(receiver.post(body).await, 400).await.0, "not-an-object", "{body}");
    }
    assert_eq!(count_rows(&receiver, "executions").await, 0);
    assert_eq!(count_rows(&receiver, "quarantine").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_not_an_execution_is_422_with_the_field_and_quarantined() {
    let receiver = TestReceiver::start().await;
    let odd = [
        (json!({}), "execution_id", "is missing or null"),
        (
            json!({ "executionId": "e", "workflow_id": "w", "status": "completed" }),
            "execution_id",
            "is missing or null",
        ),
        (json!([{ "execution_id": "e" }]), "execution_id", "is missing: the body is an array of objects"),
        (json!({ "execution_id": 7.0 }), "execution_id", "is neither a string nor an integer"),
        (json!({ "execution_id": "" }), "execution_id", "is empty"),
        (json!({ "execution_id": "x".repeat(256) }), "execution_id", "is longer than 255 bytes"),
        (json!({ "execution_id": "a\u{0}" }), "execution_id", "holds U+0000"),
        (
            json!({ "execution_id": "e", "workflow_id": ["w"] }),
            "workflow_id",
            "is neither a string nor an integer",
        ),
        (json!({ "execution_id": "e", "workflow_id": "w", "status": 7 }), "status", "is not a string"),
        (json!({ "execution_id": "e", "workflow_id": "w", "status": null }), "status", "is missing or null"),
    ];
    for (body, field, problem_with_it) in &odd {
        for _ in 0..2 {
            let (kind, detail) = problem(receiver.post(body.to_string()).await, 422).await;
            assert_eq!(kind, "no-execution");
            assert!(detail.starts_with(&format!("`{field}` {problem_with_it}")), "{detail}");
        }
    }
    let kept = receiver
        .rows("SELECT reason, convert_from(body, 'UTF8') AS body, deliveries FROM quarantine ORDER BY quarantine_id")
        .await;
    assert_eq!(kept.len(), odd.len());
    for (body, field, problem_with_it) in &odd {
        let row = json!({ "reason": format!("`{field}` {problem_with_it}"), "body": body.to_string(), "deliveries": 2 });
        assert!(kept.contains(&row), "{row} not in {kept:?}");
    }
    assert_eq!(count_rows(&receiver, "executions").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_413_and_one_at_the_limit_is_recorded() {
    let receiver = TestReceiver::start_with(|s| s.http.max_body_bytes = 2048).await;
    let fill = |id: &str, size: usize| {
        let empty = with(execution(id, "completed"), json!({ "fill": "" })).to_string().len();
        with(execution(id, "completed"), json!({ "fill": "x".repeat(size - empty) })).to_string()
    };
    let response = receiver.post(fill("over", 2049)).await;
    assert_eq!(response.headers()["connection"], "close", "the rest of the body is not read");
    let (kind, detail) = problem(response, 413).await;
    assert_eq!(kind, "too-large");
    assert!(detail.contains("2048 bytes") && detail.contains("http.max_body_bytes"), "{detail}");
    // Without Content-Length, the received bytes are counted.
    let pieces = fill("chunked", 5000)
        .into_bytes()
        .chunks(100)
        .map(|c| Ok(c.to_vec()))
        .collect::<Vec<Result<_, std::io::Error>>>();
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    assert_eq!(problem(receiver.post(chunked).await, 413).await.0, "too-large");
    receiver.accept(fill("at", 2048)).await;
    assert_eq!(receiver.row("SELECT execution_id FROM executions").await["execution_id"], "at");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_and_paths_are_405_and_404_with_a_hint() {
    let receiver = TestReceiver::start().await;
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = receiver.client.request(method, &receiver.url).send().await.unwrap();
        assert_eq!(answer.headers()["allow"], "POST");
        problem(answer, 405).await;
    }
    let elsewhere = receiver.url.replace("workflow-completed", "elsewhere");
    let (_, detail) = problem(receiver.client.post(elsewhere).send().await.unwrap(), 404).await;
    assert!(detail.contains("/webhooks/workflow-completed"), "{detail}");
    // The paths of the admin port do not exist on the public port.
    for path in ["/metrics", "/health/live", "/health/ready"] {
        let url = receiver.url.replace("/webhooks/workflow-completed", path);
        assert_eq!(receiver.client.get(url).send().await.unwrap().status(), 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_channel_webhooks_are_503_at_once() {
    let receiver = TestReceiver::start_with(|s| s.intake.capacity = 1).await;
    let held = receiver.hold_spool();
    let mut posts = tokio::task::JoinSet::new();
    for n in 0..10 {
        let request =
            receiver.client.post(&receiver.url).body(execution(&n.to_string(), "completed").to_string());
        posts.spawn(async move { request.send().await.unwrap() });
    }
    // One delivery is with the writer and one in the channel: there is no room for others.
    for _ in 0..8 {
        let refused = within(posts.join_next()).await.unwrap().unwrap();
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(problem(refused, 503).await.0, "busy");
    }
    drop(held);
    let mut kept = 0;
    while let Some(answer) = posts.join_next().await {
        kept += i64::from(answer.unwrap().status() == 200);
    }
    assert!(kept > 0);
    assert_eq!(count_rows(&receiver, "executions").await, kept);
}
