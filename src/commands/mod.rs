//! What operators do on the command line, beside running the receiver.

pub mod new_token;
pub mod prune;
pub mod quarantine;

use sqlx::postgres::PgConnectOptions;

use crate::config::Settings;

/// Why a command did not do what it was to do.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The database that a running receiver with these settings records to.
///
/// # Errors
/// A sentence that says what to set, or to start.
pub fn database(settings: &Settings) -> Result<PgConnectOptions, Failure> {
    match settings.database.connect_options()? {
        Some(database) => Ok(database),
        #[cfg(feature = "embedded-postgres")]
        None => Ok(crate::embedded_postgres::running(&settings.database.embedded_dir)?),
        #[cfg(not(feature = "embedded-postgres"))]
        None => {
            Err("database.url is not set: set DATABASE_URL, like postgres://user:password@host:5432/name"
                .into())
        }
    }
}
