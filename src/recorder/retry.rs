//! Retries stuck deliveries, and degrades those that PostgreSQL rejects.

use std::time::{Duration, Instant};

use super::Recorder;
use super::batches::SharedReader;
use super::canary::Canary;
use super::stuck::{Blocked, StuckEntry};
use crate::db::{DbError, Degraded, RecordItem};
use crate::delivery::Disposition;
use crate::spool::{BatchLimits, SpoolError};

/// The longest pause between two strikes. It is short, because PostgreSQL records other deliveries.
const MAX_STRIKE_PAUSE: Duration = Duration::from_secs(1);
/// Minimum time between two log lines about stuck deliveries.
const LOG_STUCK_INTERVAL: Duration = Duration::from_mins(1);

impl Recorder {
    /// Retries stuck deliveries, one at a time, until the list is closed and empty.
    ///
    /// # Errors
    /// [`SpoolError`] when the spool cannot be read.
    pub(super) async fn retry_stuck(&self, reader: SharedReader) -> Result<(), SpoolError> {
        let (mut failed_canaries, mut logged_at) = (0, None);
        while let Some((seq, mut entry)) = self.shared.stuck.next().await {
            let read = reader.next(seq - 1, BatchLimits { rows: 1, bytes: 0 }).await?;
            let Some(spooled) = read.first().filter(|spooled| spooled.seq == seq) else {
                // The spool reports the loss itself.
                self.shared.stuck.remove(seq, &self.progress());
                continue;
            };
            let mut item = [RecordItem::from_spooled(&spooled.delivery, spooled.intact)];
            for error in &entry.degraded_for {
                item[0].degrade(error);
            }
            let limits = self.retry_limits(entry.time_limit(self.statement_timeout));
            let Err((error, canary)) = self.attempt(&item, Some(limits), &mut failed_canaries).await else {
                self.shared.stuck.remove(seq, &self.progress());
                continue;
            };
            let why = match canary {
                Canary::Fails(why) => {
                    entry.reset_strikes();
                    self.shared.stuck.put_back(seq, entry, &why, &self.progress());
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
                        self.shared.stuck.remove(seq, &self.progress());
                        continue;
                    }
                    error
                }
            };
            self.recovered(&mut failed_canaries);
            if !matches!(why, DbError::InvalidRow { .. }) {
                self.metrics.record_retries.inc();
            }
            self.shared.stuck.put_back(seq, entry, &why, &self.progress());
            self.log_stuck(&mut logged_at);
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

    /// Logs that deliveries are stuck, at once and then at most every [`LOG_STUCK_INTERVAL`].
    fn log_stuck(&self, logged_at: &mut Option<Instant>) {
        if logged_at.is_some_and(|at| at.elapsed() < LOG_STUCK_INTERVAL) {
            return;
        }
        *logged_at = Some(Instant::now());
        let stuck = self.stuck.borrow().clone();
        if let Some(why) = stuck.why {
            tracing::warn!(
                deliveries = stuck.deliveries,
                "deliveries fail alone while others are recorded; they wait in the spool and are retried: {why}"
            );
        }
    }
}
