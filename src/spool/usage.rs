//! Measures the disk space that the spool uses and has.

use std::fs;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};
use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};
use time::OffsetDateTime;

use super::recovery::{copy, wal};
use super::row::from_micros;
use super::{Seq, reserve};
use crate::config;

/// Minimum free space in bytes. With less, the spool counts as full.
pub(super) const MIN_FREE: u64 = 64 << 10;

/// The contents of the database.
pub(super) struct Usage {
    /// Bytes of pages in use.
    pub(super) bytes: u64,
    /// Bytes of free pages.
    pub(super) unused: u64,
    /// The number of the oldest delivery, and when it was received.
    pub(super) oldest: Option<(Seq, OffsetDateTime)>,
}

pub(super) fn measure(connection: &Connection) -> rusqlite::Result<Usage> {
    let pragma = |name: &str| -> rusqlite::Result<u64> {
        let value: i64 =
            connection.prepare_cached(&format!("PRAGMA {name}"))?.query_row([], |row| row.get(0))?;
        Ok(value.unsigned_abs())
    };
    let (free, page_size) = (pragma("freelist_count")?, pragma("page_size")?);
    let oldest = connection
        .prepare_cached("SELECT seq, received_at FROM deliveries ORDER BY seq LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, from_micros(row.get(1)?))))
        .optional()?;
    Ok(Usage { bytes: (pragma("page_count")? - free) * page_size, unused: free * page_size, oldest })
}

/// The size that the write-ahead log must have for its frames, in bytes. Takes no lock and writes nothing.
pub(super) fn wal_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let mut frames = connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?;
    let frames: i64 = frames.query_row([], |row| row.get(1))?;
    Ok(match u64::try_from(frames) {
        Ok(frames @ 1..) => wal::HEADER_BYTES + frames * wal::FRAME_BYTES,
        _ => 0,
    })
}

/// The space that the spool may use: `spool.max_bytes`, or less if the process may not write files of that size (ulimit -f). A
/// part of that limit stays free, because deleting needs space in the write-ahead log.
pub(super) fn max_bytes(settings: &config::Spool) -> u64 {
    let limit = getrlimit(Resource::Fsize).current.map(|limit| limit.saturating_sub(reserve::SIZE));
    match limit.filter(|limit| *limit < settings.max_bytes) {
        None => settings.max_bytes,
        Some(limit) => {
            tracing::warn!(
                max_bytes = limit,
                "the limit of file sizes (ulimit -f) is too low for spool.max_bytes: the spool uses less space"
            );
            limit
        }
    }
}

/// Whether the disk has less free space than a small delivery needs.
pub(super) fn is_disk_full(dir: &Path) -> bool {
    free_bytes(dir).is_some_and(|free| free < MIN_FREE)
}

/// Checks that a transaction of rescued deliveries, and `more` bytes, have space beside the reserve file. They are written to the
/// write-ahead log and to the database; only the database has unused pages. The space of another transaction stays free for the
/// log of the next start.
///
/// # Errors
/// [`rusqlite::ErrorCode::DiskFull`]
pub(super) fn check_space_to_add(dir: &Path, connection: &Connection, more: u64) -> rusqlite::Result<()> {
    const TRANSACTION: u64 = 2 * copy::MAX_ADDED_BYTES as u64;
    let Some(free) = free_bytes(dir) else { return Ok(()) };
    // The log's file is written over.
    let log = fs::metadata(dir.join("spool.db-wal")).map_or(0, |log| log.len());
    let free = free + log + if reserve::exists(dir) { reserve::SIZE } else { 0 };
    let unused = measure(connection)?.unused;
    let log_fits = free >= reserve::SIZE + TRANSACTION + more / 2;
    if log_fits && free + unused >= reserve::SIZE + 2 * TRANSACTION + more {
        return Ok(());
    }
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None))
}

/// The free space of the disk in bytes.
fn free_bytes(dir: &Path) -> Option<u64> {
    statvfs(dir).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}
