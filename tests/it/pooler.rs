//! `PgBouncer` between the receiver and PostgreSQL, shared with other applications.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::support::fixtures::{execution, with};
use crate::support::http::get_json;
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{new_database, rows};
use crate::support::process::{program, run_to_end};
use crate::support::receiver::{TestReceiver, fast_retries};
use crate::support::retention::old_executions_sql;
use crate::support::wait::until;

const EXECUTIONS: usize = 300;

/// Another application that uses the same database and user through `PgBouncer`.
struct OtherApplication {
    stop: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl OtherApplication {
    /// In each transaction, checks that its session has no state that another client left.
    fn start(options: PgConnectOptions) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let options = options.application_name("other");
            let mut connection = PgConnection::connect_with(&options).await.unwrap();
            let mut transactions = 0;
            while !stopped.load(Ordering::Relaxed) {
                let state = "SELECT
                    (SELECT coalesce(string_agg(name || '=' || setting, ', '), '') FROM pg_settings
                     WHERE source = 'session' AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone'))
                        AS settings,
                    (SELECT count(*)::text FROM pg_prepared_statements WHERE NOT from_sql) AS statements,
                    (SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,
                    current_setting('application_name') AS application_name";
                let row = sqlx::raw_sql(state).fetch_one(&mut connection).await.unwrap();
                let state: Vec<String> = (0..4).map(|column| row.get(column)).collect();
                assert_eq!(state, ["", "0", "0", "other"]);
                transactions += 1;
            }
            transactions
        });
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let transactions = self.task.await.unwrap();
        assert!(transactions > 20, "only {transactions} transactions");
    }
}

/// Posts every execution to both receivers, so that half of the deliveries are duplicates.
async fn post_to_both(receivers: &[TestReceiver; 2], executions: std::ops::Range<usize>) {
    for receiver in receivers {
        join_all(executions.clone().map(|n| {
            let body = json!({ "bulk_id": "b", "total_cost": 0.25, "output": ["x"] });
            receiver.accept(with(execution(&format!("e{n}"), "completed"), body))
        }))
        .await;
    }
}

async fn counts(database: &PgConnectOptions) -> Value {
    let counts = "SELECT (SELECT count(*) FROM executions) AS executions,
        (SELECT sum(deliveries) FROM executions) AS deliveries, (SELECT received FROM bulks) AS received,
        (SELECT count(*) FROM execution_conflicts) AS conflicts, (SELECT count(*) FROM quarantine) AS quarantine";
    rows(database, counts).await.remove(0)
}

async fn start_receivers(bouncer: &PgBouncer) -> [TestReceiver; 2] {
    let start = async || TestReceiver::start_on(bouncer.options(), fast_retries).await;
    [start().await, start().await]
}

/// Runs a command of the program through `PgBouncer`. Returns what it prints.
fn command(bouncer: &PgBouncer, arguments: &[&str]) -> String {
    let dir = TempDir::new().unwrap();
    let mut command = program(dir.path());
    command.args(arguments).env("DATABASE_URL", bouncer.url()).env("RECEIVER__RETENTION__PAYLOADS", "1d");
    let (text, code) = run_to_end(&mut command);
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    text
}

async fn records_reads_and_prunes(mode: &str, connections: u32) {
    let database = new_database().await;
    let bouncer = PgBouncer::start(&database, mode, connections).await;
    // Before the schema exists: the receivers migrate.
    let other = OtherApplication::start(bouncer.options());
    let receivers = start_receivers(&bouncer).await;
    post_to_both(&receivers, 0..EXECUTIONS).await;
    receivers[0].accept(with(execution("e0", "failed"), json!({ "bulk_id": "b" }))).await;
    assert_eq!(receivers[1].post(r#"{"note":1}"#).await.status(), 422);
    for receiver in &receivers {
        receiver.wait_until_recorded().await;
    }
    let expected = json!({
        "executions": EXECUTIONS, "deliveries": 2 * EXECUTIONS + 1, "received": EXECUTIONS, "conflicts": 1,
        "quarantine": 1,
    });
    assert_eq!(counts(&database).await, expected);

    let receiver = &receivers[0];
    for path in
        ["executions?limit=7", "executions/e1", "results", "bulks/b", "failures", "conflicts", "quarantine"]
    {
        let path = format!("/api/v1/{path}");
        join_all((0..3).map(|_| get_json(receiver, &path))).await;
    }
    let export = receiver.get("/api/v1/export/executions").await.text().await.unwrap();
    assert_eq!(export.lines().count(), EXECUTIONS);

    assert!(command(&bouncer, &["migrate"]).contains("up to date"));
    assert!(command(&bouncer, &["executions", "e1"]).contains("e1"));
    assert!(command(&bouncer, &["bulks", "set-size", "b", "300", "--force"]).contains("300"));
    command(&bouncer, &["repair", "--all"]);
    let retry = [
        "quarantine",
        "retry",
        "1",
        "--set",
        "execution_id=q",
        "--set",
        "workflow_id=w",
        "--set",
        "status=failed",
    ];
    command(&bouncer, &retry);
    let mut direct = PgConnection::connect_with(&database).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(old_executions_sql(150))).execute(&mut direct).await.unwrap();
    let pruned = command(&bouncer, &["prune", "--json"]);
    assert!(pruned.contains(r#""rows":150"#), "{pruned}");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_receivers_share_three_connections_of_a_transaction_pooler_and_leave_no_state() {
    records_reads_and_prunes("transaction", 3).await;
}

/// In this mode, each connection of a client occupies a connection to PostgreSQL.
#[tokio::test(flavor = "multi_thread")]
async fn two_receivers_work_behind_a_session_pooler_and_leave_no_state() {
    records_reads_and_prunes("session", 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_behind_a_pooler_removes_expired_rows() {
    let database = new_database().await;
    let bouncer = PgBouncer::start(&database, "transaction", 3).await;
    command(&bouncer, &["migrate"]);
    let mut direct = PgConnection::connect_with(&database).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(old_executions_sql(2_500))).execute(&mut direct).await.unwrap();
    let other = OtherApplication::start(bouncer.options());
    let receiver = TestReceiver::start_on(bouncer.options(), |settings| {
        settings.retention.executions = Some(std::time::Duration::from_hours(48));
    })
    .await;
    until(async || receiver.metric("prune_success_timestamp_seconds").await > 0.0).await;
    assert_eq!(rows(&database, "SELECT * FROM executions").await, Vec::<Value>::new());
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_pooler_loses_nothing() {
    for mode in ["transaction", "session"] {
        let database = new_database().await;
        let mut bouncer = PgBouncer::start(&database, mode, if mode == "session" { 15 } else { 3 }).await;
        let receivers = start_receivers(&bouncer).await;
        post_to_both(&receivers, 0..EXECUTIONS / 3).await;
        let ((), ()) =
            tokio::join!(post_to_both(&receivers, EXECUTIONS / 3..EXECUTIONS / 3 * 2), bouncer.restart());
        // The first recording creates the schema.
        receivers[0].wait_until_recorded().await;
        get_json(&receivers[0], "/api/v1/executions").await;
        bouncer.restart().await;
        post_to_both(&receivers, EXECUTIONS / 3 * 2..EXECUTIONS).await;
        for receiver in &receivers {
            receiver.wait_until_recorded().await;
        }
        let counts = counts(&database).await;
        assert_eq!(
            (&counts["executions"], &counts["received"]),
            (&json!(EXECUTIONS), &json!(EXECUTIONS)),
            "{mode}"
        );
        assert_eq!((&counts["conflicts"], &counts["quarantine"]), (&json!(0), &json!(0)), "{mode}");
        let deliveries = counts["deliveries"].as_u64().unwrap();
        assert!(deliveries >= 2 * EXECUTIONS as u64, "{mode}: {deliveries}");
    }
}
