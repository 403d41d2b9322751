//! All SQL for PostgreSQL: the statements that write and, in [`queries`], the queries of operators. (The spool has its own
//! SQL, for SQLite.)
//!
//! [`DbConnection::record`] writes one batch in one transaction. `record/resolve_duplicates.rs` has the rule for an
//! execution that is already recorded.

mod audit;
mod canary;
mod changes;
mod database;
mod error;
mod expected;
mod kinds;
mod migrations;
mod pool;
mod quarantine;
pub(crate) mod queries;
mod reconcile;
mod record;
mod repair;
mod retention;
mod sessions;
mod transaction;
mod verification;

use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

pub(crate) use canary::CanaryRows;
pub(crate) use changes::{Numbered, Numbering};
pub use database::Database;
pub(crate) use error::DbError;
pub(crate) use expected::{Registered, RegistrationConflict};
pub(crate) use pool::{ConnectionPool, PooledConnection, Session};
pub(crate) use quarantine::{Retried, RetryMode, Undone};
pub(crate) use record::Bounds;
pub(crate) use record::item::{Degraded, ItemKind, RecordItem};
pub(crate) use repair::Repaired;
pub(crate) use retention::{Cutoffs, RetentionTarget, Visited};
pub(crate) use transaction::{TimeLimits, Transaction, TransactionSettings};
pub(crate) use verification::{ClaimLimits, QuarantinedUnverified, Unverified, UnverifiedUsage};

/// The `application_name` of connections that write.
const APPLICATION_NAME: &str = "workflow-receiver";
/// How many times a command retries a row after contention.
const COMMAND_RETRIES: u32 = 4;
/// The pause before each of these retries.
const COMMAND_RETRY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct DbConnection {
    connection: PgConnection,
    settings: TransactionSettings,
    /// The [`Database::generation`] of the connection.
    generation: u64,
    /// Whether the connection was idle in a pool before. A restart of PostgreSQL, a pooler or the network may have closed it.
    pub(crate) was_idle: bool,
}

impl DbConnection {
    /// Connects. All transactions get `settings`. The name is shown in PostgreSQL's `pg_stat_activity`.
    pub(crate) async fn connect(
        database: &Database,
        application_name: &str,
        settings: TransactionSettings,
    ) -> Result<Self, DbError> {
        let (connection, generation) = database.connect(application_name).await?;
        Ok(Self { connection, settings, generation, was_idle: false })
    }

    /// Connects for a command that writes.
    pub(crate) async fn for_command(database: &Database) -> Result<Self, DbError> {
        Self::connect(database, APPLICATION_NAME, TransactionSettings::command()).await
    }

    async fn begin(&mut self) -> Result<Transaction<'_>, DbError> {
        Transaction::begin(&mut self.connection, self.settings).await
    }

    /// Begins the transaction of a batch. `limits` replace those of the connection.
    async fn begin_batch(&mut self, limits: Option<TimeLimits>) -> Result<Transaction<'_>, DbError> {
        let settings = limits.map_or(self.settings, |limits| self.settings.limited(limits));
        Transaction::begin(&mut self.connection, settings.of_batch()).await
    }

    /// Runs statements in a transaction.
    async fn transact<T>(
        &mut self,
        statements: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, sqlx::Error>,
    ) -> Result<T, DbError> {
        let mut transaction = self.begin().await?;
        let result = statements(&mut transaction).await?;
        transaction.commit().await?;
        Ok(result)
    }

    /// Runs a command's work on one row, and retries after contention. The inner error is about this row: the next row
    /// may succeed. The outer error is about the connection.
    ///
    /// `attempt` captures nothing: for an async closure, the compiler could not prove that the future is Send.
    async fn retry_contention<A: Sync, T>(
        &mut self,
        arguments: A,
        attempt: for<'a> fn(&'a mut Self, &'a A) -> BoxFuture<'a, Result<T, DbError>>,
    ) -> Result<Result<T, DbError>, DbError> {
        let mut retries = 0;
        loop {
            match attempt(self, &arguments).await {
                Err(error) if error.is_contention() && retries < COMMAND_RETRIES => {
                    retries += 1;
                    tokio::time::sleep(COMMAND_RETRY_PAUSE).await;
                }
                Err(error) if self.connection.ping().await.is_err() => return Err(error),
                result => return Ok(result),
            }
        }
    }

    /// Sets the expected number of executions of a bulk, and creates the bulk if needed. The number alone then
    /// decides whether the bulk is complete, even if its response is registered. `None` makes the number unknown again.
    pub(crate) async fn set_bulk_size(
        &mut self,
        bulk_id: &str,
        expected: Option<i32>,
    ) -> Result<(), DbError> {
        let mut transaction = self.begin().await?;
        let is_empty = sqlx::query_scalar!(
            r#"INSERT INTO bulks (bulk_id, expected) VALUES ($1, $2)
               ON CONFLICT (bulk_id) DO UPDATE SET
                   expected = excluded.expected,
                   rejected = CASE WHEN excluded.expected IS NULL THEN bulks.rejected END
               RETURNING received = 0 AND rejected IS NULL AS "is_empty!""#,
            bulk_id,
            expected
        );
        // Deletes nothing for other bulks: with the roles of `docs/roles.sql`, each DELETE needs `retention=on`.
        if is_empty.fetch_one(&mut transaction).await? && expected.is_none() {
            sqlx::query!("DELETE FROM bulks WHERE bulk_id = $1", bulk_id).execute(&mut transaction).await?;
        }
        transaction.commit().await
    }
}

/// Brings the schema of a database up to date.
///
/// # Errors
/// The error says what to do.
pub async fn migrate(database: &Database) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut connection = DbConnection::for_command(database).await?;
    let migrated = connection.migrate(Duration::MAX, Duration::MAX).await;
    Ok(migrated.map_err(DbError::without_row_blame)?)
}

/// Creates the database named in `options`, if it does not exist.
///
/// # Errors
/// PostgreSQL's error.
pub async fn create_database(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let Some(name) = options.get_database() else { return Ok(()) };
    let mut connection = PgConnection::connect_with(&options.clone().database("postgres")).await?;
    let exists = sqlx::query_scalar!("SELECT true FROM pg_database WHERE datname = $1", name);
    if exists.persistent(false).fetch_optional(&mut connection).await?.is_none() {
        let name = name.replace('"', "\"\"");
        // Not in a transaction: PostgreSQL does not allow it.
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE \"{name}\""));
        sqlx::raw_sql(create).execute(&mut connection).await?;
    }
    connection.close().await
}
