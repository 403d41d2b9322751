//! Failed steps by model.

use time::OffsetDateTime;

use super::search::STEP_SCAN_LIMIT;
use super::{EXCERPT_CHARS, Query, TimeRange};
use crate::db::Transaction;

/// The failed steps of a model, with their most frequent cause.
#[derive(Debug, Clone)]
pub(crate) struct FailedModel {
    pub(crate) model: String,
    /// The kind and the cause of the most frequent failure, and their class.
    pub(crate) error: Option<String>,
    pub(crate) error_cause: Option<String>,
    pub(crate) failure_class: String,
    /// Failures with this cause.
    pub(crate) failed: i64,
    /// Failures with any cause.
    pub(crate) all_failed: i64,
    /// When the first delivery of the latest execution was received.
    pub(crate) latest_received_at: OffsetDateTime,
    scanned: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct FailedModels {
    /// Those with the most failed steps first.
    pub(crate) models: Vec<FailedModel>,
    /// True if there may be more executions with a failed step than were scanned.
    pub(crate) is_partial: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct FailedModelQuery {
    pub(crate) period: TimeRange,
    pub(crate) limit: i64,
}

impl Query for FailedModelQuery {
    type Answer = FailedModels;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<FailedModels, sqlx::Error> {
        let models = sqlx::query_file_as!(
            FailedModel,
            "src/db/queries/failed_models.sql",
            self.period.start(),
            self.period.end(),
            STEP_SCAN_LIMIT,
            self.limit,
            EXCERPT_CHARS
        );
        let models = models.fetch_all(transaction).await?;
        let is_partial = models.first().is_some_and(|model| model.scanned >= STEP_SCAN_LIMIT);
        Ok(FailedModels { models, is_partial })
    }
}
