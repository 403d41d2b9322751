//! A function for each address, with its description for `/openapi.json`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde::Serialize;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::ToSchema;

use super::parameters::Paging;
use super::{Api, read};
use crate::db::queries::overview::{self, Overview, OverviewQuery};
use crate::db::queries::{
    Page, TimeRange, bulks, conflicts, executions, failures, quarantine, results, workflows,
};
use crate::health::Summary;
use crate::http::problem::{self, Problem};
use crate::http::responses::ApiProblems;

type Answer<T> = Result<Json<T>, Problem>;
type Shared = State<Arc<Api>>;

/// Numbers for charts, and how the receiver is.
#[derive(Serialize, ToSchema)]
pub(super) struct Dashboard {
    /// Where the chart begins: at `from`, unless that is too long before, or a day or a month before `to`.
    #[serde(with = "rfc3339")]
    from: OffsetDateTime,
    /// Where it ends: `to`, or now.
    #[serde(with = "rfc3339")]
    to: OffsetDateTime,
    #[serde(flatten)]
    overview: Overview,
    /// What `/health/ready` says, without its parts, and how much waits to be recorded.
    receiver: Summary,
}

/// How executions went, hour by hour or day by day
///
/// From sums that are kept with each execution, exact to the latest commit. At most the latest 744 hours, or 366 days,
/// before `to`: `from` in the answer is where the chart begins.
#[utoipa::path(
    get, path = "/api/v1/overview", tag = "Numbers",
    params(
        ("by" = inline(Option<overview::By>), Query, description = "What a point of the chart stands for; an hour unless said."),
        TimeRange,
        ("workflow" = Option<String>, Query, description = "Only executions of this workflow.", min_length = 1, max_length = 255, pattern = r"^[^\x00]+$"),
    ),
    responses((status = 200, body = Dashboard), ApiProblems)
)]
pub(super) async fn overview(State(api): Shared, uri: Uri) -> Answer<Dashboard> {
    let chart: OverviewQuery = read(&uri)?;
    let overview = api.ask(&chart).await?;
    let receiver = api.admin.health.health().into();
    Ok(Json(Dashboard { from: chart.from, to: chart.to, overview, receiver }))
}

/// Which workflows ran, how they went, and what they cost
///
/// The largest first; there are no further pages.
#[utoipa::path(
    get, path = "/api/v1/workflows", tag = "Numbers",
    params(
        ("days" = Option<i32>, Query, description = "In how many days, that of today included (UTC).", minimum = 1, maximum = 366),
        ("order" = inline(Option<workflows::Order>), Query, description = "By what the largest is told; by cost unless said."),
        ("limit" = Option<i64>, Query, description = "How many workflows at most.", minimum = 1, maximum = 1000),
    ),
    responses((status = 200, body = Page<workflows::Workflow>), ApiProblems)
)]
pub(super) async fn workflows(State(api): Shared, uri: Uri) -> Answer<Page<workflows::Workflow>> {
    api.answer::<workflows::Workflows>(&uri).await
}

/// Executions, newest first
#[utoipa::path(
    get, path = "/api/v1/executions", tag = "Executions",
    params(executions::Filter, TimeRange, Paging),
    responses((status = 200, body = Page<executions::Execution>), ApiProblems)
)]
pub(super) async fn executions(State(api): Shared, uri: Uri) -> Answer<Page<executions::Execution>> {
    api.answer::<executions::Executions>(&uri).await
}

/// One execution, with its results, steps and payload
#[utoipa::path(
    get, path = "/api/v1/executions/{execution_id}", tag = "Executions",
    params(("execution_id" = String, Path, description = "The sender's identifier.")),
    responses(
        (status = 200, body = executions::ExecutionDetail),
        (status = 404, body = problem::Body, content_type = "application/problem+json", description = "It is not recorded."),
        ApiProblems,
    )
)]
pub(super) async fn execution(
    State(api): Shared,
    uri: Uri,
    id: Id<String>,
) -> Answer<executions::ExecutionDetail> {
    api.one(&uri, executions::GetExecution { execution_id: named(id, "execution")? }, "execution").await
}

/// What executions made: a row for each output
///
/// The newest executions first, each with its outputs in their order.
#[utoipa::path(
    get, path = "/api/v1/results", tag = "Executions",
    params(results::Filter, TimeRange, Paging),
    responses((status = 200, body = Page<results::ResultItem>), ApiProblems)
)]
pub(super) async fn results(State(api): Shared, uri: Uri) -> Answer<Page<results::ResultItem>> {
    api.answer::<results::ResultsQuery>(&uri).await
}

/// Bulks that something came of, and how far they are, newest first
#[utoipa::path(
    get, path = "/api/v1/bulks", tag = "Bulks",
    params(
        ("complete" = inline(Option<bulks::Complete>), Query, description = "Only those that are complete, are not, or whose size nobody said."),
        TimeRange, Paging,
    ),
    responses((status = 200, body = Page<bulks::Bulk>), ApiProblems)
)]
pub(super) async fn bulks(State(api): Shared, uri: Uri) -> Answer<Page<bulks::Bulk>> {
    api.answer::<bulks::Bulks>(&uri).await
}

/// One bulk: how far it is, its executions, and what they made
#[utoipa::path(
    get, path = "/api/v1/bulks/{bulk_id}", tag = "Bulks",
    params(("bulk_id" = String, Path, description = "The sender's identifier.")),
    responses(
        (status = 200, body = bulks::BulkDetail),
        (status = 404, body = problem::Body, content_type = "application/problem+json", description = "Nothing is known of it."),
        ApiProblems,
    )
)]
pub(super) async fn bulk(State(api): Shared, uri: Uri, id: Id<String>) -> Answer<bulks::BulkDetail> {
    api.one(&uri, bulks::GetBulk { bulk_id: named(id, "bulk")? }, "bulk").await
}

/// What failed how often, and why: the most frequent first
///
/// Looks at the latest 1,000 failed executions, or the latest 500 with a failed step; `complete` says whether that
/// was all.
#[utoipa::path(
    get, path = "/api/v1/failures", tag = "Executions",
    params(
        ("by" = inline(Option<failures::By>), Query, description = "What is grouped: failed executions by their cause unless said."),
        failures::Filter, TimeRange,
        ("limit" = Option<i64>, Query, description = "How many groups at most.", minimum = 1, maximum = 1000),
    ),
    responses((status = 200, body = failures::Failures), ApiProblems)
)]
pub(super) async fn failures(State(api): Shared, uri: Uri) -> Answer<failures::Failures> {
    api.answer::<failures::FailureQuery>(&uri).await
}

/// Deliveries that contradict the recorded outcome, newest first
#[utoipa::path(
    get, path = "/api/v1/conflicts", tag = "Kept aside",
    params(conflicts::Filter, TimeRange, Paging),
    responses((status = 200, body = Page<conflicts::Conflict>), ApiProblems)
)]
pub(super) async fn conflicts(State(api): Shared, uri: Uri) -> Answer<Page<conflicts::Conflict>> {
    api.answer::<conflicts::Conflicts>(&uri).await
}

/// One contradiction, with what each side made
#[utoipa::path(
    get, path = "/api/v1/conflicts/{conflict_id}", tag = "Kept aside",
    params(("conflict_id" = i64, Path, description = "Its number.")),
    responses(
        (status = 200, body = conflicts::ConflictDetail),
        (status = 404, body = problem::Body, content_type = "application/problem+json", description = "There is none with this number."),
        ApiProblems,
    )
)]
pub(super) async fn conflict(State(api): Shared, uri: Uri, id: Id<i64>) -> Answer<conflicts::ConflictDetail> {
    api.one(&uri, conflicts::GetConflict { conflict_id: numbered(id, "conflict_id")? }, "conflict").await
}

/// Bodies that are no execution, newest first
#[utoipa::path(
    get, path = "/api/v1/quarantine", tag = "Kept aside",
    params(TimeRange, Paging),
    responses((status = 200, body = Page<quarantine::Quarantined>), ApiProblems)
)]
pub(super) async fn quarantine(State(api): Shared, uri: Uri) -> Answer<Page<quarantine::Quarantined>> {
    api.answer::<quarantine::Quarantine>(&uri).await
}

/// One body in quarantine
#[utoipa::path(
    get, path = "/api/v1/quarantine/{quarantine_id}", tag = "Kept aside",
    params(("quarantine_id" = i64, Path, description = "Its number.")),
    responses(
        (status = 200, body = quarantine::QuarantineDetail),
        (status = 404, body = problem::Body, content_type = "application/problem+json", description = "There is none with this number."),
        ApiProblems,
    )
)]
pub(super) async fn quarantined(
    State(api): Shared,
    uri: Uri,
    id: Id<i64>,
) -> Answer<quarantine::QuarantineDetail> {
    api.one(&uri, quarantine::GetQuarantined { quarantine_id: numbered(id, "quarantine_id")? }, "body").await
}

type Id<T> = Result<Path<T>, PathRejection>;

/// What has another form than the sender's identifiers have is not recorded.
fn named(id: Id<String>, what: &'static str) -> Result<String, Problem> {
    let id = id.ok().map(|Path(id)| id).filter(|id| !id.contains('\0'));
    id.ok_or(Problem::NotRecorded { what })
}

fn numbered(id: Id<i64>, name: &'static str) -> Result<i64, Problem> {
    let allowed = || "must be a whole number".to_owned();
    id.map(|Path(id)| id).map_err(|_| Problem::Parameter { name: Some(name), allowed: allowed() })
}
