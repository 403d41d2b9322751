-- The next expected executions, and whether they have expired. A recorded execution has its own age.
SELECT
    x.expected_id::text AS "id!",
    x.registered_at AS "first_received_at!",
    x.registered_at < $4 AND NOT EXISTS (
        SELECT FROM executions AS e WHERE e.execution_id = x.execution_id
    ) AS "due!"
FROM expected_executions AS x
WHERE (x.registered_at, x.expected_id) > ($1, $2::text::bigint) AND x.registered_at < $4
ORDER BY x.registered_at, x.expected_id
LIMIT $3
