//! The secrets of a running receiver. The receiver re-reads their files at SIGHUP. If a file has changed, it also re-reads
//! the files when it rejects a request, or when PostgreSQL rejects a connection.
//!
//! A change of a secret in an environment variable, or of another setting, needs a restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::auth::{AdminTokens, Authenticator};
use crate::config::{Auth, DatabaseServers, Settings, SettingsError};
use crate::db::Database;

/// Shortest time between two checks of the files after rejections.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum time that a request waits for the check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Credentials {
    current: RwLock<Arc<Current>>,
    pub(crate) database: Database,
    /// The settings as last read.
    settings: Mutex<Settings>,
    /// Whether any setting is read from a file.
    from_files: bool,
    /// Time of the last check after a rejection. Locked during a check.
    files_checked_at: tokio::sync::Mutex<Option<Instant>>,
    /// The last error of a check after a rejection: logged once.
    last_error: Mutex<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// The secrets for checking requests.
pub(crate) struct Current {
    /// Increases with each change.
    generation: u64,
    pub(crate) authenticator: Authenticator,
    pub(crate) admin_tokens: AdminTokens,
    sender_secrets: Vec<SecretString>,
}

impl Current {
    fn new(generation: u64, settings: &Settings) -> Arc<Self> {
        let authenticator = Authenticator::new(&settings.auth);
        // The settings are checked, so the tokens are valid.
        let admin_tokens = AdminTokens::new(&settings.admin.named_tokens().unwrap_or_default());
        let auth = &settings.auth;
        let sender_secrets = auth.webhook_secrets.0.iter().chain(&auth.url_tokens.0).cloned().collect();
        Arc::new(Self { generation, authenticator, admin_tokens, sender_secrets })
    }

    /// The webhook secrets and URL tokens in plain text, to keep them out of references.
    pub(crate) fn sender_secrets(&self) -> impl Iterator<Item = &str> {
        self.sender_secrets.iter().map(ExposeSecret::expose_secret)
    }
}

/// Why re-read secrets are not used.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0} would be empty: requests would not be authenticated")]
    Unauthenticated(&'static str),
    #[error("database.url would be empty")]
    NoDatabase,
}

/// Why secrets are re-read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReloadReason {
    Sighup,
    /// A request or a connection to PostgreSQL was rejected.
    Rejected,
}

impl Credentials {
    pub(crate) fn new(settings: &Settings, servers: DatabaseServers) -> Arc<Self> {
        Arc::new(Self {
            current: RwLock::new(Current::new(0, settings)),
            database: Database::new(servers, settings.database.connect_timeout),
            from_files: settings.sources.has_files(),
            settings: Mutex::new(settings.clone()),
            files_checked_at: tokio::sync::Mutex::default(),
            last_error: Mutex::default(),
        })
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.read().clone()
    }

    /// Checks a request with `current`. If the check fails and the secrets have changed, checks the request again with the
    /// new secrets. Also returns the secrets of the last check.
    pub(crate) async fn check<T, E>(
        self: &Arc<Self>,
        current: Arc<Current>,
        check: impl Fn(&Current) -> Result<T, E>,
    ) -> (Arc<Current>, Result<T, E>) {
        let checked = check(&current);
        if checked.is_err() && self.have_changed(&current).await {
            let current = self.current();
            let checked = check(&current);
            return (current, checked);
        }
        (current, checked)
    }

    /// The settings of the webhooks' authentication, as last read.
    pub(crate) fn auth(&self) -> Auth {
        self.settings.lock().auth.clone()
    }

    /// Returns whether the secrets differ from `current`. Re-reads the files if one has changed since the last check; checks
    /// at most once per [`CHECK_INTERVAL`].
    async fn have_changed(self: &Arc<Self>, current: &Current) -> bool {
        if self.from_files {
            let _ = timeout(CHECK_TIMEOUT, self.refresh()).await;
        }
        self.current().generation != current.generation
    }

    async fn refresh(self: &Arc<Self>) {
        let mut checked_at = self.files_checked_at.lock().await;
        if checked_at.is_none_or(|at| at.elapsed() >= CHECK_INTERVAL) {
            *checked_at = Some(Instant::now());
            self.reload(ReloadReason::Rejected).await;
        }
    }

    /// Reloads after each notification of `sighup`, and after rejected connections to PostgreSQL. Never returns.
    pub(crate) async fn follow(self: &Arc<Self>, sighup: &Notify) -> std::convert::Infallible {
        loop {
            tokio::select! {
                () = sighup.notified() => self.reload(ReloadReason::Sighup).await,
                () = self.database.login_rejected.notified() => if self.from_files { self.refresh().await },
            }
        }
    }

    async fn reload(self: &Arc<Self>, reason: ReloadReason) {
        let credentials = self.clone();
        // The panic hook logs a panic.
        let _ = tokio::task::spawn_blocking(move || credentials.reload_blocking(reason)).await;
    }

    fn reload_blocking(&self, reason: ReloadReason) {
        let mut settings = self.settings.lock();
        if reason == ReloadReason::Rejected && !settings.sources.changed() {
            return;
        }
        let new = Settings::load(settings.sources.config.as_deref()).map_err(Into::into);
        match new.and_then(|new| self.apply(&mut settings, new)) {
            Ok(()) => self.last_error.lock().clear(),
            Err(error) => {
                let error = error.to_string();
                let before = std::mem::replace(&mut *self.last_error.lock(), error.clone());
                if reason == ReloadReason::Sighup || error != before {
                    tracing::error!(
                        "the new secrets cannot be used, so the previous ones stay in use: {error}"
                    );
                }
            }
        }
    }

    fn apply(&self, settings: &mut Settings, new: Settings) -> Result<(), ReloadError> {
        // All other settings stay as they were at the start, such as `auth.verify_unsigned`.
        let Auth { webhook_secrets, url_tokens, .. } = new.auth;
        let auth = Auth { webhook_secrets, url_tokens, ..settings.auth.clone() };
        if settings.auth.is_configured() && !auth.is_configured() {
            return Err(ReloadError::Unauthenticated("auth.webhook_secrets and auth.url_tokens"));
        }
        if settings.admin.has_tokens() && !new.admin.has_tokens() {
            return Err(ReloadError::Unauthenticated("admin.token and admin.tokens"));
        }
        let admin_token_changed = settings.admin.token.expose_secret() != new.admin.token.expose_secret()
            || !settings.admin.tokens.same_as(&new.admin.tokens);
        // The private PostgreSQL cannot be replaced by `database.url` without a restart.
        let database_changed = settings.database.servers()?.is_some()
            && settings.database.url.expose_secret() != new.database.url.expose_secret();
        if database_changed {
            self.database.set(new.database.servers()?.ok_or(ReloadError::NoDatabase)?);
            settings.database.url = new.database.url;
        }
        let secrets_changed = !settings.auth.webhook_secrets.same_as(&auth.webhook_secrets);
        let tokens_changed = !settings.auth.url_tokens.same_as(&auth.url_tokens);
        settings.auth = auth;
        settings.admin.token = new.admin.token;
        settings.admin.tokens = new.admin.tokens;
        settings.sources = new.sources;
        if admin_token_changed || secrets_changed || tokens_changed {
            let mut current = self.current.write();
            *current = Current::new(current.generation + 1, settings);
        }
        tracing::info!(
            webhook_secrets = settings.auth.webhook_secrets.0.len(),
            url_tokens = settings.auth.url_tokens.0.len(),
            secrets_changed,
            tokens_changed,
            admin_token_changed,
            database_changed,
            "secrets re-read"
        );
        Ok(())
    }
}
