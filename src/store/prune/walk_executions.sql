-- The next executions in the order of time, and whether they are to go.
SELECT
    execution_id AS id,
    first_received_at,
    last_received_at < $4 AS "due!"
FROM executions
WHERE (first_received_at, execution_id) > ($1, $2) AND first_received_at < $4
ORDER BY first_received_at, execution_id
LIMIT $3
