//! Retries of quarantined webhooks: those that can be undone, and the one that recorded an execution.

use serde::Serialize;
use time::OffsetDateTime;
use time::serde::rfc3339;

use super::Query;
use crate::db::Transaction;

/// A retry that can be undone.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RetriedEntry {
    pub(crate) quarantine_id: i64,
    /// When the retry began, by PostgreSQL's clock.
    #[serde(with = "rfc3339")]
    pub(crate) retried_at: OffsetDateTime,
    /// The name of the operator's token, or `command line`.
    pub(crate) retried_by: String,
    /// Why the entry was in quarantine.
    pub(crate) reason: String,
    /// The first recorded executions and predictions, at most [`MAX_RECORDED`].
    pub(crate) ids: Vec<String>,
    /// What the retry did with each of `ids`.
    pub(crate) dispositions: Vec<String>,
    /// Whether each of `ids` is a prediction.
    pub(crate) are_predictions: Vec<bool>,
    /// How many were recorded.
    pub(crate) recorded: i32,
}

/// Maximum identifiers of a [`RetriedEntry`].
pub(crate) const MAX_RECORDED: i32 = 10;

/// Lists retries that can be undone, the latest first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetriedEntries {
    /// Only retries at this time or later.
    pub(crate) since: OffsetDateTime,
    pub(crate) limit: i64,
}

impl Query for RetriedEntries {
    type Answer = Vec<RetriedEntry>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<RetriedEntry>, sqlx::Error> {
        let retried = sqlx::query_as!(
            RetriedEntry,
            r#"SELECT
                   quarantine_id,
                   retried_at,
                   retried_by,
                   entry ->> 'reason' AS "reason!",
                   ids[:$3] AS "ids!",
                   dispositions[:$3] AS "dispositions!",
                   are_predictions[:$3] AS "are_predictions!",
                   cardinality(ids) AS "recorded!"
               FROM quarantine_retries
               WHERE retried_at >= $1
               ORDER BY retried_at DESC, quarantine_id DESC
               LIMIT $2"#,
            self.since,
            self.limit,
            MAX_RECORDED
        );
        retried.fetch_all(transaction).await
    }
}

/// The retry that recorded an execution or a prediction.
#[derive(Debug, Clone)]
pub(crate) struct RecordedBy {
    pub(crate) quarantine_id: i64,
    /// When the retry began, by PostgreSQL's clock.
    pub(crate) retried_at: OffsetDateTime,
    /// The name of the operator's token, or `command line`.
    pub(crate) retried_by: String,
}

/// Reads the retry that recorded an execution or a prediction; `None` if a webhook was recorded without a retry, or if
/// retention has removed the retry.
#[derive(Debug, Clone)]
pub(crate) struct GetRecordedBy {
    pub(crate) id: String,
    pub(crate) is_prediction: bool,
}

impl Query for GetRecordedBy {
    type Answer = Option<RecordedBy>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Option<RecordedBy>, sqlx::Error> {
        let retry = sqlx::query_as!(
            RecordedBy,
            "SELECT quarantine_id, retried_at, retried_by
             FROM quarantine_retries
             WHERE
                 ids @> ARRAY[$1]
                 AND are_predictions[array_position(ids, $1)] = $2
                 AND dispositions[array_position(ids, $1)] IN ('new', 'replacement')
             ORDER BY retried_at DESC
             LIMIT 1",
            self.id,
            self.is_prediction
        );
        retry.fetch_optional(transaction).await
    }
}
