-- Moves the costs of days by what this transaction changed, like count_hours.sql and after it.
INSERT INTO workflow_days AS d (day, workflow_id, executions, executions_with_cost, total_cost)
SELECT
    i.day,
    i.workflow_id,
    sum(i.change),
    coalesce(sum(i.change) FILTER (WHERE c.cost IS NOT NULL), 0),
    coalesce(sum(i.change * c.cost), 0)
FROM unnest($1::date[], $2::text[], $3::text[], $4::integer[]) AS i (day, workflow_id, total_cost, change)
-- Once for each: without OFFSET it would be worked out where it is used.
CROSS JOIN LATERAL (SELECT sensible_cost(i.total_cost::numeric) AS cost OFFSET 0) AS c
GROUP BY i.day, i.workflow_id
ORDER BY i.day, i.workflow_id COLLATE "C"
ON CONFLICT (day, workflow_id) DO UPDATE SET
    executions = d.executions + excluded.executions,
    executions_with_cost = d.executions_with_cost + excluded.executions_with_cost,
    total_cost = d.total_cost + excluded.total_cost
