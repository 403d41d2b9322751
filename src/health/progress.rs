//! The time since the last progress of recording.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::recorder::StuckStatus;

/// When the recorder last handled deliveries, by the monotonic clock, because the system clock can be changed. Deliveries
/// after a stuck one count as handled, too.
#[derive(Debug, Clone)]
pub(crate) struct RecordingProgress(Arc<Mutex<Instant>>);

impl RecordingProgress {
    /// Returns the progress, and the task that updates it from `stuck` until the recorder ends.
    pub(crate) fn follow(mut stuck: watch::Receiver<StuckStatus>) -> (Self, impl Future<Output = ()>) {
        let progress = Self(Arc::new(Mutex::new(Instant::now())));
        let last = progress.0.clone();
        let follow = async move {
            let mut before = stuck.borrow_and_update().clone();
            while stuck.changed().await.is_ok() {
                let after = stuck.borrow_and_update().clone();
                // More deliveries are handled, or a stuck one is recorded.
                if after.handled > before.handled || after.deliveries < before.deliveries {
                    *last.lock() = Instant::now();
                }
                before = after;
            }
        };
        (progress, follow)
    }

    /// The time from the last progress to `now`.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.0.lock())
    }
}
