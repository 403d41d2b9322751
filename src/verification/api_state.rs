//! Whether the API answers, by the latest checks of several deliveries.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The API counts as failing if the latest requests for this many deliveries failed. A single delivery can cause a failure
/// itself.
const FAILING_FROM: usize = 2;
/// A failed request counts as a strike against its delivery if the API has answered another request within this time.
const ANSWERED_WITHIN: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct ApiState(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Deliveries whose request failed since the latest answer, at most [`FAILING_FROM`].
    failed: HashSet<i64>,
    answered_at: Option<Instant>,
}

impl ApiState {
    /// The API has answered. Returns whether it was failing.
    pub(super) fn answered(&self) -> bool {
        let mut state = self.0.lock();
        state.answered_at = Some(Instant::now());
        let was_failing = state.failed.len() >= FAILING_FROM;
        state.failed.clear();
        was_failing
    }

    /// The request for a delivery has failed. Returns whether the API begins to fail.
    pub(super) fn failed(&self, unverified_id: i64) -> bool {
        let mut state = self.0.lock();
        state.failed.len() < FAILING_FROM
            && state.failed.insert(unverified_id)
            && state.failed.len() == FAILING_FROM
    }

    pub(super) fn is_failing(&self) -> bool {
        self.0.lock().failed.len() >= FAILING_FROM
    }

    /// Whether the API has answered a short time ago.
    pub(super) fn answers_others(&self) -> bool {
        self.0.lock().answered_at.is_some_and(|at| at.elapsed() < ANSWERED_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_fails_if_the_requests_for_several_deliveries_failed() {
        let api = ApiState::default();
        assert!(!api.failed(1) && !api.failed(1) && !api.is_failing() && !api.answers_others());
        assert!(api.failed(2) && !api.failed(3) && api.is_failing());
        assert!(api.answered() && !api.answered() && !api.is_failing() && api.answers_others());
    }
}
