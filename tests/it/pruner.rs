//! Removal of expired rows: concurrent, in the background, interrupted, and its use of indexes.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use workflow_receiver::config::Settings;

use crate::support::fixtures::{A_MONTH, execution, with};
use crate::support::postgres::{execute_when_recorded, scans, url};
use crate::support::process::{Process, program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::retention::{age_by_three_days, old_executions_sql, prune, pruned};
use crate::support::terminal::Terminal;
use crate::support::wait::{until, within};

#[tokio::test(flavor = "multi_thread")]
async fn locked_rows_are_skipped_without_a_wait() {
    let receiver = TestReceiver::start().await;
    execute_when_recorded(&receiver, &old_executions_sql(2_500)).await;
    let mut writer = receiver.connection().await;
    // A prune that waits for the lock would wait a minute and then remove too many rows.
    let lock = "SET idle_in_transaction_session_timeout = '1min'; BEGIN;
        SELECT FROM executions WHERE execution_id IN ('many-7', 'many-2000') FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut writer).await.unwrap();
    assert_eq!(
        pruned(&receiver, &[("PAYLOADS", "1d")]),
        json!({ "payloads": 2_498, "quarantine_retries": 0 })
    );
    assert_eq!(pruned(&receiver, &[("EXECUTIONS", "1d")])["executions"], 2_498);
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    let limits = [("EXECUTIONS", "1d"), ("PAYLOADS", "1d")];
    assert_eq!(
        pruned(&receiver, &limits),
        json!({ "executions": 2, "payloads": 0, "expected": 0, "quarantine_retries": 0, "bulks": 0 })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_prunes_and_deliveries_remove_each_row_once() {
    let receiver = TestReceiver::start().await;
    execute_when_recorded(&receiver, &old_executions_sql(6_000)).await;
    let deliveries = async {
        for n in 0..300 {
            receiver.accept(execution(&format!("many-{}", n * 20), "completed")).await;
        }
    };
    let prunes = async || {
        let database = url(&receiver.database);
        let prune = move || {
            let dir = TempDir::new().unwrap();
            let mut command = program(dir.path());
            command.args(["prune", "--json"]).env("RECEIVER__RETENTION__EXECUTIONS", "1d");
            run_to_end(command.env("DATABASE_URL", database))
        };
        let (text, code) = tokio::task::spawn_blocking(prune).await.unwrap();
        assert_eq!(code, Some(0), "{text}");
        let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        first["rows"].as_i64().unwrap()
    };
    let ((), one, other) = tokio::join!(deliveries, prunes(), prunes());
    let left = pruned(&receiver, &[("EXECUTIONS", "1d")])["executions"].as_i64().unwrap();
    // Executions that were redelivered before their removal stay; the others are recorded again.
    let kept = receiver
        .row("SELECT count(*), count(*) FILTER (WHERE deliveries = 2) AS in_time FROM executions")
        .await;
    assert_eq!(kept["count"], 300);
    assert_eq!(one + other + left, 6_000 - kept["in_time"].as_i64().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_concurrent_with_the_removal_of_its_execution_is_recorded_again() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("e", "completed")).await;
    receiver.wait_until_recorded().await;
    let mut remover = receiver.connection().await;
    sqlx::raw_sql("BEGIN; SELECT FROM executions FOR UPDATE").execute(&mut remover).await.unwrap();
    receiver.accept(execution("e", "failed")).await;
    // Recording waits for the lock of the row.
    receiver.until_blocked().await;
    sqlx::raw_sql("DELETE FROM executions; COMMIT").execute(&mut remover).await.unwrap();
    let row = receiver.row("SELECT status, deliveries FROM executions").await;
    assert_eq!(row, json!({ "status": "failed", "deliveries": 1 }));
}

/// A database with rows of each kind and those of `statements`, all three days old.
async fn old_database(statements: &str) -> (TempDir, PgConnectOptions) {
    let receiver = TestReceiver::start().await;
    receiver.accept(with(execution("e", "completed"), json!({ "bulk_id": "b" }))).await;
    receiver.accept(execution("e", "failed")).await;
    assert_eq!(receiver.post("{}").await.status(), 422);
    execute_when_recorded(&receiver, statements).await;
    age_by_three_days(&receiver).await;
    receiver.stop().await
}

const TWO_DAYS: Option<Duration> = Some(Duration::from_hours(48));

#[tokio::test(flavor = "multi_thread")]
async fn a_running_receiver_removes_expired_rows() {
    let (dir, database) = old_database(&old_executions_sql(2_500)).await;
    let receiver = TestReceiver::start_in(dir, database, |settings| {
        let retention = &mut settings.retention;
        (retention.executions, retention.conflicts, retention.quarantine) = (TWO_DAYS, TWO_DAYS, TWO_DAYS);
    })
    .await;
    until(async || receiver.metric("prune_success_timestamp_seconds").await > 0.0).await;
    for table in ["executions", "bulks", "execution_conflicts", "quarantine"] {
        let left = receiver.rows(&format!("SELECT * FROM {table}")).await;
        assert_eq!(left, Vec::<Value>::new(), "{table}");
    }
    for (kind, rows) in
        [("executions", 2_501.0), ("payloads", 0.0), ("bulks", 1.0), ("conflicts", 1.0), ("quarantine", 1.0)]
    {
        assert_eq!(receiver.metric(&format!("pruned_total{{kind=\"{kind}\"}}")).await, rows, "{kind}");
    }
    receiver.accept(execution("e", "completed")).await;
    assert_eq!(receiver.rows("SELECT * FROM executions").await.len(), 1, "the receiver still records");
}

/// Blocks the removal of conflicts.
async fn hold(database: &PgConnectOptions) -> PgConnection {
    let mut connection = PgConnection::connect_with(database).await.unwrap();
    let lock = "BEGIN; LOCK TABLE execution_conflicts";
    sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
    connection
}

/// Time limits that are longer than the test.
fn long_timeouts(settings: &mut Settings) {
    settings.retention.conflicts = TWO_DAYS;
    settings.recorder.max_backoff = Duration::from_millis(100);
    settings.database.statement_timeout = Duration::from_mins(10);
    settings.shutdown.drain_timeout = Duration::from_mins(10);
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_ends_at_once_when_the_receiver_stops() {
    let (dir, database) = old_database("SELECT").await;
    let held = hold(&database).await;
    let receiver = TestReceiver::start_in(dir, database, long_timeouts).await;
    receiver.until_blocked().await;
    within(receiver.stop()).await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_round_is_reported_and_repeated() {
    let (dir, database) = old_database("SELECT").await;
    let mut held = hold(&database).await;
    let receiver = TestReceiver::start_in(dir, database, long_timeouts).await;
    let pid = receiver.until_blocked().await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut held).await.unwrap();
    until(async || receiver.metric("prune_failing").await == 1.0).await;
    assert_eq!(receiver.metric("prune_success_timestamp_seconds").await, 0.0);
    receiver.accept(execution("meanwhile", "completed")).await;
    assert_eq!(receiver.ready().await.1["status"], "ok", "webhooks are accepted and recorded");
    sqlx::raw_sql("COMMIT").execute(&mut held).await.unwrap();
    until(async || receiver.metric("prune_failing").await == 0.0).await;
    assert_eq!(receiver.metric("pruned_total{kind=\"conflicts\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_receivers_prunes() {
    let (dir, database) = old_database("SELECT").await;
    let mut held = hold(&database).await;
    let receiver = TestReceiver::start_in(dir, database, long_timeouts).await;
    receiver.until_blocked().await;
    let dir = TempDir::new().unwrap();
    let mut other = Process::start(
        program(dir.path())
            .env("DATABASE_URL", url(&receiver.database))
            .env("RECEIVER__RETENTION__CONFLICTS", "2d")
            .env("RECEIVER__LOG__FILTER", "info,workflow_receiver=debug"),
    );
    other.wait_for("another receiver removes");
    sqlx::raw_sql("COMMIT").execute(&mut held).await.unwrap();
    until(async || receiver.metric("prune_success_timestamp_seconds").await > 0.0).await;
    assert_eq!(receiver.metric("pruned_total{kind=\"conflicts\"}").await, 1.0);
    other.terminate();
}

/// The statements that visit and remove rows, each with its index. They come from the checked queries, with values in place
/// of their parameters.
fn statements() -> Vec<(&'static str, String)> {
    let queries = fs::read_dir(".sqlx").unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
    let queries = queries.map(|query| serde_json::from_slice::<Value>(&query).unwrap()["query"].clone());
    let queries: Vec<_> = queries.map(|query| query.as_str().unwrap().to_owned()).collect();
    let mut statements = Vec::new();
    for (table, id_prefix, walk_index, removal_index) in [
        ("executions", "e", "executions_first_received_at", "executions_pkey"),
        ("predictions", "e", "predictions_first_received_at", "predictions_pkey"),
        ("expected_executions", "", "expected_executions_registered_at", "expected_executions_pkey"),
        ("bulks", "b", "bulks_first_received_at", "executions_bulk_id"),
        ("execution_conflicts", "", "execution_conflicts_first_received_at", "execution_conflicts_pkey"),
        ("prediction_conflicts", "", "prediction_conflicts_first_received_at", "prediction_conflicts_pkey"),
        ("quarantine", "", "quarantine_first_received_at", "quarantine_pkey"),
        ("quarantine_retries", "", "quarantine_retries_retried_at", "quarantine_retries_pkey"),
    ] {
        let ids: Vec<String> = (1..=20).map(|n| format!("{id_prefix}{n}")).collect();
        for query in queries.iter().filter(|query| query.contains(&format!("FROM {table} AS t\n"))) {
            let query = query.replace("$1", "timestamptz '2026-02-20'");
            if query.contains("FOR UPDATE SKIP LOCKED") {
                statements.push((removal_index, query.replace("$2", &format!("'{{{}}}'", ids.join(",")))));
            } else {
                let query = query.replace("$2", "timestamptz '2026-02-10'").replace("$3", "'0'");
                let query = query.replace("$4", "100").replace("$5", "timestamptz '2026-02-20'");
                statements.push((walk_index, query));
            }
        }
    }
    assert_eq!(statements.len(), 20, "two for each target except changes: {statements:#?}");
    statements
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_rows_are_found_and_removed_by_an_index() {
    let receiver = TestReceiver::start().await;
    execute_when_recorded(&receiver, A_MONTH).await;
    let bulks = "INSERT INTO bulks (bulk_id, first_received_at, last_received_at)
        SELECT 'other-' || n, at, at
        FROM (SELECT n, timestamptz '2026-03-02 10:00Z' - n * interval '1 minute' FROM generate_series(1, 40000) AS n) AS n (n, at);
        INSERT INTO expected_executions (execution_id, registered_at, due_at)
        SELECT 'e' || n, at, at
        FROM (SELECT n, timestamptz '2026-03-02 10:00Z' - n * interval '1 minute' FROM generate_series(1, 40000) AS n) AS n (n, at);
        INSERT INTO reconcile_checks (execution_id, checked_at, absent)
        SELECT 'e' || n, timestamptz '2026-03-02 10:00Z', true FROM generate_series(1, 40000) AS n;
        INSERT INTO quarantine_retries
            (quarantine_id, retried_at, retried_by, entry, ids, are_predictions, dispositions, deliveries, previous, conflicts, bulks)
        SELECT n, timestamptz '2026-03-02 10:00Z' - n * interval '1 minute', 'olga', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '[]'
        FROM generate_series(1, 40000) AS n;
        ANALYZE bulks, expected_executions, reconcile_checks, quarantine_retries";
    execute_when_recorded(&receiver, bulks).await;
    let mut connection = receiver.connection().await;
    for (index, statement) in statements() {
        let scans = scans(&mut connection, &statement).await;
        let whole = scans.iter().any(|scan| scan.starts_with("Seq Scan"));
        assert!(!whole && scans.iter().any(|scan| scan.ends_with(index)), "{statement}\n{scans:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_shows_its_progress_on_a_terminal() {
    let receiver = TestReceiver::start().await;
    execute_when_recorded(&receiver, &old_executions_sql(150)).await;
    let terminal = Terminal::open();
    let dir = TempDir::new().unwrap();
    let mut command = program(dir.path());
    command.args(["prune", "--dry-run"]).env("RECEIVER__RETENTION__PAYLOADS", "1d");
    command.env("DATABASE_URL", url(&receiver.database)).stderr(terminal.program_end());
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    drop(command);
    let shown = terminal.written();
    assert!(shown.contains("payloads: 150, at 20"), "{shown}");
    let (quiet, _) = prune(&receiver, &[("PAYLOADS", "1d")], &["--dry-run"]);
    assert!(!quiet.contains("payloads:"), "{quiet}");
}
