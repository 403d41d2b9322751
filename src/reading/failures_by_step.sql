-- The failed steps of the latest executions that have one, so many at most, grouped.
WITH looked_at AS (
    (
        SELECT workflow_id, execution_id, first_received_at
        FROM executions
        WHERE
            (status = 'failed' OR step_failed)
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
        SELECT workflow_id, execution_id, first_received_at
        FROM executions
        WHERE
            (status = 'failed' OR step_failed)
            AND (workflow_id, first_received_at) >= ($3, $1)
            AND (workflow_id, first_received_at) < ($3, $2)
            AND ($4::text IS NULL OR bulk_id = $4)
        ORDER BY workflow_id DESC, first_received_at DESC
        LIMIT $5::bigint
    )
),
steps AS (
    SELECT
        l.workflow_id, l.execution_id, l.first_received_at,
        s.step_id, left(s.error, $6) AS error, left(s.error_cause, $6) AS error_cause
    FROM looked_at AS l
    INNER JOIN failed_steps AS s ON l.execution_id = s.execution_id
)
SELECT
    workflow_id AS "workflow_id!",
    step_id,
    error,
    error_cause,
    count(*) AS "failed!",
    (array_agg(execution_id ORDER BY first_received_at DESC))[1] AS "latest_execution_id!",
    min(first_received_at) AS "earliest_received_at!",
    max(first_received_at) AS "latest_received_at!",
    (sum(count(*)) OVER ())::bigint AS "all_failed!",
    (SELECT count(*) FROM looked_at) AS "looked_at!",
    (SELECT min(l.first_received_at) FROM looked_at AS l) AS "earliest!"
FROM steps
GROUP BY workflow_id, step_id, error, error_cause
ORDER BY count(*) DESC, max(first_received_at) DESC
LIMIT $7
