-- The next executions, and whether their payloads have expired. Expired executions are removed with their payloads.
SELECT
    execution_id AS id,
    first_received_at,
    greatest(last_received_at, recorded_at) < $4 AND coalesce(completed_at < $4 OR completed_at > now(), true)
    AND payload_removed_at IS NULL
    AND coalesce(
        greatest(last_received_at, recorded_at) >= $5 OR (completed_at >= $5 AND completed_at <= now()), $5 IS NULL
    ) AS "due!"
FROM executions
WHERE (first_received_at, execution_id) > ($1, $2) AND first_received_at < $4
ORDER BY first_received_at, execution_id
LIMIT $3
