//! The quarantine: keeping what is no execution, and what operators do with it.

use bytes::Bytes;
use sqlx::Connection;

use super::queries::quarantine::Quarantined;
use super::record::item::RecordItem;
use super::{DbConnection, DbError, record};
use crate::auth::AuthMethod;
use crate::config;
use crate::delivery::Delivery;
use crate::delivery::Disposition;
use crate::execution::Execution;

/// What came of trying a quarantined body again.
#[derive(Debug)]
pub(crate) enum Retried {
    /// It is recorded, and no longer in quarantine: the executions in it, and what became of them.
    Recorded(Vec<(String, Disposition)>),
    /// It stays, for this reason.
    Stays(String),
    /// There is none with this number.
    Absent,
}

/// An execution found in a quarantined body.
#[derive(Debug)]
pub(crate) struct Found {
    /// What is read, with what was mapped and set.
    pub(crate) mended: Bytes,
    /// What is kept as the payload: that part of the body as it came.
    pub(crate) came: Bytes,
}

impl DbConnection {
    /// The entries behind `after`, at most `limit`, in the order of their numbers.
    pub(crate) async fn quarantined(&mut self, after: i64, limit: i64) -> Result<Vec<Quarantined>, DbError> {
        Ok(sqlx::query_as!(
            Quarantined,
            r#"SELECT quarantine_id, reason, octet_length(body) AS "body_bytes!", authenticated_by, acknowledged,
                      intact, deliveries, first_received_at, last_received_at
               FROM quarantine WHERE quarantine_id > $1 ORDER BY quarantine_id LIMIT $2"#,
            after,
            limit
        )
        .fetch_all(&mut self.connection)
        .await?)
    }

    /// The body of an entry.
    pub(crate) async fn quarantined_body(&mut self, id: i64) -> Result<Option<Vec<u8>>, DbError> {
        let body = sqlx::query_scalar!("SELECT body FROM quarantine WHERE quarantine_id = $1", id);
        Ok(body.fetch_optional(&mut self.connection).await?)
    }

    /// Deletes entries, for good. Which there were.
    pub(crate) async fn drop_quarantined(&mut self, ids: &[i64]) -> Result<Vec<i64>, DbError> {
        let dropped = sqlx::query_scalar!(
            "DELETE FROM quarantine WHERE quarantine_id = ANY ($1) RETURNING quarantine_id",
            ids
        );
        Ok(dropped.fetch_all(&mut self.connection).await?)
    }

    /// Records an entry as the executions that `find` finds in its body, and takes it out of
    /// quarantine; or leaves all as it is.
    ///
    /// Conflicts among them are all stored: they are no more than what was in quarantine.
    pub(crate) async fn retry_quarantined(
        &mut self,
        id: i64,
        find: impl Fn(&[u8]) -> Result<Vec<Found>, String>,
    ) -> Result<Retried, DbError> {
        let retried = self.of_one(async |store| store.retry(id, &find).await).await?;
        Ok(retried.unwrap_or_else(|fault| Retried::Stays(fault.to_string())))
    }

    async fn retry(
        &mut self,
        id: i64,
        find: &impl Fn(&[u8]) -> Result<Vec<Found>, String>,
    ) -> Result<Retried, DbError> {
        let entry = sqlx::query!(
            "SELECT body, authenticated_by, deliveries, first_received_at, last_received_at
             FROM quarantine WHERE quarantine_id = $1",
            id
        );
        let Some(entry) = entry.fetch_optional(&mut self.connection).await? else {
            return Ok(Retried::Absent);
        };
        let found = match find(&entry.body) {
            Ok(found) => found,
            Err(why) => return Ok(Retried::Stays(why)),
        };
        let delivery = |found: &Found| Delivery {
            trace: None,
            body: found.came.clone(),
            received_at: entry.first_received_at,
            authenticated_by: entry.authenticated_by.as_deref().and_then(AuthMethod::named),
            acknowledged: true,
        };
        let deliveries: Vec<_> = found.iter().map(delivery).collect();
        let mut items = Vec::with_capacity(found.len());
        for (found, delivery) in found.iter().zip(&deliveries) {
            match Execution::parse(&found.mended) {
                Ok(execution) => items.push(
                    RecordItem::from_execution(execution, delivery)
                        .with_deliveries(entry.deliveries, entry.last_received_at),
                ),
                Err(why) => return Ok(Retried::Stays(why.to_string())),
            }
        }
        let id_of = |item: &RecordItem<'_>| item.execution_id().unwrap_or_default().to_owned();
        let ids: Vec<_> = items.iter().map(id_of).collect();
        loop {
            match self.move_out(id, entry.deliveries, &items).await {
                Ok(Some(outcomes)) => return Ok(Retried::Recorded(ids.into_iter().zip(outcomes).collect())),
                Ok(None) => return Ok(Retried::Stays("it has just changed: try again".to_owned())),
                // What PostgreSQL refuses as it is may still be stored as bytes.
                Err(fault) if fault.is_repeatable() => {
                    for item in &mut items {
                        item.degrade(&fault);
                    }
                    if items.iter().any(RecordItem::is_quarantined) {
                        return Err(fault);
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Records `items` and deletes the entry, in the order in which recording locks. `None` when the
    /// entry is not there any more, or has got more deliveries; then nothing is done.
    async fn move_out(
        &mut self,
        id: i64,
        deliveries: i32,
        items: &[RecordItem<'_>],
    ) -> Result<Option<Vec<Disposition>>, DbError> {
        let mut transaction = self.connection.begin().await?;
        let outcomes = record::record(&mut transaction, items, config::Conflicts::UNLIMITED).await?;
        let delete = sqlx::query!(
            "DELETE FROM quarantine WHERE quarantine_id = $1 AND deliveries = $2",
            id,
            deliveries
        );
        if delete.execute(&mut *transaction).await?.rows_affected() == 0 {
            return Ok(None);
        }
        transaction.commit().await?;
        Ok(Some(outcomes))
    }
}
