WITH due AS (
    SELECT quarantine_id FROM quarantine_retries
    WHERE quarantine_id = ANY ($1::text[]::bigint[]) AND retried_at < $2
    FOR UPDATE SKIP LOCKED
)
DELETE FROM quarantine_retries AS q
USING due
WHERE q.quarantine_id = due.quarantine_id
RETURNING q.retried_at
