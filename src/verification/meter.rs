//! Measures the unsigned deliveries that wait for their verification, also while nothing verifies them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::sleep;

use super::limit::UnverifiedLimit;
use super::status::VerificationStatus;
use crate::db::{ConnectionPool, UnverifiedUsage};
use crate::metrics::Metrics;
use crate::recorder::RecorderView;
use crate::spool::UnverifiedSize;

/// Time between two measurements, with `auth.verify_unsigned` and without it.
const INTERVAL: Duration = Duration::from_secs(2);
const INTERVAL_OFF: Duration = Duration::from_mins(1);
/// The pause after a slow measurement is this many times as long as the measurement took, but at most [`MAX_PAUSE`].
const PAUSE_FACTOR: u32 = 50;
/// Bounded, because during a pause the limit still counts deliveries that are no longer in the table.
const MAX_PAUSE: Duration = Duration::from_secs(30);

pub(crate) struct UnverifiedMeter {
    /// The recorder's pool.
    pub(crate) pool: Arc<ConnectionPool>,
    /// Nothing is measured while recording fails.
    pub(crate) recorder: RecorderView,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limit: Arc<UnverifiedLimit>,
    pub(crate) status: watch::Sender<VerificationStatus>,
}

impl UnverifiedMeter {
    /// Runs until the recorder has ended.
    pub(crate) async fn run(mut self) {
        // The last delivery that the limit counts as `earlier`.
        let mut last_earlier = self.recorder.spool.borrow().last_seq;
        let interval = if self.status.borrow().is_on { INTERVAL } else { INTERVAL_OFF };
        while self.recorder.until_working().await {
            let begun = Instant::now();
            // In this order: the recorder counts a delivery as recorded before it is acked.
            let earlier_acked = *self.recorder.acked.borrow() >= last_earlier;
            let recorded = *self.recorder.unverified.borrow();
            if let Ok(usage) = self.pool.run(async |db| db.unverified_usage().await).await {
                self.measured(usage, recorded, earlier_acked);
                if earlier_acked {
                    last_earlier = self.recorder.spool.borrow().last_seq;
                }
                sleep(pause(begun.elapsed()).max(interval)).await;
            } else {
                // The time of a failed measurement shows nothing about its cost.
                sleep(interval).await;
            }
        }
    }

    fn measured(&self, usage: UnverifiedUsage, recorded: UnverifiedSize, earlier_acked: bool) {
        let is_full = self.limit.measured(&usage, recorded, earlier_acked);
        self.metrics.unverified_waiting.set(usage.rows);
        let age =
            usage.oldest_received_at.map(|oldest| (OffsetDateTime::now_utc() - oldest).as_seconds_f64());
        self.metrics.unverified_oldest_age.set(age.unwrap_or_default().max(0.0));
        self.status.send_modify(|status| (status.usage, status.is_full) = (Some(usage), is_full));
    }
}

/// The pause after a measurement that took this long.
fn pause(took: Duration) -> Duration {
    took.saturating_mul(PAUSE_FACTOR).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_measurement_is_repeated_after_half_a_minute_at_the_latest() {
        assert_eq!(pause(Duration::from_millis(100)), Duration::from_secs(5));
        assert_eq!(pause(Duration::from_secs(20)), MAX_PAUSE);
    }
}
