//! The commands for operators.
//!
//! Commands that read recorded data use the queries of the read API ([`crate::db::queries`]) on a connection of their own:
//! they also work while the receiver is stopped.

pub mod admin_token;
mod args;
pub mod bulks;
pub mod conflicts;
pub mod examples;
pub mod executions;
pub mod expected;
pub mod export;
pub mod failures;
pub mod follow;
pub mod healthcheck;
pub mod new_token;
mod output;
pub mod packaging;
pub mod predictions;
pub mod prune;
pub mod quarantine;
pub mod reconcile;
pub mod register;
pub mod repair;
pub mod results;
pub mod send_test;
pub mod spool;
pub mod status;
mod table;
pub mod trigger;
pub mod workflows;

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
pub fn database(settings: &Settings) -> Result<Database, CommandError> {
    let servers = match settings.database.servers()? {
        Some(servers) => Ok(servers),
        #[cfg(feature = "embedded-postgres")]
        None => private_postgres::running(&settings.database.embedded_dir).map(Into::into),
        #[cfg(not(feature = "embedded-postgres"))]
        None => Err(NO_DATABASE),
    };
    Ok(Database::new(servers?, settings.database.connect_timeout))
}

/// One connection is enough: a command runs its queries one after the other.
fn query_pool(settings: &Settings) -> Result<QueryPool, CommandError> {
    let statement_timeout = settings.admin.statement_timeout;
    Ok(QueryPool::new(database(settings)?, "workflow-receiver command", 1, statement_timeout))
}
