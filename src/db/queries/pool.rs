//! The connections that questions go over: a few, of their own, with a time limit, and read-only.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Query;
use crate::db::Database;
use crate::db::DbError;

/// How long a question waits for a connection while others have them all.
pub(crate) const WAIT: Duration = Duration::from_secs(2);
/// PostgreSQL is to say itself that its time is up.
const GRACE: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    /// As many questions as may are being answered.
    #[error("as many questions as may be (admin.read_connections) are being answered")]
    Busy,
    /// It took longer than `admin.statement_timeout`.
    #[error("the answer took longer than admin.statement_timeout")]
    Slow,
    /// PostgreSQL cannot be reached, or refuses.
    #[error(transparent)]
    Failed(DbError),
}

impl From<DbError> for Unanswered {
    fn from(fault: DbError) -> Self {
        match fault.without_row_blame() {
            DbError::TimedOut => Self::Slow,
            fault => Self::Failed(fault),
        }
    }
}

/// A few connections, made when they are needed.
#[derive(Debug)]
pub(crate) struct Pool {
    database: Database,
    application_name: String,
    connect_timeout: Duration,
    statement_timeout: Duration,
    connections: usize,
    places: Semaphore,
    /// With the generation of `database` that they were made with.
    idle: Mutex<Vec<(u64, PgConnection)>>,
}

impl Pool {
    /// At most `connections` at once. `application_name` is what PostgreSQL's `pg_stat_activity` shows.
    pub(crate) fn new(
        database: Database,
        application_name: &str,
        connections: usize,
        connect_timeout: Duration,
        statement_timeout: Duration,
    ) -> Self {
        Self {
            database,
            application_name: application_name.to_owned(),
            connect_timeout,
            statement_timeout,
            connections,
            places: Semaphore::new(connections),
            idle: Mutex::default(),
        }
    }

    /// The most connections at once.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    /// Puts a question to PostgreSQL.
    ///
    /// # Errors
    /// [`Unanswered`]; it is safe to ask again.
    pub(crate) async fn ask<Q: Query>(&self, question: &Q) -> Result<Q::Answer, Unanswered> {
        let place = timeout(WAIT, self.places.acquire()).await;
        let _place = place.ok().and_then(Result::ok).ok_or(Unanswered::Busy)?;
        let before = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some((generation, connection)) = before.filter(|(at, _)| *at == self.database.generation()) {
            match self.ask_over(generation, connection, question).await {
                // It was lost since: PostgreSQL may be there again.
                Err(Unanswered::Failed(DbError::Unreachable(_))) => {}
                answered => return answered,
            }
        }
        let generation = self.database.generation();
        let connecting = timeout(self.connect_timeout, self.connect()).await;
        if let Ok(Err(fault)) = &connecting {
            self.database.refused(fault);
        }
        let connection = connecting.map_err(|_| {
            DbError::Unreachable("no connection within database.connect_timeout".to_owned())
        })??;
        self.ask_over(generation, connection, question).await
    }

    /// A connection over which something went wrong is not used again.
    async fn ask_over<Q: Query>(
        &self,
        generation: u64,
        mut connection: PgConnection,
        question: &Q,
    ) -> Result<Q::Answer, Unanswered> {
        let asked = timeout(self.statement_timeout + GRACE, question.run(&mut connection)).await;
        let answer = asked.map_err(|_| Unanswered::Slow)?.map_err(DbError::from)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((generation, connection));
        Ok(answer)
    }

    async fn connect(&self) -> Result<PgConnection, DbError> {
        let options = self.database.options().application_name(&self.application_name);
        let mut connection = PgConnection::connect_with(&options.disable_statement_logging()).await?;
        // Each question is planned for what it asks: what a filter leaves out is then as if it were not there.
        sqlx::query!(
            "SELECT set_config(name, value, false)
             FROM (VALUES ('statement_timeout', $1), ('default_transaction_read_only', 'on'),
                          ('plan_cache_mode', 'force_custom_plan')) AS promised (name, value)",
            self.statement_timeout.as_millis().to_string()
        )
        .fetch_all(&mut connection)
        .await?;
        Ok(connection)
    }
}
