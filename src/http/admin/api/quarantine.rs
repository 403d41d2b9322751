//! `/api/v1/quarantine`

use axum::extract::State;
use axum::http::Uri;

use super::query::{FromQuery, Paging, Parameters, PathId, path_number};
use super::state::{ApiState, JsonResult};
use crate::db::queries::quarantine::{Filter, GetQuarantined, Quarantine, QuarantineDetail, Quarantined};
use crate::db::queries::{Page, TimeRange};
use crate::http::problem::{ApiProblems, DetailProblems, Problem};

impl FromQuery for Quarantine {
    fn from_query(p: &mut Parameters) -> Result<Self, Problem> {
        let filter = Filter::default();
        Ok(Self { period: p.period()?, page: p.page::<Self>(&filter)?, filter })
    }
}

/// List the quarantine: bodies that cannot be recorded as executions, newest first
#[utoipa::path(
    get, path = "/api/v1/quarantine", tag = "Conflicts and quarantine",
    params(TimeRange, Paging),
    responses((status = 200, body = Page<Quarantined>, description = "A page of entries."), ApiProblems)
)]
pub(super) async fn list_quarantine(State(api): ApiState, uri: Uri) -> JsonResult<Page<Quarantined>> {
    api.list::<Quarantine>(&uri).await
}

/// Get a quarantine entry with its body
#[utoipa::path(
    get, path = "/api/v1/quarantine/{quarantine_id}", tag = "Conflicts and quarantine",
    params(("quarantine_id" = i64, Path, description = "The number of the entry.")),
    responses((status = 200, body = QuarantineDetail, description = "The entry."), DetailProblems)
)]
pub(super) async fn get_quarantined(
    State(api): ApiState,
    uri: Uri,
    id: PathId<i64>,
) -> JsonResult<QuarantineDetail> {
    let quarantine_id = path_number(id, "quarantine_id")?;
    api.detail(&uri, GetQuarantined { quarantine_id }, "quarantine entry").await
}
