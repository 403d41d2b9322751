//! Recording a batch: one transaction, whatever it holds.

pub(super) mod item;
mod quarantine;
pub(super) mod rollups;
mod rounds;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use self::item::{RecordItem, Row};
pub(super) use self::quarantine::insert_quarantined;
use self::rollups::{CountedExecution, Rollups};
use self::rounds::{Group, split_rounds};
use super::{DbConnection, DbError, TimeLimits};
use crate::auth::AuthMethod;
use crate::config;
use crate::delivery::Disposition;

/// How much is stored of what is not recorded as an execution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) quarantine: config::Quarantine,
    pub(crate) conflicts: config::Conflicts,
}

impl DbConnection {
    /// Records `items` in their order, all or none. One outcome per item. `limits`: instead of those that
    /// [`DbConnection::promise`] sets.
    pub(crate) async fn record(
        &mut self,
        items: &[RecordItem<'_>],
        bounds: Bounds,
        limits: Option<TimeLimits>,
    ) -> Result<Vec<Disposition>, DbError> {
        let mut transaction = self.connection.begin().await?;
        if let Some(TimeLimits { statement, lock }) = limits {
            let (statement, lock) = (statement.as_millis().to_string(), lock.as_millis().to_string());
            sqlx::query!(
                "SELECT set_config('statement_timeout', $1, true) AS statement,
                        set_config('idle_in_transaction_session_timeout', $1, true) AS idle,
                        set_config('lock_timeout', $2, true) AS lock",
                statement,
                lock
            )
            .fetch_one(&mut *transaction)
            .await?;
        }
        let mut outcomes = record(&mut transaction, items, bounds.conflicts).await?;
        insert_quarantined(&mut transaction, items, bounds.quarantine, &mut outcomes).await?;
        transaction.commit().await?;
        Ok(outcomes)
    }
}

/// Records the executions among `items`. The caller stores the others after this: rows are locked in one order, which
/// is executions, bulks, sums, quarantine.
pub(super) async fn record(
    connection: &mut PgConnection,
    items: &[RecordItem<'_>],
    conflicts: config::Conflicts,
) -> Result<Vec<Disposition>, sqlx::Error> {
    let mut outcomes = vec![Disposition::Dropped; items.len()];
    let mut changes = Rollups::default();
    for (n, mut round) in split_rounds(items).into_iter().enumerate() {
        // Those of one execution stay in their order.
        round.sort_by_key(|incoming| &incoming.row.execution.execution_id);
        // From the second round on, every execution is known from the first.
        let new = if n == 0 { insert_new(connection, &round).await? } else { HashSet::new() };
        let (fresh, known): (Vec<_>, Vec<_>) =
            round.into_iter().partition(|incoming| new.contains(&*incoming.row.execution.execution_id));
        for incoming in &fresh {
            changes.added(counted(incoming), incoming.row.received_at);
            incoming.set_disposition(&mut outcomes, Disposition::New, None);
        }
        if !known.is_empty() {
            resolve_duplicates(connection, &known, conflicts, &mut changes, &mut outcomes).await?;
        }
    }
    changes.apply(connection).await?;
    Ok(outcomes)
}

fn counted<'r>(incoming: &Group<'r>) -> CountedExecution<'r> {
    let execution = &incoming.row.execution;
    CountedExecution {
        workflow_id: Cow::Borrowed(&execution.workflow_id),
        bulk_id: execution.bulk_id.as_deref().map(Cow::Borrowed),
        status: Cow::Borrowed(&execution.status),
        total_cost: execution.total_cost.map(Cow::Borrowed),
        first_received_at: incoming.first_received_at,
    }
}

/// The rows of a round as PostgreSQL takes them: an array a column. To add a column, add it here,
/// in a migration, and in the two statements that take these arrays.
#[derive(Default)]
struct ColumnArrays<'r> {
    execution_id: Vec<&'r str>,
    workflow_id: Vec<&'r str>,
    bulk_id: Vec<Option<&'r str>>,
    status: Vec<&'r str>,
    started_at: Vec<Option<OffsetDateTime>>,
    completed_at: Vec<Option<OffsetDateTime>>,
    output: Vec<Option<&'r str>>,
    error: Vec<Option<&'r str>>,
    error_cause: Vec<Option<&'r str>>,
    total_cost: Vec<Option<&'r str>>,
    payload: Vec<Option<&'r str>>,
    payload_bytes: Vec<Option<&'r [u8]>>,
    step_failed: Vec<bool>,
    authenticated_by: Vec<Option<&'static str>>,
    deliveries: Vec<i32>,
    first_received_at: Vec<OffsetDateTime>,
    last_received_at: Vec<OffsetDateTime>,
}

impl<'r> ColumnArrays<'r> {
    fn of(round: &'r [Group<'r>]) -> Self {
        let mut columns = Self::default();
        for incoming in round {
            let Row { execution, payload, payload_bytes, step_failed, authenticated_by, .. } = incoming.row;
            columns.execution_id.push(&execution.execution_id);
            columns.workflow_id.push(&execution.workflow_id);
            columns.bulk_id.push(execution.bulk_id.as_deref());
            columns.status.push(&execution.status);
            columns.started_at.push(execution.started_at);
            columns.completed_at.push(execution.completed_at);
            columns.output.push(execution.output);
            columns.error.push(execution.error.as_deref());
            columns.error_cause.push(execution.error_cause.as_deref());
            columns.total_cost.push(execution.total_cost);
            columns.payload.push(*payload);
            columns.payload_bytes.push(*payload_bytes);
            columns.step_failed.push(*step_failed);
            columns.authenticated_by.push(authenticated_by.map(AuthMethod::as_str));
            columns.deliveries.push(incoming.deliveries);
            columns.first_received_at.push(incoming.first_received_at);
            columns.last_received_at.push(incoming.last_received_at);
        }
        columns
    }
}

/// Runs a statement that takes [`ColumnArrays`].
macro_rules! with_columns {
    ($file:literal, $columns:expr $(, $more:expr)*) => {{
        let c = $columns;
        sqlx::query_file!(
            $file,
            &c.execution_id as _,
            &c.workflow_id as _,
            &c.bulk_id as _,
            &c.status as _,
            &c.started_at as _,
            &c.completed_at as _,
            &c.output as _,
            &c.error as _,
            &c.error_cause as _,
            &c.total_cost as _,
            &c.payload as _,
            &c.payload_bytes as _,
            &c.step_failed,
            &c.authenticated_by as _,
            &c.deliveries,
            &c.first_received_at,
            &c.last_received_at
            $(, $more)*
        )
    }};
}

/// The executions among `round` that were not recorded before.
async fn insert_new(
    connection: &mut PgConnection,
    round: &[Group<'_>],
) -> Result<HashSet<String>, sqlx::Error> {
    let columns = ColumnArrays::of(round);
    let new = with_columns!("src/db/record/insert_new.sql", &columns).fetch_all(connection).await?;
    Ok(new.into_iter().map(|row| row.execution_id).collect())
}

async fn resolve_duplicates<'r>(
    connection: &mut PgConnection,
    known: &[Group<'r>],
    conflicts: config::Conflicts,
    changes: &mut Rollups<'r>,
    outcomes: &mut [Disposition],
) -> Result<(), sqlx::Error> {
    let columns = ColumnArrays::of(known);
    let settled = with_columns!(
        "src/db/record/resolve_duplicates.sql",
        &columns,
        conflicts.max_per_execution,
        conflicts.max_bytes_per_execution
    );
    let settled = settled.fetch_all(connection).await?;
    let mut settled: HashMap<_, _> = settled.into_iter().map(|row| (row.n, row)).collect();
    let mut first: HashMap<&str, OffsetDateTime> = HashMap::new();
    for (n, incoming) in (1..).zip(known) {
        // A row that is in the way of an insert and then gone was deleted in between: the batch fails, and is recorded
        // again, so that nothing is lost.
        let was = settled.remove(&n).ok_or(sqlx::Error::RowNotFound)?;
        let outcome = match &*was.verdict {
            "replacement" => Disposition::Replacement,
            "conflict" => Disposition::Conflict,
            "conflict_dropped" => Disposition::ConflictDropped,
            _ => Disposition::Duplicate,
        };
        incoming.set_disposition(outcomes, outcome, Some(&was.previous_status));
        // Another one in this statement may already have moved it.
        let previous = first.entry(&*incoming.row.execution.execution_id);
        let previous = previous.or_insert(was.previous_first_received_at);
        let was = CountedExecution {
            workflow_id: Cow::Owned(was.previous_workflow_id),
            bulk_id: was.previous_bulk_id.map(Cow::Owned),
            status: Cow::Owned(was.previous_status),
            total_cost: was.previous_total_cost.map(Cow::Owned),
            first_received_at: *previous,
        };
        let first_received_at = incoming.first_received_at.min(*previous);
        *previous = first_received_at;
        if outcome == Disposition::Replacement {
            let is = CountedExecution { first_received_at, ..counted(incoming) };
            changes.replaced(was, is, incoming.row.received_at);
        } else if first_received_at < was.first_received_at {
            changes.shifted(was, first_received_at);
        }
    }
    Ok(())
}
