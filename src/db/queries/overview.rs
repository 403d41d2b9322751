//! Numbers for charts, from the sums by hour.

use serde::Serialize;
use sqlx::PgConnection;
use time::serde::rfc3339;
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;

use super::{Choice, Query, TimeRange};

/// How executions went that came in the hour, day or period.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Counts {
    /// How many came; always completed + failed + cancelled + other.
    pub(crate) executions: i64,
    /// Those whose status is completed.
    pub(crate) completed: i64,
    /// Those whose status is failed.
    pub(crate) failed: i64,
    /// Those whose status is cancelled.
    pub(crate) cancelled: i64,
    /// Those with any other status: not ended yet, as far as is known.
    pub(crate) other: i64,
    /// failed divided by executions, from 0 to 1; null when none came.
    pub(crate) failure_rate: Option<f64>,
}

/// One point of a chart.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Point {
    /// The beginning of the hour or day (UTC) in which the first delivery of the executions came.
    #[serde(with = "rfc3339")]
    pub(crate) at: OffsetDateTime,
    #[serde(flatten)]
    pub(crate) counts: Counts,
}

/// A chart's points, without gaps, and what they come to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Overview {
    /// All points together.
    pub(crate) total: Counts,
    /// One for each hour or day, in their order, from the one that holds `from` to the one before `to`.
    pub(crate) series: Vec<Point>,
}

/// What a point of the chart stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum By {
    /// An hour.
    #[default]
    Hour,
    /// A day, that of UTC.
    Day,
}

impl Choice for By {
    const ALL: &'static [Self] = &[Self::Hour, Self::Day];

    fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

impl By {
    /// How long it is.
    pub(crate) fn length(self) -> Duration {
        match self {
            Self::Hour => Duration::HOUR,
            Self::Day => Duration::DAY,
        }
    }

    /// How many points there are when nobody says.
    pub(crate) fn usual(self) -> i32 {
        match self {
            Self::Hour => 24,
            Self::Day => 30,
        }
    }

    /// How many points there may be.
    pub(crate) fn most(self) -> i32 {
        match self {
            Self::Hour => 31 * 24,
            Self::Day => 366,
        }
    }
}

/// How executions went, hour by hour or day by day.
#[derive(Debug, Clone)]
pub(crate) struct OverviewQuery {
    pub(crate) by: By,
    pub(crate) from: OffsetDateTime,
    pub(crate) to: OffsetDateTime,
    /// Only those of this workflow.
    pub(crate) workflow: Option<String>,
}

impl OverviewQuery {
    /// Of the period, or of the usual time until `now`, and of the latest part of it when that has too many points.
    pub(crate) fn new(by: By, period: TimeRange, workflow: Option<String>, now: OffsetDateTime) -> Self {
        let to = period.to.unwrap_or(now);
        let back = |points| to.saturating_sub(by.length() * points);
        let from = period.from.unwrap_or_else(|| back(by.usual()));
        let from = from.max(back(by.most())).max(OffsetDateTime::UNIX_EPOCH);
        Self { by, from, to, workflow }
    }
}

impl Query for OverviewQuery {
    type Answer = Overview;

    async fn run(&self, connection: &mut PgConnection) -> Result<Overview, sqlx::Error> {
        let rows = sqlx::query_file!(
            "src/db/queries/overview.sql",
            self.by.as_str(),
            self.from,
            self.to,
            self.workflow.as_deref()
        );
        let mut total = [0; 5];
        let mut series = Vec::new();
        for row in rows.fetch_all(connection).await? {
            let counts = [row.executions, row.completed, row.failed, row.cancelled, row.other];
            total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
            series.push(Point { at: row.at, counts: counts.into() });
        }
        Ok(Overview { total: total.into(), series })
    }
}

/// Of all, and of those that are completed, failed, cancelled and other.
impl From<[i64; 5]> for Counts {
    #[expect(clippy::cast_precision_loss, reason = "a rate, and counts far below 2^52")]
    fn from([executions, completed, failed, cancelled, other]: [i64; 5]) -> Self {
        let failure_rate = (executions > 0).then(|| failed as f64 / executions as f64);
        Self { executions, completed, failed, cancelled, other, failure_rate }
    }
}
