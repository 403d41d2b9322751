//! Workflows: how they went, and what they cost, from the sums.

use serde::Serialize;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;

use super::json::Json;
use super::overview::Counts;
use super::{Choice, Page, Query};

/// How the executions of a workflow went, and what they cost.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Workflow {
    /// The sender's identifier of the workflow.
    pub(crate) workflow_id: String,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// How many of them say what they cost, below 10^12.
    pub(crate) executions_with_cost: i64,
    /// The sum of these costs, in the sender's unit.
    #[schema(value_type = f64)]
    pub(crate) total_cost: Json,
    /// `total_cost` divided by `executions_with_cost`; null when none is known.
    #[schema(value_type = Option<f64>)]
    pub(crate) average_cost: Option<Json>,
}

/// By what workflows are put in order, the largest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Order {
    /// What they cost.
    #[default]
    Cost,
    /// How many executions failed.
    Failed,
    /// How many came.
    Executions,
}

impl Choice for Order {
    const ALL: &'static [Self] = &[Self::Cost, Self::Failed, Self::Executions];

    fn as_str(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Failed => "failed",
            Self::Executions => "executions",
        }
    }
}

/// How many days when nobody says, and at most.
pub(crate) const DEFAULT_DAYS: i64 = 7;
pub(crate) const MAX_DAYS: i64 = 366;

/// Which workflows ran in the latest days (UTC, today included).
#[derive(Debug, Clone)]
pub(crate) struct Workflows {
    /// How many days, from 1 to [`MAX_DAYS`].
    pub(crate) days: i64,
    pub(crate) order: Order,
    /// How many workflows at most.
    pub(crate) limit: i64,
}

impl Query for Workflows {
    /// There are no further pages.
    type Answer = Page<Workflow>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Page<Workflow>, sqlx::Error> {
        let since = OffsetDateTime::now_utc().date().saturating_sub(Duration::days(self.days - 1));
        let rows = sqlx::query_file!("src/db/queries/workflows.sql", since, self.order.as_str(), self.limit);
        let rows = rows.fetch_all(connection).await?.into_iter();
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
