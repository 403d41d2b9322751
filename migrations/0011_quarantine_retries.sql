-- Rows that an undo of a retry of a quarantine entry restores.
--
-- The rows are stored as JSON, so that a column that is added later needs no change here. An undo restores them with
-- jsonb_populate_record.

CREATE TABLE quarantine_retries (
    quarantine_id   bigint PRIMARY KEY,
    retried_at      timestamptz NOT NULL DEFAULT now(),
    retried_by      text        NOT NULL,
    entry           jsonb       NOT NULL,
    ids             text[]      NOT NULL,
    are_predictions boolean[]   NOT NULL,
    dispositions    text[]      NOT NULL,
    deliveries      integer[]   NOT NULL,
    previous        jsonb[]     NOT NULL,
    conflicts       jsonb       NOT NULL,
    bulks           jsonb       NOT NULL
);

COMMENT ON TABLE quarantine_retries IS
    'One row per quarantine entry that a retry has recorded and that can be undone with `workflow-receiver quarantine undo`.';
COMMENT ON COLUMN quarantine_retries.quarantine_id IS
    'Number of the entry.';
COMMENT ON COLUMN quarantine_retries.retried_at IS
    'When the retry began, by PostgreSQL''s clock. The row is removed after the shortest of retention.quarantine, retention.payloads and retention.executions.';
COMMENT ON COLUMN quarantine_retries.retried_by IS
    'Name of the operator''s token, or `command line`.';
COMMENT ON COLUMN quarantine_retries.entry IS
    'The row of quarantine before the retry, with the body.';
COMMENT ON COLUMN quarantine_retries.ids IS
    'Identifiers of the recorded executions and predictions, each once.';
COMMENT ON COLUMN quarantine_retries.are_predictions IS
    'For each of ids: true for a prediction.';
COMMENT ON COLUMN quarantine_retries.dispositions IS
    'For each of ids: new, replacement, duplicate or conflict.';
COMMENT ON COLUMN quarantine_retries.deliveries IS
    'For each of ids: its number of deliveries after the retry. If it has changed, the retry cannot be undone.';
COMMENT ON COLUMN quarantine_retries.previous IS
    'For each of ids: its row before the retry; null if it was not recorded.';
COMMENT ON COLUMN quarantine_retries.conflicts IS
    'The rows of execution_conflicts and prediction_conflicts of these ids before the retry, as an object of two arrays.';
COMMENT ON COLUMN quarantine_retries.bulks IS
    'The rows of bulks that the retry changed, as they were before it, as an array.';

-- The latest retries, and retention.
CREATE INDEX quarantine_retries_retried_at ON quarantine_retries (retried_at, quarantine_id);
-- The retry that recorded an execution or a prediction: ids @> ARRAY['exec-1'].
CREATE INDEX quarantine_retries_ids ON quarantine_retries USING gin (ids);
