//! What the admin port says.

use serde_json::json;
use workflow_receiver::config::Secrets;

use crate::harness::{TestReceiver, execution, until, with};

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_records_is_ready_and_well() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("e", "completed")).await;
    receiver.recorded().await;
    // The spool forgets a moment after PostgreSQL has it.
    until(async || receiver.ready().await.1["spooled"] == 0).await;
    assert_eq!(receiver.ready().await, (200, json!({ "status": "ok", "problems": [], "spooled": 0 })));
    assert_eq!(receiver.get("/health/live").await.status(), 200);
    assert_eq!(receiver.get("/elsewhere").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_count_answers_and_outcomes() {
    let receiver = TestReceiver::start().await;
    let running = execution("e", "running");
    let done = execution("e", "completed");
    for body in [
        &running,
        &running,
        &done,
        &done,
        &execution("e", "failed"),
        &with(done.clone(), json!({ "execution_id": 1 })),
    ] {
        receiver.post(body.to_string()).await;
        receiver.recorded().await;
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

/// An alert on a metric that does not exist never fires. `scripts/check-alerts` knows the names from the source; here
/// they are seen. Those with labels are there once something was counted.
#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_an_alert_names_exists() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("e", "completed")).await;
    receiver.recorded().await;
    let strict = TestReceiver::start_with(|settings| {
        settings.auth.webhook_secrets = Secrets::of(&["whsec_of_the_strict_one"]);
    })
    .await;
    strict.post("{}").await;
    let mut page = receiver.get("/metrics").await.text().await.unwrap();
    page += &strict.get("/metrics").await.text().await.unwrap();
    let rules = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/alerts.yml")).unwrap();
    let names: Vec<_> = rules
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("workflow_receiver_"))
        .collect();
    assert!(names.len() >= 2);
    for name in names {
        assert!(page.lines().any(|line| line.starts_with(name)), "{name}");
    }
}
