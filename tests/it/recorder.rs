//! Recording over several connections: per-execution order, blocked batches, lost connections.

use std::time::{Duration, Instant};

use rusqlite::Connection as Sqlite;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use workflow_receiver::config::Settings;
use workflow_receiver::db::create_database;

use crate::support::fixtures::{execution, numbered_executions, with};
use crate::support::postgres::{new_database, no_database, rows};
use crate::support::receiver::{TestReceiver, fast_retries};
use crate::support::spool::spool_holding;
use crate::support::wait::{pause, until};

/// Each batch is a single delivery.
fn in_batches_of_one(settings: &mut Settings) {
    settings.recorder.batch_rows = 1;
    settings.recorder.connections = 4;
}

fn with_two_connections(settings: &mut Settings) {
    settings.recorder.connections = 2;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_terminal_status_wins_over_several_connections() {
    let outcomes = ["first", "second", "third"];
    let bodies = (0..40).flat_map(|n| {
        let outcome = move |what| with(execution(&format!("e{n}"), "completed"), json!({ "output": what }));
        outcomes.map(|what| outcome(what).to_string())
    });
    let dir = spool_holding(bodies).await;
    let receiver = TestReceiver::start_in(dir, new_database().await, in_batches_of_one).await;
    let won = receiver.row("SELECT count(*) FROM executions WHERE output = '\"first\"'").await;
    assert_eq!(won["count"], 40);
    assert_eq!(receiver.row("SELECT count(*) FROM execution_conflicts").await["count"], 80);
    assert_eq!(
        receiver.metric("record_retries_total").await,
        0.0,
        "batches did not wait for each other's locks"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_non_terminal_status_is_kept_over_several_connections() {
    let statuses = ["s1", "s2", "s3", "s4", "s5", "s6"];
    let bodies = (0..40).flat_map(|n| statuses.map(|status| execution(&format!("e{n}"), status).to_string()));
    let receiver =
        TestReceiver::start_in(spool_holding(bodies).await, new_database().await, in_batches_of_one).await;
    let last = receiver.row("SELECT count(*) FROM executions WHERE status = 's6'").await;
    assert_eq!(last["count"], 40);
}

/// Blocks the recording of e0 until the returned connection is closed.
async fn block_e0(database: &PgConnectOptions) -> PgConnection {
    TestReceiver::start_on(database.clone(), |_| {}).await.stop().await;
    let mut connection = PgConnection::connect_with(database).await.unwrap();
    let block = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
                     BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
                 CREATE TRIGGER wait BEFORE INSERT ON executions FOR EACH ROW
                     WHEN (NEW.execution_id = 'e0') EXECUTE FUNCTION wait();
                 SELECT pg_advisory_lock(1)";
    sqlx::raw_sql(block).execute(&mut connection).await.unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_batch_delays_no_other_batch_in_flight_and_the_spool_keeps_all_of_them() {
    let database = new_database().await;
    let blocked = block_e0(&database).await;
    let receiver =
        TestReceiver::start_in(spool_holding(numbered_executions(200)).await, database, |settings| {
            in_batches_of_one(settings);
            // Longer than the test, so that the delivery does not become stuck.
            settings.database.statement_timeout = Duration::from_mins(10);
        })
        .await;
    // The blocked batch is the first of 128 in flight.
    let recorded = async || receiver.rows_now("SELECT count(*) FROM executions").await[0]["count"].clone();
    let start = Instant::now();
    until(async || recorded().await == 127).await;
    // Wait as long again: if more batches were admitted, some would be recorded by then.
    let enough = Instant::now() + start.elapsed().max(Duration::from_secs(1));
    while Instant::now() < enough {
        pause().await;
        assert_eq!(receiver.metric("spool_depth").await, 200.0);
        assert_eq!(recorded().await, 127);
    }
    blocked.close().await.unwrap();
    assert_eq!(
        receiver.row("SELECT count(*), sum(deliveries) FROM executions").await,
        json!({ "count": 200, "sum": 200 })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_batch_is_recorded_while_another_is_blocked() {
    let database = new_database().await;
    let blocked = block_e0(&database).await;
    let receiver = TestReceiver::start_on(database, with_two_connections).await;
    for body in numbered_executions(2) {
        receiver.accept(body).await;
        receiver.until_blocked().await;
    }
    let e1 = "SELECT count(*) FROM executions WHERE execution_id = 'e1'";
    until(async || receiver.rows_now(e1).await[0]["count"] == 1).await;
    blocked.close().await.unwrap();
    assert_eq!(receiver.row("SELECT count(*) FROM executions").await["count"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_batch_after_others_is_recorded_before_the_receiver_stops() {
    let receiver = TestReceiver::start_with(with_two_connections).await;
    let held = receiver.hold_recording().await;
    for body in numbered_executions(20) {
        receiver.accept(body).await;
    }
    let (stopped, ()) = tokio::join!(receiver.stop(), held.release());
    assert_eq!(rows(&stopped.1, "SELECT count(*) FROM executions").await[0]["count"], 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn recording_works_with_fewer_connections_than_configured() {
    let database = new_database().await;
    let role = format!("lonely_{}", std::process::id());
    let (dir, _) = TestReceiver::start_on(database.clone(), |_| {}).await.stop().await;
    let one =
        "DROP ROLE IF EXISTS lonely; CREATE ROLE lonely LOGIN CONNECTION LIMIT 1; GRANT USAGE ON SCHEMA public TO lonely; GRANT ALL ON ALL TABLES IN SCHEMA public TO lonely;
               GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO lonely"
            .replace("lonely", &role);
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(one)).execute(&mut connection).await.unwrap();
    let lonely = database.clone().username(&role);
    let receiver = TestReceiver::start_in(dir, lonely, |settings| {
        in_batches_of_one(settings);
        settings.database.migrate = false;
        settings.recorder.max_backoff = Duration::from_millis(100);
    })
    .await;
    let count = async || rows(&database, "SELECT count(*) FROM executions").await[0]["count"].clone();
    for body in numbered_executions(20) {
        receiver.accept(body).await;
    }
    receiver.wait_until_recorded().await;
    assert_eq!(count().await, 20);
    assert_eq!(receiver.metric("record_retries_total").await, 0.0, "workers take turns");
    let end =
        format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'");
    rows(&database, &end).await;
    for body in numbered_executions(40).skip(20) {
        receiver.accept(body).await;
    }
    receiver.wait_until_recorded().await;
    assert_eq!(count().await, 40);
    receiver.stop().await;
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_deleted_from_the_spool_do_not_delay_the_next_delivery() {
    let database = new_database().await;
    let later = database.clone().database("made_later");
    // Left by an earlier run.
    let drop = "DROP DATABASE IF EXISTS made_later WITH (FORCE)";
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    sqlx::raw_sql(drop).execute(&mut connection).await.unwrap();
    let receiver = TestReceiver::start_on(later.clone(), fast_retries).await;
    for body in numbered_executions(3) {
        receiver.accept(body).await;
    }
    Sqlite::open(receiver.spool_file()).unwrap().execute("DELETE FROM deliveries", []).unwrap();
    create_database(&later).await.unwrap();
    until(async || receiver.metric("spool_depth").await == 0.0).await;
    receiver.accept(execution("next", "completed")).await;
    let next = "SELECT count(*) FROM executions WHERE execution_id = 'next'";
    assert_eq!(receiver.row(next).await["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_the_quarantine_holds_over_several_connections() {
    let database = new_database().await;
    let change = |settings: &mut Settings| {
        settings.recorder.connections = 4;
        settings.recorder.batch_rows = 10;
        settings.quarantine.max_rows = 10;
        settings.recorder.max_backoff = Duration::from_millis(100);
    };
    TestReceiver::start_on(database.clone(), change).await.stop().await;
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
                    BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END $$;
                CREATE TRIGGER slow AFTER INSERT ON quarantine FOR EACH STATEMENT EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&mut connection).await.unwrap();
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    for n in 0..60 {
        assert_eq!(receiver.post(json!({ "n": n }).to_string()).await.status(), 422);
    }
    let dir = receiver.stop().await.0;
    let receiver = TestReceiver::start_in(dir, database, change).await;
    assert_eq!(receiver.row("SELECT count(*) FROM quarantine").await["count"], 10);
}

const RECORDING_CONNECTIONS: &str = "FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'workflow-receiver'";

async fn terminate_connections(receiver: &TestReceiver) {
    let terminate = format!("SELECT count(pg_terminate_backend(pid, 60000)) {RECORDING_CONNECTIONS}");
    receiver.row(&terminate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_idle_connections_are_replaced_without_a_failure() {
    let receiver = TestReceiver::start_in(
        spool_holding(numbered_executions(40)).await,
        new_database().await,
        in_batches_of_one,
    )
    .await;
    receiver.wait_until_recorded().await;
    let connected = format!("SELECT count(*) {RECORDING_CONNECTIONS}");
    assert!(receiver.row(&connected).await["count"].as_i64() > Some(1));
    terminate_connections(&receiver).await;
    for n in 100..108 {
        receiver.accept(execution(&n.to_string(), "completed")).await;
        receiver.wait_until_recorded().await;
    }
    assert_eq!(receiver.metric("record_retries_total").await, 0.0);
    assert_eq!(receiver.row("SELECT count(*) FROM executions").await["count"], 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_does_not_wait_for_the_lock_of_another_migration_tool() {
    let receiver =
        TestReceiver::start_with(|settings| settings.database.statement_timeout = Duration::from_secs(2))
            .await;
    receiver.accept(execution("first", "completed")).await;
    receiver.wait_until_recorded().await;
    let mut holder = receiver.connection().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE _sqlx_migrations").execute(&mut holder).await.unwrap();
    terminate_connections(&receiver).await;
    receiver.accept(execution("second", "completed")).await;
    let database = async || receiver.ready().await.1["parts"]["database"].clone();
    until(async || database().await["state"] == "failing").await;
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    receiver.wait_until_recorded().await;
    until(async || database().await["state"] == "ok").await;
}
