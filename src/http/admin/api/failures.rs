//! `/api/v1/failures`

use axum::extract::State;
use axum::http::Uri;

use super::query::{FromQuery, Parameters};
use super::state::{ApiState, JsonResult};
use crate::db::queries::failures::{By, FailureQuery, Failures};
use crate::db::queries::reference::ReferenceText;
use crate::db::queries::{Scope, TimeRange, page};
use crate::http::problem::{ApiProblems, Problem};

impl FromQuery for FailureQuery {
    fn from_query(p: &mut Parameters) -> Result<Self, Problem> {
        Ok(Self {
            by: p.choice("by")?.unwrap_or_default(),
            scope: p.scope()?,
            period: p.period()?,
            reference: p.reference()?,
            limit: p.number("limit", page::DEFAULT_LIMIT, page::MAX_LIMIT)?,
        })
    }
}

/// Count failures by cause, step or model, most frequent first
///
/// Groups the latest 1,000 failed executions and predictions, or the failed steps of the latest 500 executions with a
/// failed step. `partial` is true if there are more. A group contains executions or predictions, never both.
#[utoipa::path(
    get, path = "/api/v1/failures", tag = "Executions",
    params(
        ("by" = inline(Option<By>), Query, description = "Group failed executions and predictions by cause (the default), or failed steps by step or by model."),
        Scope, TimeRange,
        ("reference" = inline(Option<ReferenceText>), Query, description = "Only failures whose webhook URL has this query parameter, such as `order=1234`.", example = "order=1234"),
        ("limit" = Option<i64>, Query, description = "Maximum number of groups.", minimum = 1, maximum = 1000),
    ),
    responses((status = 200, body = Failures, description = "The groups."), ApiProblems)
)]
pub(super) async fn list_failures(State(api): ApiState, uri: Uri) -> JsonResult<Failures> {
    api.list::<FailureQuery>(&uri).await
}
