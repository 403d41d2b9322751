-- Adds this transaction's changes to the counts of bulks. $3: how many executions got a status minus how many lost it.
-- The input has a row for each bulk and status. Rows are locked in the order of bulk_id.
INSERT INTO bulks AS b (
    bulk_id, received, completed, failed, cancelled, other, first_received_at, last_received_at
)
SELECT
    i.bulk_id,
    sum(i.change),
    coalesce(sum(i.change) FILTER (WHERE is_successful_status(i.status)), 0),
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
