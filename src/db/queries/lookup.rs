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

/// The tables that are searched by the first characters of an identifier.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Table {
    Executions,
    Bulks,
}

/// Reads the identifiers in a table that begin with `prefix`, in their order.
#[derive(Debug, Clone)]
pub(crate) struct WithPrefix {
    pub(crate) table: Table,
    pub(crate) prefix: String,
    pub(crate) limit: i64,
}

impl Query for WithPrefix {
    type Answer = Vec<String>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<String>, sqlx::Error> {
        #[rustfmt::skip]
        macro_rules! with_prefix {
            ($table:literal $id:literal) => {
                sqlx::query_scalar!(
                    "SELECT " + $id + " FROM " + $table + "
                     WHERE " + $id + " >= $1 AND " + $id + " < $1 || chr(1114111) ORDER BY " + $id + " LIMIT $2",
                    self.prefix,
                    self.limit
                )
                .fetch_all(transaction)
                .await
            };
        }
        match self.table {
            Table::Executions => with_prefix!("executions" "execution_id"),
            Table::Bulks => with_prefix!("bulks" "bulk_id"),
        }
    }
}
