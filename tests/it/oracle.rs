//! The oracle finds every difference.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::load::{LOAD_SETTINGS, Load};
use crate::support::oracle::compare;
use crate::support::postgres::{new_database, url};
use crate::support::process::{Process, program};

/// Changes each column in turn. The oracle must report each change.
#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_notices_a_change_of_every_column_and_a_lost_row() {
    let (dir, database) = (tempfile::TempDir::new().unwrap(), new_database().await);
    let mut command = program(dir.path());
    let process = Process::start(command.envs(LOAD_SETTINGS).env("DATABASE_URL", url(&database)));
    let mut load = Load::start(4);
    load.point_to(&process.url);
    load.until_acknowledged(300).await;
    let sent = load.stop().await;
    process.terminate();
    let verdict = compare(&database, &sent, 0).await;
    verdict.assert_good();
    assert_eq!(verdict.counted_again, 0);

    let change = async |statement: &str| {
        let mut connection = PgConnection::connect_with(&database).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap().rows_affected()
    };
    change(
        "CREATE TABLE kept_executions AS SELECT * FROM executions; CREATE TABLE kept_conflicts AS
            SELECT * FROM execution_conflicts; CREATE TABLE kept_quarantine AS SELECT * FROM quarantine",
    )
    .await;
    let minute = "last_received_at = last_received_at + interval '1 minute'";
    let early = "recorded_at = first_received_at - interval '1 minute'";
    let late = "recorded_at = recorded_at + interval '1 hour'";
    for (table, what) in [
        ("executions", "workflow_id = 'other'"),
        ("executions", "bulk_id = 'other'"),
        ("executions", "status = 'other'"),
        ("executions", "started_at = now()"),
        ("executions", "completed_at = now()"),
        ("executions", "output = '1'"),
        ("executions", "error = 'other'"),
        ("executions", "error_cause = coalesce(error_cause, '') || ' '"),
        ("executions", "total_cost = 17"),
        ("executions", "payload = '{}'"),
        ("executions", "payload_bytes = 'x'"),
        ("executions", "step_failed = NOT step_failed"),
        ("executions", "authenticated_by = 'none'"),
        ("executions", "deliveries = deliveries + 1"),
        ("executions", "first_received_at = first_received_at - interval '1 minute'"),
        ("executions", minute),
        ("executions", early),
        ("executions", late),
        ("executions", "payload_removed_at = now()"),
        ("executions", "output_sha256 = 'x'"),
        ("executions", "payload_sha256 = 'x'"),
        ("executions", "conflicts = 99"),
        ("executions", "conflict_bytes = 99"),
        ("executions", "conflicts_dropped = 1"),
        ("executions", "redeliveries = redeliveries + 1"),
        ("executions", "reference = '{}'"),
        ("executions", "fetched_from = 'list'"),
        ("execution_conflicts", "workflow_id = 'other'"),
        ("execution_conflicts", "bulk_id = 'other'"),
        ("execution_conflicts", "status = 'other'"),
        ("execution_conflicts", "output = '1'"),
        ("execution_conflicts", "error = 'other'"),
        ("execution_conflicts", "error_cause = 'other'"),
        ("execution_conflicts", "payload = '{}'"),
        ("execution_conflicts", "body_sha256 = 'x'"),
        ("execution_conflicts", "authenticated_by = 'none'"),
        ("execution_conflicts", "deliveries = deliveries + 1"),
        ("execution_conflicts", minute),
        ("execution_conflicts", early),
        ("execution_conflicts", late),
        ("quarantine", "reason = 'other'"),
        ("quarantine", "body = 'x'"),
        ("quarantine", "acknowledged = true"),
        ("quarantine", "intact = false"),
        ("quarantine", "redeliveries = 1"),
        ("quarantine", "reference = '{}'"),
        ("quarantine", "authenticated_by = 'none'"),
        ("quarantine", "deliveries = deliveries + 1"),
        ("quarantine", minute),
        ("quarantine", early),
        ("quarantine", late),
    ] {
        let (key, kept) = match table {
            "executions" => ("execution_id", "kept_executions"),
            "execution_conflicts" => ("conflict_id", "kept_conflicts"),
            _ => ("quarantine_id", "kept_quarantine"),
        };
        let one = format!("{key} = (SELECT max({key}) FROM {table})");
        assert_eq!(change(&format!("UPDATE {table} SET {what} WHERE {one}")).await, 1, "{table}");
        let verdict = compare(&database, &sent, 0).await;
        let wrong = verdict.lost.len() + verdict.different.len() + verdict.unexplained.len();
        assert!((1..=2).contains(&wrong), "{table}: {what}: {verdict:?}");
        change(&format!(
            "DELETE FROM {table} WHERE {one}; INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {kept} WHERE {key} =
             (SELECT max({key}) FROM {kept})"
        ))
        .await;
    }
    compare(&database, &sent, 0).await.assert_good();
    change("DELETE FROM execution_conflicts WHERE conflict_id = (SELECT min(conflict_id) FROM execution_conflicts)").await;
    assert_eq!(compare(&database, &sent, 0).await.lost.len(), 1);
}
