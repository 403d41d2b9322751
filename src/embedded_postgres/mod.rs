//! A private PostgreSQL, for machines that have none running: `make run`, `cargo run`, the tests.
//!
//! It keeps its data in one directory, with fsync on, and is reached through a socket there, by
//! this machine only. It stops with the receiver, even with one that is killed.

mod binaries;
mod owner;
mod process;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::postgres::PgConnectOptions;

use binaries::Binaries;
use owner::Owner;
use process::Postmaster;

/// The database in it.
const DATABASE: &str = "workflow_receiver";
/// Its only role.
const USER: &str = "postgres";
/// Sockets' paths must stay under about 100 bytes; "/.s.PGSQL.5432" comes on top.
const LONGEST_SOCKET_DIR: usize = 80;

/// A running private PostgreSQL. Dropping it asks it to stop; [`Postgres::stop`] also waits.
#[derive(Debug)]
pub struct Postgres {
    postmaster: Postmaster,
    socket_dir: PathBuf,
    psql: PathBuf,
    _lock: File,
}

/// Why there is no private PostgreSQL. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No binaries, or not those that can read the data that is there.
    #[error("{0}")]
    Binaries(String),
    /// The directory holds other things.
    #[error(
        "{0} holds other things than a private PostgreSQL: set `database.embedded_dir` to a directory of its own"
    )]
    Foreign(PathBuf),
    /// Another receiver uses the directory.
    #[error(
        "the private PostgreSQL in {0} is in use by another receiver: set `database.embedded_dir`, or `database.url`"
    )]
    InUse(PathBuf),
    /// There is none.
    #[error(
        "database.url is not set, and no receiver runs a private PostgreSQL in {0}: set DATABASE_URL, or start the \
         receiver first, and run this where it runs"
    )]
    NotRunning(PathBuf),
    /// Running as root, and no other user to run PostgreSQL as.
    #[error(
        "PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody` to run it as"
    )]
    NoUser,
    /// A program of PostgreSQL's failed.
    #[error("{program} failed: {said}")]
    Failed {
        /// Which one.
        program: &'static str,
        /// The end of what it said.
        said: String,
    },
    /// The system did not let us.
    #[error("the private PostgreSQL cannot use {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl EmbeddedError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl Postgres {
    /// Starts PostgreSQL on the data in `dir`, making it first if there is none. Blocks until it
    /// takes connections: 0.1 s, or about 1 s the first time.
    ///
    /// # Errors
    /// [`EmbeddedError`]. What is in `dir` stays as it was.
    pub fn start(dir: &Path) -> Result<Self, EmbeddedError> {
        let owner = Owner::of_this_process()?;
        let dir = owner.place_for(dir)?;
        let lock = File::create(dir.join("lock")).map_err(EmbeddedError::at(&dir))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(EmbeddedError::InUse(dir)),
            Err(fs::TryLockError::Error(e)) => return Err(EmbeddedError::at(&dir)(e)),
        }
        let data = dir.join("data");
        let binaries = Binaries::find(&data)?;
        if !data.exists() {
            initialise(&binaries, &owner, &dir, &data)?;
        }
        let socket_dir = owner.socket_dir(&dir)?;
        let postmaster = Postmaster::start(&binaries, &owner, &data, &socket_dir, &dir.join("log"))?;
        Ok(Self { postmaster, socket_dir, psql: binaries.psql(), _lock: lock })
    }

    /// How to connect to its database, which may have to be made first.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        connect_options(&self.socket_dir)
    }

    /// The same as a URL: for `database.url`, or for `psql`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres:///{DATABASE}?host={}&user={USER}", self.socket_dir.display())
    }

    /// A command line for people that opens the database.
    #[must_use]
    pub fn psql_line(&self) -> String {
        format!("{} '{}'", self.psql.display(), self.url())
    }

    /// Waits for it to end by itself, which it should not.
    pub async fn ended(&self) {
        self.postmaster.ended().await;
    }

    /// Stops it: sessions are ended, everything is on disk. Returns when it is gone.
    pub async fn stop(self) {
        self.postmaster.ask_to_stop();
        self.postmaster.ended().await;
    }
}

/// How to connect to the one that a receiver runs in `dir`.
///
/// # Errors
/// [`EmbeddedError::NotRunning`] when there is none.
pub fn running(dir: &Path) -> Result<PgConnectOptions, EmbeddedError> {
    let none = || EmbeddedError::NotRunning(std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()));
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

/// Makes the data under another name first: half-made data never looks whole.
fn initialise(binaries: &Binaries, owner: &Owner, dir: &Path, data: &Path) -> Result<(), EmbeddedError> {
    let making = dir.join("data.making");
    if making.exists() {
        fs::remove_dir_all(&making).map_err(EmbeddedError::at(&making))?;
    }
    let mut command = Command::new(binaries.initdb());
    command.args(["--username", USER, "--auth-local", "trust", "--auth-host", "reject"]);
    command.args(["--encoding", "UTF8", "--locale", "C", "--pgdata"]).arg(&making).current_dir(dir);
    owner.run_as(&mut command);
    let output = command.output().map_err(EmbeddedError::at(&binaries.initdb()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(EmbeddedError::Failed { program: "initdb", said });
    }
    fs::rename(&making, data).map_err(EmbeddedError::at(data))
}
