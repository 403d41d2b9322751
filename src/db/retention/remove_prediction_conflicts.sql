WITH due AS (
    SELECT conflict_id FROM prediction_conflicts
    WHERE conflict_id = ANY ($1::text[]::bigint[]) AND greatest(last_received_at, recorded_at) < $2
    FOR UPDATE SKIP LOCKED
)
DELETE FROM prediction_conflicts AS c
USING due
WHERE c.conflict_id = due.conflict_id
RETURNING c.first_received_at
