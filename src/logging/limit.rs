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
        self.add(events);
        self.due()
    }

    /// Counts events for a later line.
    pub(crate) fn add(&self, events: u64) {
        self.state.lock().events += events;
    }

    /// If there are events since the last line and a line may be logged now, returns their number.
    pub(crate) fn due(&self) -> Option<u64> {
        let mut state = self.state.lock();
        if state.events == 0 || state.logged_at.is_some_and(|at| at.elapsed() < self.interval) {
            return None;
        }
        state.logged_at = Some(Instant::now());
        Some(std::mem::take(&mut state.events))
    }

    /// The number of events since the last line, if there are any, without waiting for the interval.
    pub(crate) fn rest(&self) -> Option<u64> {
        Some(std::mem::take(&mut self.state.lock().events)).filter(|events| *events > 0)
    }
}
