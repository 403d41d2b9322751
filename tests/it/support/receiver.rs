//! A receiver in the process of the test, with a database and a directory of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use reqwest::{Client, Response};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use workflow_receiver::config::Settings;
use workflow_receiver::server::{Progress, RunError, Server, StartError};
use workflow_receiver::shutdown::Shutdown;

use super::fixtures::execution;
use super::http::{metric_of, rest};
use super::postgres::{KeptConnection, new_database, no_database};
use super::spool::spool_file;
use super::wait::{PATIENCE, pause, until, within};

/// The default settings, with free ports and a spool in `dir`.
pub(crate) fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::defaults();
    settings.http.listen = "127.0.0.1:0".parse().unwrap();
    settings.admin.listen = "127.0.0.1:0".parse().unwrap();
    settings.spool.dir = dir.join("spool");
    settings.spool.lock_timeout = PATIENCE;
    // With one connection, deliveries that arrive while recording is blocked form one batch. `recorder.rs`, and tests
    // that run the program, use more connections.
    settings.recorder.connections = 1;
    settings
}

/// Short pauses between retries. A stop does not wait for recording.
pub(crate) fn fast_retries(settings: &mut Settings) {
    settings.recorder.connections = 2;
    settings.shutdown.drain_timeout = Duration::ZERO;
    settings.recorder.max_backoff = Duration::from_millis(100);
}

/// [`fast_retries`] with one connection and a statement timeout of 250 ms.
pub(crate) fn short_timeouts(settings: &mut Settings) {
    fast_retries(settings);
    settings.recorder.connections = 1;
    settings.recorder.max_backoff = Duration::from_millis(20);
    settings.database.statement_timeout = Duration::from_millis(250);
}

/// A receiver in this process, reached over HTTP.
pub(crate) struct TestReceiver {
    pub(crate) url: String,
    pub(crate) admin: String,
    pub(crate) client: Client,
    pub(crate) progress: Progress,
    pub(crate) database: PgConnectOptions,
    running: Running,
    // Dropped after `running`: a running receiver would create its spool again.
    pub(crate) dir: TempDir,
    kept: KeptConnection,
}

/// The task of a receiver. Dropping it stops the receiver immediately.
struct Running {
    task: JoinHandle<Result<(), RunError>>,
    shutdown: Shutdown,
    /// Closed at the end of the task.
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Running {
    fn start(server: Server) -> Self {
        let (shutdown, (while_running, ended)) = (Shutdown::default(), mpsc::channel());
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            let _while_running = while_running;
            server.run(&stop).await.inspect_err(|error| eprintln!("the receiver ended: {error}"))
        });
        Self { task, shutdown, ended: Mutex::new(ended) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.graceful.cancel();
        self.shutdown.immediate.cancel();
        tokio::task::block_in_place(|| {
            let _ = self.ended.lock().map(|ended| ended.recv_timeout(Duration::from_secs(10)));
        });
    }
}

/// Starts the server. A process that another test starts has copies of all open files until its `exec`, also of the locked
/// files of a receiver that has just stopped in this directory.
async fn start(settings: &Settings, database: &PgConnectOptions) -> Result<Server, StartError> {
    loop {
        match Server::start(settings, database.clone()).await {
            Err(StartError::Spool(error)) if error.to_string().contains("in use by another receiver") => {
                pause().await;
            }
            started => return started,
        }
    }
}

impl TestReceiver {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let receiver = Self::start_on(new_database().await, change).await;
        within(receiver.progress.clone().recording()).await;
        receiver
    }

    pub(crate) async fn start_on(database: PgConnectOptions, change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_in(TempDir::new().unwrap(), database, change).await
    }

    pub(crate) async fn start_in(
        dir: TempDir,
        database: PgConnectOptions,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = settings(dir.path());
        change(&mut settings);
        let server = within(start(&settings, &database)).await.unwrap();
        Self {
            url: server.webhook_url(),
            admin: format!("http://{}", server.admin_address()),
            client: Client::new(),
            progress: server.progress(),
            kept: KeptConnection::new(database.clone()),
            database,
            running: Running::start(server),
            dir,
        }
    }

    pub(crate) fn spool_file(&self) -> PathBuf {
        spool_file(self.dir.path())
    }

    /// Locks the spool's file. The writer waits until the returned lock is dropped.
    pub(crate) fn hold_spool(&self) -> HeldSpool {
        let file = rusqlite::Connection::open(self.spool_file()).unwrap();
        file.execute_batch("BEGIN IMMEDIATE").unwrap();
        HeldSpool(file)
    }

    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Response {
        self.client.post(&self.url).body(body).send().await.unwrap()
    }

    /// A connection to the webhook port, for requests that no HTTP client sends.
    pub(crate) async fn connect(&self) -> TcpStream {
        let address = self.url.strip_prefix("http://").and_then(|url| url.split('/').next()).unwrap();
        TcpStream::connect(address).await.unwrap()
    }

    /// Sends bytes as they are, and reads until the receiver closes the connection.
    pub(crate) async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_ref()).await.unwrap();
        rest(&mut stream).await
    }

    /// Posts a body and checks that it is acknowledged.
    pub(crate) async fn accept(&self, body: impl ToString) {
        let answer = self.post(body.to_string()).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "received": true }));
    }

    /// Waits until all acknowledged deliveries are in PostgreSQL.
    pub(crate) async fn wait_until_recorded(&self) {
        within(self.progress.clone().all_recorded()).await;
        assert!(!self.running.task.is_finished(), "the receiver has ended");
    }

    pub(crate) async fn connection(&self) -> PgConnection {
        PgConnection::connect_with(&self.database).await.unwrap()
    }

    /// The rows of `query`, each as a JSON object, after all acknowledged deliveries are recorded.
    pub(crate) async fn rows(&self, query: &str) -> Vec<Value> {
        self.wait_until_recorded().await;
        self.rows_now(query).await
    }

    /// The rows of `query`, each as a JSON object, whether or not all deliveries are recorded.
    pub(crate) async fn rows_now(&self, query: &str) -> Vec<Value> {
        self.kept.rows(query).await
    }

    /// The only row of `query`.
    pub(crate) async fn row(&self, query: &str) -> Value {
        let mut rows = self.rows(query).await;
        assert_eq!(rows.len(), 1, "{query}: {rows:?}");
        rows.remove(0)
    }

    /// Blocks recording. Deliveries that are posted before the release form one batch.
    pub(crate) async fn hold_recording(&self) -> Held {
        within(self.progress.clone().recording()).await;
        self.wait_until_recorded().await;
        let mut connection = self.connection().await;
        sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
        sqlx::query("LOCK TABLE executions, quarantine IN SHARE MODE")
            .execute(&mut connection)
            .await
            .unwrap();
        // This delivery is the batch that waits for the lock. Later deliveries form the next batch.
        self.accept(execution("held", "completed")).await;
        self.until_blocked().await;
        Held(connection)
    }

    /// Waits until a session in the receiver's database waits for a lock. Returns its process id.
    pub(crate) async fn until_blocked(&self) -> i32 {
        let blocked = "SELECT pid FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock' LIMIT 1";
        let pid = AtomicI32::new(0);
        until(async || {
            let rows = self.rows_now(blocked).await;
            let blocked = rows.first().map_or(0, |row| row["pid"].as_i64().unwrap());
            pid.store(i32::try_from(blocked).unwrap(), Ordering::Relaxed);
            !rows.is_empty()
        })
        .await;
        pid.into_inner()
    }

    /// The status and body of `/health/ready`.
    pub(crate) async fn ready(&self) -> (u16, Value) {
        let answer = self.get("/health/ready").await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// The value of a metric; see [`metric_of`].
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").await.text().await.unwrap();
        metric_of(&page, name).unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.admin)).send().await.unwrap()
    }

    /// Waits until the receiver ends by itself.
    pub(crate) async fn ended(mut self) -> (TempDir, Result<(), RunError>) {
        let ended = (&mut self.running.task).await.unwrap();
        (self.dir, ended)
    }

    /// Stops the receiver as SIGTERM does. Returns its directory and database for the next one.
    pub(crate) async fn stop(mut self) -> (TempDir, PgConnectOptions) {
        self.running.shutdown.graceful.cancel();
        (&mut self.running.task).await.unwrap().unwrap();
        (self.dir, self.database)
    }
}

/// Two receivers on one database.
pub(crate) async fn two_receivers() -> [TestReceiver; 2] {
    let database = new_database().await;
    let one = TestReceiver::start_on(database.clone(), |_| {}).await;
    within(one.progress.clone().recording()).await;
    let other = TestReceiver::start_on(database, |_| {}).await;
    within(other.progress.clone().recording()).await;
    [one, other]
}

/// The error of a start on this spool.
pub(crate) async fn spool_error(dir: &Path) -> String {
    match start(&settings(dir), &no_database()).await {
        Err(StartError::Spool(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The lock that blocks recording.
pub(crate) struct Held(PgConnection);

impl Held {
    pub(crate) async fn release(mut self) {
        sqlx::query("COMMIT").execute(&mut self.0).await.unwrap();
    }
}

/// The lock that blocks the spool's writer.
pub(crate) struct HeldSpool(
    #[expect(dead_code, reason = "dropping the connection releases the lock")] rusqlite::Connection,
);
