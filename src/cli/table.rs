//! Aligned tables. On a terminal, columns of prose are cut so that a line fits. If the terminal is too narrow for that, each
//! row is printed as a block with a line for each cell.

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
    /// Whether each row is a block. The width of the first page decides.
    blocks: bool,
}

impl<T> Table<T> {
    pub(super) fn new(columns: &'static [Column<T>], limit: Option<usize>) -> Self {
        Self { columns, limit, widths: Vec::new(), blocks: false }
    }

    /// Formats `items`. The first call also returns the heading of a table.
    pub(super) fn lines(&mut self, items: &[T]) -> (Option<String>, Vec<String>) {
        let cells = |item| self.columns.iter().map(|column| printable(&(column.cell)(item))).collect();
        let rows: Vec<Vec<String>> = items.iter().map(cells).collect();
        let is_first = self.widths.is_empty();
        if is_first {
            self.widths = self.columns.iter().map(|column| width(column.name)).collect();
        }
        for row in &rows {
            for (widest, cell) in self.widths.iter_mut().zip(row) {
                *widest = width(cell).max(*widest);
            }
        }
        let widths = self.fitting();
        if is_first {
            self.blocks = self.is_too_narrow(&widths);
        }
        if self.blocks {
            return (None, rows.iter().flat_map(|row| self.block(row)).collect());
        }
        let names = || self.columns.iter().map(|column| column.name.to_owned()).collect();
        let heading = is_first.then(|| self.line(names(), &widths));
        (heading, rows.into_iter().map(|row| self.line(row, &widths)).collect())
    }

    /// The widths, with prose narrowed until a line fits.
    fn fitting(&self) -> Vec<usize> {
        let mut widths = self.widths.clone();
        let room = self.limit.map(|limit| limit.saturating_sub(GAP.len() * (widths.len() - 1)));
        while room.is_some_and(|room| widths.iter().sum::<usize>() > room) {
            let prose = widths.iter_mut().zip(self.columns).filter(|(_, column)| column.kind == Kind::Prose);
            let widest = prose.map(|(width, _)| width).max_by_key(|width| **width);
            let Some(widest) = widest.filter(|width| **width > MIN_PROSE) else { break };
            *widest -= 1;
        }
        widths
    }

    /// Whether lines with these widths are wider than the terminal, and a column of prose was narrowed.
    fn is_too_narrow(&self, widths: &[usize]) -> bool {
        let needed = widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1);
        let has_prose = self.columns.iter().any(|column| column.kind == Kind::Prose);
        has_prose && self.limit.is_some_and(|limit| needed > limit)
    }

    /// A line for each cell that is not empty, and an empty line.
    fn block(&self, row: &[String]) -> Vec<String> {
        let names = self.columns.iter().map(|column| width(column.name)).max().unwrap_or_default();
        let cells = row.iter().zip(self.columns).filter(|(cell, _)| !cell.is_empty());
        let lines = cells.map(|(cell, column)| format!("{:names$}{GAP}{cell}", column.name));
        lines.chain([String::new()]).collect()
    }

    fn line(&self, row: Vec<String>, widths: &[usize]) -> String {
        let cells = row.into_iter().zip(self.columns).zip(widths).map(|((cell, column), room)| {
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
