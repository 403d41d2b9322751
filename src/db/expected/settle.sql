-- Marks expected executions that have ended and have their reference. A terminal status never changes.
WITH arrived AS (
    SELECT x.expected_id
    FROM expected_executions AS x
    INNER JOIN executions AS e ON e.execution_id = x.execution_id
    WHERE
        NOT x.settled AND x.execution_id IS NOT NULL
        AND is_terminal_status(e.status) AND (x.reference IS NULL OR e.reference IS NOT NULL)
    ORDER BY x.expected_id
    LIMIT $1
    FOR UPDATE OF x SKIP LOCKED
)
UPDATE expected_executions AS x
SET settled = true
FROM arrived
WHERE x.expected_id = arrived.expected_id
