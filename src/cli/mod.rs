//! What operators do on the command line, beside running the receiver.
//!
//! What is recorded is asked of PostgreSQL, with the same questions as over HTTP ([`crate::db::queries`]): so the receiver
//! need not run. [`args`] has the arguments that these commands share, [`output`] and [`table`] what they write.

mod args;
pub mod bulks;
pub mod executions;
pub mod failures;
pub mod healthcheck;
pub mod new_token;
mod output;
pub mod packaging;
pub mod prune;
pub mod quarantine;
pub mod repair;
pub mod spool;
pub mod status;
mod table;
pub mod workflows;

use sqlx::postgres::PgConnectOptions;

use crate::config::Settings;
use crate::db::Database;
use crate::db::queries::QueryPool;

/// Why a command did not do what it was to do.
pub type CommandError = Box<dyn std::error::Error + Send + Sync>;

/// What to do where a database has to be named.
pub const NO_DATABASE: &str =
    "database.url is not set: set DATABASE_URL, like postgres://user:password@host:5432/name";

/// The database that a running receiver with these settings records to.
///
/// # Errors
/// A sentence that says what to set, or to start.
pub fn database(settings: &Settings) -> Result<PgConnectOptions, CommandError> {
    match settings.database.connect_options()? {
        Some(database) => Ok(database),
        #[cfg(feature = "embedded-postgres")]
        None => Ok(private_postgres::running(&settings.database.embedded_dir)?),
        #[cfg(not(feature = "embedded-postgres"))]
        None => Err(NO_DATABASE.into()),
    }
}

/// Where questions about what is recorded are put: a command asks one at a time.
fn reader(settings: &Settings) -> Result<QueryPool, CommandError> {
    let (database, waits) = (database(settings)?, &settings.database.connect_timeout);
    Ok(QueryPool::new(
        Database::new(database),
        "workflow-receiver command",
        1,
        *waits,
        settings.admin.statement_timeout,
    ))
}
