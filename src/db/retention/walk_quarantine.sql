-- The next quarantined webhooks, and whether they have expired. Acknowledged ones never expire.
SELECT
    quarantine_id::text AS "id!",
    first_received_at,
    greatest(last_received_at, recorded_at) < $4 AND NOT acknowledged AS "due!"
FROM quarantine
WHERE (first_received_at, quarantine_id) > ($1, $2::text::bigint) AND first_received_at < $4
ORDER BY first_received_at, quarantine_id
LIMIT $3
