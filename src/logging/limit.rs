//! Limits log lines whose number a peer controls.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const INTERVAL: Duration = Duration::from_mins(1);

/// Allows one log line a minute.
#[derive(Debug, Default)]
pub(crate) struct LineLimit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    logged_at: Option<Instant>,
    events: u64,
}

impl LineLimit {
    /// Counts an event. If a line may be logged now, returns the number of events since the last line.
    pub(crate) fn count(&self) -> Option<u64> {
        let mut state = self.0.lock();
        state.events += 1;
        if state.logged_at.is_some_and(|at| at.elapsed() < INTERVAL) {
            return None;
        }
        state.logged_at = Some(Instant::now());
        Some(std::mem::take(&mut state.events))
    }
}
