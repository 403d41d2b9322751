//! What is kept only so long: the way through what is recorded, and the removal of what is too old.
//!
//! Both who removes, the [`Pruner`] in a running receiver and `workflow-receiver prune`, walk through
//! one table after the other, in the order of time, and rest between batches.

mod pruner;

use std::time::{Duration, Instant};

use time::OffsetDateTime;

pub(crate) use pruner::Pruner;

use crate::store::{Cutoffs, Fault, Kind, Store, Table, Walked};

/// How long a batch is to take: whatever it locks is soon free again.
const BATCH: Duration = Duration::from_millis(100);
/// The first one of a walk.
const FIRST_ROWS: i64 = 100;
/// More at once is hardly faster.
const MOST_ROWS: i64 = 1_000;

/// The way through a table.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) table: Table,
    /// The row that was reached.
    pub(crate) at: Walked,
    /// How many rows the next batch looks at.
    rows: i64,
}

impl Walk {
    /// The ways through all tables, from their beginnings.
    pub(crate) fn through_all() -> [Self; 4] {
        Table::ALL.map(|table| Self { table, at: Walked::nothing(), rows: FIRST_ROWS })
    }

    /// Looks at the next rows and removes what of them is too old, or only tells it when `dry`:
    /// `tell` hears the kind, and when each of these rows first came. How long that took; `None` when
    /// there are no more rows to look at. After a fault, the next call looks at the same rows.
    pub(crate) async fn step(
        &mut self,
        store: &mut Store,
        cutoffs: &Cutoffs,
        dry: bool,
        mut tell: impl FnMut(Kind, &[OffsetDateTime]),
    ) -> Result<Option<Duration>, Fault> {
        if cutoffs.end_of(self.table).is_none() {
            return Ok(None);
        }
        let begun = Instant::now();
        let walked = store.walk(self.table, &self.at, cutoffs, self.rows).await?;
        for kind in Kind::ALL {
            let due = || walked.iter().filter(|row| row.due(self.table) == Some(kind));
            if due().next().is_none() {
                continue;
            }
            let gone = if dry {
                due().map(|row| row.first_received_at).collect()
            } else {
                let ids: Vec<_> = due().map(|row| row.id.clone()).collect();
                store.remove(kind, &ids, cutoffs).await?
            };
            tell(kind, &gone);
        }
        let Some(last) = walked.into_iter().last() else { return Ok(None) };
        self.at = last;
        let took = begun.elapsed();
        self.rows = if took > BATCH { self.rows / 2 } else { self.rows * 2 }.clamp(1, MOST_ROWS);
        Ok(Some(took))
    }

    /// Looks at less: that took too long.
    pub(crate) fn lessen(&mut self) {
        self.rows = (self.rows / 2).max(1);
    }
}
