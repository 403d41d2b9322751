-- The hashes stay, as in remove_payloads.sql.
WITH due AS (
    SELECT prediction_id FROM predictions
    WHERE
        prediction_id = ANY ($1) AND greatest(last_received_at, recorded_at) < $2 AND payload_removed_at IS NULL
    FOR UPDATE SKIP LOCKED
)
UPDATE predictions AS p
SET
    payload_removed_at = now(),
    output_sha256 = json_sha256(p.output),
    payload_sha256 = CASE WHEN p.payload IS NULL THEN sha256(p.payload_bytes) END,
    output = NULL,
    payload = NULL,
    payload_bytes = NULL
FROM due
WHERE p.prediction_id = due.prediction_id
RETURNING p.first_received_at
