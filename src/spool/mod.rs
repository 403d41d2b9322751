//! The durable queue on disk, between the 200 and PostgreSQL.
//!
//! It is one SQLite file, `spool.db`, in write-ahead mode with `synchronous=FULL`: a commit is on disk when it returns. One
//! [`Writer`] on a thread of its own adds arrivals and deletes recorded deliveries; one [`Reader`] reads the next ones for
//! the recorder. They share the files ([`files`]) and two numbers, [`SpoolStatus`] and the recorder's [`Recorded`].
//!
//! Before it acknowledges a group, the writer checks that the files it wrote are still the ones in the directory. [`recovery`]
//! deals with files that are not.

mod files;
mod handle;
mod health;
mod inspect;
mod mark;
mod open;
mod reader;
mod recovery;
mod reserve;
mod row;
mod space;
mod writer;

use std::path::PathBuf;

use time::OffsetDateTime;

use crate::delivery::RejectReason;

#[cfg(fuzzing)]
pub(crate) use handle::PendingDelivery;
pub(crate) use handle::{IntakeDepth, SpoolHandle};
pub(crate) use health::Unwritable;
pub(crate) use inspect::{Inspector, Listed};
pub(crate) use open::open;
pub(crate) use reader::{BatchLimits, Reader, SpooledDelivery};
pub(crate) use writer::Writer;

/// A delivery's place in the spool: rises by one with each delivery and is never used again.
pub(crate) type Seq = i64;

/// What the writer publishes about the spool.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SpoolStatus {
    /// The last delivery on disk.
    pub(crate) last_seq: Seq,
    /// The last delivery that was recorded and deleted.
    pub(crate) acked_seq: Seq,
    /// When the oldest delivery in the spool was received.
    pub(crate) oldest_received_at: Option<OffsetDateTime>,
    /// The space that counts against `spool.max_bytes`: deliveries and the write-ahead log, in bytes.
    pub(crate) bytes: u64,
    /// The size of the write-ahead log, in bytes.
    pub(crate) wal_bytes: u64,
    /// Why the latest delivery was refused; `None` once one is accepted again.
    pub(crate) rejecting: Option<RejectReason>,
    /// Why a delivery cannot be written now; `None` when it can. Measured: by the latest write or, after some seconds
    /// without one, by a commit of a page.
    pub(crate) unwritable: Option<Unwritable>,
    /// No more deliveries will come.
    pub(crate) closed: bool,
}

impl SpoolStatus {
    /// How many deliveries the spool holds that PostgreSQL does not, as far as the spool knows.
    pub(crate) fn depth(&self) -> i64 {
        self.last_seq - self.acked_seq
    }
}

/// The last delivery that PostgreSQL has committed, with all before it: the writer deletes them.
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
    /// Its files were changed by others while it was in use.
    #[error(
        "files of the spool in {0} were removed, moved, truncated or replaced, and its deliveries could not be rescued: \
         the log says which files, and how many deliveries were left"
    )]
    FilesChanged(PathBuf),
    /// There is none, for a command that only reads it.
    #[error(
        "there is no spool at {0}, or it is empty: set spool.dir (RECEIVER__SPOOL__DIR, --config) as for the receiver"
    )]
    Absent(PathBuf),
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
