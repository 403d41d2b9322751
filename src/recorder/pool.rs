//! The connections to PostgreSQL for recording. Each attempt takes one and returns it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::config;
use crate::db::Database;
use crate::db::{DbConnection, DbError};

/// How long the schema may take to be brought up to date. For more, there is `migrate`.
const MIGRATE_WITHIN: Duration = Duration::from_mins(10);
/// PostgreSQL may grant fewer connections than there are batches to record at once: how often another one is tried.
const TRY_ANOTHER_EVERY: Duration = Duration::from_secs(10);

/// As many as are needed at once, as far as PostgreSQL grants them.
pub(crate) struct ConnectionPool {
    database: Database,
    settings: config::Database,
    state: Mutex<State>,
    /// One is free again, or gone.
    returned: Notify,
}

#[derive(Default)]
struct State {
    /// Used in turns, so that all are seen to be alive.
    idle: VecDeque<DbConnection>,
    /// The generation of `database` that they were made with. Others are not kept.
    generation: u64,
    in_use: usize,
    /// The schema is up to date.
    migrated: bool,
    /// When PostgreSQL last granted no further one, and whether the log says so.
    refused: Option<Instant>,
    told: bool,
}

/// One of them, while it is in use. Dropped, it is closed.
pub(super) struct Session<'s> {
    pub(super) store: DbConnection,
    /// It lay idle before, and may have been ended meanwhile, by a restart of PostgreSQL, a pooler, the network.
    pub(super) was_idle: bool,
    generation: u64,
    place: Place<'s>,
}

struct Place<'s>(&'s ConnectionPool);

impl ConnectionPool {
    pub(crate) fn new(database: Database, settings: config::Database) -> Self {
        Self { database, settings, state: Mutex::default(), returned: Notify::new() }
    }

    /// An idle one, or a new one. Where no further one is granted, one that comes back.
    pub(super) async fn get(&self) -> Result<Session<'_>, DbError> {
        loop {
            let another = {
                let mut state = self.state();
                self.follow(&mut state);
                if let Some(store) = state.idle.pop_front() {
                    return Ok(self.session(&mut state, store, true));
                }
                let lately = state.refused.is_some_and(|at| at.elapsed() < TRY_ANOTHER_EVERY);
                state.in_use == 0 || !lately
            };
            if another {
                let generation = self.database.generation();
                let connected = self.connect().await.inspect_err(|fault| self.database.refused(fault));
                let mut state = self.state();
                if generation != state.generation {
                    // Another database meanwhile.
                    continue;
                }
                match connected {
                    Ok(store) => {
                        state.refused = None;
                        return Ok(self.session(&mut state, store, false));
                    }
                    Err(fault) if state.in_use == 0 && state.idle.is_empty() => return Err(fault),
                    Err(fault) => {
                        state.refused = Some(Instant::now());
                        if !std::mem::replace(&mut state.told, true) {
                            tracing::warn!(
                                "fewer connections to PostgreSQL than `recorder.connections`: {fault}"
                            );
                        }
                        // One may have come back meanwhile.
                        continue;
                    }
                }
            }
            let _ = timeout(TRY_ANOTHER_EVERY, self.returned.notified()).await;
        }
    }

    /// What lay idle is not used any more: one of them was ended, or does not answer.
    pub(super) fn close_idle(&self) {
        self.state().idle.clear();
    }

    /// Drops what was made with other connection settings.
    fn follow(&self, state: &mut State) {
        let generation = self.database.generation();
        if state.generation != generation {
            state.idle.clear();
            (state.generation, state.migrated, state.refused) = (generation, false, None);
        }
    }

    fn session(&self, state: &mut State, store: DbConnection, was_idle: bool) -> Session<'_> {
        state.in_use += 1;
        Session { store, was_idle, generation: state.generation, place: Place(self) }
    }

    async fn connect(&self) -> Result<DbConnection, DbError> {
        let connect = async {
            let mut store = DbConnection::connect(&self.database.options()).await?;
            store.promise(self.settings.statement_timeout).await?;
            Ok(store)
        };
        let mut store =
            timeout(self.settings.connect_timeout, connect).await.unwrap_or(Err(DbError::TimedOut))?;
        if self.settings.migrate && !self.state().migrated {
            timeout(MIGRATE_WITHIN, store.migrate()).await.unwrap_or(Err(DbError::TimedOut))?;
            self.state().migrated = true;
        }
        Ok(store)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session<'_> {
    /// It can be used again.
    pub(super) fn give_back(self) {
        let mut state = self.place.0.state();
        if state.generation == self.generation {
            state.idle.push_back(self.store);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.state().in_use -= 1;
        self.0.returned.notify_one();
    }
}
