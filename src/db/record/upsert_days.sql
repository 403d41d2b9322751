-- Adds this transaction's changes to the costs of days, after upsert_hours.sql. The input has a row for each day and
-- workflow. Rows are locked in the order of the key.
INSERT INTO workflow_days AS d (day, workflow_id, executions, executions_with_cost, total_cost)
SELECT
    i.day,
    i.workflow_id,
    i.executions,
    i.executions_with_cost,
    i.total_cost::numeric
FROM unnest($1::date[], $2::text[], $3::integer[], $4::integer[], $5::text[])
    AS i (day, workflow_id, executions, executions_with_cost, total_cost)
ORDER BY i.day, i.workflow_id COLLATE "C"
ON CONFLICT (day, workflow_id) DO UPDATE SET
    executions = d.executions + excluded.executions,
    executions_with_cost = d.executions_with_cost + excluded.executions_with_cost,
    total_cost = d.total_cost + excluded.total_cost
