-- Puts an entry back into quarantine. If the body was received again, the two entries become one. $1: the row as JSON.
INSERT INTO quarantine AS q OVERRIDING SYSTEM VALUE
SELECT p.* FROM jsonb_populate_record(NULL::quarantine, $1::text::jsonb) AS p
ON CONFLICT (body_sha256) DO UPDATE SET
    acknowledged = q.acknowledged OR excluded.acknowledged,
    deliveries = q.deliveries + excluded.deliveries,
    redeliveries = q.redeliveries + excluded.redeliveries,
    reference = coalesce(excluded.reference, q.reference),
    first_received_at = least(q.first_received_at, excluded.first_received_at),
    last_received_at = greatest(q.last_received_at, excluded.last_received_at),
    recorded_at = greatest(q.recorded_at, excluded.recorded_at)
