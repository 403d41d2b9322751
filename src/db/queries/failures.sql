-- The latest executions that failed, or ($8) in which a step failed, so many at most; these failures, grouped.
WITH looked_at AS (
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
    -- Those of one workflow have an index of their own. coalesce hides what it compares: PostgreSQL would count the
    -- rarity of failures twice, expect fewer than the limit, and read all failures for them.
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
    FROM looked_at
    WHERE NOT $8
    UNION ALL
    SELECT l.workflow_id, s.step_id, s.error, s.error_cause, l.execution_id, l.first_received_at
    FROM looked_at AS l
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
    (SELECT count(*) FROM looked_at) AS "looked_at!",
    (SELECT min(l.first_received_at) FROM looked_at AS l) AS "earliest!"
FROM failed
GROUP BY workflow_id, step_id, left(error, $6), left(error_cause, $6)
ORDER BY count(*) DESC, max(first_received_at) DESC
LIMIT $7
