//! Sessions that a log-out has ended before they expire.
//!
//! The table `ended_sessions` stores them for all receivers. A session is looked up at most every [`RECHECK`]. While
//! PostgreSQL does not answer, a session is accepted unless it was ended at this receiver. So the console works without
//! PostgreSQL.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};

use crate::auth::SessionId;
use crate::db::queries::QueryPool;
use crate::db::queries::sessions::HasSessionEnded;
use crate::db::{Database, DbConnection, DbError};

/// How long a lookup is valid: a session that was ended at another receiver is accepted for this long.
const RECHECK: Duration = Duration::from_secs(2);
/// Time limit of a lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(500);
/// Time limit of writing the end of a session.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Sessions in memory. At this number, expired sessions and lookups that are no longer valid are removed.
const MAX_KNOWN: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct EndedSessions(Mutex<HashMap<SessionId, Known>>);

#[derive(Debug, Clone, Copy)]
struct Known {
    ended: bool,
    at: Instant,
}

impl EndedSessions {
    pub(super) async fn has_ended(&self, pool: &QueryPool, session: SessionId) -> bool {
        let known = self.0.lock().get(&session).copied();
        if let Some(known) = known.filter(|known| known.ended || known.at.elapsed() < RECHECK) {
            return known.ended;
        }
        let lookup = timeout(LOOKUP_TIMEOUT, pool.run(&HasSessionEnded(&session.sha256))).await;
        self.remember(session, matches!(lookup, Ok(Ok(true))))
    }

    /// Ends a session at this receiver, and in PostgreSQL for all others and after a restart.
    pub(super) async fn end(&self, database: &Database, session: SessionId) -> Result<(), DbError> {
        self.remember(session, true);
        let end = async {
            let mut connection = DbConnection::for_command(database).await?;
            connection.end_session(&session.sha256, session.expires_at).await
        };
        timeout(END_TIMEOUT, end).await.unwrap_or(Err(DbError::TimedOut))
    }

    /// Stores the result of a lookup. An ended session stays ended. Returns whether the session has ended.
    fn remember(&self, session: SessionId, ended: bool) -> bool {
        let mut known = self.0.lock();
        if known.len() >= MAX_KNOWN {
            let now = OffsetDateTime::now_utc();
            known.retain(|session, known| {
                session.expires_at > now && (known.ended || known.at.elapsed() < RECHECK)
            });
        }
        let entry = known.entry(session).or_insert(Known { ended, at: Instant::now() });
        *entry = Known { ended: ended || entry.ended, at: Instant::now() };
        entry.ended
    }
}
