-- What the receiver knows, for those who ask. Operators read this schema, so everything
-- that PostgreSQL should know about a row is said here: types, constraints, comments.
--
-- Identifiers are the sender's, opaque, and compared byte by byte: COLLATE "C" makes that
-- cheap and gives rows one order that every receiver locks them in.

-- The one place that says which statuses end an execution.
CREATE FUNCTION is_terminal_status(status text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN status IN ('completed', 'failed', 'cancelled');

COMMENT ON FUNCTION is_terminal_status(text) IS
    'Whether an execution with this status has ended: completed, failed or cancelled.';

CREATE TABLE executions (
    execution_id      text COLLATE "C" PRIMARY KEY,
    workflow_id       text COLLATE "C" NOT NULL,
    bulk_id           text COLLATE "C",
    status            text COLLATE "C" NOT NULL,
    started_at        timestamptz,
    completed_at      timestamptz,
    output            jsonb,
    error             text,
    error_cause       text,
    total_cost        numeric,
    payload           jsonb,
    payload_bytes     bytea,
    deliveries        integer     NOT NULL CHECK (deliveries > 0),
    first_received_at timestamptz NOT NULL,
    last_received_at  timestamptz NOT NULL,
    -- Nothing the sender said is ever dropped: it is here as jsonb, as bytes, or as both.
    CONSTRAINT executions_payload_kept CHECK (num_nonnulls(payload, payload_bytes) >= 1),
    CONSTRAINT executions_received_in_order CHECK (first_received_at <= last_received_at)
);
-- No foreign key to bulks: checking it would lock a bulk's row for every execution, in the
-- executions' order, and so undo the fixed order that keeps several receivers from deadlock.

COMMENT ON TABLE executions IS
    'One row per workflow execution: its first terminal outcome, or its latest non-terminal status until one comes.';
COMMENT ON COLUMN executions.execution_id IS
    'The sender''s identifier of the execution, opaque; deliveries are deduplicated by it.';
COMMENT ON COLUMN executions.workflow_id IS
    'The sender''s identifier of the workflow that ran, opaque.';
COMMENT ON COLUMN executions.bulk_id IS
    'The bulk that the execution was triggered in; null when it was triggered alone.';
COMMENT ON COLUMN executions.status IS
    'As sent: completed, failed and cancelled are terminal (see is_terminal_status); anything else, such as running, is not.';
COMMENT ON COLUMN executions.started_at IS
    'When the execution started, by the sender; null when not sent or not an RFC 3339 timestamp (payload keeps what was sent).';
COMMENT ON COLUMN executions.completed_at IS
    'When the execution ended, by the sender; null when not sent or not an RFC 3339 timestamp (payload keeps what was sent).';
COMMENT ON COLUMN executions.output IS
    'What the execution made, any JSON; null when there is none, or when jsonb cannot hold it (then payload_bytes keeps it).';
COMMENT ON COLUMN executions.error IS
    'The kind of failure, such as ExecutionFailed; null unless sent. Text that is no string is kept as its JSON.';
COMMENT ON COLUMN executions.error_cause IS
    'Why it failed, in the sender''s words; null unless sent. Characters that PostgreSQL cannot hold are replaced by U+FFFD.';
COMMENT ON COLUMN executions.total_cost IS
    'The cost of the execution, in the sender''s unit; null when not sent or not a number.';
COMMENT ON COLUMN executions.payload IS
    'The whole webhook body, unknown fields included; null only when jsonb cannot hold it (then payload_bytes does).';
COMMENT ON COLUMN executions.payload_bytes IS
    'The exact bytes of the body, kept where jsonb cannot hold them (U+0000, lone surrogates, numbers out of range, nesting too deep) or would drop something (a key given twice); null otherwise.';
COMMENT ON COLUMN executions.deliveries IS
    'How many deliveries came for this execution: duplicates and conflicts included. A crash can count one delivery twice.';
COMMENT ON COLUMN executions.first_received_at IS
    'When the first delivery of this execution came, by the receiver''s clock.';
COMMENT ON COLUMN executions.last_received_at IS
    'When the latest delivery of this execution came, by the receiver''s clock.';

-- "What came of bulk X?"
CREATE INDEX executions_bulk_id ON executions (bulk_id) WHERE bulk_id IS NOT NULL;
-- "What came in last?" Grows at its right end only, so it stays cheap to keep.
CREATE INDEX executions_first_received_at ON executions (first_received_at);
-- "What failed lately?"
CREATE INDEX executions_failed ON executions (first_received_at) WHERE status = 'failed';
-- "How did this workflow do?"
CREATE INDEX executions_workflow_id ON executions (workflow_id, first_received_at);

CREATE TABLE bulks (
    bulk_id           text COLLATE "C" PRIMARY KEY,
    expected          integer CHECK (expected > 0),
    received          integer NOT NULL DEFAULT 0,
    completed         integer NOT NULL DEFAULT 0,
    failed            integer NOT NULL DEFAULT 0,
    cancelled         integer NOT NULL DEFAULT 0,
    other             integer NOT NULL DEFAULT 0,
    first_received_at timestamptz,
    last_received_at  timestamptz,
    CONSTRAINT bulks_counts_add_up CHECK (received = completed + failed + cancelled + other)
) WITH (fillfactor = 50);
-- A bulk's row is updated with every batch that holds one of its executions: room on the page
-- keeps those updates heap-only, without touching the index.

COMMENT ON TABLE bulks IS
    'One row per bulk: how many of its executions are recorded, by status; kept in the same transaction as the executions.';
COMMENT ON COLUMN bulks.bulk_id IS
    'The sender''s identifier of the bulk, opaque.';
COMMENT ON COLUMN bulks.expected IS
    'How many executions the bulk has, where somebody said so: webhooks do not. Null when unknown.';
COMMENT ON COLUMN bulks.received IS
    'Different executions recorded in this bulk; always completed + failed + cancelled + other.';
COMMENT ON COLUMN bulks.completed IS
    'Executions of this bulk whose status is completed.';
COMMENT ON COLUMN bulks.failed IS
    'Executions of this bulk whose status is failed.';
COMMENT ON COLUMN bulks.cancelled IS
    'Executions of this bulk whose status is cancelled.';
COMMENT ON COLUMN bulks.other IS
    'Executions of this bulk with any other status: not ended yet, as far as is known.';
COMMENT ON COLUMN bulks.first_received_at IS
    'When the first delivery of this bulk that changed a count came; null before that.';
COMMENT ON COLUMN bulks.last_received_at IS
    'When the latest delivery of this bulk that changed a count came; null before that.';

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
    deliveries        integer     NOT NULL CHECK (deliveries > 0),
    first_received_at timestamptz NOT NULL,
    last_received_at  timestamptz NOT NULL,
    CONSTRAINT execution_conflicts_once_by_content UNIQUE (execution_id, body_sha256),
    CONSTRAINT execution_conflicts_payload_kept CHECK (num_nonnulls(payload, payload_bytes) >= 1)
);

COMMENT ON TABLE execution_conflicts IS
    'Deliveries that contradict the outcome recorded in executions: kept whole, once by content, never applied.';
COMMENT ON COLUMN execution_conflicts.conflict_id IS
    'Identifies the row; rises with the order of recording.';
COMMENT ON COLUMN execution_conflicts.execution_id IS
    'The execution whose recorded outcome is contradicted.';
COMMENT ON COLUMN execution_conflicts.workflow_id IS
    'The workflow, as this delivery has it.';
COMMENT ON COLUMN execution_conflicts.bulk_id IS
    'The bulk, as this delivery has it.';
COMMENT ON COLUMN execution_conflicts.status IS
    'The terminal status that this delivery reports.';
COMMENT ON COLUMN execution_conflicts.output IS
    'The output, as this delivery has it.';
COMMENT ON COLUMN execution_conflicts.error IS
    'The error, as this delivery has it.';
COMMENT ON COLUMN execution_conflicts.error_cause IS
    'The cause of the error, as this delivery has it.';
COMMENT ON COLUMN execution_conflicts.payload IS
    'The whole body of this delivery; null only when jsonb cannot hold it.';
COMMENT ON COLUMN execution_conflicts.payload_bytes IS
    'The exact bytes of the body, where jsonb cannot hold them or would drop something; null otherwise.';
COMMENT ON COLUMN execution_conflicts.body_sha256 IS
    'SHA-256 of the body: the same contradiction again only counts.';
COMMENT ON COLUMN execution_conflicts.deliveries IS
    'How many times this very delivery came. A crash can count one twice.';
COMMENT ON COLUMN execution_conflicts.first_received_at IS
    'When this delivery first came, by the receiver''s clock.';
COMMENT ON COLUMN execution_conflicts.last_received_at IS
    'When this delivery last came, by the receiver''s clock.';

CREATE TABLE quarantine (
    quarantine_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reason            text        NOT NULL,
    body              bytea       NOT NULL,
    body_sha256       bytea       NOT NULL CONSTRAINT quarantine_once_by_content UNIQUE,
    deliveries        integer     NOT NULL CHECK (deliveries > 0),
    first_received_at timestamptz NOT NULL,
    last_received_at  timestamptz NOT NULL
);

COMMENT ON TABLE quarantine IS
    'Bodies that were accepted but cannot be recorded as an execution: the exact bytes, once by content, and the reason.';
COMMENT ON COLUMN quarantine.quarantine_id IS
    'Identifies the row; rises with the order of recording.';
COMMENT ON COLUMN quarantine.reason IS
    'Why the body is no execution, or why PostgreSQL refused it.';
COMMENT ON COLUMN quarantine.body IS
    'The exact bytes of the body. convert_from(body, ''UTF8'') shows them as text.';
COMMENT ON COLUMN quarantine.body_sha256 IS
    'SHA-256 of the body: the same body again only counts.';
COMMENT ON COLUMN quarantine.deliveries IS
    'How many times this very body came. A crash can count one twice.';
COMMENT ON COLUMN quarantine.first_received_at IS
    'When this body first came, by the receiver''s clock.';
COMMENT ON COLUMN quarantine.last_received_at IS
    'When this body last came, by the receiver''s clock.';
