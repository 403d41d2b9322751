//! Inserts executions that are not recorded yet, which is the common case.

use std::collections::HashSet;

use super::columns::{ColumnArrays, with_columns};
use super::rounds::Group;
use crate::db::Transaction;

/// The rows are inserted in the order of the arrays, which is the order of `execution_id`: several receivers cannot
/// deadlock. `unnest` in the SELECT list keeps this order without a sort or a join. A sort or join would take a quarter of
/// the statement's time.
macro_rules! insert_new {
    (
        ($arrays:expr)
        $($column:ident $name:literal $sql:literal ($Element:ty) $element:expr;)*
        => $redeliveries:literal $reference:literal $max_conflicts:literal $max_bytes:literal
    ) => {
        sqlx::query_scalar!(
            "INSERT INTO executions (execution_id, deliveries, first_received_at, last_received_at"
                $(+ ", " + $name)*
                + ", redeliveries, reference"
                + r#")
SELECT
    unnest($1::text[]), unnest($2::integer[]), unnest($3::timestamptz[]), unnest($4::timestamptz[])"#
                $(+ ", " + $sql)*
                + ", unnest(" + $redeliveries + "::integer[]), unnest(" + $reference + r#"::text[])::jsonb
ON CONFLICT (execution_id) DO NOTHING
RETURNING execution_id"#,
            &$arrays.execution_id as _,
            &$arrays.deliveries,
            &$arrays.first_received_at,
            &$arrays.last_received_at,
            $(&$arrays.$column as _,)*
            &$arrays.redeliveries,
            &$arrays.reference as _,
        )
    };
}

/// Returns the identifiers of the executions that were not recorded before.
pub(super) async fn insert_new(
    transaction: &mut Transaction<'_>,
    round: &[Group<'_>],
) -> Result<HashSet<String>, sqlx::Error> {
    let arrays = ColumnArrays::new(round);
    let new = with_columns!(insert_new!(arrays)).fetch_all(transaction).await?;
    Ok(new.into_iter().collect())
}
