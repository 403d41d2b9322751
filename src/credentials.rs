//! The secrets of a running receiver, which can be read again from their files: on SIGHUP, and when a file has changed
//! and a request or a connection to PostgreSQL was refused.
//!
//! The environment of a process cannot change; what stands there stays. All other settings wait for a restart.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::auth::{AdminToken, AuthError, AuthMethod, Authenticator, PendingAuth};
use crate::config::{Settings, SettingsError};
use crate::db::Database;

/// How often refusals lead to a look at the files.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// How long a refused request waits for the files to be looked at and read.
const CHECK_WITHIN: Duration = Duration::from_secs(1);

/// What is checked by, and what PostgreSQL is connected to with.
pub(crate) struct Credentials {
    current: RwLock<Arc<Current>>,
    pub(crate) database: Database,
    /// As they were last read.
    settings: Mutex<Settings>,
    /// There are files to look at.
    from_files: bool,
    /// When refusals last led to a look at them. Locked during it.
    checked: tokio::sync::Mutex<Option<Instant>>,
    /// The last error that a refusal led to: logged once.
    complaint: Mutex<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// What requests are checked by.
pub(crate) struct Current {
    /// Increases with each change.
    generation: u64,
    pub(crate) authenticator: Authenticator,
    /// `None` when the admin port demands none.
    pub(crate) admin_token: Option<AdminToken>,
}

impl Current {
    fn new(generation: u64, settings: &Settings) -> Arc<Self> {
        let authenticator = Authenticator::new(&settings.auth);
        Arc::new(Self { generation, authenticator, admin_token: AdminToken::new(&settings.admin.token) })
    }
}

/// Why secrets that were read again are not used.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0} would be empty: nothing would be authenticated")]
    Opens(&'static str),
    #[error("database.url would be empty")]
    NoDatabase,
}

/// Why secrets are read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// SIGHUP.
    Asked,
    /// A request, or PostgreSQL, refused what is known.
    Refused,
}

impl Credentials {
    pub(crate) fn new(settings: &Settings, database: PgConnectOptions) -> Arc<Self> {
        Arc::new(Self {
            current: RwLock::new(Current::new(0, settings)),
            database: Database::new(database),
            from_files: settings.sources.any(),
            settings: Mutex::new(settings.clone()),
            checked: tokio::sync::Mutex::default(),
            complaint: Mutex::default(),
        })
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks a body against a claim that `current` let pass, and where it fails, against secrets that changed since.
    ///
    /// # Errors
    /// As [`PendingAuth::check_body`].
    pub(crate) async fn check(
        self: &Arc<Self>,
        current: &Current,
        claim: &PendingAuth,
        body: &[u8],
    ) -> Result<AuthMethod, AuthError> {
        match claim.check_body(body) {
            Err(_) if self.refreshed(current).await => {
                claim.signed_for(&self.current().authenticator).check_body(body)
            }
            checked => checked,
        }
    }

    /// To be called after `current` refused a request. Whether there are other secrets now: then it is worth a second
    /// look. Reads the files again when one has changed, and looks at them at most every two seconds.
    pub(crate) async fn refreshed(self: &Arc<Self>, current: &Current) -> bool {
        if self.from_files {
            let _ = timeout(CHECK_WITHIN, self.refresh()).await;
        }
        self.current().generation != current.generation
    }

    async fn refresh(self: &Arc<Self>) {
        let mut checked = self.checked.lock().await;
        if checked.is_none_or(|at| at.elapsed() >= CHECK_EVERY) {
            *checked = Some(Instant::now());
            self.reload(Reason::Refused).await;
        }
    }

    /// Follows what asks for a reload. Never ends.
    pub(crate) async fn follow(self: &Arc<Self>, asked: &Notify) -> std::convert::Infallible {
        loop {
            tokio::select! {
                () = asked.notified() => self.reload(Reason::Asked).await,
                () = self.database.refused.notified() => if self.from_files { self.refresh().await },
            }
        }
    }

    async fn reload(self: &Arc<Self>, reason: Reason) {
        let credentials = self.clone();
        // A panic is logged where it happens.
        let _ = tokio::task::spawn_blocking(move || credentials.read(reason)).await;
    }

    fn read(&self, reason: Reason) {
        let mut settings = lock(&self.settings);
        if reason == Reason::Refused && !settings.sources.changed() {
            return;
        }
        match settings.load_again().map_err(Into::into).and_then(|new| self.apply(&mut settings, new)) {
            Ok(()) => lock(&self.complaint).clear(),
            Err(error) => {
                let error = error.to_string();
                let before = std::mem::replace(&mut *lock(&self.complaint), error.clone());
                if reason == Reason::Asked || error != before {
                    tracing::error!("secrets are not re-read, the ones from before stay: {error}");
                }
            }
        }
    }

    fn apply(&self, settings: &mut Settings, new: Settings) -> Result<(), ReloadError> {
        if settings.auth.is_configured() && !new.auth.is_configured() {
            return Err(ReloadError::Opens("auth.webhook_secrets and auth.url_tokens"));
        }
        let (before, now) = (settings.admin.token.expose_secret(), new.admin.token.expose_secret());
        if !before.is_empty() && now.is_empty() {
            return Err(ReloadError::Opens("admin.token"));
        }
        let admin_token_changed = before != now;
        let database_changed = settings.database.url.expose_secret() != new.database.url.expose_secret();
        // A private PostgreSQL stays: `database.url` counts at a restart then.
        let private = settings.database.connect_options()?.is_none();
        let database_changed = database_changed && !private;
        if database_changed {
            self.database.set(new.database.connect_options()?.ok_or(ReloadError::NoDatabase)?);
            settings.database.url = new.database.url;
        }
        let secrets_changed = !settings.auth.webhook_secrets.same_as(&new.auth.webhook_secrets);
        let tokens_changed = !settings.auth.url_tokens.same_as(&new.auth.url_tokens);
        settings.auth.webhook_secrets = new.auth.webhook_secrets;
        settings.auth.url_tokens = new.auth.url_tokens;
        settings.admin.token = new.admin.token;
        settings.sources = new.sources;
        if admin_token_changed || secrets_changed || tokens_changed {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
