//! The list of bulks with their progress, and one bulk in full.

use std::fmt::Debug;

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::ToSchema;

use super::columns::columns;
use super::executions::{Execution, Executions};
use super::expected::{Expected, ExpectedQuery};
use super::page::{List, ListRow, Position};
use super::results::{ResultItem, ResultsQuery};
use super::{Choice, ListFilter, Listing, Page, Query, SCAN_LIMIT};
use crate::db::Transaction;

columns! {
/// A bulk in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Bulk {
    /// The sender's identifier of the bulk.
    pub(crate) bulk_id: String,
    /// Whether all expected executions have ended: at least `expected` executions, and every execution of the registered
    /// response, if there is one. Null if `expected` is null.
    pub(crate) complete: Option<bool>,
    /// The expected number of executions: the accepted inputs of a registered bulk, or the number set with
    /// `workflow-receiver bulks set-size`; null if unknown.
    pub(crate) expected: Option<i32>,
    /// The number of recorded executions: completed + failed + cancelled + other.
    pub(crate) received: i32,
    /// Executions with the status completed, or succeeded or success in a legacy flow.
    pub(crate) completed: i32,
    /// Executions with the status failed.
    pub(crate) failed: i32,
    /// Executions with the status cancelled.
    pub(crate) cancelled: i32,
    /// Executions with any other status: they have not ended yet.
    pub(crate) other: i32,
    /// Expected executions whose webhook with a terminal status is not recorded; null if `expected` is null. An execution
    /// that is not in the registered response does not replace one that is.
    pub(crate) missing: Option<i32>,
    /// Inputs that bulk-trigger rejected: they have no execution. Null unless its response is registered
    /// and sets `expected`.
    pub(crate) rejected: Option<i32>,
    /// When the first delivery that changed a count was received, or the bulk was registered, if that was earlier; null if
    /// neither happened.
    #[serde(with = "rfc3339::option")]
    pub(crate) first_received_at: Option<OffsetDateTime>,
    /// When the latest delivery that changed a count was received; null before that.
    #[serde(with = "rfc3339::option")]
    pub(crate) last_received_at: Option<OffsetDateTime>,
    /// Seconds since `last_received_at`; null if `last_received_at` is null.
    pub(crate) seconds_since_last: Option<i64>,
}
hidden {
    pub(super) matches: bool,
    pub(super) is_last_scanned: bool,
    pub(crate) has_overdue: bool,
}
}

/// An incomplete bulk without deliveries for this time needs attention: a workflow ends within 15 minutes.
const QUIET_SECONDS: i64 = 20 * 60;

impl Bulk {
    /// The number of expected executions that are not recorded. Negative if more executions than expected were received.
    pub(crate) fn not_received(&self) -> i64 {
        self.expected.map_or(0, |expected| i64::from(expected) - i64::from(self.received))
    }

    /// Whether the bulk is incomplete, and its missing executions are probably running: none of the registered ones
    /// is overdue or, without a registration, the latest delivery is less than [`QUIET_SECONDS`] old.
    pub(crate) fn is_in_progress(&self) -> bool {
        let has_news = self.seconds_since_last.is_some_and(|seconds| seconds < QUIET_SECONDS);
        self.complete == Some(false) && if self.rejected.is_some() { !self.has_overdue } else { has_news }
    }

    /// The command that sets the size. An identifier that needs quotation marks in a shell is replaced by `BULK`.
    pub(crate) fn set_size_command(&self) -> String {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
        let is_argument = self.bulk_id.bytes().all(is_plain) && !self.bulk_id.starts_with('-');
        let id = if is_argument { &self.bulk_id } else { "BULK" };
        format!("workflow-receiver bulks set-size {id} EXECUTIONS")
    }

    /// Why the bulk is incomplete, or has more executions than expected: `3 missing: 2 not received, 1 running`.
    pub(crate) fn reasons(&self, number: impl Fn(i64) -> String) -> Vec<String> {
        let (running, missing) = (i64::from(self.other), self.missing.map_or(0, i64::from));
        let extra = -self.not_received();
        let is_part = (1..missing).contains(&running);
        let mut reasons = Vec::new();
        if is_part {
            let others = number(missing - running);
            let (missing, running) = (number(missing), number(running));
            reasons.push(format!("{missing} missing: {others} not received, {running} running"));
        } else if missing > 0 && (running != missing || extra > 0) {
            reasons.push(format!("{} missing", number(missing)));
        }
        if extra > 0 {
            reasons.push(format!("{} more than expected", number(extra)));
        }
        if running > 0 && !is_part {
            reasons.push(format!("{} running", number(running)));
        }
        reasons
    }
}

impl ListRow for Bulk {
    const LIST: List = List::Bulks;

    fn position(&self) -> Position {
        let at = self.first_received_at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Position { at, id: self.bulk_id.clone(), place: 0 }
    }
    fn matches(&self) -> bool {
        self.matches
    }
    fn is_last_scanned(&self) -> bool {
        self.is_last_scanned
    }
}

/// Whether a bulk is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema, IntoStaticStr, VariantArray)]
#[schema(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Complete {
    /// All expected executions have ended.
    Yes,
    /// Fewer executions have ended.
    No,
    /// The expected number is not set.
    Unknown,
}

/// Lists bulks with at least one execution, and registered ones, newest first.
pub(crate) type Bulks = Listing<Option<Complete>>;

impl ListFilter for Option<Complete> {
    type Row = Bulk;
}

impl Query for Bulks {
    type Answer = Page<Bulk>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Page<Bulk>, sqlx::Error> {
        let after = self.page.position(&self.period);
        let rows = sqlx::query_file_as!(
            Bulk,
            "src/db/queries/bulks.sql",
            self.period.start(),
            after.at,
            after.id,
            self.filter.map(Choice::as_str),
            SCAN_LIMIT,
            self.page.rows()
        );
        Ok(self.page.page(rows.fetch_all(transaction).await?, &self.filter))
    }
}

/// A bulk in full.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BulkDetail {
    /// As in the list.
    #[serde(flatten)]
    pub(crate) bulk: Bulk,
    /// The first page of its registered executions without a terminal status. `/api/v1/expected?state=missing&bulk=…`
    /// continues at `next`. Empty if the response of bulk-trigger is not registered.
    pub(crate) missing_executions: Page<Expected>,
    /// The first page of its executions. `/api/v1/executions?bulk=…` continues at `next`.
    pub(crate) executions: Page<Execution>,
    /// The first page of their results. `/api/v1/results?bulk=…` continues at `next`.
    pub(crate) results: Page<ResultItem>,
}

/// Reads the progress of one bulk; `None` if it has no execution and no expected number.
#[derive(Debug, Clone)]
pub(crate) struct GetBulkProgress {
    pub(crate) bulk_id: String,
}

impl Query for GetBulkProgress {
    type Answer = Option<Bulk>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Option<Bulk>, sqlx::Error> {
        let bulk = sqlx::query_as!(
            Bulk,
            r#"SELECT bulk_id AS "bulk_id!", complete, expected, received AS "received!", completed AS "completed!",
                   failed AS "failed!", cancelled AS "cancelled!", other AS "other!", missing, rejected, first_received_at,
                   last_received_at, seconds_since_last, true AS "matches!", false AS "is_last_scanned!",
                   EXISTS (SELECT FROM overdue_executions AS o WHERE o.bulk_id = b.bulk_id) AS "has_overdue!"
               FROM bulk_progress AS b WHERE bulk_id = $1"#,
            self.bulk_id
        );
        bulk.fetch_optional(transaction).await
    }
}

/// Reads one bulk in full; `None` if it has no execution and no expected number.
#[derive(Debug, Clone)]
pub(crate) struct GetBulk {
    pub(crate) bulk_id: String,
}

impl Query for GetBulk {
    type Answer = Option<BulkDetail>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Option<BulkDetail>, sqlx::Error> {
        let bulk = GetBulkProgress { bulk_id: self.bulk_id.clone() };
        let Some(bulk) = bulk.run(&mut *transaction).await? else { return Ok(None) };
        let executions = Executions::of_bulk(&self.bulk_id).run(&mut *transaction).await?;
        let results = ResultsQuery::of_bulk(&self.bulk_id).run(&mut *transaction).await?;
        let missing_executions = ExpectedQuery::missing_of_bulk(&self.bulk_id).run(&mut *transaction).await?;
        Ok(Some(BulkDetail { bulk, missing_executions, executions, results }))
    }
}

#[cfg(test)]
impl Bulk {
    /// A bulk with these counts: received, completed, failed, other.
    pub(crate) fn sample(expected: Option<i32>, complete: Option<bool>, counts: [i32; 4]) -> Self {
        let [received, completed, failed, other] = counts;
        Self {
            bulk_id: "b".to_owned(),
            complete,
            expected,
            received,
            completed,
            failed,
            cancelled: 0,
            other,
            missing: expected.map(|expected| (expected - completed - failed).max(0)),
            rejected: None,
            first_received_at: None,
            last_received_at: None,
            seconds_since_last: None,
            matches: true,
            is_last_scanned: false,
            has_overdue: false,
        }
    }
}
