-- The common case: executions that are not recorded yet. Those that are come back by their
-- absence, and settle_known.sql decides about them.
--
-- They come sorted by execution_id, and are inserted one after the other as they come: none of
-- several receivers can wait for another that waits for it. Unnested in the list of columns, they
-- are neither gathered nor sorted before, which takes a quarter of the whole statement's time.
INSERT INTO executions (
    execution_id, workflow_id, bulk_id, status, started_at, completed_at, output, error, error_cause,
    total_cost, payload, payload_bytes, step_failed, authenticated_by,
    deliveries, first_received_at, last_received_at
)
SELECT
    i.execution_id, i.workflow_id, i.bulk_id, i.status, i.started_at, i.completed_at, i.output::jsonb,
    i.error, i.error_cause, i.total_cost::numeric, i.payload::jsonb, i.payload_bytes, i.step_failed,
    i.authenticated_by, i.deliveries, i.first_received_at, i.last_received_at
FROM (
    SELECT
        unnest($1::text[]) AS execution_id,
        unnest($2::text[]) AS workflow_id,
        unnest($3::text[]) AS bulk_id,
        unnest($4::text[]) AS status,
        unnest($5::timestamptz[]) AS started_at,
        unnest($6::timestamptz[]) AS completed_at,
        unnest($7::text[]) AS output,
        unnest($8::text[]) AS error,
        unnest($9::text[]) AS error_cause,
        unnest($10::text[]) AS total_cost,
        unnest($11::text[]) AS payload,
        unnest($12::bytea[]) AS payload_bytes,
        unnest($13::boolean[]) AS step_failed,
        unnest($14::text[]) AS authenticated_by,
        unnest($15::integer[]) AS deliveries,
        unnest($16::timestamptz[]) AS first_received_at,
        unnest($17::timestamptz[]) AS last_received_at
) AS i
ON CONFLICT (execution_id) DO NOTHING
RETURNING execution_id
