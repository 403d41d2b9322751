//! The queries of operators, over HTTP ([`crate::http`]) and on the command line.
//!
//! Each file has the queries of one subject. A query is a type with its parameters; [`QueryPool::run`] executes it. Queries
//! are read-only and bounded, so that they do not slow recording: a page by its rows, a scan by [`SCAN_LIMIT`], and all
//! queries by the pool's connections and time limit.
//!
//! Lists are ordered by the time of the first delivery, newest first, and continue after a cursor ([`page`]). An execution
//! that is received between two pages is newer than the cursor, so the following pages do not contain it.

#![expect(clippy::struct_field_names, reason = "fields have the names of the columns")]

pub(crate) mod audit;
pub(crate) mod bulks;
pub(crate) mod changes;
pub(crate) mod columns;
pub(crate) mod conflicts;
pub(crate) mod counts;
pub(crate) mod executions;
pub(crate) mod expected;
pub(crate) mod failures;
pub(crate) mod json;
pub(crate) mod lookup;
pub(crate) mod minutes;
pub(crate) mod overview;
pub(crate) mod page;
pub(crate) mod period;
pub(crate) mod pool;
pub(crate) mod predictions;
pub(crate) mod previews;
pub(crate) mod quarantine;
pub(crate) mod reference;
pub(crate) mod results;
pub(crate) mod retries;
pub(crate) mod search;
pub(crate) mod sessions;
pub(crate) mod status;
pub(crate) mod workflows;

use std::fmt::Debug;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use strum::VariantArray;
use utoipa::IntoParams;

use crate::execution::identifier::Identifier;
pub(crate) use page::{ListRow, Page, PageRequest};
use page::{MAX_LIMIT, Position};
pub(crate) use period::TimeRange;
pub(crate) use pool::{QueryError, QueryPool};

use super::Transaction;

/// A read-only query. Its statements read one snapshot.
pub(crate) trait Query: Sync {
    type Answer: Send;

    fn run(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send;
}

/// A list, read page by page.
pub(crate) trait ListQuery: Query<Answer = Page<<Self as ListQuery>::Row>> {
    type Row: ListRow;

    /// Maximum rows of a page of an export.
    const EXPORT_LIMIT: i64 = MAX_LIMIT;

    fn page(&mut self) -> &mut PageRequest;

    /// The filter, without period and page. A cursor contains a checksum of the filter's `Debug` text. So a cursor is valid for one
    /// filter, and becomes invalid when a field of the filter's type is added or renamed.
    fn filter(&self) -> &dyn Debug;

    /// Continues after the `next` of a page. False at the end of the list.
    fn continue_after(&mut self, next: Option<&str>) -> bool {
        let after = next.and_then(|next| Position::of_cursor(next, <Self::Row>::LIST, self.filter()).ok());
        self.page().after = after;
        self.page().after.is_some()
    }
}

/// A list with a filter and a period, newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing<F> {
    pub(crate) filter: F,
    pub(crate) period: TimeRange,
    pub(crate) page: PageRequest,
}

/// The filter of a [`Listing`].
pub(crate) trait ListFilter: Debug {
    type Row: ListRow;

    const EXPORT_LIMIT: i64 = MAX_LIMIT;
}

impl<F: ListFilter> ListQuery for Listing<F>
where
    Self: Query<Answer = Page<F::Row>>,
{
    type Row = F::Row;
    const EXPORT_LIMIT: i64 = F::EXPORT_LIMIT;

    fn page(&mut self) -> &mut PageRequest {
        &mut self.page
    }
    fn filter(&self) -> &dyn Debug {
        &self.filter
    }
}

// Parameters of the API and of the command line.
#[derive(Debug, Clone, Default, IntoParams, Args)]
#[into_params(parameter_in = Query)]
#[group(id = "scope", multiple = true)]
pub(crate) struct Scope {
    /// Only this workflow.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) workflow: Option<String>,
    /// Only this bulk.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) bulk: Option<String>,
}

impl Scope {
    pub(crate) fn of_bulk(bulk_id: &str) -> Self {
        Self { bulk: Some(bulk_id.to_owned()), workflow: None }
    }
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

/// Maximum rows that a query scans for a page. The page then ends early, with a cursor after the last scanned row.
pub(crate) const SCAN_LIMIT: i64 = 2_500;

/// Maximum characters of an error or its cause in a list.
pub(crate) const EXCERPT_CHARS: i32 = 1_000;

/// Maximum bytes of a JSON value or text in a detail. A larger one is null, and `omitted` names its field.
pub(crate) const MAX_TEXT: i32 = 16 << 20;

/// Maximum characters of an error or its cause in a detail.
pub(crate) const MAX_ERROR: i32 = 4 << 20;
/// Maximum characters of each text of a step.
pub(crate) const MAX_STEP_TEXT: i32 = 64 << 10;
