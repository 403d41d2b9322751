-- An execution that is recorded at the same time does not find its bulk and inserts it again.
WITH due AS (
    SELECT b.bulk_id FROM bulks AS b
    WHERE
        b.bulk_id = ANY ($1) AND coalesce(b.last_received_at, b.first_received_at) < $2
        AND NOT EXISTS (SELECT FROM executions AS e WHERE e.bulk_id = b.bulk_id)
    FOR UPDATE SKIP LOCKED
)
DELETE FROM bulks AS b
USING due
WHERE b.bulk_id = due.bulk_id
RETURNING b.first_received_at AS "first_received_at!"
