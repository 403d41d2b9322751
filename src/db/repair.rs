//! Fills in the columns of degraded executions and predictions.

use std::borrow::Cow;

use time::OffsetDateTime;

use super::kinds::for_kind;
use super::record::item::Storable;
use super::record::rollups::{CountedExecution, Rollups};
use super::{DbConnection, DbError};
use crate::execution::{Execution, Kind};

/// The result for a row with `payload_bytes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Repaired {
    Filled,
    /// No column is missing, or jsonb cannot hold the missing ones.
    Unchanged,
    /// PostgreSQL still rejects a column, with this error.
    Refused(String),
}

/// A row with `payload_bytes`, locked.
struct DegradedRow {
    /// `None` only for a prediction.
    workflow_id: Option<String>,
    status: String,
    total_cost: Option<String>,
    first_received_at: OffsetDateTime,
    has_payload: bool,
    has_output: bool,
    bytes: Vec<u8>,
}

#[rustfmt::skip]
macro_rules! lock_row {
    ($table:literal $id:literal $conflicts:literal $bulk:literal, $transaction:expr, $value:expr) => {
        sqlx::query_as!(
            DegradedRow,
            r#"SELECT workflow_id AS "workflow_id?", status, total_cost::text AS total_cost, first_received_at,
                   payload IS NOT NULL AS "has_payload!", output IS NOT NULL AS "has_output!",
                   payload_bytes AS "bytes!"
               FROM "# + $table + " WHERE " + $id + " = $1 AND payload_bytes IS NOT NULL FOR UPDATE",
            $value
        )
        .fetch_optional(&mut $transaction)
        .await?
    };
}

#[rustfmt::skip]
macro_rules! fill_columns {
    ($table:literal $id:literal $conflicts:literal $bulk:literal, $transaction:expr, $value:expr, $payload:expr,
     $output:expr, $cost:expr, $is_whole:expr) => {
        sqlx::query!(
            "UPDATE " + $table + " SET
                 payload = coalesce($2::text::jsonb, payload),
                 output = coalesce($3::text::jsonb, output),
                 total_cost = coalesce($4::text::numeric, total_cost),
                 payload_bytes = CASE WHEN NOT $5 THEN payload_bytes END
             WHERE " + $id + " = $1",
            $value,
            $payload,
            $output,
            $cost,
            $is_whole
        )
        .execute(&mut $transaction)
        .await?
    };
}

impl DbConnection {
    /// The identifiers of all rows with `payload_bytes`: executions first, in order.
    pub(crate) async fn with_payload_bytes(&mut self) -> Result<Vec<(Kind, String)>, DbError> {
        let rows = sqlx::query!(
            r#"SELECT execution_id AS "id!", false AS "is_prediction!" FROM executions WHERE payload_bytes IS NOT NULL
               UNION ALL
               SELECT prediction_id, true FROM predictions WHERE payload_bytes IS NOT NULL
               ORDER BY 2, 1"#
        );
        let rows = self.transact(async |transaction| rows.fetch_all(transaction).await).await?;
        let kind = |is_prediction| if is_prediction { Kind::Prediction } else { Kind::Workflow };
        Ok(rows.into_iter().map(|row| (kind(row.is_prediction), row.id)).collect())
    }

    /// Fills in `payload`, `output` and `total_cost` from `payload_bytes`, and adds the cost of an execution to its day. A
    /// second call changes nothing. `None` when there is no such row with `payload_bytes`.
    pub(crate) async fn repair(&mut self, kind: Kind, id: &str) -> Result<Option<Repaired>, DbError> {
        let repaired =
            self.retry_contention((kind, id), |db, (kind, id)| Box::pin(db.fill_in(*kind, id))).await?;
        Ok(repaired.unwrap_or_else(|error| Some(Repaired::Refused(error.to_string()))))
    }

    async fn fill_in(&mut self, kind: Kind, id: &str) -> Result<Option<Repaired>, DbError> {
        let mut transaction = self.begin().await?;
        let Some(row) = for_kind!(kind, lock_row!(transaction, id)) else { return Ok(None) };
        // A body that was recorded with a mapping (`quarantine retry --map`) does not match the columns.
        let parsed = Execution::parse(&row.bytes).ok().filter(|parsed| parsed.kind == kind);
        let parsed = parsed.filter(|parsed| parsed.execution_id == id && parsed.status == row.status);
        // payload_bytes stays unless the payload is the whole body.
        let Storable { payload, is_whole, output, total_cost } = Storable::of(&row.bytes, parsed.as_ref());
        let payload = payload.filter(|_| !row.has_payload);
        let output = output.filter(|_| !row.has_output);
        let cost = total_cost.filter(|_| row.total_cost.is_none());
        if payload.is_none() && output.is_none() && cost.is_none() && !is_whole {
            return Ok(Some(Repaired::Unchanged));
        }
        for_kind!(kind, fill_columns!(transaction, id, payload, output, cost, is_whole));
        if let (Kind::Workflow, Some(cost)) = (kind, cost) {
            let mut rollups = Rollups::default();
            let counted = |total_cost| CountedExecution {
                workflow_id: Cow::Borrowed(row.workflow_id.as_deref().unwrap_or_default()),
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
