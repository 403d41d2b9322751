//! The durable queue on disk, between the 200 and PostgreSQL.
//!
//! It is one SQLite file, `spool.db`, in write-ahead mode with `synchronous=FULL`: a commit is
//! on disk when it returns. One [`Writer`] on a thread of its own adds what arrives and forgets
//! what is recorded; one [`Reader`] shows the recorder what comes next. They share nothing but
//! the file and two numbers, [`Kept`] and the recorder's [`Recorded`].

mod file;
mod log;
mod reader;
mod reserve;
mod row;
mod salvage;
mod writer;

use std::path::PathBuf;

use time::OffsetDateTime;

use crate::intake::Refused;

pub(crate) use file::open;
pub(crate) use reader::{Limits, Reader, Spooled};
pub(crate) use writer::Writer;

/// A delivery's place in the spool: rises by one with each delivery and is never used again.
pub(crate) type Seq = i64;

/// What the writer has made durable, for all who wait for it or report it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Kept {
    /// The last delivery on disk.
    pub(crate) through: Seq,
    /// The last delivery that was recorded and forgotten.
    pub(crate) forgotten: Seq,
    /// When the oldest delivery still in the spool came.
    pub(crate) oldest: Option<OffsetDateTime>,
    /// The space that the deliveries take on disk, in bytes.
    pub(crate) bytes: u64,
    /// Why the latest delivery was refused; `None` once one is taken again.
    pub(crate) refusing: Option<Refused>,
    /// No more deliveries will come.
    pub(crate) closed: bool,
}

impl Kept {
    /// How many deliveries the spool holds that PostgreSQL does not, as far as the spool knows.
    pub(crate) fn depth(&self) -> i64 {
        self.through - self.forgotten
    }
}

/// The last delivery that PostgreSQL has committed, with all before it: the writer forgets them.
pub(crate) type Recorded = Seq;

/// Why the spool cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process has it.
    #[error("the spool {0} is in use by another receiver: give each receiver a `spool.dir` of its own")]
    InUse(PathBuf),
    /// The directory cannot be made or written.
    #[error("the spool directory {dir} cannot be used: {source}")]
    Directory {
        /// `spool.dir`
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A newer receiver wrote it.
    #[error(
        "the spool {path} has version {found}, and this receiver knows versions up to {known}: run the \
         newer receiver until the spool is empty, or point `spool.dir` elsewhere. Nothing was changed"
    )]
    TooNew {
        /// The spool's file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that this receiver knows.
        known: i64,
    },
    /// It is a database, but not a spool.
    #[error("{0} is not a spool: move it away, or point `spool.dir` elsewhere. Nothing was changed")]
    Foreign(PathBuf),
    /// A part of it is damaged; the next start saves what can be saved.
    #[error(
        "the spool is damaged ({0}): start the receiver again, it saves what can be read and sets the file aside"
    )]
    Damaged(rusqlite::Error),
    /// A bug: reading it panicked.
    #[error("reading the spool panicked: a bug; start the receiver again, nothing is lost")]
    ReaderLost,
    /// The disk failed, or is full.
    #[error("the spool cannot be read or written: {0}")]
    Disk(rusqlite::Error),
}

impl From<rusqlite::Error> for SpoolError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Self::Damaged(error)
            }
            _ => Self::Disk(error),
        }
    }
}
