//! Bulks: how far they are. What is in one is asked of [`super::executions`] and [`super::results`].

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::ToSchema;

use super::executions::{Execution, Executions};
use super::page::{List, ListRow, Position};
use super::results::{ResultItem, ResultsQuery};
use super::{Choice, ListQuery, Page, PageRequest, Query, SCAN_LIMIT, SnapshotQuery, TimeRange};

/// How far a bulk is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Bulk {
    /// The sender's identifier of the bulk.
    pub(crate) bulk_id: String,
    /// Whether as many executions as expected have ended; null when it is not known how many are expected.
    pub(crate) complete: Option<bool>,
    /// How many executions it has, where somebody said so; null when unknown.
    pub(crate) expected: Option<i32>,
    /// Different executions recorded in it; always completed + failed + cancelled + other.
    pub(crate) received: i32,
    /// Those whose status is completed.
    pub(crate) completed: i32,
    /// Those whose status is failed.
    pub(crate) failed: i32,
    /// Those whose status is cancelled.
    pub(crate) cancelled: i32,
    /// Those with any other status: not ended yet, as far as is known.
    pub(crate) other: i32,
    /// When the first delivery that changed a count came; null before that.
    #[serde(with = "rfc3339::option")]
    pub(crate) first_received_at: Option<OffsetDateTime>,
    /// When the latest delivery that changed a count came; null before that.
    #[serde(with = "rfc3339::option")]
    pub(crate) last_received_at: Option<OffsetDateTime>,
    /// Seconds from `last_received_at` until now; null before that.
    pub(crate) seconds_since_last: Option<i64>,
    #[serde(skip)]
    pub(super) matches: bool,
    #[serde(skip)]
    pub(super) stops: bool,
}

impl ListRow for Bulk {
    const LIST: List = List::Bulks;

    fn position(&self) -> Position {
        let at = self.first_received_at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Position { at, id: self.bulk_id.clone(), place: 0 }
    }
    fn matches_and_stops(&self) -> (bool, bool) {
        (self.matches, self.stops)
    }
}

/// Whether a bulk is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Complete {
    /// As many executions as expected have ended.
    Yes,
    /// Fewer have.
    No,
    /// Nobody said how many are expected.
    Unknown,
}

impl Choice for Complete {
    const ALL: &'static [Self] = &[Self::Yes, Self::No, Self::Unknown];

    fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// Which bulks something came of, newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bulks {
    pub(crate) complete: Option<Complete>,
    pub(crate) period: TimeRange,
    pub(crate) page: PageRequest,
}

impl ListQuery for Bulks {
    const LIST: List = List::Bulks;

    fn page(&mut self) -> &mut PageRequest {
        &mut self.page
    }
}

impl Query for Bulks {
    type Answer = Page<Bulk>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Page<Bulk>, sqlx::Error> {
        let after = self.page.position(&self.period);
        let rows = sqlx::query_file_as!(
            Bulk,
            "src/db/queries/bulks.sql",
            self.period.start(),
            after.at,
            after.id,
            self.complete.map(Complete::as_str),
            SCAN_LIMIT,
            self.page.rows()
        );
        Ok(self.page.page(rows.fetch_all(connection).await?))
    }
}

/// One bulk: how far it is, and what is in it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BulkDetail {
    /// As lists show it.
    #[serde(flatten)]
    pub(crate) bulk: Bulk,
    /// Its executions: the first page of `/api/v1/executions?bulk=…`, which goes on behind `next`.
    pub(crate) executions: Page<Execution>,
    /// What they made: the first page of `/api/v1/results?bulk=…`.
    pub(crate) results: Page<ResultItem>,
}

/// What is known of one bulk.
#[derive(Debug, Clone)]
pub(crate) struct GetBulk {
    pub(crate) bulk_id: String,
}

/// `None` when nothing came of it, and nobody said what is expected.
impl SnapshotQuery for GetBulk {
    type Detail = BulkDetail;

    async fn fetch(&self, moment: &mut PgConnection) -> Result<Option<BulkDetail>, sqlx::Error> {
        let bulk = sqlx::query_as!(
            Bulk,
            r#"SELECT bulk_id AS "bulk_id!", complete, expected, received AS "received!", completed AS "completed!",
                   failed AS "failed!", cancelled AS "cancelled!", other AS "other!", first_received_at,
                   last_received_at, seconds_since_last, true AS "matches!", false AS "stops!"
               FROM bulk_progress WHERE bulk_id = $1"#,
            self.bulk_id
        );
        let Some(bulk) = bulk.fetch_optional(&mut *moment).await? else { return Ok(None) };
        let executions = Executions::of_bulk(&self.bulk_id).run(&mut *moment).await?;
        let results = ResultsQuery::of_bulk(&self.bulk_id).run(&mut *moment).await?;
        Ok(Some(BulkDetail { bulk, executions, results }))
    }
}
