-- Adds this transaction's changes to the counts of hours, like upsert_bulks.sql.
INSERT INTO workflow_hours AS h (hour, workflow_id, executions, completed, failed, cancelled, other)
SELECT
    i.hour,
    i.workflow_id,
    sum(i.change),
    coalesce(sum(i.change) FILTER (WHERE is_successful_status(i.status)), 0),
    coalesce(sum(i.change) FILTER (WHERE i.status = 'failed'), 0),
    coalesce(sum(i.change) FILTER (WHERE i.status = 'cancelled'), 0),
    coalesce(sum(i.change) FILTER (WHERE NOT is_terminal_status(i.status)), 0)
FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::integer[]) AS i (hour, workflow_id, status, change)
GROUP BY i.hour, i.workflow_id
ORDER BY i.hour, i.workflow_id COLLATE "C"
ON CONFLICT (hour, workflow_id) DO UPDATE SET
    executions = h.executions + excluded.executions,
    completed = h.completed + excluded.completed,
    failed = h.failed + excluded.failed,
    cancelled = h.cancelled + excluded.cancelled,
    other = h.other + excluded.other
