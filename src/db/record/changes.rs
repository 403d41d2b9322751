//! Adds the changes of a transaction to the change feed (`migrations/0004_changes.sql`).

use strum::IntoStaticStr;

use super::item::RecordItem;
use crate::db::Transaction;
use crate::delivery::Disposition;
use crate::execution::Kind;
use crate::execution::status::is_terminal;

/// Maximum changes of a row. Readers unpack whole rows.
const MAX_ROW: usize = 500;

/// A change of an execution.
#[derive(Clone, Copy, IntoStaticStr)]
enum ChangeType {
    #[strum(serialize = "execution.updated")]
    Updated,
    #[strum(serialize = "execution.ended")]
    Ended,
    #[strum(serialize = "execution.conflict")]
    Conflict,
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

/// Inserts the changes of executions of workflows, after the rows of the executions are locked: see the migration.
pub(super) async fn insert_changes(
    transaction: &mut Transaction<'_>,
    items: &[RecordItem<'_>],
    dispositions: &[Disposition],
) -> Result<(), sqlx::Error> {
    let changes = items.iter().zip(dispositions).filter_map(|(item, disposition)| {
        let execution = item.execution().filter(|execution| execution.kind == Kind::Workflow)?;
        let change = ChangeType::of(*disposition, &execution.status);
        disposition.is_change().then_some((change, execution))
    });
    let changes: Vec<_> = changes.collect();
    for changes in changes.chunks(MAX_ROW) {
        let types: Vec<&str> = changes.iter().map(|(kind, _)| (*kind).into()).collect();
        let executions: Vec<&str> = changes.iter().map(|(_, execution)| &*execution.execution_id).collect();
        let workflows: Vec<_> =
            changes.iter().map(|(_, execution)| execution.workflow_id.as_deref()).collect();
        let bulks: Vec<_> = changes.iter().map(|(_, execution)| execution.bulk_id.as_deref()).collect();
        let statuses: Vec<&str> = changes.iter().map(|(_, execution)| &*execution.status).collect();
        sqlx::query!(
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
    }
    Ok(())
}
