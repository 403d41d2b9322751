//! Inserts executions and predictions that are not recorded yet, which is the common case.

use std::collections::HashSet;

use super::columns::{ExecutionArrays, PredictionArrays, with_execution_columns, with_prediction_columns};
use super::rounds::Group;
use crate::db::Transaction;
use crate::execution::Kind;

/// The rows are inserted in the order of the arrays, which is the order of the key: several receivers cannot
/// deadlock. `unnest` in the SELECT list keeps this order without a sort or a join. A sort or join would take a quarter of
/// the statement's time.
macro_rules! insert_new {
    (
        ($arrays:expr)
        $Arrays:ident $table:literal $id:literal $conflicts:literal $bulk:literal [$($compared:literal),*];
        $($column:ident $name:literal $sql:literal ($Element:ty) $element:expr;)*
        => $redeliveries:literal $reference:literal $max_conflicts:literal $max_bytes:literal
    ) => {
        sqlx::query_scalar!(
            "INSERT INTO " + $table + " (" + $id + ", deliveries, first_received_at, last_received_at"
                $(+ ", " + $name)*
                + ", redeliveries, reference"
                + r#")
SELECT
    unnest($1::text[]), unnest($2::integer[]), unnest($3::timestamptz[]), unnest($4::timestamptz[])"#
                $(+ ", " + $sql)*
                + ", unnest(" + $redeliveries + "::integer[]), unnest(" + $reference + "::text[])::jsonb
ON CONFLICT (" + $id + ") DO NOTHING
RETURNING " + $id,
            &$arrays.id as _,
            &$arrays.deliveries,
            &$arrays.first_received_at,
            &$arrays.last_received_at,
            $(&$arrays.$column as _,)*
            &$arrays.redeliveries,
            &$arrays.reference as _,
        )
    };
}

/// Inserts the rows of `round` that are not recorded yet, and returns their identifiers. All rows are of `kind`.
pub(super) async fn insert_new(
    transaction: &mut Transaction<'_>,
    kind: Kind,
    round: &[Group<'_>],
) -> Result<HashSet<String>, sqlx::Error> {
    let new = match kind {
        Kind::Workflow => {
            let arrays = ExecutionArrays::new(round);
            with_execution_columns!(insert_new!(arrays)).fetch_all(transaction).await?
        }
        Kind::Prediction => {
            let arrays = PredictionArrays::new(round);
            with_prediction_columns!(insert_new!(arrays)).fetch_all(transaction).await?
        }
    };
    Ok(new.into_iter().collect())
}
