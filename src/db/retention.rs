//! Removing what has been kept long enough (`retention.*`), some rows at a time.
//!
//! A table is walked in the order of time, along an index that is there for operators. Each look at
//! it is bounded, and goes on behind the place where the one before ended: what was removed leaves
//! dead entries in the index, and who begins at its beginning passes all of them each time.
//!
//! A removal is one short statement, and so a transaction of its own: it holds up neither recording
//! nor autovacuum, which makes its room usable again. It waits for no row: one that is locked is being
//! written to, and stays for the next time.

use std::time::Duration;

use time::OffsetDateTime;

use super::{DbConnection, DbError};
use crate::config;

/// What is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RetentionTarget {
    /// An execution as a whole.
    Executions,
    /// The payload and output of an execution that stays.
    Payloads,
    /// A bulk whose executions are gone.
    Bulks,
    /// A delivery that contradicts the recorded outcome.
    Conflicts,
    /// A body that is no execution, and was answered 422.
    Quarantine,
}

impl RetentionTarget {
    /// All there are, in the order in which they are removed: a bulk goes after its executions.
    pub(crate) const ALL: [Self; 5] =
        [Self::Executions, Self::Payloads, Self::Bulks, Self::Conflicts, Self::Quarantine];

    /// Its name for operators and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Executions => "executions",
            Self::Payloads => "payloads",
            Self::Bulks => "bulks",
            Self::Conflicts => "conflicts",
            Self::Quarantine => "quarantine",
        }
    }
}

/// What had its latest delivery before these times, by the receiver's clock and by PostgreSQL's, goes. `None`: it stays for ever.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cutoffs {
    executions: Option<OffsetDateTime>,
    payloads: Option<OffsetDateTime>,
    conflicts: Option<OffsetDateTime>,
    quarantine: Option<OffsetDateTime>,
}

impl Cutoffs {
    pub(crate) fn at(now: OffsetDateTime, retention: &config::Retention) -> Self {
        let before = |kept: Option<Duration>| kept.map(|kept| now - kept);
        Self {
            executions: before(retention.executions),
            payloads: before(retention.payloads),
            conflicts: before(retention.conflicts),
            quarantine: before(retention.quarantine),
        }
    }

    pub(crate) fn of(&self, kind: RetentionTarget) -> Option<OffsetDateTime> {
        match kind {
            RetentionTarget::Executions | RetentionTarget::Bulks => self.executions,
            RetentionTarget::Payloads => self.payloads,
            RetentionTarget::Conflicts => self.conflicts,
            RetentionTarget::Quarantine => self.quarantine,
        }
    }
}

/// A row that a walk has come to.
#[derive(Debug, Clone)]
pub(crate) struct Visited {
    pub(crate) id: String,
    pub(crate) first_received_at: OffsetDateTime,
    /// It is to go.
    pub(crate) due: bool,
}

impl Visited {
    /// Where a walk begins: no row was received so early.
    pub(crate) fn nothing() -> Self {
        Self { id: "0".to_owned(), first_received_at: OffsetDateTime::UNIX_EPOCH, due: false }
    }
}

impl DbConnection {
    /// Readies the connection. No commit waits for the disk, since what a crash undoes is removed
    /// again; and each place in a walk has a plan of its own, since one for all may read all.
    pub(crate) async fn prepare_to_prune(&mut self, limit: Option<Duration>) -> Result<(), DbError> {
        sqlx::query!(
            "SELECT set_config('synchronous_commit', 'off', false) AS commit,
                    set_config('plan_cache_mode', 'force_custom_plan', false) AS plan"
        )
        .fetch_one(&mut self.connection)
        .await?;
        self.limit_statements(&limit.unwrap_or_default().as_millis().to_string(), "0").await
    }

    /// PostgreSQL's clock. Not its `now()`, which stands still within a transaction.
    pub(crate) async fn clock(&mut self) -> Result<OffsetDateTime, DbError> {
        let clock = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#);
        Ok(clock.fetch_one(&mut self.connection).await?)
    }

    /// When the latest row was first received, of all that retention may remove. Read from the ends of indexes.
    pub(crate) async fn newest(&mut self) -> Result<Option<OffsetDateTime>, DbError> {
        let newest = sqlx::query_scalar!(
            "SELECT greatest(
                   (SELECT max(first_received_at) FROM executions),
                   (SELECT max(first_received_at) FROM execution_conflicts),
                   (SELECT max(first_received_at) FROM quarantine)
               ) AS newest"
        );
        Ok(newest.fetch_one(&mut self.connection).await?)
    }

    /// Whether this connection may prune in the background: it is the only one then, in this
    /// database, until it is closed.
    pub(crate) async fn may_prune(&mut self) -> Result<bool, DbError> {
        let lock = sqlx::query_scalar!(
            r#"SELECT pg_try_advisory_lock(hashtextextended('workflow-receiver prune', 0)) AS "locked!""#
        );
        Ok(lock.fetch_one(&mut self.connection).await?)
    }

    /// The rows behind `after` among which some of this kind may be too old, at most `limit`. Fewer
    /// are the last.
    pub(crate) async fn walk(
        &mut self,
        kind: RetentionTarget,
        after: &Visited,
        cutoffs: &Cutoffs,
        limit: i64,
    ) -> Result<Vec<Visited>, DbError> {
        let (at, id, before) = (after.first_received_at, &after.id, cutoffs.of(kind));
        macro_rules! walk {
            ($file:literal $(, $also:expr)?) => {
                sqlx::query_file_as!(Visited, $file, at, id, limit, before $(, $also)?)
                    .fetch_all(&mut self.connection)
                    .await
            };
        }
        Ok(match kind {
            RetentionTarget::Executions => walk!("src/db/retention/walk_executions.sql"),
            RetentionTarget::Payloads => walk!("src/db/retention/walk_payloads.sql", cutoffs.executions),
            RetentionTarget::Bulks => walk!("src/db/retention/walk_bulks.sql"),
            RetentionTarget::Conflicts => walk!("src/db/retention/walk_conflicts.sql"),
            RetentionTarget::Quarantine => walk!("src/db/retention/walk_quarantine.sql"),
        }?)
    }

    /// Removes those of `ids` that are still too old and that nobody writes to. When each first came.
    pub(crate) async fn remove(
        &mut self,
        kind: RetentionTarget,
        ids: &[String],
        cutoffs: &Cutoffs,
    ) -> Result<Vec<OffsetDateTime>, DbError> {
        let before = cutoffs.of(kind);
        macro_rules! remove {
            ($file:literal) => {
                sqlx::query_file_scalar!($file, ids, before).fetch_all(&mut self.connection).await
            };
        }
        Ok(match kind {
            RetentionTarget::Executions => remove!("src/db/retention/remove_executions.sql"),
            RetentionTarget::Payloads => remove!("src/db/retention/remove_payloads.sql"),
            RetentionTarget::Bulks => remove!("src/db/retention/remove_bulks.sql"),
            RetentionTarget::Conflicts => remove!("src/db/retention/remove_conflicts.sql"),
            RetentionTarget::Quarantine => remove!("src/db/retention/remove_quarantine.sql"),
        }?)
    }
}
