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
        "b02e8e14497e62f8b295ea67f7d5304cb81dd61ecc63934ef29afcc02ab02accd689e7cf07bda3240d9bba2da777afe9",
    ),
    (
        "0002_rollups.sql",
        "9ee7c1047b271626bbe5f5b439e1258a58629e1571693305d33a405141a41b6cfd1acc0360f906a99e3afb5625d3163f",
    ),
    (
        "0003_quarantine.sql",
        "efa2539fefddb694efa266f776d3419fbef3ff1d630f4f379d3f914020c43c99da36841d109fb29b88bdba146de5a4fc",
    ),
    (
        "0004_changes.sql",
        "ac4e307b8752bb92557e0ebd95f34b4b95f58f4eb7641111c7e7b0dd224f73df8e396b8e571735c9180c05c3be69db36",
    ),
    (
        "0005_predictions.sql",
        "80adbe163bcaed7b0cb0109e07412f0dc25e8e7c834a2959b358a429b68dc807cb3eeebb94a2c5b654210de635da0451",
    ),
    (
        "0006_views.sql",
        "39ac221e1a48a7c29ee9c2113a74fb3b3d8db6b727cce3c0994e632b7ba4510e501bbfa19303b1842808154bfe0e8729",
    ),
    (
        "0007_expected.sql",
        "7dfbc7e0a3572fb66b973c2fb333469fdfd817e450c39fae9e9f3cdbc30acca9dbebe8c7849068057536d93db2f713a2",
    ),
    (
        "0008_reconcile.sql",
        "d871f4faf60f02941dc415f7c3dbd1f051817d87644fe8ea717e070acb8fe8c174ab0828f9478b2d422d0c89d9100e35",
    ),
    (
        "0009_audit.sql",
        "2169a63163e9c32d8fb082e834c1acd72a48f82e4ee74ca8de457a9e3348bd02d19192797c6ee2941fbf1e8d32dcb842",
    ),
    (
        "0010_verification.sql",
        "d7c5d5700a9d1f8ed9f15ae1f8ae7ce9ac5031efa5ec824bd9502030322f931d328709f155a881d964d8c23d9e153041",
    ),
    (
        "0011_quarantine_retries.sql",
        "0491efd74d3f977355c80c44b4acbf5f6959ba986259511445b08259ab59c894f4dc362ee84cce11f0d22a52bf278dd9",
    ),
    (
        "0012_sessions.sql",
        "2a1c66f365a35de30317021b00047c7717cfd5ea172ec75c7f86dcb47a10cc84ff7883455352501c813ab6de4cb04fce",
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
