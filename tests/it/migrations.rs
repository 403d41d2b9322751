//! The schema when versions differ, and when several receivers start at once.

use std::path::Path;

use futures_util::future::join_all;
use serde_json::json;
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use crate::support::fixtures::execution;
use crate::support::postgres::{new_database, rows};
use crate::support::receiver::TestReceiver;

/// SHA-384 of each file, as in the table `_sqlx_migrations`. `serve` and `migrate` refuse a database in which another
/// version of a file was applied.
const CHECKSUMS: [(&str, &str); 5] = [
    (
        "0001_executions.sql",
        "b7c6b1291d14a3712c144e3a7c22504aaf3a258faa4374147731b041d48eb220caac56891a6092cec9ee7290cf529993",
    ),
    (
        "0002_rollups.sql",
        "e3bd7f894242f6b207c317d2518c76c559608fdee6c478568f6f948e5b21e16aeaadecf3b7b4eb6ba4adcd24efcbaa15",
    ),
    (
        "0003_quarantine.sql",
        "6f41345c0767c2b48e9ce07ba5827c9e58fe1cd1d40dbb1b3d40c87223cbad6426d86408715746df4416475fcad095e8",
    ),
    (
        "0004_changes.sql",
        "04502b3185ed0e7d7b3a5725ce384e02a55466c582bb6184a2b3a3f117bbce15cff55403c9ed3750e02060ad19ed0f5e",
    ),
    (
        "0005_views.sql",
        "30ca9f9490280e8f26dba4baebd9df7570d16e29da56146bc7577b026d1f939e310ad434c65d74f8ad76ad92f74e3987",
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
