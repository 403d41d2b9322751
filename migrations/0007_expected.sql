-- Executions that are expected, because their workflow was triggered: the responses of trigger and bulk-trigger.
--
-- An expected execution has arrived when `executions` has it with a terminal status. The recorder does not write to
-- expected_executions, so recording is not slower, and registration and webhooks can be in any order. A transaction
-- that locks rows of several tables locks them in the order executions, expected_executions, bulks.

CREATE TABLE expected_executions (
    expected_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id  text COLLATE "C" UNIQUE,
    workflow_id   text COLLATE "C",
    bulk_id       text COLLATE "C",
    position      integer NOT NULL DEFAULT 1 CHECK (position > 0),
    message       text,
    reference     jsonb,
    settled       boolean NOT NULL DEFAULT false,
    registered_at timestamptz NOT NULL DEFAULT now(),
    due_at        timestamptz NOT NULL,
    CONSTRAINT expected_executions_once_in_bulk UNIQUE (bulk_id, position)
);

COMMENT ON TABLE expected_executions IS
    'One row per entry of a registered response of trigger or bulk-trigger. Removed together with the execution by retention.executions.';
COMMENT ON COLUMN expected_executions.expected_id IS
    'Number of the row, ascending in the order of registration.';
COMMENT ON COLUMN expected_executions.execution_id IS
    'Execution that will send a webhook; null if the input was rejected.';
COMMENT ON COLUMN expected_executions.workflow_id IS
    'Workflow that was triggered; null if not given.';
COMMENT ON COLUMN expected_executions.bulk_id IS
    'Bulk of the response; null for a single trigger.';
COMMENT ON COLUMN expected_executions.position IS
    'Position of the input in the request of bulk-trigger, from 1. The response has the same order.';
COMMENT ON COLUMN expected_executions.message IS
    'Why the input was rejected, as in the response; null if not given.';
COMMENT ON COLUMN expected_executions.reference IS
    'Reference of the caller for this input, a JSON object of strings; null if not given. Copied to executions.reference if that is null.';
COMMENT ON COLUMN expected_executions.settled IS
    'Whether the receiver has seen the terminal status of the execution. Set some seconds after the status is recorded; use the views for the current state.';
COMMENT ON COLUMN expected_executions.registered_at IS
    'When the response was registered, by PostgreSQL''s clock.';
COMMENT ON COLUMN expected_executions.due_at IS
    'When the execution becomes overdue: registered_at plus expected.overdue_after.';

-- The list, and retention.
CREATE INDEX expected_executions_registered_at ON expected_executions (registered_at, expected_id);
-- Missing and overdue executions. Small: settled rows are not in it.
CREATE INDEX expected_executions_unsettled ON expected_executions (registered_at, expected_id)
WHERE NOT settled AND execution_id IS NOT NULL;

-- Missing and overdue executions of a bulk.
CREATE INDEX expected_executions_unsettled_of_bulk ON expected_executions (bulk_id, due_at)
WHERE NOT settled AND execution_id IS NOT NULL;

CREATE VIEW missing_executions AS
SELECT
    x.bulk_id,
    x.position,
    x.execution_id,
    x.workflow_id,
    x.reference,
    e.status,
    x.registered_at,
    x.due_at,
    x.due_at <= now() AS overdue
FROM expected_executions AS x
LEFT JOIN executions AS e ON e.execution_id = x.execution_id
WHERE NOT x.settled AND x.execution_id IS NOT NULL AND is_terminal_status(e.status) IS NOT TRUE;

COMMENT ON VIEW missing_executions IS
    'One row per expected execution whose webhook with a terminal status is not recorded. Filter by bulk_id or overdue.';
COMMENT ON COLUMN missing_executions.bulk_id IS
    'Bulk of the execution; null for a single trigger.';
COMMENT ON COLUMN missing_executions.position IS
    'Position of the input in the request of bulk-trigger, from 1.';
COMMENT ON COLUMN missing_executions.execution_id IS
    'Identifier of the execution, as in the response of the trigger.';
COMMENT ON COLUMN missing_executions.workflow_id IS
    'Workflow that was triggered; null if not given.';
COMMENT ON COLUMN missing_executions.reference IS
    'Reference of the caller, a JSON object of strings; null if not given.';
COMMENT ON COLUMN missing_executions.status IS
    'Recorded status, which is not terminal; null if no webhook is recorded.';
COMMENT ON COLUMN missing_executions.registered_at IS
    'When the response of the trigger was registered.';
COMMENT ON COLUMN missing_executions.due_at IS
    'When the execution becomes overdue.';
COMMENT ON COLUMN missing_executions.overdue IS
    'Whether due_at has passed. A workflow ends within 15 minutes, so the webhook is probably lost.';

CREATE VIEW overdue_executions AS
SELECT
    bulk_id,
    position,
    execution_id,
    workflow_id,
    reference,
    status,
    registered_at,
    due_at
FROM missing_executions
WHERE overdue;

COMMENT ON VIEW overdue_executions IS
    'One row per missing execution whose due_at has passed.';
COMMENT ON COLUMN overdue_executions.bulk_id IS
    'Bulk of the execution; null for a single trigger.';
COMMENT ON COLUMN overdue_executions.position IS
    'Position of the input in the request of bulk-trigger, from 1.';
COMMENT ON COLUMN overdue_executions.execution_id IS
    'Identifier of the execution, as in the response of the trigger.';
COMMENT ON COLUMN overdue_executions.workflow_id IS
    'Workflow that was triggered; null if not given.';
COMMENT ON COLUMN overdue_executions.reference IS
    'Reference of the caller, a JSON object of strings; null if not given.';
COMMENT ON COLUMN overdue_executions.status IS
    'Recorded status, which is not terminal; null if no webhook is recorded.';
COMMENT ON COLUMN overdue_executions.registered_at IS
    'When the response of the trigger was registered.';
COMMENT ON COLUMN overdue_executions.due_at IS
    'When the execution became overdue.';

-- Bulks ---------------------------------------------------------------------------------------

CREATE VIEW bulk_progress AS
SELECT
    b.bulk_id,
    m.missing = 0 AS complete,
    b.expected,
    b.received,
    b.completed,
    b.failed,
    b.cancelled,
    b.other,
    b.first_received_at,
    b.last_received_at,
    CASE
        WHEN b.last_received_at IS NOT NULL THEN greatest(date_part('epoch', now() - b.last_received_at), 0)::bigint
    END AS seconds_since_last,
    b.completed_at,
    b.rejected,
    m.missing
FROM bulks AS b
CROSS JOIN LATERAL (
    -- A bulk without a registered response has no row in x.
    SELECT
        CASE
            WHEN b.expected IS NOT NULL
                THEN greatest(b.expected - b.completed - b.failed - b.cancelled, count(*)::integer)
        END AS missing
    FROM missing_executions AS x
    WHERE x.bulk_id = b.bulk_id AND b.rejected IS NOT NULL
) AS m;

COMMENT ON VIEW bulk_progress IS
    'One row per bulk: its executions by status, including removed ones. Filter by bulk_id or first_received_at.';
COMMENT ON COLUMN bulk_progress.bulk_id IS
    'Identifier of the bulk, as sent.';
COMMENT ON COLUMN bulk_progress.complete IS
    'Whether at least `expected` executions have a terminal status, and all executions of the registered response, if there is one; null if expected is null.';
COMMENT ON COLUMN bulk_progress.expected IS
    'Expected number of executions: the accepted inputs of a registered bulk, or the number set with `workflow-receiver bulks set-size`; null if unknown.';
COMMENT ON COLUMN bulk_progress.received IS
    'Number of recorded executions, including removed ones: completed + failed + cancelled + other.';
COMMENT ON COLUMN bulk_progress.completed IS
    'Executions with status completed, or succeeded or success in a legacy flow.';
COMMENT ON COLUMN bulk_progress.failed IS
    'Executions with status failed.';
COMMENT ON COLUMN bulk_progress.cancelled IS
    'Executions with status cancelled.';
COMMENT ON COLUMN bulk_progress.other IS
    'Executions with any other status, which is not terminal.';
COMMENT ON COLUMN bulk_progress.first_received_at IS
    'When the first delivery that changed a count was received, or the bulk was registered, if that was earlier; null if neither happened.';
COMMENT ON COLUMN bulk_progress.last_received_at IS
    'When the latest delivery that changed a count was received; null if there is none.';
COMMENT ON COLUMN bulk_progress.seconds_since_last IS
    'Seconds since last_received_at, at least 0; null if last_received_at is null.';
COMMENT ON COLUMN bulk_progress.completed_at IS
    'When the bulk was complete for the first time, by PostgreSQL''s clock; null before. Stays if `expected` is raised later.';
COMMENT ON COLUMN bulk_progress.rejected IS
    'Inputs that bulk-trigger rejected; null unless its response is registered and sets expected.';
COMMENT ON COLUMN bulk_progress.missing IS
    'Expected executions whose webhook with a terminal status is not recorded; null if expected is null. An execution that is not in the registered response does not replace one that is. The view missing_executions lists those of a registered bulk.';
