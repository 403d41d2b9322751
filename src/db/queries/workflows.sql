-- Workflows since the day $1: counts from the hours, costs from the days.
WITH counts AS (
    SELECT
        workflow_id,
        sum(executions)::bigint AS executions,
        sum(completed)::bigint AS completed,
        sum(failed)::bigint AS failed,
        sum(cancelled)::bigint AS cancelled,
        sum(other)::bigint AS other
    FROM workflow_hours
    WHERE hour >= $1::date::timestamp AT TIME ZONE 'UTC'
    GROUP BY workflow_id
),
costs AS (
    SELECT
        workflow_id,
        sum(executions_with_cost)::bigint AS executions_with_cost,
        sum(total_cost) AS total_cost
    FROM workflow_days
    WHERE day >= $1
    GROUP BY workflow_id
)
SELECT
    c.workflow_id,
    c.executions AS "executions!",
    c.completed AS "completed!",
    c.failed AS "failed!",
    c.cancelled AS "cancelled!",
    c.other AS "other!",
    coalesce(p.executions_with_cost, 0) AS "executions_with_cost!",
    trim_scale(coalesce(p.total_cost, 0))::text AS "total_cost!: Json",
    trim_scale(round(p.total_cost / nullif(p.executions_with_cost, 0), 12))::text AS "average_cost: Json"
FROM counts AS c
LEFT JOIN costs AS p ON c.workflow_id = p.workflow_id
WHERE c.executions > 0
ORDER BY
    CASE $2::text WHEN 'cost' THEN p.total_cost WHEN 'failed' THEN c.failed ELSE c.executions END DESC NULLS LAST,
    c.workflow_id
LIMIT $3
