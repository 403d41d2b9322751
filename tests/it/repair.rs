//! `repair` and `quarantine retry`, once PostgreSQL accepts what it rejected before.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fixtures::{execution, with};
use crate::support::postgres::{end_fault_on, execute, fault_on, raise, url};
use crate::support::process::{program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::rollups::assert_counts_are_right;

fn command(receiver: &TestReceiver, arguments: &[&str]) -> (String, Option<i32>) {
    let dir = TempDir::new().unwrap();
    run_to_end(program(dir.path()).args(arguments).env("DATABASE_URL", url(&receiver.database)))
}

/// Makes PostgreSQL reject executions that match `condition` with this SQLSTATE.
async fn reject(receiver: &TestReceiver, condition: &str, code: &str) {
    fault_on(receiver, "executions", condition, &raise(code)).await;
}

fn full(id: &str) -> Value {
    with(execution(id, "completed"), json!({ "bulk_id": "b", "output": { "url": id }, "total_cost": 0.25 }))
}

#[tokio::test(flavor = "multi_thread")]
async fn degraded_executions_are_repaired_once_postgresql_accepts_them() {
    let receiver = TestReceiver::start().await;
    let condition =
        "NEW.execution_id LIKE 'bad%' AND num_nonnulls(NEW.payload, NEW.output, NEW.total_cost) > 0";
    reject(&receiver, condition, "P0001").await;
    for id in ["bad1", "good", "bad2"] {
        receiver.accept(full(id)).await;
    }
    // jsonb can hold no part of the first body, and only a part of the second.
    receiver.accept(r#"{"execution_id":"bad3","workflow_id":"w","status":"completed","x":"\u0000"}"#).await;
    receiver.accept(r#"{"execution_id":"twice","workflow_id":"w","status":"completed","x":1,"x":2}"#).await;
    let degraded = "SELECT execution_id, payload, output, total_cost FROM executions
                    WHERE execution_id IN ('bad1', 'bad2') ORDER BY execution_id";
    let nothing = |id| json!({ "execution_id": id, "payload": null, "output": null, "total_cost": null });
    assert_eq!(receiver.rows(degraded).await, [nothing("bad1"), nothing("bad2")]);
    assert_eq!(receiver.metric("executions_degraded_total").await, 2.0);
    assert_counts_are_right(&receiver).await;

    let (text, code) = command(&receiver, &["repair", "--all"]);
    assert!(
        code == Some(1) && text.contains("bad1: stays as it is: ") && text.contains("refused 2"),
        "{text}"
    );
    end_fault_on(&receiver, "executions").await;
    let (text, code) = command(&receiver, &["repair", "bad1", "absent"]);
    assert!(
        code == Some(0)
            && text.contains("bad1: repaired")
            && text.contains("absent: no execution or prediction with this identifier has payload_bytes"),
        "{text}"
    );
    let (text, code) = command(&receiver, &["repair", "--all"]);
    assert!(code == Some(0) && text.contains("repaired 1, unchanged 2, refused 0"), "{text}");
    let (text, code) = command(&receiver, &["repair", "--all"]);
    assert!(code == Some(0) && text.contains("repaired 0, unchanged 2, refused 0"), "{text}");
    let whole = |id| {
        let body = full(id);
        json!({ "execution_id": id, "payload": body, "output": body["output"], "total_cost": 0.25 })
    };
    assert_eq!(receiver.rows(degraded).await, [whole("bad1"), whole("bad2")]);
    assert_eq!(receiver.rows("SELECT 1 AS n FROM executions WHERE payload_bytes IS NOT NULL").await.len(), 2);
    assert_counts_are_right(&receiver).await;
    // Duplicates and conflicts are recognised as if the execution had never been degraded.
    receiver.accept(full("bad1")).await;
    receiver.accept(with(full("bad2"), json!({ "output": "other" }))).await;
    let conflicts = receiver.rows("SELECT execution_id FROM execution_conflicts").await;
    assert_eq!(conflicts, [json!({ "execution_id": "bad2" })]);
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_leaves_out_the_costs_that_recording_leaves_out() {
    let receiver = TestReceiver::start().await;
    // The repeated key keeps `payload_bytes`. The cost has a thousand digits.
    receiver
        .accept(
            r#"{"execution_id":"x","workflow_id":"w","status":"completed","total_cost":1e1000,"a":1,"a":2}"#,
        )
        .await;
    let row = "SELECT total_cost, payload_bytes IS NOT NULL AS has_bytes FROM executions";
    let recorded = receiver.rows(row).await;
    assert_eq!(recorded, [json!({ "total_cost": null, "has_bytes": true })]);
    let (text, code) = command(&receiver, &["repair", "--all"]);
    assert!(code == Some(0) && text.contains("repaired 0, unchanged 1, refused 0"), "{text}");
    assert_eq!(receiver.rows(row).await, recorded);
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_deliveries_in_quarantine_are_recorded_once_postgresql_accepts_them() {
    let receiver = TestReceiver::start().await;
    reject(&receiver, "NEW.execution_id LIKE 'bad%'", "P0001").await;
    for id in ["bad1", "bad2", "good"] {
        receiver.accept(full(id)).await;
    }
    receiver.wait_until_recorded().await;
    assert_eq!(receiver.post(r#"{"workflow_id":"w"}"#).await.status(), 422);
    assert_eq!(receiver.rows("SELECT 1 AS n FROM quarantine WHERE acknowledged").await.len(), 2);
    let (text, code) = command(&receiver, &["quarantine", "retry", "--acknowledged"]);
    assert!(code == Some(1) && text.contains("recorded 0, not recorded 2"), "{text}");
    end_fault_on(&receiver, "executions").await;
    let (text, code) = command(&receiver, &["quarantine", "retry", "--acknowledged"]);
    assert!(code == Some(0) && text.contains("recorded 2, not recorded 0"), "{text}");
    let (text, code) = command(&receiver, &["quarantine", "retry", "--acknowledged"]);
    assert!(code == Some(0) && text.contains("recorded 0, not recorded 0"), "{text}");
    assert_eq!(receiver.rows("SELECT payload FROM executions WHERE payload IS NOT NULL").await.len(), 3);
    assert_eq!(receiver.rows("SELECT * FROM quarantine").await.len(), 1);
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_cannot_be_recorded_does_not_stop_the_retry_of_the_next() {
    let receiver = TestReceiver::start().await;
    for code in ["55P03", "57014", "40001", "53200", "XX000", "57P01", "08006"] {
        reject(&receiver, "NEW.execution_id ~ '^(bad|good)'", "23514").await;
        receiver.accept(full("bad")).await;
        receiver.accept(full(&format!("good{code}"))).await;
        receiver.wait_until_recorded().await;
        reject(&receiver, "NEW.execution_id = 'bad'", code).await;
        let (text, exit) = command(&receiver, &["quarantine", "retry", "--all"]);
        assert!(exit == Some(1) && text.contains("recorded 1, not recorded 1"), "{code}: {text}");
    }
    end_fault_on(&receiver, "executions").await;
    let (text, exit) = command(&receiver, &["quarantine", "retry", "--all"]);
    assert!(exit == Some(0) && text.contains("recorded 1, not recorded 0"), "{text}");
    assert_eq!(receiver.rows("SELECT execution_id FROM executions").await.len(), 8);
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_cannot_be_repaired_does_not_stop_the_repair_of_the_next() {
    let receiver = TestReceiver::start().await;
    let codes = ["55P03", "57014", "40001", "53200", "XX000", "57P01", "08006"];
    for code in codes {
        reject(&receiver, "NEW.execution_id ~ '^(bad|good)' AND NEW.payload IS NOT NULL", "23514").await;
        receiver.accept(full("bad")).await;
        receiver.accept(full(&format!("good{code}"))).await;
        receiver.wait_until_recorded().await;
        reject(&receiver, "NEW.execution_id = 'bad'", code).await;
        let (text, exit) = command(&receiver, &["repair", "--all"]);
        assert!(exit == Some(1) && text.contains("bad: stays as it is: "), "{code}: {text}");
        assert!(text.contains("repaired 1, unchanged 0, refused 1"), "{code}: {text}");
        end_fault_on(&receiver, "executions").await;
    }
    let (text, exit) = command(&receiver, &["repair", "--all"]);
    assert!(exit == Some(0) && text.contains("repaired 1, unchanged 0, refused 0"), "{text}");
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_retry_after_contention_a_limited_number_of_times() {
    let receiver = TestReceiver::start().await;
    execute(&receiver, "CREATE SEQUENCE tries").await;
    let last = async || receiver.row("SELECT last_value FROM tries").await["last_value"].clone();
    let commands = [
        (&["repair", "--all"][..], "NEW.execution_id = 'repair' AND NEW.payload IS NOT NULL"),
        (&["quarantine", "retry", "--all"], "NEW.execution_id = 'quarantine'"),
    ];
    for (arguments, refused) in commands {
        reject(&receiver, refused, "23514").await;
        receiver.accept(full(arguments[0])).await;
        receiver.wait_until_recorded().await;
        reject(&receiver, "NEW.execution_id IN ('repair', 'quarantine') AND nextval('tries') > 0", "40001")
            .await;
        let (text, exit) = command(&receiver, arguments);
        assert!(exit == Some(1) && text.contains(": stays "), "{text}");
        assert_eq!(last().await, 5, "{text}");
        execute(&receiver, "SELECT setval('tries', 1, false)").await;
        reject(&receiver, "NEW.execution_id IN ('repair', 'quarantine') AND nextval('tries') < 4", "40P01")
            .await;
        let (text, exit) = command(&receiver, arguments);
        assert!(exit == Some(0) && text.contains("ed 1, "), "{text}");
        execute(&receiver, "SELECT setval('tries', 1, false)").await;
    }
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_ends_the_commands() {
    let receiver = TestReceiver::start().await;
    reject(&receiver, "NEW.execution_id LIKE 'degraded%' AND NEW.payload IS NOT NULL OR NEW.execution_id LIKE 'quarantined%'", "23514").await;
    for id in ["degraded1", "degraded2", "quarantined1", "quarantined2"] {
        receiver.accept(full(id)).await;
    }
    receiver.wait_until_recorded().await;
    reject(
        &receiver,
        "NEW.execution_id ~ '^(degraded|quarantined)' AND pg_terminate_backend(pg_backend_pid())",
        "23514",
    )
    .await;
    for arguments in [&["repair", "--all"][..], &["quarantine", "retry", "--all"]] {
        let (text, exit) = command(&receiver, arguments);
        assert!(exit == Some(1) && text.contains("cannot be reached") && !text.contains("stays"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_execution_does_not_stop_the_repair_of_the_next() {
    let receiver = TestReceiver::start().await;
    reject(&receiver, "NEW.execution_id LIKE 'bad%' AND NEW.payload IS NOT NULL", "P0001").await;
    for id in ["bad1", "bad2"] {
        receiver.accept(full(id)).await;
    }
    receiver.wait_until_recorded().await;
    end_fault_on(&receiver, "executions").await;
    let mut other = receiver.connection().await;
    let lock = "BEGIN; SELECT 1 FROM executions WHERE execution_id = 'bad1' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let (text, code) = command(&receiver, &["repair", "--all"]);
    assert!(code == Some(1) && text.contains("bad1: stays as it is: "), "{text}");
    assert!(text.contains("bad2: repaired"), "{text}");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    let (text, code) = command(&receiver, &["repair", "--all"]);
    assert!(code == Some(0) && text.contains("bad1: repaired"), "{text}");
    assert_counts_are_right(&receiver).await;
}
