//! All SQL for PostgreSQL: the statements that write and, in [`queries`], the queries of operators. (The spool has its own
//! SQL, for SQLite.)
//!
//! [`DbConnection::record`] writes one batch in one transaction. `record/resolve_duplicates.rs` has the rule for an
//! execution that is already recorded.

mod canary;
mod changes;
mod database;
mod error;
mod pool;
mod quarantine;
pub(crate) mod queries;
mod record;
mod repair;
mod retention;

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

pub(crate) use canary::CanaryRows;
pub(crate) use changes::{Numbered, Numbering};
pub(crate) use database::Database;
pub(crate) use error::DbError;
pub(crate) use pool::{ConnectionPool, PooledConnection, Session};
pub(crate) use quarantine::{Extracted, Retried};
pub(crate) use record::Bounds;
pub(crate) use record::item::{Degraded, RecordItem};
pub(crate) use repair::Repaired;
pub(crate) use retention::{Cutoffs, RetentionTarget, Visited};

/// A schema of a newer version is left as it is: it still works with this binary.
static MIGRATIONS: Migrator = {
    let mut migrations = sqlx::migrate!();
    migrations.ignore_missing = true;
    migrations
};

/// Time limits of one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimits {
    /// For a statement, and for a pause between two statements.
    pub(crate) statement: Duration,
    /// For each wait for a lock.
    pub(crate) lock: Duration,
}

/// `lock_timeout` is this many times shorter than `statement_timeout`. So a wait for a lock ends with its own error, which
/// blames no delivery.
const LOCK_TIMEOUT_DIVISOR: u32 = 4;
/// `lock_timeout` of commands: they report a locked row and continue with the next one.
const COMMAND_LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// How often commands retry a row after contention, and the pause before each retry.
const COMMAND_RETRIES: u32 = 4;
const COMMAND_RETRY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct DbConnection {
    connection: PgConnection,
}

impl DbConnection {
    /// Connects, and rejects a database that is not in UTF8, because it cannot store every webhook.
    pub(crate) async fn connect(options: &PgConnectOptions) -> Result<Self, DbError> {
        Self::connect_as("workflow-receiver", options).await
    }

    async fn connect_as(application_name: &str, options: &PgConnectOptions) -> Result<Self, DbError> {
        let options = options.clone().application_name(application_name).disable_statement_logging();
        let mut connection = PgConnection::connect_with(&options).await?;
        let database = sqlx::query!(
            r#"SELECT current_setting('server_encoding') AS "encoding!", current_database() AS "name!""#
        );
        let database = database.fetch_one(&mut connection).await?;
        if database.encoding != "UTF8" {
            let (name, encoding) = (database.name.replace('"', "\"\""), database.encoding);
            let message = format!(
                "the database {name} has the encoding {encoding}, but must have UTF8. An encoding cannot be changed: \
                 create another database and set database.url to it, or drop this one first. CREATE DATABASE \
                 \"{name}\" ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"
            );
            return Err(DbError::Unavailable { code: None, message });
        }
        Ok(Self { connection })
    }

    /// Sets what recording relies on. A commit waits for the disk, because the spool then deletes the deliveries. A
    /// statement, and a pause within a transaction, ends after `statement_timeout`, so that an abandoned one does not
    /// keep its locks. A wait for a lock ends earlier, with `lock_not_available`.
    async fn configure_recording(&mut self, statement_timeout: Duration) -> Result<(), DbError> {
        sqlx::query!(
            "SELECT set_config('synchronous_commit', 'on', false)
             WHERE current_setting('synchronous_commit') = 'off'"
        )
        .fetch_optional(&mut self.connection)
        .await?;
        let limits =
            TimeLimits { statement: statement_timeout, lock: statement_timeout / LOCK_TIMEOUT_DIVISOR };
        Ok(set_config(&mut self.connection, false, limits.settings()).await?)
    }

    /// Makes the connection read-only. Each query is planned with its values, so that an unset filter costs nothing.
    async fn configure_queries(&mut self, statement_timeout: Duration) -> Result<(), DbError> {
        let settings = [
            ("statement_timeout", millis(statement_timeout)),
            ("default_transaction_read_only", "on".to_owned()),
            ("plan_cache_mode", "force_custom_plan".to_owned()),
        ];
        Ok(set_config(&mut self.connection, false, settings).await?)
    }

    /// Sets `lock_timeout` for a command.
    pub(crate) async fn limit_lock_waits(&mut self) -> Result<(), DbError> {
        let settings = [("lock_timeout", millis(COMMAND_LOCK_TIMEOUT))];
        Ok(set_config(&mut self.connection, false, settings).await?)
    }

    /// Runs a command's work on one row, and retries after contention. The inner error is about this row: the next row
    /// may succeed. The outer error is about the connection.
    async fn retry_contention<T>(
        &mut self,
        attempt: impl AsyncFn(&mut Self) -> Result<T, DbError>,
    ) -> Result<Result<T, DbError>, DbError> {
        let mut retries = 0;
        loop {
            match attempt(self).await {
                Err(error) if error.is_contention() && retries < COMMAND_RETRIES => {
                    retries += 1;
                    tokio::time::sleep(COMMAND_RETRY_PAUSE).await;
                }
                Err(error) if self.connection.ping().await.is_err() => return Err(error),
                done => return Ok(done),
            }
        }
    }

    /// Brings the schema up to date, without a time limit. If several receivers start at once, one migrates and the others
    /// wait.
    pub(crate) async fn migrate(&mut self) -> Result<(), DbError> {
        let before = sqlx::query!(
            r#"SELECT current_setting('statement_timeout') AS "statement!", current_setting('lock_timeout') AS "lock!""#
        );
        let before = before.fetch_one(&mut self.connection).await?;
        let limits = |statement: &str, lock: &str| {
            [("statement_timeout", statement.to_owned()), ("lock_timeout", lock.to_owned())]
        };
        set_config(&mut self.connection, false, limits("0", "0")).await?;
        MIGRATIONS.run_direct(None, &mut self.connection, false).await.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => DbError::from(error),
            MigrateError::VersionMismatch(version) => DbError::Unavailable {
                code: None,
                message: format!(
                    "migration {version} of this database differs from this program's: a pre-release created the schema. \
                     Use another database, or drop this one and create it again"
                ),
            },
            other => DbError::Unavailable { code: None, message: other.to_string() },
        })?;
        Ok(set_config(&mut self.connection, false, limits(&before.statement, &before.lock)).await?)
    }

    /// Sets the expected number of executions of a bulk, and creates the bulk if needed.
    pub(crate) async fn expect(&mut self, bulk_id: &str, expected: i32) -> Result<(), DbError> {
        sqlx::query!(
            "INSERT INTO bulks (bulk_id, expected) VALUES ($1, $2)
             ON CONFLICT (bulk_id) DO UPDATE SET expected = excluded.expected",
            bulk_id,
            expected
        )
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }
}

impl TimeLimits {
    fn settings(self) -> [(&'static str, String); 3] {
        [
            ("statement_timeout", millis(self.statement)),
            ("idle_in_transaction_session_timeout", millis(self.statement)),
            ("lock_timeout", millis(self.lock.max(Duration::from_millis(1)))),
        ]
    }
}

/// A time limit in milliseconds, as PostgreSQL's settings have it. Zero means no limit.
fn millis(limit: Duration) -> String {
    limit.as_millis().to_string()
}

/// Sets PostgreSQL's settings for the session, or with `is_local` for the transaction.
async fn set_config<const N: usize>(
    connection: &mut PgConnection,
    is_local: bool,
    settings: [(&str, String); N],
) -> Result<(), sqlx::Error> {
    let (names, values): (Vec<_>, Vec<_>) = settings.into_iter().unzip();
    sqlx::query!(
        "SELECT set_config(name, value, $3) FROM unnest($1::text[], $2::text[]) AS settings (name, value)",
        &names as _,
        &values,
        is_local
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

/// Brings the schema of a database up to date.
///
/// # Errors
/// The error says what to do.
pub async fn migrate(database: &PgConnectOptions) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    DbConnection::connect(database).await?.migrate().await.map_err(DbError::without_row_blame)?;
    Ok(())
}

/// Creates the database named in `options`, if it does not exist.
///
/// # Errors
/// PostgreSQL's error.
pub async fn create_database(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let Some(name) = options.get_database() else { return Ok(()) };
    let mut connection = PgConnection::connect_with(&options.clone().database("postgres")).await?;
    let exists = sqlx::query_scalar!("SELECT true FROM pg_database WHERE datname = $1", name);
    if exists.fetch_optional(&mut connection).await?.is_none() {
        let name = name.replace('"', "\"\"");
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE \"{name}\""));
        sqlx::query(create).execute(&mut connection).await?;
    }
    connection.close().await
}

#[cfg(test)]
mod tests {
    /// ASCII means the same in every encoding of the database and of the client.
    #[test]
    fn migrations_are_ascii() {
        for migration in super::MIGRATIONS.iter() {
            let (version, sql) = (migration.version, migration.sql.as_str());
            let line = sql.lines().find(|line| !line.is_ascii());
            assert_eq!(line, None, "migration {version}");
        }
    }
}
