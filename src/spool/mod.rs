//! The durable queue on disk, between the 200 and PostgreSQL.
//!
//! Receiving and recording use four operations:
//!
//! - **append** ([`SpoolHandle::append`]): stores a delivery. Returns once the delivery is durable, or with the reason for
//!   the rejection. The webhook handler answers 200 only after it.
//! - **next** ([`Reader::next`]): reads the deliveries after a position, in the order of arrival. Deletes nothing.
//! - **ack** ([`AckHandle::ack`]): marks all deliveries up to a position as committed in PostgreSQL. The spool deletes
//!   them later. After a crash, `next` may return them again.
//! - **status** ([`Spool::status`]): a watch channel with the positions, the space in use and the reason for rejections.
//!
//! [`open()`] returns all four as a [`Spool`], with the [`Writer`] that has to run on a thread of its own.
//! `workflow-receiver spool` reads the files with [`Inspector`].
//!
//! This implementation is one SQLite file, `spool.db`, in WAL mode with `synchronous=FULL`: a commit is on disk when it
//! returns. [`writer`] adds and deletes deliveries, [`reader`] reads them on a second connection. Before the
//! writer acknowledges a group, it checks that the open files are still the files in the directory ([`files`]).
//! [`recovery`] handles damaged, missing and replaced files.
//!
//! # Another implementation
//!
//! It is a module below this one. It uses [`SpoolHandle`], [`AckHandle`], [`Intake`], [`handle::PendingDelivery`],
//! [`SpoolStatus`], [`ReconciledUntil`], [`SpooledDelivery`] and [`BatchLimits`] as they are: they do not depend on SQLite. It
//! has its own [`open()`], [`Writer`], [`Reader`] and [`Inspector`], and adds its errors to [`SpoolError`].
//!
//! - **`open`** excludes a second receiver until the writer and the reader are dropped ([`SpoolError::InUse`]). It repairs or
//!   refuses files that it cannot read, and never overwrites them. It returns all fields of [`Spool`]: `handle` and `intake` are
//!   the ends of [`SpoolHandle::new`]; `acks` begins at the last acked delivery; `status` has a status from the start.
//! - **Numbers** ([`Seq`]) begin at 1 and rise by one with each delivery. No number is used again, not even after a restart or
//!   a repair. So a missing number is a lost delivery.
//! - **`Writer::run`** blocks its thread until no delivery can be appended and the [`AckHandle`] is dropped. When the handle is
//!   dropped, it calls [`Intake::close`], stores what is in the channel, and returns. It calls [`Intake::idle`] before it waits
//!   for deliveries ([`Intake::recv_many`]) or acks, and [`Intake::writing`] before each step that may take long: without
//!   progress for 10 s, the waiting requests are answered 503. For that, it gives their results to [`Intake::hold`] before a
//!   write, and takes them back with [`Intake::release`]. It answers each delivery: `Ok` only after it is durable.
//! - **A full or failing disk** is not an error of `run`: deliveries are rejected ([`RejectReason`]) until writes succeed
//!   again. `run` ends with an error only if the spool cannot be used any more.
//! - **Space**: deliveries are rejected before the spool exceeds `spool.max_bytes`. At this limit, and on a full disk, acked
//!   deliveries can still be deleted.
//! - **Status** is published after each write and each deletion, before the requests are answered. `unwritable` is also
//!   measured while nothing arrives.
//! - **`Reader::next`** returns the deliveries after a number without gaps, as many as [`BatchLimits`] allow, but at least one;
//!   an empty batch at the end. The first delivery may exceed the limit of bytes. `intact` is false if the checksum does not
//!   match: the recorder then stores the body in quarantine. [`SpoolError::FilesChanged`] means "try again later"; other errors
//!   end the receiver.
//! - **Losses**: it calls [`ReconciledUntil::set_back`] before it stores a loss. Then it logs a line with `lost_at_most`, and
//!   counts the loss (`Metrics::spool_salvaged`). Each loss is counted once.

mod files;
mod handle;
mod inspect;
mod intake;
mod log_end;
mod losses;
mod mark;
mod open;
mod positions;
mod reader;
mod reconciled_until;
mod recovery;
mod reserve;
mod row;
mod schema;
mod usage;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use crate::delivery::RejectReason;

pub(crate) use files::set_aside_bytes;
#[cfg(fuzzing)]
pub(crate) use handle::PendingDelivery;
pub(crate) use handle::{AckHandle, IntakeDepth, SpoolHandle, WeakSpoolHandle};
pub(crate) use inspect::{Inspector, ListedDelivery};
pub(crate) use intake::Intake;
pub(crate) use open::{Spool, open};
pub(crate) use reader::{BatchLimits, Reader, SpooledDelivery};
pub(crate) use reconciled_until::{Losses, ReconciledUntil};
pub(crate) use writer::Writer;

/// A delivery's position in the spool: rises by one with each delivery and is never reused.
pub(crate) type Seq = i64;

/// The number and size of stored deliveries of unsigned webhooks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct UnverifiedSize {
    pub(crate) rows: i64,
    /// Bytes of bodies.
    pub(crate) bytes: i64,
}

impl UnverifiedSize {
    /// Adds a delivery with a body of `bytes`.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes = self.bytes.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Without `other`; rows and bytes are at least 0.
    pub(crate) fn without(self, other: Self) -> Self {
        Self { rows: (self.rows - other.rows).max(0), bytes: (self.bytes - other.bytes).max(0) }
    }
}

/// What the writer publishes about the spool.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SpoolStatus {
    /// The last delivery on disk.
    pub(crate) last_seq: Seq,
    /// The last delivery that was acked and deleted.
    pub(crate) acked_seq: Seq,
    /// When the oldest delivery in the spool was received.
    pub(crate) oldest_received_at: Option<OffsetDateTime>,
    /// The space that counts against `spool.max_bytes`: deliveries and the write-ahead log, in bytes.
    pub(crate) bytes: u64,
    /// The size of the write-ahead log, in bytes.
    pub(crate) wal_bytes: u64,
    /// The size of damaged and other files that are set aside in the directory. It has no limit.
    pub(crate) set_aside_bytes: u64,
    /// The disk has too little space to add all rescued deliveries.
    pub(crate) needs_space: bool,
    /// Why the latest delivery was rejected; `None` once a delivery or a probe has been written again.
    pub(crate) rejecting: Option<RejectReason>,
    /// Why a delivery cannot be written now; `None` when it can. Measured by the latest write or, after some seconds
    /// without a write, by a probe: the commit of one page.
    pub(crate) unwritable: Option<Unwritable>,
    /// No more deliveries can be appended.
    pub(crate) closed: bool,
}

impl SpoolStatus {
    /// The number of deliveries in the spool. Acked deliveries count until they are deleted.
    pub(crate) fn depth(&self) -> i64 {
        self.last_seq - self.acked_seq
    }
}

/// Why a delivery cannot be written now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwritable {
    #[error("the spool is full: it has reached spool.max_bytes")]
    Full,
    #[error(
        "the spool is full: it has reached spool.max_bytes, and its write-ahead log cannot be emptied while another process reads \
         spool.db. End that process"
    )]
    WalPinned,
    /// The disk has no space left, or not enough for the reserve file.
    #[error("the spool's disk is full")]
    DiskFull,
    #[error("writes to the spool's disk fail")]
    Failing,
    /// The open files are not the files in the directory.
    #[error(
        "files of the spool were removed, moved, truncated, replaced or overwritten, and its deliveries are not copied to new files yet. \
         The new files need as much free disk space as the deliveries"
    )]
    FilesChanged,
}

/// Why the spool cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process holds the locks.
    #[error("the spool {0} is in use by another receiver: give each receiver a `spool.dir` of its own")]
    InUse(PathBuf),
    /// The directory, or a file in it, cannot be created, read or written.
    #[error("the spool's file or directory {path} cannot be used: {source}")]
    Directory {
        /// The directory or the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The user of the process may not create, read or write the directory, or a file in it.
    #[error(
        "the spool's file or directory {path} cannot be used: {source}. The receiver runs as user {uid} and needs write access: run \
         `chown -R {uid}:{gid}` on the directory, or in Kubernetes set `securityContext.fsGroup: {gid}`"
    )]
    Permission {
        /// The directory or the file.
        path: PathBuf,
        /// The effective user id of the process.
        uid: u32,
        /// The effective group id of the process.
        gid: u32,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A receiver with another file format wrote the spool.
    #[error(
        "the spool {path} has version {found}, and this receiver reads version {known} only: run \
         the version of the receiver that wrote it until the spool is empty, or set `spool.dir` to another directory. \
         Nothing was changed"
    )]
    UnknownVersion {
        /// The spool's file.
        path: PathBuf,
        /// The version of the file.
        found: i64,
        /// The version that this receiver reads.
        known: i64,
    },
    /// The file is a database, but not a spool.
    #[error(
        "{0} is not a spool, or a pre-release of this receiver wrote it: move it away, or set `spool.dir` to another \
         directory. Nothing was changed"
    )]
    Foreign(PathBuf),
    /// Another program changed the files while the spool was open.
    #[error(
        "files of the spool in {0} were removed, moved, truncated, replaced or overwritten, and its deliveries could not be rescued: \
         the log has the name of the file and the cause"
    )]
    FilesChanged(PathBuf),
    /// There is no spool to inspect.
    #[error(
        "there is no spool at {0}, or it is empty: set spool.dir (RECEIVER__SPOOL__DIR, --config) as for the receiver"
    )]
    Absent(PathBuf),
    /// The next start salvages the readable deliveries.
    #[error(
        "the spool is damaged ({0}): start the receiver again. It copies the readable deliveries into a new file and \
         renames the damaged file"
    )]
    Damaged(rusqlite::Error),
    /// The system allows no further thread.
    #[error(
        "the thread that reads the spool cannot be started: {0}. Raise the limit of processes (TasksMax, pids.max, ulimit -u)"
    )]
    ReaderNotStarted(io::Error),
    /// Reading the spool panicked.
    #[error("reading the spool panicked (a bug): start the receiver again, nothing is lost")]
    ReaderLost,
    /// The disk failed, or is full.
    #[error("the spool cannot be read or written: {0}")]
    Disk(rusqlite::Error),
}

impl SpoolError {
    fn is_disk_full(&self) -> bool {
        let (Self::Damaged(error) | Self::Disk(error)) = self else { return false };
        error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }

    /// For `map_err`: an I/O error on the directory or file `path`.
    fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        |source| {
            let path = path.to_owned();
            if source.kind() != io::ErrorKind::PermissionDenied {
                return Self::Directory { path, source };
            }
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            Self::Permission { path, uid, gid, source }
        }
    }
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
