WITH due AS (
    SELECT x.expected_id FROM expected_executions AS x
    WHERE
        x.expected_id = ANY ($1::text[]::bigint[]) AND x.registered_at < $2
        AND NOT EXISTS (SELECT FROM executions AS e WHERE e.execution_id = x.execution_id)
    FOR UPDATE SKIP LOCKED
)
DELETE FROM expected_executions AS x
USING due
WHERE x.expected_id = due.expected_id
RETURNING x.registered_at
