-- Moves the counts of bulks by what this transaction changed: how many executions came to a status, less those that
-- left it. Each bulk and status comes once; a bulk's are summed, and the rows taken in one order.
INSERT INTO bulks AS b (
    bulk_id, received, completed, failed, cancelled, other, first_received_at, last_received_at
)
SELECT
    i.bulk_id,
    sum(i.change),
    coalesce(sum(i.change) FILTER (WHERE i.status = 'completed'), 0),
    coalesce(sum(i.change) FILTER (WHERE i.status = 'failed'), 0),
    coalesce(sum(i.change) FILTER (WHERE i.status = 'cancelled'), 0),
    coalesce(sum(i.change) FILTER (WHERE NOT is_terminal_status(i.status)), 0),
    min(i.first_received_at),
    max(i.last_received_at)
FROM unnest($1::text[], $2::text[], $3::integer[], $4::timestamptz[], $5::timestamptz[])
    AS i (bulk_id, status, change, first_received_at, last_received_at)
GROUP BY i.bulk_id
ORDER BY i.bulk_id COLLATE "C"
ON CONFLICT (bulk_id) DO UPDATE SET
    received = b.received + excluded.received,
    completed = b.completed + excluded.completed,
    failed = b.failed + excluded.failed,
    cancelled = b.cancelled + excluded.cancelled,
    other = b.other + excluded.other,
    first_received_at = least(b.first_received_at, excluded.first_received_at),
    last_received_at = greatest(b.last_received_at, excluded.last_received_at)
