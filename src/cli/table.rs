//! Tables of text: aligned, and on a terminal no wider than it, as far as cutting sentences makes them so.

use std::fmt::Display;

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use unicode_width::UnicodeWidthChar;

pub(super) use crate::logging::is_terminal_control as acts;

/// What stands between two columns.
const GAP: &str = "  ";
/// How far sentences are cut to let a line fit. What is too wide then goes on in the terminal's next line: a name that
/// is cut can be copied into no other command.
const LEAST_WORDS: usize = 20;

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// To the right.
    Number,
    /// Sentences: the only ones to be cut.
    Words,
}

/// A column of a table of `T`.
pub(super) struct Column<T> {
    name: &'static str,
    kind: Kind,
    cell: fn(&T) -> String,
}

/// A column of names, times, or the like.
pub(super) const fn text<T>(name: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { name, kind: Kind::Text, cell }
}

/// A column of numbers.
pub(super) const fn number<T>(name: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { name, kind: Kind::Number, cell }
}

/// A column of sentences.
pub(super) const fn words<T>(name: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { name, kind: Kind::Words, cell }
}

/// What there is; nothing otherwise.
pub(super) fn or_empty(value: Option<&impl Display>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// A time, to the second.
pub(super) fn timestamp(at: OffsetDateTime) -> String {
    let at = at.to_offset(UtcOffset::UTC).truncate_to_second();
    at.format(&Rfc3339).unwrap_or_default()
}

/// A time, to the second; nothing where there is none.
pub(super) fn timestamp_or_empty(at: Option<OffsetDateTime>) -> String {
    at.map(timestamp).unwrap_or_default()
}

/// A table that grows: its columns never get narrower again.
pub(super) struct Table<T: 'static> {
    columns: &'static [Column<T>],
    /// How wide a line may be; `None` without limit.
    limit: Option<usize>,
    widths: Vec<usize>,
}

impl<T> Table<T> {
    pub(super) fn new(columns: &'static [Column<T>], limit: Option<usize>) -> Self {
        Self { columns, limit, widths: Vec::new() }
    }

    /// The heading, if it was not written yet, and a line for each of `items`.
    pub(super) fn lines(&mut self, items: &[T]) -> (Option<String>, Vec<String>) {
        let cells = |item| self.columns.iter().map(|column| printable(&(column.cell)(item))).collect();
        let rows: Vec<Vec<String>> = items.iter().map(cells).collect();
        let first = self.widths.is_empty();
        if first {
            self.widths = self.columns.iter().map(|column| width(column.name)).collect();
        }
        for row in &rows {
            for (widest, cell) in self.widths.iter_mut().zip(row) {
                *widest = width(cell).max(*widest);
            }
        }
        let widths = self.fitting();
        let names = || self.columns.iter().map(|column| column.name.to_owned()).collect();
        let heading = first.then(|| self.line(names(), &widths));
        (heading, rows.into_iter().map(|row| self.line(row, &widths)).collect())
    }

    /// The widths, narrowed until a line fits, as far as they may be.
    fn fitting(&self) -> Vec<usize> {
        let mut widths = self.widths.clone();
        let room = self.limit.map(|limit| limit.saturating_sub(GAP.len() * (widths.len() - 1)));
        while room.is_some_and(|room| widths.iter().sum::<usize>() > room) {
            let words = widths.iter_mut().zip(self.columns).filter(|(_, column)| column.kind == Kind::Words);
            let widest = words.map(|(width, _)| width).max_by_key(|width| **width);
            let Some(widest) = widest.filter(|width| **width > LEAST_WORDS) else { break };
            *widest -= 1;
        }
        widths
    }

    fn line(&self, row: Vec<String>, widths: &[usize]) -> String {
        let set = row.into_iter().zip(self.columns).zip(widths).map(|((cell, column), room)| {
            let cell = cut(cell, *room);
            let blank = " ".repeat(room - width(&cell));
            if column.kind == Kind::Number { blank + &cell } else { cell + &blank }
        });
        set.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }
}

/// How many places of a terminal's line it takes.
fn width(text: &str) -> usize {
    text.chars().map(places).sum()
}

fn places(character: char) -> usize {
    character.width().unwrap_or_default()
}

/// What fits into `room`, which ends with … where it is not all.
fn cut(text: String, room: usize) -> String {
    if width(&text) <= room {
        return text;
    }
    let mut taken = 0;
    let fits = |character: &char| {
        taken += places(*character);
        taken < room
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// A sender's text, in one line that does nothing to a terminal.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if acts(character) { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static str, &'static str);

    const COLUMNS: &[Column<Row>] = &[
        text("id", |row| row.0.to_owned()),
        number("n", |_| "17".to_owned()),
        words("cause", |row| row.1.to_owned()),
    ];

    fn lines(limit: Option<usize>, rows: &[Row]) -> Vec<String> {
        let (heading, lines) = Table::new(COLUMNS, limit).lines(rows);
        heading.into_iter().chain(lines).collect()
    }

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let rows = [("a", "short"), ("模型", "e\u{301}té"), ("abcd", "")];
        assert_eq!(
            lines(None, &rows),
            ["id     n  cause", "a     17  short", "模型  17  e\u{301}té", "abcd  17"]
        );
    }

    #[test]
    fn sentences_are_cut_to_fit_the_terminal_and_names_never() {
        let rows =
            [("an-identifier-that-is-long", "模型 timed out, and a long sentence tells why"), ("b", "x")];
        for limit in 1..90 {
            let lines = lines(Some(limit), &rows);
            assert!(lines.iter().all(|line| width(line) <= limit.max(52)), "{limit}: {lines:#?}");
            assert!(lines[1].starts_with("an-identifier-that-is-long  17  模型 timed out"), "{lines:#?}");
        }
        assert_eq!(lines(Some(54), &rows)[1], "an-identifier-that-is-long  17  模型 timed out, and a…");
        assert_eq!(lines(Some(40), &rows)[1], lines(Some(52), &rows)[1]);
    }

    #[test]
    fn nothing_that_a_sender_writes_acts_on_a_terminal() {
        let hostile = "\u{1b}]0;owned\u{7}\r\n\t\u{9b}31m\u{7f}\u{202e}\u{2066}\u{85}\u{2028}";
        let shown = printable(hostile);
        assert!(!shown.contains(acts), "{shown}");
        assert!(shown.starts_with(r"\u{1b}]0;owned\u{7}\r\n\t\u{9b}31m"), "{shown}");
        assert_eq!(printable("模型 'é' 👩‍🚀 \"q\" C:\\x"), "模型 'é' 👩‍🚀 \"q\" C:\\x");
    }
}
