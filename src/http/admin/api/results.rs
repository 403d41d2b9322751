//! `/api/v1/results`

use axum::extract::State;
use axum::http::Uri;

use super::query::{FromQuery, Paging, Parameters};
use super::state::{ApiState, JsonResult};
use crate::db::queries::results::{Filter, ResultItem, ResultsQuery};
use crate::db::queries::{Page, Scope, TimeRange};
use crate::http::problem::{ApiProblems, Problem};

impl FromQuery for ResultsQuery {
    fn from_query(p: &mut Parameters) -> Result<Self, Problem> {
        let filter = Filter { execution: p.text("execution")?, scope: p.scope()?, reference: p.reference()? };
        Ok(Self { period: p.period()?, page: p.page::<Self>(&filter)?, filter })
    }
}

/// List results: one item for each output of an execution
///
/// Newest executions first. The outputs of one execution keep their order.
#[utoipa::path(
    get, path = "/api/v1/results", tag = "Executions",
    params(Filter, Scope, TimeRange, Paging),
    responses((status = 200, body = Page<ResultItem>, description = "A page of results."), ApiProblems)
)]
pub(super) async fn list_results(State(api): ApiState, uri: Uri) -> JsonResult<Page<ResultItem>> {
    api.list::<ResultsQuery>(&uri).await
}
