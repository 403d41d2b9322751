-- Reconciliation with the sender's API (docs/missed-webhooks.md).

CREATE TABLE reconcile_checks (
    execution_id text COLLATE "C" PRIMARY KEY,
    checked_at   timestamptz NOT NULL,
    absent       boolean     NOT NULL
);

COMMENT ON TABLE reconcile_checks IS
    'Executions without a terminal status that the receiver requested from the sender''s API, and that were absent, unusable or had not ended there.';
COMMENT ON COLUMN reconcile_checks.execution_id IS
    'Identifier of the execution.';
COMMENT ON COLUMN reconcile_checks.checked_at IS
    'When the execution was last requested, by PostgreSQL''s clock.';
COMMENT ON COLUMN reconcile_checks.absent IS
    'Whether the sender does not have the execution. Then the receiver does not request it again for 7 days. False: it had not ended, its answer was not usable, or all executions of the request were absent.';

CREATE TABLE absent_workflows (
    workflow_id text COLLATE "C" PRIMARY KEY,
    checked_at  timestamptz NOT NULL
);

COMMENT ON TABLE absent_workflows IS
    'Recorded workflows that the sender did not have when the receiver read its lists. They are not requested again for 7 days.';
COMMENT ON COLUMN absent_workflows.workflow_id IS
    'Identifier of the workflow.';
COMMENT ON COLUMN absent_workflows.checked_at IS
    'When the workflow was last requested, by PostgreSQL''s clock.';
