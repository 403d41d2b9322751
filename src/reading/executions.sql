-- A page of executions. An index leads to those of $4 to $6, in the list's order; of these, at most so many are
-- looked at. The last one looked at comes whether it matches or not: the next page begins behind it.
SELECT
    execution_id, workflow_id, bulk_id, status,
    left(error, $12) AS error,
    left(error_cause, $12) AS error_cause,
    step_failed,
    trim_scale(sensible_cost(total_cost))::text AS "total_cost: Json",
    CASE WHEN completed_at >= started_at THEN date_part('epoch', completed_at - started_at) END AS duration_seconds,
    started_at, completed_at, authenticated_by, deliveries, first_received_at, last_received_at,
    matches AS "matches!",
    n = $10 AS "stops!"
FROM (
    SELECT
        e.*,
        row_number() OVER (ORDER BY first_received_at DESC, execution_id DESC) AS n,
        ($7::text IS NULL OR status = $7)
        AND ($8::text IS NULL OR workflow_id = $8)
        AND ($9::text IS NULL OR coalesce(strpos(lower(error_cause), lower($9)) > 0, false)) AS matches
    FROM executions AS e
    WHERE
        first_received_at >= $1
        AND first_received_at <= $2
        AND (first_received_at, execution_id) < ($2, $3::text)
        AND ($4::text IS NULL OR bulk_id = $4)
        AND ($5::text IS NULL OR status = $5)
        AND ($6::text IS NULL OR workflow_id = $6)
    ORDER BY first_received_at DESC, execution_id DESC
    LIMIT $10::bigint
) AS looked_at
WHERE matches OR n = $10
ORDER BY first_received_at DESC, execution_id DESC
LIMIT $11
