//! Records a batch in one transaction.

pub(super) mod changes;
mod columns;
mod insert_new;
pub(super) mod item;
mod quarantine;
mod resolve_duplicates;
pub(super) mod rollups;
mod rounds;
mod unverified;

use std::collections::HashSet;

use self::changes::insert_changes;
use self::insert_new::insert_new;
use self::item::RecordItem;
pub(super) use self::quarantine::insert_quarantined;
use self::resolve_duplicates::resolve_duplicates;
use self::rollups::{CountedExecution, Rollups};
use self::rounds::split_rounds;
pub(super) use self::unverified::insert_unverified;
use super::{DbConnection, DbError, TimeLimits, Transaction};
use crate::config;
use crate::delivery::Disposition;
use crate::execution::Kind;

/// The limits of conflicts and quarantine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) quarantine: config::Quarantine,
    pub(crate) conflicts: config::Conflicts,
}

impl DbConnection {
    /// Records all `items` in their order, or none. Returns a disposition for each item. `limits` replace those of
    /// the connection.
    pub(crate) async fn record(
        &mut self,
        items: &[RecordItem<'_>],
        bounds: Bounds,
        limits: Option<TimeLimits>,
    ) -> Result<Vec<Disposition>, DbError> {
        let mut transaction = self.begin_batch(limits).await?;
        let mut dispositions = record(&mut transaction, items, bounds.conflicts).await?;
        insert_quarantined(&mut transaction, items, bounds.quarantine, &mut dispositions).await?;
        insert_unverified(&mut transaction, items, &mut dispositions).await?;
        transaction.commit().await?;
        Ok(dispositions)
    }
}

/// Records the executions and predictions among `items`. The caller stores the other items afterwards. Every transaction
/// locks rows in this order: executions, predictions, expected executions, bulks, rollups, quarantine, unverified
/// deliveries.
pub(super) async fn record(
    transaction: &mut Transaction<'_>,
    items: &[RecordItem<'_>],
    conflicts: config::Conflicts,
) -> Result<Vec<Disposition>, DbError> {
    let (dispositions, rollups) = record_uncounted(transaction, items, conflicts).await?;
    rollups.apply(transaction).await?;
    Ok(dispositions)
}

/// Like [`record`], but the caller applies the rollups.
pub(super) async fn record_uncounted<'r>(
    transaction: &mut Transaction<'_>,
    items: &'r [RecordItem<'r>],
    conflicts: config::Conflicts,
) -> Result<(Vec<Disposition>, Rollups<'r>), DbError> {
    let mut dispositions = vec![Disposition::Dropped; items.len()];
    let mut rollups = Rollups::default();
    for kind in [Kind::Workflow, Kind::Prediction] {
        for (n, mut round) in split_rounds(items, kind).into_iter().enumerate() {
            // A stable sort: the groups of one execution keep their order.
            round.sort_by_key(|group| &group.row.execution.execution_id);
            // After the first round, every execution of the batch is recorded.
            let new = if n == 0 { insert_new(transaction, kind, &round).await? } else { HashSet::new() };
            let (new, known): (Vec<_>, Vec<_>) =
                round.into_iter().partition(|group| new.contains(&*group.row.execution.execution_id));
            for group in &new {
                group.set_disposition(&mut dispositions, Disposition::New, None);
                if kind == Kind::Workflow {
                    rollups.added(CountedExecution::from(group), group.row.delivery.received_at);
                }
            }
            if !known.is_empty() {
                resolve_duplicates(transaction, kind, &known, conflicts, &mut rollups, &mut dispositions)
                    .await?;
            }
        }
    }
    // Before the rollups: a bulk completes after the change of its last execution.
    insert_changes(transaction, items, &dispositions).await?;
    Ok((dispositions, rollups))
}
