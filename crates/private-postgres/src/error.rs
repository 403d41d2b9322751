//! The error of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no private PostgreSQL. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrivatePostgresError {
    /// PostgreSQL's programs are missing, or of another major version than the existing data.
    #[error("{0}")]
    Binaries(String),
    /// The directory contains other files.
    #[error(
        "{0} contains other files than a private PostgreSQL: set `database.private_dir` to an empty directory"
    )]
    Foreign(PathBuf),
    /// Another receiver uses the directory.
    #[error(
        "the private PostgreSQL in {0} is in use by another receiver: set `database.private_dir`, or `database.url`"
    )]
    InUse(PathBuf),
    /// No private PostgreSQL runs in the directory.
    #[error(
        "database.url is not set, and no receiver runs a private PostgreSQL in {0}: set DATABASE_URL, or start the \
         receiver first, and run this on the receiver's machine"
    )]
    NotRunning(PathBuf),
    /// The process runs as root, and there is no unprivileged user for PostgreSQL.
    #[error("PostgreSQL does not run as root, and neither the user `postgres` nor `nobody` exists to run it")]
    NoUser,
    /// A program of PostgreSQL failed.
    #[error("{program} failed: {output}")]
    Failed {
        /// The program's name.
        program: &'static str,
        /// The end of its output.
        output: String,
    },
    /// A file or directory cannot be used.
    #[error("the private PostgreSQL cannot use {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl PrivatePostgresError {
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
