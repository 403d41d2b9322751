//! Limits the spool to `spool.max_bytes`, and gives unused space back to the disk.

use std::time::Duration;

use tokio::time::Instant;

use super::Writer;
use crate::spool::files::{self, FileSizes};
use crate::spool::usage::{MIN_FREE, Usage, measure};
use crate::spool::{SpoolStatus, Unwritable};

/// The database is shrunk when more bytes than this are unused and fewer than `SHRINK_BELOW` are used.
const SHRINK_ABOVE: u64 = 64 << 20;
const SHRINK_BELOW: u64 = 8 << 20;
/// How long emptying the log waits for readers. After a failure, the next attempt is at least `RECLAIM_INTERVAL` later.
const WAIT_FOR_READERS: Duration = Duration::from_millis(100);
const RECLAIM_INTERVAL: Duration = Duration::from_secs(1);

impl Writer {
    /// How many bytes of bodies still fit. If that is less than `wanted`, the write-ahead log is emptied first.
    pub(super) fn free_bytes(&mut self, wanted: u64) -> u64 {
        if !self.hold_reserve() {
            return 0;
        }
        if self.max_bytes.saturating_sub(self.status.bytes) < wanted {
            self.reclaim_wal();
        }
        self.max_bytes.saturating_sub(self.status.bytes)
    }

    /// Creates the reserve file if it is missing, in the space of the write-ahead log if necessary. Returns whether it exists.
    fn hold_reserve(&mut self) -> bool {
        if self.reserve.hold() {
            return true;
        }
        self.reclaim_wal();
        self.reserve.hold()
    }

    /// Copies the write-ahead log into the database and empties it. Waits for readers for a short time only.
    fn reclaim_wal(&mut self) {
        if self.status.wal_bytes == 0 || Instant::now() < self.reclaim_after {
            return;
        }
        let _ = self.connection.busy_timeout(WAIT_FOR_READERS);
        let busy = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        let _ = self.connection.busy_timeout(self.lock_timeout);
        if busy != Ok(0) {
            self.reclaim_after = Instant::now() + RECLAIM_INTERVAL;
        }
        self.min_sizes.wal = 0;
        let _ = self.confirm_files();
    }

    /// Why not even a small delivery fits.
    pub(super) fn unwritable_for_space(&mut self) -> Option<Unwritable> {
        if !self.hold_reserve() {
            return Some(Unwritable::DiskFull);
        }
        let free = self.free_bytes(MIN_FREE);
        let pinned = self.status.wal_bytes > self.status.bytes / 2;
        (free < MIN_FREE).then_some(if pinned { Unwritable::WalPinned } else { Unwritable::Full })
    }

    /// Shrinks the database after a backlog, or as soon as the reserve file lacks space. Fast, because it runs only while
    /// little of the database is used.
    pub(super) fn shrink(&mut self) {
        let keep = if self.hold_reserve() { SHRINK_ABOVE } else { 0 };
        if self.unused <= keep || self.status.bytes - self.status.wal_bytes >= SHRINK_BELOW {
            return;
        }
        let shrunk = self.connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(PASSIVE)");
        self.min_sizes = FileSizes::default();
        match shrunk.and_then(|()| measure(&self.connection)) {
            Ok(usage) => {
                self.apply_usage(&usage);
                tracing::info!("spool.db was shrunk after a backlog");
            }
            Err(error) => tracing::debug!(%error, "spool.db cannot be shrunk yet"),
        }
        let _ = self.confirm_files();
    }

    /// Measures the files that are set aside. An operator may remove them.
    pub(super) fn measure_aside(&mut self) {
        self.aside_measured_at = Instant::now();
        self.status.set_aside_bytes = files::set_aside_bytes(&self.dir);
    }

    pub(super) fn apply_usage(&mut self, usage: &Usage) {
        self.status.bytes = usage.bytes + self.status.wal_bytes;
        let SpoolStatus { last_seq, acked_seq, .. } = self.status;
        self.status.oldest_received_at = match usage.oldest {
            // The oldest deliveries are missing from the table, so the earlier time stays.
            Some((seq, _)) if seq > acked_seq + 1 => self.status.oldest_received_at,
            None if last_seq > acked_seq => self.status.oldest_received_at,
            oldest => oldest.map(|(_, received_at)| received_at),
        };
        self.unused = usage.unused;
        self.min_sizes.database = self.min_sizes.database.min(usage.bytes + usage.unused);
    }
}
