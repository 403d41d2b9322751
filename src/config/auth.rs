//! What the settings say of who may come in, and what would leave a door open by mistake.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::error::{check_duration, check_range, not_allowed};
use super::secrets::{QUOTED, is_quoted};
use super::{Admin, Auth, NOT_SHOWN, Settings, SettingsError};

impl Settings {
    /// Refuses to take webhooks from strangers unless told to.
    ///
    /// # Errors
    /// [`SettingsError::NotAllowed`] when the webhook port is open to other machines and
    /// nothing says who may speak.
    pub fn require_auth_off_loopback(&self) -> Result<(), SettingsError> {
        let said = self.auth.allow_unauthenticated || self.auth.is_configured();
        if self.http.listen.ip().is_loopback() || said {
            return Ok(());
        }
        not_allowed(
            "http.listen",
            &self.http.listen.to_string(),
            "other machines could post here and nothing authenticates them. Set the secret that your \
             workflows are triggered with (RECEIVER__AUTH__WEBHOOK_SECRETS=...), or a token for the URL \
             (RECEIVER__AUTH__URL_TOKENS=..., `workflow-receiver new-token` makes one), or listen on \
             loopback (RECEIVER__HTTP__LISTEN=127.0.0.1:8080), or let everyone in who reaches the port \
             (RECEIVER__AUTH__ALLOW_UNAUTHENTICATED=true)"
                .to_owned(),
        )
    }
}

impl Auth {
    /// Whether anything tells the sender from others.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        !self.webhook_secrets.0.is_empty() || !self.url_tokens.0.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let (second, day) = (Duration::from_secs(1), Duration::from_hours(24));
        check_duration("auth.timestamp_tolerance", self.timestamp_tolerance, second, day)?;
        if self.secret_header && self.webhook_secrets.0.is_empty() {
            let why = "there is nothing to compare with: set auth.webhook_secrets, too".to_owned();
            return not_allowed("auth.secret_header", "true", why);
        }
        let unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        let guessable = |token: &str| !(SHORTEST_TOKEN..=255).contains(&token.len());
        let unusable = |token: &str| guessable(token) || !token.chars().all(unreserved);
        if self.url_tokens.0.iter().any(|token| unusable(token.expose_secret())) {
            let why =
                "each must be 16 to 255 of A-Z a-z 0-9 - . _ ~; `workflow-receiver new-token` makes one";
            return not_allowed("auth.url_tokens", NOT_SHOWN, why.to_owned());
        }
        Ok(())
    }
}

/// What is shorter can be guessed.
const SHORTEST_TOKEN: usize = 16;

impl Admin {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let token = self.token.expose_secret();
        if token.is_empty() && !self.listen.ip().is_loopback() {
            return not_allowed(
                "admin.listen",
                &self.listen.to_string(),
                "other machines could reach what is for operators. Set a token that they have to send \
                 (RECEIVER__ADMIN__TOKEN=..., `workflow-receiver new-token` makes one), or listen on \
                 loopback (RECEIVER__ADMIN__LISTEN=127.0.0.1:9090)"
                    .to_owned(),
            );
        }
        if is_quoted(token) {
            return not_allowed("admin.token", NOT_SHOWN, QUOTED.to_owned());
        }
        let unusable = token.len() < SHORTEST_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic());
        if !token.is_empty() && unusable {
            let why = "must be at least 16 characters, without spaces".to_owned();
            return not_allowed("admin.token", NOT_SHOWN, why);
        }
        check_range("admin.read_connections", self.read_connections as u64, 1, 64)?;
        let (shortest, longest) = (Duration::from_millis(100), Duration::from_mins(10));
        check_duration("admin.statement_timeout", self.statement_timeout, shortest, longest)?;
        check_duration("admin.stalled_after", self.stalled_after, shortest, 6 * longest)
    }
}
