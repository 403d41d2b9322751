//! Runs queries over a bounded number of connections, with a time limit.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Query;
use crate::db::{ConnectionPool, Database, DbConnection, DbError, Session};

/// How long a query waits while all connections are in use.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(2);
/// The additional time until the receiver gives up, so that PostgreSQL enforces `admin.statement_timeout` first.
const GRACE: Duration = Duration::from_secs(1);

/// Why a query has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueryError {
    /// All connections were in use for [`MAX_WAIT`].
    #[error("all connections for queries (admin.read_connections) are in use")]
    Busy,
    /// The query took longer than `admin.statement_timeout`.
    #[error("the query took longer than admin.statement_timeout")]
    TimedOut,
    #[error(transparent)]
    Failed(DbError),
}

impl From<DbError> for QueryError {
    fn from(error: DbError) -> Self {
        match error.without_row_blame() {
            DbError::TimedOut => Self::TimedOut,
            error => Self::Failed(error),
        }
    }
}

#[derive(Debug)]
pub(crate) struct QueryPool {
    pool: ConnectionPool,
    statement_timeout: Duration,
    connections: usize,
    permits: Semaphore,
}

impl QueryPool {
    /// At most `connections` at once. `application_name` is shown in PostgreSQL's `pg_stat_activity`.
    pub(crate) fn new(
        database: Database,
        application_name: &'static str,
        connections: usize,
        statement_timeout: Duration,
    ) -> Self {
        let session = Session::Queries { application_name };
        let pool = ConnectionPool::new(database, session, statement_timeout);
        Self { pool, statement_timeout, connections, permits: Semaphore::new(connections) }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    /// # Errors
    /// [`QueryError`]; a retry is safe.
    pub(crate) async fn run<Q: Query>(&self, query: &Q) -> Result<Q::Answer, QueryError> {
        let permit = timeout(MAX_WAIT, self.permits.acquire()).await;
        let _permit = permit.ok().and_then(Result::ok).ok_or(QueryError::Busy)?;
        let limit = self.statement_timeout + GRACE;
        Ok(self.pool.run_repeatable(limit, query, |db, query| Box::pin(answer(db, *query))).await?)
    }
}

async fn answer<Q: Query>(db: &mut DbConnection, query: &Q) -> Result<Q::Answer, DbError> {
    let mut transaction = db.begin().await?;
    let answer = query.run(&mut transaction).await?;
    // An open transaction would delay vacuum.
    transaction.commit().await?;
    Ok(answer)
}
