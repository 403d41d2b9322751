-- The next batches of changes, up to the first one that has not expired: readers rely on numbers without gaps. The last
-- batch is never removed, because the next number follows from it.
SELECT
    last_change::text AS "id!",
    recorded_at AS first_received_at,
    true AS "due!"
FROM (
    SELECT last_change, recorded_at, bool_and(recorded_at < $3) OVER (ORDER BY last_change) AS expired
    FROM (
        SELECT last_change, recorded_at FROM change_batches
        WHERE last_change > $1::text::bigint AND last_change < (SELECT max(last_change) FROM change_batches)
        ORDER BY last_change
        LIMIT $2
    ) AS next
) AS walked
WHERE expired
ORDER BY last_change
