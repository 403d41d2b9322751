//! Stores the quarantined items of a batch.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::item::{QuarantineRow, RecordItem};
use crate::auth::AuthMethod;
use crate::config;
use crate::db::{DbError, Transaction};
use crate::delivery::Disposition;

/// Stores the quarantined `items`, and sets their dispositions. `limits` apply to items that are not acknowledged.
pub(in crate::db) async fn insert_quarantined(
    transaction: &mut Transaction<'_>,
    items: &[RecordItem<'_>],
    limits: config::Quarantine,
    dispositions: &mut [Disposition],
) -> Result<(), DbError> {
    let rows = items.iter().enumerate().filter_map(|(index, item)| match item {
        RecordItem::Quarantined(row) => Some((index, row)),
        RecordItem::Execution(_) | RecordItem::Unverified(_) => None,
    });
    let (indexes, rows): (Vec<usize>, Vec<&QuarantineRow<'_>>) = rows.unzip();
    if rows.is_empty() {
        return Ok(());
    }
    let hashes: Vec<_> = rows.iter().map(|row| Sha256::digest(&row.delivery.body).to_vec()).collect();
    let bodies: Vec<&[u8]> = rows.iter().map(|row| &*row.delivery.body).collect();
    let reasons: Vec<&str> = rows.iter().map(|row| &*row.reason).collect();
    let methods: Vec<_> =
        rows.iter().map(|row| row.delivery.authenticated_by.map(AuthMethod::as_str)).collect();
    let acknowledged: Vec<_> = rows.iter().map(|row| row.acknowledged).collect();
    let intact: Vec<_> = rows.iter().map(|row| row.intact).collect();
    let references: Vec<_> = rows.iter().map(|row| row.delivery.reference.as_deref()).collect();
    let api_bodies: Vec<_> = rows.iter().map(|row| row.api_body).collect();
    let deliveries: Vec<_> = rows.iter().map(|row| row.deliveries).collect();
    let redeliveries: Vec<_> = rows.iter().map(|row| i32::from(row.delivery.is_redelivery)).collect();
    let received_at: Vec<_> = rows.iter().map(|row| row.delivery.received_at).collect();
    if acknowledged.contains(&false) {
        // Without this lock, two transactions could fill the same free space. It is acquired before the rows of
        // `quarantine` are locked.
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('workflow-receiver quarantine', 0))")
            .execute(&mut *transaction)
            .await?;
    }
    let stored = sqlx::query_file!(
        "src/db/record/insert_quarantined.sql",
        &hashes,
        &bodies as _,
        &reasons as _,
        &methods as _,
        &acknowledged,
        &intact,
        &received_at,
        limits.max_rows,
        limits.max_bytes,
        &redeliveries,
        &references as _,
        &api_bodies as _,
        &deliveries
    );
    let stored = stored.fetch_all(transaction).await?.into_iter();
    let stored: HashMap<Vec<u8>, i64> = stored.map(|row| (row.body_sha256, row.quarantine_id)).collect();
    for ((index, row), hash) in indexes.into_iter().zip(rows).zip(&hashes) {
        dispositions[index] = match stored.get(hash) {
            Some(&quarantine_id) => Disposition::Quarantined { quarantine_id },
            // The limits do not apply to it.
            None if row.acknowledged => return Err(DbError::suppressed("quarantine")),
            None => Disposition::Dropped,
        };
    }
    Ok(())
}
