//! Stores the unsigned items of a batch until the sender's API confirms them.

use std::collections::HashSet;

use super::item::{RecordItem, UnverifiedRow};
use crate::db::{DbError, Transaction};
use crate::delivery::Disposition;
use crate::execution::Kind;

/// Stores the unverified `items`, each body once, and sets their dispositions. No limit applies, because they were answered
/// 200.
pub(in crate::db) async fn insert_unverified(
    transaction: &mut Transaction<'_>,
    items: &[RecordItem<'_>],
    dispositions: &mut [Disposition],
) -> Result<(), DbError> {
    let rows = items.iter().enumerate().filter_map(|(index, item)| match item {
        RecordItem::Unverified(row) => Some((index, row)),
        RecordItem::Execution(_) | RecordItem::Quarantined(_) => None,
    });
    let (indexes, rows): (Vec<usize>, Vec<&UnverifiedRow<'_>>) = rows.unzip();
    if rows.is_empty() {
        return Ok(());
    }
    let execution_ids: Vec<&str> = rows.iter().map(|row| &*row.execution.execution_id).collect();
    let workflow_ids: Vec<_> = rows.iter().map(|row| row.execution.workflow_id.as_deref()).collect();
    let statuses: Vec<&str> = rows.iter().map(|row| &*row.execution.status).collect();
    let bodies: Vec<&[u8]> = rows.iter().map(|row| &*row.delivery.body).collect();
    let deliveries: Vec<_> = rows.iter().map(|row| row.deliveries).collect();
    let redeliveries: Vec<_> = rows.iter().map(|row| row.delivery.is_redelivery).collect();
    let predictions: Vec<_> = rows.iter().map(|row| row.execution.kind == Kind::Prediction).collect();
    let received_at: Vec<_> = rows.iter().map(|row| row.delivery.received_at).collect();
    let written = sqlx::query!(
        "INSERT INTO unverified_deliveries AS u
             (execution_id, workflow_id, status, body, deliveries, is_redelivery, is_prediction, received_at)
         SELECT
             min(i.execution_id), min(i.workflow_id), min(i.status), i.body, sum(i.deliveries)::integer,
             bool_or(i.is_redelivery), bool_or(i.is_prediction), min(i.received_at)
         FROM unnest(
                 $1::text[], $2::text[], $3::text[], $4::bytea[], $5::integer[], $6::boolean[], $7::boolean[],
                 $8::timestamptz[]
             )
             AS i (execution_id, workflow_id, status, body, deliveries, is_redelivery, is_prediction, received_at)
         GROUP BY i.body
         ORDER BY sha256(i.body)
         ON CONFLICT (sha256(body)) DO UPDATE SET
             deliveries = u.deliveries + excluded.deliveries,
             is_redelivery = u.is_redelivery OR excluded.is_redelivery,
             received_at = least(u.received_at, excluded.received_at)",
        &execution_ids as _,
        &workflow_ids as _,
        &statuses as _,
        &bodies as _,
        &deliveries,
        &redeliveries,
        &predictions,
        &received_at
    )
    .execute(transaction)
    .await?;
    let distinct = bodies.iter().collect::<HashSet<_>>().len();
    DbError::check_written("unverified_deliveries", &written, distinct)?;
    for index in indexes {
        dispositions[index] = Disposition::Unverified;
    }
    Ok(())
}
