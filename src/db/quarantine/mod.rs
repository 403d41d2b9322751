//! Commands for quarantined webhooks: list, retry, undo, drop.

mod undo;

use bytes::Bytes;
use time::OffsetDateTime;

use self::undo::Before;
pub(crate) use self::undo::Undone;
use super::queries::quarantine::without_secrets;
use super::record::item::{ItemKind, RecordItem};
use super::{DbConnection, DbError, Transaction, record};
use crate::auth::AuthMethod;
use crate::config;
use crate::delivery::{Delivery, Disposition};
use crate::execution::mapping::Extracted;
use crate::execution::{Execution, Kind, api_key};

/// What a retry changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryMode<'a> {
    Record {
        /// The name of the operator's token, or `command line`.
        by: &'a str,
    },
    /// Records in a transaction and rolls it back: shows the dispositions and changes nothing.
    Preview,
}

impl RetryMode<'_> {
    async fn end(self, transaction: Transaction<'_>) -> Result<(), DbError> {
        match self {
            Self::Record { .. } => transaction.commit().await,
            Self::Preview => transaction.rollback().await,
        }
    }
}

/// The result of a retry.
#[derive(Debug)]
pub(crate) enum Retried {
    /// The entry was recorded and deleted (or would be): its executions and predictions with their dispositions.
    Recorded(Vec<(String, Disposition)>),
    /// The entry was an unsigned delivery. It was deleted (or would be), and waits for its verification again.
    Unverified,
    /// The entry stays in quarantine, for this reason.
    Retained(String),
    Absent,
}

/// A row of `quarantine`.
struct Entry {
    body: Vec<u8>,
    authenticated_by: Option<String>,
    deliveries: i32,
    redeliveries: i32,
    reference: Option<String>,
    first_received_at: OffsetDateTime,
    last_received_at: OffsetDateTime,
}

impl Entry {
    /// Only the sender's API can confirm an unsigned delivery.
    fn is_unverified(&self) -> bool {
        self.authenticated_by.as_deref() == Some(AuthMethod::Unverified.as_str())
    }

    fn delivery(&self, body: Bytes) -> Delivery {
        Delivery {
            reference: self.reference.clone(),
            authenticated_by: self.authenticated_by.as_deref().and_then(|name| name.parse().ok()),
            ..Delivery::new(body, self.first_received_at)
        }
    }
}

impl DbConnection {
    /// The numbers of all entries, or of those answered 200, in order. Without damaged ones, and without unsigned ones that
    /// were not confirmed.
    pub(crate) async fn retriable(&mut self, only_acknowledged: bool) -> Result<Vec<i64>, DbError> {
        let ids = sqlx::query_scalar!(
            "SELECT quarantine_id FROM quarantine
             WHERE intact AND (acknowledged OR NOT $1 AND authenticated_by IS DISTINCT FROM 'unverified')
             ORDER BY quarantine_id",
            only_acknowledged
        );
        self.transact(async |transaction| ids.fetch_all(transaction).await).await
    }

    pub(crate) async fn quarantined_body(&mut self, id: i64) -> Result<Option<Vec<u8>>, DbError> {
        let body = sqlx::query_scalar!("SELECT body FROM quarantine WHERE quarantine_id = $1", id);
        let body = self.transact(async |transaction| body.fetch_optional(transaction).await).await?;
        Ok(body.map(without_secrets))
    }

    /// The execution as the sender's API has it; `None` if the entry has none.
    pub(crate) async fn quarantined_api_body(&mut self, id: i64) -> Result<Option<Vec<u8>>, DbError> {
        let body = sqlx::query_scalar!("SELECT api_body FROM quarantine WHERE quarantine_id = $1", id);
        let body = self.transact(async |transaction| body.fetch_optional(transaction).await).await?;
        Ok(body.flatten().map(without_secrets))
    }

    /// Deletes entries. Returns the numbers of the deleted ones.
    pub(crate) async fn drop_quarantined(&mut self, ids: &[i64]) -> Result<Vec<i64>, DbError> {
        let dropped = sqlx::query_scalar!(
            "DELETE FROM quarantine WHERE quarantine_id = ANY ($1) RETURNING quarantine_id",
            ids
        );
        self.transact(async |transaction| dropped.fetch_all(transaction).await).await
    }

    /// Records the executions that `extract` finds in the body of an entry, and deletes the entry; or changes nothing.
    ///
    /// Conflicts are stored without a limit, because the entry's size is bounded.
    pub(crate) async fn retry_quarantined(
        &mut self,
        id: i64,
        mode: RetryMode<'_>,
        extract: impl Fn(&[u8]) -> Result<Vec<Extracted>, String> + Sync,
    ) -> Result<Retried, DbError> {
        let retry = self.retry_contention((id, mode, extract), |db, (id, mode, extract)| {
            Box::pin(db.retry(*id, *mode, extract))
        });
        Ok(retry.await?.unwrap_or_else(|error| Retried::Retained(error.to_string())))
    }

    async fn retry(
        &mut self,
        id: i64,
        mode: RetryMode<'_>,
        extract: &(impl Fn(&[u8]) -> Result<Vec<Extracted>, String> + Sync),
    ) -> Result<Retried, DbError> {
        let entry = sqlx::query_as!(
            Entry,
            "SELECT body, authenticated_by, deliveries, redeliveries, reference::text, first_received_at, last_received_at
             FROM quarantine WHERE quarantine_id = $1",
            id
        );
        let entry = self.transact(async |transaction| entry.fetch_optional(transaction).await).await?;
        let Some(entry) = entry else {
            return Ok(Retried::Absent);
        };
        if entry.is_unverified() {
            return self.verify_again(id, &entry, mode).await;
        }
        let extracted = match extract(&entry.body) {
            Ok(extracted) => extracted,
            Err(why) => return Ok(Retried::Retained(why)),
        };
        let deliveries: Vec<_> =
            extracted.iter().map(|extracted| entry.delivery(extracted.original.clone())).collect();
        let mut items = Vec::with_capacity(extracted.len());
        for (extracted, delivery) in extracted.iter().zip(&deliveries) {
            match Execution::parse(&extracted.mapped) {
                Ok(execution) => items.push(RecordItem::from_execution(execution, delivery).with_deliveries(
                    entry.deliveries,
                    entry.redeliveries,
                    entry.last_received_at,
                )),
                Err(why) => return Ok(Retried::Retained(why.to_string())),
            }
        }
        let executions = items.iter().filter_map(RecordItem::execution);
        let recorded: Vec<_> =
            executions.map(|execution| (execution.kind, execution.execution_id.to_string())).collect();
        loop {
            match self.move_out(id, &entry, mode, &items, &recorded).await {
                Ok(Some(dispositions)) => {
                    let ids = recorded.into_iter().map(|(_, id)| id);
                    return Ok(Retried::Recorded(ids.zip(dispositions).collect()));
                }
                Ok(None) => return Ok(Retried::Retained(CHANGED.to_owned())),
                // PostgreSQL may accept a degraded form.
                Err(error) if error.is_repeatable() => {
                    for item in &mut items {
                        item.degrade(&error);
                    }
                    if items.iter().any(|item| item.kind() == ItemKind::Quarantined) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves an unsigned delivery back to the deliveries that wait for their verification.
    async fn verify_again(
        &mut self,
        id: i64,
        entry: &Entry,
        mode: RetryMode<'_>,
    ) -> Result<Retried, DbError> {
        let is_redelivery = entry.redeliveries > 0;
        let delivery = Delivery { is_redelivery, ..entry.delivery(entry.body.clone().into()) };
        let execution = match Execution::parse(&delivery.body) {
            Ok(execution) => execution,
            Err(why) => return Ok(Retried::Retained(why.to_string())),
        };
        let item = RecordItem::unverified(execution, &delivery);
        let items = [item.with_deliveries(entry.deliveries, entry.redeliveries, entry.last_received_at)];
        let mut transaction = self.begin().await?;
        if delete(&mut transaction, id, entry).await?.is_some() {
            record::insert_unverified(&mut transaction, &items, &mut [Disposition::Dropped]).await?;
            mode.end(transaction).await?;
            return Ok(Retried::Unverified);
        }
        Ok(Retried::Retained(CHANGED.to_owned()))
    }

    /// Records `items`, deletes the entry, and stores the rows that an undo needs. Locks rows in the order of recording.
    /// Returns `None`, and changes nothing, if the entry was deleted or received again meanwhile.
    async fn move_out(
        &mut self,
        id: i64,
        entry: &Entry,
        mode: RetryMode<'_>,
        items: &[RecordItem<'_>],
        recorded: &[(Kind, String)],
    ) -> Result<Option<Vec<Disposition>>, DbError> {
        let mut transaction = self.begin().await?;
        let mut before = Before::lock(&mut transaction, recorded).await?;
        let (dispositions, rollups) =
            record::record_uncounted(&mut transaction, items, config::Conflicts::UNLIMITED).await?;
        before.lock_bulks(&mut transaction, &rollups).await?;
        rollups.apply(&mut transaction).await?;
        let Some(entry) = delete(&mut transaction, id, entry).await? else { return Ok(None) };
        let retried_by = match mode {
            RetryMode::Record { by } => by,
            RetryMode::Preview => "",
        };
        if !before.store(&mut transaction, id, &entry, retried_by, recorded, &dispositions).await? {
            return Ok(None);
        }
        mode.end(transaction).await?;
        Ok(Some(dispositions))
    }
}

/// Why an entry stays in quarantine: it was deleted or received again meanwhile.
const CHANGED: &str = "the entry has just changed: try again";

/// Deletes an entry, and returns it as JSON without API keys. `None` if it was deleted or received again since `entry` was
/// read.
async fn delete(
    transaction: &mut Transaction<'_>,
    id: i64,
    entry: &Entry,
) -> Result<Option<String>, sqlx::Error> {
    let delete = sqlx::query_scalar!(
        r#"DELETE FROM quarantine AS q WHERE quarantine_id = $1 AND deliveries = $2
           RETURNING (to_jsonb(q) || CASE
               WHEN $3::bytea IS NULL THEN '{}' ELSE jsonb_build_object('body', $3, 'body_sha256', sha256($3))
           END)::text AS "entry!""#,
        id,
        entry.deliveries,
        api_key::remove_at_any_depth(&entry.body)
    );
    delete.fetch_optional(transaction).await
}
