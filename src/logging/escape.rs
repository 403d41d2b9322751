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

/// Escapes the control characters that the JSON formatter leaves unescaped, so that an event stays one line. They occur
/// only in strings, where `\uXXXX` means the same.
pub(super) fn json_line(line: &str) -> Cow<'_, str> {
    let event = line.strip_suffix('\n').unwrap_or(line);
    if event.contains(is_terminal_control) {
        Cow::Owned(escape_json(event) + "\n")
    } else {
        Cow::Borrowed(line)
    }
}

/// Escapes the control characters that JSON allows in strings, so that they cannot control a terminal.
pub(crate) fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len() + 64);
    for character in json.chars() {
        if is_terminal_control(character) {
            // Each of them is one UTF-16 unit.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Escapes control characters: a sender's text must not control the terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let _ = Escape(&mut shown).write_str(text);
    shown
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

struct Escape<'w, W>(&'w mut W);

impl<W: Write> Write for Escape<'_, W> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_json_has_the_same_value_and_no_terminal_control_characters() {
        let texts = ["\u{9b}31m \u{7f} \u{202e} \u{85} \u{1b}[31m \\ \" é 👩‍🚀"];
        let json = serde_json::to_string(&texts).unwrap();
        assert!(json.contains(is_terminal_control));
        let shown = escape_json(&json);
        assert!(!shown.contains(is_terminal_control), "{shown}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), texts);
    }

    #[test]
    fn control_characters_of_a_sender_are_escaped() {
        let hostile = "\u{1b}]0;owned\u{7}\r\n\t\u{9b}31m\u{7f}\u{202e}\u{2066}\u{85}\u{2028}";
        let shown = printable(hostile);
        assert!(!shown.contains(is_terminal_control), "{shown}");
        assert!(shown.starts_with(r"\u{1b}]0;owned\u{7}\r\n\t\u{9b}31m"), "{shown}");
        assert_eq!(printable("模型 'é' 👩‍🚀 \"q\" C:\\x"), "模型 'é' 👩‍🚀 \"q\" C:\\x");
    }
}
