-- A page of conflicts, or the conflict with the number $7.
SELECT
    conflict_id AS "conflict_id!",
    execution_id AS "execution_id!",
    workflow_id AS "workflow_id!",
    bulk_id,
    differs_in,
    recorded_status,
    delivered_status AS "delivered_status!",
    left(recorded_error_cause, $6) AS recorded_error_cause,
    left(delivered_error_cause, $6) AS delivered_error_cause,
    recorded_authenticated_by,
    delivered_authenticated_by,
    deliveries AS "deliveries!",
    first_received_at AS "first_received_at!",
    last_received_at AS "last_received_at!"
FROM conflicts
WHERE
    first_received_at >= $1
    AND first_received_at <= $2
    AND (first_received_at, conflict_id) < ($2, $3::bigint)
    AND ($4::text IS NULL OR execution_id = $4)
    AND ($7::bigint IS NULL OR conflict_id = $7)
ORDER BY first_received_at DESC, conflict_id DESC
LIMIT $5
