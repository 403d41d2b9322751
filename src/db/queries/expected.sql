-- A page of expected executions. At most $5 rows are scanned; the last scanned row is returned even if it does not match.
-- LIMIT in the subquery makes PostgreSQL find each execution by its primary key.
SELECT
    expected_id AS "expected_id!",
    execution_id,
    workflow_id,
    bulk_id,
    position AS "position!",
    state AS "state!",
    status AS "status?",
    left(message, 1000) AS message,
    reference::text AS "reference: Reference",
    registered_at AS "registered_at!",
    CASE WHEN execution_id IS NOT NULL THEN due_at END AS due_at,
    is_match AS "matches!",
    n = $5 AS "is_last_scanned!"
FROM (
    SELECT
        x.*,
        e.status,
        CASE
            WHEN x.execution_id IS NULL THEN 'rejected'
            WHEN is_terminal_status(e.status) THEN 'arrived'
            WHEN x.due_at <= now() THEN 'overdue'
            ELSE 'missing'
        END AS state,
        row_number() OVER (ORDER BY x.registered_at DESC, x.expected_id DESC) AS n
    FROM (
        SELECT *
        FROM expected_executions
        WHERE
            (registered_at, expected_id) < ($1, $2::bigint)
            AND ($3::text IS NULL OR bulk_id = $3)
            AND (coalesce($4, '') NOT IN ('missing', 'overdue') OR (NOT settled AND execution_id IS NOT NULL))
            AND (coalesce($4, '') <> 'overdue' OR due_at <= now())
            AND (coalesce($4, '') <> 'rejected' OR execution_id IS NULL)
        ORDER BY registered_at DESC, expected_id DESC
        LIMIT $5::bigint
    ) AS x
    LEFT JOIN LATERAL (SELECT status FROM executions WHERE execution_id = x.execution_id LIMIT 1) AS e ON true
) AS scanned
CROSS JOIN LATERAL (
    SELECT
        ($4::text IS NULL OR $4 = state OR ($4 = 'missing' AND state = 'overdue'))
        AND ($7::text IS NULL OR coalesce(reference @> $7::text::jsonb, false))
        AND ($8::text[] IS NULL OR coalesce(lower(reference::text) LIKE ALL ($8), false)) AS is_match
) AS m
WHERE is_match OR n = $5
ORDER BY registered_at DESC, expected_id DESC
LIMIT $6
