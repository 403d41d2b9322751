//! The commands for operators.
//!
//! Commands that read recorded data use the queries of the read API ([`crate::db::queries`]) on a connection of their own:
//! they also work while the receiver is stopped.

pub(crate) mod admin_token;
mod args;
pub(crate) mod bulks;
pub(crate) mod conflicts;
pub(crate) mod examples;
pub(crate) mod executions;
pub(crate) mod expected;
pub(crate) mod export;
pub(crate) mod failures;
pub(crate) mod follow;
pub(crate) mod healthcheck;
pub(crate) mod new_token;
mod output;
pub(crate) mod packaging;
pub(crate) mod predictions;
pub(crate) mod prune;
pub(crate) mod quarantine;
pub(crate) mod reconcile;
pub(crate) mod register;
pub(crate) mod repair;
pub(crate) mod results;
pub(crate) mod send_test;
pub(crate) mod spool;
pub(crate) mod status;
mod table;
pub(crate) mod trigger;
pub(crate) mod workflows;

#[cfg(feature = "private-postgres")]
use private_postgres::PrivatePostgresError;

use crate::config::Settings;
use crate::db::Database;
use crate::db::queries::QueryPool;

pub(crate) use output::print_line;

/// Why a command failed, for the operator.
pub(crate) type CommandError = Box<dyn std::error::Error + Send + Sync>;

/// The error of a command that needs a database.
pub(crate) const NO_DATABASE: &str =
    "database.url is not set: set DATABASE_URL, like postgres://user:password@host:5432/name";

/// The database of a receiver with these settings.
///
/// # Errors
/// If none is configured and no private PostgreSQL runs.
pub(crate) fn database(settings: &Settings) -> Result<Database, CommandError> {
    let servers = match settings.database.servers()? {
        Some(servers) => Ok(servers),
        #[cfg(feature = "private-postgres")]
        None => private_postgres::running(&settings.database.private_dir).map(Into::into).map_err(with_demo),
        #[cfg(not(feature = "private-postgres"))]
        None => Err(CommandError::from(NO_DATABASE)),
    };
    Ok(Database::new(servers?, settings.database.connect_timeout))
}

/// The directory of the private PostgreSQL of `make demo`.
#[cfg(feature = "private-postgres")]
const DEMO: &str = "data/demo/postgres";

/// Adds how to use the database of `make demo`, if it is there.
#[cfg(feature = "private-postgres")]
fn with_demo(error: PrivatePostgresError) -> CommandError {
    if matches!(error, PrivatePostgresError::NotRunning(_)) && std::path::Path::new(DEMO).exists() {
        return format!("{error}. For `make demo`, set RECEIVER__DATABASE__PRIVATE_DIR={DEMO}").into();
    }
    error.into()
}

/// One connection is enough: a command runs its queries one after the other.
fn query_pool(settings: &Settings) -> Result<QueryPool, CommandError> {
    let statement_timeout = settings.admin.statement_timeout;
    Ok(QueryPool::new(database(settings)?, "workflow-receiver command", 1, statement_timeout))
}
