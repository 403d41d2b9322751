//! Pages of a list, and their cursors.
//!
//! A cursor holds the position of the last seen row in the order of the list. Paging therefore neither repeats nor skips a
//! row that existed at the first page, however much is recorded meanwhile. A cursor is valid for its own list and filter
//! only; the period and the limit may change.

use std::fmt::Debug;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use strum::IntoStaticStr;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::period::TimeRange;

/// The default number of items of a page.
pub(crate) const DEFAULT_LIMIT: i64 = 50;
/// The maximum number of items of a page.
pub(crate) const MAX_LIMIT: i64 = 1_000;

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// In the order of the list. There can be fewer than `limit`, even none, although `next` is not null.
    pub(crate) items: Vec<T>,
    /// The `cursor` for the next page, with the same filters; null at the end of the list.
    pub(crate) next: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct PageRequest {
    /// Maximum number of items, from 1 to [`MAX_LIMIT`].
    pub(crate) limit: i64,
    /// The page begins after this row; `None` for the first page.
    pub(crate) after: Option<Position>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, after: None }
    }
}

impl PageRequest {
    /// The position before the page: `after`, or the end of the period with an id that precedes all others.
    pub(super) fn position(&self, period: &TimeRange) -> Position {
        let end = period.end();
        let after = self.after.clone().filter(|after| after.at < end);
        after.unwrap_or(Position { at: end, id: String::new(), place: 0 })
    }

    /// One more than `limit`: the additional row shows whether there is a next page.
    pub(super) fn rows(&self) -> i64 {
        self.limit + 1
    }

    /// Makes the page from its rows. `filter` is [`super::ListQuery::filter`].
    pub(super) fn page<T: ListRow>(&self, mut rows: Vec<T>, filter: &dyn Debug) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit || rows.last().is_some_and(ListRow::is_last_scanned);
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|last| last.position().cursor(T::LIST, filter));
        rows.retain(ListRow::matches);
        Page { items: rows, next }
    }
}

/// The lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
pub(crate) enum List {
    #[strum(serialize = "e")]
    Executions,
    #[strum(serialize = "r")]
    Results,
    #[strum(serialize = "p")]
    Predictions,
    #[strum(serialize = "b")]
    Bulks,
    #[strum(serialize = "c")]
    Conflicts,
    #[strum(serialize = "q")]
    Quarantine,
    #[strum(serialize = "x")]
    Expected,
}

impl List {
    /// The first character of its cursors.
    fn prefix(self) -> &'static str {
        self.into()
    }

    /// Whether its rows have numbers instead of the sender's identifiers.
    fn is_numbered(self) -> bool {
        matches!(self, Self::Conflicts | Self::Quarantine | Self::Expected)
    }
}

/// A row of a list.
pub(crate) trait ListRow {
    /// The list that its cursors belong to.
    const LIST: List;

    fn position(&self) -> Position;

    /// Whether limits other than that of the page can hide further rows of the same execution or prediction.
    fn is_partial(&self) -> bool {
        false
    }

    /// False for a row that is only returned because it is the last scanned one.
    fn matches(&self) -> bool {
        true
    }

    /// Whether the scan limit was reached at this row.
    fn is_last_scanned(&self) -> bool {
        false
    }
}

/// The position of a row in its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// When the first delivery was received; of an expected execution, when it was registered.
    pub(super) at: OffsetDateTime,
    /// Orders the rows with the same time.
    pub(super) id: String,
    /// The position among the results of one execution.
    pub(super) place: i64,
}

impl Position {
    /// The number of a numbered row. For an empty id, a number below all others.
    pub(super) fn number(&self) -> i64 {
        self.id.parse().unwrap_or(i64::MIN)
    }

    pub(super) fn cursor(&self, list: List, filter: &dyn Debug) -> String {
        let micros = self.at.unix_timestamp_nanos() / 1_000;
        let Self { place, id, .. } = self;
        let text = format!("{}{micros}.{place}.{:x}.{id}", list.prefix(), checksum(filter));
        BASE64_URL_SAFE_NO_PAD.encode(text)
    }

    /// Parses [`Page::next`] of this list with this filter.
    pub(crate) fn of_cursor(cursor: &str, list: List, filter: &dyn Debug) -> Result<Self, CursorError> {
        let (position, checksum_of_filter) = Self::parse(cursor, list).ok_or(CursorError::Invalid)?;
        if checksum_of_filter == checksum(filter) { Ok(position) } else { Err(CursorError::OtherFilter) }
    }

    /// The position and the checksum of the filter in a cursor.
    fn parse(cursor: &str, list: List) -> Option<(Self, u32)> {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let mut parts = text.strip_prefix(list.prefix())?.splitn(4, '.');
        let micros: i64 = parts.next()?.parse().ok()?;
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?;
        let place = parts.next()?.parse().ok()?;
        let (checksum, id) = (u32::from_str_radix(parts.next()?, 16).ok()?, parts.next()?);
        let named = !id.is_empty() && !id.contains('\0');
        let numbered = id.parse::<i64>().is_ok();
        let usable = micros >= 0 && if list.is_numbered() { numbered } else { named };
        usable.then(|| (Self { at, id: id.to_owned(), place }, checksum))
    }
}

/// Identifies the values of a filter.
fn checksum(filter: &dyn Debug) -> u32 {
    crc32fast::hash(format!("{filter:?}").as_bytes())
}

/// Why a cursor is rejected. Completes a sentence that begins with the parameter's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CursorError {
    #[error("must be the unchanged `next` of a page of this list")]
    Invalid,
    #[error("belongs to a list with another filter: only `from`, `to` and `limit` may change between pages")]
    OtherFilter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_round_trips_and_is_invalid_for_other_lists() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_772_445_600_123_456_000).unwrap();
        for (list, id) in [(List::Executions, "a.b-1.é"), (List::Quarantine, "17")] {
            let position = Position { at, id: id.to_owned(), place: 3 };
            let cursor = position.cursor(list, &Some("failed"));
            let parsed = |cursor, list, filter: &dyn Debug| Position::of_cursor(cursor, list, filter);
            assert_eq!(parsed(&cursor, list, &Some("failed")), Ok(position));
            assert_eq!(parsed(&cursor, list, &None::<&str>), Err(CursorError::OtherFilter));
            assert_eq!(parsed(&cursor, List::Bulks, &Some("failed")), Err(CursorError::Invalid));
            assert_eq!(parsed(&cursor[1..], list, &Some("failed")), Err(CursorError::Invalid));
        }
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        for text in [
            "e-1.0.0.a",
            "e1.0.0.",
            "e1.0.0.a\0",
            "e1.0.a",
            "e1.0.g.a",
            "e1.0.100000000.a",
            "e9999999999999999999.0.0.a",
            "e999999999999999999.0.0.a",
            "",
        ] {
            assert_eq!(Position::parse(&encode(text), List::Executions), None, "{text}");
        }
        assert!(Position::parse(&encode("e1.0.0.a"), List::Executions).is_some());
        assert_eq!(Position::parse(&encode("q1.0.0.a"), List::Quarantine), None);
        assert_eq!(Position::parse("not base64!", List::Executions), None);
    }
}
