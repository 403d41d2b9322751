//! A private PostgreSQL for machines without a running one: for `make run`, `cargo run` and the tests.
//!
//! The data of the server is in one directory, with fsync on. The server listens on a Unix socket only. On Linux it stops
//! when the process that started it ends, even by SIGKILL.

mod binaries;
mod error;
mod owner;
mod process;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;

use binaries::Binaries;
pub use error::PrivatePostgresError;
use owner::Owner;
use process::Postmaster;

/// The only database of the cluster.
const DATABASE: &str = "workflow_receiver";
/// The only role of the cluster.
const USER: &str = "postgres";

/// The data directory of a private PostgreSQL, locked for this process. Its server can be started again after it ended.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    owner: Owner,
    dir: PathBuf,
    socket_dir: PathBuf,
    is_new: bool,
    _lock: File,
}

impl Cluster {
    /// Locks `dir`, which is created if it does not exist, and creates the cluster if there is none. Blocks up to a
    /// second.
    ///
    /// # Errors
    /// [`PrivatePostgresError`]. The data in `dir` is unchanged then.
    pub fn open(dir: &Path) -> Result<Arc<Self>, PrivatePostgresError> {
        let owner = Owner::of_this_process()?;
        let dir = owner.place_for(dir)?;
        let lock = File::create(dir.join("lock")).map_err(PrivatePostgresError::at(&dir))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(PrivatePostgresError::InUse(dir)),
            Err(fs::TryLockError::Error(e)) => return Err(PrivatePostgresError::at(&dir)(e)),
        }
        let data = dir.join("data");
        let binaries = Binaries::find(&data)?;
        let is_new = !data.exists();
        if is_new {
            initialise(&binaries, &owner, &dir, &data)?;
        }
        let socket_dir = owner.socket_dir(&dir)?;
        Ok(Arc::new(Self { binaries, owner, dir, socket_dir, is_new, _lock: lock }))
    }

    /// Whether [`Cluster::open`] created the cluster.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Starts the server. Blocks until it accepts connections: usually 0.1 s, longer for crash recovery.
    ///
    /// # Errors
    /// [`PrivatePostgresError`].
    pub fn start(self: &Arc<Self>) -> Result<Postgres, PrivatePostgresError> {
        let (data, log) = (self.dir.join("data"), self.dir.join("log"));
        let postmaster = Postmaster::start(&self.binaries, &self.owner, &data, &self.socket_dir, &log)?;
        Ok(Postgres { postmaster, cluster: self.clone() })
    }

    /// Options for a connection to the database, which may not exist yet.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        connect_options(&self.socket_dir)
    }

    /// The URL of the database, for `database.url` or `psql`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres:///{DATABASE}?host={}&user={USER}", self.socket_dir.display())
    }

    /// A shell command that opens the database.
    #[must_use]
    pub fn psql_line(&self) -> String {
        format!("{} '{}'", self.binaries.psql().display(), self.url())
    }
}

/// A running private PostgreSQL. Dropping it requests its shutdown; [`Postgres::stop`] also waits for it.
#[derive(Debug)]
pub struct Postgres {
    postmaster: Postmaster,
    cluster: Arc<Cluster>,
}

impl Postgres {
    /// Opens the cluster in `dir` and starts its server.
    ///
    /// # Errors
    /// [`PrivatePostgresError`]. The data in `dir` is unchanged then.
    pub fn start(dir: &Path) -> Result<Self, PrivatePostgresError> {
        Cluster::open(dir)?.start()
    }

    /// Options for a connection to the database, which may not exist yet.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        self.cluster.connect_options()
    }

    /// The URL of the database, for `database.url` or `psql`.
    #[must_use]
    pub fn url(&self) -> String {
        self.cluster.url()
    }

    /// A shell command that opens the database.
    #[must_use]
    pub fn psql_line(&self) -> String {
        self.cluster.psql_line()
    }

    /// Waits until the server has ended.
    pub async fn ended(&self) {
        self.postmaster.ended().await;
    }

    /// Shuts the server down (PostgreSQL's fast shutdown: sessions end, all data is on disk) and waits for its end.
    pub async fn stop(self) {
        self.postmaster.request_stop();
        self.postmaster.ended().await;
    }
}

/// Options for a connection to the server that another process runs in `dir`.
///
/// # Errors
/// [`PrivatePostgresError::NotRunning`] if there is none.
pub fn running(dir: &Path) -> Result<PgConnectOptions, PrivatePostgresError> {
    let none =
        || PrivatePostgresError::NotRunning(std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()));
    let owner = Owner::of_this_process()?;
    if !dir.is_dir() {
        return Err(none());
    }
    let dir = owner.place_for(dir)?;
    let socket_dir = owner.socket_dir(&dir)?;
    if !socket_dir.join(".s.PGSQL.5432").exists() {
        return Err(none());
    }
    Ok(connect_options(&socket_dir))
}

fn connect_options(socket_dir: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass().socket(socket_dir).username(USER).database(DATABASE)
}

/// Runs `initdb` under a temporary name and renames the result, so that an interrupted `initdb` leaves no data directory.
fn initialise(
    binaries: &Binaries,
    owner: &Owner,
    dir: &Path,
    data: &Path,
) -> Result<(), PrivatePostgresError> {
    let new = dir.join("data.new");
    if new.exists() {
        fs::remove_dir_all(&new).map_err(PrivatePostgresError::at(&new))?;
    }
    let mut command = Command::new(binaries.initdb());
    command.args(["--username", USER, "--auth-local", "trust", "--auth-host", "reject"]);
    command.args(["--encoding", "UTF8", "--locale", "C", "--pgdata"]).arg(&new).current_dir(dir);
    owner.run_as(&mut command);
    let output = command.output().map_err(PrivatePostgresError::at(&binaries.initdb()))?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(PrivatePostgresError::Failed { program: "initdb", output });
    }
    fs::rename(&new, data).map_err(PrivatePostgresError::at(data))
}
