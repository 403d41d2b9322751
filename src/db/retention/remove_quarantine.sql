WITH due AS (
    SELECT quarantine_id FROM quarantine
    WHERE
        quarantine_id = ANY ($1::text[]::bigint[]) AND greatest(last_received_at, recorded_at) < $2
        AND NOT acknowledged
    FOR UPDATE SKIP LOCKED
)
DELETE FROM quarantine AS q
USING due
WHERE q.quarantine_id = due.quarantine_id
RETURNING q.first_received_at
