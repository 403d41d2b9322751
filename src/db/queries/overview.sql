-- Executions by status, a row for each hour or day, including those without executions.
SELECT
    p.at AS "at!",
    coalesce(sum(h.executions), 0)::bigint AS "executions!",
    coalesce(sum(h.completed), 0)::bigint AS "completed!",
    coalesce(sum(h.failed), 0)::bigint AS "failed!",
    coalesce(sum(h.cancelled), 0)::bigint AS "cancelled!",
    coalesce(sum(h.other), 0)::bigint AS "other!"
FROM generate_series(
    date_trunc($1::text, $2::timestamptz, 'UTC'), $3::timestamptz - interval '1 microsecond',
    CASE $1 WHEN 'day' THEN interval '24 hours' ELSE interval '1 hour' END
) AS p (at)
LEFT JOIN (
    SELECT date_trunc($1, hour, 'UTC') AS at, executions, completed, failed, cancelled, other
    FROM workflow_hours
    WHERE
        hour >= date_trunc($1, $2, 'UTC')
        AND hour < date_trunc($1, $3 - interval '1 microsecond', 'UTC') + interval '24 hours'
        AND ($4::text IS NULL OR workflow_id = $4)
) AS h ON p.at = h.at
GROUP BY p.at
ORDER BY p.at
