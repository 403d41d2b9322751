//! Counts for charts, from the rollups by hour.

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use time::serde::rfc3339;
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;

use super::{Choice, Query, TimeRange};
use crate::db::Transaction;

/// Executions by status. An execution counts at the time of its first delivery.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Counts {
    /// completed + failed + cancelled + other.
    pub(crate) executions: i64,
    /// Executions with the status completed, or succeeded or success in a legacy flow.
    pub(crate) completed: i64,
    /// Executions with the status failed.
    pub(crate) failed: i64,
    /// Executions with the status cancelled.
    pub(crate) cancelled: i64,
    /// Executions with any other status: they have not ended yet.
    pub(crate) other: i64,
    /// failed divided by executions, from 0 to 1; null without executions.
    pub(crate) failure_rate: Option<f64>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Point {
    /// The beginning of the hour or day (UTC).
    #[serde(with = "rfc3339")]
    pub(crate) at: OffsetDateTime,
    #[serde(flatten)]
    pub(crate) counts: Counts,
}

/// The counts of a period.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Overview {
    /// The sum of all points.
    pub(crate) total: Counts,
    /// A point for each hour or day without gaps, from the one that contains `from` to the one before `to`.
    pub(crate) series: Vec<Point>,
}

/// The period that a point covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema, IntoStaticStr, VariantArray)]
#[schema(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub(crate) enum By {
    #[default]
    Hour,
    /// A day in UTC.
    Day,
}

impl By {
    pub(crate) fn length(self) -> Duration {
        match self {
            Self::Hour => Duration::HOUR,
            Self::Day => Duration::DAY,
        }
    }

    /// The number of points without `from`.
    pub(crate) fn default_points(self) -> i32 {
        match self {
            Self::Hour => 24,
            Self::Day => 30,
        }
    }

    /// The maximum number of points.
    pub(crate) fn max_points(self) -> i32 {
        match self {
            Self::Hour => 31 * 24,
            Self::Day => 366,
        }
    }
}

/// Counts executions by hour or by day.
#[derive(Debug, Clone)]
pub(crate) struct OverviewQuery {
    pub(crate) by: By,
    pub(crate) from: OffsetDateTime,
    pub(crate) to: OffsetDateTime,
    /// Only executions of this workflow.
    pub(crate) workflow: Option<String>,
}

impl OverviewQuery {
    /// Without `period.to`, the series ends at `now`. Without `period.from`, it has the default number of points. The
    /// beginning of a period with too many points is cut off.
    pub(crate) fn new(by: By, period: TimeRange, workflow: Option<String>, now: OffsetDateTime) -> Self {
        let to = period.to.unwrap_or(now);
        let back = |points| to.saturating_sub(by.length() * points);
        let from = period.from.unwrap_or_else(|| back(by.default_points()));
        let from = from.max(back(by.max_points())).max(OffsetDateTime::UNIX_EPOCH);
        Self { by, from, to, workflow }
    }
}

impl Query for OverviewQuery {
    type Answer = Overview;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Overview, sqlx::Error> {
        let rows = sqlx::query_file!(
            "src/db/queries/overview.sql",
            self.by.as_str(),
            self.from,
            self.to,
            self.workflow.as_deref()
        );
        let mut total = [0; 5];
        let mut series = Vec::new();
        for row in rows.fetch_all(transaction).await? {
            let counts = [row.executions, row.completed, row.failed, row.cancelled, row.other];
            total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
            series.push(Point { at: row.at, counts: counts.into() });
        }
        Ok(Overview { total: total.into(), series })
    }
}

/// From executions, completed, failed, cancelled and other.
impl From<[i64; 5]> for Counts {
    #[expect(clippy::cast_precision_loss, reason = "a rate, and counts far below 2^52")]
    fn from([executions, completed, failed, cancelled, other]: [i64; 5]) -> Self {
        let failure_rate = (executions > 0).then(|| failed as f64 / executions as f64);
        Self { executions, completed, failed, cancelled, other, failure_rate }
    }
}
