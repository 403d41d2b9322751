//! The limits of conflicts and quarantine. A batch has the same result as single deliveries.

use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::fixtures::{execution, with};
use crate::support::postgres::execute;
use crate::support::property::runner;
use crate::support::receiver::TestReceiver;

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_beyond_the_limit_of_an_execution_are_only_counted() {
    let receiver = TestReceiver::start_with(|settings| {
        settings.conflicts.max_per_execution = 3;
        settings.conflicts.max_bytes_per_execution = 2_000;
    })
    .await;
    let other = |n: usize, size: usize| {
        with(execution("hot", "failed"), json!({ "error_cause": n, "fill": "x".repeat(size) }))
    };
    receiver.accept(execution("hot", "completed")).await;
    receiver.wait_until_recorded().await;
    // In one batch: one conflict is too large, one is repeated, and one is beyond the limit.
    let held = receiver.hold_recording().await;
    for body in [other(0, 3_000), other(1, 10), other(2, 10), other(1, 10), other(3, 10), other(4, 10)] {
        receiver.accept(body).await;
    }
    held.release().await;
    receiver.wait_until_recorded().await;
    // One by one.
    for body in [other(5, 10), other(2, 10)] {
        receiver.accept(body).await;
        receiver.wait_until_recorded().await;
    }
    let row = "SELECT status, deliveries, conflicts, conflicts_dropped,
                      conflict_bytes = (SELECT sum(octet_length(payload ->> 'fill')) FROM execution_conflicts) + 3 * 87 AS exact
               FROM executions WHERE execution_id = 'hot'";
    let row = receiver.row(row).await;
    assert_eq!(
        with(row, json!({ "exact": null })),
        json!({ "status": "completed", "deliveries": 9, "conflicts": 3, "conflicts_dropped": 3, "exact": null })
    );
    let stored =
        receiver.rows("SELECT error_cause, deliveries FROM execution_conflicts ORDER BY error_cause").await;
    let stored: Vec<_> =
        stored.iter().map(|row| (row["error_cause"].as_str().unwrap(), &row["deliveries"])).collect();
    assert_eq!(stored, [("1", &json!(2)), ("2", &json!(2)), ("3", &json!(1))]);
    let metric = "deliveries_recorded_total{outcome=\"conflict_dropped\"}";
    assert_eq!(receiver.metric(metric).await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_conflicts_are_limited() {
    let receiver =
        TestReceiver::start_with(|settings| settings.conflicts.max_bytes_per_execution = 2_500).await;
    receiver.accept(execution("hot", "completed")).await;
    for n in 0..5 {
        let body = json!({ "error_cause": n, "fill": "x".repeat(1_000) });
        receiver.accept(with(execution("hot", "failed"), body)).await;
        receiver.wait_until_recorded().await;
    }
    let row = receiver
        .row("SELECT conflicts, conflicts_dropped, conflict_bytes < 2500 AS fits FROM executions")
        .await;
    assert_eq!(row, json!({ "conflicts": 2, "conflicts_dropped": 3, "fits": true }));
    assert_eq!(receiver.rows("SELECT * FROM execution_conflicts").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_usage_is_right_after_any_change() {
    let receiver = TestReceiver::start_with(|settings| settings.quarantine.max_rows = 4).await;
    let counted = async || {
        let wrong = "SELECT * FROM quarantine_usage AS u, (
                         SELECT count(*) AS rows, coalesce(sum(octet_length(body) + coalesce(octet_length(api_body), 0)), 0) AS sum
                         FROM quarantine WHERE NOT acknowledged
                     ) AS q WHERE (u.bodies, u.bytes) IS DISTINCT FROM (q.rows, q.sum)";
        assert_eq!(receiver.rows(wrong).await, Vec::<Value>::new());
        receiver.row("SELECT bodies FROM quarantine_usage").await["bodies"].clone()
    };
    let refuse = async |n: usize| {
        assert_eq!(receiver.post(json!({ "n": n }).to_string()).await.status(), 422);
        receiver.wait_until_recorded().await;
    };
    for n in [0, 1, 1, 2, 3, 4] {
        refuse(n).await;
    }
    assert_eq!(counted().await, 4);
    execute(&receiver, "DELETE FROM quarantine WHERE convert_from(body, 'UTF8') = '{\"n\":0}'").await;
    assert_eq!(counted().await, 3);
    execute(
        &receiver,
        "UPDATE quarantine SET acknowledged = true WHERE convert_from(body, 'UTF8') = '{\"n\":1}'",
    )
    .await;
    assert_eq!(counted().await, 2);
    for n in 5..9 {
        refuse(n).await;
    }
    assert_eq!(counted().await, 4, "there was room for two");
    execute(&receiver, "TRUNCATE quarantine").await;
    assert_eq!(counted().await, 0);
    refuse(9).await;
    assert_eq!(counted().await, 1);
}

/// All tables that recording writes.
async fn state(receiver: &TestReceiver) -> Vec<Vec<Value>> {
    let mut state = Vec::new();
    for query in [
        "SELECT execution_id, workflow_id, bulk_id, status, payload, deliveries, conflicts, conflict_bytes
         FROM executions WHERE execution_id <> 'held' ORDER BY execution_id",
        "SELECT execution_id, payload, deliveries FROM execution_conflicts ORDER BY execution_id, body_sha256",
        "SELECT bulk_id, received, completed, failed, other FROM bulks WHERE received > 0 ORDER BY bulk_id",
        "SELECT workflow_id, sum(executions) AS n, sum(completed) AS c, sum(failed) AS f, sum(other) AS o
         FROM workflow_hours WHERE workflow_id <> 'w' GROUP BY 1 HAVING sum(executions) <> 0 ORDER BY 1",
        "SELECT workflow_id, sum(total_cost) AS cost FROM workflow_days
         WHERE workflow_id <> 'w' AND executions <> 0 GROUP BY 1 ORDER BY 1",
    ] {
        state.push(receiver.rows(query).await);
    }
    state
}

#[test]
fn deliveries_have_the_same_result_in_any_batches() {
    let runtime = Runtime::new().unwrap();
    let (single, together) =
        runtime.block_on(async { (TestReceiver::start().await, TestReceiver::start().await) });
    let delivery = (
        prop::sample::select(&["queued", "running", "paused", "completed", "failed"][..]),
        0..3_u8,
        prop::sample::select(&["v1", "v2"][..]),
        prop::sample::select(&["b1", "b2"][..]),
    );
    let sequences = prop::collection::vec(prop::collection::vec(delivery, 1..9), 1..4);
    let case = std::cell::Cell::new(0);
    runner(Config { max_shrink_iters: 16, ..Config::with_cases(24) }).run(&sequences, |sequences| {
        case.set(case.get() + 1);
        let bodies: Vec<Value> = (0..8)
            .flat_map(|n| sequences.iter().enumerate().filter_map(move |(e, deliveries)| Some((e, deliveries.get(n)?))))
            .map(|(e, (status, output, workflow, bulk))| {
                json!({ "execution_id": format!("{}-{e}", case.get()), "workflow_id": workflow, "status": status,
                        "bulk_id": bulk, "output": output, "total_cost": output })
            })
            .collect();
        runtime.block_on(async {
            for body in &bodies {
                single.accept(body).await;
                single.wait_until_recorded().await;
            }
            let held = together.hold_recording().await;
            for body in &bodies {
                together.accept(body).await;
            }
            held.release().await;
            assert_eq!(state(&together).await, state(&single).await, "{bodies:#?}");
        });
        Ok(())
    })
    .unwrap();
}
