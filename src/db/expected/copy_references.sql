-- Copies the caller's references to recorded executions that have none. Rows are locked in the order of recording.
WITH pending AS (
    SELECT e.execution_id, x.reference
    FROM expected_executions AS x
    INNER JOIN executions AS e ON e.execution_id = x.execution_id
    WHERE NOT x.settled AND x.execution_id IS NOT NULL AND x.reference IS NOT NULL AND e.reference IS NULL
    ORDER BY e.execution_id
    LIMIT $1
    FOR UPDATE OF e SKIP LOCKED
)
UPDATE executions AS e
SET reference = pending.reference
FROM pending
WHERE e.execution_id = pending.execution_id
