//! What a command writes to standard output: tables for people, or JSON, one value a line.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use rustix::termios::tcgetwinsize;
use serde::Serialize;

use super::CommandError;
use super::table::{Column, Table, acts, printable};

/// Standard output. A closed pipe is an error like any other; `main` ends quietly then.
pub(super) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    /// How wide the terminal is; `None` without one.
    width: Option<usize>,
    /// Whether headings stand out.
    bold: bool,
}

impl Output {
    pub(super) fn new() -> Self {
        let out = io::stdout().lock();
        let terminal = out.is_terminal();
        let columns = if terminal { tcgetwinsize(&out).map_or(0, |size| size.ws_col) } else { 0 };
        let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|kind| kind == "dumb");
        let width = (columns > 0).then_some(usize::from(columns));
        Self { out: BufWriter::new(out), width, bold: terminal && unset("NO_COLOR") && !dumb }
    }

    /// A value as the API has it, in a line.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), CommandError> {
        writeln!(self.out, "{}", escape_controls(&serde_json::to_string(value)?))?;
        Ok(())
    }

    /// A table that may be continued, as wide as the terminal.
    pub(super) fn table<T>(&self, columns: &'static [Column<T>]) -> Table<T> {
        Table::new(columns, self.width)
    }

    /// These, in a table.
    pub(super) fn rows<T>(&mut self, table: &mut Table<T>, items: &[T]) -> io::Result<()> {
        let (heading, lines) = table.lines(items);
        if let Some(heading) = heading.filter(|_| !items.is_empty()) {
            self.heading(&heading)?;
        }
        lines.iter().try_for_each(|line| writeln!(self.out, "{line}"))
    }

    /// A table of its own, below a title. Left out when there is nothing in it.
    pub(super) fn section<T>(&mut self, title: &str, mut table: Table<T>, items: &[T]) -> io::Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        writeln!(self.out, "\n{title}:")?;
        self.rows(&mut table, items)
    }

    /// What is known of one thing, a line each. All of it, however long; what is not known is left out.
    pub(super) fn key_values(&mut self, facts: &[(&str, String)]) -> io::Result<()> {
        let widest = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let known = facts.iter().filter(|(_, value)| !value.is_empty());
        known
            .into_iter()
            .try_for_each(|(name, value)| writeln!(self.out, "{name:widest$}  {}", printable(value)))
    }

    fn heading(&mut self, line: &str) -> io::Result<()> {
        if self.bold { writeln!(self.out, "\u{1b}[1m{line}\u{1b}[0m") } else { writeln!(self.out, "{line}") }
    }

    /// Lets all that was written be seen.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Prints a note to standard error: it is not part of the result.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

/// The same JSON, without characters that act on a terminal. They can only stand in texts, as themselves.
fn escape_controls(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        if acts(character) {
            // None of them needs two UTF-16 units.
            let _ = write!(shown, "\\u{:04x}", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_the_same_and_does_nothing_to_a_terminal() {
        let texts = ["\u{9b}31m \u{7f} \u{202e} \u{85} \u{1b}[31m \\ \" é 👩‍🚀"];
        let json = serde_json::to_string(&texts).unwrap();
        assert!(json.contains(acts));
        let shown = escape_controls(&json);
        assert!(!shown.contains(acts), "{shown}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), texts);
    }
}
