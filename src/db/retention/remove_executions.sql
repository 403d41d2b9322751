-- The counts of bulks and the rollups stay: they are history.
WITH due AS (
    SELECT execution_id FROM executions
    WHERE
        execution_id = ANY ($1) AND greatest(last_received_at, recorded_at) < $2
        AND coalesce(completed_at < $2 OR completed_at > now(), true)
    FOR UPDATE SKIP LOCKED
)
DELETE FROM executions AS e
USING due
WHERE e.execution_id = due.execution_id
RETURNING e.first_received_at
