//! When recording last made progress.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::spool::Recorded;

/// When the recorder last acknowledged deliveries to the spool, by the monotonic clock: the system's may be set.
#[derive(Debug, Clone)]
pub(crate) struct RecordingProgress(Arc<Mutex<Instant>>);

impl RecordingProgress {
    /// Counts from now, and the task that follows `recorded` until the recorder ends.
    pub(crate) fn follow(mut recorded: watch::Receiver<Recorded>) -> (Self, impl Future<Output = ()>) {
        let progress = Self(Arc::new(Mutex::new(Instant::now())));
        let last = progress.0.clone();
        let follow = async move {
            while recorded.changed().await.is_ok() {
                *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
        };
        (progress, follow)
    }

    /// How long before `now` that was.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
