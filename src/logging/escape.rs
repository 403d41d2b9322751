//! Escapes senders' text in log lines: one event stays one line, and no character controls a terminal.

use std::borrow::Cow;
use std::fmt::{self, Debug, Display, Write};

use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

/// Whether a character can control a terminal or change the text around it: control characters, line and paragraph
/// separators, and characters that change the writing direction.
pub(crate) fn is_terminal_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The same JSON in one line without control characters. The JSON formatter escapes only what JSON requires. The other
/// characters occur in strings only, where `\uXXXX` means the same.
pub(super) fn json_line(line: &str) -> Cow<'_, str> {
    let event = line.strip_suffix('\n').unwrap_or(line);
    if !event.contains(is_terminal_control) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(line.len() + 64);
    for character in event.chars() {
        if is_terminal_control(character) {
            // Each of them is one UTF-16 unit.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped.push('\n');
    Cow::Owned(escaped)
}

/// Writes a field of the pretty format. `tracing-subscriber` escapes messages only, and not all of these characters.
pub(super) fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(writer, "{}", Escaped(value)),
        // The origin of a line of the `log` crate: the formatter has written it already.
        name if name.starts_with("log.") => Ok(()),
        name if writer.has_ansi_escapes() => {
            write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{}", Escaped(value))
        }
        name => write!(writer, "{name}={}", Escaped(value)),
    }
}

struct Escaped<'v>(&'v dyn Debug);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape(f), "{:?}", self.0)
    }
}

struct Escape<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.contains(is_terminal_control) {
            return self.0.write_str(text);
        }
        for character in text.chars() {
            if is_terminal_control(character) {
                write!(self.0, "{}", character.escape_default())?;
            } else {
                self.0.write_char(character)?;
            }
        }
        Ok(())
    }
}
