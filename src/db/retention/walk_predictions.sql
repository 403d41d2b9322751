-- The next predictions, and whether they have expired: see walk_executions.sql.
SELECT
    prediction_id AS id,
    first_received_at,
    greatest(last_received_at, recorded_at) < $4 AS "due!"
FROM predictions
WHERE (first_received_at, prediction_id) > ($1, $2) AND first_received_at < $4
ORDER BY first_received_at, prediction_id
LIMIT $3
