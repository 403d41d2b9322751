-- Unsigned deliveries that wait until the sender's API confirms them (auth.verify_unsigned, docs/missed-webhooks.md).

CREATE TABLE unverified_deliveries (
    unverified_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id  text COLLATE "C" NOT NULL,
    workflow_id   text COLLATE "C",
    status        text COLLATE "C" NOT NULL,
    body          bytea       NOT NULL,
    deliveries    integer     NOT NULL DEFAULT 1,
    is_redelivery boolean     NOT NULL DEFAULT false,
    is_prediction boolean     NOT NULL DEFAULT false,
    received_at   timestamptz NOT NULL,
    attempts      integer     NOT NULL DEFAULT 0,
    strikes       integer     NOT NULL DEFAULT 0,
    unknown_since timestamptz,
    last_error    text,
    due_at        timestamptz NOT NULL DEFAULT now(),
    claimed_by    bigint
);

COMMENT ON TABLE unverified_deliveries IS
    'Unsigned webhooks that were answered 200 and are not confirmed by the sender''s API yet, one row per body. Nothing in a row is trusted.';
COMMENT ON COLUMN unverified_deliveries.unverified_id IS
    'Number of the row, in the order of recording.';
COMMENT ON COLUMN unverified_deliveries.execution_id IS
    'Execution or prediction that the body names.';
COMMENT ON COLUMN unverified_deliveries.workflow_id IS
    'Workflow that the body names; null for a prediction without a workflow.';
COMMENT ON COLUMN unverified_deliveries.status IS
    'Status in the body.';
COMMENT ON COLUMN unverified_deliveries.body IS
    'Exact bytes of the body.';
COMMENT ON COLUMN unverified_deliveries.deliveries IS
    'Number of webhooks with this body. After a crash, a webhook can be counted twice.';
COMMENT ON COLUMN unverified_deliveries.is_redelivery IS
    'Whether one of them has the header X-Webhook-Redelivery.';
COMMENT ON COLUMN unverified_deliveries.is_prediction IS
    'Whether the body is a prediction, which is searched in the delivery log.';
COMMENT ON COLUMN unverified_deliveries.received_at IS
    'When the first of them was received, by the receiver''s clock.';
COMMENT ON COLUMN unverified_deliveries.attempts IS
    'How many times the execution was requested from the API without a result.';
COMMENT ON COLUMN unverified_deliveries.strikes IS
    'How many times the request failed although the API answered requests for other executions.';
COMMENT ON COLUMN unverified_deliveries.unknown_since IS
    'When the API first answered that it does not have the execution or that it has not ended; null before. verification.grace counts from then.';
COMMENT ON COLUMN unverified_deliveries.last_error IS
    'Why the last request had no result; null before the first one.';
COMMENT ON COLUMN unverified_deliveries.due_at IS
    'When the execution is requested next, by PostgreSQL''s clock. While a receiver requests it: when another receiver may do so.';
COMMENT ON COLUMN unverified_deliveries.claimed_by IS
    'Random number of the receiver that requests the execution now; null if none does.';

CREATE UNIQUE INDEX unverified_deliveries_once_by_content ON unverified_deliveries (sha256(body));

-- New rows, rows that were requested before, and predictions are claimed separately.
CREATE INDEX unverified_deliveries_due_at ON unverified_deliveries ((attempts > 0), due_at) WHERE NOT is_prediction;
CREATE INDEX unverified_deliveries_predictions_due_at ON unverified_deliveries (due_at) WHERE is_prediction;

CREATE VIEW unverified AS
SELECT
    unverified_id,
    execution_id,
    workflow_id,
    status,
    octet_length(body) AS body_bytes,
    deliveries,
    received_at,
    attempts,
    last_error,
    due_at
FROM unverified_deliveries;

COMMENT ON VIEW unverified IS
    'One row per body of unsigned webhooks that wait for their verification. Nothing in a row is trusted.';
COMMENT ON COLUMN unverified.unverified_id IS
    'Number of the row, in the order of recording.';
COMMENT ON COLUMN unverified.execution_id IS
    'Execution or prediction that the body names.';
COMMENT ON COLUMN unverified.workflow_id IS
    'Workflow that the body names; null for a prediction without a workflow.';
COMMENT ON COLUMN unverified.status IS
    'Status in the body.';
COMMENT ON COLUMN unverified.body_bytes IS
    'Size of the body in bytes.';
COMMENT ON COLUMN unverified.deliveries IS
    'Number of webhooks with this body.';
COMMENT ON COLUMN unverified.received_at IS
    'When the first of them was received, by the receiver''s clock.';
COMMENT ON COLUMN unverified.attempts IS
    'How many times the execution was requested from the API without a result.';
COMMENT ON COLUMN unverified.last_error IS
    'Why the last request had no result; null before the first one.';
COMMENT ON COLUMN unverified.due_at IS
    'When the execution is requested next, by PostgreSQL''s clock.';
