//! Aligned tables. On a terminal, columns of prose are cut so that a line fits. If the terminal is too narrow for that,
//! optional columns are left out. If it is still too narrow, each row is printed as a block with a line for each cell.

use std::fmt::Display;

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use unicode_width::UnicodeWidthChar;

use crate::logging::printable;

const GAP: &str = "  ";
/// The smallest width of a prose column. If a line with this width does not fit, rows are printed as blocks: identifiers are
/// never cut, so that they can be copied.
const MIN_PROSE: usize = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// Aligned to the right.
    Number,
    /// Cut to fit the terminal.
    Prose,
    /// Cut before prose. Left out if it is empty on the first page, or if the line does not fit.
    Optional,
}

pub(super) struct Column<T> {
    name: &'static str,
    kind: Kind,
    cell: fn(&T) -> String,
}

pub(super) const fn text<T>(name: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { name, kind: Kind::Text, cell }
}

pub(super) const fn number<T>(name: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { name, kind: Kind::Number, cell }
}

/// A column that may be cut to fit the terminal.
pub(super) const fn prose<T>(name: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { name, kind: Kind::Prose, cell }
}

/// A column that is left out without a value, and on a narrow terminal.
pub(super) const fn optional<T>(name: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { name, kind: Kind::Optional, cell }
}

pub(super) fn or_empty(value: Option<&impl Display>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// Such as `exec-1` or `prediction p-1`.
pub(super) fn execution_or_prediction(execution: Option<&String>, prediction: Option<&String>) -> String {
    prediction.map_or_else(|| or_empty(execution), |prediction| format!("prediction {prediction}"))
}

/// RFC 3339 in UTC, without fractions of a second.
pub(super) fn timestamp(at: OffsetDateTime) -> String {
    let at = at.to_offset(UtcOffset::UTC).truncate_to_second();
    at.format(&Rfc3339).unwrap_or_default()
}

pub(super) fn timestamp_or_empty(at: Option<OffsetDateTime>) -> String {
    at.map(timestamp).unwrap_or_default()
}

/// A table that is printed page by page. A later page can widen a column, but never narrow it.
pub(super) struct Table<T: 'static> {
    columns: &'static [Column<T>],
    /// The width of the terminal.
    limit: Option<usize>,
    widths: Vec<usize>,
    /// Which columns are printed in lines.
    shown: Vec<bool>,
    /// Whether each row is a block. The width of the first page decides.
    blocks: bool,
}

impl<T> Table<T> {
    pub(super) fn new(columns: &'static [Column<T>], limit: Option<usize>) -> Self {
        Self { columns, limit, widths: Vec::new(), shown: Vec::new(), blocks: false }
    }

    /// Formats `items`. The first call also returns the heading of a table.
    pub(super) fn lines(&mut self, items: &[T]) -> (Option<String>, Vec<String>) {
        let cells = |item| self.columns.iter().map(|column| printable(&(column.cell)(item))).collect();
        let rows: Vec<Vec<String>> = items.iter().map(cells).collect();
        let is_first = self.widths.is_empty();
        if is_first {
            self.widths = self.columns.iter().map(|column| width(column.name)).collect();
            let has_value = |n: usize| rows.iter().any(|row| !row[n].is_empty());
            let is_shown = |(n, column): (usize, &Column<T>)| column.kind != Kind::Optional || has_value(n);
            self.shown = self.columns.iter().enumerate().map(is_shown).collect();
        }
        for row in &rows {
            for (widest, cell) in self.widths.iter_mut().zip(row) {
                *widest = width(cell).max(*widest);
            }
        }
        let mut widths = self.fitting();
        if is_first && self.is_too_narrow(&widths) {
            for (shown, column) in self.shown.iter_mut().zip(self.columns) {
                *shown &= column.kind != Kind::Optional;
            }
            widths = self.fitting();
            self.blocks = self.is_too_narrow(&widths);
        }
        if self.blocks {
            return (None, rows.iter().flat_map(|row| self.block(row)).collect());
        }
        let names = || self.columns.iter().map(|column| column.name.to_owned()).collect();
        let heading = is_first.then(|| self.line(names(), &widths));
        (heading, rows.into_iter().map(|row| self.line(row, &widths)).collect())
    }

    /// The widths, with optional columns and then prose narrowed until a line fits.
    fn fitting(&self) -> Vec<usize> {
        let mut widths = self.widths.clone();
        while self.limit.is_some_and(|limit| self.line_width(&widths) > limit) {
            let can_shrink = |n: &usize| self.shown[*n] && widths[*n] > MIN_PROSE;
            let of_kind = |kind| (0..widths.len()).filter(move |n| self.columns[*n].kind == kind);
            let widest = |kind| of_kind(kind).filter(can_shrink).max_by_key(|n| widths[*n]);
            let Some(widest) = widest(Kind::Optional).or_else(|| widest(Kind::Prose)) else { break };
            widths[widest] -= 1;
        }
        widths
    }

    fn line_width(&self, widths: &[usize]) -> usize {
        let shown = self.shown.iter().filter(|shown| **shown).count();
        let cells = widths.iter().zip(&self.shown).filter(|(_, shown)| **shown);
        cells.map(|(width, _)| width).sum::<usize>() + GAP.len() * shown.saturating_sub(1)
    }

    /// Whether lines with these widths are wider than the terminal. Never for a table without a column of prose: its lines are
    /// printed as they are.
    fn is_too_narrow(&self, widths: &[usize]) -> bool {
        let has_prose = self.columns.iter().any(|column| column.kind == Kind::Prose);
        has_prose && self.limit.is_some_and(|limit| self.line_width(widths) > limit)
    }

    /// A line for each cell that is not empty, and an empty line.
    fn block(&self, row: &[String]) -> Vec<String> {
        let names = self.columns.iter().map(|column| width(column.name)).max().unwrap_or_default();
        let cells = row.iter().zip(self.columns).filter(|(cell, _)| !cell.is_empty());
        let lines = cells.map(|(cell, column)| format!("{:names$}{GAP}{cell}", column.name));
        lines.chain([String::new()]).collect()
    }

    fn line(&self, row: Vec<String>, widths: &[usize]) -> String {
        let cells = row.into_iter().zip(self.columns).zip(widths).zip(&self.shown);
        let cells = cells.filter(|(_, shown)| **shown).map(|(((cell, column), room), _)| {
            let cell = cut(cell, *room);
            let blank = " ".repeat(room - width(&cell));
            if column.kind == Kind::Number { blank + &cell } else { cell + &blank }
        });
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }
}

/// The number of terminal columns.
fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

fn columns(character: char) -> usize {
    character.width().unwrap_or_default()
}

/// Cuts `text` to `room` columns, ending with “…”.
fn cut(text: String, room: usize) -> String {
    if width(&text) <= room {
        return text;
    }
    let mut taken = 0;
    let fits = |character: &char| {
        taken += columns(*character);
        taken < room
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static str, &'static str);

    const COLUMNS: &[Column<Row>] = &[
        text("id", |row| row.0.to_owned()),
        number("n", |_| "17".to_owned()),
        prose("cause", |row| row.1.to_owned()),
    ];

    fn lines(limit: Option<usize>, rows: &[Row]) -> Vec<String> {
        let (heading, lines) = Table::new(COLUMNS, limit).lines(rows);
        heading.into_iter().chain(lines).collect()
    }

    #[test]
    fn columns_are_aligned_by_display_width() {
        let rows = [("a", "short"), ("模型", "e\u{301}té"), ("abcd", "")];
        assert_eq!(
            lines(None, &rows),
            ["id     n  cause", "a     17  short", "模型  17  e\u{301}té", "abcd  17"]
        );
    }

    #[test]
    fn prose_is_cut_to_fit_the_terminal_and_identifiers_never() {
        let rows =
            [("an-identifier-that-is-long", "模型 timed out, and a long sentence tells why"), ("b", "x")];
        for limit in 62..90 {
            let lines = lines(Some(limit), &rows);
            assert!(lines.iter().all(|line| width(line) <= limit), "{limit}: {lines:#?}");
            assert!(lines[1].starts_with("an-identifier-that-is-long  17  模型 timed out"), "{lines:#?}");
        }
        assert_eq!(
            lines(Some(64), &rows)[1],
            "an-identifier-that-is-long  17  模型 timed out, and a long sent…"
        );
    }

    const WITH_OPTIONAL: &[Column<(&str, &str, &str)>] = &[
        text("id", |row| row.0.to_owned()),
        optional("reference", |row| row.1.to_owned()),
        prose("cause", |row| row.2.to_owned()),
    ];

    #[test]
    fn an_optional_column_is_shown_if_it_has_a_value_and_there_is_room() {
        let lines = |limit, rows: &[(&'static str, &'static str, &'static str)]| {
            let (heading, lines) = Table::new(WITH_OPTIONAL, limit).lines(rows);
            heading.into_iter().chain(lines).collect::<Vec<_>>()
        };
        let rows = [("a", "", "a cause"), ("b", "order=1234 user=42", "")];
        let shown = [
            format!("id  {:18}  cause", "reference"),
            format!("a   {:18}  a cause", ""),
            "b   order=1234 user=42".to_owned(),
        ];
        let hidden = ["id  cause", "a   a cause", "b"];
        for limit in [None, Some(80), Some(31)] {
            assert_eq!(lines(limit, &rows), shown, "{limit:?}");
        }
        for limit in [30, 11] {
            assert_eq!(lines(Some(limit), &rows), hidden, "{limit:?}");
        }
        assert_eq!(lines(None, &rows[..1]), hidden[..2]);
        let block = ["id         b", "reference  order=1234 user=42", ""];
        assert_eq!(lines(Some(10), &rows)[3..], block);

        // A long reference is cut before the cause.
        let (long, cause) =
            ("order=1234 user=42 basket=a-long-identifier", "a cause with more than thirty letters");
        let cut = format!("a   {}…  {cause}", &long[..36]);
        assert_eq!(lines(Some(width(&cut)), &[("a", long, cause)])[1], cut);
    }

    #[test]
    fn a_row_is_a_block_on_a_terminal_that_is_too_narrow() {
        let rows =
            [("an-identifier-that-is-long", "模型 timed out, and a long sentence tells why"), ("b", "")];
        let expected = [
            "id     an-identifier-that-is-long",
            "n      17",
            "cause  模型 timed out, and a long sentence tells why",
            "",
            "id     b",
            "n      17",
            "",
        ];
        for limit in [1, 40, 61] {
            assert_eq!(lines(Some(limit), &rows), expected);
        }
        assert_eq!(lines(Some(62), &rows).len(), 3);
    }
}
