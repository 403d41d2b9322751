//! CSV (RFC 4180) that is safe to open in a spreadsheet.
//!
//! Spreadsheets run a text that begins with =, +, - or @ as a formula; some also skip blanks or accept full-width signs.
//! Such a text gets an apostrophe in front. JSON Lines contain every text unchanged.

use std::fmt::{Display, Write};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::db::queries::executions::Execution;
use crate::db::queries::results::ResultItem;

pub(super) trait Record {
    /// The header line.
    const COLUMNS: &'static str;

    /// Writes a cell for each column.
    fn write(&self, line: &mut Line<'_>);
}

/// A line being written. `None` becomes an empty cell.
pub(super) struct Line<'t> {
    text: &'t mut String,
    first: bool,
}

/// Appends a line to `text`.
pub(super) fn write<R: Record>(record: &R, text: &mut String) {
    record.write(&mut Line { text, first: true });
    text.push_str("\r\n");
}

impl Line<'_> {
    fn next(&mut self) -> &mut String {
        if !std::mem::replace(&mut self.first, false) {
            self.text.push(',');
        }
        self.text
    }

    /// A quoted text, with an apostrophe in front of a formula.
    fn text(&mut self, value: Option<&str>) -> &mut Self {
        let text = self.next();
        if let Some(value) = value {
            let guard = if may_be_a_formula(value) { "'" } else { "" };
            let _ = write!(text, "\"{guard}{}\"", value.replace('"', "\"\""));
        }
        self
    }

    /// A number or boolean.
    fn plain(&mut self, value: Option<impl Display>) -> &mut Self {
        let text = self.next();
        if let Some(value) = value {
            let _ = write!(text, "{value}");
        }
        self
    }

    fn time(&mut self, value: Option<OffsetDateTime>) -> &mut Self {
        self.plain(value.and_then(|time| time.format(&Rfc3339).ok()))
    }
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

impl Record for Execution {
    const COLUMNS: &'static str = "execution_id,workflow_id,bulk_id,status,error,error_cause,step_failed,total_cost,\
        duration_seconds,started_at,completed_at,authenticated_by,deliveries,first_received_at,last_received_at";

    fn write(&self, line: &mut Line<'_>) {
        line.text(Some(&self.execution_id))
            .text(Some(&self.workflow_id))
            .text(self.bulk_id.as_deref())
            .text(Some(&self.status))
            .text(self.error.as_deref())
            .text(self.error_cause.as_deref())
            .plain(Some(self.step_failed))
            .plain(self.total_cost.as_ref().map(|cost| &cost.0))
            .plain(self.duration_seconds)
            .time(self.started_at)
            .time(self.completed_at)
            .text(self.authenticated_by.as_deref())
            .plain(Some(self.deliveries))
            .time(Some(self.first_received_at))
            .time(Some(self.last_received_at));
    }
}

impl Record for ResultItem {
    const COLUMNS: &'static str =
        "execution_id,workflow_id,bulk_id,position,name,kind,value,truncated,first_received_at";

    fn write(&self, line: &mut Line<'_>) {
        line.text(Some(&self.execution_id))
            .text(Some(&self.workflow_id))
            .text(self.bulk_id.as_deref())
            .plain(Some(self.position))
            .text(self.name.as_deref())
            .text(Some(&self.kind))
            .text(self.value.as_deref())
            .plain(Some(self.truncated))
            .time(Some(self.first_received_at));
    }
}
