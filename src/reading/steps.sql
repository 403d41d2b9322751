-- The steps of an execution. What is in another shape than the sender documents has none.
SELECT
    s.key AS "key!",
    coalesce(s.step ->> 'step_id', s.key) AS "step_id!",
    s.step ->> 'status' AS status,
    s.step ->> 'error' AS error,
    s.step ->> 'error_cause' AS error_cause,
    s.step ->> 'started_at' AS started_at,
    s.step ->> 'completed_at' AS completed_at
FROM executions AS e
CROSS JOIN LATERAL jsonb_each(
    CASE jsonb_typeof(e.payload -> 'step_outputs') WHEN 'object' THEN e.payload -> 'step_outputs' END
) AS s (key, step)
WHERE e.execution_id = $1 AND jsonb_typeof(s.step) = 'object'
ORDER BY s.step ->> 'started_at', s.key
LIMIT 1000
