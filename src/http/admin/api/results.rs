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
        let filter = Filter {
            kind: p.choice("kind")?,
            is_final: p.flag("final")?,
            execution: p.text("execution")?,
            prediction: p.text("prediction")?,
            scope: p.scope()?,
            reference: p.reference()?,
        };
        Ok(Self { period: p.period()?, page: p.page::<Self>(&filter)?, filter })
    }
}

/// List results: the files, texts and other values that executions and predictions produced
///
/// Newest first. The results of one execution are in the order of `workflow_output`, `output`, and the steps by
/// their start. At most 10,000 values of each output and 50,000 values of an execution are examined.
#[utoipa::path(
    get, path = "/api/v1/results", tag = "Executions",
    params(Filter, Scope, TimeRange, Paging),
    responses((status = 200, body = Page<ResultItem>, description = "A page of results."), ApiProblems)
)]
pub(super) async fn list_results(State(api): ApiState, uri: Uri) -> JsonResult<Page<ResultItem>> {
    api.list::<ResultsQuery>(&uri).await
}
