//! The quarantine: keeping what is no execution, and what operators do with it.

use std::collections::HashSet;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use super::item::{Item, Quarantined};
use super::{Fault, Outcome, Store, record};
use crate::auth::Method;
use crate::config;
use crate::intake::Delivery;
use crate::payload::Execution;

/// Keeps those of `items` that are quarantined, as far as there is `room`, and says so in `outcomes`.
pub(super) async fn keep(
    connection: &mut PgConnection,
    items: &[Item<'_>],
    room: config::Quarantine,
    outcomes: &mut [Outcome],
) -> Result<(), sqlx::Error> {
    let (mut hashes, mut bodies, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    let (mut methods, mut acknowledged, mut received) = (Vec::new(), Vec::new(), Vec::new());
    let mut places = Vec::new();
    for (place, item) in items.iter().enumerate() {
        if let Item::Quarantined(quarantined) = item {
            let Quarantined { reason, body, received_at, authenticated_by, acknowledged: for_good } =
                quarantined;
            hashes.push(Sha256::digest(body).to_vec());
            bodies.push(*body);
            reasons.push(&**reason);
            methods.push(authenticated_by.map(Method::as_str));
            acknowledged.push(*for_good);
            received.push(*received_at);
            places.push(place);
        }
    }
    if places.is_empty() {
        return Ok(());
    }
    let kept = sqlx::query_file_scalar!(
        "src/store/quarantine.sql",
        &hashes,
        &bodies as _,
        &reasons as _,
        &methods as _,
        &acknowledged,
        &received,
        room.max_rows,
        room.max_bytes
    );
    let kept: HashSet<Vec<u8>> = kept.fetch_all(connection).await?.into_iter().collect();
    for (place, hash) in places.into_iter().zip(&hashes) {
        outcomes[place] = if kept.contains(hash) { Outcome::Quarantined } else { Outcome::Dropped };
    }
    Ok(())
}

/// A row of `quarantine`, without its body.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) quarantine_id: i64,
    pub(crate) reason: String,
    pub(crate) bytes: i32,
    pub(crate) authenticated_by: Option<String>,
    pub(crate) acknowledged: bool,
    pub(crate) deliveries: i32,
    pub(crate) first_received_at: OffsetDateTime,
    pub(crate) last_received_at: OffsetDateTime,
}

/// What came of trying a quarantined body again.
#[derive(Debug)]
pub(crate) enum Retried {
    /// It is recorded, and no longer in quarantine.
    Recorded {
        /// What it says which execution it is.
        execution_id: String,
        /// What became of its first delivery.
        outcome: Outcome,
    },
    /// It stays, for this reason.
    Stays(String),
    /// There is none with this number.
    Absent,
}

/// More deliveries than these of one body are counted as so many.
const MOST_DELIVERIES: i32 = 10_000;

impl Store {
    /// The entries behind `after`, at most `limit`, in the order of their numbers.
    pub(crate) async fn quarantined(&mut self, after: i64, limit: i64) -> Result<Vec<Entry>, Fault> {
        Ok(sqlx::query_as!(
            Entry,
            r#"SELECT quarantine_id, reason, octet_length(body) AS "bytes!", authenticated_by, acknowledged,
                      deliveries, first_received_at, last_received_at
               FROM quarantine WHERE quarantine_id > $1 ORDER BY quarantine_id LIMIT $2"#,
            after,
            limit
        )
        .fetch_all(&mut self.connection)
        .await?)
    }

    /// The body of an entry.
    pub(crate) async fn quarantined_body(&mut self, id: i64) -> Result<Option<Vec<u8>>, Fault> {
        let body = sqlx::query_scalar!("SELECT body FROM quarantine WHERE quarantine_id = $1", id);
        Ok(body.fetch_optional(&mut self.connection).await?)
    }

    /// Deletes entries, for good. Which there were.
    pub(crate) async fn drop_quarantined(&mut self, ids: &[i64]) -> Result<Vec<i64>, Fault> {
        let dropped = sqlx::query_scalar!(
            "DELETE FROM quarantine WHERE quarantine_id = ANY ($1) RETURNING quarantine_id",
            ids
        );
        Ok(dropped.fetch_all(&mut self.connection).await?)
    }

    /// Records an entry as what `mended` makes of its body, and takes it out of quarantine, or
    /// leaves all as it is. What is kept as the payload is the body as it came.
    pub(crate) async fn retry_quarantined(
        &mut self,
        id: i64,
        mended: impl Fn(&[u8]) -> Result<Bytes, String>,
    ) -> Result<Retried, Fault> {
        let mut transaction = self.connection.begin().await?;
        let taken = sqlx::query!(
            "DELETE FROM quarantine WHERE quarantine_id = $1
             RETURNING body, authenticated_by, deliveries, first_received_at, last_received_at",
            id
        );
        let Some(taken) = taken.fetch_optional(&mut *transaction).await? else {
            return Ok(Retried::Absent);
        };
        let text = match mended(&taken.body) {
            Ok(text) => text,
            Err(why) => return Ok(Retried::Stays(why)),
        };
        let body = Bytes::from(taken.body);
        let delivery = |received_at| Delivery {
            body: body.clone(),
            received_at,
            authenticated_by: taken.authenticated_by.as_deref().and_then(Method::named),
            acknowledged: true,
        };
        let mut deliveries = vec![delivery(taken.first_received_at)];
        deliveries
            .extend((1..taken.deliveries.min(MOST_DELIVERIES)).map(|_| delivery(taken.last_received_at)));
        let mut items = Vec::with_capacity(deliveries.len());
        for delivery in &deliveries {
            match Execution::parse(&text) {
                Ok(execution) => items.push(Item::execution(execution, delivery)),
                Err(why) => return Ok(Retried::Stays(why.to_string())),
            }
        }
        let execution_id = items[0].execution_id().unwrap_or_default().to_owned();
        let recorded = loop {
            // What PostgreSQL does not accept as it is may still be kept as bytes.
            let mut attempt = transaction.begin().await?;
            match record::record(&mut attempt, &items).await.map_err(Fault::from) {
                Ok(outcomes) => {
                    attempt.commit().await?;
                    break outcomes;
                }
                Err(fault @ Fault::Unacceptable { .. }) => {
                    attempt.rollback().await?;
                    let weakened = items.iter_mut().all(|item| item.weaken(&fault));
                    if !weakened || items.iter().any(|item| item.execution_id().is_none()) {
                        return Ok(Retried::Stays(fault.to_string()));
                    }
                }
                Err(fault) => return Err(fault),
            }
        };
        transaction.commit().await?;
        Ok(Retried::Recorded { execution_id, outcome: recorded[0] })
    }
}
