//! The space that the spool takes: what counts against `spool.max_bytes`, and how it is given back.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};
use rustix::fs::statvfs;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::open::BUSY;
use super::recovery::wal;
use super::row::from_micros;
use super::writer::Writer;
use super::{Unwritable, files::Sizes};

/// Bytes of a frame in the log: its header and a page.
pub(super) const FRAME: u64 = 24 + 4096;
/// With less room than this, in bytes, the spool counts as full.
pub(super) const LEAST_ROOM: u64 = 64 << 10;
/// With so much of the file unused, and so little used, the space is given back.
const SHRINK_ABOVE: u64 = 64 << 20;
const SHRINK_BELOW: u64 = 8 << 20;
/// How long emptying the log waits for readers, and after it did not work, how long until it is tried again.
const WAIT_FOR_READERS: Duration = Duration::from_millis(100);
const RECLAIM_EVERY: Duration = Duration::from_secs(1);

/// What the database holds.
pub(super) struct Usage {
    /// In use, in bytes.
    pub(super) bytes: u64,
    /// The part of it that holds nothing, in bytes.
    pub(super) unused: u64,
    pub(super) oldest: Option<OffsetDateTime>,
}

pub(super) fn measure(connection: &Connection) -> rusqlite::Result<Usage> {
    let pragma = |name: &str| -> rusqlite::Result<u64> {
        let value: i64 =
            connection.prepare_cached(&format!("PRAGMA {name}"))?.query_row([], |row| row.get(0))?;
        Ok(value.unsigned_abs())
    };
    let (free, page_size) = (pragma("freelist_count")?, pragma("page_size")?);
    let oldest = connection
        .prepare_cached("SELECT received_at FROM deliveries ORDER BY seq LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(Usage {
        bytes: (pragma("page_count")? - free) * page_size,
        unused: free * page_size,
        oldest: oldest.map(from_micros),
    })
}

/// How long the log must be for the frames in it, in bytes. Takes no lock and writes nothing.
pub(super) fn log_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let mut frames = connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?;
    let frames: i64 = frames.query_row([], |row| row.get(1))?;
    Ok(match u64::try_from(frames) {
        Ok(frames @ 1..) => wal::HEADER_BYTES + frames * FRAME,
        _ => 0,
    })
}

/// Whether the disk has less room than a small delivery needs.
pub(super) fn is_disk_full(dir: &Path) -> bool {
    statvfs(dir).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < LEAST_ROOM)
}

impl Writer {
    /// How many bytes of bodies still fit. When `wanted` do not, the log is emptied first.
    pub(super) fn room(&mut self, wanted: u64) -> u64 {
        if !self.reserve.hold() {
            return 0;
        }
        if self.max_bytes.saturating_sub(self.kept.bytes) < wanted {
            self.reclaim_log();
        }
        self.max_bytes.saturating_sub(self.kept.bytes)
    }

    /// Copies the log into the database and empties it. That waits for no reader for long.
    fn reclaim_log(&mut self) {
        if self.kept.wal_bytes == 0 || Instant::now() < self.reclaim_after {
            return;
        }
        let _ = self.connection.busy_timeout(WAIT_FOR_READERS);
        let emptied = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        let _ = self.connection.busy_timeout(BUSY);
        if emptied != Ok(0) {
            self.reclaim_after = Instant::now() + RECLAIM_EVERY;
        }
        self.least = Sizes { wal: 0, ..self.least };
        let _ = self.confirm_files();
    }

    /// Why not even a small delivery fits.
    pub(super) fn unwritable_for_space(&mut self) -> Option<Unwritable> {
        if !self.reserve.hold() {
            return Some(Unwritable::DiskFull);
        }
        let room = self.room(LEAST_ROOM);
        let pinned = self.kept.wal_bytes > self.kept.bytes / 2;
        (room < LEAST_ROOM).then_some(if pinned { Unwritable::WalPinned } else { Unwritable::Full })
    }

    /// Gives the disk back what a long backlog took, or what the reserve needs. Cheap by then: the rest is small.
    pub(super) fn shrink(&mut self) {
        let enough = if self.reserve.hold() { SHRINK_ABOVE } else { 0 };
        if self.unused > enough && self.kept.bytes - self.kept.wal_bytes < SHRINK_BELOW {
            let shrunk = self.connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(PASSIVE)");
            self.least = Sizes::default();
            match shrunk.and_then(|()| measure(&self.connection)) {
                Ok(usage) => {
                    self.apply_usage(&usage);
                    tracing::info!("the spool gave its space back after a backlog");
                }
                Err(error) => tracing::debug!(%error, "the spool could not give its space back yet"),
            }
            let _ = self.confirm_files();
        }
    }
}
