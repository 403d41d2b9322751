-- The next executions in the order of time, and what of them is to go: all, or the payload.
SELECT
    execution_id AS id,
    first_received_at,
    coalesce(last_received_at < $4, false) AS "goes!",
    coalesce(last_received_at < $5, false) AND payload_removed_at IS NULL AS "payload_goes!"
FROM executions
WHERE (first_received_at, execution_id) > ($1, $2) AND first_received_at < greatest($4, $5)
ORDER BY first_received_at, execution_id
LIMIT $3
