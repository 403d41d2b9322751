-- The next expected executions, and whether they have expired. A recorded execution has its own age. There is no EXISTS
-- here, because PostgreSQL might read and hash all executions for it.
SELECT
    x.expected_id::text AS "id!",
    x.registered_at AS "first_received_at!",
    x.registered_at < $4 AND (
        SELECT e.execution_id FROM executions AS e WHERE e.execution_id = x.execution_id LIMIT 1
    ) IS NULL AS "due!"
FROM expected_executions AS x
WHERE (x.registered_at, x.expected_id) > ($1, $2::text::bigint) AND x.registered_at < $4
ORDER BY x.registered_at, x.expected_id
LIMIT $3
