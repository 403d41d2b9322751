//! One PostgreSQL for all tests, a database and a receiver for each.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use private_postgres::{EmbeddedError, Postgres};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use workflow_receiver::config::Settings;
use workflow_receiver::server::{Progress, RunError, Server};
use workflow_receiver::shutdown::Shutdown;

/// The server that the tests share. It ends with the process; its directory is used again.
fn cluster() -> &'static Postgres {
    static CLUSTER: OnceLock<Postgres> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        // Another run may be using one, and another version makes other files.
        let version = std::env::var("PG_BIN").unwrap_or_default().replace('/', "_");
        (0..100)
            .map(|n| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("postgres{version}-{n}")))
            .map(|dir| Postgres::start(&dir).inspect(|_| LOG.set(dir.join("log")).unwrap()))
            .find(|started| !matches!(started, Err(EmbeddedError::InUse(_))))
            .expect("a free directory")
            .unwrap()
    })
}

/// Where the server of [`cluster`] says what it does.
static LOG: OnceLock<PathBuf> = OnceLock::new();

/// What that server has said so far.
pub(crate) fn server_log() -> String {
    String::from_utf8_lossy(&std::fs::read(LOG.get().unwrap()).unwrap()).into_owned()
}

/// A database that nobody else uses. Databases are made once and emptied for each use: making one
/// is slow with fsync on.
pub(crate) async fn new_database() -> PgConnectOptions {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let cluster = tokio::task::block_in_place(cluster).connect_options();
    let database = cluster.database(&format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    workflow_receiver::db::create_database(&database).await.unwrap();
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").execute(&mut connection).await.unwrap();
    database
}

/// Where PostgreSQL's programs are.
pub(crate) fn programs() -> PathBuf {
    let line = tokio::task::block_in_place(cluster).psql_line();
    Path::new(line.split(" '").next().unwrap()).parent().unwrap().to_owned()
}

/// The URL of a database of the shared server.
pub(crate) fn url(database: &PgConnectOptions) -> String {
    let name = database.get_database().unwrap();
    tokio::task::block_in_place(cluster).url().replace("/workflow_receiver?", &format!("/{name}?"))
}

/// The sender's published example, or the fuller one.
pub(crate) fn example(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads").join(name)).unwrap()
}

/// A webhook body with what an execution needs.
pub(crate) fn execution(id: &str, status: &str) -> Value {
    json!({ "execution_id": id, "workflow_id": "w", "status": status })
}

/// `value` with more or other fields.
pub(crate) fn with(mut value: Value, fields: Value) -> Value {
    value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    value
}

/// Settings for a receiver of its own: free ports, a spool in `dir`.
pub(crate) fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::load(None).unwrap();
    settings.http.listen = "127.0.0.1:0".parse().unwrap();
    settings.admin.listen = "127.0.0.1:0".parse().unwrap();
    settings.spool.dir = dir.join("spool");
    // What comes while recording is held up comes in one batch then. More connections: `recorder.rs`, and the program.
    settings.recorder.connections = 1;
    settings
}

/// A receiver in this process, reached over HTTP.
pub(crate) struct TestReceiver {
    pub(crate) url: String,
    pub(crate) admin: String,
    pub(crate) client: Client,
    pub(crate) progress: Progress,
    pub(crate) database: PgConnectOptions,
    pub(crate) dir: TempDir,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), RunError>>,
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
        let receiver = Server::start(&settings, database.clone()).await.unwrap();
        let (url, admin) = (receiver.webhook_url(), format!("http://{}", receiver.admin_address()));
        let (progress, shutdown) = (receiver.progress(), Shutdown::default());
        let stop = shutdown.clone();
        let running = tokio::spawn(async move {
            receiver.run(&stop).await.inspect_err(|error| eprintln!("the receiver ended: {error}"))
        });
        Self { url, admin, client: Client::new(), progress, database, dir, shutdown, running }
    }

    pub(crate) fn spool_file(&self) -> PathBuf {
        self.dir.path().join("spool/spool.db")
    }

    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Response {
        self.client.post(&self.url).body(body).send().await.unwrap()
    }

    /// A connection to the webhook port, for what no client would send.
    pub(crate) async fn connect(&self) -> TcpStream {
        let address = self.url.strip_prefix("http://").and_then(|url| url.split('/').next()).unwrap();
        TcpStream::connect(address).await.unwrap()
    }

    /// Sends bytes as they are, and reads all that comes until the receiver closes.
    pub(crate) async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_ref()).await.unwrap();
        rest(&mut stream).await
    }

    /// Posts what must be acknowledged.
    pub(crate) async fn accept(&self, body: impl ToString) {
        let answer = self.post(body.to_string()).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "received": true }));
    }

    /// Waits until all that was acknowledged is in PostgreSQL.
    pub(crate) async fn recorded(&self) {
        within(self.progress.clone().all_recorded()).await;
        assert!(!self.running.is_finished(), "the receiver has ended");
    }

    pub(crate) async fn connection(&self) -> PgConnection {
        PgConnection::connect_with(&self.database).await.unwrap()
    }

    /// Everything recorded so far, asked of PostgreSQL: a JSON object a row.
    pub(crate) async fn rows(&self, query: &str) -> Vec<Value> {
        self.recorded().await;
        rows(&self.database, query).await
    }

    /// The one row that `query` gives.
    pub(crate) async fn row(&self, query: &str) -> Value {
        let mut rows = self.rows(query).await;
        assert_eq!(rows.len(), 1, "{query}: {rows:?}");
        rows.remove(0)
    }

    /// Holds up recording: what is posted meanwhile comes in one batch after the guard is gone.
    pub(crate) async fn hold_recording(&self) -> Held {
        within(self.progress.clone().recording()).await;
        self.recorded().await;
        let mut connection = self.connection().await;
        sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
        sqlx::query("LOCK TABLE executions, quarantine IN SHARE MODE")
            .execute(&mut connection)
            .await
            .unwrap();
        // The first batch runs into the lock; the one behind it is what the test is about.
        self.accept(execution("held", "completed")).await;
        let mut watcher = self.connection().await;
        let blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = \
                       (SELECT oid FROM pg_database WHERE datname = current_database())";
        let blocked = async |watcher: &mut PgConnection| {
            sqlx::query_scalar::<_, i64>(blocked).fetch_one(watcher).await.unwrap() > 0
        };
        within(async { while !blocked(&mut watcher).await {} }).await;
        Held(connection)
    }

    /// What `/health/ready` answers.
    pub(crate) async fn ready(&self) -> (u16, Value) {
        let answer = self.get("/health/ready").await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// The value of a metric, without the common prefix.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").await.text().await.unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("workflow_receiver_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.admin)).send().await.unwrap()
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ended(self) -> (TempDir, Result<(), RunError>) {
        (self.dir, self.running.await.unwrap())
    }

    /// Stops it as SIGTERM does, and gives back its directory for the next.
    pub(crate) async fn stop(self) -> (TempDir, PgConnectOptions) {
        self.shutdown.graceful.cancel();
        self.running.await.unwrap().unwrap();
        (self.dir, self.database)
    }
}

pub(crate) struct Held(PgConnection);

impl Held {
    pub(crate) async fn release(mut self) {
        sqlx::query("COMMIT").execute(&mut self.0).await.unwrap();
    }
}

/// Nothing waited for here takes so long: what never comes fails the test instead of hanging it.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) async fn within<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.expect("what was waited for never came")
}

/// Asks until the answer is yes.
pub(crate) async fn until(yes: impl AsyncFn() -> bool) {
    within(async { while !yes().await {} }).await;
}

/// All that comes until the other side closes.
pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = within(stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

/// Where nobody answers.
pub(crate) fn no_database() -> PgConnectOptions {
    "postgres://nobody@127.0.0.1:1/none".parse().unwrap()
}

/// A JSON object a row.
pub(crate) async fn rows(database: &PgConnectOptions, query: &str) -> Vec<Value> {
    let mut connection = PgConnection::connect_with(database).await.unwrap();
    let query = format!("SELECT row_to_json(q)::text FROM ({query}) AS q");
    let rows: Vec<String> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
}
