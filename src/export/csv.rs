//! CSV (RFC 4180) that is safe to open in a spreadsheet.
//!
//! Spreadsheets run a text that begins with =, +, - or @ as a formula; some also skip blanks or accept full-width signs.
//! Such a text gets an apostrophe in front. JSON Lines contain every text unchanged.

use std::fmt::Write;

use time::format_description::well_known::Rfc3339;

use crate::db::queries::columns::{Cell, Columns};

/// Adds a line. A null value is an empty cell.
pub(super) fn write(row: &impl Columns, text: &mut String) {
    for (n, cell) in row.cells().into_iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        match cell {
            Cell::Null => {}
            Cell::Text(value) => {
                let guard = if may_be_a_formula(value) { "'" } else { "" };
                let _ = write!(text, "\"{guard}{}\"", value.replace('"', "\"\""));
            }
            Cell::Plain(value) => text.push_str(&value),
            Cell::Time(time) => text.push_str(&time.format(&Rfc3339).unwrap_or_default()),
        }
    }
    text.push_str("\r\n");
}

/// Whether a spreadsheet could run the text as a formula.
fn may_be_a_formula(text: &str) -> bool {
    // Spreadsheets may skip blanks of all kinds, control characters, byte order marks and zero-width characters.
    let skipped = |c: char| {
        c.is_whitespace() || c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    };
    text.starts_with(char::is_control) || text.trim_start_matches(skipped).starts_with(SIGNS)
}

/// The signs that begin a formula: ASCII, full-width, small, and the mathematical minus.
const SIGNS: [char; 13] = [
    '=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}', '\u{fe66}', '\u{fe62}', '\u{fe63}',
    '\u{fe6b}', '\u{2212}',
];
