-- A page of results. Of the executions that an index leads to, so many are looked at, and so many bytes of their
-- outputs: the last one comes even when it made nothing, since the next page begins behind it.
SELECT
    e.execution_id,
    e.workflow_id,
    e.bulk_id,
    coalesce(r.position, 9223372036854775807) AS "position!",
    r.name,
    coalesce(r.kind, '') AS "kind!",
    r.value,
    e.first_received_at,
    r.position IS NOT NULL AS "matches!",
    e.stops AS "stops!"
FROM (
    SELECT
        *,
        n = $9 OR (bytes_before < $10 AND bytes_before + bytes >= $10) AS stops
    FROM (
        SELECT
            execution_id, workflow_id, bulk_id, first_received_at,
            coalesce(pg_column_size(output), 0) AS bytes,
            row_number() OVER newest_first AS n,
            coalesce(sum(pg_column_size(output)) OVER (newest_first ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)
                AS bytes_before
        FROM executions
        WHERE
            first_received_at >= $1
            AND first_received_at <= $2
            AND (first_received_at, execution_id) <= ($2, $3::text)
            -- Behind all of an execution's results is the next execution.
            AND ((first_received_at, execution_id) < ($2, $3) OR $4 < 9223372036854775807)
            AND ($5::text IS NULL OR execution_id = $5)
            AND ($6::text IS NULL OR bulk_id = $6)
            AND ($7::text IS NULL OR workflow_id = $7)
        WINDOW newest_first AS (ORDER BY first_received_at DESC, execution_id DESC)
        ORDER BY first_received_at DESC, execution_id DESC
        LIMIT $9::bigint
    ) AS looked_at
    WHERE bytes_before < $10::bigint
) AS e
LEFT JOIN LATERAL (
    SELECT position, name, kind, value
    FROM results
    WHERE
        execution_id = e.execution_id
        AND ($8::text IS NULL OR workflow_id = $8)
        AND ((e.first_received_at, e.execution_id) <> ($2, $3) OR position > $4)
) AS r ON true
WHERE r.position IS NOT NULL OR e.stops
ORDER BY e.first_received_at DESC, e.execution_id DESC, r.position
LIMIT $11
