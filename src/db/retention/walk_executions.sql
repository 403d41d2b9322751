-- The next executions, and whether they have expired. A receiver whose clock is behind stores times of receipt that are
-- too early. Therefore an execution has not expired if PostgreSQL recorded it, or it completed, after the cutoff. A
-- completion in the future is an error of the sender and does not count.
SELECT
    execution_id AS id,
    first_received_at,
    greatest(last_received_at, recorded_at) < $4
    AND coalesce(completed_at < $4 OR completed_at > now(), true) AS "due!"
FROM executions
WHERE (first_received_at, execution_id) > ($1, $2) AND first_received_at < $4
ORDER BY first_received_at, execution_id
LIMIT $3
