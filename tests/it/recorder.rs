//! Recording over several connections at once: the order within an execution, and what is stuck.

use serde_json::json;
use sqlx::{Connection, PgConnection};
use workflow_receiver::config::Settings;

use crate::harness::{TestReceiver, execution, new_database, rows, until, with};
use crate::spool::{ids, spooled};

/// Each batch is a single delivery.
fn in_batches_of_one(settings: &mut Settings) {
    settings.recorder.batch_rows = 1;
    settings.recorder.connections = 4;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_outcome_wins_over_however_many_connections_they_come() {
    let outcomes = ["first", "second", "third"];
    let bodies = (0..40).flat_map(|n| {
        let outcome = move |what| with(execution(&format!("e{n}"), "completed"), json!({ "output": what }));
        outcomes.map(|what| outcome(what).to_string())
    });
    let dir = spooled(bodies).await;
    let receiver = TestReceiver::start_in(dir, new_database().await, in_batches_of_one).await;
    let won = receiver.row("SELECT count(*) FROM executions WHERE output = '\"first\"'").await;
    assert_eq!(won["count"], 40);
    assert_eq!(receiver.row("SELECT count(*) FROM execution_conflicts").await["count"], 80);
    assert_eq!(receiver.metric("record_retries_total").await, 0.0, "they never met");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_stuck_holds_up_no_other_and_the_spool_keeps_all_from_there_on() {
    let database = new_database().await;
    TestReceiver::start_on(database.clone(), |_| {}).await.stop().await;
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    // e1 is recorded once this connection is closed.
    let stuck = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
                     BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
                 CREATE TRIGGER wait BEFORE INSERT ON executions FOR EACH ROW
                     WHEN (NEW.execution_id = 'e1') EXECUTE FUNCTION wait();
                 SELECT pg_advisory_lock(1)";
    sqlx::raw_sql(stuck).execute(&mut connection).await.unwrap();
    let receiver = TestReceiver::start_in(spooled(ids(100)).await, database, in_batches_of_one).await;
    // Of twice as many as there are connections, the stuck one is the first.
    let others = "SELECT count(*) FROM executions WHERE execution_id <> 'e0'";
    until(async || rows(&receiver.database, others).await[0]["count"] == 7).await;
    until(async || receiver.metric("spool_depth").await == 99.0).await;
    connection.close().await.unwrap();
    assert_eq!(
        receiver.row("SELECT count(*), sum(deliveries) FROM executions").await,
        json!({ "count": 100, "sum": 100 })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_the_database_one_connection_finds_out_for_all() {
    let receiver =
        TestReceiver::start_in(spooled(ids(40)).await, new_database().await, in_batches_of_one).await;
    receiver.recorded().await;
    let sessions = "FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'workflow-receiver'";
    let connected = format!("SELECT count(*) {sessions}");
    assert_eq!(receiver.row(&connected).await["count"], 4);
    receiver.row(&format!("SELECT count(pg_terminate_backend(pid)) {sessions}")).await;
    until(async || receiver.rows(&connected).await[0]["count"] == 0).await;
    for n in 100..108 {
        receiver.accept(execution(&n.to_string(), "completed")).await;
        receiver.recorded().await;
    }
    assert!(receiver.metric("record_retries_total").await <= 1.0);
    assert_eq!(receiver.row("SELECT count(*) FROM executions").await["count"], 48);
}
