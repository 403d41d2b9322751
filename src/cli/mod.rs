//! The commands for operators.
//!
//! Commands that read recorded data use the queries of the read API ([`crate::db::queries`]) on a connection of their own:
//! they also work while the receiver is stopped.

pub mod admin_token;
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

pub use output::print_line;

/// Why a command failed, for the operator.
pub type CommandError = Box<dyn std::error::Error + Send + Sync>;

/// The error of a command that needs a database.
pub const NO_DATABASE: &str =
    "database.url is not set: set DATABASE_URL, like postgres://user:password@host:5432/name";

/// The database of a receiver with these settings.
///
/// # Errors
/// If none is configured and no private PostgreSQL runs.
pub fn database(settings: &Settings) -> Result<PgConnectOptions, CommandError> {
    match settings.database.connect_options()? {
        Some(database) => Ok(database),
        #[cfg(feature = "embedded-postgres")]
        None => Ok(private_postgres::running(&settings.database.embedded_dir)?),
        #[cfg(not(feature = "embedded-postgres"))]
        None => Err(NO_DATABASE.into()),
    }
}

/// One connection is enough: a command runs its queries one after the other.
fn query_pool(settings: &Settings) -> Result<QueryPool, CommandError> {
    let (database, connect_timeout) = (database(settings)?, settings.database.connect_timeout);
    let statement_timeout = settings.admin.statement_timeout;
    Ok(QueryPool::new(
        Database::new(database),
        "workflow-receiver command",
        1,
        connect_timeout,
        statement_timeout,
    ))
}
