-- The hashes stay, because resolve_duplicates.rs compares a later delivery with them.
WITH due AS (
    SELECT execution_id FROM executions
    WHERE
        execution_id = ANY ($1) AND greatest(last_received_at, recorded_at) < $2 AND payload_removed_at IS NULL
        AND coalesce(completed_at < $2 OR completed_at > now(), true)
    FOR UPDATE SKIP LOCKED
)
UPDATE executions AS e
SET
    payload_removed_at = now(),
    output_sha256 = json_sha256(e.output),
    payload_sha256 = CASE WHEN e.payload IS NULL THEN sha256(e.payload_bytes) END,
    output = NULL,
    payload = NULL,
    payload_bytes = NULL
FROM due
WHERE e.execution_id = due.execution_id
RETURNING e.first_received_at
