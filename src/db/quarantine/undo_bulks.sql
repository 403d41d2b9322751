-- Corrects the bulks of an undone retry, after their counts: the completion and the times that the retry set. A bulk
-- that only the retry created is deleted. $1: the bulks, $2: when the retry began, $3: the entry.
--
-- The retry may have set a time that is that of the entry. Then the time becomes the stored one, or that of an execution that
-- was recorded since the retry. If another retry was undone meanwhile, the stored time may be that of its entry: the time
-- is therefore within the times of the executions.
WITH retried AS (
    SELECT
        i.bulk_id,
        (q.entry ->> 'first_received_at')::timestamptz AS received_at,
        p.first_received_at,
        p.last_received_at
    FROM quarantine_retries AS q
    CROSS JOIN unnest($1::text[]) AS i (bulk_id)
    LEFT JOIN LATERAL jsonb_populate_recordset(NULL::bulks, q.bulks) AS p ON i.bulk_id = p.bulk_id
    WHERE q.quarantine_id = $3
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
        WHEN b.first_received_at = r.received_at THEN (
            SELECT greatest(min(s.at), least(r.first_received_at, min(s.at) FILTER (WHERE s.recorded_at > $2)))
            FROM (
                SELECT e.first_received_at AS at, e.recorded_at FROM executions AS e WHERE e.bulk_id = b.bulk_id
                UNION ALL
                SELECT x.registered_at, x.registered_at FROM expected_executions AS x WHERE x.bulk_id = b.bulk_id
            ) AS s
        )
        ELSE b.first_received_at
    END,
    last_received_at = CASE
        WHEN b.last_received_at = r.received_at THEN (
            SELECT
                least(
                    max(e.last_received_at),
                    greatest(r.last_received_at, max(e.last_received_at) FILTER (WHERE e.recorded_at > $2))
                )
            FROM executions AS e
            WHERE e.bulk_id = b.bulk_id
        )
        ELSE b.last_received_at
    END
FROM retried AS r
WHERE b.bulk_id = r.bulk_id AND b.bulk_id NOT IN (SELECT d.bulk_id FROM deleted AS d)
