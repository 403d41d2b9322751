//! The lists of the columns of `executions` and `predictions` that a delivery fills. Macros make the arrays of a batch and
//! the statements from them.

use time::OffsetDateTime;

use super::item::ExecutionRow;
use super::rounds::Group;
use crate::auth::AuthMethod;
use crate::delivery::FetchSource;

/// Calls a macro with the list of `executions`. The first line has the name of the arrays, the table, its key, the table
/// of its conflicts, the recorded bulk, and the columns besides status and output that are part of the result. Each
/// further line consists of: the field of the arrays, the name of the column in SQL, the SQL expression that unnests the
/// parameter, the Rust type of an element, and a closure that reads the element from a row.
///
/// To add a column, append a line with the next parameter. Then increase the numbers in the last line: they are the
/// parameters that follow the columns (redeliveries, reference, and the limits of conflicts). If the column is part of an
/// execution's result, add it to the first line and to the table of conflicts, too. `$1` to `$4` are the first four arrays.
macro_rules! with_execution_columns {
    ($then:ident! $arguments:tt) => {
        $then! {
            $arguments
            ExecutionArrays "executions" "execution_id" "execution_conflicts" "e.bulk_id"
                ["workflow_id", "bulk_id", "error", "error_cause"];
            // The text in $5 is hashed by resolve_duplicates.rs.
            payload "payload" "unnest($5::text[])::jsonb" (Option<&'r str>) |row| row.payload;
            payload_bytes "payload_bytes" "unnest($6::bytea[])" (Option<&'r [u8]>) |row| row.payload_bytes;
            workflow_id "workflow_id" "unnest($7::text[])" (Option<&'r str>)
                |row| row.execution.workflow_id.as_deref();
            bulk_id "bulk_id" "unnest($8::text[])" (Option<&'r str>) |row| row.execution.bulk_id.as_deref();
            status "status" "unnest($9::text[])" (&'r str) |row| &row.execution.status;
            started_at "started_at" "unnest($10::timestamptz[])" (Option<OffsetDateTime>)
                |row| row.execution.started_at;
            completed_at "completed_at" "unnest($11::timestamptz[])" (Option<OffsetDateTime>)
                |row| row.execution.completed_at;
            output "output" "unnest($12::text[])::jsonb" (Option<&'r str>) |row| row.execution.output;
            error "error" "unnest($13::text[])" (Option<&'r str>) |row| row.execution.error.as_deref();
            error_cause "error_cause" "unnest($14::text[])" (Option<&'r str>)
                |row| row.execution.error_cause.as_deref();
            total_cost "total_cost" "unnest($15::text[])::numeric" (Option<&'r str>)
                |row| row.execution.total_cost;
            step_failed "step_failed" "unnest($16::boolean[])" (bool) |row| row.step_failed;
            authenticated_by "authenticated_by" "unnest($17::text[])" (Option<&'static str>)
                |row| row.delivery.authenticated_by.map(AuthMethod::as_str);
            fetched_from "fetched_from" "unnest($18::text[])" (Option<&'static str>)
                |row| row.delivery.fetched_from.map(FetchSource::as_str);
            => "$19" "$20" "$21" "$22"
        }
    };
}

/// Calls a macro with the list of `predictions`, in the form of [`with_execution_columns`].
macro_rules! with_prediction_columns {
    ($then:ident! $arguments:tt) => {
        $then! {
            $arguments
            PredictionArrays "predictions" "prediction_id" "prediction_conflicts" "NULL::text"
                ["workflow_id", "error", "error_cause"];
            payload "payload" "unnest($5::text[])::jsonb" (Option<&'r str>) |row| row.payload;
            payload_bytes "payload_bytes" "unnest($6::bytea[])" (Option<&'r [u8]>) |row| row.payload_bytes;
            workflow_id "workflow_id" "unnest($7::text[])" (Option<&'r str>)
                |row| row.execution.workflow_id.as_deref();
            status "status" "unnest($8::text[])" (&'r str) |row| &row.execution.status;
            output "output" "unnest($9::text[])::jsonb" (Option<&'r str>) |row| row.execution.output;
            error "error" "unnest($10::text[])" (Option<&'r str>) |row| row.execution.error.as_deref();
            error_cause "error_cause" "unnest($11::text[])" (Option<&'r str>)
                |row| row.execution.error_cause.as_deref();
            total_cost "total_cost" "unnest($12::text[])::numeric" (Option<&'r str>)
                |row| row.execution.total_cost;
            duration_seconds "duration_seconds" "unnest($13::float8[])" (Option<f64>)
                |row| row.execution.duration_seconds;
            authenticated_by "authenticated_by" "unnest($14::text[])" (Option<&'static str>)
                |row| row.delivery.authenticated_by.map(AuthMethod::as_str);
            fetched_from "fetched_from" "unnest($15::text[])" (Option<&'static str>)
                |row| row.delivery.fetched_from.map(FetchSource::as_str);
            => "$16" "$17" "$18" "$19"
        }
    };
}

macro_rules! define_column_arrays {
    (
        ()
        $Arrays:ident $table:literal $id:literal $conflicts:literal $bulk:literal [$($compared:literal),*];
        $($column:ident $name:literal $sql:literal ($Element:ty) $element:expr;)*
        => $redeliveries:literal $reference:literal $max_conflicts:literal $max_bytes:literal
    ) => {
        /// The rows of a round: an array for each column.
        #[derive(Default)]
        pub(super) struct $Arrays<'r> {
            pub(super) id: Vec<&'r str>,
            pub(super) deliveries: Vec<i32>,
            pub(super) first_received_at: Vec<OffsetDateTime>,
            pub(super) last_received_at: Vec<OffsetDateTime>,
            pub(super) redeliveries: Vec<i32>,
            pub(super) reference: Vec<Option<&'r str>>,
            $(pub(super) $column: Vec<$Element>,)*
        }

        impl<'r> $Arrays<'r> {
            pub(super) fn new(round: &'r [Group<'r>]) -> Self {
                let mut arrays = Self::default();
                for group in round {
                    arrays.id.push(&group.row.execution.execution_id);
                    arrays.deliveries.push(group.deliveries);
                    arrays.first_received_at.push(group.first_received_at);
                    arrays.last_received_at.push(group.last_received_at);
                    arrays.redeliveries.push(group.redeliveries);
                    arrays.reference.push(group.reference);
                    $(
                        let element: fn(&'r ExecutionRow<'r>) -> $Element = $element;
                        arrays.$column.push(element(group.row));
                    )*
                }
                arrays
            }
        }
    };
}

with_execution_columns!(define_column_arrays!());
with_prediction_columns!(define_column_arrays!());
pub(super) use {with_execution_columns, with_prediction_columns};
