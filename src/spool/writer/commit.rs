//! Commits groups of deliveries, and deletes acked ones.

use rusqlite::TransactionBehavior;
use tokio::time::Instant;

use super::{PROBE_INTERVAL, WriteError, Writer};
use crate::delivery::RejectReason;
use crate::spool::files::FileFault;
use crate::spool::handle::PendingDelivery;
use crate::spool::positions::StoredPositions;
use crate::spool::row::{INSERT, SpoolRow};
use crate::spool::{Seq, SpoolError, Unwritable, losses, schema, usage};

/// Maximum deliveries that one transaction deletes: deleting also needs space.
const MAX_DELETE: Seq = 2_000;
/// Maximum deletions for each delivery of a group: more would delay the responses.
const MAX_DELETE_PER_DELIVERY: Seq = 4;

impl Writer {
    /// Makes `group` durable, and deletes acked deliveries with it. Returns a result for each delivery.
    ///
    /// # Errors
    /// [`WriteError`]: then none of the group may be answered 200.
    pub(super) fn commit_group(
        &mut self,
        group: &[PendingDelivery],
        acked: Seq,
    ) -> Result<Vec<Result<(), RejectReason>>, WriteError> {
        self.check_files()?;
        let begun = Instant::now();
        let size = group.iter().map(|pending| pending.delivery.body.len() as u64).sum();
        if self.free_bytes(size) < size {
            self.delete_acked(acked)?;
        }
        let results = match self.transact(group, acked) {
            Ok(results) => {
                self.confirm_files()?;
                self.write_mark();
                self.status.unwritable = self.unwritable_for_space();
                self.set_rejecting(results.iter().find_map(|result| result.err()), None);
                results
            }
            Err(WriteError::Failed(error)) => vec![Err(self.reject_group(error)?); group.len()],
            Err(fault) => return Err(fault),
        };
        self.wrote_at = Instant::now();
        self.metrics.spool_committed(begun.elapsed(), group.len());
        Ok(results)
    }

    /// Returns why a group cannot be written now.
    fn reject_group(&mut self, error: SpoolError) -> Result<RejectReason, WriteError> {
        // The wait for another process's lock does not count as a stalled write.
        self.channels.intake.writing();
        self.check_files()?;
        if matches!(error, SpoolError::Damaged(_)) {
            return Err(WriteError::Failed(error));
        }
        let (reason, unwritable) = if means_disk_full(&error) {
            (RejectReason::SpoolFull, Unwritable::DiskFull)
        } else {
            (RejectReason::DiskError, Unwritable::Failing)
        };
        self.status.unwritable = Some(unwritable);
        self.set_rejecting(Some(reason), Some(&error));
        // The failed write may have left frames in the log that look like lost commits (`recovery/wal.rs`).
        let _ = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        let _ = self.confirm_files();
        Ok(reason)
    }

    /// Deletes acked deliveries in transactions of their own. On a full disk, they use the space of the reserve file.
    pub(super) fn delete_acked(&mut self, acked: Seq) -> Result<(), FileFault> {
        while self.status.acked_seq < acked {
            let deleted = self.transact(&[], acked);
            self.confirm_files()?;
            match deleted {
                Err(WriteError::FilesChanged(fault)) => return Err(fault),
                Err(WriteError::Failed(error)) if !self.reserve.release() => {
                    tracing::debug!(%error, "the spool cannot delete recorded deliveries yet");
                    return Ok(());
                }
                Ok(_) | Err(WriteError::Failed(_)) => {}
            }
            self.write_mark();
        }
        self.shrink();
        Ok(())
    }

    /// Measures whether a delivery could be written, when none was written for a while or the latest was rejected.
    pub(super) fn probe(&mut self) {
        if self.aside_measured_at.elapsed() >= PROBE_INTERVAL {
            self.measure_aside();
            self.restore_mark();
            if self.status.needs_space && usage::check_space_to_add(&self.dir, &self.connection, 0).is_ok() {
                self.add_rescued(None);
            }
        }
        let rejecting = self.status.rejecting.is_some();
        if !rejecting && self.wrote_at.elapsed() < PROBE_INTERVAL {
            return;
        }
        // After a rejection, a tenth of `spool.max_bytes` must be free, so that the state does not change all the time.
        let enough = if rejecting { self.max_bytes / 10 } else { usage::MIN_FREE };
        let free = self.free_bytes(enough);
        self.status.unwritable = self
            .unwritable_for_space()
            .or_else(|| usage::is_disk_full(&self.dir).then_some(Unwritable::DiskFull));
        if self.status.unwritable.is_some() {
            return;
        }
        // Changes nothing, but commits the first page.
        let written = self.connection.pragma_update(None, "user_version", schema::VERSION);
        let confirmed = self.confirm_files().is_ok();
        self.wrote_at = Instant::now();
        match written {
            Ok(()) if confirmed && (!rejecting || free > enough) => self.set_rejecting(None, None),
            Ok(()) => {}
            Err(error) => {
                let full = means_disk_full(&error.into());
                self.status.unwritable = Some(if full { Unwritable::DiskFull } else { Unwritable::Failing });
            }
        }
    }

    /// Stores `group` and deletes acked deliveries, if the database still has the positions of the latest write.
    fn transact(
        &mut self,
        group: &[PendingDelivery],
        acked: Seq,
    ) -> Result<Vec<Result<(), RejectReason>>, WriteError> {
        self.channels.intake.writing();
        let mut free = if group.is_empty() { 0 } else { self.free_bytes(0) };
        let mut last_seq = self.status.last_seq;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if StoredPositions::read(&transaction)? != self.positions {
            return Err(FileFault::RolledBack.into());
        }
        if let Some(run) = self.runs.last().filter(|_| !self.run_is_stored && !group.is_empty()) {
            schema::add_run(&transaction, *run)?;
        }
        let results = {
            let mut insert = transaction.prepare_cached(INSERT)?;
            group
                .iter()
                .map(|PendingDelivery { delivery, .. }| {
                    let size = delivery.body.len() as u64;
                    if size > free {
                        return Ok(Err(RejectReason::SpoolFull));
                    }
                    free -= size;
                    SpoolRow::new(delivery).insert(&mut insert, None)?;
                    last_seq = transaction.last_insert_rowid();
                    Ok(Ok(()))
                })
                .collect::<rusqlite::Result<Vec<_>>>()?
        };
        let max_delete = match Seq::try_from(group.len()) {
            Ok(0) | Err(_) => MAX_DELETE,
            Ok(deliveries) => MAX_DELETE_PER_DELIVERY * deliveries,
        };
        let acked_seq = acked.min(self.status.acked_seq + max_delete).max(self.status.acked_seq);
        let mut missing = 0;
        if acked_seq > self.status.acked_seq {
            missing = losses::ack(&transaction, acked_seq)?;
        }
        // Within the transaction, which already holds the locks that a measurement needs.
        let (usage, positions) = (usage::measure(&transaction)?, StoredPositions::read(&transaction)?);
        if missing > 0 {
            self.reconciled_until.set_back(self.status.oldest_received_at);
        }
        transaction.commit()?;
        self.run_is_stored |= !group.is_empty();
        losses::count(missing, &self.metrics);
        self.positions = positions;
        self.status.last_seq = last_seq;
        self.status.acked_seq = acked_seq;
        self.apply_usage(&usage);
        Ok(results)
    }
}

fn means_disk_full(error: &SpoolError) -> bool {
    matches!(error, SpoolError::Disk(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
}
