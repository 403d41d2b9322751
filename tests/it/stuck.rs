//! Stuck deliveries, which wait for locks or which PostgreSQL rejects in every form, block no other delivery.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use workflow_receiver::config::Settings;

use crate::support::fixtures::{execution, full_execution, with};
use crate::support::postgres::{end_fault_on, execute, fault_on, nothing_is_blamed, raise};
use crate::support::receiver::{TestReceiver, short_timeouts};
use crate::support::rollups::assert_counts_are_right;
use crate::support::wait::until;

/// Each batch is a single delivery.
fn one_by_one(settings: &mut Settings) {
    short_timeouts(settings);
    settings.recorder.connections = 2;
    settings.recorder.batch_rows = 1;
}

async fn count(receiver: &TestReceiver, from: &str) -> Value {
    receiver.rows_now(&format!("SELECT count(*) FROM {from}")).await[0]["count"].clone()
}

async fn stuck(receiver: &TestReceiver) -> Value {
    receiver.ready().await.1["parts"]["recording"]["stuck"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_waits_for_a_lock_is_recorded_undegraded_once_the_lock_is_free() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    for (n, lock) in [
        "SELECT 1 FROM executions WHERE execution_id = 'e0' FOR UPDATE",
        "SELECT 1 FROM bulks WHERE bulk_id = 'b' FOR UPDATE",
        "SELECT 1 FROM workflow_hours FOR UPDATE",
        "SELECT 1 FROM executions WHERE execution_id = 'e3' FOR UPDATE",
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("e{n}");
        receiver.accept(with(full_execution(&id), json!({ "status": "running" }))).await;
        receiver.wait_until_recorded().await;
        let mut other = receiver.connection().await;
        sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {lock}"))).execute(&mut other).await.unwrap();
        let before = receiver.metric("record_retries_total").await;
        receiver.accept(full_execution(&id)).await;
        receiver
            .accept(with(execution(&format!("free{n}"), "completed"), json!({ "workflow_id": id })))
            .await;
        until(async || {
            let tried = receiver.metric("record_retries_total").await - before;
            tried >= 30.0 || count(&receiver, "quarantine").await != 0
        })
        .await;
        assert_eq!(count(&receiver, "quarantine").await, 0, "{lock}");
        until(async || count(&receiver, "executions WHERE execution_id LIKE 'free%'").await == n + 1).await;
        until(async || stuck(&receiver).await == 1).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        receiver.wait_until_recorded().await;
        let status = format!("executions WHERE execution_id = '{id}' AND status = 'completed'");
        assert_eq!(count(&receiver, &status).await, 1, "{lock}");
    }
    nothing_is_blamed(&receiver, 8).await;
    until(async || stuck(&receiver).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contention_blames_no_delivery() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    for code in ["55P03", "40P01", "40001"] {
        fault_on(&receiver, "executions", &format!("NEW.execution_id = '{code}'"), &raise(code)).await;
        let before = receiver.metric("record_retries_total").await;
        receiver.accept(full_execution(code)).await;
        until(async || {
            let degraded = count(&receiver, "executions WHERE payload_bytes IS NOT NULL").await != 0;
            let tried = receiver.metric("record_retries_total").await - before;
            tried >= 30.0 || degraded || count(&receiver, "quarantine").await != 0
        })
        .await;
        end_fault_on(&receiver, "executions").await;
        receiver.wait_until_recorded().await;
    }
    nothing_is_blamed(&receiver, 3).await;
}

/// Makes PostgreSQL reject every form of deliveries with `bad` in their identifier.
async fn refuse_bad_ones(receiver: &TestReceiver) {
    fault_on(receiver, "executions", "NEW.execution_id LIKE 'bad%'", &raise("23514")).await;
    fault_on(receiver, "quarantine", "convert_from(NEW.body, 'UTF8') LIKE '%bad%'", &raise("23514")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_postgresql_rejects_in_every_form_block_no_other_and_are_reported() {
    let receiver = TestReceiver::start_with(one_by_one).await;
    refuse_bad_ones(&receiver).await;
    for n in 0..25 {
        receiver.accept(full_execution(&format!("bad{n}"))).await;
    }
    for n in 0..20 {
        receiver.accept(full_execution(&format!("good{n}"))).await;
        // A later delivery of a stuck execution waits for the earlier one.
        receiver.accept(with(full_execution(&format!("bad{n}")), json!({ "output": "later" }))).await;
    }
    until(async || count(&receiver, "executions").await == 20).await;
    until(async || stuck(&receiver).await == 45).await;
    until(async || receiver.ready().await.1["status"] == "degraded").await;
    until(async || receiver.ready().await.1["problems"].to_string().contains("45 deliveries")).await;
    let health = receiver.ready().await.1;
    let recording = &health["parts"]["recording"];
    assert_eq!((&recording["state"], &health["parts"]["database"]["state"]), (&json!("stuck"), &json!("ok")));
    assert!(recording["oldest_stuck_age_seconds"].is_u64(), "{health}");
    assert_eq!(receiver.metric("stuck_deliveries").await, 45.0);
    assert!(receiver.metric("stuck_oldest_age_seconds").await > 0.0);

    end_fault_on(&receiver, "executions").await;
    end_fault_on(&receiver, "quarantine").await;
    receiver.wait_until_recorded().await;
    // Deliveries that were already degraded to quarantine stay there: nothing is lost.
    let stored = "SELECT (SELECT count(*) FROM executions) AS executions,
                         (SELECT count(*) FROM quarantine) AS quarantined,
                         (SELECT count(*) FROM execution_conflicts) AS conflicts";
    let stored = receiver.row(stored).await;
    let sum = |row: &Value| row.as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum(&stored), 65, "{stored}");
    assert_counts_are_right(&receiver).await;
    until(async || receiver.metric("stuck_deliveries").await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stuck_deliveries_are_recorded_in_the_order_of_arrival() {
    let receiver = TestReceiver::start_with(one_by_one).await;
    for n in 0..25 {
        receiver.accept(execution(&format!("e{n}"), "running")).await;
    }
    receiver.wait_until_recorded().await;
    let mut other = receiver.connection().await;
    sqlx::raw_sql("BEGIN; SELECT 1 FROM executions FOR UPDATE").execute(&mut other).await.unwrap();
    for status in ["queued", "completed", "failed"] {
        for n in 0..25 {
            receiver.accept(execution(&format!("e{n}"), status)).await;
        }
    }
    receiver.accept(with(execution("free", "completed"), json!({ "workflow_id": "free" }))).await;
    until(async || count(&receiver, "executions WHERE execution_id = 'free'").await == 1).await;
    until(async || stuck(&receiver).await == 75).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    receiver.wait_until_recorded().await;
    assert_eq!(count(&receiver, "executions WHERE status = 'completed'").await, 26);
    assert_eq!(count(&receiver, "execution_conflicts WHERE status = 'failed'").await, 25);
    nothing_is_blamed(&receiver, 26).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_quarantine_blocks_no_later_execution() {
    let receiver = TestReceiver::start_with(one_by_one).await;
    execute(&receiver, "ALTER TABLE quarantine RENAME TO elsewhere").await;
    for n in 0..25 {
        assert_eq!(receiver.post(format!(r#"{{"n":{n}}}"#)).await.status(), 422);
    }
    for n in 0..20 {
        receiver.accept(full_execution(&format!("e{n}"))).await;
    }
    until(async || count(&receiver, "executions").await == 20).await;
    execute(&receiver, "ALTER TABLE elsewhere RENAME TO quarantine").await;
    receiver.wait_until_recorded().await;
    assert_eq!(count(&receiver, "quarantine").await, 25);
}

/// A wait for a lock in a first attempt takes two seconds.
fn long_lock_waits(settings: &mut Settings) {
    short_timeouts(settings);
    settings.database.statement_timeout = Duration::from_secs(8);
}

/// Runs `lock` in an open transaction, posts `first`, and then ten times a body of `waiting` and an execution that waits
/// for no lock. Returns how long these took to be recorded.
async fn time_beside_a_lock(
    receiver: &TestReceiver,
    lock: &str,
    first: Value,
    waiting: impl Fn(&str) -> Value,
) -> Duration {
    let mut holder = receiver.connection().await;
    sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {lock}"))).execute(&mut holder).await.unwrap();
    receiver.accept(first).await;
    until(async || receiver.metric("stuck_deliveries").await >= 1.0).await;
    let begun = Instant::now();
    for n in 0..10 {
        receiver.accept(waiting(&format!("waiting{n}"))).await;
        receiver.accept(execution(&format!("free{n}"), "completed")).await;
        let free = format!("SELECT 1 AS there FROM executions WHERE execution_id = 'free{n}'");
        until(async || !receiver.rows_now(&free).await.is_empty()).await;
    }
    let took = begun.elapsed();
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    receiver.wait_until_recorded().await;
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_predictions_delays_no_execution() {
    let receiver = TestReceiver::start_with(long_lock_waits).await;
    let prediction =
        |id: &str| json!({ "exec_id": id, "flow_id": null, "status": "succeeded", "output": id });
    let lock = "LOCK TABLE predictions IN SHARE MODE";
    let took = time_beside_a_lock(&receiver, lock, prediction("first"), prediction).await;
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(receiver.rows("SELECT 1 AS n FROM predictions").await.len(), 11);
    nothing_is_blamed(&receiver, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_a_bulk_delays_only_the_executions_of_this_bulk() {
    let receiver = TestReceiver::start_with(long_lock_waits).await;
    let in_bulk = |id: &str| with(execution(id, "completed"), json!({ "bulk_id": "locked" }));
    receiver.accept(in_bulk("recorded")).await;
    receiver.wait_until_recorded().await;
    let lock = "SELECT FROM bulks WHERE bulk_id = 'locked' FOR UPDATE";
    let took = time_beside_a_lock(&receiver, lock, in_bulk("first"), in_bulk).await;
    assert!(took < Duration::from_secs(15), "{took:?}");
    nothing_is_blamed(&receiver, 22).await;
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_an_execution_delays_no_other_execution_of_its_bulk() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    let in_bulk = |id: &str, status: &str| with(execution(id, status), json!({ "bulk_id": "b" }));
    receiver.accept(in_bulk("locked", "running")).await;
    receiver.wait_until_recorded().await;
    let mut holder = receiver.connection().await;
    let lock = "BEGIN; SELECT FROM executions WHERE execution_id = 'locked' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    receiver.accept(in_bulk("locked", "completed")).await;
    until(async || stuck(&receiver).await == 1).await;
    for n in 0..10 {
        receiver.accept(in_bulk(&format!("free{n}"), "completed")).await;
    }
    until(async || count(&receiver, "executions WHERE status = 'completed'").await == 10).await;
    assert_eq!(stuck(&receiver).await, 1);
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    receiver.wait_until_recorded().await;
    nothing_is_blamed(&receiver, 11).await;
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stuck_deliveries_are_recorded_together_once_one_succeeds() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                      BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '23514'; END $$;
                  CREATE TRIGGER refuse BEFORE INSERT ON predictions FOR EACH ROW EXECUTE FUNCTION refuse()";
    execute(&receiver, refuse).await;
    for n in 0..200 {
        receiver.accept(json!({ "exec_id": format!("p{n}"), "flow_id": null, "status": "succeeded" })).await;
    }
    until(async || stuck(&receiver).await == 200).await;
    execute(&receiver, "DROP TRIGGER refuse ON predictions").await;
    receiver.wait_until_recorded().await;
    let recorded = "SELECT count(*), count(DISTINCT xmin::text) AS transactions FROM predictions";
    let recorded = receiver.row(recorded).await;
    assert_eq!(recorded["count"], 200);
    assert!(recorded["transactions"].as_i64().unwrap() <= 20, "{recorded}");
}
