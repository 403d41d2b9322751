-- A page of the quarantine. octet_length does not read the body.
SELECT
    quarantine_id,
    reason,
    octet_length(body) AS "body_bytes!",
    authenticated_by,
    acknowledged,
    intact,
    deliveries,
    first_received_at,
    last_received_at
FROM quarantine
WHERE
    first_received_at >= $1
    AND first_received_at <= $2
    AND (first_received_at, quarantine_id) < ($2, $3::bigint)
ORDER BY first_received_at DESC, quarantine_id DESC
LIMIT $4
