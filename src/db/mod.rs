//! Everything that is said to PostgreSQL to record: what is asked of it is in [`crate::db::queries`], and no SQL stands
//! anywhere else.
//!
//! [`DbConnection::record`] writes one batch in one transaction. The rule for an execution that is
//! already recorded is in `settle_known.sql`, in a table at its top.

mod canary;
mod error;
mod quarantine;
pub(crate) mod queries;
mod record;
mod repair;
mod retention;
mod target;

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

pub(crate) use error::DbError;
pub(crate) use quarantine::{Found, Retried};
pub(crate) use record::Bounds;
pub(crate) use record::item::{Degraded, RecordItem};
pub(crate) use repair::Repaired;
pub(crate) use retention::{Cutoffs, RetentionTarget, Visited};
pub(crate) use target::Database;

/// The steps of the schema. A database that is ahead of this binary is left as it is: schemas
/// grow in steps that the version before can work with.
static MIGRATIONS: Migrator = {
    let mut migrations = sqlx::migrate!();
    migrations.ignore_missing = true;
    migrations
};

/// Time limits of one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimits {
    /// For a statement, and for a pause between two.
    pub(crate) statement: Duration,
    /// For each wait for a lock.
    pub(crate) lock: Duration,
}

/// How many times shorter `lock_timeout` is than `statement_timeout`: a wait for a lock ends with an error of its own,
/// which blames no delivery.
const LOCK_TIMEOUT_DIVISOR: u32 = 4;
/// `lock_timeout` of commands: they report an entry that is locked, and go on with the next.
const COMMAND_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// How often commands try an entry again that other transactions keep from them, and the pause before each.
const COMMAND_RETRIES: u32 = 4;
const COMMAND_PAUSE: Duration = Duration::from_millis(100);

/// One connection, used by one.
#[derive(Debug)]
pub(crate) struct DbConnection {
    connection: PgConnection,
}

impl DbConnection {
    /// Connects to a database that can hold what is recorded.
    pub(crate) async fn connect(options: &PgConnectOptions) -> Result<Self, DbError> {
        let options = options.clone().application_name("workflow-receiver").disable_statement_logging();
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

    /// Makes the connection keep what recording promises: a statement, and a pause within a transaction, end within
    /// `statement_timeout`, so that one given up on this side does not go on for ever on the other, with its locks;
    /// a wait for a lock ends earlier, with `lock_not_available`; and a commit means "on disk", since the spool then
    /// forgets.
    pub(crate) async fn promise(&mut self, statement_timeout: Duration) -> Result<(), DbError> {
        sqlx::query!(
            "SELECT set_config('synchronous_commit', 'on', false)
             WHERE current_setting('synchronous_commit') = 'off'"
        )
        .fetch_optional(&mut self.connection)
        .await?;
        let limit = statement_timeout.as_millis().to_string();
        sqlx::query!("SELECT set_config('idle_in_transaction_session_timeout', $1, false)", limit)
            .fetch_one(&mut self.connection)
            .await?;
        let lock = statement_timeout / LOCK_TIMEOUT_DIVISOR;
        self.limit_statements(&limit, &lock.as_millis().max(1).to_string()).await
    }

    /// Limits each wait for a lock to a second.
    pub(crate) async fn limit_lock_waits(&mut self) -> Result<(), DbError> {
        let limit = COMMAND_LOCK_TIMEOUT.as_millis().to_string();
        sqlx::query!("SELECT set_config('lock_timeout', $1, false)", limit)
            .fetch_one(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Does what a command does with one entry. The inner error is about this entry: the next may succeed. The outer is
    /// about the connection.
    async fn of_one<T>(
        &mut self,
        attempt: impl AsyncFn(&mut Self) -> Result<T, DbError>,
    ) -> Result<Result<T, DbError>, DbError> {
        let mut retries = 0;
        loop {
            match attempt(self).await {
                Err(fault) if fault.is_contention() && retries < COMMAND_RETRIES => {
                    retries += 1;
                    tokio::time::sleep(COMMAND_PAUSE).await;
                }
                Err(fault) if self.connection.ping().await.is_err() => return Err(fault),
                done => return Ok(done),
            }
        }
    }

    /// Brings the schema up to date, however long its statements take. Several receivers may do so
    /// at once: one works, the others wait.
    pub(crate) async fn migrate(&mut self) -> Result<(), DbError> {
        let before = sqlx::query!(
            r#"SELECT current_setting('statement_timeout') AS "statement!", current_setting('lock_timeout') AS "lock!""#
        );
        let before = before.fetch_one(&mut self.connection).await?;
        self.limit_statements("0", "0").await?;
        MIGRATIONS.run_direct(None, &mut self.connection, false).await.map_err(|e| match e {
            MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => DbError::from(e),
            other => DbError::Unavailable { code: None, message: other.to_string() },
        })?;
        self.limit_statements(&before.statement, &before.lock).await
    }

    /// Says how many executions a bulk has, before or after they come.
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

    /// Sets `statement_timeout` and `lock_timeout`. Without a unit, in milliseconds; `0`: without limit.
    async fn limit_statements(&mut self, statement: &str, lock: &str) -> Result<(), DbError> {
        sqlx::query!(
            "SELECT set_config('statement_timeout', $1, false) AS statement,
                    set_config('lock_timeout', $2, false) AS lock",
            statement,
            lock
        )
        .fetch_one(&mut self.connection)
        .await?;
        Ok(())
    }
}

/// Brings the schema of a database up to date.
///
/// # Errors
/// What went wrong, in a sentence, with what to do.
pub async fn migrate(database: &PgConnectOptions) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    DbConnection::connect(database).await?.migrate().await.map_err(DbError::without_row_blame)?;
    Ok(())
}

/// Makes the database that `options` name, if there is none.
///
/// # Errors
/// What PostgreSQL said.
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
    /// Whatever the encodings of the database and of the client are, a migration says the same.
    #[test]
    fn migrations_are_ascii() {
        for migration in super::MIGRATIONS.iter() {
            let (version, sql) = (migration.version, migration.sql.as_str());
            let line = sql.lines().find(|line| !line.is_ascii());
            assert_eq!(line, None, "migration {version}");
        }
    }
}
