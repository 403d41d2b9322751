-- The next executions in the order of time, and whether they are to go. A receiver whose clock was slow has stored a
-- time of receipt that is too early: what PostgreSQL recorded or what completed since the cutoff is not that old. A
-- completion in the future is the sender's mistake and keeps nothing.
SELECT
    execution_id AS id,
    first_received_at,
    greatest(last_received_at, recorded_at) < $4
    AND coalesce(completed_at < $4 OR completed_at > now(), true) AS "due!"
FROM executions
WHERE (first_received_at, execution_id) > ($1, $2) AND first_received_at < $4
ORDER BY first_received_at, execution_id
LIMIT $3
