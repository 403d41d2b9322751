-- What is kept only so long (retention.*): a payload may go and leave its outcome, an execution may
-- go as a whole.
--
-- No table and no index is added, so recording costs what it did: what is old is found by
-- first_received_at, in the order of time, and the place that was reached is remembered by whoever
-- removes. What goes is deleted row by row: tables by day or month, dropped as a whole, could not
-- keep one row for each execution_id.

ALTER TABLE executions
    ADD COLUMN payload_removed_at timestamptz,
    ADD COLUMN output_sha256 bytea,
    ADD COLUMN payload_sha256 bytea;

-- Every row fulfils the wider one, too: nothing is read for it.
ALTER TABLE executions
    DROP CONSTRAINT executions_payload_kept,
    ADD CONSTRAINT executions_payload_kept
        CHECK (payload_removed_at IS NOT NULL OR num_nonnulls(payload, payload_bytes) >= 1) NOT VALID;

COMMENT ON COLUMN executions.payload_removed_at IS
    'When output, payload and payload_bytes were removed, since they had been kept for retention.payloads; null while they are here. A later delivery brings them back only where it replaces a non-terminal status.';
COMMENT ON COLUMN executions.output_sha256 IS
    'json_sha256 of the output that was removed; null when there was none. By it, a delivery that comes later is still told to be a duplicate or a conflict.';
COMMENT ON COLUMN executions.payload_sha256 IS
    'SHA-256 of the payload_bytes that were removed, where there was no payload beside them: such a body is compared as a whole. Null otherwise.';
COMMENT ON COLUMN executions.output IS
    'What the execution made, any JSON; null when there is none, when jsonb cannot hold it (then payload_bytes keeps it), or when it was removed (payload_removed_at).';
COMMENT ON COLUMN executions.payload IS
    'The whole webhook body, unknown fields included; null only when jsonb cannot hold it (then payload_bytes does), or when it was removed (payload_removed_at).';
COMMENT ON COLUMN executions.payload_bytes IS
    'The exact bytes of the body, kept where jsonb cannot hold them (U+0000, lone surrogates, numbers out of range, nesting too deep) or would drop something (a key given twice), until they are removed (payload_removed_at); null otherwise.';

COMMENT ON COLUMN quarantine.acknowledged IS
    'Whether the sender was answered 200, at least once: such rows are kept whatever quarantine.max_rows, max_bytes and retention.quarantine say.';

-- Numbers that are equal and written otherwise, such as 1.0 and 1.00, differ in it: a sender's
-- repetition is the same bytes.
CREATE FUNCTION json_sha256(value jsonb) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN sha256(convert_to(value::text, 'UTF8'));

COMMENT ON FUNCTION json_sha256(jsonb) IS
    'SHA-256 of the JSON as PostgreSQL writes it; null for null.';

-- Counts and sums are history: they say what was recorded, and stay as they are when executions are
-- removed. So a bulk that was complete stays so, and rates and costs go further back than executions.
COMMENT ON TABLE bulks IS
    'One row per bulk: how many of its executions were recorded, by status, those removed since included; kept in the same transaction as the executions. It goes when all of them are gone (retention.executions).';
COMMENT ON COLUMN bulks.received IS
    'Different executions recorded in this bulk, those removed since included; always completed + failed + cancelled + other.';
COMMENT ON TABLE workflow_hours IS
    'One row per hour and workflow: how many of its executions were recorded, by status, those removed since included; kept in the same transaction as the executions.';
COMMENT ON TABLE workflow_days IS
    'One row per day and workflow: what its executions cost, those removed since included; kept in the same transaction as the executions.';
COMMENT ON VIEW bulk_progress IS
    'One row per bulk: how far it is, executions removed since included. Ask by bulk_id or first_received_at.';
COMMENT ON COLUMN bulk_progress.received IS
    'Different executions recorded in this bulk, those removed since included; always completed + failed + cancelled + other.';
COMMENT ON VIEW failure_rates IS
    'One row per hour and workflow: how its executions went, those removed since included. Ask by hour.';
COMMENT ON VIEW costs IS
    'One row per day and workflow: what its executions cost, those removed since included. Ask by day.';
COMMENT ON VIEW failure_causes IS
    'One row per hour, workflow and cause: how many executions failed, of those that are not removed. Ask by hour: each hour asked for has its failed executions read.';

-- The views show nothing of a payload that is removed, and where that could be taken for a payload
-- that said nothing, when it was removed.
COMMENT ON VIEW results IS
    'One row per output of an execution, until its payload is removed: each element of an array, each field of an object, or the one value. Ask by bulk_id, execution_id, workflow_id or first_received_at.';
COMMENT ON VIEW failed_steps IS
    'One row per failed step of any execution, completed ones included, until its payload is removed. Ask by first_received_at, workflow_id, bulk_id or execution_id.';

CREATE OR REPLACE VIEW failures AS
SELECT
    e.execution_id,
    e.workflow_id,
    e.bulk_id,
    e.error,
    e.error_cause,
    (
        SELECT array_agg(coalesce(s.step ->> 'step_id', s.key) ORDER BY s.key)
        FROM jsonb_each(
            CASE jsonb_typeof(e.payload -> 'step_outputs') WHEN 'object' THEN e.payload -> 'step_outputs' END
        ) AS s (key, step)
        WHERE s.step ->> 'status' = 'failed'
    ) AS failed_steps,
    e.started_at,
    e.completed_at,
    e.first_received_at,
    e.last_received_at,
    e.payload_removed_at
FROM executions AS e
WHERE e.status = 'failed';

COMMENT ON COLUMN failures.failed_steps IS
    'The identifiers of the steps whose status is failed; null when the webhook names none, or its payload is removed.';
COMMENT ON COLUMN failures.payload_removed_at IS
    'When its payload was removed, and with it failed_steps; null while it is here.';

CREATE OR REPLACE VIEW latest_executions AS
SELECT
    execution_id,
    workflow_id,
    bulk_id,
    status,
    error_cause,
    total_cost,
    CASE WHEN completed_at >= started_at THEN date_part('epoch', completed_at - started_at) END AS duration_seconds,
    started_at,
    completed_at,
    authenticated_by,
    deliveries,
    first_received_at,
    last_received_at,
    payload_removed_at
FROM executions
ORDER BY first_received_at DESC;

COMMENT ON COLUMN latest_executions.payload_removed_at IS
    'When its payload and output were removed; null while they are here.';

CREATE OR REPLACE VIEW conflicts AS
SELECT
    c.conflict_id,
    c.execution_id,
    c.workflow_id,
    c.bulk_id,
    CASE
        WHEN e.execution_id IS NOT NULL THEN array_remove(ARRAY[
            CASE WHEN e.workflow_id <> c.workflow_id THEN 'workflow_id' END,
            CASE WHEN e.bulk_id IS DISTINCT FROM c.bulk_id THEN 'bulk_id' END,
            CASE WHEN e.status <> c.status THEN 'status' END,
            CASE
                WHEN e.payload_removed_at IS NULL AND e.output IS DISTINCT FROM c.output THEN 'output'
                WHEN e.payload_removed_at IS NOT NULL AND e.output_sha256 IS DISTINCT FROM json_sha256(c.output)
                    THEN 'output'
            END,
            CASE WHEN e.error IS DISTINCT FROM c.error THEN 'error' END,
            CASE WHEN e.error_cause IS DISTINCT FROM c.error_cause THEN 'error_cause' END
        ], NULL)
    END AS differs_in,
    e.status AS recorded_status,
    c.status AS delivered_status,
    e.output AS recorded_output,
    c.output AS delivered_output,
    e.error_cause AS recorded_error_cause,
    c.error_cause AS delivered_error_cause,
    e.authenticated_by AS recorded_authenticated_by,
    c.authenticated_by AS delivered_authenticated_by,
    c.deliveries,
    c.first_received_at,
    c.last_received_at,
    e.payload_removed_at AS recorded_payload_removed_at
FROM execution_conflicts AS c
LEFT JOIN executions AS e ON c.execution_id = e.execution_id;

COMMENT ON COLUMN conflicts.recorded_output IS
    'The output that stands; null, too, when it is removed.';
COMMENT ON COLUMN conflicts.recorded_payload_removed_at IS
    'When the recorded payload and output were removed; null while they are here. differs_in knows the output all the same.';
