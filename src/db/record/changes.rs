//! Adds the changes of a transaction to the change feed (`migrations/0004_changes.sql`).

use std::borrow::Cow;

use strum::IntoStaticStr;

use super::item::RecordItem;
use crate::db::{DbError, Transaction};
use crate::delivery::Disposition;
use crate::execution::Kind;
use crate::execution::status::is_terminal;

/// Maximum changes in one row of `change_batches`. Readers unpack whole rows.
const MAX_CHANGES: usize = 500;

/// A change of an execution.
#[derive(Clone, Copy, IntoStaticStr)]
pub(in crate::db) enum ChangeType {
    #[strum(serialize = "execution.updated")]
    Updated,
    #[strum(serialize = "execution.ended")]
    Ended,
    #[strum(serialize = "execution.conflict")]
    Conflict,
    #[strum(serialize = "execution.undone")]
    Undone,
}

/// A change for the change feed.
pub(in crate::db) struct Change<'r> {
    pub(in crate::db) kind: ChangeType,
    pub(in crate::db) execution_id: Cow<'r, str>,
    pub(in crate::db) workflow_id: Option<Cow<'r, str>>,
    pub(in crate::db) bulk_id: Option<Cow<'r, str>>,
    /// The status that is recorded now; `None` if the execution is not recorded any more.
    pub(in crate::db) status: Option<Cow<'r, str>>,
}

impl ChangeType {
    fn of(disposition: Disposition, status: &str) -> Self {
        match disposition {
            Disposition::Conflict => Self::Conflict,
            _ if is_terminal(status) => Self::Ended,
            _ => Self::Updated,
        }
    }
}

/// Inserts the changes of executions of workflows. The caller has locked the rows of the executions, so the
/// changes of each execution are numbered in the order of the commits (`migrations/0004_changes.sql`).
pub(super) async fn insert_changes(
    transaction: &mut Transaction<'_>,
    items: &[RecordItem<'_>],
    dispositions: &[Disposition],
) -> Result<(), DbError> {
    let changes = items.iter().zip(dispositions).filter_map(|(item, disposition)| {
        let execution = item.execution().filter(|execution| execution.kind == Kind::Workflow)?;
        disposition.is_change().then(|| Change {
            kind: ChangeType::of(*disposition, &execution.status),
            execution_id: Cow::Borrowed(&execution.execution_id),
            workflow_id: execution.workflow_id.as_deref().map(Cow::Borrowed),
            bulk_id: execution.bulk_id.as_deref().map(Cow::Borrowed),
            status: Some(Cow::Borrowed(&execution.status)),
        })
    });
    insert(transaction, &changes.collect::<Vec<_>>()).await
}

/// The caller has locked the rows of the executions.
pub(in crate::db) async fn insert(
    transaction: &mut Transaction<'_>,
    changes: &[Change<'_>],
) -> Result<(), DbError> {
    for changes in changes.chunks(MAX_CHANGES) {
        let types: Vec<&str> = changes.iter().map(|change| change.kind.into()).collect();
        let executions: Vec<&str> = changes.iter().map(|change| &*change.execution_id).collect();
        let workflows: Vec<_> = changes.iter().map(|change| change.workflow_id.as_deref()).collect();
        let bulks: Vec<_> = changes.iter().map(|change| change.bulk_id.as_deref()).collect();
        let statuses: Vec<_> = changes.iter().map(|change| change.status.as_deref()).collect();
        let written = sqlx::query!(
            "INSERT INTO change_batches (size, types, execution_ids, workflow_ids, bulk_ids, statuses)
             VALUES (cardinality($1::text[]), $1, $2, $3, $4, $5)",
            &types as _,
            &executions as _,
            &workflows as _,
            &bulks as _,
            &statuses as _
        )
        .execute(&mut *transaction)
        .await?;
        DbError::check_written("change_batches", &written, 1)?;
    }
    Ok(())
}
