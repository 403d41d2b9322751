-- Keeps what is no execution: once by content, in one order.
INSERT INTO quarantine AS q (reason, body, body_sha256, deliveries, first_received_at, last_received_at)
SELECT
    min(i.reason),
    i.body,
    sha256(i.body),
    count(*),
    min(i.received_at),
    max(i.received_at)
FROM unnest($1::text[], $2::bytea[], $3::timestamptz[]) AS i (reason, body, received_at)
GROUP BY i.body
ORDER BY sha256(i.body)
ON CONFLICT (body_sha256) DO UPDATE SET
    deliveries = q.deliveries + excluded.deliveries,
    first_received_at = least(q.first_received_at, excluded.first_received_at),
    last_received_at = greatest(q.last_received_at, excluded.last_received_at)
