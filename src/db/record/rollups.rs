//! The changes of a batch to the counts of bulks and to the rollups by hour and day.

use std::borrow::Cow;
use std::collections::BTreeMap;

use time::{Date, OffsetDateTime, UtcOffset};

use super::rounds::Group;
use crate::db::{DbError, Transaction};
use crate::execution::cost::picos;
use crate::execution::status::{COMPLETED, class};

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
///
/// The maps are in the order of the keys in PostgreSQL. The statements insert, and lock, the rows in this order.
#[derive(Default)]
pub(in crate::db) struct Rollups<'r> {
    bulks: BTreeMap<Text<'r>, BulkChange>,
    /// By hour and workflow.
    hours: BTreeMap<(OffsetDateTime, Text<'r>), StatusCounts>,
    /// By day and workflow.
    days: BTreeMap<(Date, Text<'r>), DayChange>,
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

/// An array for each of [`StatusCounts::columns`].
type CountArrays = (Vec<i32>, Vec<i32>, Vec<i32>, Vec<i32>, Vec<i32>);

/// By class of status: how many executions got such a status minus how many lost it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct StatusCounts {
    completed: i32,
    failed: i32,
    cancelled: i32,
    other: i32,
}

#[derive(Default, PartialEq, Eq)]
struct DayChange {
    executions: i32,
    with_cost: i32,
    /// In units of 10⁻¹².
    picos: i128,
}

struct BulkChange {
    executions: StatusCounts,
    first_received_at: OffsetDateTime,
    last_received_at: OffsetDateTime,
}

impl StatusCounts {
    fn add(&mut self, status: &str, change: i32) {
        let count = match class(status) {
            COMPLETED => &mut self.completed,
            "failed" => &mut self.failed,
            "cancelled" => &mut self.cancelled,
            _ => &mut self.other,
        };
        *count += change;
    }

    /// The columns of a row: the sum, then each count.
    fn columns(self) -> (i32, i32, i32, i32, i32) {
        let Self { completed, failed, cancelled, other } = self;
        (completed + failed + cancelled + other, completed, failed, cancelled, other)
    }
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

    /// Counts an execution of the same bulk and status in another hour and day, or with another cost.
    pub(in crate::db) fn recounted(&mut self, before: CountedExecution<'r>, after: CountedExecution<'r>) {
        self.count_in_periods(after, 1);
        self.count_in_periods(before, -1);
    }

    fn count_in_bulk(&mut self, execution: &CountedExecution<'r>, change: i32, at: OffsetDateTime) {
        let Some(bulk_id) = &execution.bulk_id else { return };
        let none =
            BulkChange { executions: StatusCounts::default(), first_received_at: at, last_received_at: at };
        let bulk = self.bulks.entry(bulk_id.clone()).or_insert(none);
        bulk.executions.add(&execution.status, change);
        bulk.first_received_at = bulk.first_received_at.min(at);
        bulk.last_received_at = bulk.last_received_at.max(at);
    }

    fn count_in_periods(&mut self, execution: CountedExecution<'r>, change: i32) {
        let CountedExecution { workflow_id, status, total_cost, first_received_at, .. } = execution;
        let at = first_received_at.to_offset(UtcOffset::UTC);
        let hour = self.hours.entry((at.truncate_to_hour(), workflow_id.clone())).or_default();
        hour.add(&status, change);
        let day = self.days.entry((at.date(), workflow_id)).or_default();
        day.executions += change;
        if let Some(picos) = total_cost.as_deref().and_then(picos) {
            day.with_cost += change;
            day.picos += i128::from(change) * picos;
        }
    }

    pub(in crate::db) fn bulk_ids(&self) -> Vec<&str> {
        self.bulks.keys().map(|bulk_id| &**bulk_id).collect()
    }

    /// Applies the changes, after the executions are written. The rollups are last, because all receivers update the rows
    /// of the current hour, which stay locked until the commit.
    pub(in crate::db) async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), DbError> {
        self.apply_to_bulks(transaction).await?;
        self.apply_to_hours(transaction).await?;
        self.apply_to_days(transaction).await
    }

    async fn apply_to_bulks(&self, transaction: &mut Transaction<'_>) -> Result<(), DbError> {
        let bulks = self.bulk_ids();
        let counts = self.bulks.values().map(|change| change.executions.columns());
        let (received, completed, failed, cancelled, other): CountArrays = counts.collect();
        let times = self.bulks.values().map(|change| (change.first_received_at, change.last_received_at));
        let (first, last): (Vec<_>, Vec<_>) = times.unzip();
        if !bulks.is_empty() {
            let written = sqlx::query_file!(
                "src/db/record/upsert_bulks.sql",
                &bulks as _,
                &received,
                &completed,
                &failed,
                &cancelled,
                &other,
                &first,
                &last
            )
            .execute(transaction)
            .await
            .map_err(DbError::while_writing_bulks)?;
            DbError::check_written("bulks", &written, bulks.len())?;
        }
        Ok(())
    }

    async fn apply_to_hours(&self, transaction: &mut Transaction<'_>) -> Result<(), DbError> {
        let changes = self.hours.iter().filter(|(_, change)| **change != StatusCounts::default());
        let keys = changes.clone().map(|((hour, workflow_id), _)| (*hour, &**workflow_id));
        let (hours, workflows): (Vec<_>, Vec<_>) = keys.unzip();
        let counts = changes.map(|(_, change)| change.columns());
        let (executions, completed, failed, cancelled, other): CountArrays = counts.collect();
        if !hours.is_empty() {
            let written = sqlx::query_file!(
                "src/db/record/upsert_hours.sql",
                &hours,
                &workflows as _,
                &executions,
                &completed,
                &failed,
                &cancelled,
                &other
            )
            .execute(transaction)
            .await?;
            DbError::check_written("workflow_hours", &written, hours.len())?;
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
