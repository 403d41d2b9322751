//! `[database]`

use std::time::Duration;

use secrecy::ExposeSecret;

use super::database_url::DatabaseServers;
use super::error::{NOT_SHOWN, SettingsError, not_allowed};
use super::secrets::{QUOTED, is_quoted};
use super::{Database, Settings};

impl Database {
    /// `None` if no URL is set.
    ///
    /// # Errors
    /// [`SettingsError::NotAllowed`]. Its text does not contain the URL, which may contain a password.
    pub fn servers(&self) -> Result<Option<DatabaseServers>, SettingsError> {
        let url = self.url.expose_secret().trim();
        if url.is_empty() {
            return Ok(None);
        }
        if is_quoted(url) {
            return not_allowed("database.url", NOT_SHOWN, QUOTED);
        }
        match DatabaseServers::parse(url) {
            Ok(servers) => Ok(Some(servers)),
            Err(why) => not_allowed("database.url", NOT_SHOWN, why),
        }
    }
}

impl Settings {
    /// The `connect_timeout` of the URL replaces `database.connect_timeout`.
    pub(super) fn apply_database_url(&mut self) -> Result<(), SettingsError> {
        if let Some(seconds) = self.database.servers()?.and_then(|servers| servers.connect_timeout) {
            self.database.connect_timeout = Duration::from_secs(seconds);
        }
        Ok(())
    }
}
