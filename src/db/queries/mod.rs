//! The queries of operators, over HTTP ([`crate::http`]) and on the command line.
//!
//! Each file has the queries of one subject. A query is a type with its parameters; [`QueryPool::run`] executes it. Queries
//! are read-only and bounded, so that they do not slow recording: a page by its rows, a scan by [`SCAN_LIMIT`], and all
//! queries by the pool's connections and time limit.
//!
//! Lists are ordered by the time of the first delivery, newest first, and continue after a cursor ([`page`]). Executions
//! that are recorded meanwhile are before the cursor.

#![expect(clippy::struct_field_names, reason = "fields have the names of the columns")]

pub(crate) mod bulks;
pub(crate) mod changes;
pub(crate) mod columns;
pub(crate) mod conflicts;
pub(crate) mod executions;
pub(crate) mod failures;
pub(crate) mod json;
pub(crate) mod overview;
pub(crate) mod page;
pub(crate) mod pool;
pub(crate) mod quarantine;
pub(crate) mod results;
pub(crate) mod workflows;

use sqlx::{Connection, PgConnection};
use strum::VariantArray;

use page::MAX_LIMIT;
pub(crate) use page::{ListRow, Page, PageRequest, TimeRange};
pub(crate) use pool::{QueryError, QueryPool};

/// A read-only query.
pub(crate) trait Query: Sync {
    type Answer: Send;

    fn run(
        &self,
        connection: &mut PgConnection,
    ) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send;
}

/// A list, read page by page.
pub(crate) trait ListQuery: Query<Answer = Page<<Self as ListQuery>::Row>> {
    type Row: ListRow;

    /// Maximum rows of a page of an export.
    const EXPORT_LIMIT: i64 = MAX_LIMIT;

    fn page(&mut self) -> &mut PageRequest;
}

/// A parameter with a few allowed values.
pub(crate) trait Choice: VariantArray + Copy + Into<&'static str> {
    const ALL: &'static [Self] = Self::VARIANTS;

    /// The name of the value in a URL and on the command line.
    fn as_str(self) -> &'static str {
        self.into()
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|choice| choice.as_str() == name).copied()
    }
}

impl<C: VariantArray + Copy + Into<&'static str>> Choice for C {}

/// A query of several statements that read one snapshot.
pub(crate) trait SnapshotQuery: Sync {
    type Detail: Send;

    fn fetch(
        &self,
        snapshot: &mut PgConnection,
    ) -> impl Future<Output = Result<Option<Self::Detail>, sqlx::Error>> + Send;
}

impl<Q: SnapshotQuery> Query for Q {
    type Answer = Option<Q::Detail>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let mut snapshot = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let detail = self.fetch(&mut snapshot).await?;
        // An open transaction would delay vacuum.
        snapshot.commit().await?;
        Ok(detail)
    }
}

/// Maximum rows that a query scans for a page. The page then ends early, with a cursor after the last scanned row.
pub(crate) const SCAN_LIMIT: i64 = 2_500;

/// Maximum characters of an error or its cause in a list.
pub(crate) const EXCERPT_CHARS: i32 = 1_000;

/// Maximum bytes of a shown text. A larger one is left out, and `omitted` names its field.
pub(crate) const MAX_TEXT: i32 = 16 << 20;

/// Maximum characters of an error or its cause in a detail.
pub(crate) const MAX_ERROR: i32 = 4 << 20;
/// Maximum characters of each text of a step.
pub(crate) const MAX_STEP_TEXT: i32 = 64 << 10;

/// The names of the fields that are too large.
fn omitted<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields.into_iter().filter(|(_, too_large)| *too_large).map(|(name, _)| name).collect()
}
