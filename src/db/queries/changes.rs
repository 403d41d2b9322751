//! The change feed, in the order of its numbers.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::ToSchema;

use super::{Query, Scope};
use crate::db::Transaction;

/// A committed change of an execution or bulk.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Change {
    /// The number of the change. The numbers have no gaps, also with several receivers. A change with a lower number is
    /// visible earlier.
    pub(crate) change: i64,
    /// `execution.updated`: the execution has a new status that is not terminal; `execution.ended`: it has a terminal
    /// status (once per execution); `execution.conflict`: a delivery contradicts an ended execution; `execution.undone`: an
    /// operator has undone a retry of a quarantined webhook, so the execution is as it was before the retry;
    /// `bulk.completed`: all expected executions of the bulk have ended (once per bulk).
    pub(crate) r#type: String,
    /// Null for `bulk.completed`.
    pub(crate) execution_id: Option<String>,
    /// The workflow in the webhook; null for `bulk.completed`.
    pub(crate) workflow_id: Option<String>,
    /// The bulk in the webhook; null for an execution without a bulk.
    pub(crate) bulk_id: Option<String>,
    /// The status in the webhook; for `execution.undone` the status that is recorded now, null if the execution is not
    /// recorded any more; null for `bulk.completed`.
    pub(crate) status: Option<String>,
    /// When the change was recorded, by PostgreSQL's clock.
    #[serde(with = "rfc3339")]
    pub(crate) recorded_at: OffsetDateTime,
}

// Parameters of the API and of the command line.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChangeFilter {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// Only changes to this status
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) status: Option<String>,
}

impl ChangeFilter {
    pub(crate) fn matches(&self, change: &Change) -> bool {
        let matches = |wanted: &Option<String>, actual: &Option<String>| wanted.is_none() || wanted == actual;
        matches(&self.scope.workflow, &change.workflow_id)
            && matches(&self.scope.bulk, &change.bulk_id)
            && matches(&self.status, &change.status)
    }
}

/// Reads the changes with numbers above `after`, at most `limit`. `None` if `after` is not the number before a stored change
/// or the last number: retention has removed the next change, or `after` is higher than the last number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChangesAfter {
    pub(crate) after: i64,
    pub(crate) limit: i64,
}

impl Query for ChangesAfter {
    type Answer = Option<Vec<Change>>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Self::Answer, sqlx::Error> {
        let changes = sqlx::query_as!(
            Change,
            r#"SELECT change AS "change!", type AS "type!", execution_id, workflow_id, bulk_id, status,
                   recorded_at AS "recorded_at!"
               FROM changes_after($1) LIMIT $2"#,
            self.after,
            self.limit
        );
        let changes = changes.fetch_all(&mut *transaction).await?;
        let is_known = match changes.first() {
            Some(first) => first.change - 1 == self.after,
            None => LastChange.run(transaction).await? == self.after,
        };
        Ok(is_known.then_some(changes))
    }
}

/// Reads the last number; 0 before the first change. Retention keeps the last change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastChange;

impl Query for LastChange {
    type Answer = i64;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<i64, sqlx::Error> {
        let last =
            sqlx::query_scalar!(r#"SELECT coalesce(max(last_change), 0) AS "last!" FROM change_batches"#);
        last.fetch_one(transaction).await
    }
}
