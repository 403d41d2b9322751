-- Executions, and deliveries that contradict a recorded execution.
--
-- Identifiers are opaque and compared byte by byte: COLLATE "C" makes comparisons cheap, and gives all receivers the
-- same order for row locks.

-- The only definition of "terminal" in SQL. Legacy flows and predictions send succeeded or success instead of completed.
CREATE FUNCTION is_terminal_status(status text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN status IN ('completed', 'succeeded', 'success', 'failed', 'cancelled');

COMMENT ON FUNCTION is_terminal_status(text) IS
    'Whether an execution or prediction with this status has ended: completed (also succeeded, success), failed or cancelled.';

CREATE FUNCTION is_successful_status(status text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN status IN ('completed', 'succeeded', 'success');

COMMENT ON FUNCTION is_successful_status(text) IS
    'Whether the status is completed, or means the same in predictions and legacy flows: succeeded, success.';

-- Equal values have equal hashes. jsonb keeps the trailing zeros of 1.0 and 2.50, which are removed here. The first branch
-- of the pattern skips strings. The others match only trailing zeros, because each replacement takes time.
CREATE FUNCTION json_sha256(value jsonb) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN sha256(convert_to(
        regexp_replace(value::text, '("(?:[^"\\]|\\.)*")|(\.[0-9]*[1-9])0+(?![0-9])|\.0+(?![0-9])', '\1\2', 'g'), 'UTF8'
    ));

COMMENT ON FUNCTION json_sha256(jsonb) IS
    'SHA-256 of the JSON text as PostgreSQL writes it, without trailing zeros after a decimal point; null for SQL null.';

-- No foreign key to bulks: its check would lock rows of bulks in the order of executions. With several receivers, this
-- can deadlock.
CREATE TABLE executions (
    execution_id       text COLLATE "C" PRIMARY KEY,
    workflow_id        text COLLATE "C" NOT NULL,
    bulk_id            text COLLATE "C",
    status             text COLLATE "C" NOT NULL,
    started_at         timestamptz,
    completed_at       timestamptz,
    output             jsonb,
    error              text,
    error_cause        text,
    total_cost         numeric,
    payload            jsonb,
    payload_bytes      bytea,
    payload_removed_at timestamptz,
    output_sha256      bytea,
    payload_sha256     bytea,
    -- A column, because an index on an expression over the payload would decompress the payload for each duplicate.
    step_failed        boolean     NOT NULL DEFAULT false,
    authenticated_by   text COLLATE "C",
    -- Null takes no space, and fetched executions are rare.
    fetched_from       text COLLATE "C",
    deliveries         integer     NOT NULL CHECK (deliveries > 0),
    redeliveries       integer     NOT NULL DEFAULT 0,
    reference          jsonb,
    -- Null instead of 0: nulls take no space, and conflicts are rare.
    conflicts          integer,
    conflict_bytes     bigint,
    conflicts_dropped  integer,
    first_received_at  timestamptz NOT NULL,
    last_received_at   timestamptz NOT NULL,
    recorded_at        timestamptz NOT NULL DEFAULT now(),
    -- The whole body is stored as jsonb, as bytes, or as both, until retention removes it.
    CONSTRAINT executions_payload_kept
        CHECK (payload_removed_at IS NOT NULL OR num_nonnulls(payload, payload_bytes) >= 1),
    CONSTRAINT executions_received_in_order CHECK (first_received_at <= last_received_at)
);

COMMENT ON TABLE executions IS
    'One row per execution: its first terminal status with the result or, until then, its latest non-terminal status.';
COMMENT ON COLUMN executions.execution_id IS
    'Identifier of the execution, as sent. Deliveries with the same execution_id belong to the same row.';
COMMENT ON COLUMN executions.workflow_id IS
    'Identifier of the workflow, as sent: workflow_id, or flow_id in a legacy flow.';
COMMENT ON COLUMN executions.bulk_id IS
    'Identifier of the bulk, as sent; null without a bulk.';
COMMENT ON COLUMN executions.status IS
    'Status, as sent. completed, failed and cancelled are terminal, and succeeded or success in a legacy flow; any other status, such as running, is not.';
COMMENT ON COLUMN executions.started_at IS
    'Start of the execution, by the sender''s clock; null if not sent or not an RFC 3339 timestamp (see payload).';
COMMENT ON COLUMN executions.completed_at IS
    'End of the execution (ended_at in a legacy flow), by the sender''s clock; null if not sent or not an RFC 3339 timestamp (see payload).';
COMMENT ON COLUMN executions.output IS
    'Output of the execution, any JSON; null if not sent, if jsonb cannot store it (see payload_bytes), or if removed (see payload_removed_at).';
COMMENT ON COLUMN executions.error IS
    'Kind of failure, such as ExecutionFailed; null if not sent. A value that is not a string is stored as JSON text.';
COMMENT ON COLUMN executions.error_cause IS
    'Cause of the failure, as sent; null if not sent. Characters that PostgreSQL cannot store are replaced by U+FFFD.';
COMMENT ON COLUMN executions.total_cost IS
    'Cost of the execution, in the sender''s unit; null if not sent or not a number.';
COMMENT ON COLUMN executions.payload IS
    'Whole webhook body, including unknown fields, with null in place of an api_key; null if jsonb cannot store it (see payload_bytes) or if removed (see payload_removed_at).';
COMMENT ON COLUMN executions.payload_bytes IS
    'Exact bytes of the body, if jsonb cannot store it without loss (U+0000, lone surrogates, numbers out of range, deep nesting, duplicate keys); otherwise null, also after removal.';
COMMENT ON COLUMN executions.payload_removed_at IS
    'When retention.payloads removed output, payload and payload_bytes; null if they were not removed. A later delivery restores them only if it replaces a non-terminal status.';
COMMENT ON COLUMN executions.output_sha256 IS
    'json_sha256 of the removed output; null if there was none. Distinguishes later duplicates from conflicts.';
COMMENT ON COLUMN executions.payload_sha256 IS
    'SHA-256 of the removed payload_bytes, if payload was null; otherwise null. Distinguishes later duplicates from conflicts.';
COMMENT ON COLUMN executions.step_failed IS
    'Whether a step failed, also in a completed execution. See the view failed_steps.';
COMMENT ON COLUMN executions.authenticated_by IS
    'How the recorded delivery was authenticated: signature, secret_header, url_token, callback (confirmed by the sender''s API), or none (no authentication configured); null for a fetched execution, and if unknown.';
COMMENT ON COLUMN executions.fetched_from IS
    'Part of the sender''s API that the execution was read from because its webhook did not arrive: delivery_log, list or execution; null for a webhook.';
COMMENT ON COLUMN executions.deliveries IS
    'Number of deliveries of this execution, including duplicates and conflicts. After a crash, a delivery can be counted twice.';
COMMENT ON COLUMN executions.reference IS
    'Query parameters of the webhook''s URL, without secrets, as a JSON object of strings: {"order": "1234"}; null without any. The sender''s signature does not cover them. The first delivery with parameters counts.';
COMMENT ON COLUMN executions.redeliveries IS
    'Number of deliveries with the header X-Webhook-Redelivery: the sender sent the webhook again on request.';
COMMENT ON COLUMN executions.conflicts IS
    'Number of different conflicting deliveries stored in execution_conflicts, including removed ones; null for none. At most conflicts.max_per_execution, unless quarantined webhooks are retried.';
COMMENT ON COLUMN executions.conflict_bytes IS
    'Total size of the bodies of these conflicting deliveries in bytes; null for none. At most conflicts.max_bytes_per_execution, unless quarantined webhooks are retried.';
COMMENT ON COLUMN executions.conflicts_dropped IS
    'Number of conflicting deliveries that were not stored because a limit of conflicts.* was reached; null for none.';
COMMENT ON COLUMN executions.first_received_at IS
    'When the first delivery of this execution was received, by the receiver''s clock.';
COMMENT ON COLUMN executions.last_received_at IS
    'When the latest delivery of this execution was received, by the receiver''s clock.';
COMMENT ON COLUMN executions.recorded_at IS
    'When the latest delivery of this execution was recorded, by PostgreSQL''s clock. retention.* counts from the later of last_received_at and recorded_at.';

-- An index without a WHERE clause makes the recording of each execution slower.

-- Executions of a bulk.
CREATE INDEX executions_bulk_id ON executions (bulk_id) WHERE bulk_id IS NOT NULL;
-- Latest executions, and retention. Cheap to maintain: it grows at its right end only.
CREATE INDEX executions_first_received_at ON executions (first_received_at);
-- Executions of a workflow.
CREATE INDEX executions_workflow_id ON executions (workflow_id, first_received_at);
-- Slowest executions of an hour. Cheaper to maintain than an index on the duration alone: all inserts go to the few
-- pages of the current hour.
CREATE INDEX executions_slow ON executions (
    date_bin('1 hour', first_received_at, 'epoch'), date_part('epoch', completed_at - started_at)
) WHERE completed_at >= started_at;

-- Failed executions, and executions with a failed step.
CREATE INDEX executions_with_failure ON executions (first_received_at) WHERE status = 'failed' OR step_failed;
-- The same for one workflow.
CREATE INDEX executions_workflow_failures ON executions (workflow_id, first_received_at)
WHERE status = 'failed' OR step_failed;
-- Executions with a failed step that did not fail themselves. The first condition repeats the condition of the view
-- failed_steps, so that PostgreSQL recognises the index as usable.
CREATE INDEX executions_with_failed_step_only ON executions (first_received_at)
WHERE (status = 'failed' OR step_failed) AND status <> 'failed';
-- Running, cancelled and other rare statuses.
CREATE INDEX executions_rare_status ON executions (first_received_at)
WHERE status NOT IN ('completed', 'failed');
-- Fetched executions: their webhooks did not arrive.
CREATE INDEX executions_fetched ON executions (first_received_at) WHERE fetched_from IS NOT NULL;
-- Executions with a parameter of the caller: reference @> '{"order": "1234"}'.
CREATE INDEX executions_reference ON executions USING gin (reference jsonb_path_ops) WHERE reference IS NOT NULL;
-- Executions whose body jsonb cannot store without loss, for `repair`.
CREATE INDEX executions_with_payload_bytes ON executions (execution_id) WHERE payload_bytes IS NOT NULL;

CREATE TABLE execution_conflicts (
    conflict_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id      text COLLATE "C" NOT NULL,
    workflow_id       text COLLATE "C" NOT NULL,
    bulk_id           text COLLATE "C",
    status            text COLLATE "C" NOT NULL,
    output            jsonb,
    error             text,
    error_cause       text,
    payload           jsonb,
    payload_bytes     bytea,
    body_sha256       bytea       NOT NULL,
    authenticated_by  text COLLATE "C",
    deliveries        integer     NOT NULL CHECK (deliveries > 0),
    first_received_at timestamptz NOT NULL,
    last_received_at  timestamptz NOT NULL,
    recorded_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT execution_conflicts_once_by_content UNIQUE (execution_id, body_sha256),
    CONSTRAINT execution_conflicts_payload_kept CHECK (num_nonnulls(payload, payload_bytes) >= 1)
);

COMMENT ON TABLE execution_conflicts IS
    'Deliveries that contradict the terminal status or result in executions. One row per execution and body; never applied.';
COMMENT ON COLUMN execution_conflicts.conflict_id IS
    'Number of the conflict, in the order of recording.';
COMMENT ON COLUMN execution_conflicts.execution_id IS
    'Execution that the delivery contradicts.';
COMMENT ON COLUMN execution_conflicts.workflow_id IS
    'Workflow in this delivery.';
COMMENT ON COLUMN execution_conflicts.bulk_id IS
    'Bulk in this delivery; null without a bulk.';
COMMENT ON COLUMN execution_conflicts.status IS
    'Terminal status in this delivery.';
COMMENT ON COLUMN execution_conflicts.output IS
    'Output in this delivery; null if not sent or if jsonb cannot store it.';
COMMENT ON COLUMN execution_conflicts.error IS
    'Kind of failure in this delivery; null if not sent.';
COMMENT ON COLUMN execution_conflicts.error_cause IS
    'Cause of the failure in this delivery; null if not sent.';
COMMENT ON COLUMN execution_conflicts.payload IS
    'Whole body of this delivery; null if jsonb cannot store it (see payload_bytes).';
COMMENT ON COLUMN execution_conflicts.payload_bytes IS
    'Exact bytes of the body, if jsonb cannot store it without loss; otherwise null.';
COMMENT ON COLUMN execution_conflicts.body_sha256 IS
    'SHA-256 of the body. A repeated delivery with the same body only increases deliveries.';
COMMENT ON COLUMN execution_conflicts.authenticated_by IS
    'How this delivery was authenticated: signature, secret_header, url_token, callback or none; null for a fetched execution, and if unknown.';
COMMENT ON COLUMN execution_conflicts.deliveries IS
    'Number of deliveries with this body. After a crash, a delivery can be counted twice.';
COMMENT ON COLUMN execution_conflicts.first_received_at IS
    'When this body was first received, by the receiver''s clock.';
COMMENT ON COLUMN execution_conflicts.last_received_at IS
    'When this body was last received, by the receiver''s clock.';
COMMENT ON COLUMN execution_conflicts.recorded_at IS
    'When this body was last recorded, by PostgreSQL''s clock. retention.conflicts counts from the later of last_received_at and recorded_at.';

-- Latest conflicts, and retention.
CREATE INDEX execution_conflicts_first_received_at ON execution_conflicts (first_received_at);
