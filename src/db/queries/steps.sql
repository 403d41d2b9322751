-- The steps of an execution, with at most $2 characters of each text.
SELECT
    left(key, $2) AS "key!",
    left(step_id, $2) AS "step_id!",
    left(status, $2) AS status,
    left(model, $2) AS model,
    left(model_version, $2) AS model_version,
    duration_seconds,
    cost::text AS "cost: Json",
    is_fallback AS "is_fallback!",
    left(first_error, $2) AS first_error,
    left(error, $2) AS error,
    left(error_cause, $2) AS error_cause,
    failure_class,
    left(selected, $2) AS selected,
    left(started_at, $2) AS started_at,
    left(completed_at, $2) AS completed_at
FROM steps
WHERE execution_id = $1
ORDER BY steps.started_at, steps.key
LIMIT 1000
