//! Pages of a list, and the cursors that lead from one to the next.
//!
//! A cursor holds the place of the last row that was seen, by what the list is ordered by. So nothing that was there
//! at the first page comes twice or is left out, however much is recorded meanwhile.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use time::{OffsetDateTime, PrimitiveDateTime};
use utoipa::{IntoParams, ToSchema};

/// How many items a page has when nobody says, and how many it may have.
pub(crate) const DEFAULT_LIMIT: i64 = 50;
pub(crate) const MAX_LIMIT: i64 = 1_000;

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// In the list's order. There may be fewer than `limit`, even none, while there is a `next`.
    pub(crate) items: Vec<T>,
    /// The `cursor` of the next page, to be asked with the same filters; null at the end of the list.
    pub(crate) next: Option<String>,
}

/// Which page.
#[derive(Debug, Clone)]
pub(crate) struct PageRequest {
    /// How many items, from 1 to [`MAX_LIMIT`].
    pub(crate) limit: i64,
    /// Behind which row; `None` from the start.
    pub(crate) after: Option<Position>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, after: None }
    }
}

/// Since when, and until when. By the receiver's clock, when the first delivery came.
#[derive(Debug, Clone, Copy, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TimeRange {
    /// Only what first came at this time or later (RFC 3339).
    pub(crate) from: Option<OffsetDateTime>,
    /// Only what first came before this time (RFC 3339).
    pub(crate) to: Option<OffsetDateTime>,
}

impl TimeRange {
    /// No receiver was there before.
    pub(super) fn start(&self) -> OffsetDateTime {
        self.from.unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    pub(super) fn end(&self) -> OffsetDateTime {
        self.to.unwrap_or(PrimitiveDateTime::MAX.assume_utc())
    }
}

impl PageRequest {
    /// Where the page begins: its rows stand behind this. At first that is the end of the period, and below all
    /// of that time.
    pub(super) fn position(&self, period: &TimeRange) -> Position {
        let end = period.end();
        let after = self.after.clone().filter(|after| after.at < end);
        after.unwrap_or(Position { at: end, id: String::new(), place: 0 })
    }

    /// One row more than is asked for tells whether there is a next page.
    pub(super) fn rows(&self) -> i64 {
        self.limit + 1
    }

    /// The page that these rows make.
    pub(super) fn page<T: ListRow>(&self, mut rows: Vec<T>) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit || rows.last().is_some_and(|last| last.matches_and_stops().1);
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|last| last.position().cursor(T::LIST));
        rows.retain(|row| row.matches_and_stops().0);
        Page { items: rows, next }
    }
}

/// A list. Its cursors lead nowhere in others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Executions,
    Results,
    Bulks,
    Conflicts,
    Quarantine,
}

impl List {
    fn letter(self) -> char {
        match self {
            Self::Executions => 'e',
            Self::Results => 'r',
            Self::Bulks => 'b',
            Self::Conflicts => 'c',
            Self::Quarantine => 'q',
        }
    }

    /// Whether its rows are numbered, and not named by the sender.
    fn is_numbered(self) -> bool {
        matches!(self, Self::Conflicts | Self::Quarantine)
    }
}

/// A row of a list.
pub(super) trait ListRow {
    const LIST: List;

    /// Where it stands.
    fn position(&self) -> Position;

    /// Whether it is what was asked for (otherwise it is there to say how far PostgreSQL has looked), and whether
    /// PostgreSQL has looked no further.
    fn matches_and_stops(&self) -> (bool, bool) {
        (true, false)
    }
}

/// Where a row stands in its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// When the first delivery came.
    pub(super) at: OffsetDateTime,
    /// Among those of the same time.
    pub(super) id: String,
    /// Among the results of one execution.
    pub(super) place: i64,
}

impl Position {
    /// The number of a numbered row; below all others where there is none.
    pub(super) fn number(&self) -> i64 {
        self.id.parse().unwrap_or(i64::MIN)
    }

    pub(super) fn cursor(&self, list: List) -> String {
        let micros = self.at.unix_timestamp_nanos() / 1_000;
        BASE64_URL_SAFE_NO_PAD.encode(format!("{}{micros}.{}.{}", list.letter(), self.place, self.id))
    }

    /// What [`Page::next`] of this list says; `None` for what it never says.
    pub(crate) fn of_cursor(cursor: &str, list: List) -> Option<Self> {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let mut parts = text.strip_prefix(list.letter())?.splitn(3, '.');
        let micros: i64 = parts.next()?.parse().ok()?;
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?;
        let (place, id) = (parts.next()?.parse().ok()?, parts.next()?);
        let named = !id.is_empty() && !id.contains('\0');
        let numbered = id.parse::<i64>().is_ok();
        let usable = micros >= 0 && if list.is_numbered() { numbered } else { named };
        usable.then(|| Self { at, id: id.to_owned(), place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_back_to_its_place_and_to_no_other_list() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_772_445_600_123_456_000).unwrap();
        for (list, id) in [(List::Executions, "a.b-1.é"), (List::Quarantine, "17")] {
            let position = Position { at, id: id.to_owned(), place: 3 };
            let cursor = position.cursor(list);
            assert_eq!(Position::of_cursor(&cursor, list), Some(position));
            assert_eq!(Position::of_cursor(&cursor, List::Bulks), None);
            assert_eq!(Position::of_cursor(&cursor[1..], list), None);
        }
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        for text in [
            "e-1.0.a",
            "e1.0.",
            "e1.0.a\0",
            "e1.a",
            "e9999999999999999999.0.a",
            "e999999999999999999.0.a",
            "",
        ] {
            assert_eq!(Position::of_cursor(&encode(text), List::Executions), None, "{text}");
        }
        assert_eq!(Position::of_cursor(&encode("q1.0.a"), List::Quarantine), None);
        assert_eq!(Position::of_cursor("not base64!", List::Executions), None);
    }
}
