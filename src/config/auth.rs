//! Checks of authentication: for webhooks and for the admin port.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::error::{NOT_SHOWN, SettingsError, check_duration, check_range, not_allowed};
use super::secrets::{QUOTED, is_quoted};
use super::{Admin, Auth, Settings};

impl Settings {
    /// # Errors
    /// [`SettingsError::NotAllowed`] if the webhook port is open to other machines without authentication, and
    /// `auth.allow_unauthenticated` is not set.
    pub fn require_auth_off_loopback(&self) -> Result<(), SettingsError> {
        let decided = self.auth.allow_unauthenticated || self.auth.is_configured();
        if self.http.listen.ip().is_loopback() || decided {
            return Ok(());
        }
        not_allowed(
            "http.listen",
            self.http.listen,
            "other machines could post webhooks without authentication. Set the webhook_secret of your workflows \
             (RECEIVER__AUTH__WEBHOOK_SECRETS=...), or a token for the URL (RECEIVER__AUTH__URL_TOKENS=..., made by \
             `workflow-receiver new-token`), or listen on loopback only (RECEIVER__HTTP__LISTEN=127.0.0.1:8080), or \
             accept webhooks from everyone (RECEIVER__AUTH__ALLOW_UNAUTHENTICATED=true)",
        )
    }
}

impl Auth {
    /// Whether senders are authenticated, unless `allow_unauthenticated` is set.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        !self.webhook_secrets.0.is_empty() || !self.url_tokens.0.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let (second, day) = (Duration::from_secs(1), Duration::from_hours(24));
        check_duration("auth.timestamp_tolerance", self.timestamp_tolerance, second, day)?;
        if self.secret_header && self.webhook_secrets.0.is_empty() {
            let why = "set auth.webhook_secrets, too: it is empty";
            return not_allowed("auth.secret_header", "true", why);
        }
        let unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        let guessable = |token: &str| !(MIN_TOKEN..=255).contains(&token.len());
        let unusable = |token: &str| guessable(token) || !token.chars().all(unreserved);
        if self.url_tokens.0.iter().any(|token| unusable(token.expose_secret())) {
            let why =
                "each must be 16 to 255 of A-Z a-z 0-9 - . _ ~; `workflow-receiver new-token` makes one";
            return not_allowed("auth.url_tokens", NOT_SHOWN, why);
        }
        Ok(())
    }
}

/// In characters. Shorter tokens can be guessed.
const MIN_TOKEN: usize = 16;

impl Admin {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let token = self.token.expose_secret();
        if token.is_empty() && !self.listen.ip().is_loopback() {
            return not_allowed(
                "admin.listen",
                self.listen,
                "other machines could read the recorded data. Set a token (RECEIVER__ADMIN__TOKEN=..., made by \
                 `workflow-receiver new-token`), or listen on loopback only (RECEIVER__ADMIN__LISTEN=127.0.0.1:9090)",
            );
        }
        if is_quoted(token) {
            return not_allowed("admin.token", NOT_SHOWN, QUOTED);
        }
        let unusable = token.len() < MIN_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic());
        if !token.is_empty() && unusable {
            let why = "must be at least 16 characters, without spaces";
            return not_allowed("admin.token", NOT_SHOWN, why);
        }
        check_range("admin.read_connections", self.read_connections as u64, 1, 64)?;
        let (min, max) = (Duration::from_millis(100), Duration::from_mins(10));
        check_duration("admin.statement_timeout", self.statement_timeout, min, max)?;
        check_duration("admin.stalled_after", self.stalled_after, min, 6 * max)
    }
}
