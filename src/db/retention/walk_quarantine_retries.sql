-- The next retries that can be undone, and whether they have expired.
SELECT
    quarantine_id::text AS "id!",
    retried_at AS "first_received_at!",
    true AS "due!"
FROM quarantine_retries
WHERE (retried_at, quarantine_id) > ($1, $2::text::bigint) AND retried_at < $4
ORDER BY retried_at, quarantine_id
LIMIT $3
