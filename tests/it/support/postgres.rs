//! One PostgreSQL server for all tests, with a database for each test.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use private_postgres::{Postgres, PrivatePostgresError};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Mutex;

use super::process::run_to_end;
use super::receiver::TestReceiver;
use super::wait::until;

/// The server that the tests share. It stops with the process; the next run uses its directory again.
fn cluster() -> &'static Postgres {
    static CLUSTER: OnceLock<Postgres> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        // Another run may use the directory at the same time; another version of PostgreSQL needs its own.
        let version = std::env::var("PG_BIN").unwrap_or_default().replace('/', "_");
        (0..100)
            .map(|n| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("postgres{version}-{n}")))
            .map(|dir| Postgres::start(&dir).inspect(|_| LOG.set(dir.join("log")).unwrap()))
            .find(|started| !matches!(started, Err(PrivatePostgresError::InUse(_))))
            .expect("a free directory")
            .unwrap()
    })
}

/// The log file of [`cluster`].
static LOG: OnceLock<PathBuf> = OnceLock::new();

/// The log of the shared server so far.
pub(crate) fn server_log() -> String {
    String::from_utf8_lossy(&std::fs::read(LOG.get().unwrap()).unwrap()).into_owned()
}

/// The names of databases that no test uses. Creating a database is slow with fsync on, and each one has 8 MB at least.
static FREE: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

/// The databases of the test that runs in this thread. They are free when the thread has ended.
struct Used(RefCell<Vec<String>>);

impl Drop for Used {
    fn drop(&mut self) {
        FREE.lock().unwrap().append(self.0.get_mut());
    }
}

thread_local! {
    static USED: Used = const { Used(RefCell::new(Vec::new())) };
}

/// An empty database for one test. Databases of ended tests and of earlier runs are emptied and used again.
pub(crate) async fn new_database() -> PgConnectOptions {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let free = FREE.lock().unwrap().pop();
    let name = free.unwrap_or_else(|| format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    USED.with(|used| used.0.borrow_mut().push(name.clone()));
    let database = tokio::task::block_in_place(cluster).connect_options().database(&name);
    workflow_receiver::db::create_database(&database).await.unwrap();
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    // A killed program may have a connection for a moment longer. `app` belongs to an example of docs/applications.md.
    let empty = format!(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid();
         ALTER DATABASE {name} RESET ALL;
         DROP SCHEMA IF EXISTS app, public CASCADE;
         CREATE SCHEMA public"
    );
    sqlx::raw_sql(AssertSqlSafe(empty)).execute(&mut connection).await.unwrap();
    database
}

/// The directory of PostgreSQL's programs.
pub(crate) fn programs() -> PathBuf {
    let line = tokio::task::block_in_place(cluster).psql_line();
    Path::new(line.split(" '").next().unwrap()).parent().unwrap().to_owned()
}

/// The URL of a database of the shared server.
pub(crate) fn url(database: &PgConnectOptions) -> String {
    let name = database.get_database().unwrap();
    tokio::task::block_in_place(cluster).url().replace("/workflow_receiver?", &format!("/{name}?"))
}

/// Runs `docs/roles.sql`. Returns psql's output and exit code.
pub(crate) fn grant(database: &PgConnectOptions, arguments: &[&str]) -> (String, Option<i32>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/roles.sql");
    let mut psql = Command::new(programs().join("psql"));
    run_to_end(psql.arg("-qX").args(arguments).arg("-f").arg(file).arg(url(database)))
}

/// The URL of an address that refuses connections.
pub(crate) const UNREACHABLE: &str = "postgres://receiver@127.0.0.1:1/none";

/// [`UNREACHABLE`], for a receiver in the process of the test.
pub(crate) fn no_database() -> PgConnectOptions {
    UNREACHABLE.parse().unwrap()
}

/// The rows of `query`, each as a JSON object. Opens a connection: to poll, use [`until_rows`] or
/// [`TestReceiver::rows_now`].
pub(crate) async fn rows(database: &PgConnectOptions, query: &str) -> Vec<Value> {
    KeptConnection::new(database.clone()).rows(query).await
}

/// Polls until `query` has `count` rows.
pub(crate) async fn until_rows(database: &PgConnectOptions, query: &str, count: usize) {
    let connection = KeptConnection::new(database.clone());
    until(async || connection.rows(query).await.len() == count).await;
}

/// A connection that is opened at the first query, and again after it was lost.
pub(crate) struct KeptConnection {
    database: PgConnectOptions,
    connection: Mutex<Option<PgConnection>>,
}

impl KeptConnection {
    pub(crate) fn new(database: PgConnectOptions) -> Self {
        Self { database, connection: Mutex::default() }
    }

    /// The rows of `query`, each as a JSON object.
    pub(crate) async fn rows(&self, query: &str) -> Vec<Value> {
        let query = format!("SELECT row_to_json(q)::text FROM ({query}) AS q");
        let mut kept = self.connection.lock().await;
        loop {
            let reused = kept.is_some();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => PgConnection::connect_with(&self.database).await.unwrap(),
            };
            // Not prepared: a test may change the tables between two queries.
            let rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(&*query)).persistent(false);
            match rows.fetch_all(&mut connection).await {
                Ok(rows) => {
                    *kept = Some(connection);
                    return rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
                }
                Err(_) if reused => {}
                Err(error) => panic!("{query}: {error}"),
            }
        }
    }
}

/// Runs statements without waiting for the recorder.
pub(crate) async fn execute(receiver: &TestReceiver, sql: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(&mut receiver.connection().await).await.unwrap();
}

/// Runs statements after all acknowledged deliveries are recorded.
pub(crate) async fn execute_when_recorded(receiver: &TestReceiver, statements: &str) {
    receiver.wait_until_recorded().await;
    let mut connection = receiver.connection().await;
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await.unwrap();
}

/// The number of rows of `table`, after all acknowledged deliveries are recorded.
pub(crate) async fn count_rows(receiver: &TestReceiver, table: &str) -> i64 {
    receiver.row(&format!("SELECT count(*) FROM {table}")).await["count"].as_i64().unwrap()
}

pub(crate) async fn count_executions(receiver: &TestReceiver) -> i64 {
    count_rows(receiver, "executions").await
}

/// Runs `action` for each written row of `table` that fulfils `condition`.
pub(crate) async fn fault_on(receiver: &TestReceiver, table: &str, condition: &str, action: &str) {
    change_fault_on(receiver, table, &format!("IF {condition} THEN {action}; END IF")).await;
    let trigger = format!(
        "CREATE OR REPLACE TRIGGER fault BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW
             EXECUTE FUNCTION fault_on_{table}()"
    );
    execute(receiver, trigger).await;
}

/// Replaces only the trigger's function: replacing the trigger would need a lock on the table.
pub(crate) async fn change_fault_on(receiver: &TestReceiver, table: &str, does: &str) {
    let function = format!(
        "CREATE OR REPLACE FUNCTION fault_on_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN {does}; RETURN NEW; END $$"
    );
    execute(receiver, function).await;
}

pub(crate) async fn end_fault_on(receiver: &TestReceiver, table: &str) {
    change_fault_on(receiver, table, "NULL").await;
}

pub(crate) fn raise(code: &str) -> String {
    format!("RAISE EXCEPTION 'no' USING ERRCODE = '{code}'")
}

/// Checks that all executions are recorded with their payload as jsonb, and that the quarantine is empty.
pub(crate) async fn nothing_is_blamed(receiver: &TestReceiver, executions: usize) {
    let recorded = receiver.rows("SELECT payload, payload_bytes FROM executions").await;
    assert_eq!(recorded.len(), executions);
    assert!(recorded.iter().all(|row| !row["payload"].is_null() && row["payload_bytes"].is_null()));
    assert!(receiver.rows("SELECT * FROM quarantine").await.is_empty());
}

/// The scans in the plan of `query`: kind, table and index.
pub(crate) async fn scans(connection: &mut PgConnection, query: &str) -> Vec<String> {
    let explain = format!("EXPLAIN (FORMAT JSON) {query}");
    let plan: Value = sqlx::query_scalar(AssertSqlSafe(explain)).fetch_one(connection).await.unwrap();
    let mut nodes = vec![&plan[0]["Plan"]];
    let mut scans = Vec::new();
    while let Some(node) = nodes.pop() {
        nodes.extend(node["Plans"].as_array().into_iter().flatten());
        let text = |field: &str| node[field].as_str();
        let (table, index) = (text("Relation Name"), text("Index Name"));
        if table.is_some() || index.is_some() {
            let on = table.map(|table| format!(" on {table}")).unwrap_or_default();
            let by = index.map(|index| format!(" by {index}")).unwrap_or_default();
            scans.push(format!("{}{on}{by}", text("Node Type").unwrap()));
        }
    }
    scans
}
