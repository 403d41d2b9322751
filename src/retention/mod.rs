//! What is kept only so long: the way through what is recorded, and the removal of what is too old.
//!
//! Both who removes, the [`Pruner`] in a running receiver and `workflow-receiver prune`, walk through
//! one kind after the other, in the order of time, and rest between batches.

mod clock;
mod pruner;

use std::time::{Duration, Instant};

use time::OffsetDateTime;

pub(crate) use clock::{ClockSkew, Clocks, MAX_CLOCK_SKEW};
pub(crate) use pruner::{Pruner, RetentionState};

use crate::db::{Cutoffs, DbConnection, DbError, RetentionTarget, Visited};

/// How long a batch is to take: whatever it locks is soon free again.
const BATCH: Duration = Duration::from_millis(100);
/// The first one of a walk.
const FIRST_ROWS: i64 = 100;
/// More at once is hardly faster.
const MOST_ROWS: i64 = 1_000;

/// The way through all that is recorded of a kind.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) kind: RetentionTarget,
    /// The row that was reached.
    pub(crate) at: Visited,
    /// How many rows the next batch looks at.
    rows: i64,
}

impl Walk {
    /// The ways through all kinds, from their beginnings.
    pub(crate) fn through_all() -> [Self; 5] {
        RetentionTarget::ALL.map(|kind| Self { kind, at: Visited::nothing(), rows: FIRST_ROWS })
    }

    /// Looks at the next rows and removes what of them is too old, or only tells it when `dry`: when
    /// each of these first came, and how long that took. `None` when there are no more rows to look
    /// at. After a fault, the next call looks at the same rows.
    pub(crate) async fn step(
        &mut self,
        store: &mut DbConnection,
        cutoffs: &Cutoffs,
        dry: bool,
    ) -> Result<Option<(Vec<OffsetDateTime>, Duration)>, DbError> {
        if cutoffs.of(self.kind).is_none() {
            return Ok(None);
        }
        let begun = Instant::now();
        let walked = store.walk(self.kind, &self.at, cutoffs, self.rows).await?;
        let Some(last) = walked.last().cloned() else { return Ok(None) };
        let due = walked.into_iter().filter(|row| row.due);
        let gone = if dry {
            due.map(|row| row.first_received_at).collect()
        } else {
            let ids: Vec<_> = due.map(|row| row.id).collect();
            if ids.is_empty() { Vec::new() } else { store.remove(self.kind, &ids, cutoffs).await? }
        };
        self.at = last;
        let took = begun.elapsed();
        self.rows = if took > BATCH { self.rows / 2 } else { self.rows * 2 }.clamp(1, MOST_ROWS);
        Ok(Some((gone, took)))
    }

    /// Looks at less: that took too long.
    pub(crate) fn shrink(&mut self) {
        self.rows = (self.rows / 2).max(1);
    }
}
