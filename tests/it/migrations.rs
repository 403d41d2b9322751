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
const CHECKSUMS: [(&str, &str); 11] = [
    (
        "0001_executions.sql",
        "17b101a7bba8595bc142bc5b39d02aba67ee9576d1841c9f397f2e035493f18cb663bd1bcc62da5eddf28fa7a6a15116",
    ),
    (
        "0002_rollups.sql",
        "41b2122c95af78e6a543c84be4fcafdf0b1e101317136b3ad0a1612f938daf735a2c7bd70f9bf0dae6e047d56df859ef",
    ),
    (
        "0003_quarantine.sql",
        "8efe29d8ed5c434e272416b8e5ee46c597fac03d7738f6c0119a0d28d9cacfbc304e0f74508547470fadb0de4231d80d",
    ),
    (
        "0004_changes.sql",
        "7e00185ed5816e09e2d51701c795136c7439e7adf8de9d246e9677f12ea062325d32859ae7ea7a6752eb27363b0fac4a",
    ),
    (
        "0005_views.sql",
        "21b4f23f0a03df61123ec15ef8e3cdb49dbbdf5df478e18d8f964eecdcd4b793e370bc8603fb3564c0ed11ad881048ce",
    ),
    (
        "0006_predictions.sql",
        "814be831749e9848a502b3ddc680f5d2257a4b5b806fd77083a65afc57128dd41f2e530ad2232c5422198edfb54b7255",
    ),
    (
        "0007_expected.sql",
        "309d901e633816b69a933761c0297555682a89f1ce08c3c013b3fffbfca0abf9493448d2fcfb2f6699f00cdc05d26070",
    ),
    (
        "0008_reconcile.sql",
        "73d2e31b9cc9e6712889543f0f7bee413f64a21b9653b07e8f884b419ac23f33bb62c8d01fd90088c503b77b8db412db",
    ),
    (
        "0009_audit.sql",
        "4119fff1531b05a01729a32ee9ca96ea7d5947a82a7ad8f55ea1694c9a1a008aa0718b54c9abe3f57a841543e760f5b2",
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
