-- The common case: executions that are not recorded yet. Those that are come back by their
-- absence, and settle_known.sql decides about them.
INSERT INTO executions (
    execution_id, workflow_id, bulk_id, status, started_at, completed_at, output, error, error_cause,
    total_cost, payload, payload_bytes, step_failed, authenticated_by,
    deliveries, first_received_at, last_received_at
)
SELECT
    i.execution_id, i.workflow_id, i.bulk_id, i.status, i.started_at, i.completed_at, i.output::jsonb,
    i.error, i.error_cause, i.total_cost::numeric, i.payload::jsonb, i.payload_bytes, i.step_failed,
    i.authenticated_by, i.deliveries, i.first_received_at, i.last_received_at
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::text[],
    $8::text[], $9::text[], $10::text[], $11::text[], $12::bytea[], $13::boolean[], $14::text[],
    $15::integer[], $16::timestamptz[], $17::timestamptz[]
) AS i (
    execution_id, workflow_id, bulk_id, status, started_at, completed_at, output, error, error_cause,
    total_cost, payload, payload_bytes, step_failed, authenticated_by, deliveries, first_received_at,
    last_received_at
)
-- One order for every receiver: none can wait for another that waits for it.
ORDER BY i.execution_id COLLATE "C"
ON CONFLICT (execution_id) DO NOTHING
RETURNING execution_id
