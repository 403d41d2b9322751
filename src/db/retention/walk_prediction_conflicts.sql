-- The next conflicts of predictions, and whether they have expired.
SELECT
    conflict_id::text AS "id!",
    first_received_at,
    greatest(last_received_at, recorded_at) < $4 AS "due!"
FROM prediction_conflicts
WHERE (first_received_at, conflict_id) > ($1, $2::text::bigint) AND first_received_at < $4
ORDER BY first_received_at, conflict_id
LIMIT $3
