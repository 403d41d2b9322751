//! Stores the unsigned items of a batch until the sender's API confirms them.

use super::item::{RecordItem, UnverifiedRow};
use crate::db::{DbError, Transaction};
use crate::delivery::Disposition;

/// Stores the unverified `items`, and sets their dispositions. There is no limit: they were answered 200.
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
    let references: Vec<_> = rows.iter().map(|row| row.delivery.reference.as_deref()).collect();
    let redeliveries: Vec<_> = rows.iter().map(|row| row.delivery.is_redelivery).collect();
    let received_at: Vec<_> = rows.iter().map(|row| row.delivery.received_at).collect();
    let written = sqlx::query!(
        "INSERT INTO unverified_deliveries
             (execution_id, workflow_id, status, body, reference, is_redelivery, received_at)
         SELECT i.execution_id, i.workflow_id, i.status, i.body, i.reference::jsonb, i.is_redelivery, i.received_at
         FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::boolean[], $7::timestamptz[])
             AS i (execution_id, workflow_id, status, body, reference, is_redelivery, received_at)",
        &execution_ids as _,
        &workflow_ids as _,
        &statuses as _,
        &bodies as _,
        &references as _,
        &redeliveries,
        &received_at
    )
    .execute(transaction)
    .await?;
    DbError::check_written("unverified_deliveries", &written, indexes.len())?;
    for index in indexes {
        dispositions[index] = Disposition::Unverified;
    }
    Ok(())
}
