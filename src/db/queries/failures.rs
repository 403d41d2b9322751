//! Failures of executions and predictions, grouped by their cause.

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::ToSchema;

use super::reference::ReferenceFilter;
use super::search::STEP_SCAN_LIMIT;
use super::{EXCERPT_CHARS, Query, Scope, TimeRange};
use crate::db::Transaction;

/// Maximum executions and predictions that are scanned.
const SCAN_LIMIT: i64 = 1_000;

/// Failures with the same cause, or of the same model. All failures of a group are of executions, or all are of predictions.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Group {
    /// The workflow that ran; null when models are grouped, and for predictions outside of a workflow.
    pub(crate) workflow_id: Option<String>,
    /// The step that failed; null unless steps are grouped.
    pub(crate) step_id: Option<String>,
    /// The model that failed; null unless models are grouped, and for a step without a model.
    pub(crate) model: Option<String>,
    /// The class of the latest failure, or of `error_cause` when models are grouped: one of the sender's classes such as `execution_timeout`; `unknown` if the texts do
    /// not show it.
    pub(crate) failure_class: String,
    /// The kind of failure, such as `ExecutionFailed`, or for predictions `PROVIDER_REJECTED`; null if not sent. The first
    /// 1,000 characters. When models are grouped, that of the model's most frequent failure.
    pub(crate) error: Option<String>,
    /// The sender's reason; null if not sent. The first 1,000 characters. When models are grouped, that of the model's most
    /// frequent failure.
    pub(crate) error_cause: Option<String>,
    /// The number of failures in the group.
    pub(crate) failed: i64,
    /// The latest execution in the group; null for a group of predictions.
    pub(crate) latest_execution_id: Option<String>,
    /// The latest prediction in the group; null for a group of executions.
    pub(crate) latest_prediction_id: Option<String>,
    /// When the first delivery of the group's earliest failure was received, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) earliest_received_at: OffsetDateTime,
    /// When the first delivery of the group's latest failure was received, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) latest_received_at: OffsetDateTime,
    /// How many of them have this error and cause.
    #[serde(skip)]
    pub(crate) with_cause: i64,
    #[serde(skip)]
    all_failed: i64,
    #[serde(skip)]
    scanned: i64,
    #[serde(skip)]
    earliest_scanned: OffsetDateTime,
}

/// Groups of failures, the largest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Failures {
    /// The largest groups, at most `limit`.
    pub(crate) groups: Vec<Group>,
    /// The number of failures in all groups, including groups beyond `limit`.
    pub(crate) failed: i64,
    /// True if there were too many failures: then only the failures since `since` are grouped.
    pub(crate) partial: bool,
    /// When the first delivery of the earliest grouped failure was received; null without failures.
    #[serde(with = "rfc3339::option")]
    pub(crate) since: Option<OffsetDateTime>,
}

/// What a group counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema, IntoStaticStr, VariantArray)]
#[schema(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub(crate) enum By {
    /// Failed executions and failed predictions, by workflow, error and cause.
    #[default]
    Cause,
    /// Failed steps, also of completed executions, by workflow, step, error and cause. Executions whose payload was
    /// removed have no steps.
    Step,
    /// Failed steps of all workflows, by model.
    Model,
}

/// Groups failures.
#[derive(Debug, Clone)]
pub(crate) struct FailureQuery {
    pub(crate) by: By,
    pub(crate) scope: Scope,
    pub(crate) period: TimeRange,
    /// Only failures whose webhook URL has this query parameter.
    pub(crate) reference: Option<ReferenceFilter>,
    /// Maximum number of groups, from 1 to [`super::page::MAX_LIMIT`].
    pub(crate) limit: i64,
}

impl Default for FailureQuery {
    fn default() -> Self {
        Self {
            by: By::Cause,
            scope: Scope::default(),
            period: TimeRange::default(),
            reference: None,
            limit: super::page::DEFAULT_LIMIT,
        }
    }
}

impl Query for FailureQuery {
    type Answer = Failures;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Failures, sqlx::Error> {
        let scan_limit = if self.by == By::Cause { SCAN_LIMIT } else { STEP_SCAN_LIMIT };
        let groups = sqlx::query_file_as!(
            Group,
            "src/db/queries/failures.sql",
            self.period.start(),
            self.period.end(),
            self.scope.workflow.as_deref(),
            self.scope.bulk.as_deref(),
            scan_limit,
            EXCERPT_CHARS,
            self.limit,
            <&str>::from(self.by),
            self.reference.as_ref().map(ReferenceFilter::as_json)
        );
        let groups = groups.fetch_all(transaction).await?;
        let first = groups.first();
        Ok(Failures {
            failed: first.map_or(0, |group| group.all_failed),
            partial: first.is_some_and(|group| group.scanned >= scan_limit),
            since: first.map(|group| group.earliest_scanned),
            groups,
        })
    }
}
