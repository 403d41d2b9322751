-- Adds this transaction's changes to the counts of bulks. The input has a row for each bulk, in the order of bulk_id: rows are
-- locked in this order.
INSERT INTO bulks AS b (
    bulk_id, received, completed, failed, cancelled, other, first_received_at, last_received_at
)
SELECT
    unnest($1::text[]),
    unnest($2::integer[]),
    unnest($3::integer[]),
    unnest($4::integer[]),
    unnest($5::integer[]),
    unnest($6::integer[]),
    unnest($7::timestamptz[]),
    unnest($8::timestamptz[])
ON CONFLICT (bulk_id) DO UPDATE SET
    received = b.received + excluded.received,
    completed = b.completed + excluded.completed,
    failed = b.failed + excluded.failed,
    cancelled = b.cancelled + excluded.cancelled,
    other = b.other + excluded.other,
    first_received_at = least(b.first_received_at, excluded.first_received_at),
    last_received_at = greatest(b.last_received_at, excluded.last_received_at)
