//! `/api/v1/conflicts`

use axum::extract::State;
use axum::http::Uri;

use super::query::{FromQuery, Paging, Parameters, PathId, path_number};
use super::state::{ApiState, JsonResult};
use crate::db::queries::conflicts::{Conflict, ConflictDetail, Conflicts, Filter, GetConflict};
use crate::db::queries::{Page, TimeRange};
use crate::http::problem::{ApiProblems, DetailProblems, Problem};

impl FromQuery for Conflicts {
    fn from_query(p: &mut Parameters) -> Result<Self, Problem> {
        let filter = Filter { execution: p.text("execution")? };
        Ok(Self { period: p.period()?, page: p.page::<Self>(&filter)?, filter })
    }
}

/// List conflicts: deliveries that contradict a recorded execution, newest first
#[utoipa::path(
    get, path = "/api/v1/conflicts", tag = "Conflicts and quarantine",
    params(Filter, TimeRange, Paging),
    responses((status = 200, body = Page<Conflict>, description = "A page of conflicts."), ApiProblems)
)]
pub(super) async fn list_conflicts(State(api): ApiState, uri: Uri) -> JsonResult<Page<Conflict>> {
    api.list::<Conflicts>(&uri).await
}

/// Get a conflict with the recorded and the delivered output
#[utoipa::path(
    get, path = "/api/v1/conflicts/{conflict_id}", tag = "Conflicts and quarantine",
    params(("conflict_id" = i64, Path, description = "The number of the conflict.")),
    responses((status = 200, body = ConflictDetail, description = "The conflict."), DetailProblems)
)]
pub(super) async fn get_conflict(
    State(api): ApiState,
    uri: Uri,
    id: PathId<i64>,
) -> JsonResult<ConflictDetail> {
    api.detail(&uri, GetConflict { conflict_id: path_number(id, "conflict_id")? }, "conflict").await
}
