//! The address and credentials of PostgreSQL, which can change while the receiver runs.

use std::sync::{Arc, PoisonError, RwLock};

use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;

use super::DbError;

/// The connection settings that all parts share.
#[derive(Clone)]
pub(crate) struct Database {
    options: Arc<RwLock<(u64, PgConnectOptions)>>,
    /// Notified when PostgreSQL rejects user or password.
    pub(crate) refused: Arc<Notify>,
}

impl Database {
    pub(crate) fn new(options: PgConnectOptions) -> Self {
        Self { options: Arc::new(RwLock::new((0, options))), refused: Arc::default() }
    }

    pub(crate) fn options(&self) -> PgConnectOptions {
        self.options.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// The number of changes. Connections of an earlier generation are closed.
    pub(crate) fn generation(&self) -> u64 {
        self.options.read().unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn set(&self, options: PgConnectOptions) {
        let mut current = self.options.write().unwrap_or_else(PoisonError::into_inner);
        *current = (current.0 + 1, options);
    }

    /// Notifies `refused` when PostgreSQL rejected user or password: then `database.url_file` is read again.
    pub(crate) fn connect_failed(&self, error: &DbError) {
        if error.code().is_some_and(|code| code.starts_with("28")) {
            self.refused.notify_one();
        }
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}
