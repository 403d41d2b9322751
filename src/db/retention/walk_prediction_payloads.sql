-- The next predictions, and whether their payloads have expired. Expired predictions are removed with their payloads.
SELECT
    prediction_id AS id,
    first_received_at,
    greatest(last_received_at, recorded_at) < $4
    AND payload_removed_at IS NULL
    AND coalesce(greatest(last_received_at, recorded_at) >= $5, $5 IS NULL) AS "due!"
FROM predictions
WHERE (first_received_at, prediction_id) > ($1, $2) AND first_received_at < $4
ORDER BY first_received_at, prediction_id
LIMIT $3
