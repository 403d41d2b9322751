//! Numbers the committed changes: see `migrations/0004_changes.sql`.

use time::OffsetDateTime;

use super::{DbConnection, DbError};

/// Maximum batches of one transaction.
const MAX_BATCHES: i64 = 1_000;

/// The result of [`Numbering::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbered {
    /// Every batch that was committed before the call has a number.
    All,
    /// There may be more batches to number: the limit was reached.
    MaybeMore,
    /// Another session has the lock: usually another receiver, which numbers the batches.
    Locked,
}

/// Finds and numbers batches without a number.
///
/// The index of such batches contains an entry of each numbered batch until vacuum removes it. During a long transaction,
/// such as a backup, vacuum removes nothing. `floor` excludes these entries.
#[derive(Debug, Default)]
pub(crate) struct Numbering {
    /// When PostgreSQL was started. Another time means another server, which may not have the latest changes of the previous one:
    /// a standby after a failover. Its `batch_id`s may continue above `floor`.
    started_at: Option<OffsetDateTime>,
    /// All batches up to this `batch_id` are numbered or rolled back.
    floor: i64,
    /// The next `floor`, once all transactions with lower ids than the second value have ended.
    next_floor: Option<(i64, i64)>,
}

impl Numbering {
    /// Whether a committed batch has no number.
    pub(crate) async fn is_due(&self, connection: &mut DbConnection) -> Result<bool, DbError> {
        let due = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM change_batches WHERE last_change IS NULL AND batch_id > $1)
                   OR coalesce((SELECT max(batch_id) FROM change_batches), 0) < $1
                   OR pg_postmaster_start_time() IS DISTINCT FROM $2 AS "due!""#,
            self.floor,
            self.started_at
        );
        connection.transact(async |transaction| due.fetch_one(transaction).await).await
    }

    /// Numbers committed batches in the order of `batch_id`.
    pub(crate) async fn run(&mut self, connection: &mut DbConnection) -> Result<Numbered, DbError> {
        // Each statement has a snapshot of its own: the second one sees all numbers of the previous holder of the lock.
        let mut transaction = connection.begin().await?;
        let lock = sqlx::query_scalar!(
            r#"SELECT pg_try_advisory_xact_lock(hashtextextended('workflow-receiver changes', 0)) AS "locked!""#
        );
        if !lock.fetch_one(&mut transaction).await? {
            transaction.rollback().await?;
            return Ok(Numbered::Locked);
        }
        let server = sqlx::query!(
            r#"SELECT
                   pg_postmaster_start_time() AS "started_at!",
                   (SELECT coalesce(max(batch_id), 0) FROM change_batches) AS "last_batch!""#
        );
        let server = server.fetch_one(&mut transaction).await?;
        let started_at = Some(server.started_at);
        if started_at != self.started_at || server.last_batch < self.floor {
            // `floor` is a number of another server, or of a database that was replaced.
            *self = Self { started_at, ..Self::default() };
        }
        let numbered = sqlx::query!(
            r#"WITH unnumbered AS (
                   SELECT batch_id, size FROM change_batches
                   WHERE last_change IS NULL AND batch_id > $1 ORDER BY batch_id LIMIT $2
               ),
               numbered AS (
                   SELECT batch_id, last + sum(size) OVER (ORDER BY batch_id) AS last_change
                   FROM unnumbered
                   CROSS JOIN (SELECT coalesce(max(last_change), 0) AS last FROM change_batches) AS previous
               ),
               updated AS (
                   UPDATE change_batches AS b SET last_change = n.last_change
                   FROM numbered AS n
                   WHERE b.batch_id = n.batch_id
                   RETURNING b.batch_id
               )
               SELECT
                   count(*) AS "batches!",
                   (SELECT count(*) FROM unnumbered) AS "unnumbered!",
                   max(batch_id) AS last_batch,
                   pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS "oldest_transaction!",
                   pg_current_xact_id_if_assigned()::text::bigint AS transaction
               FROM updated"#,
            self.floor,
            MAX_BATCHES
        );
        let numbered = numbered.fetch_one(&mut transaction).await?;
        if numbered.batches < numbered.unnumbered {
            return Err(DbError::suppressed("change_batches"));
        }
        transaction.commit().await?;
        let (Some(last_batch), Some(id)) = (numbered.last_batch, numbered.transaction) else {
            return Ok(Numbered::All);
        };
        // All transactions with a lower id have ended, so this transaction has seen every batch up to the new floor. It has
        // numbered all of them, because it numbers in the order of batch_id.
        let is_reached =
            |next: &mut (i64, i64)| numbered.oldest_transaction >= next.1 && last_batch >= next.0;
        if let Some((floor, _)) = self.next_floor.take_if(is_reached) {
            self.floor = floor;
        }
        // A transaction that records gets its id with its first write, before it inserts a batch. So every transaction with a
        // batch_id up to `last_batch` has a lower id than `id`.
        self.next_floor.get_or_insert((last_batch, id));
        Ok(if numbered.batches == MAX_BATCHES { Numbered::MaybeMore } else { Numbered::All })
    }
}
