//! Removes expired rows: in the background ([`Pruner`]), or by `workflow-receiver prune`.
//!
//! Both walk through one table after the other, in the order of time, and pause between batches.

mod clock;
mod pruner;

use std::time::{Duration, Instant};

use strum::VariantArray;
use time::OffsetDateTime;

pub(crate) use clock::{ClockSkew, Clocks, MAX_CLOCK_SKEW};
pub(crate) use pruner::{Pruner, RetentionState};

use crate::db::{Cutoffs, DbConnection, DbError, RetentionTarget, Visited};

/// The target duration of a batch, which holds its locks for this time.
const BATCH_DURATION: Duration = Duration::from_millis(100);
/// Rows of the first batch of a walk.
const FIRST_ROWS: i64 = 100;
/// Larger batches are hardly faster.
const MAX_ROWS: i64 = 1_000;

/// What a step does with expired rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    DryRun,
    Always,
    /// Removes them unless another receiver prunes the database.
    Exclusive,
}

/// The result of a step.
#[derive(Debug)]
pub(crate) enum Step {
    Walked {
        /// The `first_received_at` of the expired rows.
        expired: Vec<OffsetDateTime>,
        took: Duration,
    },
    /// All rows are visited.
    End,
    /// Another receiver prunes this database.
    Busy,
}

/// A walk through the rows of one target.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) target: RetentionTarget,
    /// The last visited row.
    pub(crate) at: Visited,
    /// How many rows the next batch visits.
    rows: i64,
}

impl Walk {
    /// A walk for each target, in the order of removal.
    pub(crate) fn all() -> Vec<Self> {
        let walk =
            |target: &RetentionTarget| Self { target: *target, at: Visited::start(), rows: FIRST_ROWS };
        RetentionTarget::VARIANTS.iter().map(walk).collect()
    }

    /// Visits the next rows and removes the expired ones, in one transaction. After an error, the next call visits the
    /// same rows.
    pub(crate) async fn step(
        &mut self,
        connection: &mut DbConnection,
        cutoffs: &Cutoffs,
        removal: Removal,
    ) -> Result<Step, DbError> {
        if cutoffs.of(self.target).is_none() {
            return Ok(Step::End);
        }
        let begun = Instant::now();
        let Some(mut transaction) = connection.begin_pruning(removal == Removal::Exclusive).await? else {
            return Ok(Step::Busy);
        };
        let visited = transaction.walk(self.target, &self.at, cutoffs, self.rows).await?;
        let last = visited.last().cloned();
        let due = visited.into_iter().filter(|row| row.due);
        let expired = if removal == Removal::DryRun {
            due.map(|row| row.first_received_at).collect()
        } else {
            let ids: Vec<_> = due.map(|row| row.id).collect();
            if ids.is_empty() { Vec::new() } else { transaction.remove(self.target, &ids, cutoffs).await? }
        };
        transaction.commit().await?;
        let Some(last) = last else { return Ok(Step::End) };
        self.at = last;
        let took = begun.elapsed();
        self.rows = if took > BATCH_DURATION { self.rows / 2 } else { self.rows * 2 }.clamp(1, MAX_ROWS);
        Ok(Step::Walked { expired, took })
    }

    /// Halves the batch after an error, which may be a timeout.
    pub(crate) fn shrink(&mut self) {
        self.rows = (self.rows / 2).max(1);
    }
}
