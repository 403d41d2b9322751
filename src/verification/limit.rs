//! Limits the unsigned deliveries that wait for their verification. They were answered 200, so the recorder cannot drop
//! them: the webhook handler has to reject further ones.

use parking_lot::Mutex;
use tokio::sync::watch;

use super::status::VerificationStatus;
use crate::config;
use crate::db::UnverifiedUsage;
use crate::spool::UnverifiedSize;

#[derive(Debug)]
pub(crate) struct UnverifiedLimit {
    limits: config::Verification,
    state: Mutex<State>,
    pub(crate) status: watch::Sender<VerificationStatus>,
}

/// The limits apply to the sum of the three sizes. A delivery can be counted twice: in the table, and in `earlier` or `later`.
#[derive(Debug, Default)]
struct State {
    /// In `unverified_deliveries`, by the latest measurement.
    table: UnverifiedSize,
    /// Admitted deliveries that may not be in the table yet. When a measurement finds all of them recorded, `later` replaces
    /// them.
    earlier: UnverifiedSize,
    /// The deliveries that were admitted after `earlier` was last replaced.
    later: UnverifiedSize,
    /// Whether a delivery was rejected since the latest measurement.
    has_rejected: bool,
}

impl UnverifiedLimit {
    /// `spooled`: the deliveries that the spool holds at the start.
    pub(crate) fn new(
        limits: config::Verification,
        spooled: UnverifiedSize,
        status: watch::Sender<VerificationStatus>,
    ) -> Self {
        let state = State { earlier: spooled, ..State::default() };
        Self { limits, state: Mutex::new(state), status }
    }

    /// Counts a delivery with a body of `bytes`. False at a limit: then it is not counted.
    pub(crate) fn admit(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut state = self.state.lock();
        let sizes = [state.table, state.earlier, state.later];
        let rows = sizes.iter().fold(1, |rows: i64, size| rows.saturating_add(size.rows));
        let total = sizes.iter().fold(bytes, |total, size| total.saturating_add(size.bytes));
        let fits = rows <= self.limits.max_rows && total <= self.limits.max_bytes;
        if fits {
            state.later.rows += 1;
            state.later.bytes += bytes;
        } else {
            state.has_rejected = true;
            // Not only by the next measurement: nothing is measured while PostgreSQL cannot be reached.
            self.status.send_if_modified(|status| !std::mem::replace(&mut status.is_full, true));
        }
        fits
    }

    /// Sets the measured size of the table. `earlier_recorded`: before the measurement began, the earlier deliveries were
    /// recorded. Returns whether a delivery was rejected since the last measurement.
    pub(super) fn measured(&self, usage: &UnverifiedUsage, earlier_recorded: bool) -> bool {
        let mut state = self.state.lock();
        state.table = UnverifiedSize { rows: usage.rows, bytes: usage.bytes };
        if earlier_recorded {
            state.earlier = std::mem::take(&mut state.later);
        }
        std::mem::take(&mut state.has_rejected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_in_the_table_and_on_their_way_to_it_count() {
        let grace = std::time::Duration::ZERO;
        let limits = config::Verification { max_rows: 3, max_bytes: 100, grace, max_requests_per_minute: 1 };
        let (status, _) = watch::channel(VerificationStatus::default());
        let limit = UnverifiedLimit::new(limits, UnverifiedSize::default(), status);
        assert!(limit.admit(10) && !limit.admit(91), "bytes");
        let usage = |rows| UnverifiedUsage { rows, ..UnverifiedUsage::default() };
        assert!(limit.measured(&usage(0), true), "one was rejected");
        assert!(limit.admit(10) && limit.admit(10) && !limit.admit(10), "the first may be in the spool");
        assert!(limit.measured(&usage(0), false) && !limit.admit(10), "none is recorded yet");
        assert!(limit.measured(&usage(1), true));
        assert!(!limit.admit(10));
        assert!(limit.measured(&usage(2), true));
        assert!(limit.admit(10) && !limit.admit(10));
        assert!(limit.measured(&usage(0), true) && !limit.measured(&usage(0), true));
    }
}
