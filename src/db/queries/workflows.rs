//! Counts and costs of workflows, from the rollups.

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;

use super::json::Json;
use super::overview::Counts;
use super::{Choice, Page, Query};
use crate::db::Transaction;

/// A workflow with its counts and costs.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Workflow {
    /// The sender's identifier of the workflow.
    pub(crate) workflow_id: String,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// The number of executions with a cost below 10^12.
    pub(crate) executions_with_cost: i64,
    /// The sum of these costs, in the sender's unit.
    #[schema(value_type = f64)]
    pub(crate) total_cost: Json,
    /// `total_cost` divided by `executions_with_cost`; null without executions with a cost.
    #[schema(value_type = Option<f64>)]
    pub(crate) average_cost: Option<Json>,
}

/// The column that workflows are sorted by, the largest value first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema, IntoStaticStr, VariantArray)]
#[schema(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Order {
    /// The total cost.
    #[default]
    Cost,
    /// The number of failed executions.
    Failed,
    /// The number of executions.
    Executions,
}

pub(crate) const DEFAULT_DAYS: i64 = 7;
pub(crate) const MAX_DAYS: i64 = 366;

/// Lists the workflows of the last days (UTC, including today).
#[derive(Debug, Clone)]
pub(crate) struct Workflows {
    /// From 1 to [`MAX_DAYS`].
    pub(crate) days: i64,
    pub(crate) order: Order,
    /// Maximum number of workflows.
    pub(crate) limit: i64,
}

impl Query for Workflows {
    /// The only page.
    type Answer = Page<Workflow>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Page<Workflow>, sqlx::Error> {
        let since = OffsetDateTime::now_utc().date().saturating_sub(Duration::days(self.days - 1));
        let rows = sqlx::query_file!("src/db/queries/workflows.sql", since, self.order.as_str(), self.limit);
        let rows = rows.fetch_all(transaction).await?.into_iter();
        let items = rows
            .map(|row| Workflow {
                workflow_id: row.workflow_id,
                counts: [row.executions, row.completed, row.failed, row.cancelled, row.other].into(),
                executions_with_cost: row.executions_with_cost,
                total_cost: row.total_cost,
                average_cost: row.average_cost,
            })
            .collect();
        Ok(Page { items, next: None })
    }
}
