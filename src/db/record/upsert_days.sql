-- Adds this transaction's changes to the costs of days, after upsert_hours.sql. The input has a row for each day and
-- workflow, in the order of the key.
INSERT INTO workflow_days AS d (day, workflow_id, executions, executions_with_cost, total_cost)
SELECT
    unnest($1::date[]),
    unnest($2::text[]),
    unnest($3::integer[]),
    unnest($4::integer[]),
    unnest($5::text[])::numeric
ON CONFLICT (day, workflow_id) DO UPDATE SET
    executions = d.executions + excluded.executions,
    executions_with_cost = d.executions_with_cost + excluded.executions_with_cost,
    total_cost = d.total_cost + excluded.total_cost
