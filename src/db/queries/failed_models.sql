-- The failed steps of the latest $3 executions with a failed step, by model: the number, the most frequent cause, and the
-- latest execution. At most $4 models.
WITH scanned AS (
    SELECT execution_id, first_received_at
    FROM executions
    WHERE (status = 'failed' OR step_failed) AND step_failed AND first_received_at >= $1 AND first_received_at < $2
    ORDER BY first_received_at DESC
    LIMIT $3::bigint
),
causes AS (
    SELECT
        left(s.model, $5) AS model,
        left(s.error, $5) AS error,
        left(s.error_cause, $5) AS error_cause,
        count(*) AS failed,
        sum(count(*)) OVER of_model AS all_failed,
        row_number() OVER (of_model ORDER BY count(*) DESC, max(l.first_received_at) DESC) AS place,
        max(max(l.first_received_at)) OVER of_model AS latest_received_at
    FROM scanned AS l
    INNER JOIN steps AS s ON l.execution_id = s.execution_id
    WHERE s.status = 'failed' AND s.model IS NOT NULL
    GROUP BY left(s.model, $5), left(s.error, $5), left(s.error_cause, $5)
    WINDOW of_model AS (PARTITION BY left(s.model, $5))
)
SELECT
    model AS "model!",
    error,
    error_cause,
    failed AS "failed!",
    all_failed::bigint AS "all_failed!",
    -- Only for the returned rows, because it takes 0.1 ms or more.
    failure_class(error_cause, error) AS "failure_class!",
    latest_received_at AS "latest_received_at!",
    (SELECT count(*) FROM scanned) AS "scanned!"
FROM causes
WHERE place = 1
ORDER BY all_failed DESC, latest_received_at DESC
LIMIT $4
