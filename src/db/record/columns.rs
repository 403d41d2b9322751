//! The list of the columns of `executions` that a delivery fills. Macros make the arrays of a batch and the statements from
//! it.

use time::OffsetDateTime;

use super::item::ExecutionRow;
use super::rounds::Group;
use crate::auth::AuthMethod;
use crate::delivery::RepairSource;

/// Calls a macro with the list. A line consists of: the field in [`ColumnArrays`], the name of the column in SQL, the SQL
/// expression that unnests the parameter, the Rust type of an element, and a closure that reads the element from a row.
///
/// To add a column, append a line with the next parameter. Then increase the numbers in the last line: they are the
/// parameters that follow the columns (redeliveries, reference, and the limits of conflicts). If the column is part of an execution's result,
/// compare it in `resolve_duplicates.rs`, too. `$1` to `$4` are the first four arrays of [`ColumnArrays`].
macro_rules! with_columns {
    ($then:ident! $arguments:tt) => {
        $then! {
            $arguments
            // The text in $5 is hashed by resolve_duplicates.rs.
            payload "payload" "unnest($5::text[])::jsonb" (Option<&'r str>) |row| row.payload;
            payload_bytes "payload_bytes" "unnest($6::bytea[])" (Option<&'r [u8]>) |row| row.payload_bytes;
            workflow_id "workflow_id" "unnest($7::text[])" (&'r str) |row| &row.execution.workflow_id;
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
            repaired_from "repaired_from" "unnest($18::text[])" (Option<&'static str>)
                |row| row.delivery.repaired_from.map(RepairSource::as_str);
            => "$19" "$20" "$21" "$22"
        }
    };
}

macro_rules! define_column_arrays {
    (
        ()
        $($column:ident $name:literal $sql:literal ($Element:ty) $element:expr;)*
        => $redeliveries:literal $reference:literal $max_conflicts:literal $max_bytes:literal
    ) => {
        /// The rows of a round: an array for each column.
        #[derive(Default)]
        pub(super) struct ColumnArrays<'r> {
            pub(super) execution_id: Vec<&'r str>,
            pub(super) deliveries: Vec<i32>,
            pub(super) first_received_at: Vec<OffsetDateTime>,
            pub(super) last_received_at: Vec<OffsetDateTime>,
            pub(super) redeliveries: Vec<i32>,
            pub(super) reference: Vec<Option<&'r str>>,
            $(pub(super) $column: Vec<$Element>,)*
        }

        impl<'r> ColumnArrays<'r> {
            pub(super) fn new(round: &'r [Group<'r>]) -> Self {
                let mut arrays = Self::default();
                for group in round {
                    arrays.execution_id.push(&group.row.execution.execution_id);
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

with_columns!(define_column_arrays!());
pub(super) use with_columns;
