-- One execution, with its error as far as $2 characters.
SELECT
    execution_id, workflow_id, bulk_id, status, left(error, $2) AS error, left(error_cause, $2) AS error_cause, step_failed,
    trim_scale(sensible_cost(total_cost))::text AS "total_cost: Json",
    CASE WHEN completed_at >= started_at THEN date_part('epoch', completed_at - started_at) END AS duration_seconds,
    started_at, completed_at, authenticated_by, deliveries, first_received_at, last_received_at,
    true AS "matches!",
    false AS "stops!"
FROM executions
WHERE execution_id = $1
