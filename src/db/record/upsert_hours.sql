-- Adds this transaction's changes to the counts of hours, like upsert_bulks.sql. The input has a row for each hour and
-- workflow, in the order of the key.
INSERT INTO workflow_hours AS h (hour, workflow_id, executions, completed, failed, cancelled, other)
SELECT
    unnest($1::timestamptz[]),
    unnest($2::text[]),
    unnest($3::integer[]),
    unnest($4::integer[]),
    unnest($5::integer[]),
    unnest($6::integer[]),
    unnest($7::integer[])
ON CONFLICT (hour, workflow_id) DO UPDATE SET
    executions = h.executions + excluded.executions,
    completed = h.completed + excluded.completed,
    failed = h.failed + excluded.failed,
    cancelled = h.cancelled + excluded.cancelled,
    other = h.other + excluded.other
