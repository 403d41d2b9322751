-- Moves the counts of hours by what this transaction changed: an execution that came (+1) or left
-- (-1) an hour, a workflow or a status. After executions, bulks and quarantine, and before days: the
-- rows of the current hour are every receiver's, and stay locked until the commit.
INSERT INTO workflow_hours AS h (hour, workflow_id, executions, completed, failed, cancelled, other)
SELECT
    date_trunc('hour', i.first_received_at, 'UTC'),
    i.workflow_id,
    sum(i.change),
    coalesce(sum(i.change) FILTER (WHERE i.status = 'completed'), 0),
    coalesce(sum(i.change) FILTER (WHERE i.status = 'failed'), 0),
    coalesce(sum(i.change) FILTER (WHERE i.status = 'cancelled'), 0),
    coalesce(sum(i.change) FILTER (WHERE NOT is_terminal_status(i.status)), 0)
FROM unnest($1::text[], $2::text[], $3::integer[], $4::timestamptz[])
    AS i (workflow_id, status, change, first_received_at)
GROUP BY 1, 2
ORDER BY 1, i.workflow_id COLLATE "C"
ON CONFLICT (hour, workflow_id) DO UPDATE SET
    executions = h.executions + excluded.executions,
    completed = h.completed + excluded.completed,
    failed = h.failed + excluded.failed,
    cancelled = h.cancelled + excluded.cancelled,
    other = h.other + excluded.other
