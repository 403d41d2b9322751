//! What the commands that ask have in common: the period, how much is shown and how, and the way from page to page.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::CommandError;
use super::output::{Output, note};
use super::table::Column;
use crate::db::queries::page::{MAX_LIMIT, Position};
use crate::db::queries::{Choice, ListQuery, Page, Query, QueryPool, TimeRange};

/// Which period.
#[derive(Debug, Args)]
#[group(id = "period", multiple = true)]
pub(super) struct When {
    /// Only what first came then or later: a time like 2026-03-02T10:00:00Z (RFC 3339), or how long ago, like 1h or 7d
    #[arg(long, visible_alias = "from", value_name = "WHEN", value_parser = moment)]
    since: Option<OffsetDateTime>,
    /// Only what first came before: a time, or how long ago
    #[arg(long, visible_alias = "to", value_name = "WHEN", value_parser = moment)]
    until: Option<OffsetDateTime>,
}

impl When {
    pub(super) fn period(&self) -> TimeRange {
        TimeRange { from: self.since, to: self.until }
    }
}

/// A time, or how long ago it is.
fn moment(text: &str) -> Result<OffsetDateTime, &'static str> {
    // No receiver was there before.
    let known = |at: OffsetDateTime| at.max(OffsetDateTime::UNIX_EPOCH);
    let wrong = "must be a time like 2026-03-02T10:00:00Z (RFC 3339), or how long ago, like 30m, 1h or 7d";
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        // The end of the calendar is left on the way to UTC, which PostgreSQL is asked in.
        return at.checked_to_offset(UtcOffset::UTC).map(known).ok_or(wrong);
    }
    let ago = humantime::parse_duration(text).map_err(|_| wrong)?;
    let ago = time::Duration::try_from(ago).unwrap_or(time::Duration::MAX);
    Ok(OffsetDateTime::now_utc().checked_sub(ago).map_or(OffsetDateTime::UNIX_EPOCH, known))
}

/// One of a few names.
pub(super) fn choice<C: Choice + Send + Sync>() -> impl TypedValueParser<Value = C> {
    let names = PossibleValuesParser::new(C::ALL.iter().map(|choice| choice.as_str()));
    names.try_map(|name| C::ALL.iter().find(|choice| choice.as_str() == name).copied().ok_or("is not known"))
}

/// How much is shown, and how.
#[derive(Debug, Args)]
pub(super) struct Form {
    /// How many rows at most, of each list
    #[arg(long, value_name = "ROWS", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// All rows, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// JSON as the read API has it, one value a line
    #[arg(long)]
    pub(super) json: bool,
}

impl Form {
    /// Shows a list, as it comes.
    pub(super) async fn list<Q, T>(
        &self,
        pool: &QueryPool,
        question: Q,
        columns: &'static [Column<T>],
    ) -> Result<(), CommandError>
    where
        Q: ListQuery + Query<Answer = Page<T>>,
        T: Serialize,
    {
        let mut output = Output::new();
        let mut table = output.table(columns);
        let mut none = true;
        let next = self
            .pages(pool, question, |items| {
                none &= items.is_empty();
                if self.json {
                    items.iter().try_for_each(|item| output.json(item))?;
                } else {
                    output.rows(&mut table, &items)?;
                }
                Ok(output.flush()?)
            })
            .await?;
        if next.is_some() {
            self.more();
        } else if none && !self.json {
            note("There is none.");
        }
        Ok(())
    }

    /// A list, as far as it is to be shown.
    pub(super) async fn page<Q, T>(&self, pool: &QueryPool, question: Q) -> Result<Page<T>, CommandError>
    where
        Q: ListQuery + Query<Answer = Page<T>>,
    {
        let mut items = Vec::new();
        let next = self
            .pages(pool, question, |more| {
                items.extend(more);
                Ok(())
            })
            .await?;
        Ok(Page { items, next })
    }

    /// Asks for page after page, until there are as many rows as are to be shown. Gives what the last one has for
    /// `next`.
    async fn pages<Q, T>(
        &self,
        pool: &QueryPool,
        mut question: Q,
        mut take: impl FnMut(Vec<T>) -> Result<(), CommandError>,
    ) -> Result<Option<String>, CommandError>
    where
        Q: ListQuery + Query<Answer = Page<T>>,
    {
        let mut left = if self.all { i64::MAX } else { self.limit };
        loop {
            question.page().limit = left.min(MAX_LIMIT);
            let page = pool.run(&question).await?;
            left = left.saturating_sub_unsigned(page.items.len() as u64);
            take(page.items)?;
            let after = page.next.as_ref().and_then(|next| Position::of_cursor(next, Q::LIST));
            if left == 0 || after.is_none() {
                return Ok(page.next);
            }
            question.page().after = after;
        }
    }

    /// Says that not all was shown.
    pub(super) fn more(&self) {
        note(&format!("Only the first {} are shown: --limit ROWS or --all shows more.", self.limit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_while_ago() {
        let time = |text| OffsetDateTime::parse(text, &Rfc3339).unwrap();
        assert_eq!(moment("2026-03-02T11:00:00+01:00"), Ok(time("2026-03-02T10:00:00Z")));
        let (before, ago) = (OffsetDateTime::now_utc(), moment("1h 30m").unwrap());
        assert!(ago >= before - time::Duration::minutes(90) && ago < before);
        for long_ago in ["9999y", "580000000000y", "0001-01-01T00:00:00Z"] {
            assert_eq!(moment(long_ago), Ok(OffsetDateTime::UNIX_EPOCH), "{long_ago}");
        }
        for wrong in ["", "yesterday", "1", "-1h", "2026-03-02"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
