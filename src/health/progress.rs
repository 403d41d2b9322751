//! When recording last made progress.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::recorder::Stuck;

/// When the recorder last handled deliveries, by the monotonic clock: the system's may be set. A stuck delivery does not
/// keep those after it from being handled.
#[derive(Debug, Clone)]
pub(crate) struct RecordingProgress(Arc<Mutex<Instant>>);

impl RecordingProgress {
    /// Counts from now, and the task that follows `stuck` until the recorder ends.
    pub(crate) fn follow(mut stuck: watch::Receiver<Stuck>) -> (Self, impl Future<Output = ()>) {
        let progress = Self(Arc::new(Mutex::new(Instant::now())));
        let last = progress.0.clone();
        let follow = async move {
            let mut state = stuck.borrow_and_update().clone();
            while stuck.changed().await.is_ok() {
                let now = stuck.borrow_and_update().clone();
                // More is handled, or a stuck delivery is recorded.
                if now.handled > state.handled || now.deliveries < state.deliveries {
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                }
                state = now;
            }
        };
        (progress, follow)
    }

    /// How long before `now` that was.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
