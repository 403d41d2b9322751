//! Registers the responses of trigger and bulk-trigger, and follows the expected executions
//! (`migrations/0007_expected.sql`).

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{DbConnection, DbError};
use crate::trigger::Triggered;

/// Maximum rows of one [`DbConnection::settle_expected`].
const MAX_SETTLED: i64 = 1_000;

/// A registered response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Registered {
    /// The bulk; null for a single trigger.
    pub(crate) bulk_id: Option<String>,
    /// How many executions will send a webhook.
    pub(crate) expected: usize,
    /// How many inputs were rejected. They have no execution.
    pub(crate) rejected: usize,
    /// False if the same response was already registered. Then only a size that was set by hand is replaced.
    pub(crate) is_new: bool,
}

/// The response contradicts a registered one. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegistrationConflict {
    #[error(
        "another response is registered for this bulk or for one of its executions, or the same response with another \
         workflow or other references. A bulk has one response of bulk-trigger"
    )]
    OtherResponse,
    #[error(
        "the execution is registered differently: as part of a bulk, with another workflow, with another reference or without one"
    )]
    OtherExecution,
}

impl DbConnection {
    /// Registers a response, sets the expected number of its bulk, and completes the bulk if all its executions have
    /// ended. A repeated call only replaces a size that was set by hand. Executions become overdue after `overdue_after`.
    pub(crate) async fn register(
        &mut self,
        triggered: &Triggered,
        overdue_after: Duration,
    ) -> Result<Result<Registered, RegistrationConflict>, DbError> {
        let registered = self
            .retry_contention((triggered, overdue_after), |db, (triggered, overdue_after)| {
                Box::pin(db.try_register(triggered, *overdue_after))
            });
        let registered = registered.await??;
        if registered.is_ok() {
            // For executions that were recorded before.
            self.settle_expected().await?;
        }
        Ok(registered)
    }

    async fn try_register(
        &mut self,
        triggered: &Triggered,
        overdue_after: Duration,
    ) -> Result<Result<Registered, RegistrationConflict>, DbError> {
        let Triggered { bulk_id, workflow_id, inputs } = triggered;
        let bulk_id = bulk_id.as_deref();
        let executions: Vec<_> = inputs.iter().map(|input| input.execution_id.as_deref()).collect();
        let messages: Vec<_> = inputs.iter().map(|input| input.message.as_deref()).collect();
        let references: Vec<_> = inputs.iter().map(|input| input.reference.as_deref()).collect();
        let mut transaction = self.begin().await?;
        // Lists show the newest row first. The last input is inserted first, so that a list shows the inputs of a bulk in
        // their order.
        let inserted = sqlx::query!(
            "INSERT INTO expected_executions
                 (execution_id, workflow_id, bulk_id, position, message, reference, due_at)
             SELECT i.execution_id, $5, $4, i.position, i.message, i.reference::jsonb, now() + make_interval(secs => $6)
             FROM unnest($1::text[], $2::text[], $3::text[])
                 WITH ORDINALITY AS i (execution_id, message, reference, position)
             ORDER BY i.position DESC
             ON CONFLICT DO NOTHING",
            &executions as _,
            &messages as _,
            &references as _,
            bulk_id,
            workflow_id.as_deref(),
            overdue_after.as_secs_f64()
        );
        let inserted = inserted.execute(&mut transaction).await?.rows_affected();
        let is_new = inserted == inputs.len() as u64;
        if !is_new {
            // A reference or a workflow that is left out does not contradict the registered one. Neither is added later.
            let same = sqlx::query_scalar!(
                r#"SELECT
                       count(x.expected_id) = count(*)
                       AND ($4::text IS NULL
                           OR count(*) = (SELECT count(*) FROM expected_executions WHERE bulk_id = $4)) AS "same!"
                   FROM unnest($1::text[], $2::text[], $3::text[])
                       WITH ORDINALITY AS i (execution_id, message, reference, position)
                   LEFT JOIN expected_executions AS x
                       ON (x.bulk_id = $4 OR x.execution_id = i.execution_id)
                           AND x.bulk_id IS NOT DISTINCT FROM $4
                           AND x.execution_id IS NOT DISTINCT FROM i.execution_id
                           AND x.position = i.position
                           AND (i.reference IS NULL OR x.reference = i.reference::jsonb)
                           AND coalesce(x.workflow_id = $5, true)"#,
                &executions as _,
                &messages as _,
                &references as _,
                bulk_id,
                workflow_id.as_deref()
            );
            if inserted > 0 || !same.fetch_one(&mut transaction).await? {
                transaction.rollback().await?;
                return Ok(Err(match bulk_id {
                    Some(_) => RegistrationConflict::OtherResponse,
                    None => RegistrationConflict::OtherExecution,
                }));
            }
        }
        let rejected = triggered.rejected();
        let expected = inputs.len() - rejected;
        if let Some(bulk_id) = bulk_id {
            // The trigger `complete_bulk` runs for updates only.
            sqlx::query!("INSERT INTO bulks (bulk_id) VALUES ($1) ON CONFLICT DO NOTHING", bulk_id)
                .execute(&mut transaction)
                .await?;
            sqlx::query!(
                "UPDATE bulks
                 SET expected = $2, rejected = $3, first_received_at = least(first_received_at, now())
                 WHERE bulk_id = $1 AND (expected, rejected) IS DISTINCT FROM ($2, $3)",
                bulk_id,
                i32::try_from(expected).unwrap_or(i32::MAX),
                i32::try_from(rejected).unwrap_or(i32::MAX)
            )
            .execute(&mut transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(Ok(Registered { bulk_id: bulk_id.map(str::to_owned), expected, rejected, is_new }))
    }

    /// Whether an expected execution is not settled.
    pub(crate) async fn has_unsettled(&mut self) -> Result<bool, DbError> {
        let exists = sqlx::query_scalar!(
            r#"SELECT EXISTS (
                   SELECT FROM expected_executions WHERE NOT settled AND execution_id IS NOT NULL
               ) AS "exists!""#
        );
        self.transact(async |transaction| exists.fetch_one(transaction).await).await
    }

    /// Copies references to recorded executions that have none, and settles expected executions that have ended. Returns
    /// true if there may be more of them.
    pub(crate) async fn settle_expected(&mut self) -> Result<bool, DbError> {
        let copied = sqlx::query_file!("src/db/expected/copy_references.sql", MAX_SETTLED);
        let copied = self.transact(async |transaction| copied.execute(transaction).await).await?;
        let settled = sqlx::query_file!("src/db/expected/settle.sql", MAX_SETTLED);
        let settled = self.transact(async |transaction| settled.execute(transaction).await).await?;
        let most = MAX_SETTLED.unsigned_abs();
        Ok(copied.rows_affected() == most || settled.rows_affected() == most)
    }

    /// How many expected executions are overdue.
    pub(crate) async fn count_overdue(&mut self) -> Result<i64, DbError> {
        let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM overdue_executions"#);
        self.transact(async |transaction| count.fetch_one(transaction).await).await
    }
}
