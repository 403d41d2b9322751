-- Corrects the bulks of an undone retry, after their counts: the completion and the times that the retry set. A bulk
-- that only the retry created is deleted. $1: the bulks, $2: when the retry began, $3: the entry.
WITH retried AS (
    SELECT (entry ->> 'first_received_at')::timestamptz AS received_at
    FROM quarantine_retries
    WHERE quarantine_id = $3
),
deleted AS (
    DELETE FROM bulks
    WHERE bulk_id = ANY ($1::text[]) AND received = 0 AND expected IS NULL AND rejected IS NULL
    RETURNING bulk_id
)
UPDATE bulks AS b
SET
    completed_at = CASE
        WHEN
            b.completed_at = $2 AND (
                b.completed + b.failed + b.cancelled < b.expected
                OR (
                    b.rejected IS NOT NULL
                    AND EXISTS (SELECT FROM missing_executions AS x WHERE x.bulk_id = b.bulk_id)
                )
            )
            THEN NULL
        ELSE b.completed_at
    END,
    first_received_at = CASE
        WHEN b.first_received_at = r.received_at THEN
            least(
                (SELECT min(e.first_received_at) FROM executions AS e WHERE e.bulk_id = b.bulk_id),
                (SELECT min(x.registered_at) FROM expected_executions AS x WHERE x.bulk_id = b.bulk_id)
            )
        ELSE b.first_received_at
    END,
    last_received_at = CASE
        WHEN b.last_received_at = r.received_at THEN
            (SELECT max(e.last_received_at) FROM executions AS e WHERE e.bulk_id = b.bulk_id)
        ELSE b.last_received_at
    END
FROM retried AS r
WHERE b.bulk_id = ANY ($1::text[]) AND b.bulk_id NOT IN (SELECT d.bulk_id FROM deleted AS d)
