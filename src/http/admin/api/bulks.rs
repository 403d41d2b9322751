//! `/api/v1/bulks`

use axum::extract::State;
use axum::http::Uri;

use super::query::{FromQuery, Paging, Parameters, PathId, path_identifier};
use super::state::{ApiState, JsonResult};
use crate::db::queries::bulks::{Bulk, BulkDetail, Bulks, Complete, GetBulk};
use crate::db::queries::{Page, TimeRange};
use crate::http::problem::{ApiProblems, DetailProblems, Problem};

impl FromQuery for Bulks {
    fn from_query(p: &mut Parameters) -> Result<Self, Problem> {
        let complete = p.choice("complete")?;
        Ok(Self { filter: complete, period: p.period()?, page: p.page::<Self>(&complete)? })
    }
}

/// List bulks and their progress, newest first
///
/// A bulk is listed as soon as it has an execution, or the response of its bulk-trigger is registered. A bulk with only an
/// expected size is not listed.
#[utoipa::path(
    get, path = "/api/v1/bulks", tag = "Bulks",
    params(
        ("complete" = inline(Option<Complete>), Query, description = "Only bulks that are complete (yes), incomplete (no), or of unknown size (unknown)."),
        TimeRange, Paging,
    ),
    responses((status = 200, body = Page<Bulk>, description = "A page of bulks."), ApiProblems)
)]
pub(super) async fn list_bulks(State(api): ApiState, uri: Uri) -> JsonResult<Page<Bulk>> {
    api.list::<Bulks>(&uri).await
}

/// Get a bulk: its progress, executions and results
#[utoipa::path(
    get, path = "/api/v1/bulks/{bulk_id}", tag = "Bulks",
    params(("bulk_id" = String, Path, description = "The sender's identifier of the bulk.")),
    responses((status = 200, body = BulkDetail, description = "The bulk."), DetailProblems)
)]
pub(super) async fn get_bulk(State(api): ApiState, uri: Uri, id: PathId<String>) -> JsonResult<BulkDetail> {
    api.detail(&uri, GetBulk { bulk_id: path_identifier(id, "bulk")? }, "bulk").await
}
