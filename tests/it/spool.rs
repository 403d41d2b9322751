//! Acknowledged webhooks while PostgreSQL is unreachable, slow or refuses rows, and while the disk is full.

use std::fs;
use std::process::Command;

use reqwest::Client;
use rusqlite::Connection as Sqlite;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::Connection;
use tempfile::TempDir;
use workflow_receiver::config::Settings;

use crate::support::fixtures::{execution, numbered_executions, with};
use crate::support::postgres::{
    UNREACHABLE, count_executions, fault_on, new_database, no_database, until_rows, url,
};
use crate::support::process::{Process, program};
use crate::support::receiver::{TestReceiver, fast_retries};
use crate::support::spool::{spool_file, spool_holding};
use crate::support::wait::until;

fn small(settings: &mut Settings) {
    settings.spool.max_bytes = 1 << 20;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgresql_webhooks_are_accepted_and_recorded_after_it_is_back() {
    let dir = spool_holding(numbered_executions(20)).await;
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(count_executions(&receiver).await, 20);
    let (dir, _) = receiver.stop().await;
    let file = Sqlite::open(spool_file(dir.path())).unwrap();
    let left: i64 = file.query_row("SELECT count(*) FROM deliveries", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0, "recorded deliveries are deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgresql_the_receiver_is_ready_and_reports_the_problem() {
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    receiver.accept(execution("e", "completed")).await;
    until(async || receiver.ready().await.1["problems"].to_string().contains("not recording since")).await;
    let (code, health) = receiver.ready().await;
    assert_eq!(code, 200);
    assert_eq!((&health["status"], &health["spooled"]), (&json!("degraded"), &json!(1)));
    assert_eq!(receiver.metric("spool_depth").await, 1.0);
    assert_eq!(receiver.metric("database_up").await, 0.0);
    assert!(receiver.metric("spool_oldest_age_seconds").await > 0.0);
    assert_eq!(receiver.get("/health/live").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_that_postgresql_refuses_is_quarantined_and_all_others_are_recorded() {
    let database = new_database().await;
    // A constraint that the receiver does not know.
    TestReceiver::start_on(database.clone(), |_| {}).await.stop().await;
    let mut connection = sqlx::PgConnection::connect_with(&database).await.unwrap();
    let refuse = "ALTER TABLE executions ADD CONSTRAINT not_this CHECK (execution_id <> 'e1234')";
    sqlx::raw_sql(refuse).execute(&mut connection).await.unwrap();

    let receiver =
        TestReceiver::start_in(spool_holding(numbered_executions(2000)).await, database, fast_retries).await;
    assert_eq!(count_executions(&receiver).await, 1999);
    let row = receiver.row("SELECT reason, convert_from(body, 'UTF8')::json AS body FROM quarantine").await;
    assert_eq!(row["body"], execution("e1234", "completed"));
    assert!(row["reason"].as_str().unwrap().contains("not_this"), "{row}");
    assert_eq!(
        receiver.metric("record_retries_total").await,
        0.0,
        "the search for a refused row counts as no retry"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_always_breaks_its_connection_does_not_block_others() {
    let receiver = TestReceiver::start().await;
    let die = "PERFORM pg_terminate_backend(pg_backend_pid())";
    fault_on(&receiver, "executions", "NEW.execution_id = 'e5'", die).await;
    let (_, database) = receiver.stop().await;
    let receiver =
        TestReceiver::start_in(spool_holding(numbered_executions(20)).await, database, fast_retries).await;
    assert_eq!(count_executions(&receiver).await, 19);
    let row = receiver.row("SELECT reason, convert_from(body, 'UTF8')::json AS body FROM quarantine").await;
    assert_eq!(row["body"], execution("e5", "completed"));
    assert!(row["reason"].as_str().unwrap().contains("failed while recording"), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_table_is_missing_deliveries_wait_and_none_is_lost() {
    let receiver = TestReceiver::start_with(fast_retries).await;
    let mut connection = receiver.connection().await;
    sqlx::raw_sql("ALTER TABLE executions RENAME TO elsewhere").execute(&mut connection).await.unwrap();
    receiver.accept(execution("e", "completed")).await;
    until(async || receiver.ready().await.1["problems"].to_string().contains("If the schema is missing"))
        .await;
    sqlx::raw_sql("ALTER TABLE elsewhere RENAME TO executions").execute(&mut connection).await.unwrap();
    assert_eq!(count_executions(&receiver).await, 1);
    assert_eq!(receiver.ready().await.1["status"], "ok");
    assert!(receiver.rows("SELECT * FROM quarantine").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_hangs_times_out_and_is_retried() {
    let receiver = TestReceiver::start_with(|s| {
        fast_retries(s);
        s.database.statement_timeout = std::time::Duration::from_millis(100);
    })
    .await;
    let held = receiver.hold_recording().await;
    until(async || receiver.metric("record_retries_total").await >= 2.0).await;
    held.release().await;
    assert_eq!(count_executions(&receiver).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_connections_lose_no_delivery() {
    let receiver = TestReceiver::start_with(fast_retries).await;
    let mut connection = receiver.connection().await;
    for n in 0..200 {
        receiver.accept(with(execution(&format!("e{n}"), "completed"), json!({ "bulk_id": "b" }))).await;
        if n % 20 == 0 {
            let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name = 'workflow-receiver'";
            sqlx::query(cut).execute(&mut connection).await.unwrap();
        }
    }
    assert_eq!(count_executions(&receiver).await, 200);
    assert_eq!(receiver.row("SELECT received FROM bulks").await["received"], 200);
}

/// SQLite's log and the database reach the limit, so nothing could be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn at_a_limit_of_file_sizes_webhooks_are_answered_503_until_deliveries_are_recorded() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let url_file = dir.path().join("url");
    fs::write(&url_file, UNREACHABLE).unwrap();
    let mut limited = Command::new("prlimit");
    limited.arg("--fsize=67108864").arg(env!("CARGO_BIN_EXE_workflow-receiver"));
    let command = program(dir.path());
    limited.current_dir(dir.path());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.env("RECEIVER__DATABASE__URL_FILE", &url_file).env("RECEIVER__RECORDER__MAX_BACKOFF", "100ms");
    let mut process = Process::start(&mut limited);
    let url_of_webhooks = process.url.clone();
    let post = async |n: usize| {
        let body = with(execution(&format!("e{n}"), "completed"), json!({ "fill": "x".repeat(1 << 20) }));
        Client::new().post(&url_of_webhooks).body(body.to_string()).send().await.unwrap().status()
    };
    let mut accepted = 0;
    while post(accepted).await == 200 {
        accepted += 1;
    }
    assert!(accepted >= 20, "{accepted} webhooks of 1 MiB");
    fs::write(&url_file, url(&database)).unwrap();
    process.signal(Signal::HUP);
    process.wait_for("recording to PostgreSQL");
    until_rows(&database, "SELECT FROM executions", accepted).await;
    until(async || process.counter("spool_depth").await == 0).await;
    until(async || post(accepted).await == 200).await;
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_answers_503_and_accepts_deliveries_again_after_it_has_space() {
    let database = new_database().await;
    let receiver = TestReceiver::start_on(no_database(), |s| {
        fast_retries(s);
        small(s);
    })
    .await;
    let large = |n: usize| {
        with(execution(&format!("e{n}"), "completed"), json!({ "fill": "x".repeat(100_000) })).to_string()
    };
    let mut kept = 0;
    let refused = loop {
        let answer = receiver.post(large(kept)).await;
        if answer.status() != 200 {
            break answer;
        }
        kept += 1;
    };
    assert!((8..=10).contains(&kept), "{kept} bodies of 100 kB in 1 MiB");
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.json::<Value>().await.unwrap()["type"], "urn:workflow-receiver:problem:spool-full");
    let (code, health) = receiver.ready().await;
    assert_eq!((code, &health["status"]), (503, &json!("unavailable")));
    let file = fs::metadata(receiver.spool_file()).unwrap().len();
    assert!(file <= 1 << 20, "{file} bytes");

    let (dir, _) = receiver.stop().await;
    let receiver = TestReceiver::start_in(dir, database, small).await;
    assert_eq!(count_executions(&receiver).await, kept as i64);
    receiver.accept(large(kept)).await;
    assert_eq!(receiver.ready().await.0, 200);
    assert_eq!(count_executions(&receiver).await, kept as i64 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_was_full_is_ready_again_without_a_webhook() {
    let receiver = TestReceiver::start_with(small).await;
    let held = receiver.hold_recording().await;
    let large = with(execution("e", "completed"), json!({ "fill": "x".repeat(100_000) })).to_string();
    while receiver.post(large.clone()).await.status() == 200 {}
    assert_eq!(receiver.ready().await.0, 503);
    held.release().await;
    receiver.wait_until_recorded().await;
    until(async || receiver.ready().await.0 == 200).await;
    receiver.accept(&large).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_shrinks_after_a_long_backlog() {
    let fill = "x".repeat(4 << 20);
    let dir = spool_holding(
        (0..20).map(|n| with(execution(&n.to_string(), "completed"), json!({ "fill": fill })).to_string()),
    )
    .await;
    let size = |dir: &TempDir| fs::metadata(spool_file(dir.path())).unwrap().len();
    assert!(size(&dir) > 80 << 20, "{} bytes", size(&dir));
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(count_executions(&receiver).await, 20);
    let (dir, _) = receiver.stop().await;
    assert!(size(&dir) < 1 << 20, "{} bytes", size(&dir));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_role_quarantines_no_delivery() {
    let database = new_database().await;
    let role = format!("role_of_{}", database.get_database().unwrap());
    let mut admin = sqlx::PgConnection::connect_with(&database).await.unwrap();
    let run = |statement: String| sqlx::raw_sql(sqlx::AssertSqlSafe(statement));
    run(format!("DROP ROLE IF EXISTS {role}")).execute(&mut admin).await.unwrap();
    let receiver = TestReceiver::start_on(database.clone().options([("role", &role)]), fast_retries).await;
    receiver.accept(execution("e", "completed")).await;
    until(async || receiver.ready().await.1["problems"].to_string().contains("does not exist")).await;
    run(format!("CREATE ROLE {role} SUPERUSER")).execute(&mut admin).await.unwrap();
    assert_eq!(count_executions(&receiver).await, 1);
    assert!(receiver.rows("SELECT * FROM quarantine").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn recording_sets_synchronous_commit_on_even_if_the_database_has_it_off() {
    let database = new_database().await;
    TestReceiver::start_on(database.clone(), |_| {}).await.stop().await;
    let mut admin = sqlx::PgConnection::connect_with(&database).await.unwrap();
    let name = database.get_database().unwrap();
    let setup = format!(
        "ALTER DATABASE {name} SET synchronous_commit = off;
         CREATE TABLE seen (setting text);
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
         CREATE TRIGGER see AFTER INSERT ON executions EXECUTE FUNCTION see()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(setup)).execute(&mut admin).await.unwrap();
    let receiver = TestReceiver::start_on(database.clone(), |_| {}).await;
    receiver.accept(execution("e", "completed")).await;
    assert_eq!(receiver.row("SELECT DISTINCT setting FROM seen").await["setting"], "on");
    let reset = format!("ALTER DATABASE {name} RESET synchronous_commit");
    sqlx::raw_sql(sqlx::AssertSqlSafe(reset)).execute(&mut admin).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_alternately_accepts_and_rejects_deliveries_logs_the_rejection_once() {
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(
        program(dir.path())
            .env("RECEIVER__SPOOL__MAX_BYTES", (2560 << 10).to_string())
            .env("RECEIVER__HTTP__MAX_BODY_BYTES", (256 << 10).to_string())
            .env("RECEIVER__SHUTDOWN__DRAIN_TIMEOUT", "0s")
            .env("DATABASE_URL", UNREACHABLE),
    );
    let client = Client::new();
    let post = async |size: usize| {
        let body = with(execution("e", "completed"), json!({ "output": "x".repeat(size) })).to_string();
        client.post(&process.url).body(body).send().await.unwrap().status()
    };
    // Sixteen of them fit. About 100 KiB are left.
    until(async || post(150 << 10).await == 503).await;
    for _ in 0..20 {
        assert_eq!(post(10).await, 200);
        assert_eq!(post(150 << 10).await, 503);
    }
    assert_eq!(post(10).await, 200);
    process.wait_for("the spool accepts deliveries again");
    let log = process.terminate();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    let counts = (count("the spool is full: deliveries are answered 503"), count("accepts deliveries again"));
    assert_eq!(counts, (1, 1), "{log:#?}");
}
