//! Errors in the settings: key, value and what is allowed, but never the value of a secret.

use std::fmt::Display;
use std::time::Duration;

use serde::de;

/// Replaces the value of a secret.
pub(super) const NOT_SHOWN: &str = "(not shown)";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file or variable cannot be read; the text names it.
    #[error("{0}")]
    Unreadable(String),
    /// An invalid value.
    #[error("{key} = {value}: {allowed}")]
    NotAllowed {
        /// As in `config/default.toml`, or the name of an environment variable.
        key: String,
        /// [`NOT_SHOWN`] for a secret.
        value: String,
        /// What is allowed and what to do.
        allowed: String,
    },
}

/// The first character of every error text that a secret's `Deserialize` returns.
const SECRET_MARK: &str = "\0";

/// An error of a secret's `Deserialize`. `why` follows the key in a sentence and must not contain the value.
pub(super) fn secret_error<E: de::Error>(why: &str) -> E {
    E::custom(format!("{SECRET_MARK}{why}"))
}

/// The `why` of a [`secret_error`]; `None` for other errors.
pub(super) fn secret_reason(error: &str) -> Option<&str> {
    error.strip_prefix(SECRET_MARK)
}

pub(super) fn not_allowed<T>(
    key: &str,
    value: impl Display,
    allowed: impl Into<String>,
) -> Result<T, SettingsError> {
    Err(SettingsError::NotAllowed { key: key.to_owned(), value: value.to_string(), allowed: allowed.into() })
}

/// A value that does not fit into `u64`, such as a negative number, counts as the largest `u64`.
pub(super) fn check_range(
    key: &str,
    value: impl TryInto<u64>,
    min: u64,
    max: u64,
) -> Result<(), SettingsError> {
    let value = value.try_into().unwrap_or(u64::MAX);
    if (min..=max).contains(&value) {
        return Ok(());
    }
    not_allowed(key, value, format!("must be from {min} to {max}"))
}

pub(super) fn check_duration(
    key: &str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), SettingsError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    not_allowed(key, format_args!("{value:?}"), format!("must be from {min:?} to {max:?}"))
}
