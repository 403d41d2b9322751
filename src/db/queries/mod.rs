//! What operators ask, answered from PostgreSQL: over HTTP ([`crate::http`]) and on the command line.
//!
//! A file has the questions of one subject, each a type that knows what is asked and is put to PostgreSQL by
//! [`Pool::ask`]. Nothing here writes. All of it is bounded: a page by its rows, a question by what it may look
//! at, everything by the pool's connections and time limit. So none slows recording.
//!
//! Lists come newest first, by when the first delivery came, and go on behind a cursor ([`page`]). What is recorded
//! meanwhile stands before it.

#![expect(clippy::struct_field_names, reason = "fields are named as the columns are")]

pub(crate) mod bulks;
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

pub(crate) use page::{Page, PageRequest, TimeRange};
pub(crate) use pool::{Pool, Unanswered};

/// Something to ask PostgreSQL.
pub(crate) trait Query: Sync {
    /// What comes of it.
    type Answer: Send;

    /// Asks it. Reads only.
    fn run(
        &self,
        connection: &mut PgConnection,
    ) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send;
}

/// A list, read page by page.
pub(crate) trait ListQuery: Query {
    /// What its cursors are of.
    const LIST: page::List;

    /// Which page is read next.
    fn page(&mut self) -> &mut PageRequest;
}

/// A few things to choose from, each with a name.
pub(crate) trait Choice: Copy + 'static {
    /// All there are.
    const ALL: &'static [Self];

    /// Its name as a parameter.
    fn as_str(self) -> &'static str;
}

/// Something that takes several statements, all answered as of one moment.
pub(crate) trait SnapshotQuery: Sync {
    /// What is known of it; `None` when it is not there.
    type Detail: Send;

    fn fetch(
        &self,
        connection: &mut PgConnection,
    ) -> impl Future<Output = Result<Option<Self::Detail>, sqlx::Error>> + Send;
}

impl<Q: SnapshotQuery> Query for Q {
    /// `None` when it is not there.
    type Answer = Option<Q::Detail>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let mut moment = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let whole = self.fetch(&mut moment).await?;
        // A transaction that is left open holds up vacuum.
        moment.commit().await?;
        Ok(whole)
    }
}

/// How many rows a question looks at, at most, to find those it is about. A page then ends early, with a cursor
/// behind what was looked at.
pub(crate) const SCAN_LIMIT: i64 = 2_500;

/// How many characters of an error or its cause are shown where there are many.
pub(crate) const EXCERPT_CHARS: i32 = 1_000;

/// The largest text shown of one value, in bytes. A larger one is left out, and the answer says so.
pub(crate) const MAX_TEXT: i32 = 16 << 20;

/// How many characters of an error or its cause are shown where there is one execution, and of a step's.
pub(crate) const MAX_ERROR: i32 = 4 << 20;
pub(crate) const MAX_STEP_TEXT: i32 = 64 << 10;

/// The names of those fields that are too large to be shown.
fn omitted<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields.into_iter().filter(|(_, too_large)| *too_large).map(|(name, _)| name).collect()
}
