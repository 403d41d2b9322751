-- The latest executions that failed, or ($8) that have a failed step, at most $5; their failures, grouped.
WITH scanned AS (
    (
        SELECT workflow_id, error, error_cause, execution_id, first_received_at
        FROM executions
        WHERE
            (status = 'failed' OR step_failed)
            AND CASE WHEN $8::boolean THEN step_failed ELSE status = 'failed' END
            AND $3::text IS NULL
            AND first_received_at >= $1
            AND first_received_at < $2
            AND ($4::text IS NULL OR bulk_id = $4)
        ORDER BY first_received_at DESC
        LIMIT $5::bigint
    )
    UNION ALL
    -- The executions of one workflow have their own index. coalesce hides the comparison from the planner: it would count
    -- the rarity of failures twice, expect fewer rows than the limit, and read all failures.
    (
        SELECT workflow_id, error, error_cause, execution_id, first_received_at
        FROM executions
        WHERE
            (status = 'failed' OR step_failed)
            AND CASE WHEN $8 THEN coalesce(step_failed, false) ELSE coalesce(status = 'failed', false) END
            AND (workflow_id, first_received_at) >= ($3, $1)
            AND (workflow_id, first_received_at) < ($3, $2)
            AND ($4::text IS NULL OR bulk_id = $4)
        ORDER BY workflow_id DESC, first_received_at DESC
        LIMIT $5::bigint
    )
),
failed AS (
    SELECT workflow_id, NULL AS step_id, error, error_cause, execution_id, first_received_at
    FROM scanned
    WHERE NOT $8
    UNION ALL
    SELECT l.workflow_id, s.step_id, s.error, s.error_cause, l.execution_id, l.first_received_at
    FROM scanned AS l
    INNER JOIN failed_steps AS s ON l.execution_id = s.execution_id
    WHERE $8
)
SELECT
    workflow_id AS "workflow_id!",
    step_id,
    left(error, $6) AS error,
    left(error_cause, $6) AS error_cause,
    count(*) AS "failed!",
    (array_agg(execution_id ORDER BY first_received_at DESC))[1] AS "latest_execution_id!",
    min(first_received_at) AS "earliest_received_at!",
    max(first_received_at) AS "latest_received_at!",
    (sum(count(*)) OVER ())::bigint AS "all_failed!",
    (SELECT count(*) FROM scanned) AS "scanned!",
    (SELECT min(l.first_received_at) FROM scanned AS l) AS "earliest_scanned!"
FROM failed
GROUP BY workflow_id, step_id, left(error, $6), left(error_cause, $6)
ORDER BY count(*) DESC, max(first_received_at) DESC
LIMIT $7
