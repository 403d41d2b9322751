-- The latest failed executions, so many at most, grouped.
WITH looked_at AS (
    (
        SELECT workflow_id, left(error, $6) AS error, left(error_cause, $6) AS error_cause, execution_id, first_received_at
        FROM executions
        WHERE
            status = 'failed'
            AND $3::text IS NULL
            AND first_received_at >= $1
            AND first_received_at < $2
            AND ($4::text IS NULL OR bulk_id = $4)
        ORDER BY first_received_at DESC
        LIMIT $5::bigint
    )
    UNION ALL
    -- Those of one workflow have an index of their own.
    (
        SELECT workflow_id, left(error, $6) AS error, left(error_cause, $6) AS error_cause, execution_id, first_received_at
        FROM executions
        WHERE
            status = 'failed'
            AND (workflow_id, first_received_at) >= ($3, $1)
            AND (workflow_id, first_received_at) < ($3, $2)
            AND ($4::text IS NULL OR bulk_id = $4)
        ORDER BY workflow_id DESC, first_received_at DESC
        LIMIT $5::bigint
    )
)
SELECT
    workflow_id AS "workflow_id!",
    NULL AS step_id,
    error,
    error_cause,
    count(*) AS "failed!",
    (array_agg(execution_id ORDER BY first_received_at DESC))[1] AS "latest_execution_id!",
    min(first_received_at) AS "earliest_received_at!",
    max(first_received_at) AS "latest_received_at!",
    (sum(count(*)) OVER ())::bigint AS "all_failed!",
    (SELECT count(*) FROM looked_at) AS "looked_at!",
    (SELECT min(l.first_received_at) FROM looked_at AS l) AS "earliest!"
FROM looked_at
GROUP BY workflow_id, error, error_cause
ORDER BY count(*) DESC, max(first_received_at) DESC
LIMIT $7
