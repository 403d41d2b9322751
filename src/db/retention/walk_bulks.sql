-- The next bulks, and whether they have expired. A bulk has expired if its latest delivery and all its executions have.
-- There is no EXISTS here, because PostgreSQL might read and hash all executions for it.
SELECT
    b.bulk_id AS id,
    b.first_received_at AS "first_received_at!",
    coalesce(b.last_received_at, b.first_received_at) < $4 AND (
        SELECT e.execution_id FROM executions AS e
        WHERE
            e.bulk_id = b.bulk_id
            AND (
                greatest(e.last_received_at, e.recorded_at) >= $4
                OR (e.completed_at >= $4 AND e.completed_at <= now())
            )
        LIMIT 1
    ) IS NULL AS "due!"
FROM bulks AS b
WHERE (b.first_received_at, b.bulk_id) > ($1, $2) AND b.first_received_at < $4
ORDER BY b.first_received_at, b.bulk_id
LIMIT $3
