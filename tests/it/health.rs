//! Health and metrics.

use std::time::Duration;

use serde_json::{Value, json};
use workflow_receiver::config::Secrets;

use crate::support::fixtures::{execution, with};
use crate::support::http::problem;
use crate::support::postgres::{execute_when_recorded, no_database, url};
use crate::support::process::{program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_receiver_is_ready_and_healthy() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("e", "completed")).await;
    receiver.wait_until_recorded().await;
    // The spool deletes a delivery shortly after it is recorded.
    until(async || receiver.ready().await.1["spooled"] == 0).await;
    until(async || receiver.ready().await.1["parts"]["quarantine"]["state"] == "ok").await;
    let (code, mut health) = receiver.ready().await;
    for (part, state) in
        [("spool", "ok"), ("database", "ok"), ("recording", "ok"), ("quarantine", "ok"), ("retention", "off")]
    {
        assert_eq!(health["parts"][part]["state"], state, "{part}: {health}");
        assert!(health["parts"][part]["detail"].is_string(), "{part}: {health}");
    }
    assert!(health["parts"]["spool"]["used_bytes"].as_u64() > Some(0), "{health}");
    health.as_object_mut().unwrap().remove("parts");
    assert_eq!((code, health), (200, json!({ "status": "ok", "problems": [], "spooled": 0 })));
    assert_eq!(receiver.metric("ready").await, 1.0);
    assert_eq!(receiver.get("/health/live").await.status(), 200);
    assert_eq!(receiver.get("/elsewhere").await.status(), 404);
}

/// A batch waits in PostgreSQL, and the recorder's last attempt succeeded.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_recording_is_reported_and_webhooks_are_accepted() {
    let receiver = TestReceiver::start_with(|settings| {
        settings.admin.stalled_after = Duration::from_millis(300);
        settings.database.statement_timeout = Duration::from_mins(10);
    })
    .await;
    let held = receiver.hold_recording().await;
    until(async || receiver.ready().await.1["parts"]["recording"]["state"] == "stalled").await;
    let (code, health) = receiver.ready().await;
    assert_eq!((code, &health["status"]), (200, &json!("degraded")), "{health}");
    assert_eq!(health["parts"]["database"]["state"], "ok", "{health}");
    assert!(health["problems"][0].as_str().unwrap().starts_with("recording has stalled: 1 "), "{health}");
    assert_eq!(receiver.metric("recording_stalled").await, 1.0);
    assert_eq!(receiver.metric("ready").await, 1.0);
    receiver.accept(execution("meanwhile", "completed")).await;
    let (text, code) = status(&receiver);
    assert!(code == Some(1) && text.contains("recording has stalled"), "{text}");

    held.release().await;
    receiver.wait_until_recorded().await;
    until(async || receiver.ready().await.1["status"] == "ok").await;
    assert_eq!(receiver.metric("recording_stalled").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_receiver_reports_that_postgresql_answers_and_writes_nothing() {
    let receiver = TestReceiver::start().await;
    execute_when_recorded(&receiver, "ALTER TABLE executions RENAME TO elsewhere").await;
    until(async || receiver.ready().await.1["parts"]["database"]["state"] == "failing").await;
    let (code, health) = receiver.ready().await;
    assert_eq!((code, &health["status"]), (200, &json!("degraded")), "{health}");
    assert_eq!(receiver.metric("database_up").await, 0.0);
    execute_when_recorded(&receiver, "ALTER TABLE elsewhere RENAME TO executions").await;
    until(async || receiver.ready().await.1["status"] == "ok").await;
    assert_eq!(receiver.rows("SELECT * FROM executions").await.len(), 0);
    assert_eq!(receiver.rows("SELECT * FROM bulks").await.len(), 0);
}

/// `workflow-receiver status` on this receiver.
fn status(receiver: &TestReceiver) -> (String, Option<i32>) {
    let mut command = program(receiver.dir.path());
    let database = receiver.database.get_database().filter(|name| *name != "none");
    command.arg("status").env("DATABASE_URL", database.map_or_else(String::new, |_| url(&receiver.database)));
    run_to_end(command.env("RECEIVER__ADMIN__LISTEN", receiver.admin.trim_start_matches("http://")))
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_deliveries_in_quarantine_are_reported_until_they_are_removed() {
    let receiver = TestReceiver::start().await;
    assert_eq!(receiver.post("{}").await.status(), 422);
    receiver.wait_until_recorded().await;
    until(async || receiver.ready().await.1["parts"]["quarantine"]["acknowledged"] == 0).await;
    assert_eq!(receiver.ready().await.1["status"], "ok", "a webhook answered 422 is no problem");

    // PostgreSQL refuses this row in every form.
    execute_when_recorded(
        &receiver,
        "ALTER TABLE executions ADD CONSTRAINT not_the_receivers CHECK (execution_id <> 'refused');",
    )
    .await;
    receiver.accept(execution("refused", "completed")).await;
    receiver.wait_until_recorded().await;
    until(async || receiver.ready().await.1["status"] == "degraded").await;
    let (code, health) = receiver.ready().await;
    assert_eq!((code, &health["parts"]["quarantine"]["acknowledged"]), (200, &json!(1)), "{health}");
    assert_eq!(health["parts"]["quarantine"]["state"], "acknowledged", "{health}");
    assert_eq!(receiver.metric("quarantine_acknowledged").await, 1.0);
    let (text, code) = status(&receiver);
    assert!(code == Some(1) && text.contains("1 webhook answered 200"), "{text}");

    execute_when_recorded(&receiver, "ALTER TABLE executions DROP CONSTRAINT not_the_receivers").await;
    let mut retry = program(receiver.dir.path());
    let (text, code) =
        run_to_end(retry.args(["quarantine", "retry", "--all"]).env("DATABASE_URL", url(&receiver.database)));
    assert_eq!(code, Some(1), "the body answered 422 stays: {text}");
    until(async || receiver.ready().await.1["status"] == "ok").await;
    assert_eq!(receiver.metric("quarantine_acknowledged").await, 0.0);
    let row = receiver.row("SELECT execution_id FROM executions").await;
    assert_eq!(row, json!({ "execution_id": "refused" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_cannot_accept_webhooks_is_not_ready_in_health_metrics_and_status() {
    let receiver = TestReceiver::start_on(no_database(), |settings| {
        settings.http.max_body_bytes = 256 << 10;
        settings.spool.max_bytes = 1 << 20;
    })
    .await;
    let body = with(execution("large", "completed"), json!({ "output": "x".repeat(200 << 10) })).to_string();
    until(async || receiver.post(body.clone()).await.status() == 503).await;
    let (code, health) = receiver.ready().await;
    assert_eq!((code, &health["status"]), (503, &json!("unavailable")), "{health}");
    assert_eq!(health["parts"]["spool"]["state"], "rejecting", "{health}");
    assert!(health["problems"][0].as_str().unwrap().contains("the spool is full"), "{health}");
    assert_eq!(receiver.metric("ready").await, 0.0);
    let (text, code) = status(&receiver);
    assert!(code == Some(1) && text.contains("unavailable: webhooks are answered 503"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_port_serves_health_without_details_if_configured() {
    let receiver = TestReceiver::start_on(no_database(), |settings| {
        settings.http.health = true;
        settings.http.max_body_bytes = 256 << 10;
        settings.spool.max_bytes = 1 << 20;
    })
    .await;
    let url = |path: &str| receiver.url.replace("/webhooks/workflow-completed", path);
    let get = async |path: &str| {
        let answer = receiver.client.get(url(path)).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(get("/health/live").await, (200, json!({ "status": "ok" })));
    // PostgreSQL cannot be reached.
    assert_eq!(get("/health/ready").await, (200, json!({ "status": "degraded" })));
    let body = with(execution("large", "completed"), json!({ "output": "x".repeat(200 << 10) })).to_string();
    until(async || receiver.post(body.clone()).await.status() == 503).await;
    assert_eq!(get("/health/ready").await, (503, json!({ "status": "unavailable" })));
    assert_eq!(get("/health/live").await.0, 200);
    assert_eq!(get("/metrics").await.0, 404);
    let (_, detail) = problem(receiver.client.post(url("/health/live")).send().await.unwrap(), 405).await;
    assert!(detail.contains("Use GET"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_in_the_text_format_unless_openmetrics_is_requested() {
    let receiver = TestReceiver::start().await;
    let get = async |accept: &str| {
        let request = receiver.client.get(format!("{}/metrics", receiver.admin)).header("accept", accept);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{accept}");
        (answer.headers()["content-type"].to_str().unwrap().to_owned(), answer.text().await.unwrap())
    };
    for accept in
        ["application/openmetrics-text;version=1.0.0", "application/openmetrics-text, text/plain;q=0.5"]
    {
        let (content_type, page) = get(accept).await;
        assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert!(page.contains("# TYPE workflow_receiver_webhooks_answered counter\n"), "{page}");
        assert!(page.ends_with("\n# EOF\n"), "{page}");
    }
    for accept in ["text/plain;version=0.0.4", "*/*", "image/png", "application/openmetrics-text;q=0"] {
        let (content_type, page) = get(accept).await;
        assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8", "{accept}");
        assert!(page.contains("# TYPE workflow_receiver_webhooks_answered_total counter\n"), "{page}");
        assert!(page.contains("\nworkflow_receiver_webhooks_answered_total{status=\"200\"} 0\n"), "{page}");
        assert!(!page.contains("# EOF") && !page.contains("# UNIT"), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_responses_and_outcomes() {
    let receiver = TestReceiver::start().await;
    let running = execution("e", "running");
    let done = execution("e", "completed");
    for body in [
        &running,
        &running,
        &done,
        &done,
        &execution("e", "failed"),
        &with(done.clone(), json!({ "execution_id": 1.5 })),
    ] {
        receiver.post(body.to_string()).await;
        receiver.wait_until_recorded().await;
    }
    receiver.post("{").await;
    for (metric, count) in [
        ("webhooks_answered_total{status=\"200\"}", 5.0),
        ("webhooks_answered_total{status=\"400\"}", 1.0),
        ("webhooks_answered_total{status=\"422\"}", 1.0),
        ("deliveries_recorded_total{outcome=\"new\"}", 1.0),
        ("deliveries_recorded_total{outcome=\"replacement\"}", 1.0),
        ("deliveries_recorded_total{outcome=\"duplicate\"}", 2.0),
        ("deliveries_recorded_total{outcome=\"conflict\"}", 1.0),
        ("deliveries_recorded_total{outcome=\"quarantined\"}", 1.0),
        ("executions_recorded_total{status=\"other\"}", 1.0),
        ("executions_recorded_total{status=\"completed\"}", 1.0),
        ("executions_recorded_total{status=\"failed\"}", 0.0),
        ("record_batch_rows_sum", 6.0),
        ("record_delay_seconds_count", 6.0),
        ("spool_group_rows_sum", 6.0),
        ("intake_depth", 0.0),
        ("database_up", 1.0),
        ("panics_total", 0.0),
    ] {
        assert_eq!(receiver.metric(metric).await, count, "{metric}");
    }
    assert!(receiver.metric("spool_commit_seconds_count").await >= 6.0);
}

/// An alert on a missing metric never fires. `scripts/check-alerts` compares names with the source, this test with a
/// running receiver. Metrics with labels exist once something was counted.
#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_an_alert_exists() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("e", "completed")).await;
    receiver.wait_until_recorded().await;
    let strict = TestReceiver::start_with(|settings| {
        settings.auth.webhook_secrets = Secrets::of(&["whsec_of_the_strict_one"]);
    })
    .await;
    strict.post("{}").await;
    let mut page = receiver.get("/metrics").await.text().await.unwrap();
    page += &strict.get("/metrics").await.text().await.unwrap();
    let rules = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/alerts.yml")).unwrap();
    let names: Vec<_> = rules
        // The name of a recording rule contains a colon.
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
        .filter(|word| word.starts_with("workflow_receiver_"))
        .collect();
    assert!(names.len() >= 2);
    for name in names {
        // A prefix of another name is not a metric.
        let is_this_metric =
            |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        assert!(page.lines().any(is_this_metric), "{name}");
    }
}
