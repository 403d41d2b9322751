-- Groups failures: the latest $5 failed executions and predictions, or if $8 is step or model, the failed steps of the
-- latest $5 executions that have one.
WITH latest AS (
    (
        SELECT workflow_id, error, error_cause, execution_id AS id, false AS is_prediction, first_received_at
        FROM executions
        WHERE
            (status = 'failed' OR step_failed)
            AND CASE WHEN $8::text <> 'cause' THEN step_failed ELSE status = 'failed' END
            AND $3::text IS NULL
            AND first_received_at >= $1
            AND first_received_at < $2
            AND ($4::text IS NULL OR bulk_id = $4)
            AND ($9::text::jsonb IS NULL OR reference @> $9::text::jsonb)
        ORDER BY first_received_at DESC
        LIMIT $5::bigint
    )
    UNION ALL
    -- The executions of one workflow have their own index. coalesce hides the comparison from the planner. Otherwise
    -- the planner would count the rarity of failures twice, expect fewer rows than the limit, and read all failures.
    (
        SELECT workflow_id, error, error_cause, execution_id, false, first_received_at
        FROM executions
        WHERE
            (status = 'failed' OR step_failed)
            AND CASE WHEN $8 <> 'cause' THEN coalesce(step_failed, false) ELSE coalesce(status = 'failed', false) END
            AND (workflow_id, first_received_at) >= ($3, $1)
            AND (workflow_id, first_received_at) < ($3, $2)
            AND ($4::text IS NULL OR bulk_id = $4)
            AND ($9::text::jsonb IS NULL OR reference @> $9::text::jsonb)
        ORDER BY workflow_id DESC, first_received_at DESC
        LIMIT $5::bigint
    )
    UNION ALL
    -- Predictions have no steps and no bulk.
    (
        SELECT workflow_id, error, error_cause, prediction_id, true, first_received_at
        FROM predictions
        WHERE
            status = 'failed'
            AND $8 = 'cause'
            AND $3 IS NULL
            AND $4 IS NULL
            AND ($9::text::jsonb IS NULL OR reference @> $9::text::jsonb)
            AND first_received_at >= $1
            AND first_received_at < $2
        ORDER BY first_received_at DESC
        LIMIT $5::bigint
    )
    UNION ALL
    (
        SELECT workflow_id, error, error_cause, prediction_id, true, first_received_at
        FROM predictions
        WHERE
            status = 'failed'
            AND workflow_id IS NOT NULL
            AND $8 = 'cause'
            AND $4 IS NULL
            AND ($9::text::jsonb IS NULL OR reference @> $9::text::jsonb)
            AND (workflow_id, first_received_at) >= ($3, $1)
            AND (workflow_id, first_received_at) < ($3, $2)
        ORDER BY workflow_id DESC, first_received_at DESC
        LIMIT $5::bigint
    )
),
scanned AS (
    SELECT * FROM latest
    ORDER BY first_received_at DESC
    LIMIT $5::bigint
),
failed AS (
    SELECT workflow_id, NULL AS step_id, NULL AS model, error, error_cause, id, is_prediction, first_received_at
    FROM scanned
    WHERE $8 = 'cause'
    UNION ALL
    SELECT
        CASE $8 WHEN 'step' THEN l.workflow_id END, CASE $8 WHEN 'step' THEN s.step_id END,
        CASE $8 WHEN 'model' THEN s.model END, s.error, s.error_cause, l.id, false, l.first_received_at
    FROM scanned AS l
    INNER JOIN steps AS s ON l.id = s.execution_id
    WHERE $8 <> 'cause' AND s.status = 'failed'
),
causes AS (
    SELECT
        workflow_id,
        step_id,
        is_prediction,
        left(model, $6) AS model,
        max(error) AS error,
        max(error_cause) AS error_cause,
        count(*) AS with_cause,
        (array_agg(id ORDER BY first_received_at DESC))[1] AS latest_id,
        min(first_received_at) AS earliest_received_at,
        max(first_received_at) AS latest_received_at
    FROM failed
    GROUP BY is_prediction, workflow_id, step_id, left(model, $6), left(error, $6), left(error_cause, $6)
),
-- A group is one cause, or with $8 = model all causes of the model: the most frequent one is shown.
grouped AS (
    SELECT
        workflow_id,
        step_id,
        is_prediction,
        model,
        error,
        error_cause,
        with_cause,
        row_number() OVER (of_group ORDER BY with_cause DESC, latest_received_at DESC) AS place,
        sum(with_cause) OVER of_group AS failed,
        first_value(latest_id) OVER (of_group ORDER BY latest_received_at DESC) AS latest_id,
        min(earliest_received_at) OVER of_group AS earliest_received_at,
        max(latest_received_at) OVER of_group AS latest_received_at,
        sum(with_cause) OVER () AS all_failed
    FROM causes
    WINDOW of_group AS (
        PARTITION BY
            is_prediction, workflow_id, step_id, model,
            CASE WHEN $8 <> 'model' THEN left(error, $6) END, CASE WHEN $8 <> 'model' THEN left(error_cause, $6) END
    )
),
largest AS (
    SELECT * FROM grouped
    WHERE place = 1
    ORDER BY failed DESC, latest_received_at DESC
    LIMIT $7
)
SELECT
    workflow_id,
    step_id,
    model,
    -- For each group, because it takes 0.1 ms. The error of a prediction is the sender's code. The failed steps of an
    -- execution can show its class.
    CASE
        WHEN is_prediction THEN failure_class(error, error_cause)
        WHEN $8 = 'cause' THEN (
            SELECT execution_failure_class(e.error_cause, e.error, e.step_failed, e.payload)
            FROM executions AS e
            WHERE e.execution_id = latest_id
        )
        ELSE failure_class(error_cause, error)
    END AS "failure_class!",
    left(error, $6) AS error,
    left(error_cause, $6) AS error_cause,
    failed::bigint AS "failed!",
    with_cause AS "with_cause!",
    CASE WHEN NOT is_prediction THEN latest_id END AS latest_execution_id,
    CASE WHEN is_prediction THEN latest_id END AS latest_prediction_id,
    earliest_received_at AS "earliest_received_at!",
    latest_received_at AS "latest_received_at!",
    all_failed::bigint AS "all_failed!",
    (SELECT count(*) FROM scanned) AS "scanned!",
    (SELECT min(l.first_received_at) FROM scanned AS l) AS "earliest_scanned!"
FROM largest
ORDER BY failed DESC, latest_received_at DESC
