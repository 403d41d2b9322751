//! Recording a batch: one transaction, whatever it holds.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use super::changes::{Changes, Counted};
use super::item::{Item, Row};
use super::{Fault, Store, quarantine};
use crate::auth::Method;
use crate::config;

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// The first of its execution.
    New,
    /// It took the place of a non-terminal status.
    Replacement,
    /// It said nothing new, and was counted.
    Duplicate,
    /// It contradicts the recorded outcome, and was kept aside.
    Conflict,
    /// It is no execution, and was kept aside.
    Quarantined,
    /// It is no execution, was answered 422, and the quarantine had no room for it.
    Dropped,
}

impl Outcome {
    /// All there are.
    pub(crate) const ALL: [Self; 6] =
        [Self::New, Self::Replacement, Self::Duplicate, Self::Conflict, Self::Quarantined, Self::Dropped];

    /// Its name in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Replacement => "replacement",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Quarantined => "quarantined",
            Self::Dropped => "dropped",
        }
    }
}

impl Store {
    /// Records `items` in their order, all or none. One outcome per item.
    pub(crate) async fn record(
        &mut self,
        items: &[Item<'_>],
        room: config::Quarantine,
    ) -> Result<Vec<Outcome>, Fault> {
        let mut transaction = self.connection.begin().await?;
        let mut outcomes = record(&mut transaction, items).await?;
        quarantine::keep(&mut transaction, items, room, &mut outcomes).await?;
        transaction.commit().await?;
        Ok(outcomes)
    }
}

/// Records the executions among `items`. What is none of them has to be kept by the caller, after
/// this: rows are locked in one order, which is executions, bulks, sums, quarantine.
pub(super) async fn record(
    connection: &mut PgConnection,
    items: &[Item<'_>],
) -> Result<Vec<Outcome>, sqlx::Error> {
    let mut outcomes = vec![Outcome::Dropped; items.len()];
    let mut changes = Changes::default();
    for (n, mut round) in rounds(items).into_iter().enumerate() {
        round.sort_unstable_by_key(|incoming| &incoming.row.execution.execution_id);
        // From the second round on, every execution is known from the first.
        let new = if n == 0 { insert_new(connection, &round).await? } else { HashSet::new() };
        let (fresh, known): (Vec<_>, Vec<_>) =
            round.into_iter().partition(|incoming| new.contains(&*incoming.row.execution.execution_id));
        for incoming in &fresh {
            changes.came(incoming.counted(), incoming.row.received_at);
            incoming.mark(&mut outcomes, Outcome::New);
        }
        if !known.is_empty() {
            settle_known(connection, &known, &mut changes, &mut outcomes).await?;
        }
    }
    changes.apply(connection).await?;
    Ok(outcomes)
}

/// Deliveries of one execution with the very same body, one after the other.
struct Incoming<'r> {
    row: &'r Row<'r>,
    /// Where they stand among the items.
    places: Vec<usize>,
    deliveries: i32,
    first_received_at: OffsetDateTime,
    last_received_at: OffsetDateTime,
}

impl<'r> Incoming<'r> {
    fn counted(&self) -> Counted<'r> {
        let execution = &self.row.execution;
        Counted {
            workflow_id: Cow::Borrowed(&execution.workflow_id),
            bulk_id: execution.bulk_id.as_deref().map(Cow::Borrowed),
            status: Cow::Borrowed(&execution.status),
            total_cost: execution.total_cost.map(Cow::Borrowed),
            first_received_at: self.first_received_at,
        }
    }

    /// The first gets `outcome`; its repetitions are duplicates, or the same conflict again.
    fn mark(&self, outcomes: &mut [Outcome], outcome: Outcome) {
        let again = if outcome == Outcome::Conflict { outcome } else { Outcome::Duplicate };
        for (n, place) in self.places.iter().enumerate() {
            outcomes[*place] = if n == 0 { outcome } else { again };
        }
    }
}

/// Splits a batch so that each execution comes at most once a round, in the order of arrival;
/// nearly always that is one round. So one statement's rule serves within a batch as between batches.
fn rounds<'r>(items: &'r [Item<'r>]) -> Vec<Vec<Incoming<'r>>> {
    let mut rounds: Vec<Vec<Incoming<'r>>> = Vec::new();
    let mut latest: HashMap<&str, (usize, usize)> = HashMap::with_capacity(items.len());
    for (place, item) in items.iter().enumerate() {
        let Item::Execution(row) = item else { continue };
        let id = &*row.execution.execution_id;
        let round = match latest.get(id) {
            None => 0,
            Some(&(round, at)) => {
                let before = &mut rounds[round][at];
                if before.row.body == row.body {
                    before.places.push(place);
                    before.deliveries = before.deliveries.saturating_add(row.deliveries);
                    before.first_received_at = before.first_received_at.min(row.received_at);
                    before.last_received_at = before.last_received_at.max(row.last_received_at);
                    continue;
                }
                round + 1
            }
        };
        if rounds.len() == round {
            rounds.push(Vec::new());
        }
        latest.insert(id, (round, rounds[round].len()));
        rounds[round].push(Incoming {
            row,
            places: vec![place],
            deliveries: row.deliveries,
            first_received_at: row.received_at,
            last_received_at: row.last_received_at,
        });
    }
    rounds
}

/// The rows of a round as PostgreSQL takes them: an array a column. To add a column, add it here,
/// in a migration, and in the two statements that take these arrays.
#[derive(Default)]
struct Columns<'r> {
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

impl<'r> Columns<'r> {
    fn of(round: &'r [Incoming<'r>]) -> Self {
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
            columns.authenticated_by.push(authenticated_by.map(Method::as_str));
            columns.deliveries.push(incoming.deliveries);
            columns.first_received_at.push(incoming.first_received_at);
            columns.last_received_at.push(incoming.last_received_at);
        }
        columns
    }
}

/// Runs a statement that takes [`Columns`].
macro_rules! with_columns {
    ($file:literal, $columns:expr) => {{
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
            &c.last_received_at,
        )
    }};
}

/// The executions among `round` that were not recorded before.
async fn insert_new(
    connection: &mut PgConnection,
    round: &[Incoming<'_>],
) -> Result<HashSet<String>, sqlx::Error> {
    let columns = Columns::of(round);
    let new = with_columns!("src/store/insert_new.sql", &columns).fetch_all(connection).await?;
    Ok(new.into_iter().map(|row| row.execution_id).collect())
}

async fn settle_known<'r>(
    connection: &mut PgConnection,
    known: &[Incoming<'r>],
    changes: &mut Changes<'r>,
    outcomes: &mut [Outcome],
) -> Result<(), sqlx::Error> {
    let columns = Columns::of(known);
    let settled = with_columns!("src/store/settle_known.sql", &columns).fetch_all(connection).await?;
    let mut settled: HashMap<_, _> = settled.into_iter().map(|row| (row.execution_id.clone(), row)).collect();
    for incoming in known {
        // A row that is in the way of an insert and then gone was deleted in between by somebody
        // else: better to fail, and do the batch again, than to lose it.
        let id = &*incoming.row.execution.execution_id;
        let was = settled.remove(id).ok_or(sqlx::Error::RowNotFound)?;
        let outcome = match &*was.verdict {
            "replacement" => Outcome::Replacement,
            "conflict" => Outcome::Conflict,
            _ => Outcome::Duplicate,
        };
        let first_received_at = incoming.first_received_at.min(was.previous_first_received_at);
        let was = Counted {
            workflow_id: Cow::Owned(was.previous_workflow_id),
            bulk_id: was.previous_bulk_id.map(Cow::Owned),
            status: Cow::Owned(was.previous_status),
            total_cost: was.previous_total_cost.map(Cow::Owned),
            first_received_at: was.previous_first_received_at,
        };
        if outcome == Outcome::Replacement {
            let is = Counted { first_received_at, ..incoming.counted() };
            changes.replaced(was, is, incoming.row.received_at);
        } else if first_received_at < was.first_received_at {
            changes.moved(was, first_received_at);
        }
        incoming.mark(outcomes, outcome);
    }
    Ok(())
}
