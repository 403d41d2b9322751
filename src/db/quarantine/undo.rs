//! Undoes a retry: puts the rows back as they were before it, and the entry back into quarantine
//! (`migrations/0011_quarantine_retries.sql`).
//!
//! A retry stores the rows that it is about to change ([`Before`]) in its own transaction. An undo is refused if an
//! execution has received another delivery since then, or was removed.

use std::borrow::Cow;
use std::collections::HashMap;

use time::OffsetDateTime;

use crate::db::kinds::for_kind;
use crate::db::record::changes::{self, Change, ChangeType};
use crate::db::record::rollups::{CountedExecution, Rollups};
use crate::db::{DbConnection, DbError, Transaction};
use crate::delivery::Disposition;
use crate::execution::Kind;

/// The result of an undo.
#[derive(Debug)]
pub(crate) enum Undone {
    /// The entry is in quarantine again. These executions and predictions are as they were before the retry.
    Restored(Vec<String>),
    /// Nothing was changed, for this reason.
    Refused(String),
    /// No retry of the entry is stored.
    Absent,
}

/// A row of `executions` or `predictions`, locked or just restored.
struct CountedRow {
    id: String,
    deliveries: i32,
    workflow_id: Option<String>,
    bulk_id: Option<String>,
    status: String,
    total_cost: Option<String>,
    first_received_at: OffsetDateTime,
}

/// The rows of one kind before the retry.
struct TableBefore {
    /// Each row as JSON, by its key.
    rows: HashMap<String, String>,
    /// The conflicts, as a JSON array.
    conflicts: String,
}

/// An execution or prediction that a retry recorded.
struct Recorded {
    id: String,
    is_prediction: bool,
    disposition: String,
    deliveries: i32,
    /// The row before the retry, as JSON; `None` if there was none.
    previous: Option<String>,
}

/// A row of `quarantine_retries`.
struct StoredRetry {
    retried_at: OffsetDateTime,
    entry: String,
    execution_conflicts: String,
    prediction_conflicts: String,
}

/// Locks the rows of a kind, and reads them and their conflicts.
#[rustfmt::skip]
macro_rules! lock_before {
    ($table:literal $id:literal $conflicts:literal $bulk:literal, $transaction:expr, $ids:expr) => {{
        let rows = sqlx::query!(
            "SELECT r." + $id + r#" AS id, to_jsonb(r)::text AS "row!" FROM "# + $table + " AS r
             WHERE r." + $id + " = ANY ($1) ORDER BY r." + $id + " FOR UPDATE",
            $ids as _
        );
        let rows = rows.fetch_all(&mut *$transaction).await?;
        let conflicts = sqlx::query_scalar!(
            r#"SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]')::text AS "conflicts!" FROM "# + $conflicts + " AS c
             WHERE c." + $id + " = ANY ($1)",
            $ids as _
        );
        let conflicts = conflicts.fetch_one(&mut *$transaction).await?;
        TableBefore { rows: rows.into_iter().map(|row| (row.id, row.row)).collect(), conflicts }
    }};
}

#[rustfmt::skip]
macro_rules! deliveries_of {
    ($table:literal $id:literal $conflicts:literal $bulk:literal, $transaction:expr, $ids:expr) => {
        sqlx::query_scalar!(
            r#"SELECT r.deliveries AS "deliveries!" FROM unnest($1::text[]) WITH ORDINALITY AS i (id, n)
             INNER JOIN "# + $table + " AS r ON r." + $id + " = i.id ORDER BY i.n",
            $ids as _
        )
        .fetch_all(&mut *$transaction)
        .await?
    };
}

#[rustfmt::skip]
macro_rules! lock_current {
    ($table:literal $id:literal $conflicts:literal $bulk:literal, $transaction:expr, $ids:expr) => {
        sqlx::query_as!(
            CountedRow,
            "SELECT r." + $id + r#" AS id, r.deliveries, r.workflow_id AS "workflow_id?", "# + $bulk + " AS bulk_id,
                 r.status, r.total_cost::text AS total_cost, r.first_received_at
             FROM " + $table + " AS r WHERE r." + $id + " = ANY ($1) ORDER BY r." + $id + " FOR UPDATE",
            $ids as _
        )
        .fetch_all(&mut *$transaction)
        .await?
    };
}

/// Replaces rows. Returns the new ones.
#[rustfmt::skip]
macro_rules! restore_rows {
    ($table:literal $id:literal $conflicts:literal $bulk:literal, $transaction:expr, $ids:expr, $rows:expr) => {{
        let delete = sqlx::query!("DELETE FROM " + $table + " WHERE " + $id + " = ANY ($1)", $ids as _);
        delete.execute(&mut *$transaction).await?;
        sqlx::query_as!(
            CountedRow,
            "INSERT INTO " + $table + " AS r
             SELECT p.* FROM jsonb_populate_recordset(NULL::" + $table + ", $1::text::jsonb) AS p ORDER BY p." + $id + "
             RETURNING r." + $id + r#" AS id, r.deliveries, r.workflow_id AS "workflow_id?", "# + $bulk + " AS bulk_id,
                 r.status, r.total_cost::text AS total_cost, r.first_received_at",
            $rows
        )
        .fetch_all(&mut *$transaction)
        .await?
    }};
}

/// Deletes the conflicts that the retry stored or counted, and restores the counted ones as they were before. A conflict
/// that retention has removed stays removed.
#[rustfmt::skip]
macro_rules! restore_conflicts {
    ($table:literal $id:literal $conflicts:literal $bulk:literal, $transaction:expr, $ids:expr, $before:expr) => {{
        let deleted = sqlx::query_scalar!(
            "DELETE FROM " + $conflicts + " AS c
             WHERE c." + $id + " = ANY ($1) AND NOT EXISTS (
                 SELECT FROM jsonb_populate_recordset(NULL::" + $conflicts + ", $2::text::jsonb) AS p
                 WHERE p.conflict_id = c.conflict_id AND p.deliveries = c.deliveries
             )
             RETURNING c.conflict_id",
            $ids as _,
            $before
        );
        let deleted = deleted.fetch_all(&mut *$transaction).await?;
        let restore = sqlx::query!(
            "INSERT INTO " + $conflicts + " OVERRIDING SYSTEM VALUE
             SELECT p.* FROM jsonb_populate_recordset(NULL::" + $conflicts + ", $1::text::jsonb) AS p
             WHERE p.conflict_id = ANY ($2)",
            $before,
            &deleted
        );
        restore.execute(&mut *$transaction).await?;
    }};
}

/// The rows that a retry is about to change, locked.
pub(super) struct Before {
    executions: TableBefore,
    predictions: TableBefore,
    /// The bulks, as a JSON array.
    bulks: String,
}

impl Before {
    /// Locks the rows in the order of recording. `recorded` has the kind and the identifier of each item.
    pub(super) async fn lock(
        transaction: &mut Transaction<'_>,
        recorded: &[(Kind, String)],
    ) -> Result<Self, sqlx::Error> {
        Ok(Self {
            executions: Self::lock_table(transaction, Kind::Workflow, recorded).await?,
            predictions: Self::lock_table(transaction, Kind::Prediction, recorded).await?,
            bulks: "[]".to_owned(),
        })
    }

    /// Locks the bulks that `rollups` will change. They are locked after the executions.
    pub(super) async fn lock_bulks(
        &mut self,
        transaction: &mut Transaction<'_>,
        rollups: &Rollups<'_>,
    ) -> Result<(), sqlx::Error> {
        let bulk_ids = rollups.bulk_ids();
        if bulk_ids.is_empty() {
            return Ok(());
        }
        let bulks = sqlx::query_scalar!(
            r#"SELECT coalesce(jsonb_agg(to_jsonb(b)), '[]')::text AS "bulks!"
               FROM (SELECT * FROM bulks WHERE bulk_id = ANY ($1) ORDER BY bulk_id FOR UPDATE) AS b"#,
            &bulk_ids as _
        );
        self.bulks = bulks.fetch_one(transaction).await?;
        Ok(())
    }

    async fn lock_table(
        transaction: &mut Transaction<'_>,
        kind: Kind,
        recorded: &[(Kind, String)],
    ) -> Result<TableBefore, sqlx::Error> {
        let ids = ids_of(recorded, kind);
        if ids.is_empty() {
            return Ok(TableBefore { rows: HashMap::new(), conflicts: "[]".to_owned() });
        }
        Ok(for_kind!(kind, lock_before!(transaction, &ids)))
    }

    fn row(&self, kind: Kind, id: &str) -> Option<&str> {
        let table = if kind == Kind::Workflow { &self.executions } else { &self.predictions };
        table.rows.get(id).map(String::as_str)
    }

    /// Stores the retry of an entry. False if an execution was recorded between [`Self::lock`] and the retry: the caller
    /// then rolls back.
    pub(super) async fn store(
        &self,
        transaction: &mut Transaction<'_>,
        quarantine_id: i64,
        entry: &str,
        retried_by: &str,
        recorded: &[(Kind, String)],
        dispositions: &[Disposition],
    ) -> Result<bool, sqlx::Error> {
        let (mut ids, mut are_predictions) = (Vec::new(), Vec::new());
        let (mut names, mut deliveries, mut previous) = (Vec::new(), Vec::new(), Vec::new());
        for kind in [Kind::Workflow, Kind::Prediction] {
            let of_kind = ids_of(recorded, kind);
            if of_kind.is_empty() {
                continue;
            }
            deliveries.extend(for_kind!(kind, deliveries_of!(transaction, &of_kind)));
            for id in of_kind {
                let mut items = recorded.iter().zip(dispositions);
                let first = items.find(|((of, other), _)| *of == kind && other == id);
                let disposition = first.map_or(Disposition::New, |(_, disposition)| *disposition);
                let before = self.row(kind, id);
                if before.is_some() == (disposition == Disposition::New) {
                    return Ok(false);
                }
                ids.push(id);
                are_predictions.push(kind == Kind::Prediction);
                names.push(disposition.as_str());
                previous.push(before);
            }
        }
        sqlx::query!(
            "INSERT INTO quarantine_retries
                 (quarantine_id, entry, ids, are_predictions, dispositions, deliveries, previous, conflicts, retried_by,
                  bulks)
             VALUES ($1, $2::text::jsonb, $3, $4, $5, $6, $7::text[]::jsonb[],
                 jsonb_build_object('executions', $8::text::jsonb, 'predictions', $9::text::jsonb), $10, $11::text::jsonb)",
            quarantine_id,
            entry,
            &ids as _,
            &are_predictions,
            &names as _,
            &deliveries,
            &previous as _,
            self.executions.conflicts,
            self.predictions.conflicts,
            retried_by,
            self.bulks
        )
        .execute(transaction)
        .await?;
        Ok(true)
    }
}

/// The identifiers of one kind, each once, in the order of the key.
fn ids_of(recorded: &[(Kind, String)], kind: Kind) -> Vec<&str> {
    let mut ids: Vec<_> = recorded.iter().filter(|(of, _)| *of == kind).map(|(_, id)| &**id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

impl DbConnection {
    /// Undoes the retry of an entry, or changes nothing.
    pub(crate) async fn undo_retry(&mut self, quarantine_id: i64) -> Result<Undone, DbError> {
        let undone = self.retry_contention(quarantine_id, |db, id| Box::pin(db.try_undo(*id))).await?;
        Ok(undone.unwrap_or_else(|error| Undone::Refused(error.to_string())))
    }

    /// Locks rows in the order of recording, after the row of `quarantine_retries`: only another undo waits for that row.
    async fn try_undo(&mut self, quarantine_id: i64) -> Result<Undone, DbError> {
        let mut transaction = self.begin().await?;
        let retry = sqlx::query_as!(
            StoredRetry,
            r#"SELECT retried_at, entry::text AS "entry!", (conflicts -> 'executions')::text AS "execution_conflicts!",
                   (conflicts -> 'predictions')::text AS "prediction_conflicts!"
               FROM quarantine_retries WHERE quarantine_id = $1 FOR UPDATE"#,
            quarantine_id
        );
        let Some(retry) = retry.fetch_optional(&mut transaction).await? else { return Ok(Undone::Absent) };
        let recorded = sqlx::query_as!(
            Recorded,
            r#"SELECT u.id AS "id!", u.is_prediction AS "is_prediction!", u.disposition AS "disposition!",
                   u.deliveries AS "deliveries!", u.previous::text AS previous
               FROM quarantine_retries AS r
               CROSS JOIN LATERAL unnest(r.ids, r.are_predictions, r.dispositions, r.deliveries, r.previous)
                   AS u (id, is_prediction, disposition, deliveries, previous)
               WHERE r.quarantine_id = $1"#,
            quarantine_id
        );
        let recorded = recorded.fetch_all(&mut transaction).await?;
        let (mut rollups, mut undone) = (Rollups::default(), Vec::new());
        for kind in [Kind::Workflow, Kind::Prediction] {
            let conflicts =
                if kind == Kind::Workflow { &retry.execution_conflicts } else { &retry.prediction_conflicts };
            let recorded: Vec<_> =
                recorded.iter().filter(|row| row.is_prediction == (kind == Kind::Prediction)).collect();
            if recorded.is_empty() {
                continue;
            }
            match restore(&mut transaction, kind, &recorded, conflicts).await? {
                Ok((current, restored)) if kind == Kind::Workflow => {
                    count(&mut rollups, &mut undone, &recorded, current, restored);
                }
                Ok(_) => {}
                Err(why) => return Ok(Undone::Refused(why)),
            }
        }
        let ids: Vec<_> = recorded.into_iter().map(|row| row.id).collect();
        // Those of the expected executions that have not ended are missing again.
        sqlx::query!("UPDATE expected_executions SET settled = false WHERE execution_id = ANY ($1)", &ids)
            .execute(&mut transaction)
            .await?;
        changes::insert(&mut transaction, &undone).await?;
        rollups.apply(&mut transaction).await?;
        let bulks = rollups.bulk_ids();
        if !bulks.is_empty() {
            sqlx::query_file!(
                "src/db/quarantine/undo_bulks.sql",
                &bulks as _,
                retry.retried_at,
                quarantine_id
            )
            .execute(&mut transaction)
            .await?;
        }
        let restore = sqlx::query_file!("src/db/quarantine/restore_entry.sql", retry.entry);
        DbError::check_written("quarantine", &restore.execute(&mut transaction).await?, 1)?;
        sqlx::query!("DELETE FROM quarantine_retries WHERE quarantine_id = $1", quarantine_id)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(Undone::Restored(ids))
    }
}

/// Puts the rows of one kind back as they were before the retry. Returns the rows of the retry and the restored ones; or
/// why one of them has changed since then.
async fn restore(
    transaction: &mut Transaction<'_>,
    kind: Kind,
    recorded: &[&Recorded],
    conflicts: &str,
) -> Result<Result<(Vec<CountedRow>, Vec<CountedRow>), String>, sqlx::Error> {
    let ids: Vec<_> = recorded.iter().map(|row| &*row.id).collect();
    let current = for_kind!(kind, lock_current!(transaction, &ids));
    for row in recorded {
        match current.iter().find(|current| current.id == row.id) {
            None => return Ok(Err(format!("{} is not recorded any more: retention removed it", row.id))),
            Some(current) if current.deliveries != row.deliveries => {
                return Ok(Err(format!("{} has received another delivery since the retry", row.id)));
            }
            Some(_) => {}
        }
    }
    let previous: Vec<_> = recorded.iter().filter_map(|row| row.previous.as_deref()).collect();
    let previous = format!("[{}]", previous.join(","));
    let restored = for_kind!(kind, restore_rows!(transaction, &ids, previous));
    for_kind!(kind, restore_conflicts!(transaction, &ids, conflicts));
    Ok(Ok((current, restored)))
}

/// Adds the difference between both states to the rollups, and collects the changes for the change feed.
fn count(
    rollups: &mut Rollups<'static>,
    changes: &mut Vec<Change<'static>>,
    recorded: &[&Recorded],
    current: Vec<CountedRow>,
    restored: Vec<CountedRow>,
) {
    let mut restored: HashMap<_, _> = restored.into_iter().map(|row| (row.id.clone(), row)).collect();
    for row in current {
        let previous = restored.remove(&row.id);
        let disposition = recorded.iter().find(|recorded| recorded.id == row.id).map(|row| &*row.disposition);
        if disposition != Some(Disposition::Duplicate.as_str()) {
            changes.push(Change {
                kind: ChangeType::Undone,
                execution_id: row.id.clone().into(),
                workflow_id: row.workflow_id.clone().map(Cow::Owned),
                bulk_id: row.bulk_id.clone().map(Cow::Owned),
                status: previous.as_ref().map(|previous| previous.status.clone().into()),
            });
        }
        match previous {
            None => rollups.removed(row.counted()),
            Some(previous) if disposition == Some(Disposition::Replacement.as_str()) => {
                let at = previous.first_received_at;
                rollups.removed(row.counted());
                rollups.added(previous.counted(), at);
            }
            Some(previous) => rollups.recounted(row.counted(), previous.counted()),
        }
    }
}

impl CountedRow {
    fn counted(self) -> CountedExecution<'static> {
        CountedExecution {
            workflow_id: Cow::Owned(self.workflow_id.unwrap_or_default()),
            bulk_id: self.bulk_id.map(Cow::Owned),
            status: Cow::Owned(self.status),
            total_cost: self.total_cost.map(Cow::Owned),
            first_received_at: self.first_received_at,
        }
    }
}
