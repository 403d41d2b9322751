//! Transactions. Every statement runs in one, because connection poolers may give each transaction another session.
//!
//! No state stays in the session: settings apply to the transaction, statements have no name, and advisory locks end with
//! the transaction. Otherwise a pooler such as `PgBouncer` would pass the state on to other applications.

use std::fmt::Write;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::postgres::{PgArguments, PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{AssertSqlSafe, Connection, Either, Execute, Executor, Postgres, SqlStr};

use super::DbError;

/// Time limits of one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimits {
    /// For a statement, and for a pause between two statements.
    pub(crate) statement: Duration,
    /// For each wait for a lock.
    pub(crate) lock: Duration,
}

/// The settings of a connection's transactions. `None` leaves the server's default.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TransactionSettings {
    /// Read-only, and all statements read the same snapshot.
    read_only: bool,
    statement_timeout: Option<Duration>,
    lock_timeout: Option<Duration>,
    /// A commit does not wait for the disk.
    asynchronous_commit: bool,
    /// Plans do not depend on the values of parameters.
    generic_plans: bool,
}

/// `lock_timeout` is this many times shorter than `statement_timeout`. So a wait for a lock ends with its own error, which
/// blames no delivery.
const LOCK_TIMEOUT_DIVISOR: u32 = 4;
/// `lock_timeout` of commands: they report a locked row and continue with the next one.
const COMMAND_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

impl TransactionSettings {
    /// A commit waits for the disk, because the spool then deletes the deliveries. A wait for a lock ends earlier than a
    /// statement, with `lock_not_available`.
    pub(crate) fn recording(statement_timeout: Duration) -> Self {
        let lock = statement_timeout / LOCK_TIMEOUT_DIVISOR;
        Self::default().limited(TimeLimits { statement: statement_timeout, lock })
    }

    pub(crate) fn reading(statement_timeout: Duration) -> Self {
        Self { read_only: true, statement_timeout: Some(statement_timeout), ..Self::default() }
    }

    pub(crate) fn command() -> Self {
        Self { lock_timeout: Some(COMMAND_LOCK_TIMEOUT), ..Self::default() }
    }

    /// A commit does not wait for the disk, because the next walk repeats a removal that a crash undid. `None`: a statement
    /// has no time limit.
    pub(crate) fn pruning(statement_timeout: Option<Duration>) -> Self {
        let statement_timeout = statement_timeout.or(Some(Duration::ZERO));
        Self { statement_timeout, asynchronous_commit: true, ..Self::default() }
    }

    /// No time limits.
    pub(crate) fn migrating() -> Self {
        Self::default().limited(TimeLimits { statement: Duration::ZERO, lock: Duration::ZERO })
    }

    pub(super) fn limited(self, limits: TimeLimits) -> Self {
        Self { statement_timeout: Some(limits.statement), lock_timeout: Some(limits.lock), ..self }
    }

    /// For the transaction of a batch. If plans depended on the values of parameters, PostgreSQL would copy the arrays with
    /// the bodies into the plan, several times.
    pub(super) fn of_batch(self) -> Self {
        Self { generic_plans: true, ..self }
    }

    /// The statements that begin a transaction, sent together.
    fn begin(self) -> String {
        // Recording needs READ COMMITTED: a statement that has waited for a lock reads the latest row.
        let level = if self.read_only { "REPEATABLE READ READ ONLY" } else { "READ COMMITTED" };
        let mut sql = format!("BEGIN ISOLATION LEVEL {level}");
        let mut set = |name, limit: Option<Duration>| {
            if let Some(limit) = limit {
                // Zero means no limit.
                let millis = if limit.is_zero() { 0 } else { limit.as_millis().max(1) };
                let _ = write!(sql, "; SET LOCAL {name} = {millis}");
            }
        };
        set("statement_timeout", self.statement_timeout);
        // An abandoned transaction does not keep its locks.
        set("idle_in_transaction_session_timeout", self.statement_timeout);
        set("lock_timeout", self.lock_timeout);
        if self.generic_plans {
            sql += "; SET LOCAL plan_cache_mode = force_generic_plan";
        }
        if self.asynchronous_commit {
            sql += "; SET LOCAL synchronous_commit = off";
        } else if !self.read_only {
            // The server's setting may be stricter than `on`.
            sql += "; SELECT set_config('synchronous_commit', 'on', true)
                      WHERE current_setting('synchronous_commit') = 'off'";
        }
        sql
    }
}

/// A transaction, as an executor of statements. Rolled back when dropped.
#[derive(Debug)]
pub(crate) struct Transaction<'c>(sqlx::Transaction<'c, Postgres>);

impl<'c> Transaction<'c> {
    /// Begins and applies `settings` in one round trip.
    pub(super) async fn begin(
        connection: &'c mut PgConnection,
        settings: TransactionSettings,
    ) -> Result<Self, DbError> {
        Ok(Self(connection.begin_with(AssertSqlSafe(settings.begin())).await?))
    }

    /// From now on, plans depend on the values of parameters, such as the number of rows in arrays.
    pub(super) async fn plan_for_values(&mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("SET LOCAL plan_cache_mode = DEFAULT").execute(self).await?;
        Ok(())
    }

    pub(crate) async fn commit(self) -> Result<(), DbError> {
        Ok(self.0.commit().await?)
    }

    pub(super) async fn rollback(self) -> Result<(), DbError> {
        Ok(self.0.rollback().await?)
    }
}

impl<'t> Executor<'t> for &'t mut Transaction<'_> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        't: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&mut *self.0).fetch_many(Unnamed(query))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        't: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&mut *self.0).fetch_optional(Unnamed(query))
    }

    fn prepare_with<'e>(
        self,
        _: SqlStr,
        _: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        't: 'e,
    {
        Box::pin(async { Err(no_names()) })
    }

    fn describe<'e>(self, _: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        't: 'e,
    {
        Box::pin(async { Err(no_names()) })
    }
}

/// Prepared statements stay in the session.
fn no_names() -> sqlx::Error {
    sqlx::Error::Protocol("a transaction has no named statements".to_owned())
}

/// A statement that the server does not keep.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_apply_to_the_transaction_only() {
        let recording = TransactionSettings::recording(Duration::from_secs(8)).begin();
        let expected = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 8000; \
            SET LOCAL idle_in_transaction_session_timeout = 8000; SET LOCAL lock_timeout = 2000; \
            SELECT set_config('synchronous_commit', 'on', true)";
        assert!(recording.starts_with(expected), "{recording}");
        let short = TransactionSettings::recording(Duration::from_micros(10)).begin();
        assert!(short.contains("lock_timeout = 1;"), "zero would mean no limit: {short}");
        let batch = TransactionSettings::recording(Duration::from_secs(8)).of_batch().begin();
        assert!(batch.contains("; SET LOCAL plan_cache_mode = force_generic_plan;"), "{batch}");
        assert!(!recording.contains("plan_cache_mode"), "{recording}");
        let reading = TransactionSettings::reading(Duration::from_secs(8)).begin();
        assert!(
            reading.starts_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL"),
            "{reading}"
        );
        assert!(!reading.contains("lock_timeout"), "{reading}");
    }
}
