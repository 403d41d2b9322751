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

/// The limits of `retention.*` at one time. The SQL of each target defines the age of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cutoffs {
    now: OffsetDateTime,
    retention: config::Retention,
}

impl Cutoffs {
    pub(crate) fn at(now: OffsetDateTime, retention: config::Retention) -> Self {
        Self { now, retention }
    }

    /// Rows that are older than this time are removed. `None`: rows of this kind are kept.
    pub(crate) fn of(&self, target: RetentionTarget) -> Option<OffsetDateTime> {
        let config::Retention { payloads, executions, conflicts, quarantine, changes } = self.retention;
        let limit = match target {
            RetentionTarget::Executions
            | RetentionTarget::Predictions
            | RetentionTarget::Expected
            | RetentionTarget::Bulks => executions,
            RetentionTarget::Payloads | RetentionTarget::PredictionPayloads => payloads,
            RetentionTarget::Conflicts | RetentionTarget::PredictionConflicts => conflicts,
            RetentionTarget::Quarantine => quarantine,
            // A retry contains an entry, payloads and rows of executions: the shortest limit applies.
            RetentionTarget::QuarantineRetries => {
                [quarantine, payloads, executions].into_iter().flatten().min()
            }
            RetentionTarget::Changes => changes,
        };
        limit.map(|limit| self.now - limit)
    }
}

/// A row that a walk has visited.
#[derive(Debug, Clone)]
pub(crate) struct Visited {
    pub(crate) id: String,
    /// The time that orders the rows of the target; `registered_at`, `retried_at` or `recorded_at` for some targets.
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

/// Calls a macro with the SQL of a target: the table (`t`), its key and the key's type, the time that orders the rows, and
/// the condition for a row that has expired at `$1`. `walk` and `remove` are conditions of one of these statements only,
/// `also` are further statements of the removal. `payloads`: the rows stay.
macro_rules! with_sql {
    ($target:expr, $then:ident!) => {
        match $target {
            // A receiver whose clock is behind stores times of receipt that are too early. Therefore an execution has not
            // expired if PostgreSQL recorded it, or it completed, after the cutoff. A completion in the future is an error
            // of the sender and does not count. The counts of bulks and the rollups stay: they are history. An expected
            // execution is removed with its execution; otherwise it would be missing.
            RetentionTarget::Executions => $then!(
                "executions" "execution_id" "text" "first_received_at"
                "greatest(t.last_received_at, t.recorded_at) < $1
                 AND coalesce(t.completed_at < $1 OR t.completed_at > now(), true)"
                also ", arrived AS (
                     DELETE FROM expected_executions AS x USING removed AS r WHERE x.execution_id = r.execution_id
                 ),
                 checked AS (
                     DELETE FROM reconcile_checks AS c USING removed AS r WHERE c.execution_id = r.execution_id
                 )"
            ),
            // Expired executions ($5) are removed with their payloads.
            RetentionTarget::Payloads => $then!(
                payloads "executions" "execution_id" "text" "first_received_at"
                "greatest(t.last_received_at, t.recorded_at) < $1 AND t.payload_removed_at IS NULL
                 AND coalesce(t.completed_at < $1 OR t.completed_at > now(), true)"
                walk " AND coalesce(greatest(t.last_received_at, t.recorded_at) >= $5
                     OR (t.completed_at >= $5 AND t.completed_at <= now()), $5 IS NULL)"
            ),
            RetentionTarget::Predictions => $then!(
                "predictions" "prediction_id" "text" "first_received_at"
                "greatest(t.last_received_at, t.recorded_at) < $1"
            ),
            RetentionTarget::PredictionPayloads => $then!(
                payloads "predictions" "prediction_id" "text" "first_received_at"
                "greatest(t.last_received_at, t.recorded_at) < $1 AND t.payload_removed_at IS NULL"
                walk " AND coalesce(greatest(t.last_received_at, t.recorded_at) >= $5, $5 IS NULL)"
            ),
            // A recorded execution has its own age. There is no EXISTS here, because PostgreSQL might read and hash all
            // executions for it.
            RetentionTarget::Expected => $then!(
                "expected_executions" "expected_id" "bigint" "registered_at"
                "t.registered_at < $1
                 AND (SELECT e.execution_id FROM executions AS e WHERE e.execution_id = t.execution_id LIMIT 1) IS NULL"
            ),
            // A bulk has expired if its latest delivery and all its executions have. It is removed after its executions. An
            // execution that is recorded at the same time does not find its bulk and inserts it again.
            RetentionTarget::Bulks => $then!(
                "bulks" "bulk_id" "text" "first_received_at"
                "coalesce(t.last_received_at, t.first_received_at) < $1"
                walk " AND (
                     SELECT e.execution_id FROM executions AS e
                     WHERE e.bulk_id = t.bulk_id
                         AND (greatest(e.last_received_at, e.recorded_at) >= $1
                             OR (e.completed_at >= $1 AND e.completed_at <= now()))
                     LIMIT 1
                 ) IS NULL"
                remove " AND NOT EXISTS (SELECT FROM executions AS e WHERE e.bulk_id = t.bulk_id)"
            ),
            RetentionTarget::Conflicts => $then!(
                "execution_conflicts" "conflict_id" "bigint" "first_received_at"
                "greatest(t.last_received_at, t.recorded_at) < $1"
            ),
            RetentionTarget::PredictionConflicts => $then!(
                "prediction_conflicts" "conflict_id" "bigint" "first_received_at"
                "greatest(t.last_received_at, t.recorded_at) < $1"
            ),
            RetentionTarget::Quarantine => $then!(
                "quarantine" "quarantine_id" "bigint" "first_received_at"
                "greatest(t.last_received_at, t.recorded_at) < $1 AND NOT t.acknowledged"
            ),
            RetentionTarget::QuarantineRetries => $then!(
                "quarantine_retries" "quarantine_id" "bigint" "retried_at" "t.retried_at < $1"
            ),
            RetentionTarget::Changes => $then!(changes),
        }
    };
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
            (changes) => {
                sqlx::query_file_as!(Visited, "src/db/retention/walk_changes.sql", id, limit, before)
                    .fetch_all(self).await
            };
            (payloads $($sql:tt)+) => { walk!($($sql)+, cutoffs.of(RetentionTarget::Executions)) };
            ($table:literal $key:literal $type:literal $time:literal $expired:literal
             $(walk $walk:literal)? $(remove $remove:literal)? $(also $also:literal)? $(, $further:expr)?) => {
                sqlx::query_as!(
                    Visited,
                    "SELECT t." + $key + r#"::text AS "id!", t."# + $time + r#" AS "first_received_at!",
                         "# + $expired $(+ $walk)? + r#" AS "due!"
                     FROM "# + $table + " AS t
                     WHERE (t." + $time + ", t." + $key + ") > ($2, $3::text::" + $type + ") AND t." + $time + " < $1
                     ORDER BY t." + $time + ", t." + $key + "
                     LIMIT $4",
                    before, at, id, limit $(, $further)?
                )
                .fetch_all(self).await
            };
        }
        Ok(with_sql!(target, walk!)?)
    }

    /// Removes the rows of `ids` that are still expired and not locked. Returns [`Visited::first_received_at`] of each removed
    /// row.
    pub(crate) async fn remove(
        &mut self,
        target: RetentionTarget,
        ids: &[String],
        cutoffs: &Cutoffs,
    ) -> Result<Vec<OffsetDateTime>, DbError> {
        let before = cutoffs.of(target);
        macro_rules! remove {
            (changes) => {
                sqlx::query_file_scalar!("src/db/retention/remove_changes.sql", before, ids).fetch_all(self).await
            };
            // The hashes stay, because resolve_duplicates.rs compares a later delivery with them.
            (payloads $table:literal $($sql:tt)+) => {
                remove!(@ $table $($sql)+, "UPDATE " + $table + " AS t
                     SET
                         payload_removed_at = now(),
                         output_sha256 = json_sha256(t.output),
                         payload_sha256 = CASE WHEN t.payload IS NULL THEN sha256(t.payload_bytes) END,
                         output = NULL,
                         payload = NULL,
                         payload_bytes = NULL
                     FROM due")
            };
            (@ $table:literal $key:literal $type:literal $time:literal $expired:literal
             $(walk $walk:literal)? $(remove $remove:literal)? $(also $also:literal)?, $($removal:tt)+) => {
                sqlx::query_scalar!(
                    "WITH due AS (
                         SELECT t." + $key + " FROM " + $table + " AS t
                         WHERE t." + $key + " = ANY ($2::text[]::" + $type + "[]) AND " + $expired $(+ $remove)? + "
                         FOR UPDATE SKIP LOCKED
                     ),
                     removed AS (
                         " + $($removal)+ + "
                         WHERE t." + $key + " = due." + $key + "
                         RETURNING t." + $key + ", t." + $time + "
                     )" $(+ $also)? + "
                     SELECT " + $time + r#" AS "first_received_at!" FROM removed"#,
                    before,
                    ids
                )
                .fetch_all(self).await
            };
            ($table:literal $($sql:tt)+) => {
                remove!(@ $table $($sql)+, "DELETE FROM " + $table + " AS t USING due")
            };
        }
        Ok(with_sql!(target, remove!)?)
    }
}
