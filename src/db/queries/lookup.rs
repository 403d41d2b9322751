//! Looks up an identifier of unknown kind.

use super::Query;
use crate::db::Transaction;

/// What an identifier belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Execution,
    Prediction,
    Bulk,
    Workflow,
    Nothing,
}

/// Looks up an identifier: an execution, else a prediction, else a bulk, else a workflow.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    pub(crate) id: String,
}

impl Query for Lookup {
    type Answer = Found;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Found, sqlx::Error> {
        let found = sqlx::query!(
            r#"SELECT
                   EXISTS (SELECT FROM executions WHERE execution_id = $1) AS "execution!",
                   EXISTS (SELECT FROM predictions WHERE prediction_id = $1) AS "prediction!",
                   EXISTS (SELECT FROM bulks WHERE bulk_id = $1) AS "bulk!",
                   EXISTS (SELECT FROM executions WHERE workflow_id = $1) AS "workflow!""#,
            self.id
        );
        let found = found.fetch_one(transaction).await?;
        Ok(match (found.execution, found.prediction, found.bulk, found.workflow) {
            (true, ..) => Found::Execution,
            (_, true, ..) => Found::Prediction,
            (_, _, true, _) => Found::Bulk,
            (.., true) => Found::Workflow,
            _ => Found::Nothing,
        })
    }
}

/// Reads the identifiers of executions that begin with `prefix`, in their order.
#[derive(Debug, Clone)]
pub(crate) struct ExecutionsWithPrefix {
    pub(crate) prefix: String,
    pub(crate) limit: i64,
}

impl Query for ExecutionsWithPrefix {
    type Answer = Vec<String>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<String>, sqlx::Error> {
        let ids = sqlx::query_scalar!(
            "SELECT execution_id FROM executions
             WHERE execution_id >= $1 AND execution_id < $1 || chr(1114111)
             ORDER BY execution_id
             LIMIT $2",
            self.prefix,
            self.limit
        );
        ids.fetch_all(transaction).await
    }
}
