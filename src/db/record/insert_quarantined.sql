-- Stores webhooks that cannot be recorded, each body once, in the order of the hash. An acknowledged one is always
-- stored; another new one only while the limits allow ($8 rows, $9 bytes). The limits apply separately to webhooks that were
-- answered 422 and to unsigned webhooks that were not confirmed. Returns the hashes and the numbers of all that are stored.
WITH incoming AS (
    SELECT
        i.body_sha256,
        i.body,
        min(i.reason) AS reason,
        -- An authenticated delivery first.
        (array_agg(i.authenticated_by ORDER BY coalesce(i.authenticated_by IN ('none', 'unverified'), true)))[1]
            AS authenticated_by,
        bool_or(i.acknowledged) AS acknowledged,
        bool_or(i.intact) AS intact,
        sum(i.deliveries) AS deliveries,
        sum(i.redeliveries) AS redeliveries,
        (array_agg(i.reference ORDER BY i.received_at) FILTER (WHERE i.reference IS NOT NULL))[1] AS reference,
        (array_agg(i.api_body) FILTER (WHERE i.api_body IS NOT NULL))[1] AS api_body,
        min(i.received_at) AS first_received_at,
        max(i.received_at) AS last_received_at
    FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::boolean[], $6::boolean[], $7::timestamptz[],
        $10::integer[], $11::text[], $12::bytea[], $13::integer[])
        AS i (body_sha256, body, reason, authenticated_by, acknowledged, intact, received_at, redeliveries, reference,
            api_body, deliveries)
    GROUP BY i.body_sha256, i.body
),
limited AS (
    SELECT
        i.body_sha256,
        i.first_received_at,
        octet_length(i.body) + coalesce(octet_length(i.api_body), 0) AS size,
        coalesce(i.authenticated_by = 'unverified', false) AS is_unconfirmed
    FROM incoming AS i
    WHERE NOT i.acknowledged AND NOT EXISTS (SELECT FROM quarantine AS q WHERE q.body_sha256 = i.body_sha256)
),
used AS (
    SELECT false AS is_unconfirmed, u.bodies, u.bytes FROM quarantine_usage AS u
    UNION ALL
    SELECT true, u.unconfirmed_bodies, u.unconfirmed_bytes FROM quarantine_usage AS u
),
-- The earliest first. A body that is larger than the free space is skipped: smaller bodies after it can be stored.
placed AS (
    SELECT
        n.body_sha256,
        u.bodies + count(*) OVER earlier AS rows,
        u.bytes + sum(n.size) OVER earlier AS bytes
    FROM limited AS n
    INNER JOIN used AS u ON n.is_unconfirmed = u.is_unconfirmed
    WHERE u.bytes + n.size <= $9::bigint
    WINDOW earlier AS (PARTITION BY n.is_unconfirmed ORDER BY n.first_received_at, n.body_sha256)
)
INSERT INTO quarantine AS q (
    reason, body, body_sha256, authenticated_by, acknowledged, intact, deliveries, redeliveries, reference,
    api_body, first_received_at, last_received_at
)
SELECT
    i.reason, i.body, i.body_sha256, i.authenticated_by, i.acknowledged, i.intact, i.deliveries,
    i.redeliveries, i.reference::jsonb, i.api_body, i.first_received_at, i.last_received_at
FROM incoming AS i
WHERE i.body_sha256 NOT IN (SELECT n.body_sha256 FROM limited AS n)
    OR i.body_sha256 IN (
        SELECT p.body_sha256 FROM placed AS p WHERE p.rows <= $8::bigint AND p.bytes <= $9::bigint
    )
ORDER BY i.body_sha256
ON CONFLICT (body_sha256) DO UPDATE SET
    (reason, authenticated_by) = (
        SELECT
            CASE WHEN a.is_stronger THEN excluded.reason ELSE q.reason END,
            CASE WHEN a.is_stronger THEN excluded.authenticated_by ELSE q.authenticated_by END
        FROM (
            SELECT coalesce(q.authenticated_by IN ('none', 'unverified'), true)
                AND excluded.authenticated_by <> 'unverified' AS is_stronger
        ) AS a
    ),
    acknowledged = q.acknowledged OR excluded.acknowledged,
    deliveries = q.deliveries + excluded.deliveries,
    redeliveries = q.redeliveries + excluded.redeliveries,
    reference = coalesce(q.reference, excluded.reference),
    api_body = coalesce(q.api_body, excluded.api_body),
    first_received_at = least(q.first_received_at, excluded.first_received_at),
    last_received_at = greatest(q.last_received_at, excluded.last_received_at),
    recorded_at = greatest(q.recorded_at, excluded.recorded_at)
RETURNING q.body_sha256, q.quarantine_id
