-- The counts of bulks and the rollups stay: they are history. An expected execution is removed with its execution;
-- otherwise it would be missing.
WITH due AS (
    SELECT execution_id FROM executions
    WHERE
        execution_id = ANY ($1) AND greatest(last_received_at, recorded_at) < $2
        AND coalesce(completed_at < $2 OR completed_at > now(), true)
    FOR UPDATE SKIP LOCKED
),
removed AS (
    DELETE FROM executions AS e
    USING due
    WHERE e.execution_id = due.execution_id
    RETURNING e.execution_id, e.first_received_at
),
arrived AS (
    DELETE FROM expected_executions AS x
    USING removed
    WHERE x.execution_id = removed.execution_id
),
checked AS (
    DELETE FROM reconcile_checks AS c
    USING removed
    WHERE c.execution_id = removed.execution_id
)
SELECT first_received_at AS "first_received_at!" FROM removed
