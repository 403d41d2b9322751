//! The pool of connections to PostgreSQL, for recording and for queries.
//!
//! Connections are opened when needed. If a connection cannot be opened, the caller gets the error at once, or with
//! [`Session::Recording`] waits for a connection that is in use. A connection goes back to the pool only by [`PooledConnection::release`]: after an error or a
//! cancelled call it is closed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{APPLICATION_NAME, Database, DbConnection, DbError, TransactionSettings};

/// Time limit of a migration. The command `workflow-receiver migrate` has no limit.
const MIGRATE_TIMEOUT: Duration = Duration::from_mins(10);
/// How often a further connection is tried while PostgreSQL grants fewer than `recorder.connections`.
const CONNECT_INTERVAL: Duration = Duration::from_secs(10);

/// What the connections are for.
#[derive(Debug)]
pub(crate) enum Session {
    /// Reads and writes. If PostgreSQL grants fewer connections than callers, a caller waits until another one releases its
    /// connection.
    Recording { migrate: bool },
    /// Read-only. The name is shown in PostgreSQL's `pg_stat_activity`.
    Queries { application_name: &'static str },
}

#[derive(Debug)]
pub(crate) struct ConnectionPool {
    database: Database,
    session: Session,
    statement_timeout: Duration,
    state: Mutex<State>,
    /// Notified when a connection is released or closed.
    returned: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Used in turn, so that a lost connection is noticed.
    idle: VecDeque<DbConnection>,
    /// The generation that the idle connections belong to.
    generation: u64,
    in_use: usize,
    /// When PostgreSQL last refused a further connection.
    refused_at: Option<Instant>,
    /// Whether a refusal was logged: only the first one is.
    logged_refusal: bool,
}

/// A connection in use. Closed when dropped.
pub(crate) struct PooledConnection<'p> {
    pub(crate) db: DbConnection,
    in_use: InUse<'p>,
}

/// Counts a connection as in use until dropped.
struct InUse<'p>(&'p ConnectionPool);

impl ConnectionPool {
    pub(crate) fn new(database: Database, session: Session, statement_timeout: Duration) -> Self {
        let (state, returned) = (Mutex::default(), Notify::new());
        Self { database, session, statement_timeout, state, returned }
    }

    /// Takes an idle connection or opens one. For recording, waits for a released connection while PostgreSQL grants no
    /// further one.
    pub(crate) async fn get(&self) -> Result<PooledConnection<'_>, DbError> {
        let is_recording = matches!(self.session, Session::Recording { .. });
        loop {
            let open = {
                let mut state = self.state.lock();
                self.close_outdated(&mut state);
                if let Some(connection) = state.idle.pop_front() {
                    return Ok(self.lend(&mut state, connection));
                }
                let refused_recently = state.refused_at.is_some_and(|at| at.elapsed() < CONNECT_INTERVAL);
                state.in_use == 0 || !refused_recently
            };
            if open {
                let connected = self.connect().await;
                let mut state = self.state.lock();
                self.close_outdated(&mut state);
                match connected {
                    // The address changed or a connection was lost meanwhile.
                    Ok(connection) if connection.generation != state.generation => continue,
                    Ok(connection) => {
                        state.refused_at = None;
                        return Ok(self.lend(&mut state, connection));
                    }
                    Err(error) if !is_recording || state.in_use == 0 && state.idle.is_empty() => {
                        return Err(error);
                    }
                    Err(error) => {
                        state.refused_at = Some(Instant::now());
                        if !std::mem::replace(&mut state.logged_refusal, true) {
                            tracing::warn!(
                                "no further connection can be opened, so fewer than `recorder.connections` are used: {error}"
                            );
                        }
                        // A connection may have been released meanwhile.
                        continue;
                    }
                }
            }
            let _ = timeout(CONNECT_INTERVAL, self.returned.notified()).await;
        }
    }

    /// Runs statements on a connection, within `database.statement_timeout`. After an error, the connection is closed.
    ///
    /// # Errors
    /// The error blames no delivery.
    pub(crate) async fn run<T>(
        &self,
        statements: impl AsyncFnOnce(&mut DbConnection) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let run = async {
            let mut connection = self.get().await?;
            let result = timeout(self.statement_timeout, statements(&mut connection.db)).await;
            let result = result.unwrap_or(Err(DbError::TimedOut))?;
            connection.release();
            Ok(result)
        };
        run.await.map_err(DbError::without_row_blame)
    }

    /// Runs statements that may be repeated, within `limit` on each connection. If an idle connection was lost, because
    /// PostgreSQL may have restarted, they run again on another one. `statements` captures nothing, as in
    /// [`DbConnection::retry_contention`].
    pub(crate) async fn run_repeatable<A: Sync, T>(
        &self,
        limit: Duration,
        arguments: A,
        statements: for<'a> fn(&'a mut DbConnection, &'a A) -> BoxFuture<'a, Result<T, DbError>>,
    ) -> Result<T, DbError> {
        loop {
            let mut connection = self.get().await?;
            let run = timeout(limit, statements(&mut connection.db, &arguments));
            match run.await.unwrap_or(Err(DbError::TimedOut)) {
                Ok(answer) => {
                    connection.release();
                    return Ok(answer);
                }
                Err(error @ DbError::Unreachable(_)) => {
                    let was_idle = connection.db.was_idle;
                    connection.lost();
                    if !was_idle {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes connections of an earlier generation.
    fn close_outdated(&self, state: &mut State) {
        let generation = self.database.generation();
        if state.generation != generation {
            state.idle.clear();
            (state.generation, state.refused_at) = (generation, None);
        }
    }

    fn lend(&self, state: &mut State, db: DbConnection) -> PooledConnection<'_> {
        state.in_use += 1;
        PooledConnection { db, in_use: InUse(self) }
    }

    async fn connect(&self) -> Result<DbConnection, DbError> {
        let (name, settings) = match self.session {
            Session::Recording { .. } => {
                (APPLICATION_NAME, TransactionSettings::recording(self.statement_timeout))
            }
            Session::Queries { application_name } => {
                (application_name, TransactionSettings::reading(self.statement_timeout))
            }
        };
        let mut connection = DbConnection::connect(&self.database, name, settings).await?;
        // For each new connection, because it may lead to another database.
        if matches!(self.session, Session::Recording { migrate: true }) {
            connection.migrate(self.statement_timeout, MIGRATE_TIMEOUT).await?;
        }
        Ok(connection)
    }
}

impl PooledConnection<'_> {
    /// Gives the connection back to the pool.
    pub(crate) fn release(mut self) {
        let pool = self.in_use.0;
        let mut state = pool.state.lock();
        pool.close_outdated(&mut state);
        if state.generation == self.db.generation {
            self.db.was_idle = true;
            state.idle.push_back(self.db);
        }
    }

    /// Closes the connection, which was lost or did not answer, and makes all parts connect again.
    pub(crate) fn lost(self) {
        self.in_use.0.database.lost(self.db.generation);
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.state.lock().in_use -= 1;
        self.0.returned.notify_one();
    }
}
