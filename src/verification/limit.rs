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
    /// Admitted deliveries that were not recorded before the latest measurement began. When all of them are acked, `later`
    /// replaces the rest, because deliveries that the spool rejected or lost are never recorded.
    earlier: UnverifiedSize,
    /// The deliveries that were admitted after `earlier` was last replaced.
    later: UnverifiedSize,
    /// The deliveries that were recorded from the start until the latest measurement began. `earlier` and `later` are without
    /// them.
    recorded: UnverifiedSize,
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
        let mut state = self.state.lock();
        let mut later = state.later;
        later.add(bytes);
        let sizes = [state.table, state.earlier, later];
        let rows = sizes.iter().fold(0, |rows: i64, size| rows.saturating_add(size.rows));
        let bytes = sizes.iter().fold(0, |bytes: i64, size| bytes.saturating_add(size.bytes));
        let fits = rows <= self.limits.max_rows && bytes <= self.limits.max_bytes;
        if fits {
            state.later = later;
        } else {
            state.has_rejected = true;
            // Not only by the next measurement: nothing is measured while PostgreSQL cannot be reached.
            self.status.send_if_modified(|status| !std::mem::replace(&mut status.is_full, true));
        }
        fits
    }

    /// The spool has rejected an admitted delivery.
    pub(crate) fn withdraw(&self, bytes: usize) {
        let mut rejected = UnverifiedSize::default();
        rejected.add(bytes);
        let mut state = self.state.lock();
        state.later = state.later.without(rejected);
    }

    /// Sets the measured size of the table. Before the measurement began, the deliveries of `recorded` were recorded since
    /// the start, and, with `earlier_acked`, the earlier deliveries were acked. Returns whether a delivery was rejected since
    /// the last measurement.
    pub(super) fn measured(
        &self,
        usage: &UnverifiedUsage,
        recorded: UnverifiedSize,
        earlier_acked: bool,
    ) -> bool {
        let mut state = self.state.lock();
        state.table = UnverifiedSize { rows: usage.rows, bytes: usage.bytes };
        let newly_recorded = recorded.without(state.recorded);
        state.recorded = recorded;
        state.later = state.later.without(newly_recorded.without(state.earlier));
        state.earlier = state.earlier.without(newly_recorded);
        if earlier_acked {
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
        let measured = |rows, recorded, earlier_acked| {
            let recorded = UnverifiedSize { rows: recorded, bytes: 10 * recorded };
            let usage = UnverifiedUsage { rows, ..UnverifiedUsage::default() };
            limit.measured(&usage, recorded, earlier_acked)
        };
        assert!(measured(0, 0, true), "one was rejected");
        assert!(limit.admit(10) && limit.admit(10) && !limit.admit(10), "the first may be in the spool");
        assert!(measured(0, 0, false) && !limit.admit(10), "none is recorded yet");
        assert!(measured(1, 1, false) && !limit.admit(10), "one is recorded and waits");
        assert!(measured(1, 3, false), "a delivery before them is stuck");
        assert!(limit.admit(10) && limit.admit(10) && !limit.admit(10));
        assert!(measured(0, 4, false), "one is confirmed, and one is lost");
        assert!(limit.admit(10) && limit.admit(10) && !limit.admit(10));
        assert!(measured(0, 6, true) && !measured(0, 6, true));
        assert!(limit.admit(90) && !limit.admit(11), "no delivery counts any more");
        limit.withdraw(90);
        assert!(limit.admit(100));
    }
}
