//! `[database]`

use std::str::FromStr;

use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;

use super::Database;
use super::error::{NOT_SHOWN, SettingsError, not_allowed};
use super::secrets::{QUOTED, is_quoted};

impl Database {
    /// `None` if no URL is set.
    ///
    /// # Errors
    /// [`SettingsError::NotAllowed`] without the URL: it may contain a password.
    pub fn connect_options(&self) -> Result<Option<PgConnectOptions>, SettingsError> {
        let url = self.url.expose_secret().trim();
        if url.is_empty() {
            return Ok(None);
        }
        if is_quoted(url) {
            return not_allowed("database.url", NOT_SHOWN, QUOTED);
        }
        let postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        match PgConnectOptions::from_str(url) {
            Ok(options) if postgres => Ok(Some(options)),
            _ => not_allowed(
                "database.url",
                NOT_SHOWN,
                "must be like postgres://user:password@host:5432/name; percent-encode special \
                 characters in the password",
            ),
        }
    }
}
