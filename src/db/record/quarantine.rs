//! Storing the quarantined items of a batch.

use std::collections::HashSet;

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::item::{Quarantined, RecordItem};
use crate::auth::AuthMethod;
use crate::config;
use crate::delivery::Disposition;

/// Keeps those of `items` that are quarantined, as far as there is `room`, and says so in `outcomes`.
pub(in crate::db) async fn insert_quarantined(
    connection: &mut PgConnection,
    items: &[RecordItem<'_>],
    room: config::Quarantine,
    outcomes: &mut [Disposition],
) -> Result<(), sqlx::Error> {
    let (mut hashes, mut bodies, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    let (mut methods, mut acknowledged, mut intact) = (Vec::new(), Vec::new(), Vec::new());
    let (mut received, mut places) = (Vec::new(), Vec::new());
    for (place, item) in items.iter().enumerate() {
        if let RecordItem::Quarantined(quarantined) = item {
            let Quarantined { reason, body, received_at, authenticated_by, .. } = quarantined;
            hashes.push(Sha256::digest(body).to_vec());
            bodies.push(*body);
            reasons.push(&**reason);
            methods.push(authenticated_by.map(AuthMethod::as_str));
            acknowledged.push(quarantined.acknowledged);
            intact.push(quarantined.intact);
            received.push(*received_at);
            places.push(place);
        }
    }
    if places.is_empty() {
        return Ok(());
    }
    if acknowledged.contains(&false) {
        // Two that look at once would both find the same room. It comes before the rows, which are locked in one order.
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('workflow-receiver quarantine', 0))")
            .execute(&mut *connection)
            .await?;
    }
    let kept = sqlx::query_file_scalar!(
        "src/db/record/quarantine.sql",
        &hashes,
        &bodies as _,
        &reasons as _,
        &methods as _,
        &acknowledged,
        &intact,
        &received,
        room.max_rows,
        room.max_bytes
    );
    let kept: HashSet<Vec<u8>> = kept.fetch_all(connection).await?.into_iter().collect();
    for (place, hash) in places.into_iter().zip(&hashes) {
        outcomes[place] = if kept.contains(hash) { Disposition::Quarantined } else { Disposition::Dropped };
    }
    Ok(())
}
