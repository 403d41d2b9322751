//! The examples and best practices of the webhook documentation of `each::labs`.

use serde_json::{Value, json};

use crate::support::fixtures::example;
use crate::support::receiver::TestReceiver;

const ID: &str = "69ae8c7b-7500-4a45-b7c0-348b8cc2665b";

fn parsed(name: &str) -> Value {
    serde_json::from_str(&example(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_completed_execution_is_recorded() {
    let receiver = TestReceiver::start().await;
    receiver.accept(example("completed.json")).await;
    let row =
        receiver.row("SELECT *, started_at = '2025-12-04T11:48:10Z' AS started_right FROM executions").await;
    assert_eq!(row["execution_id"], ID);
    assert_eq!(row["workflow_id"], "50741f40-8621-4d46-8a91-dff4d873be98");
    assert_eq!(row["status"], "completed");
    assert_eq!(row["started_right"], true);
    assert_eq!(row["output"], json!(["https://storage.googleapis.com/uploads/image.png"]));
    assert_eq!(row["payload"], parsed("completed.json"));
    for absent in ["bulk_id", "completed_at", "error", "error_cause", "total_cost", "payload_bytes"] {
        assert_eq!(row[absent], Value::Null, "{absent}");
    }
    assert_eq!(row["deliveries"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_failed_execution_is_recorded_with_its_cause() {
    let receiver = TestReceiver::start().await;
    receiver.accept(example("failed.json")).await;
    let row = receiver.row("SELECT * FROM executions").await;
    assert_eq!(row["status"], "failed");
    assert_eq!(row["error"], "ExecutionFailed");
    assert_eq!(row["error_cause"], "Step 'generate_image' failed: Model timeout after 30s");
    assert_eq!(row["output"], Value::Null);
    assert_eq!(row["payload"], parsed("failed.json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_bulk_webhook_is_grouped_by_its_bulk_id() {
    let receiver = TestReceiver::start().await;
    receiver.accept(example("bulk-completed.json")).await;
    let row = receiver.row("SELECT execution_id, bulk_id FROM executions").await;
    assert_eq!(row, json!({ "execution_id": "exec-1", "bulk_id": "550e8400-e29b-41d4-a716-446655440000" }));
    let bulk = receiver
        .row("SELECT bulk_id, expected, received, completed, failed, cancelled, other FROM bulks")
        .await;
    assert_eq!(
        bulk,
        json!({
            "bulk_id": "550e8400-e29b-41d4-a716-446655440000", "expected": null,
            "received": 1, "completed": 1, "failed": 0, "cancelled": 0, "other": 0
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_execution_with_a_failed_step_and_a_null_bulk_is_completed() {
    let receiver = TestReceiver::start().await;
    receiver.accept(example("full-execution.json")).await;
    let row = receiver
        .row(
            "SELECT status, bulk_id, output, payload, total_cost::text AS total_cost,
                    completed_at - started_at AS took FROM executions",
        )
        .await;
    assert_eq!(row["status"], "completed");
    assert_eq!(row["bulk_id"], Value::Null);
    assert_eq!(row["output"], "A breathtaking panoramic view...");
    assert_eq!(row["total_cost"], "0.0421");
    assert_eq!(row["took"], "00:02:43");
    assert_eq!(row["payload"], parsed("full-execution.json"));
    assert!(receiver.rows("SELECT * FROM bulks").await.is_empty());
}

/// "Implement idempotency using `execution_id` as a deduplication key." Two of the documented examples have the same
/// `execution_id`: the first one is recorded, the other one is a conflict.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_sent_three_times_in_any_order_leave_one_row_per_execution() {
    let files = ["completed.json", "failed.json", "bulk-completed.json"];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for interleaved in [false, true] {
            let receiver = TestReceiver::start().await;
            for n in 0..9 {
                let file = files[order[if interleaved { n % 3 } else { n / 3 }]];
                receiver.accept(example(file)).await;
            }
            let first = if order.iter().position(|o| *o == 0) < order.iter().position(|o| *o == 1) {
                ("completed", "failed")
            } else {
                ("failed", "completed")
            };
            let rows = receiver
                .rows("SELECT execution_id, status, deliveries FROM executions ORDER BY execution_id")
                .await;
            assert_eq!(
                rows,
                [
                    json!({ "execution_id": ID, "status": first.0, "deliveries": 6 }),
                    json!({ "execution_id": "exec-1", "status": "completed", "deliveries": 3 })
                ]
            );
            let conflicts =
                receiver.rows("SELECT execution_id, status, deliveries FROM execution_conflicts").await;
            assert_eq!(conflicts, [json!({ "execution_id": ID, "status": first.1, "deliveries": 3 })]);
            assert_eq!(
                receiver.row("SELECT received, completed FROM bulks").await,
                json!({ "received": 1, "completed": 1 })
            );
        }
    }
}
