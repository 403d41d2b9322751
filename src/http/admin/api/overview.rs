//! `/api/v1/overview`

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::ToSchema;

use super::query::{FromQuery, Parameters, parse};
use super::state::{ApiState, JsonResult};
use crate::db::queries::TimeRange;
use crate::db::queries::overview::{By, Overview, OverviewQuery};
use crate::execution::identifier::Identifier;
use crate::health::Summary;
use crate::http::problem::{ApiProblems, Problem};

impl FromQuery for OverviewQuery {
    fn from_query(p: &mut Parameters) -> Result<Self, Problem> {
        let by = p.choice("by")?.unwrap_or_default();
        let period = p.period()?;
        Ok(Self::new(by, period, p.text("workflow")?, OffsetDateTime::now_utc()))
    }
}

/// Counts for a chart, and the health of the receiver.
#[derive(Serialize, ToSchema)]
pub(super) struct Dashboard {
    /// The start of the chart. Later than the requested `from` if that would make too many points.
    #[serde(with = "rfc3339")]
    from: OffsetDateTime,
    /// The end of the chart: the requested `to`, or now.
    #[serde(with = "rfc3339")]
    to: OffsetDateTime,
    #[serde(flatten)]
    overview: Overview,
    /// `/health/ready` without its parts.
    receiver: Summary,
}

/// Count executions by hour or day
///
/// The counts are exact. The chart covers at most the last 744 hours or 366 days before `to`, and by default 24 hours or
/// 30 days. `from` in the response is its start.
#[utoipa::path(
    get, path = "/api/v1/overview", tag = "Statistics",
    params(
        ("by" = inline(Option<By>), Query, description = "The unit of a point: hour (the default) or day."),
        TimeRange,
        ("workflow" = inline(Option<Identifier>), Query, description = "Only executions of this workflow."),
    ),
    responses((status = 200, body = Dashboard, description = "The chart, and the health of the receiver."), ApiProblems)
)]
pub(super) async fn get_overview(State(api): ApiState, uri: Uri) -> JsonResult<Dashboard> {
    let chart: OverviewQuery = parse(&uri)?;
    let overview = api.run(&chart).await?;
    let receiver = api.admin.health.health().summary;
    Ok(Json(Dashboard { from: chart.from, to: chart.to, overview, receiver }))
}
