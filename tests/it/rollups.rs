//! The rollups by hour and day always equal a recount.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fixtures::{execution, with};
use crate::support::postgres::url;
use crate::support::process::{program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::rollups::assert_counts_are_right;

#[tokio::test(flavor = "multi_thread")]
async fn rollups_equal_a_recount() {
    let receiver = TestReceiver::start().await;
    let body = |id: usize, status, cost: &Value, workflow| {
        with(execution(&id.to_string(), status), json!({ "workflow_id": workflow, "total_cost": cost }))
    };
    let costs = [json!(0.25), json!(null), json!(1e3), json!(1e12), json!(-5e-13), json!("free")];
    // First in one batch, which has each execution several times, and then one by one.
    for at_once in [true, false] {
        let held = if at_once { Some(receiver.hold_recording().await) } else { None };
        for n in 0..60 {
            let status = ["running", "queued", "completed", "failed", "cancelled"][n % 5];
            for status in [status, "running", "completed", "failed"] {
                receiver
                    .accept(body(n, status, &costs[(n + status.len()) % 6], ["v", "w"][status.len() % 2]))
                    .await;
            }
        }
        let odd = r#"{"execution_id":"odd","workflow_id":"v","status":"running","total_cost":9e131071}"#;
        receiver.accept(odd).await;
        for (n, cost) in ["999999999999.9999999999999", "1E12", "-5e-13", "1e-400", "7e-1"].iter().enumerate()
        {
            for (status, cost) in [("running", *cost), ("completed", if n % 2 == 0 { cost } else { "1" })] {
                let ids = format!(r#""execution_id":"odd-{n}","workflow_id":"v-{n}""#);
                receiver.accept(format!(r#"{{{ids},"status":"{status}","total_cost":{cost}}}"#)).await;
            }
        }
        receiver.accept(odd.replace("running", "failed").replace("9e131071", "0.5")).await;
        if let Some(held) = held {
            held.release().await;
        }
        assert_counts_are_right(&receiver).await;
    }
    let cost = receiver
        .row("SELECT sum(executions_with_cost) > 0 AS some, sum(total_cost) > 0 AS more FROM costs")
        .await;
    assert_eq!(cost, json!({ "some": true, "more": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_ends_in_another_workflow_is_moved() {
    let receiver = TestReceiver::start().await;
    receiver.accept(with(execution("e", "running"), json!({ "total_cost": 1 }))).await;
    receiver.wait_until_recorded().await;
    receiver.accept(with(execution("e", "failed"), json!({ "workflow_id": "other", "total_cost": 2 }))).await;
    assert_counts_are_right(&receiver).await;
    assert_eq!(
        receiver.rows("SELECT workflow_id, executions, failed FROM failure_rates").await,
        [json!({ "workflow_id": "other", "executions": 1, "failed": 1 })]
    );
    assert_eq!(
        receiver.rows("SELECT workflow_id, executions, total_cost FROM costs").await,
        [json!({ "workflow_id": "other", "executions": 1, "total_cost": 2 })]
    );
}

/// A delivery that was in quarantine is recorded after a later one.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_delivery_that_is_recorded_later_moves_its_execution() {
    let receiver = TestReceiver::start().await;
    let bodies = ["new", "duplicate", "replaced", "contradicted"]
        .map(|id| with(execution(id, "completed"), json!({ "total_cost": 0.5 })));
    for body in &bodies[1..] {
        let status = match body["execution_id"].as_str().unwrap() {
            "replaced" => "running",
            "contradicted" => "failed",
            _ => "completed",
        };
        receiver.accept(with(body.clone(), json!({ "status": status }))).await;
    }
    assert_counts_are_right(&receiver).await;
    let quarantine =
        "INSERT INTO quarantine (reason, body, body_sha256, deliveries, first_received_at, last_received_at)
        SELECT 'not read then', b, sha256(b), 3, now() - interval '30 hours', now() - interval '1 hour'
        FROM (SELECT convert_to($1, 'UTF8')) AS b (b)";
    for body in &bodies {
        let body = body.to_string();
        sqlx::query(quarantine).bind(body).execute(&mut receiver.connection().await).await.unwrap();
    }
    let dir = TempDir::new().unwrap();
    let mut retry = program(dir.path());
    let (text, code) =
        run_to_end(retry.args(["quarantine", "retry", "--all"]).env("DATABASE_URL", url(&receiver.database)));
    assert_eq!(code, Some(0), "{text}");
    assert_counts_are_right(&receiver).await;
    let moved = "SELECT count(*) FROM executions WHERE first_received_at < now() - interval '29 hours'";
    assert_eq!(receiver.row(moved).await["count"], 4);
    let hours = "SELECT sum(executions) AS executions, sum(completed) AS completed FROM failure_rates
                 WHERE hour < now() - interval '29 hours'";
    assert_eq!(receiver.row(hours).await, json!({ "executions": 4, "completed": 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_do_not_touch_the_rollups() {
    let receiver = TestReceiver::start().await;
    let rows =
        "SELECT h.xmin::text AS hour, d.xmin::text AS day FROM workflow_hours AS h, workflow_days AS d";
    receiver.accept(execution("e", "completed")).await;
    receiver.wait_until_recorded().await;
    let before = receiver.row(rows).await;
    receiver.accept(execution("e", "completed")).await;
    receiver.accept(execution("e", "failed")).await;
    receiver.wait_until_recorded().await;
    assert_eq!(receiver.row(rows).await, before, "the rollups are not even locked");
    assert_counts_are_right(&receiver).await;
}
