-- A page of bulks. At most $5 rows are scanned; the last scanned row is returned even if it does not match.
SELECT
    bulk_id AS "bulk_id!",
    complete,
    expected,
    received AS "received!",
    completed AS "completed!",
    failed AS "failed!",
    cancelled AS "cancelled!",
    other AS "other!",
    missing,
    rejected,
    first_received_at,
    last_received_at,
    seconds_since_last,
    matches AS "matches!",
    n = $5 AS "is_last_scanned!",
    -- The view overdue_executions without the status of the executions: settled is set some seconds after the end.
    complete IS FALSE AND rejected IS NOT NULL AND coalesce((
        SELECT true FROM expected_executions AS x
        WHERE x.bulk_id = scanned.bulk_id AND NOT x.settled AND x.execution_id IS NOT NULL AND x.due_at <= now()
        ORDER BY x.due_at
        LIMIT 1
    ), false) AS "has_overdue!"
FROM (
    SELECT
        *,
        row_number() OVER (ORDER BY first_received_at DESC, bulk_id DESC) AS n,
        ($4::text IS NULL OR $4 = CASE complete WHEN true THEN 'yes' WHEN false THEN 'no' ELSE 'unknown' END) AS matches
    FROM bulk_progress
    WHERE
        first_received_at >= $1
        AND first_received_at <= $2
        AND (first_received_at, bulk_id) < ($2, $3::text)
    ORDER BY first_received_at DESC, bulk_id DESC
    LIMIT $5::bigint
) AS scanned
WHERE matches OR n = $5
ORDER BY first_received_at DESC, bulk_id DESC
LIMIT $6
