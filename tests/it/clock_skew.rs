//! Retention when a clock is wrong.
//!
//! The tests move PostgreSQL's clock: a function in `public`, which these connections search before `pg_catalog`,
//! replaces `clock_timestamp()`. This needs no test code in the receiver, and the clock can be corrected while the
//! receiver runs.

use std::time::Duration;

use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use workflow_receiver::config::Settings;

use crate::support::fixtures::{execution, with};
use crate::support::postgres::{execute_when_recorded, rows, url};
use crate::support::process::{program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::retention::{age_by_three_days, pruned};
use crate::support::wait::until;

const LIMIT: Option<Duration> = Some(Duration::from_hours(48));
const ROWS: &str = "SELECT (SELECT count(*) FROM executions) AS executions, (SELECT count(payload) FROM executions) AS
    payloads, (SELECT count(*) FROM execution_conflicts) AS conflicts, (SELECT count(*) FROM quarantine) AS quarantine";

/// A database with one row of each kind, received three days ago.
async fn old_database() -> (TempDir, PgConnectOptions) {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("e", "completed")).await;
    receiver.accept(execution("e", "failed")).await;
    assert_eq!(receiver.post("{}").await.status(), 422);
    age_by_three_days(&receiver).await;
    receiver.stop().await
}

/// Moves PostgreSQL's clock for connections with [`SEARCH_PATH`].
async fn move_clock(database: &PgConnectOptions, by: &str) {
    let mut connection = PgConnection::connect_with(database).await.unwrap();
    let statement = format!(
        "CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
         RETURN pg_catalog.clock_timestamp() + interval '{by}'"
    );
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
}

const SEARCH_PATH: (&str, &str) = ("search_path", "public,pg_catalog");

fn removes_all(settings: &mut Settings) {
    let retention = &mut settings.retention;
    (retention.executions, retention.payloads) = (LIMIT, LIMIT);
    (retention.conflicts, retention.quarantine) = (LIMIT, LIMIT);
    settings.recorder.max_backoff = Duration::from_millis(100);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_clocks_differ_nothing_is_removed_and_health_and_metrics_report_the_clock_skew() {
    let (dir, database) = old_database().await;
    // The receiver's clock is now 400 days ahead of PostgreSQL's.
    move_clock(&database, "-400 days").await;
    let receiver = TestReceiver::start_in(dir, database.clone().options([SEARCH_PATH]), removes_all).await;
    until(async || receiver.metric("prune_failing").await == 1.0).await;
    let days = receiver.metric("clock_skew_seconds").await / 86_400.0;
    assert!((days - 400.0).abs() < 0.1, "{days}");
    assert_eq!(receiver.metric("prune_success_timestamp_seconds").await, 0.0);
    let all = json!({ "executions": 1, "payloads": 1, "conflicts": 1, "quarantine": 1 });
    assert_eq!(receiver.row(ROWS).await, all);
    let (code, health) = receiver.ready().await;
    assert_eq!((code, &health["status"]), (200, &json!("degraded")), "{health}");
    assert_eq!(health["parts"]["retention"]["state"], "paused", "{health}");
    assert!(health["problems"][0].as_str().unwrap().contains("ahead of PostgreSQL's"), "{health}");

    // Now PostgreSQL's clock is ahead.
    move_clock(&database, "10 minutes").await;
    until(async || receiver.metric("clock_skew_seconds").await < 0.0).await;
    assert_eq!(receiver.row(ROWS).await, all);

    // The clock is corrected without a restart.
    move_clock(&database, "0").await;
    until(async || receiver.metric("prune_success_timestamp_seconds").await > 0.0).await;
    assert_eq!(receiver.metric("clock_skew_seconds").await, 0.0);
    assert_eq!(receiver.metric("prune_failing").await, 0.0);
    until(async || receiver.ready().await.1["status"] == "ok").await;
    let none = json!({ "executions": 0, "payloads": 0, "conflicts": 0, "quarantine": 0 });
    assert_eq!(receiver.row(ROWS).await, none);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_small_difference_the_earlier_clock_counts() {
    let (dir, database) = old_database().await;
    // By PostgreSQL's clock, which is two minutes behind, one row expires in a minute. Both clocks agree that the
    // others have expired.
    let receiver = TestReceiver::start_in(dir, database.clone(), |_| {}).await;
    execute_when_recorded(
        &receiver,
        "UPDATE executions SET first_received_at = now() - interval '48 hours 1 minute',
                                          last_received_at = now() - interval '48 hours 1 minute'",
    )
    .await;
    let (dir, _) = receiver.stop().await;
    move_clock(&database, "-2 minutes").await;
    let receiver = TestReceiver::start_in(dir, database.options([SEARCH_PATH]), removes_all).await;
    until(async || receiver.metric("prune_success_timestamp_seconds").await > 0.0).await;
    let left = json!({ "executions": 1, "payloads": 1, "conflicts": 0, "quarantine": 0 });
    assert_eq!(receiver.row(ROWS).await, left);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prune_command_refuses_while_the_clocks_differ() {
    let (_dir, database) = old_database().await;
    move_clock(&database, "-400 days").await;
    let dir = TempDir::new().unwrap();
    let prune = |arguments: &[&str]| {
        let mut command = program(dir.path());
        for kind in ["EXECUTIONS", "PAYLOADS", "CONFLICTS", "QUARANTINE"] {
            command.env(format!("RECEIVER__RETENTION__{kind}"), "2d");
        }
        let address = format!("{}&options=-c%20search_path%3Dpublic%2Cpg_catalog", url(&database));
        run_to_end(command.arg("prune").args(arguments).env("DATABASE_URL", address))
    };
    for arguments in [&[][..], &["--dry-run"]] {
        let (text, code) = prune(arguments);
        assert!(code == Some(1) && text.contains("ahead of PostgreSQL's: nothing is removed"), "{text}");
    }
    let all = json!({ "executions": 1, "payloads": 1, "conflicts": 1, "quarantine": 1 });
    assert_eq!(rows(&database, ROWS).await, [all]);
    move_clock(&database, "0").await;
    let (text, code) = prune(&[]);
    assert!(code == Some(0) && text.contains("removed"), "{text}");
    assert_eq!(rows(&database, "SELECT FROM executions").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_from_the_future_and_rows_received_by_a_slow_clock_that_completed_recently_are_kept() {
    let receiver = TestReceiver::start().await;
    let now = receiver
        .row("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS now")
        .await;
    let completed = |id: &str, at: &str| with(execution(id, "completed"), json!({ "completed_at": at }));
    receiver.accept(completed("slow-clock", now["now"].as_str().unwrap())).await;
    receiver.accept(completed("old", "2020-01-02T03:04:05Z")).await;
    // A completion in the future is an error of the sender and does not keep the row.
    receiver.accept(completed("from-a-wrong-sender", "2999-01-02T03:04:05Z")).await;
    receiver.accept(execution("future", "completed")).await;
    // Received and recorded while both clocks stood at 1971.
    let behind = "UPDATE executions SET first_received_at = '1971-01-01Z', last_received_at = '1971-01-01Z',
                  recorded_at = '1971-01-01Z'";
    execute_when_recorded(&receiver, behind).await;
    let future = "UPDATE executions SET first_received_at = now() + interval '400 days',
                  last_received_at = now() + interval '400 days' WHERE execution_id = 'future'";
    execute_when_recorded(&receiver, future).await;
    let (dir, database) = receiver.stop().await;
    let receiver = TestReceiver::start_in(dir, database, removes_all).await;
    until(async || receiver.metric("prune_success_timestamp_seconds").await > 0.0).await;
    let kept =
        receiver.rows("SELECT execution_id, payload IS NOT NULL AS whole FROM executions ORDER BY 1").await;
    let row = |id| json!({ "execution_id": id, "whole": true });
    assert_eq!(kept, [row("future"), row("slow-clock")]);
    let (_, health) = receiver.ready().await;
    let retention = &health["parts"]["retention"];
    assert!(retention["detail"].as_str().unwrap().contains("in the future"), "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_received_by_a_slow_clock_expire_by_the_time_when_postgresql_recorded_them() {
    let receiver = TestReceiver::start().await;
    let deliver = async || {
        receiver.accept(with(execution("e", "completed"), json!({ "bulk_id": "b" }))).await;
        receiver.accept(with(execution("e", "failed"), json!({ "bulk_id": "b" }))).await;
        assert_eq!(receiver.post("{}").await.status(), 422);
        receiver.wait_until_recorded().await;
    };
    let behind = async || {
        for table in ["executions", "bulks", "execution_conflicts", "quarantine"] {
            let at = "first_received_at = '1971-01-01Z', last_received_at = '1971-01-01Z'";
            execute_when_recorded(&receiver, &format!("UPDATE {table} SET {at}")).await;
        }
    };
    let limits = ["EXECUTIONS", "PAYLOADS", "CONFLICTS", "QUARANTINE"].map(|kind| (kind, "2d"));
    let all = json!({ "executions": 1, "payloads": 0, "expected": 0, "quarantine_retries": 0, "bulks": 1, "conflicts": 1, "quarantine": 1 });
    let none = json!({ "executions": 0, "payloads": 0, "expected": 0, "quarantine_retries": 0, "bulks": 0, "conflicts": 0, "quarantine": 0 });

    deliver().await;
    behind().await;
    assert_eq!(pruned(&receiver, &limits), none, "recorded just now");
    assert_eq!(
        pruned(&receiver, &limits[1..2]),
        json!({ "payloads": 0, "quarantine_retries": 0 }),
        "recorded just now"
    );

    // The latest delivery counts, not the first.
    age_by_three_days(&receiver).await;
    deliver().await;
    behind().await;
    assert_eq!(pruned(&receiver, &limits), none, "recorded again just now");

    age_by_three_days(&receiver).await;
    assert_eq!(pruned(&receiver, &limits), all, "recorded three days ago");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_expires_by_the_time_when_postgresql_recorded_it() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("e", "running")).await;
    age_by_three_days(&receiver).await;
    receiver.accept(execution("e", "completed")).await;
    execute_when_recorded(
        &receiver,
        "UPDATE executions SET first_received_at = '1971-01-01Z', last_received_at = '1971-01-01Z'",
    )
    .await;
    let limits = [("EXECUTIONS", "2d"), ("PAYLOADS", "1d")];
    assert_eq!(
        pruned(&receiver, &limits),
        json!({ "executions": 0, "payloads": 0, "expected": 0, "quarantine_retries": 0, "bulks": 0 })
    );
}
