//! Fills in the columns of degraded executions.

use std::borrow::Cow;

use time::OffsetDateTime;

use super::record::item::Storable;
use super::record::rollups::{CountedExecution, Rollups};
use super::{DbConnection, DbError};
use crate::execution::Execution;

/// The result for an execution with `payload_bytes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Repaired {
    Filled,
    /// No column is missing, or jsonb cannot hold it.
    Unchanged,
    /// PostgreSQL still rejects a column, with this error.
    Refused(String),
}

impl DbConnection {
    /// The next identifiers after `after` of executions with `payload_bytes`, in order.
    pub(crate) async fn with_payload_bytes(
        &mut self,
        after: &str,
        limit: i64,
    ) -> Result<Vec<String>, DbError> {
        let ids = sqlx::query_scalar!(
            "SELECT execution_id FROM executions
             WHERE payload_bytes IS NOT NULL AND execution_id > $1 ORDER BY execution_id LIMIT $2",
            after,
            limit
        );
        self.transact(async |transaction| ids.fetch_all(transaction).await).await
    }

    /// Fills in `payload`, `output` and `total_cost` from `payload_bytes`, and adds the cost to its day. A second call
    /// changes nothing. `None` when there is no such execution with `payload_bytes`.
    pub(crate) async fn repair(&mut self, execution_id: &str) -> Result<Option<Repaired>, DbError> {
        let repaired =
            self.retry_contention(async |connection| connection.fill_in(execution_id).await).await?;
        Ok(repaired.unwrap_or_else(|error| Some(Repaired::Refused(error.to_string()))))
    }

    async fn fill_in(&mut self, execution_id: &str) -> Result<Option<Repaired>, DbError> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query!(
            r#"SELECT workflow_id, status, total_cost::text AS total_cost, first_received_at,
                      payload IS NOT NULL AS "has_payload!", output IS NOT NULL AS "has_output!",
                      payload_bytes AS "bytes!"
               FROM executions WHERE execution_id = $1 AND payload_bytes IS NOT NULL FOR UPDATE"#,
            execution_id
        );
        let Some(row) = row.fetch_optional(&mut transaction).await? else { return Ok(None) };
        // A body that was recorded with a mapping (`quarantine retry --map`) does not match the columns.
        let parsed = Execution::parse(&row.bytes).ok().filter(|parsed| parsed.execution_id == execution_id);
        let parsed = parsed.filter(|parsed| parsed.status == row.status);
        // payload_bytes stays unless the payload is the whole body.
        let Storable { payload, is_whole, output, total_cost } = Storable::of(&row.bytes, parsed.as_ref());
        let payload = payload.filter(|_| !row.has_payload);
        let output = output.filter(|_| !row.has_output);
        let cost = total_cost.filter(|_| row.total_cost.is_none());
        if payload.is_none() && output.is_none() && cost.is_none() && !is_whole {
            return Ok(Some(Repaired::Unchanged));
        }
        sqlx::query!(
            "UPDATE executions SET
                 payload = coalesce($2::text::jsonb, payload),
                 output = coalesce($3::text::jsonb, output),
                 total_cost = coalesce($4::text::numeric, total_cost),
                 payload_bytes = CASE WHEN NOT $5 THEN payload_bytes END
             WHERE execution_id = $1",
            execution_id,
            payload,
            output,
            cost,
            is_whole
        )
        .execute(&mut transaction)
        .await?;
        if let Some(cost) = cost {
            let mut rollups = Rollups::default();
            let counted = |total_cost| CountedExecution {
                workflow_id: Cow::Borrowed(&*row.workflow_id),
                bulk_id: None,
                status: Cow::Borrowed(&*row.status),
                total_cost,
                first_received_at: row.first_received_at,
            };
            rollups.replaced(counted(None), counted(Some(Cow::Borrowed(cost))), OffsetDateTime::now_utc());
            rollups.apply(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(Some(Repaired::Filled))
    }
}
