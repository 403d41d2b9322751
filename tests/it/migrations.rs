//! The schema when versions differ, and when several receivers start at once.

use std::path::Path;

use futures_util::future::join_all;
use serde_json::json;
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::support::fixtures::execution;
use crate::support::postgres::{end_fault_on, execute, fault_on, new_database, rows};
use crate::support::receiver::{TestReceiver, fast_retries};
use crate::support::wait::until;

/// SHA-384 of each file, as in the table `_sqlx_migrations`. `serve` and `migrate` refuse a database in which another
/// version of a file was applied.
const CHECKSUMS: [(&str, &str); 12] = [
    (
        "0001_executions.sql",
        "5ac2b49feb4c7e955b8b85166a719564e5ab8ee6af08255b23aaef29517243d0f92bd46c2011a28c6f20f3c0f4b9b734",
    ),
    (
        "0002_rollups.sql",
        "b7cbb09ce19ef38594ba38eb6190d5c07c137403d4e27ff41e6b2260741b60ad5ad7706aa394b449dbcf3be383208b44",
    ),
    (
        "0003_quarantine.sql",
        "0aa31e1fee2b53dceff8874d1461379c92c10919c9d057f37d2e37f1a96bd1778b7ea29d98e52b979ecfc54a38338a14",
    ),
    (
        "0004_changes.sql",
        "7e00185ed5816e09e2d51701c795136c7439e7adf8de9d246e9677f12ea062325d32859ae7ea7a6752eb27363b0fac4a",
    ),
    (
        "0005_predictions.sql",
        "f2ff59da98a65b073dd6881f9af41aa0dee3bcdc4750dcb67e4edbbe743d4823bf23f4470bb23f9284b41518a9ae970f",
    ),
    (
        "0006_views.sql",
        "cd6441e13b77efce2baa7a5bf92c0af7205efca7d1ca7c46bf521bf4e39f9b22676c27cba9872b8f1ae798990015bfa2",
    ),
    (
        "0007_expected.sql",
        "6df170332420e959eda19daabd77a66817d389a79d3dffe927b7c669bea751ebd80c138cfaa367bea2dfe8054683550c",
    ),
    (
        "0008_reconcile.sql",
        "00f23a4291b04ac876df9aa5f4866f7eaa77fc1e439a5f2a3a2fe5113dc5555ea4e646b489b629b8729e82c7f9c29c79",
    ),
    (
        "0009_audit.sql",
        "4119fff1531b05a01729a32ee9ca96ea7d5947a82a7ad8f55ea1694c9a1a008aa0718b54c9abe3f57a841543e760f5b2",
    ),
    (
        "0010_verification.sql",
        "0d0a2bb532535d44b3b3b05c608b090a6bd916f54ec191e78ae802e725060d7407a8c9617ae138fc5730e516d4d43ad3",
    ),
    (
        "0011_quarantine_retries.sql",
        "c3196559b10727a9bce3472fef26f10dcf6a8486e8ab69be26171656b470c332c784cc7c68341474bc074ffc261f66af",
    ),
    (
        "0012_sessions.sql",
        "a419a3821a945db5d252daaaebe7670352e7abbf508d1f2be0d8bde8c10a80fa04757a3b030bceb328641b059bc88172",
    ),
];

async fn files() -> Vec<Migration> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    Migrator::new(directory).await.unwrap().iter().cloned().collect()
}

async fn apply(migrations: Vec<Migration>, database: &PgConnectOptions) {
    let mut connection = PgConnection::connect_with(database).await.unwrap();
    Migrator::with_migrations(migrations).run(&mut connection).await.unwrap();
}

async fn versions(database: &PgConnectOptions) -> Vec<i64> {
    let applied = rows(database, "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version").await;
    applied.iter().map(|row| row["version"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_released_migration_never_changes() {
    let found: Vec<(String, String)> = files()
        .await
        .iter()
        .map(|file| {
            let name = format!("{:04}_{}.sql", file.version, file.description.replace(' ', "_"));
            (name, file.checksum.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")))
        })
        .collect();
    let pinned = CHECKSUMS.map(|(name, checksum)| (name.to_owned(), checksum.to_owned()));
    assert!(
        found == pinned,
        "A released migration never changes, not even a comment: undo the change and add a new file, with its \
         checksum in CHECKSUMS. Only before 0.1.0 is tagged: update CHECKSUMS. The checksums are now {found:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_receivers_migrate_at_once() {
    let database = new_database().await;
    let receivers = join_all((0..4).map(|_| TestReceiver::start_on(database.clone(), |_| {}))).await;
    for (n, receiver) in receivers.iter().enumerate() {
        receiver.accept(execution(&n.to_string(), "completed")).await;
        receiver.wait_until_recorded().await;
    }
    assert_eq!(rows(&database, "SELECT count(*) FROM executions").await, [json!({ "count": 4 })]);
    assert_eq!(versions(&database).await.len(), CHECKSUMS.len());
    // sqlx's own tool can read the table.
    apply(files().await, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_receiver_migrates_an_older_database_and_keeps_its_rows() {
    let files = files().await;
    for applied in 1..files.len() {
        let database = new_database().await;
        apply(files[..applied].to_vec(), &database).await;
        let mut connection = PgConnection::connect_with(&database).await.unwrap();
        sqlx::raw_sql(
            "INSERT INTO executions (execution_id, workflow_id, status, payload, deliveries, first_received_at,
                 last_received_at)
             VALUES ('old', 'w', 'running', '{}', 1, now(), now())",
        )
        .execute(&mut connection)
        .await
        .unwrap();
        let receiver = TestReceiver::start_on(database.clone(), |_| {}).await;
        receiver.accept(execution("new", "completed")).await;
        receiver.wait_until_recorded().await;
        let recorded = receiver.rows("SELECT execution_id FROM latest_executions ORDER BY 1").await;
        assert_eq!(recorded, [json!({ "execution_id": "new" }), json!({ "execution_id": "old" })]);
        assert_eq!(versions(&database).await.len(), files.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_receiver_records_into_a_newer_database_and_leaves_its_schema_alone() {
    const NEWER: &str = "ALTER TABLE executions ADD COLUMN added text DEFAULT 'x'";
    let database = new_database().await;
    let newer = Migration::new(9999, "newer".into(), MigrationType::Simple, NEWER.into_sql_str(), false);
    let migrations = [files().await, vec![newer]].concat();
    apply(migrations, &database).await;
    let receiver = TestReceiver::start_on(database.clone(), |_| {}).await;
    receiver.accept(execution("e", "completed")).await;
    receiver.wait_until_recorded().await;
    assert_eq!(receiver.rows("SELECT added FROM executions").await, [json!({ "added": "x" })]);
    assert_eq!(versions(&database).await.last(), Some(&9999));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_created_again_is_migrated_without_a_restart() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("lost", "completed")).await;
    receiver.wait_until_recorded().await;
    // The receiver's connections stay open.
    execute(&receiver, "DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    receiver.accept(execution("e1", "completed")).await;
    assert_eq!(receiver.rows("SELECT execution_id FROM executions").await, [json!({ "execution_id": "e1" })]);

    let name = receiver.database.get_database().unwrap();
    let mut admin =
        PgConnection::connect_with(&receiver.database.clone().database("postgres")).await.unwrap();
    for statement in [format!("DROP DATABASE {name} WITH (FORCE)"), format!("CREATE DATABASE {name}")] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
    }
    receiver.accept(execution("e2", "completed")).await;
    assert_eq!(receiver.rows("SELECT execution_id FROM executions").await, [json!({ "execution_id": "e2" })]);
    assert_eq!(versions(&receiver.database).await.len(), CHECKSUMS.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_missing_schema_is_reported_as_one() {
    let (database, dir) = (new_database().await, TempDir::new().unwrap());
    let receiver = TestReceiver::start_in(dir, database, |settings| {
        settings.database.migrate = false;
        fast_retries(settings);
    })
    .await;
    receiver.accept(execution("e", "completed")).await;
    let reason = async || receiver.ready().await.1["parts"]["database"]["detail"].to_string();
    until(async || reason().await.contains("workflow-receiver migrate")).await;
    apply(files().await, &receiver.database).await;
    receiver.wait_until_recorded().await;

    fault_on(&receiver, "executions", "true", "PERFORM 1 FROM missing_audit_table").await;
    receiver.accept(execution("f", "completed")).await;
    until(async || reason().await.contains("missing_audit_table")).await;
    assert!(!reason().await.contains("workflow-receiver migrate"), "{}", reason().await);
    end_fault_on(&receiver, "executions").await;
    receiver.wait_until_recorded().await;
}
