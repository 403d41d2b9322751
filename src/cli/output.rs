//! Output of commands: tables, or JSON with one value per line.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use rustix::termios::tcgetwinsize;
use serde::Serialize;

use super::CommandError;
use super::table::{Column, Table};
use crate::logging::{escape_json, printable};

/// Standard output. A closed pipe is an error; `main` ignores it.
pub(super) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    /// The width of the terminal; `None` if the output is not a terminal.
    width: Option<usize>,
    /// Whether headings are bold.
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

    /// Prints a value in one line.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), CommandError> {
        writeln!(self.out, "{}", escape_json(&serde_json::to_string(value)?))?;
        Ok(())
    }

    /// Prints a line of text.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{}", printable(text))
    }

    /// A table as wide as the terminal, to be printed with [`Self::rows`].
    pub(super) fn table<T>(&self, columns: &'static [Column<T>]) -> Table<T> {
        Table::new(columns, self.width)
    }

    /// Prints items as JSON, one per line, or as the next rows of a table.
    pub(super) fn items<T: Serialize>(
        &mut self,
        json: bool,
        table: &mut Table<T>,
        items: &[T],
    ) -> Result<(), CommandError> {
        if json { items.iter().try_for_each(|item| self.json(item)) } else { Ok(self.rows(table, items)?) }
    }

    /// Prints the next rows of a table, with the heading before the first row.
    pub(super) fn rows<T>(&mut self, table: &mut Table<T>, items: &[T]) -> io::Result<()> {
        let (heading, lines) = table.lines(items);
        if let Some(heading) = heading.filter(|_| !items.is_empty()) {
            self.heading(&heading)?;
        }
        lines.iter().try_for_each(|line| writeln!(self.out, "{line}"))
    }

    /// Prints a table below a title. Prints nothing without items.
    pub(super) fn section<T>(&mut self, title: &str, mut table: Table<T>, items: &[T]) -> io::Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        writeln!(self.out, "\n{title}:")?;
        self.rows(&mut table, items)
    }

    /// Prints one line for each pair whose value is not empty. Values are not cut.
    pub(super) fn key_values(&mut self, pairs: &[(&str, String)]) -> io::Result<()> {
        let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let mut present = pairs.iter().filter(|(_, value)| !value.is_empty());
        present.try_for_each(|(name, value)| writeln!(self.out, "{name:width$}  {}", printable(value)))
    }

    fn heading(&mut self, line: &str) -> io::Result<()> {
        if self.bold { writeln!(self.out, "\u{1b}[1m{line}\u{1b}[0m") } else { writeln!(self.out, "{line}") }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Prints all items of a list.
pub(super) fn print_items<T: Serialize>(
    json: bool,
    columns: &'static [Column<T>],
    items: &[T],
) -> Result<(), CommandError> {
    let mut output = Output::new();
    output.items(json, &mut output.table(columns), items)?;
    output.flush()?;
    if items.is_empty() && !json {
        note("No rows.");
    }
    Ok(())
}

/// Prints a line to standard output. Ignores errors: the command has already done its work.
pub(crate) fn print_line(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a note to standard error, because standard output has the result only.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}
