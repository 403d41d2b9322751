//! Arguments that several commands share.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use time::OffsetDateTime;

use super::CommandError;
use super::output::{Output, note};
use super::table::Column;
use crate::db::queries::page::{MAX_LIMIT, Position};
use crate::db::queries::{Choice, ListQuery, ListRow, Page, QueryPool, TimeRange};

#[derive(Debug, Args)]
#[group(id = "period", multiple = true)]
pub(super) struct TimeArgs {
    /// Only rows first received at this time or later: 2026-03-02T10:00:00Z (RFC 3339), or how long ago: 1h, 7d
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
}

/// Parses a time, or how long ago it was. Times before 1970 become 1970: no row is older.
fn parse_time(text: &str) -> Result<OffsetDateTime, &'static str> {
    let not_before_1970 = |at: OffsetDateTime| at.max(OffsetDateTime::UNIX_EPOCH);
    let invalid = "must be a time like 2026-03-02T10:00:00Z (RFC 3339), or how long ago, like 30m, 1h or 7d";
    if let Some(at) = TimeRange::parse(text) {
        return Ok(not_before_1970(at));
    }
    let ago = humantime::parse_duration(text).map_err(|_| invalid)?;
    let ago = time::Duration::try_from(ago).unwrap_or(time::Duration::MAX);
    Ok(OffsetDateTime::now_utc().checked_sub(ago).map_or(OffsetDateTime::UNIX_EPOCH, not_before_1970))
}

pub(super) fn choice_parser<C: Choice + Send + Sync>() -> impl TypedValueParser<Value = C> {
    let names = PossibleValuesParser::new(C::ALL.iter().map(|choice| choice.as_str()));
    names.try_map(|name| C::named(&name).ok_or("is unknown"))
}

#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Maximum number of rows of each list
    #[arg(long, value_name = "ROWS", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// Show all rows
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print JSON as in the read API, one value per line
    #[arg(long)]
    pub(super) json: bool,
}

impl OutputArgs {
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
        loop {
            query.page().limit = left.min(MAX_LIMIT);
            let page = pool.run(&query).await?;
            left = left.saturating_sub_unsigned(page.items.len() as u64);
            process(page.items)?;
            let after = page.next.as_ref().and_then(|next| Position::of_cursor(next, <Q::Row>::LIST));
            if left == 0 || after.is_none() {
                return Ok(page.next);
            }
            query.page().after = after;
        }
    }

    pub(super) fn note_more(&self) {
        note(&format!("There are more than {} rows: use --limit ROWS or --all.", self.limit));
    }
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::Rfc3339;

    use super::*;

    #[test]
    fn a_time_is_rfc_3339_or_how_long_ago() {
        let time = |text| OffsetDateTime::parse(text, &Rfc3339).unwrap();
        assert_eq!(parse_time("2026-03-02T11:00:00+01:00"), Ok(time("2026-03-02T10:00:00Z")));
        let (before, ago) = (OffsetDateTime::now_utc(), parse_time("1h 30m").unwrap());
        assert!(ago >= before - time::Duration::minutes(90) && ago < before);
        for long_ago in ["9999y", "580000000000y", "0001-01-01T00:00:00Z"] {
            assert_eq!(parse_time(long_ago), Ok(OffsetDateTime::UNIX_EPOCH), "{long_ago}");
        }
        for invalid in ["", "yesterday", "1", "-1h", "2026-03-02"] {
            assert!(parse_time(invalid).is_err(), "{invalid}");
        }
    }
}
