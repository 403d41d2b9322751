-- Keeps what is no execution: once by content, in one order. What was acknowledged is always kept;
-- of the rest, what is new only as far as there is room. What was kept comes back.
WITH incoming AS (
    SELECT
        i.body_sha256,
        i.body,
        min(i.reason) AS reason,
        min(i.authenticated_by) AS authenticated_by,
        bool_or(i.acknowledged) AS acknowledged,
        bool_or(i.intact) AS intact,
        count(*) AS deliveries,
        min(i.received_at) AS first_received_at,
        max(i.received_at) AS last_received_at
    FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::boolean[], $6::boolean[], $7::timestamptz[])
        AS i (body_sha256, body, reason, authenticated_by, acknowledged, intact, received_at)
    GROUP BY i.body_sha256, i.body
),
needing_room AS (
    SELECT
        i.body_sha256,
        count(*) OVER earlier AS rows,
        sum(octet_length(i.body)) OVER earlier AS bytes
    FROM incoming AS i
    WHERE NOT i.acknowledged AND NOT EXISTS (SELECT FROM quarantine AS q WHERE q.body_sha256 = i.body_sha256)
    WINDOW earlier AS (ORDER BY i.first_received_at, i.body_sha256)
),
held AS (
    SELECT count(*) AS rows, coalesce(sum(octet_length(q.body)), 0) AS bytes
    FROM quarantine AS q
    WHERE NOT q.acknowledged AND EXISTS (SELECT FROM needing_room)
)
INSERT INTO quarantine AS q (
    reason, body, body_sha256, authenticated_by, acknowledged, intact, deliveries, first_received_at,
    last_received_at
)
SELECT
    i.reason, i.body, i.body_sha256, i.authenticated_by, i.acknowledged, i.intact, i.deliveries,
    i.first_received_at, i.last_received_at
FROM incoming AS i
LEFT JOIN needing_room AS n ON n.body_sha256 = i.body_sha256
CROSS JOIN held AS h
WHERE n.body_sha256 IS NULL OR (h.rows + n.rows <= $8::bigint AND h.bytes + n.bytes <= $9::bigint)
ORDER BY i.body_sha256
ON CONFLICT (body_sha256) DO UPDATE SET
    acknowledged = q.acknowledged OR excluded.acknowledged,
    deliveries = q.deliveries + excluded.deliveries,
    first_received_at = least(q.first_received_at, excluded.first_received_at),
    last_received_at = greatest(q.last_received_at, excluded.last_received_at)
RETURNING q.body_sha256
