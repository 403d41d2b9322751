//! Stores the quarantined items of a batch.

use std::collections::HashSet;

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::item::RecordItem;
use crate::auth::AuthMethod;
use crate::config;
use crate::delivery::Disposition;

/// Stores the quarantined `items` while `limits` allow, and sets their dispositions.
pub(in crate::db) async fn insert_quarantined(
    connection: &mut PgConnection,
    items: &[RecordItem<'_>],
    limits: config::Quarantine,
    dispositions: &mut [Disposition],
) -> Result<(), sqlx::Error> {
    let (mut hashes, mut bodies, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    let (mut methods, mut acknowledged, mut intact) = (Vec::new(), Vec::new(), Vec::new());
    let (mut received_at, mut indexes) = (Vec::new(), Vec::new());
    for (index, item) in items.iter().enumerate() {
        if let RecordItem::Quarantined(row) = item {
            hashes.push(Sha256::digest(row.body).to_vec());
            bodies.push(row.body);
            reasons.push(&*row.reason);
            methods.push(row.authenticated_by.map(AuthMethod::as_str));
            acknowledged.push(row.acknowledged);
            intact.push(row.intact);
            received_at.push(row.received_at);
            indexes.push(index);
        }
    }
    if indexes.is_empty() {
        return Ok(());
    }
    if acknowledged.contains(&false) {
        // Without the lock, two transactions could fill the same free space. It is taken before the rows' locks.
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('workflow-receiver quarantine', 0))")
            .execute(&mut *connection)
            .await?;
    }
    let stored = sqlx::query_file_scalar!(
        "src/db/record/insert_quarantined.sql",
        &hashes,
        &bodies as _,
        &reasons as _,
        &methods as _,
        &acknowledged,
        &intact,
        &received_at,
        limits.max_rows,
        limits.max_bytes
    );
    let stored: HashSet<Vec<u8>> = stored.fetch_all(connection).await?.into_iter().collect();
    for (index, hash) in indexes.into_iter().zip(&hashes) {
        let is_stored = stored.contains(hash);
        dispositions[index] = if is_stored { Disposition::Quarantined } else { Disposition::Dropped };
    }
    Ok(())
}
