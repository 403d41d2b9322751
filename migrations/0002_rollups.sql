-- Counts per bulk, hour and day, updated in the same transaction as the executions.
--
-- Rates and costs over months read some thousand rows instead of millions. The receiver updates these tables, in a
-- fixed order of rows: a trigger would lock them in the order of executions, which can deadlock. A materialized view
-- would be out of date between refreshes.
--
-- The counts are history: they do not change when retention removes executions.
--
-- Each batch updates some rows. fillfactor = 50 leaves space on the page, so that these updates are heap-only: they do
-- not touch an index.

CREATE TABLE bulks (
    bulk_id           text COLLATE "C" PRIMARY KEY,
    expected          integer CHECK (expected >= 0),
    rejected          integer,
    received          integer NOT NULL DEFAULT 0,
    completed         integer NOT NULL DEFAULT 0,
    failed            integer NOT NULL DEFAULT 0,
    cancelled         integer NOT NULL DEFAULT 0,
    other             integer NOT NULL DEFAULT 0,
    first_received_at timestamptz,
    last_received_at  timestamptz,
    completed_at      timestamptz,
    CONSTRAINT bulks_counts_add_up CHECK (received = completed + failed + cancelled + other)
) WITH (fillfactor = 50);

COMMENT ON TABLE bulks IS
    'One row per bulk: its recorded executions by status, including removed ones. retention.executions removes a bulk after its last execution.';
COMMENT ON COLUMN bulks.bulk_id IS
    'Identifier of the bulk, as sent.';
COMMENT ON COLUMN bulks.expected IS
    'Expected number of executions: the accepted inputs of a registered bulk, or the number set with `workflow-receiver bulks set-size`; null if unknown. Webhooks do not contain it.';
COMMENT ON COLUMN bulks.rejected IS
    'Inputs that bulk-trigger rejected: they have no execution. Null unless the response of bulk-trigger is registered. If null, expected alone decides whether the bulk is complete.';
COMMENT ON COLUMN bulks.received IS
    'Number of recorded executions, including removed ones: completed + failed + cancelled + other.';
COMMENT ON COLUMN bulks.completed IS
    'Executions with status completed, or succeeded or success in a legacy flow.';
COMMENT ON COLUMN bulks.failed IS
    'Executions with status failed.';
COMMENT ON COLUMN bulks.cancelled IS
    'Executions with status cancelled.';
COMMENT ON COLUMN bulks.other IS
    'Executions with any other status, which is not terminal.';
COMMENT ON COLUMN bulks.first_received_at IS
    'When the first delivery that changed a count was received, or the bulk was registered, if that was earlier; null if neither happened.';
COMMENT ON COLUMN bulks.last_received_at IS
    'When the latest delivery that changed a count was received; null if there is none.';
COMMENT ON COLUMN bulks.completed_at IS
    'When the bulk was complete for the first time, by PostgreSQL''s clock; null before: at least `expected` executions had ended, and all of the registered response. Stays if `expected` is raised later.';

-- Latest bulks, and retention. The first time rarely changes, so updates of a bulk stay heap-only; an index on
-- last_received_at would prevent this.
CREATE INDEX bulks_first_received_at ON bulks (first_received_at);

-- Statuses by hour and costs by day: a month of hours is too many rows for a query about costs.
CREATE TABLE workflow_hours (
    hour        timestamptz NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    executions  integer     NOT NULL,
    completed   integer     NOT NULL,
    failed      integer     NOT NULL,
    cancelled   integer     NOT NULL,
    other       integer     NOT NULL,
    PRIMARY KEY (hour, workflow_id),
    CONSTRAINT workflow_hours_counts_add_up CHECK (executions = completed + failed + cancelled + other)
) WITH (fillfactor = 50);

COMMENT ON TABLE workflow_hours IS
    'One row per hour and workflow: its recorded executions by status, including removed ones.';
COMMENT ON COLUMN workflow_hours.hour IS
    'Start of the hour (UTC) of the executions'' first_received_at.';
COMMENT ON COLUMN workflow_hours.workflow_id IS
    'Workflow of the executions.';
COMMENT ON COLUMN workflow_hours.executions IS
    'Number of executions: completed + failed + cancelled + other. 0 if all of them moved to another workflow or hour.';
COMMENT ON COLUMN workflow_hours.completed IS
    'Executions with status completed, or succeeded or success in a legacy flow.';
COMMENT ON COLUMN workflow_hours.failed IS
    'Executions with status failed.';
COMMENT ON COLUMN workflow_hours.cancelled IS
    'Executions with status cancelled.';
COMMENT ON COLUMN workflow_hours.other IS
    'Executions with any other status, which is not terminal.';

CREATE TABLE workflow_days (
    day                  date    NOT NULL,
    workflow_id          text COLLATE "C" NOT NULL,
    executions           integer NOT NULL,
    executions_with_cost integer NOT NULL,
    total_cost           numeric NOT NULL,
    PRIMARY KEY (day, workflow_id)
) WITH (fillfactor = 50);

COMMENT ON TABLE workflow_days IS
    'One row per day and workflow: the cost of its recorded executions, including removed ones.';
COMMENT ON COLUMN workflow_days.day IS
    'Day (UTC) of the executions'' first_received_at.';
COMMENT ON COLUMN workflow_days.workflow_id IS
    'Workflow of the executions.';
COMMENT ON COLUMN workflow_days.executions IS
    'Number of executions, with any status. 0 if all of them moved to another workflow or day.';
COMMENT ON COLUMN workflow_days.executions_with_cost IS
    'Number of executions with a sensible_cost.';
COMMENT ON COLUMN workflow_days.total_cost IS
    'Sum of sensible_cost, in the sender''s unit.';

-- A cost can be any JSON number, and a sum of the largest numbers of PostgreSQL is an error. The receiver has the same
-- rule in cost.rs.
CREATE FUNCTION sensible_cost(total_cost numeric) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN abs(total_cost) < 1e12 THEN round(total_cost, 12) END;

COMMENT ON FUNCTION sensible_cost(numeric) IS
    'Cost rounded to 12 decimals; null for 10^12 or more, which is excluded from sums.';
