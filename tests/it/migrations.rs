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
        "916dfc1408c0e29e1ba0daba9c0868d2a47da4b365497256501fcacb3764d34ebe042ec1fa1ed7a9ad5ac78d833cb542",
    ),
    (
        "0002_rollups.sql",
        "b7cbb09ce19ef38594ba38eb6190d5c07c137403d4e27ff41e6b2260741b60ad5ad7706aa394b449dbcf3be383208b44",
    ),
    (
        "0003_quarantine.sql",
        "66c3e20a9468643f27a7a1769a18925bcaec084f50d6f5bb627382d28236de137c7e17c0ed8f05d20e151c96c307812c",
    ),
    (
        "0004_changes.sql",
        "41570ef792be6788ca4cc3da86644b53d99b5dcdb33e413f5d2b27e2010e247081e25ca5cdc938a94e10c5e6b2ed070e",
    ),
    (
        "0005_predictions.sql",
        "fb75c172505fd50da4f041c940de32c45f7250017510b37ad9c777c00f5c43accbab00ff655aa8f883863ee4b8453ba6",
    ),
    (
        "0006_views.sql",
        "4d51d95df75ca35b0840144300b0c0cd50bb503be4b585f554fe3da47a7836e7e041b4423420c6c9ae440bfc5a44aff6",
    ),
    (
        "0007_expected.sql",
        "2c328535bff07901669e359d65cabcf1cc28df974f4af2c902971c42761fb68fcb5142ef8e2e020fce33688fd4bc8c00",
    ),
    (
        "0008_reconcile.sql",
        "925c277514b64d78e0c920cbfe57414042aa46d75a5092fcde21e2e69b31f2eb6437396b5502c6a06b42295032283078",
    ),
    (
        "0009_audit.sql",
        "eae1c2159ca6cf704d4e035415c1aee2d02ed28f40f09da0699496532e30e2e6bb8f702fda929183d97da0781a719e14",
    ),
    (
        "0010_verification.sql",
        "1d0948073c9a61bc60625940b3e81454f0227275fe06b9daa3b667b57ff303cae425a74d23a2c4c52649b5ebdfa3172d",
    ),
    (
        "0011_quarantine_retries.sql",
        "f44fb647f43b3c5f0a618d099204c0baaee08df3e704a78de0205536fb7e66aa437319d1881bf8ea4790ac5a697b2606",
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
