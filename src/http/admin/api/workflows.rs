//! `/api/v1/workflows`

use axum::extract::State;
use axum::http::Uri;

use super::query::{FromQuery, Parameters};
use super::state::{ApiState, JsonResult};
use crate::db::queries::workflows::{DEFAULT_DAYS, MAX_DAYS, Order, Workflow, Workflows};
use crate::db::queries::{Page, page};
use crate::http::problem::{ApiProblems, Problem};

impl FromQuery for Workflows {
    fn from_query(p: &mut Parameters) -> Result<Self, Problem> {
        Ok(Self {
            days: p.number("days", DEFAULT_DAYS, MAX_DAYS)?,
            order: p.choice("order")?.unwrap_or_default(),
            limit: p.number("limit", page::DEFAULT_LIMIT, page::MAX_LIMIT)?,
        })
    }
}

/// List workflows with their counts and costs, highest first
///
/// There is one page: `next` is always null.
#[utoipa::path(
    get, path = "/api/v1/workflows", tag = "Statistics",
    params(
        ("days" = Option<i32>, Query, description = "Number of days (UTC), today included.", minimum = 1, maximum = 366),
        ("order" = inline(Option<Order>), Query, description = "What to sort by; cost by default."),
        ("limit" = Option<i64>, Query, description = "Maximum number of workflows.", minimum = 1, maximum = 1000),
    ),
    responses((status = 200, body = Page<Workflow>, description = "The workflows."), ApiProblems)
)]
pub(super) async fn list_workflows(State(api): ApiState, uri: Uri) -> JsonResult<Page<Workflow>> {
    api.list::<Workflows>(&uri).await
}
