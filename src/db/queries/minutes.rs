//! Counts for the chart of the last hour. The rollups count by hour, so these counts are made from the executions.

use time::{Duration, OffsetDateTime};

use super::Query;
use super::overview::{Overview, Point};
use crate::db::Transaction;

/// Maximum executions that are counted.
const SCAN_LIMIT: i64 = 25_000;

/// Counts the executions of the last minutes, minute by minute.
#[derive(Debug)]
pub(crate) struct Minutes {
    pub(crate) now: OffsetDateTime,
    pub(crate) minutes: i64,
}

/// The counts of the last minutes.
#[derive(Debug)]
pub(crate) struct MinuteCounts {
    /// A point for each minute without gaps.
    pub(crate) overview: Overview,
    /// The first minute that is counted in full, if there are more than [`SCAN_LIMIT`] executions; otherwise `None`.
    pub(crate) counted_since: Option<OffsetDateTime>,
}

impl Query for Minutes {
    type Answer = MinuteCounts;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<MinuteCounts, sqlx::Error> {
        let last = self.now.truncate_to_minute();
        let first = last - Duration::minutes(self.minutes - 1);
        let rows = sqlx::query!(
            r#"SELECT
                   date_trunc('minute', first_received_at, 'UTC') AS "at!",
                   count(*) AS "executions!",
                   count(*) FILTER (WHERE is_successful_status(status)) AS "completed!",
                   count(*) FILTER (WHERE status = 'failed') AS "failed!",
                   count(*) FILTER (WHERE status = 'cancelled') AS "cancelled!"
               FROM (
                   SELECT first_received_at, status
                   FROM executions
                   WHERE first_received_at >= $1
                   ORDER BY first_received_at DESC
                   LIMIT $2
               ) AS latest
               GROUP BY 1
               ORDER BY 1"#,
            first,
            SCAN_LIMIT
        );
        let rows = rows.fetch_all(transaction).await?;
        let scanned: i64 = rows.iter().map(|row| row.executions).sum();
        let is_complete = scanned < SCAN_LIMIT;
        let counted_since = rows.first().filter(|_| !is_complete).map(|row| row.at + Duration::MINUTE);
        let mut total = [0; 5];
        let series = (0..self.minutes)
            .map(|minute| {
                let at = first + Duration::minutes(minute);
                let counted = rows.iter().find(|row| row.at == at);
                let counts = counted.map_or([0; 5], |row| {
                    let other = row.executions - row.completed - row.failed - row.cancelled;
                    [row.executions, row.completed, row.failed, row.cancelled, other]
                });
                total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
                Point { at, counts: counts.into() }
            })
            .collect();
        Ok(MinuteCounts { overview: Overview { total: total.into(), series }, counted_since })
    }
}
