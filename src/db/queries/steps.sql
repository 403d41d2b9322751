-- The steps of an execution, with at most $2 characters of each text. If step_outputs is not an object, there are no steps.
SELECT
    left(s.key, $2) AS "key!",
    left(coalesce(s.step ->> 'step_id', s.key), $2) AS "step_id!",
    left(s.step ->> 'status', $2) AS status,
    left(s.step ->> 'error', $2) AS error,
    left(s.step ->> 'error_cause', $2) AS error_cause,
    left(s.step ->> 'started_at', $2) AS started_at,
    left(s.step ->> 'completed_at', $2) AS completed_at
FROM executions AS e
CROSS JOIN LATERAL jsonb_each(
    CASE jsonb_typeof(e.payload -> 'step_outputs') WHEN 'object' THEN e.payload -> 'step_outputs' END
) AS s (key, step)
WHERE e.execution_id = $1 AND jsonb_typeof(s.step) = 'object'
ORDER BY s.step ->> 'started_at', s.key
LIMIT 1000
