//! The changes of a batch to the counts of bulks and to the rollups by hour and day.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use time::{Date, OffsetDateTime, UtcOffset};

use super::rounds::Group;
use crate::db::{DbError, Transaction};
use crate::execution::cost::picos;

/// Borrowed if it is from the batch, owned if it is from the database.
type Text<'r> = Cow<'r, str>;

#[derive(Clone)]
pub(in crate::db) struct CountedExecution<'r> {
    pub(in crate::db) workflow_id: Text<'r>,
    pub(in crate::db) bulk_id: Option<Text<'r>>,
    pub(in crate::db) status: Text<'r>,
    pub(in crate::db) total_cost: Option<Text<'r>>,
    pub(in crate::db) first_received_at: OffsetDateTime,
}

/// The change of each count. A new execution adds 1. A replacement subtracts 1 for the previous state of the execution
/// and adds 1 for the new state. One statement per table applies all changes.
#[derive(Default)]
pub(in crate::db) struct Rollups<'r> {
    /// By bulk and status.
    bulks: HashMap<(Text<'r>, Text<'r>), BulkChange>,
    /// By hour, workflow and status.
    hours: HashMap<(OffsetDateTime, Text<'r>, Text<'r>), i32>,
    /// By day and workflow.
    days: HashMap<(Date, Text<'r>), DayChange>,
}

impl<'r> From<&Group<'r>> for CountedExecution<'r> {
    fn from(group: &Group<'r>) -> Self {
        let execution = &group.row.execution;
        Self {
            // Never empty: only executions of workflows are counted, and each has a workflow.
            workflow_id: Cow::Borrowed(execution.workflow_id.as_deref().unwrap_or_default()),
            bulk_id: execution.bulk_id.as_deref().map(Cow::Borrowed),
            status: Cow::Borrowed(&execution.status),
            total_cost: execution.total_cost.map(Cow::Borrowed),
            first_received_at: group.first_received_at,
        }
    }
}

#[derive(Default, PartialEq, Eq)]
struct DayChange {
    executions: i32,
    with_cost: i32,
    /// In units of 10⁻¹².
    picos: i128,
}

struct BulkChange {
    executions: i32,
    first_received_at: OffsetDateTime,
    last_received_at: OffsetDateTime,
}

impl<'r> Rollups<'r> {
    /// Counts a new execution. Its delivery was received at the time `at`.
    pub(in crate::db) fn added(&mut self, execution: CountedExecution<'r>, at: OffsetDateTime) {
        self.count_in_bulk(&execution, 1, at);
        self.count_in_periods(execution, 1);
    }

    /// Subtracts an execution whose recording was undone.
    pub(in crate::db) fn removed(&mut self, execution: CountedExecution<'r>) {
        self.count_in_bulk(&execution, -1, execution.first_received_at);
        self.count_in_periods(execution, -1);
    }

    /// Counts a replaced execution. Its new delivery was received at the time `at`.
    pub(in crate::db) fn replaced(
        &mut self,
        before: CountedExecution<'r>,
        after: CountedExecution<'r>,
        at: OffsetDateTime,
    ) {
        self.count_in_bulk(&before, -1, at);
        self.count_in_periods(before, -1);
        self.added(after, at);
    }

    /// Moves an execution to the hour and day of `first_received_at`.
    pub(in crate::db) fn shifted(&mut self, before: CountedExecution<'r>, first_received_at: OffsetDateTime) {
        self.count_in_periods(CountedExecution { first_received_at, ..before.clone() }, 1);
        self.count_in_periods(before, -1);
    }

    fn count_in_bulk(&mut self, execution: &CountedExecution<'r>, change: i32, at: OffsetDateTime) {
        let Some(bulk_id) = &execution.bulk_id else { return };
        let key = (bulk_id.clone(), execution.status.clone());
        let none = BulkChange { executions: 0, first_received_at: at, last_received_at: at };
        let bulk = self.bulks.entry(key).or_insert(none);
        bulk.executions += change;
        bulk.first_received_at = bulk.first_received_at.min(at);
        bulk.last_received_at = bulk.last_received_at.max(at);
    }

    fn count_in_periods(&mut self, execution: CountedExecution<'r>, change: i32) {
        let CountedExecution { workflow_id, status, total_cost, first_received_at, .. } = execution;
        let at = first_received_at.to_offset(UtcOffset::UTC);
        *self.hours.entry((at.truncate_to_hour(), workflow_id.clone(), status)).or_default() += change;
        let day = self.days.entry((at.date(), workflow_id)).or_default();
        day.executions += change;
        if let Some(picos) = total_cost.as_deref().and_then(picos) {
            day.with_cost += change;
            day.picos += i128::from(change) * picos;
        }
    }

    /// Applies the changes, after the executions are written. The rollups are last, because all receivers update the rows
    /// of the current hour, which stay locked until the commit.
    pub(in crate::db) async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), DbError> {
        self.apply_to_bulks(transaction).await?;
        self.apply_to_hours(transaction).await?;
        self.apply_to_days(transaction).await
    }

    async fn apply_to_bulks(&self, transaction: &mut Transaction<'_>) -> Result<(), DbError> {
        let changes = self.bulks.iter().map(|((bulk_id, status), change)| {
            let BulkChange { executions, first_received_at, last_received_at } = *change;
            (&**bulk_id, &**status, executions, first_received_at, last_received_at)
        });
        let (bulks, statuses, executions, first, last): (Vec<_>, Vec<_>, Vec<_>, Vec<_>, Vec<_>) =
            changes.collect();
        if !bulks.is_empty() {
            let written = sqlx::query_file!(
                "src/db/record/upsert_bulks.sql",
                &bulks as _,
                &statuses as _,
                &executions,
                &first,
                &last
            )
            .execute(transaction)
            .await
            .map_err(DbError::while_writing_bulks)?;
            DbError::check_written("bulks", &written, bulks.iter().collect::<HashSet<_>>().len())?;
        }
        Ok(())
    }

    async fn apply_to_hours(&self, transaction: &mut Transaction<'_>) -> Result<(), DbError> {
        let changes = self.hours.iter().filter(|(_, change)| **change != 0);
        let changes =
            changes.map(|((hour, workflow_id, status), change)| (*hour, &**workflow_id, &**status, *change));
        let (hours, workflows, statuses, changes): (Vec<_>, Vec<_>, Vec<_>, Vec<_>) = changes.collect();
        if !hours.is_empty() {
            let written = sqlx::query_file!(
                "src/db/record/upsert_hours.sql",
                &hours,
                &workflows as _,
                &statuses as _,
                &changes
            )
            .execute(transaction)
            .await?;
            DbError::check_written(
                "workflow_hours",
                &written,
                hours.iter().zip(&workflows).collect::<HashSet<_>>().len(),
            )?;
        }
        Ok(())
    }

    async fn apply_to_days(&self, transaction: &mut Transaction<'_>) -> Result<(), DbError> {
        let changes = self.days.iter().filter(|(_, change)| **change != DayChange::default());
        let changes = changes.map(|((day, workflow_id), change)| {
            let DayChange { executions, with_cost, picos } = *change;
            (*day, &**workflow_id, executions, with_cost, format!("{picos}e-12"))
        });
        let (days, workflows, executions, with_cost, costs): (Vec<_>, Vec<_>, Vec<_>, Vec<_>, Vec<_>) =
            changes.collect();
        if !days.is_empty() {
            let written = sqlx::query_file!(
                "src/db/record/upsert_days.sql",
                &days,
                &workflows as _,
                &executions,
                &with_cost,
                &costs
            )
            .execute(transaction)
            .await?;
            DbError::check_written("workflow_days", &written, days.len())?;
        }
        Ok(())
    }
}
