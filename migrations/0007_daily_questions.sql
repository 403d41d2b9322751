-- Three daily questions whose answer took longer the more was recorded around it.

-- "Which completed executions hold a failed step?" They are rare, and were looked for among all that failed. The
-- condition is that of failed_steps and one more, so that PostgreSQL sees that they agree.
CREATE INDEX IF NOT EXISTS executions_with_failed_step_only ON executions (first_received_at)
WHERE (status = 'failed' OR step_failed) AND status <> 'failed';

-- "What was slow?" An hour's executions in the order of their duration. All of them go into the few pages of the
-- current hour, so it costs less than an index by duration alone would, and says what was slow lately.
CREATE INDEX IF NOT EXISTS executions_slow ON executions (
    date_bin('1 hour', first_received_at, 'epoch'), date_part('epoch', completed_at - started_at)
) WHERE completed_at >= started_at;

CREATE OR REPLACE VIEW slow_executions AS
SELECT
    execution_id,
    workflow_id,
    bulk_id,
    status,
    date_part('epoch', completed_at - started_at) AS duration_seconds,
    started_at,
    completed_at,
    first_received_at,
    date_bin('1 hour', first_received_at, 'epoch') AS hour
FROM executions
WHERE completed_at >= started_at
ORDER BY duration_seconds DESC;

COMMENT ON VIEW slow_executions IS
    'One row per execution whose duration is known, the slowest first. Ask by hour, with LIMIT. By first_received_at or workflow_id, all executions of that time or workflow are read.';
COMMENT ON COLUMN slow_executions.hour IS
    'The hour of first_received_at, in UTC: date_bin(''1 hour'', now(), ''epoch'') is the current one.';

-- "What came in last of one workflow?" By latest_executions, PostgreSQL may look for it among the newest of all, and
-- the workflow may not have run for months. Compared like this, only the workflow's own index leads there.
CREATE FUNCTION latest_of_workflow(workflow text) RETURNS SETOF latest_executions
    LANGUAGE sql STABLE PARALLEL SAFE
    BEGIN ATOMIC
        SELECT
            e.execution_id,
            e.workflow_id,
            e.bulk_id,
            e.status,
            e.error_cause,
            e.total_cost,
            CASE
                WHEN e.completed_at >= e.started_at THEN date_part('epoch', e.completed_at - e.started_at)
            END,
            e.started_at,
            e.completed_at,
            e.authenticated_by,
            e.deliveries,
            e.first_received_at,
            e.last_received_at,
            e.payload_removed_at
        FROM executions AS e
        WHERE (e.workflow_id, e.first_received_at) >= (workflow, '-infinity'::timestamptz)
            AND (e.workflow_id, e.first_received_at) <= (workflow, 'infinity'::timestamptz)
        ORDER BY e.workflow_id DESC, e.first_received_at DESC;
    END;

COMMENT ON FUNCTION latest_of_workflow(text) IS
    'The rows of latest_executions of one workflow, those that came last first, however long ago. Ask with LIMIT, and no ORDER BY of your own. Needs the right to read executions.';
