WITH due AS (
    SELECT prediction_id FROM predictions
    WHERE prediction_id = ANY ($1) AND greatest(last_received_at, recorded_at) < $2
    FOR UPDATE SKIP LOCKED
)
DELETE FROM predictions AS p
USING due
WHERE p.prediction_id = due.prediction_id
RETURNING p.first_received_at
