//! Commands for quarantined webhooks: list, retry, undo, drop.

mod undo;

use time::OffsetDateTime;

use self::undo::Before;
pub(crate) use self::undo::Undone;
use super::queries::quarantine::{Quarantined, select_quarantined};
use super::record::item::RecordItem;
use super::{DbConnection, DbError, record};
use crate::config;
use crate::delivery::{Delivery, Disposition};
use crate::execution::mapping::Extracted;
use crate::execution::{Execution, Kind};

/// What a retry changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryMode {
    Record,
    /// Records in a transaction and rolls it back: shows the dispositions and changes nothing.
    Preview,
}

/// The result of a retry.
#[derive(Debug)]
pub(crate) enum Retried {
    /// The entry was recorded and deleted (or would be): its executions and predictions with their dispositions.
    Recorded(Vec<(String, Disposition)>),
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
    fn delivery(&self, extracted: &Extracted) -> Delivery {
        Delivery {
            trace: None,
            reference: self.reference.clone(),
            repaired_from: None,
            is_redelivery: false,
            body: extracted.original.clone(),
            received_at: self.first_received_at,
            authenticated_by: self.authenticated_by.as_deref().and_then(|name| name.parse().ok()),
            acknowledged: true,
        }
    }
}

impl DbConnection {
    /// The next entries after `after`, in the order of their numbers.
    pub(crate) async fn quarantined(&mut self, after: i64, limit: i64) -> Result<Vec<Quarantined>, DbError> {
        let entries = select_quarantined!("quarantine_id > $1 ORDER BY quarantine_id LIMIT $2", after, limit);
        self.transact(async |transaction| entries.fetch_all(transaction).await).await
    }

    pub(crate) async fn quarantined_body(&mut self, id: i64) -> Result<Option<Vec<u8>>, DbError> {
        let body = sqlx::query_scalar!("SELECT body FROM quarantine WHERE quarantine_id = $1", id);
        self.transact(async |transaction| body.fetch_optional(transaction).await).await
    }

    /// Deletes entries. Returns the numbers of the deleted ones.
    pub(crate) async fn drop_quarantined(&mut self, ids: &[i64]) -> Result<Vec<i64>, DbError> {
        let dropped = sqlx::query_scalar!(
            "DELETE FROM quarantine WHERE quarantine_id = ANY ($1) RETURNING quarantine_id",
            ids
        );
        self.transact(async |transaction| dropped.fetch_all(transaction).await).await
    }

    /// Records the executions that `extract` finds in the body of an entry, and deletes the entry; or changes nothing. With
    /// `dry_run`, everything is rolled back.
    ///
    /// All conflicts among them are stored without a limit, because the entry's size is bounded.
    pub(crate) async fn retry_quarantined(
        &mut self,
        id: i64,
        mode: RetryMode,
        extract: impl Fn(&[u8]) -> Result<Vec<Extracted>, String>,
    ) -> Result<Retried, DbError> {
        let mut retries = 0;
        // Not an async closure: the console needs a future that is Send.
        loop {
            match self.retry(id, mode, &extract).await {
                Ok(result) => return Ok(result),
                Err(error) => {
                    if let Some(error) = self.after_contention(error, &mut retries).await? {
                        return Ok(Retried::Retained(error.to_string()));
                    }
                }
            }
        }
    }

    async fn retry(
        &mut self,
        id: i64,
        mode: RetryMode,
        extract: &impl Fn(&[u8]) -> Result<Vec<Extracted>, String>,
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
        let extracted = match extract(&entry.body) {
            Ok(extracted) => extracted,
            Err(why) => return Ok(Retried::Retained(why)),
        };
        let deliveries: Vec<_> = extracted.iter().map(|extracted| entry.delivery(extracted)).collect();
        let mut items = Vec::with_capacity(extracted.len());
        for (extracted, delivery) in extracted.iter().zip(&deliveries) {
            match Execution::parse(&extracted.repaired) {
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
            match self.move_out(id, entry.deliveries, mode, &items, &recorded).await {
                Ok(Some(dispositions)) => {
                    let ids = recorded.into_iter().map(|(_, id)| id);
                    return Ok(Retried::Recorded(ids.zip(dispositions).collect()));
                }
                Ok(None) => return Ok(Retried::Retained("it has just changed: try again".to_owned())),
                // PostgreSQL may accept a degraded form.
                Err(error) if error.is_repeatable() => {
                    for item in &mut items {
                        item.degrade(&error);
                    }
                    if items.iter().any(RecordItem::is_quarantined) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Records `items`, deletes the entry, and stores what an undo needs: the order of locks is that of recording. `None`,
    /// without any change, if the entry was deleted or received again meanwhile.
    async fn move_out(
        &mut self,
        id: i64,
        deliveries: i32,
        mode: RetryMode,
        items: &[RecordItem<'_>],
        recorded: &[(Kind, String)],
    ) -> Result<Option<Vec<Disposition>>, DbError> {
        let mut transaction = self.begin().await?;
        let before = Before::lock(&mut transaction, recorded).await?;
        let dispositions = record::record(&mut transaction, items, config::Conflicts::UNLIMITED).await?;
        let delete = sqlx::query_scalar!(
            r#"DELETE FROM quarantine AS q WHERE quarantine_id = $1 AND deliveries = $2
               RETURNING to_jsonb(q)::text AS "entry!""#,
            id,
            deliveries
        );
        let Some(entry) = delete.fetch_optional(&mut transaction).await? else { return Ok(None) };
        if !before.store(&mut transaction, id, &entry, recorded, &dispositions).await? {
            return Ok(None);
        }
        match mode {
            RetryMode::Record => transaction.commit().await?,
            RetryMode::Preview => transaction.rollback().await?,
        }
        Ok(Some(dispositions))
    }
}
