//! What is said about settings that cannot be used: the key, the value and what is allowed, but
//! never a secret's value.

use std::path::Path;
use std::time::Duration;

use config::{Config, ConfigError};

use super::secrets::QUOTED;

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file or variable cannot be read as settings; the text says where.
    #[error("{0}")]
    Unreadable(String),
    /// A value outside of what is allowed.
    #[error("{key} = {value}: {allowed}")]
    NotAllowed {
        /// The setting's key, as in `config/default.toml`.
        key: String,
        /// The value; never a secret's.
        value: String,
        /// What is allowed, and what to do.
        allowed: String,
    },
}

/// A file that is no TOML. The parser shows the line at fault, which may hold a secret: left out.
pub(super) fn unreadable(error: ConfigError, file: Option<&Path>) -> SettingsError {
    SettingsError::Unreadable(match error {
        ConfigError::FileParse { cause, .. } => {
            let file = file.unwrap_or(Path::new("")).display();
            let cause = cause.to_string();
            let (place, why) = (cause.lines().next(), cause.lines().last());
            format!("{file}: {}: {}", place.unwrap_or_default(), why.unwrap_or_default())
        }
        other => other.to_string(),
    })
}

/// Names the key and its value, which the errors of the library do not always.
pub(super) fn explain(error: ConfigError, layers: &Config) -> SettingsError {
    let (key, why) = match error {
        ConfigError::Type { key: Some(key), expected, .. } => (key, format!("must be {expected}")),
        ConfigError::At { key: Some(key), error, .. } => {
            (key, error.to_string().replace("expected a duration", "must be a duration, like 10s"))
        }
        other => return SettingsError::Unreadable(other.to_string()),
    };
    if SECRETS.iter().any(|secret| key.starts_with(secret)) {
        if why.contains(QUOTED) {
            return SettingsError::Unreadable(format!("{key} {QUOTED}"));
        }
        return SettingsError::Unreadable(format!("{key}: must be text, or a list of texts where it is one"));
    }
    match layers.get_string(&key) {
        Ok(value) if key.contains('.') => SettingsError::NotAllowed { key, value, allowed: why },
        Ok(_) => SettingsError::Unreadable(format!("{key}: a plain value cannot stand here")),
        Err(_) => SettingsError::Unreadable(format!("{key}: {why}")),
    }
}

/// The keys whose values, and what the library says about them, are not shown.
const SECRETS: [&str; 5] =
    ["database.url", "admin.token", "auth.webhook_secrets", "auth.url_tokens", "traces.otlp_headers"];

pub(super) fn not_allowed<T>(key: &str, value: &str, allowed: String) -> Result<T, SettingsError> {
    Err(SettingsError::NotAllowed { key: key.to_owned(), value: value.to_owned(), allowed })
}

pub(super) fn check_range(key: &str, value: u64, least: u64, most: u64) -> Result<(), SettingsError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    not_allowed(key, &value.to_string(), format!("must be from {least} to {most}"))
}

pub(super) fn check_duration(
    key: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), SettingsError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    not_allowed(key, &format!("{value:?}"), format!("must be from {least:?} to {most:?}"))
}
