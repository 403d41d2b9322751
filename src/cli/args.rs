//! Arguments that several commands share.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use time::OffsetDateTime;

use super::CommandError;
use super::output::{Output, note};
use super::table::Column;
use crate::db::queries::page::{DEFAULT_LIMIT, ListRow, MAX_LIMIT};
use crate::db::queries::period::parse_time;
use crate::db::queries::{Choice, ListQuery, Listing, Page, PageRequest, QueryPool, TimeRange};
use crate::words::counted;

#[derive(Debug, Args)]
#[group(id = "period", multiple = true)]
pub(super) struct TimeArgs {
    /// Only rows first received at this time or later: 2026-03-02T10:00:00Z (RFC 3339), how long ago (1h, 7d), today or
    /// yesterday (UTC)
    #[arg(long, visible_alias = "from", value_name = "TIME", value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// Only rows first received before this time
    #[arg(long, visible_alias = "to", value_name = "TIME", value_parser = parse_time)]
    until: Option<OffsetDateTime>,
}

impl TimeArgs {
    pub(super) fn period(&self) -> TimeRange {
        TimeRange { from: self.since, to: self.until }
    }

    pub(super) fn listing<F>(&self, filter: F) -> Listing<F> {
        Listing { filter, period: self.period(), page: PageRequest::default() }
    }
}

/// Arguments of a command that lists rows.
#[derive(Debug, Args)]
pub(super) struct ListArgs<F: Args> {
    #[command(flatten)]
    pub(super) filter: F,
    #[command(flatten)]
    pub(super) time: TimeArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

impl<F: Args + Clone> ListArgs<F> {
    pub(super) fn listing(&self) -> Listing<F> {
        self.time.listing(self.filter.clone())
    }
}

pub(super) fn choice_parser<C: Choice + Send + Sync>() -> impl TypedValueParser<Value = C> {
    let names = PossibleValuesParser::new(C::ALL.iter().map(|choice| choice.as_str()));
    names.try_map(|name| C::named(&name).ok_or("is unknown"))
}

#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Maximum number of rows of each list
    #[arg(long, value_name = "ROWS", default_value_t = DEFAULT_LIMIT, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// Show all rows
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print JSON as in the read API, one value per line
    #[arg(long)]
    pub(super) json: bool,
}

impl OutputArgs {
    /// The default limit.
    pub(super) fn default_limit(json: bool) -> Self {
        Self { limit: DEFAULT_LIMIT, all: false, json }
    }

    pub(super) fn max_rows(&self) -> i64 {
        if self.all { i64::from(i32::MAX) } else { self.limit }
    }

    /// Prints a list while it is read.
    pub(super) async fn print_list<Q: ListQuery<Row: Serialize>>(
        &self,
        pool: &QueryPool,
        query: Q,
        columns: &'static [Column<Q::Row>],
    ) -> Result<(), CommandError> {
        let mut output = Output::new();
        let mut table = output.table(columns);
        let mut empty = true;
        let next = self
            .read_pages(pool, query, |items| {
                empty &= items.is_empty();
                output.items(self.json, &mut table, &items)?;
                Ok(output.flush()?)
            })
            .await?;
        if next.is_some() {
            self.note_more();
        } else if empty && !self.json {
            note("No rows.");
        }
        Ok(())
    }

    /// Prints the line of each row that has one, while the list is read.
    pub(super) async fn print_lines<Q: ListQuery>(
        &self,
        pool: &QueryPool,
        query: Q,
        line: fn(&Q::Row) -> Option<&str>,
    ) -> Result<(), CommandError> {
        let mut output = Output::new();
        let next = self
            .read_pages(pool, query, |items| {
                items.iter().filter_map(line).try_for_each(|line| output.line(line))?;
                Ok(output.flush()?)
            })
            .await?;
        if next.is_some() {
            self.note_more();
        }
        Ok(())
    }

    /// Reads a list up to the limit.
    pub(super) async fn read_list<Q: ListQuery>(
        &self,
        pool: &QueryPool,
        query: Q,
    ) -> Result<Page<Q::Row>, CommandError> {
        let mut items = Vec::new();
        let next = self
            .read_pages(pool, query, |page| {
                items.extend(page);
                Ok(())
            })
            .await?;
        Ok(Page { items, next })
    }

    /// Reads pages up to the limit. Returns the `next` of the last page.
    async fn read_pages<Q: ListQuery>(
        &self,
        pool: &QueryPool,
        mut query: Q,
        mut process: impl FnMut(Vec<Q::Row>) -> Result<(), CommandError>,
    ) -> Result<Option<String>, CommandError> {
        let mut left = if self.all { i64::MAX } else { self.limit };
        let mut is_partial = false;
        loop {
            query.page().limit = left.min(MAX_LIMIT);
            let page = pool.run(&query).await?;
            left = left.saturating_sub_unsigned(page.items.len() as u64);
            is_partial |= page.items.iter().any(ListRow::is_partial);
            process(page.items)?;
            if left == 0 || !query.continue_after(page.next.as_deref()) {
                if is_partial {
                    note_partial();
                }
                return Ok(page.next);
            }
        }
    }

    pub(super) fn note_more(&self) {
        note(&format!(
            "There are more than {}: use --limit ROWS or --all.",
            counted(self.limit, "row", "rows")
        ));
    }
}

/// Notes that results have `is_partial`.
pub(super) fn note_partial() {
    note(
        "Some payloads have more values than are searched for results (is_partial). They can contain more results.",
    );
}
