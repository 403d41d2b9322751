//! Removes expired rows (`retention.*`) in batches.
//!
//! A walk visits a table in the order of time, by an index. Each batch continues after the last visited row: removed rows
//! leave dead index entries, and a walk from the beginning would pass all of them again.
//!
//! A batch is one short transaction, so it delays neither recording nor autovacuum. It skips locked rows, which stay for
//! the next walk.

use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};
use time::OffsetDateTime;

use super::{APPLICATION_NAME, Database, DbConnection, DbError, Transaction, TransactionSettings};
use crate::config;

/// The kinds of rows that retention removes, in this order: a bulk after its executions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum RetentionTarget {
    /// Whole executions.
    Executions,
    /// Payloads and outputs of executions that stay.
    Payloads,
    /// Whole predictions.
    Predictions,
    /// Payloads and outputs of predictions that stay.
    PredictionPayloads,
    /// Expected executions that are not recorded. The others are removed with their execution.
    Expected,
    /// Bulks without executions.
    Bulks,
    /// Conflicts of executions.
    Conflicts,
    /// Conflicts of predictions.
    PredictionConflicts,
    /// Quarantined webhooks that are not acknowledged: answered 422, or unsigned and not confirmed.
    Quarantine,
    /// Retries of quarantined webhooks. They contain payloads, and can be undone until they are removed.
    QuarantineRetries,
    /// Batches of changes, in the order of their numbers: the stored numbers have no gaps.
    Changes,
}

impl RetentionTarget {
    /// The name in metrics, logs and settings.
    pub(crate) fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Rows that are older than these times are removed. The SQL of each target defines the age of a row. `None`: rows of this
/// kind are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cutoffs {
    executions: Option<OffsetDateTime>,
    payloads: Option<OffsetDateTime>,
    conflicts: Option<OffsetDateTime>,
    quarantine: Option<OffsetDateTime>,
    changes: Option<OffsetDateTime>,
}

impl Cutoffs {
    pub(crate) fn at(now: OffsetDateTime, retention: &config::Retention) -> Self {
        let before = |kept: Option<Duration>| kept.map(|kept| now - kept);
        Self {
            executions: before(retention.executions),
            payloads: before(retention.payloads),
            conflicts: before(retention.conflicts),
            quarantine: before(retention.quarantine),
            changes: before(retention.changes),
        }
    }

    pub(crate) fn of(&self, target: RetentionTarget) -> Option<OffsetDateTime> {
        match target {
            RetentionTarget::Executions
            | RetentionTarget::Predictions
            | RetentionTarget::Expected
            | RetentionTarget::Bulks => self.executions,
            RetentionTarget::Payloads | RetentionTarget::PredictionPayloads => self.payloads,
            RetentionTarget::Conflicts | RetentionTarget::PredictionConflicts => self.conflicts,
            RetentionTarget::Quarantine => self.quarantine,
            // A retry contains an entry, payloads and rows of executions: the shortest limit applies.
            RetentionTarget::QuarantineRetries => self.quarantine.max(self.payloads).max(self.executions),
            RetentionTarget::Changes => self.changes,
        }
    }
}

/// A row that a walk has visited.
#[derive(Debug, Clone)]
pub(crate) struct Visited {
    pub(crate) id: String,
    pub(crate) first_received_at: OffsetDateTime,
    /// The row has expired.
    pub(crate) due: bool,
}

impl Visited {
    /// The start of a walk: no row is that old.
    pub(crate) fn start() -> Self {
        Self { id: "0".to_owned(), first_received_at: OffsetDateTime::UNIX_EPOCH, due: false }
    }
}

impl DbConnection {
    /// Connects to remove rows. `None`: a statement has no time limit.
    pub(crate) async fn for_pruning(
        database: &Database,
        statement_timeout: Option<Duration>,
    ) -> Result<Self, DbError> {
        Self::connect(database, APPLICATION_NAME, TransactionSettings::pruning(statement_timeout)).await
    }

    /// PostgreSQL's current time. `now()` would be the start of the transaction.
    pub(crate) async fn clock(&mut self) -> Result<OffsetDateTime, DbError> {
        let clock = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#);
        self.transact(async |transaction| clock.fetch_one(transaction).await).await
    }

    /// Begins a batch. With `exclusive`, returns `None` while another receiver prunes this database: the lock is held
    /// until the end of the transaction.
    pub(crate) async fn begin_pruning(
        &mut self,
        exclusive: bool,
    ) -> Result<Option<Transaction<'_>>, DbError> {
        let mut transaction = self.begin().await?;
        if exclusive {
            let lock = sqlx::query_scalar!(
                r#"SELECT pg_try_advisory_xact_lock(hashtextextended('workflow-receiver prune', 0)) AS "locked!""#
            );
            if !lock.fetch_one(&mut transaction).await? {
                transaction.rollback().await?;
                return Ok(None);
            }
        }
        Ok(Some(transaction))
    }
}

impl Transaction<'_> {
    /// The latest `first_received_at` of all tables, read from the ends of indexes.
    pub(crate) async fn newest(&mut self) -> Result<Option<OffsetDateTime>, DbError> {
        let newest = sqlx::query_scalar!(
            "SELECT greatest(
                   (SELECT max(first_received_at) FROM executions),
                   (SELECT max(first_received_at) FROM execution_conflicts),
                   (SELECT max(first_received_at) FROM predictions),
                   (SELECT max(first_received_at) FROM prediction_conflicts),
                   (SELECT max(first_received_at) FROM quarantine)
               ) AS newest"
        );
        Ok(newest.fetch_one(self).await?)
    }

    /// The next rows after `after` that may have expired, at most `limit`. Empty if there are none.
    pub(crate) async fn walk(
        &mut self,
        target: RetentionTarget,
        after: &Visited,
        cutoffs: &Cutoffs,
        limit: i64,
    ) -> Result<Vec<Visited>, DbError> {
        let (at, id, before) = (after.first_received_at, &after.id, cutoffs.of(target));
        macro_rules! walk {
            ($file:literal, $($value:expr),*) => {
                sqlx::query_file_as!(Visited, $file, $($value),*).fetch_all(self).await
            };
            ($file:literal) => { walk!($file, at, id, limit, before) };
        }
        Ok(match target {
            RetentionTarget::Executions => walk!("src/db/retention/walk_executions.sql"),
            RetentionTarget::Payloads => {
                walk!("src/db/retention/walk_payloads.sql", at, id, limit, before, cutoffs.executions)
            }
            RetentionTarget::Predictions => walk!("src/db/retention/walk_predictions.sql"),
            RetentionTarget::PredictionPayloads => {
                walk!(
                    "src/db/retention/walk_prediction_payloads.sql",
                    at,
                    id,
                    limit,
                    before,
                    cutoffs.executions
                )
            }
            RetentionTarget::Expected => walk!("src/db/retention/walk_expected.sql"),
            RetentionTarget::Bulks => walk!("src/db/retention/walk_bulks.sql"),
            RetentionTarget::Conflicts => walk!("src/db/retention/walk_conflicts.sql"),
            RetentionTarget::PredictionConflicts => {
                walk!("src/db/retention/walk_prediction_conflicts.sql")
            }
            RetentionTarget::Quarantine => walk!("src/db/retention/walk_quarantine.sql"),
            RetentionTarget::QuarantineRetries => walk!("src/db/retention/walk_quarantine_retries.sql"),
            RetentionTarget::Changes => walk!("src/db/retention/walk_changes.sql", id, limit, before),
        }?)
    }

    /// Removes those of `ids` that are still expired and not locked. Returns their `first_received_at`.
    pub(crate) async fn remove(
        &mut self,
        target: RetentionTarget,
        ids: &[String],
        cutoffs: &Cutoffs,
    ) -> Result<Vec<OffsetDateTime>, DbError> {
        let before = cutoffs.of(target);
        macro_rules! remove {
            ($file:literal) => {
                sqlx::query_file_scalar!($file, ids, before).fetch_all(self).await
            };
        }
        Ok(match target {
            RetentionTarget::Executions => remove!("src/db/retention/remove_executions.sql"),
            RetentionTarget::Payloads => remove!("src/db/retention/remove_payloads.sql"),
            RetentionTarget::Predictions => remove!("src/db/retention/remove_predictions.sql"),
            RetentionTarget::PredictionPayloads => remove!("src/db/retention/remove_prediction_payloads.sql"),
            RetentionTarget::Expected => remove!("src/db/retention/remove_expected.sql"),
            RetentionTarget::Bulks => remove!("src/db/retention/remove_bulks.sql"),
            RetentionTarget::Conflicts => remove!("src/db/retention/remove_conflicts.sql"),
            RetentionTarget::PredictionConflicts => {
                remove!("src/db/retention/remove_prediction_conflicts.sql")
            }
            RetentionTarget::Quarantine => remove!("src/db/retention/remove_quarantine.sql"),
            RetentionTarget::QuarantineRetries => remove!("src/db/retention/remove_quarantine_retries.sql"),
            RetentionTarget::Changes => remove!("src/db/retention/remove_changes.sql"),
        }?)
    }
}
