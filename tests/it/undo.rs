//! `quarantine undo`: a retry with a wrong mapping, or after which an operator changed their mind.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fixtures::{execution, with};
use crate::support::postgres::{end_fault_on, execute, fault_on, raise, url};
use crate::support::process::{program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::retention::pruned;
use crate::support::rollups::assert_counts_are_right;

/// Runs `workflow-receiver quarantine …` on the receiver's database.
fn quarantine(receiver: &TestReceiver, arguments: &[&str]) -> (String, Option<i32>) {
    let dir = TempDir::new().unwrap();
    let mut command = program(dir.path());
    run_to_end(command.arg("quarantine").args(arguments).env("DATABASE_URL", url(&receiver.database)))
}

/// Everything that executions, bulks and the quarantine have, without the times of recording.
async fn state(receiver: &TestReceiver) -> Vec<Value> {
    let mut state = Vec::new();
    for table in
        ["executions", "execution_conflicts", "predictions", "prediction_conflicts", "bulks", "quarantine"]
    {
        let rows = format!("SELECT '{table}' AS of, t.* FROM {table} AS t ORDER BY 2, 3");
        state.extend(receiver.rows(&rows).await);
    }
    state
}

/// The counts of bulks, hours and days.
async fn counts(receiver: &TestReceiver) -> Vec<Value> {
    let mut counts = receiver
        .rows(
            "SELECT bulk_id, expected, received, completed, failed, cancelled, other, completed_at IS NULL AS open
             FROM bulks ORDER BY bulk_id",
        )
        .await;
    for table in ["workflow_hours", "workflow_days"] {
        let rows = format!("SELECT * FROM {table} WHERE executions <> 0 ORDER BY 1, 2");
        counts.extend(receiver.rows(&rows).await);
    }
    counts
}

fn body(id: &str, status: &str) -> Value {
    json!({ "execution_id": id, "workflow_id": "w", "bulk_id": "b", "status": status, "output": [id], "total_cost": 0.25 })
}

/// The same execution in a format that the receiver cannot read.
fn changed(id: &str, status: &str) -> Value {
    let mut body = body(id, status);
    let fields = body.as_object_mut().unwrap();
    for (from, to) in [("execution_id", "executionId"), ("workflow_id", "workflow"), ("bulk_id", "batch")] {
        let value = fields.remove(from).unwrap();
        fields.insert(to.to_owned(), value);
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_a_wrong_mapping_is_undone_and_leaves_the_counts_of_direct_recording() {
    let [receiver, direct] = [TestReceiver::start().await, TestReceiver::start().await];
    receiver.accept(body("one", "completed")).await;
    for changed in [changed("two", "completed"), changed("three", "failed"), changed("two", "completed")] {
        assert_eq!(receiver.post(changed.to_string()).await.status(), 422);
        receiver.wait_until_recorded().await;
    }
    for body in [body("one", "completed"), body("two", "completed"), body("three", "failed")] {
        direct.accept(body).await;
    }
    for receiver in [&receiver, &direct] {
        receiver.wait_until_recorded().await;
        execute(receiver, "UPDATE bulks SET expected = 3").await;
    }
    let before = state(&receiver).await;

    // The bulk is read from the workflow, and the workflow from the bulk.
    let wrong = ["retry", "--all", "--map", "execution_id=executionId", "--map", "workflow_id=batch"];
    let (text, code) = quarantine(&receiver, &[&wrong[..], &["--map", "bulk_id=workflow"]].concat());
    assert!(code == Some(0) && text.contains("recorded 2"), "{text}");
    assert_eq!(receiver.row("SELECT received FROM bulks WHERE bulk_id = 'w'").await["received"], 2);
    let (text, _) = quarantine(&receiver, &["list", "--retried"]);
    assert!(text.contains("two (new)") && text.contains("`execution_id` is missing or null"), "{text}");

    let (text, code) = quarantine(&receiver, &["undo", "--since", "1h"]);
    assert!(code == Some(0) && text.ends_with("undone 2, not undone 0\n"), "{text}");
    assert_eq!(state(&receiver).await, before);
    assert_counts_are_right(&receiver).await;
    assert_eq!(quarantine(&receiver, &["list", "--retried"]).0, "No rows.\n");
    let (text, code) = quarantine(&receiver, &["undo", "1"]);
    assert!(code == Some(1) && text.contains("1: no retry can be undone"), "{text}");

    let right = ["retry", "--all", "--map", "execution_id=executionId", "--map", "workflow_id=workflow"];
    let (text, code) = quarantine(&receiver, &[&right[..], &["--map", "bulk_id=batch"]].concat());
    assert!(code == Some(0) && text.contains("recorded 2"), "{text}");
    assert_eq!(counts(&receiver).await, counts(&direct).await);
    assert_counts_are_right(&receiver).await;
    let deliveries = receiver.row("SELECT deliveries FROM executions WHERE execution_id = 'two'").await;
    assert_eq!(deliveries["deliveries"], 2);

    let feed = "SELECT c.type, c.bulk_id, c.status FROM change_batches
        CROSS JOIN LATERAL unnest(types, execution_ids, bulk_ids, statuses) AS c (type, execution_id, bulk_id, status)
        WHERE c.execution_id = 'two' ORDER BY batch_id";
    let feed = receiver.rows(feed).await;
    let change =
        |kind: &str, bulk: &str, status: Value| json!({ "type": kind, "bulk_id": bulk, "status": status });
    assert_eq!(
        feed,
        [
            change("execution.ended", "w", json!("completed")),
            change("execution.undone", "w", Value::Null),
            change("execution.ended", "b", json!("completed")),
        ]
    );
    let audit = receiver.rows("SELECT actor, action, succeeded FROM audit ORDER BY audit_id").await;
    let actions: Vec<_> = audit.iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["quarantine.retry", "quarantine.undo", "quarantine.undo", "quarantine.retry"]);
    assert_eq!(audit[1], json!({ "actor": "command line", "action": "quarantine.undo", "succeeded": true }));
    assert_eq!(audit[2]["succeeded"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_restores_what_the_retry_replaced_repeated_and_contradicted() {
    let receiver = TestReceiver::start().await;
    let prediction = |id: &str, status: &str| json!({ "exec_id": id, "status": status, "output": 1 });
    for known in [
        with(execution("running", "running"), json!({ "bulk_id": "b" })),
        with(execution("ended", "completed"), json!({ "total_cost": 1.50 })),
        execution("contradicted", "completed"),
    ] {
        receiver.accept(known).await;
    }
    receiver.accept(prediction("p", "running")).await;
    receiver.accept(execution("contradicted", "failed")).await;
    receiver.wait_until_recorded().await;
    for unread in [
        with(execution("running", "completed"), json!({ "bulk_id": "b" })),
        with(execution("ended", "completed"), json!({ "total_cost": 1.50 })),
        execution("contradicted", "failed"),
        execution("contradicted", "cancelled"),
        execution("unknown", "completed"),
        prediction("p", "succeeded"),
    ] {
        // As an older receiver stored it, a day ago.
        let keep = "INSERT INTO quarantine (reason, body, body_sha256, deliveries, first_received_at, last_received_at)
            VALUES ('?', $1, sha256($1), 3, now() - interval '1 day', now() - interval '1 hour')";
        let mut connection = receiver.connection().await;
        sqlx::query(keep).bind(unread.to_string().into_bytes()).execute(&mut connection).await.unwrap();
    }
    let before = state(&receiver).await;
    let (text, code) = quarantine(&receiver, &["retry", "--all"]);
    assert!(code == Some(0) && text.contains("recorded 6"), "{text}");
    assert_counts_are_right(&receiver).await;
    // An expected execution that has ended is missing again.
    let response = json!({ "execution_id": "running", "status": "queued" });
    let register = format!("{}/api/v1/expected", receiver.admin);
    assert_eq!(receiver.client.post(register).json(&response).send().await.unwrap().status(), 200);
    assert!(receiver.rows("SELECT * FROM missing_executions").await.is_empty());

    let (text, code) = quarantine(&receiver, &["undo", "--since", "1h"]);
    assert!(code == Some(0) && text.ends_with("undone 6, not undone 0\n"), "{text}");
    let after = state(&receiver).await;
    assert_eq!(after, before);
    assert_counts_are_right(&receiver).await;
    let missing = receiver.row("SELECT execution_id, status FROM missing_executions").await;
    assert_eq!(missing, json!({ "execution_id": "running", "status": "running" }));
}

/// A duplicate changes no count of its bulk, and so none of its times.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_restores_the_times_of_the_bulks() {
    let receiver = TestReceiver::start().await;
    for known in [body("one", "completed"), body("moved", "running"), body("one", "completed")] {
        receiver.accept(known).await;
        receiver.wait_until_recorded().await;
    }
    execute(&receiver, "UPDATE bulks SET expected = 3").await;
    let mut moved = changed("moved", "completed");
    moved["batch"] = "other".into();
    for unread in [changed("two", "completed"), changed("three", "failed"), moved] {
        assert_eq!(receiver.post(unread.to_string()).await.status(), 422);
        receiver.wait_until_recorded().await;
    }
    let before = state(&receiver).await;
    let map =
        ["--map", "execution_id=executionId", "--map", "workflow_id=workflow", "--map", "bulk_id=batch"];
    for id in ["1", "2", "3"] {
        let (text, code) = quarantine(&receiver, &[&["retry", id][..], &map].concat());
        assert_eq!(code, Some(0), "{text}");
    }
    let (text, code) = quarantine(&receiver, &["undo", "--since", "1h"]);
    assert!(code == Some(0) && text.ends_with("undone 3, not undone 0\n"), "{text}");
    assert_eq!(state(&receiver).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_after_a_repair_removes_the_repaired_cost() {
    let receiver = TestReceiver::start().await;
    fault_on(
        &receiver,
        "executions",
        "NEW.execution_id = 'one' AND NEW.total_cost IS NOT NULL",
        &raise("P0001"),
    )
    .await;
    // A delivery is blamed for an error only while others are recorded.
    for body in [body("one", "completed"), execution("good", "completed")] {
        receiver.accept(body).await;
    }
    receiver.wait_until_recorded().await;
    assert_eq!(receiver.post(changed("one", "completed").to_string()).await.status(), 422);
    receiver.wait_until_recorded().await;
    let map =
        ["--map", "execution_id=executionId", "--map", "workflow_id=workflow", "--map", "bulk_id=batch"];
    let (text, code) = quarantine(&receiver, &[&["retry", "1"][..], &map].concat());
    assert_eq!(code, Some(0), "{text}");
    end_fault_on(&receiver, "executions").await;
    let dir = TempDir::new().unwrap();
    let repair = || {
        let (text, code) = run_to_end(
            program(dir.path()).args(["repair", "--all"]).env("DATABASE_URL", url(&receiver.database)),
        );
        assert!(code == Some(0) && text.contains("repaired 1,"), "{text}");
    };
    repair();
    let (text, code) = quarantine(&receiver, &["undo", "1"]);
    assert_eq!(code, Some(0), "{text}");
    assert_counts_are_right(&receiver).await;
    repair();
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_is_refused_after_a_later_delivery() {
    let receiver = TestReceiver::start().await;
    assert_eq!(receiver.post(changed("e", "completed").to_string()).await.status(), 422);
    receiver.wait_until_recorded().await;
    let retry =
        ["retry", "1", "--map", "execution_id=executionId", "--map", "workflow_id=workflow", "--force"];
    assert_eq!(quarantine(&receiver, &retry).1, Some(0));
    receiver.accept(with(body("e", "completed"), json!({ "bulk_id": null }))).await;
    receiver.wait_until_recorded().await;
    let before = state(&receiver).await;
    let (text, code) = quarantine(&receiver, &["undo", "1"]);
    assert!(code == Some(1) && text.contains("e has received another delivery since the retry"), "{text}");
    assert_eq!(state(&receiver).await, before);
    execute(&receiver, "DELETE FROM executions").await;
    let (text, code) = quarantine(&receiver, &["undo", "1"]);
    assert!(code == Some(1) && text.contains("e is not recorded any more"), "{text}");
    // The copy of the payload is removed with the payloads.
    execute(&receiver, "UPDATE quarantine_retries SET retried_at = now() - interval '3 days'").await;
    assert_eq!(pruned(&receiver, &[("PAYLOADS", "2d")])["quarantine_retries"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_that_an_earlier_version_stored_is_not_shown_and_a_retry_removes_it() {
    const KEY: &str = "eachlabs-key-1234567890";
    let receiver = TestReceiver::start().await;
    let body = json!({ "api_key": KEY, "executionId": "e", "workflow_id": "w", "status": "completed" });
    let keep =
        "INSERT INTO quarantine (reason, body, body_sha256, deliveries, first_received_at, last_received_at)
        VALUES ('?', $1, sha256($1), 1, now(), now())";
    let cut = |start: &str| format!("{start}{KEY}{}", "x".repeat(300));
    for body in [body.to_string(), cut(r#"{"api_key":""#), cut(r#"{"ä":{"Webhook_Secret" : ""#)] {
        let mut connection = receiver.connection().await;
        sqlx::query(keep).bind(body.into_bytes()).execute(&mut connection).await.unwrap();
    }
    let (shown, code) = quarantine(&receiver, &["show", "1"]);
    assert!(code == Some(0) && shown.contains(r#""api_key":null"#), "{shown}");
    assert!(!shown.contains(KEY), "{shown}");
    for path in ["/api/v1/quarantine/1", "/quarantine"] {
        let text = receiver.get(path).await.text().await.unwrap();
        assert!(text.contains("executionId") && !text.contains(KEY), "{text}");
    }

    assert_eq!(quarantine(&receiver, &["retry", "1", "--map", "execution_id=executionId"]).1, Some(0));
    let stored = "SELECT convert_from((entry ->> 'body')::bytea, 'UTF8') AS body FROM quarantine_retries";
    let stored = receiver.row(stored).await["body"].as_str().unwrap().to_owned();
    assert!(stored.contains(r#""api_key":null"#) && !stored.contains(KEY), "{stored}");
    assert_eq!(quarantine(&receiver, &["undo", "1"]).1, Some(0));
    let restored = "SELECT convert_from(body, 'UTF8') AS body, body_sha256 = sha256(body) AS is_hashed
        FROM quarantine WHERE quarantine_id = 1";
    assert_eq!(receiver.row(restored).await, json!({ "body": stored, "is_hashed": true }));
}

/// The same body arrives while its retry can be undone.
#[tokio::test(flavor = "multi_thread")]
async fn an_undone_entry_is_joined_with_a_later_one_of_the_same_body() {
    let receiver = TestReceiver::start().await;
    let retry =
        ["retry", "1", "--map", "execution_id=executionId", "--map", "workflow_id=workflow", "--force"];
    for _ in 0..2 {
        assert_eq!(receiver.post(changed("e", "completed").to_string()).await.status(), 422);
        receiver.wait_until_recorded().await;
        let (text, _) = quarantine(&receiver, &retry);
        assert!(text.contains("recorded as e (new)") || text.contains("no entry 1"), "{text}");
    }
    assert_eq!(quarantine(&receiver, &["undo", "1"]).1, Some(0));
    assert_eq!(receiver.row("SELECT deliveries FROM quarantine").await["deliveries"], 2);
    assert!(receiver.rows("SELECT * FROM executions").await.is_empty());
}
