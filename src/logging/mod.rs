//! Log lines on standard error: pretty on a terminal, JSON otherwise.
//!
//! Logging never blocks or ends the receiver. A thread writes the lines from a bounded queue (`queue.rs`). Lines are dropped
//! and counted when the queue is full or standard error cannot be written.

mod escape;
mod limit;
mod queue;

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::metrics::counter::Counter;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::debug_fn;

use crate::config::{Log, LogFormat};
pub(crate) use escape::{escape_json, is_terminal_control, printable};
pub(crate) use limit::LineLimit;
use queue::STDERR;

/// Warnings of sqlx contain parts of the database URL.
const WITHOUT_URLS: &str = "sqlx_postgres::options=off";

/// The format, for [`log_panics`].
static JSON: AtomicBool = AtomicBool::new(false);

/// Sends log events to standard error. Call it once per process.
///
/// # Errors
/// When the filter is invalid (checked settings are valid), or logging was set up before.
pub(crate) fn init(settings: &Log) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let terminal = io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Pretty => false,
        LogFormat::Json => true,
        LogFormat::Auto => !terminal,
    };
    JSON.store(json, Ordering::Relaxed);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(settings.filter.parse::<EnvFilter>()?.add_directive(WITHOUT_URLS.parse()?))
        .with_writer(Lines { json });
    if json {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        let fields = debug_fn(escape::field).delimited(" ");
        lines.fmt_fields(fields).with_ansi(terminal).with_target(false).try_init()
    }
}

/// Logs panics with their location in the code. The message is logged only when it is a literal: other messages may quote
/// a body.
///
/// The line does not go through `tracing`: a panic inside `tracing` would cause a second one, which aborts the process.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let literal = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or_default();
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        if JSON.load(Ordering::Relaxed) {
            let event = serde_json::json!({
                "timestamp": now, "level": "ERROR", "message": "panicked: a bug", "place": place, "panic": literal
            });
            STDERR.push(escape::json_line(&format!("{event}\n")).as_bytes());
        } else {
            STDERR.push(format!("{now} ERROR panicked: a bug place={place} panic={literal:?}\n").as_bytes());
        }
    }));
}

/// Queues a line for standard error. Control characters in it are escaped.
pub(crate) fn print(text: &str) {
    let lines: String = text.split('\n').map(|line| printable(line) + "\n").collect();
    STDERR.push(lines.as_bytes());
}

/// Waits until all lines are written. Call it before the process ends. Gives up when nothing is written for a second.
pub(crate) fn flush() {
    STDERR.flush();
}

/// The number of dropped lines since the process started.
pub(crate) fn dropped_lines() -> Counter {
    STDERR.dropped()
}

/// Passes the formatter's output to the queue. Each write is one event.
struct Lines {
    json: bool,
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self { json: self.json }
    }
}

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(event) {
            Ok(line) if self.json => STDERR.push(escape::json_line(line).as_bytes()),
            _ => STDERR.push(event),
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn control_characters_in_fields_are_escaped_on_a_terminal() {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(debug_fn(escape::field).delimited(" "))
            .with_ansi(true)
            .with_target(false)
            .with_writer(move || writer.clone())
            .finish();
        let hostile = "a\u{1b}[31m\nb\u{202e}";
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(display = %hostile, text = hostile, "message {hostile}");
        });
        let line = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        let line = line.trim_end();
        assert!(line.contains("display") && line.contains("message a\\u{1b}[31m\\nb\\u{202e}"), "{line:?}");
        assert!(!line.contains("\u{1b}[31m") && !line.contains('\u{202e}'), "{line:?}");
    }
}
