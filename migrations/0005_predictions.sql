-- Predictions: executions of a single model. The sender posts them to the same URL as the executions of workflows. They
-- have tables of their own, so that no count of executions includes them.
--
-- The columns have the names and meanings of those in executions, and the same rules fill them.

CREATE TABLE predictions (
    prediction_id      text COLLATE "C" PRIMARY KEY,
    workflow_id        text COLLATE "C",
    status             text COLLATE "C" NOT NULL,
    output             jsonb,
    error              text,
    error_cause        text,
    total_cost         numeric,
    duration_seconds   double precision,
    payload            jsonb,
    payload_bytes      bytea,
    payload_removed_at timestamptz,
    output_sha256      bytea,
    payload_sha256     bytea,
    authenticated_by   text COLLATE "C",
    fetched_from       text COLLATE "C",
    deliveries         integer     NOT NULL CHECK (deliveries > 0),
    redeliveries       integer     NOT NULL DEFAULT 0,
    reference          jsonb,
    conflicts          integer,
    conflict_bytes     bigint,
    conflicts_dropped  integer,
    first_received_at  timestamptz NOT NULL,
    last_received_at   timestamptz NOT NULL,
    recorded_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT predictions_payload_kept
        CHECK (payload_removed_at IS NOT NULL OR num_nonnulls(payload, payload_bytes) >= 1),
    CONSTRAINT predictions_received_in_order CHECK (first_received_at <= last_received_at)
);

COMMENT ON TABLE predictions IS
    'One row per prediction: its first terminal status with the result or, until then, its latest non-terminal status.';
COMMENT ON COLUMN predictions.prediction_id IS
    'Identifier of the prediction, as sent: exec_id, or in other forms execution_id or id.';
COMMENT ON COLUMN predictions.workflow_id IS
    'Workflow that the prediction is a step of, as sent (flow_id); null for a prediction outside of a workflow.';
COMMENT ON COLUMN predictions.status IS
    'Status, as sent. succeeded, success, completed, failed and cancelled are terminal; any other status is not.';
COMMENT ON COLUMN predictions.output IS
    'Output of the prediction, any JSON; null if not sent, if jsonb cannot store it (see payload_bytes), or if removed (see payload_removed_at).';
COMMENT ON COLUMN predictions.error IS
    'Kind of failure: the error_code, such as PROVIDER_REJECTED; null if not sent.';
COMMENT ON COLUMN predictions.error_cause IS
    'Cause of the failure: the error_message, or error as text; null if not sent. Characters that PostgreSQL cannot store are replaced by U+FFFD.';
COMMENT ON COLUMN predictions.total_cost IS
    'Cost of the prediction (metrics.cost), in the sender''s unit; null if not sent or not a number.';
COMMENT ON COLUMN predictions.duration_seconds IS
    'How long the model ran (metrics.predict_time); null if not sent or not a number.';
COMMENT ON COLUMN predictions.payload IS
    'Whole webhook body, including unknown fields; null if jsonb cannot store it (see payload_bytes) or if removed (see payload_removed_at).';
COMMENT ON COLUMN predictions.payload_bytes IS
    'Exact bytes of the body, if jsonb cannot store it without loss; otherwise null, also after removal.';
COMMENT ON COLUMN predictions.payload_removed_at IS
    'When retention.payloads removed output, payload and payload_bytes; null if they were not removed.';
COMMENT ON COLUMN predictions.output_sha256 IS
    'json_sha256 of the removed output; null if there was none. Distinguishes later duplicates from conflicts.';
COMMENT ON COLUMN predictions.payload_sha256 IS
    'SHA-256 of the removed payload_bytes, if payload was null; otherwise null. Distinguishes later duplicates from conflicts.';
COMMENT ON COLUMN predictions.authenticated_by IS
    'How the recorded delivery was authenticated: signature, secret_header, url_token, callback (confirmed by the sender''s API), or none (no authentication configured); null for a fetched prediction, and if unknown.';
COMMENT ON COLUMN predictions.fetched_from IS
    'delivery_log if the webhook did not arrive and its body was read from the sender''s log of deliveries; otherwise null.';
COMMENT ON COLUMN predictions.deliveries IS
    'Number of deliveries of this prediction, including duplicates and conflicts. After a crash, a delivery can be counted twice.';
COMMENT ON COLUMN predictions.redeliveries IS
    'Number of deliveries with the header X-Webhook-Redelivery: the sender sent the webhook again on request.';
COMMENT ON COLUMN predictions.reference IS
    'Query parameters of the webhook''s URL, without secrets, as a JSON object of strings: {"order": "1234"}; null without any.';
COMMENT ON COLUMN predictions.conflicts IS
    'Number of different conflicting deliveries stored in prediction_conflicts, including removed ones; null for none. At most conflicts.max_per_execution, unless quarantined webhooks are retried.';
COMMENT ON COLUMN predictions.conflict_bytes IS
    'Total size of the bodies of these conflicting deliveries in bytes; null for none. At most conflicts.max_bytes_per_execution, unless quarantined webhooks are retried.';
COMMENT ON COLUMN predictions.conflicts_dropped IS
    'Number of conflicting deliveries that were not stored because a limit of conflicts.* was reached; null for none.';
COMMENT ON COLUMN predictions.first_received_at IS
    'When the first delivery of this prediction was received, by the receiver''s clock.';
COMMENT ON COLUMN predictions.last_received_at IS
    'When the latest delivery of this prediction was received, by the receiver''s clock.';
COMMENT ON COLUMN predictions.recorded_at IS
    'When the latest delivery of this prediction was recorded, by PostgreSQL''s clock. retention.* counts from the later of last_received_at and recorded_at.';

-- Latest predictions, and retention.
CREATE INDEX predictions_first_received_at ON predictions (first_received_at);
-- Predictions of a workflow.
CREATE INDEX predictions_workflow_id ON predictions (workflow_id, first_received_at) WHERE workflow_id IS NOT NULL;
-- Failed predictions.
CREATE INDEX predictions_failed ON predictions (first_received_at) WHERE status = 'failed';
-- The same for one workflow.
CREATE INDEX predictions_workflow_failures ON predictions (workflow_id, first_received_at)
WHERE status = 'failed' AND workflow_id IS NOT NULL;
-- Predictions with a parameter of the caller: reference @> '{"order": "1234"}'.
CREATE INDEX predictions_reference ON predictions USING gin (reference jsonb_path_ops) WHERE reference IS NOT NULL;
-- Predictions whose body jsonb cannot store without loss, for `repair`.
CREATE INDEX predictions_with_payload_bytes ON predictions (prediction_id) WHERE payload_bytes IS NOT NULL;

CREATE TABLE prediction_conflicts (
    conflict_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    prediction_id     text COLLATE "C" NOT NULL,
    workflow_id       text COLLATE "C",
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
    CONSTRAINT prediction_conflicts_once_by_content UNIQUE (prediction_id, body_sha256),
    CONSTRAINT prediction_conflicts_payload_kept CHECK (num_nonnulls(payload, payload_bytes) >= 1)
);

COMMENT ON TABLE prediction_conflicts IS
    'Deliveries that contradict the terminal status or result in predictions. One row per prediction and body; never applied.';
COMMENT ON COLUMN prediction_conflicts.conflict_id IS
    'Number of the conflict, in the order of recording.';
COMMENT ON COLUMN prediction_conflicts.prediction_id IS
    'Prediction that the delivery contradicts.';
COMMENT ON COLUMN prediction_conflicts.workflow_id IS
    'Workflow in this delivery; null without one.';
COMMENT ON COLUMN prediction_conflicts.status IS
    'Terminal status in this delivery.';
COMMENT ON COLUMN prediction_conflicts.output IS
    'Output in this delivery; null if not sent or if jsonb cannot store it.';
COMMENT ON COLUMN prediction_conflicts.error IS
    'Kind of failure in this delivery; null if not sent.';
COMMENT ON COLUMN prediction_conflicts.error_cause IS
    'Cause of the failure in this delivery; null if not sent.';
COMMENT ON COLUMN prediction_conflicts.payload IS
    'Whole body of this delivery; null if jsonb cannot store it (see payload_bytes).';
COMMENT ON COLUMN prediction_conflicts.payload_bytes IS
    'Exact bytes of the body, if jsonb cannot store it without loss; otherwise null.';
COMMENT ON COLUMN prediction_conflicts.body_sha256 IS
    'SHA-256 of the body. A repeated delivery with the same body only increases deliveries.';
COMMENT ON COLUMN prediction_conflicts.authenticated_by IS
    'How this delivery was authenticated: signature, secret_header, url_token, callback or none; null for a fetched prediction, and if unknown.';
COMMENT ON COLUMN prediction_conflicts.deliveries IS
    'Number of deliveries with this body. After a crash, a delivery can be counted twice.';
COMMENT ON COLUMN prediction_conflicts.first_received_at IS
    'When this body was first received, by the receiver''s clock.';
COMMENT ON COLUMN prediction_conflicts.last_received_at IS
    'When this body was last received, by the receiver''s clock.';
COMMENT ON COLUMN prediction_conflicts.recorded_at IS
    'When this body was last recorded, by PostgreSQL''s clock. retention.conflicts counts from the later of last_received_at and recorded_at.';

-- Retention.
CREATE INDEX prediction_conflicts_first_received_at ON prediction_conflicts (first_received_at);
