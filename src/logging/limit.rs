//! Limits log lines whose number a peer controls.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Allows one log line in each interval.
#[derive(Debug)]
pub(crate) struct LineLimit {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    logged_at: Option<Instant>,
    events: u64,
}

impl Default for LineLimit {
    /// One line a minute.
    fn default() -> Self {
        Self::every(Duration::from_mins(1))
    }
}

impl LineLimit {
    pub(crate) fn every(interval: Duration) -> Self {
        Self { interval, state: Mutex::default() }
    }

    /// Counts events. If a line may be logged now, returns the number of events since the last line.
    pub(crate) fn count(&self, events: u64) -> Option<u64> {
        if events == 0 {
            return None;
        }
        let mut state = self.state.lock();
        state.events += events;
        if state.logged_at.is_some_and(|at| at.elapsed() < self.interval) {
            return None;
        }
        state.logged_at = Some(Instant::now());
        Some(std::mem::take(&mut state.events))
    }
}
