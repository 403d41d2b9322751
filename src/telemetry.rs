//! Log lines: pretty for people, JSON for machines, to standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// What the database's library has to say about a URL quotes it.
const ABOUT_URLS: &str = "sqlx_postgres::options=off";

/// Logs a panic with its place. Its message only where that is a literal: others may quote what was
/// being read, such as a body.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(tracing::field::display);
        let message = panic.payload().downcast_ref::<&'static str>();
        tracing::error!(place, message, "panicked: a bug");
    }));
}

/// Sends log lines where they are to go. Once per process.
///
/// # Errors
/// When the filter cannot be read (checked settings can), or logging was set up before.
pub fn init(settings: &Log) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(settings.filter.parse::<EnvFilter>()?.add_directive(ABOUT_URLS.parse()?))
        .with_writer(io::stderr);
    let pretty = match settings.format {
        LogFormat::Pretty => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    if pretty {
        lines.with_ansi(io::stderr().is_terminal()).with_target(false).try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    }
}
