//! The names of the tables of executions and predictions, for statements that exist for both tables.

/// Calls a macro with the names of a kind: the table, its key, the table of its conflicts, and the bulk of a row `r`.
macro_rules! for_kind {
    ($kind:expr, $then:ident! ($($argument:expr),*)) => {
        match $kind {
            Kind::Workflow => $then!("executions" "execution_id" "execution_conflicts" "r.bulk_id", $($argument),*),
            Kind::Prediction => {
                $then!("predictions" "prediction_id" "prediction_conflicts" "NULL::text", $($argument),*)
            }
        }
    };
}
pub(super) use for_kind;
