//! Retries stuck deliveries, and degrades those that PostgreSQL rejects.

use std::time::Duration;

use super::Recorder;
use super::batch_part::BatchPart;
use super::batches::SharedReader;
use super::canary::Canary;
use super::stuck::{Blocked, StuckEntry};
use crate::db::{DbError, Degraded, RecordItem};
use crate::delivery::Disposition;
use crate::logging::LineLimit;
use crate::spool::{BatchLimits, SpoolError};

/// The longest pause between two strikes. It is short, because PostgreSQL records other deliveries.
const MAX_STRIKE_PAUSE: Duration = Duration::from_secs(1);

/// How many stuck deliveries are retried together.
struct Groups {
    /// The size of the next group. It doubles with each success.
    size: usize,
    /// How many deliveries are retried alone before the next group: as many as the group that failed had.
    alone: usize,
}

impl Default for Groups {
    fn default() -> Self {
        Self { size: 2, alone: 0 }
    }
}

impl Groups {
    /// A delivery was retried alone.
    fn tried_alone(&mut self, recorded: bool) {
        self.alone = self.alone.saturating_sub(1);
        if !recorded {
            self.size = Self::default().size;
        }
    }
}

impl Recorder {
    /// Retries stuck deliveries until the list is closed and empty: one at a time, and after a success in groups.
    ///
    /// # Errors
    /// [`SpoolError`] when the spool cannot be read.
    pub(super) async fn retry_stuck(&self, reader: SharedReader) -> Result<(), SpoolError> {
        let (mut failed_canaries, mut groups) = (0, Groups::default());
        let lines = LineLimit::default();
        while let Some((seq, mut entry)) = self.shared.stuck.next().await {
            let read = reader.next(seq - 1, BatchLimits { rows: 1, bytes: 0 }).await?;
            let Some(spooled) = read.first().filter(|spooled| spooled.seq == seq) else {
                // The spool counts the loss itself.
                self.shared.stuck.remove([seq]);
                continue;
            };
            let mut item = [RecordItem::from_spooled(&spooled.delivery, spooled.intact)];
            for error in &entry.degraded_for {
                item[0].degrade(error);
            }
            let limits = self.retry_limits(entry.time_limit(self.statement_timeout));
            let attempted = self.attempt(&item, Some(limits), &mut failed_canaries).await;
            groups.tried_alone(attempted.is_ok());
            let Err((error, canary)) = attempted else {
                self.shared.stuck.remove([seq]);
                self.retry_groups(&reader, &mut groups, &mut failed_canaries).await?;
                continue;
            };
            let why = match canary {
                Canary::Fails(why) => {
                    entry.reset_strikes();
                    self.shared.stuck.put_back(seq, entry, &why);
                    self.wait(why, &mut failed_canaries).await;
                    continue;
                }
                Canary::OnlyExecutions(why) => {
                    entry.blocks = Some(Blocked::Kind(item[0].kind()));
                    entry.reset_strikes();
                    entry.postpone(self.backoff(entry.failures_without_strike));
                    why
                }
                Canary::Succeeds if error.is_contention() => {
                    entry.blocks = Blocked::by_lock(&item, &error);
                    entry.reset_strikes();
                    entry.postpone(self.backoff(entry.failures_without_strike));
                    error
                }
                Canary::Succeeds => {
                    entry.blocks = None;
                    if !self.blame(&mut item[0], &mut entry, &error) {
                        self.log_dispositions(&item, &[Disposition::Dropped]);
                        self.shared.stuck.remove([seq]);
                        continue;
                    }
                    error
                }
            };
            self.recovered(&mut failed_canaries);
            if !matches!(why, DbError::InvalidRow { .. }) {
                self.metrics.record_retries.inc();
            }
            self.shared.stuck.put_back(seq, entry, &why);
            if lines.count(1).is_some() {
                self.log_stuck();
            }
        }
        Ok(())
    }

    /// Retries groups of stuck deliveries that were not retried yet, until a group fails or none is left. A failed group
    /// blames no delivery: as many deliveries are then retried alone.
    async fn retry_groups(
        &self,
        reader: &SharedReader,
        groups: &mut Groups,
        failed_canaries: &mut u32,
    ) -> Result<(), SpoolError> {
        while groups.alone == 0 {
            let seqs = self.shared.stuck.untried(groups.size.min(self.limits.rows));
            let (Some(first), Some(last)) = (seqs.first(), seqs.last()) else { break };
            let rows = usize::try_from(last - first + 1).unwrap_or(usize::MAX).min(self.limits.rows);
            let mut batch = reader.next(first - 1, BatchLimits { rows, ..self.limits }).await?;
            batch.retain(|spooled| seqs.binary_search(&spooled.seq).is_ok());
            if batch.len() < 2 {
                break;
            }
            let group = BatchPart::from_spooled(&batch);
            let limits = self.retry_limits(self.statement_timeout);
            match self.attempt(group.items(), Some(limits), failed_canaries).await {
                Ok(()) => {
                    self.shared.stuck.remove(batch.iter().map(|spooled| spooled.seq));
                    groups.size = groups.size.saturating_mul(2);
                }
                Err((_, canary)) => {
                    *groups = Groups { alone: batch.len(), ..Groups::default() };
                    match canary {
                        Canary::Fails(why) => self.wait(why, failed_canaries).await,
                        Canary::OnlyExecutions(_) | Canary::Succeeds => self.recovered(failed_canaries),
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives a strike to a stuck delivery that failed alone while others can be recorded, and degrades it after enough
    /// strikes. Returns false when the delivery is dropped.
    fn blame(&self, item: &mut RecordItem<'_>, entry: &mut StuckEntry, error: &DbError) -> bool {
        if !entry.strike(error) {
            let pause = self.backoff(entry.strikes).min(MAX_STRIKE_PAUSE);
            entry.postpone(if error.is_repeatable() { Duration::ZERO } else { pause });
            return true;
        }
        match item.degrade(error) {
            Some(Degraded::Dropped) => return false,
            Some(Degraded::Reduced) => {
                entry.degraded_for.push(error.clone());
                entry.postpone(Duration::ZERO);
            }
            // PostgreSQL rejects every form of the delivery.
            None => {
                entry.extend_time_limit();
                entry.postpone(self.max_backoff);
            }
        }
        true
    }

    fn log_stuck(&self) {
        let stuck = self.shared.stuck.status();
        if let Some(why) = stuck.why {
            tracing::warn!(
                deliveries = stuck.deliveries,
                "some deliveries cannot be recorded, although PostgreSQL records others; they wait in the spool and are retried: {why}"
            );
        }
    }
}
