-- Sums by hour and by day for each workflow, kept by the store in the same transaction as the
-- executions: rates and costs over days and months are read from some thousand rows instead of
-- millions. Not by a trigger, which would lock their rows in no fixed order; not as a materialized
-- view, which is as old as its last refresh.
--
-- Two tables, each with what its question needs: a month of hours is too many rows for costs. Updated
-- with every batch, like bulks: room on the page keeps that off the index.

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
    'One row per hour and workflow: how many of its executions are recorded, by status; kept in the same transaction as the executions.';
COMMENT ON COLUMN workflow_hours.hour IS
    'The hour, by its beginning (UTC), in which the first delivery of the executions came.';
COMMENT ON COLUMN workflow_hours.workflow_id IS
    'The workflow that ran.';
COMMENT ON COLUMN workflow_hours.executions IS
    'How many executions came; always completed + failed + cancelled + other. 0 when all of them ended in another workflow.';
COMMENT ON COLUMN workflow_hours.completed IS
    'Those whose status is completed.';
COMMENT ON COLUMN workflow_hours.failed IS
    'Those whose status is failed.';
COMMENT ON COLUMN workflow_hours.cancelled IS
    'Those whose status is cancelled.';
COMMENT ON COLUMN workflow_hours.other IS
    'Those with any other status: not ended yet, as far as is known.';

CREATE TABLE workflow_days (
    day                  date    NOT NULL,
    workflow_id          text COLLATE "C" NOT NULL,
    executions           integer NOT NULL,
    executions_with_cost integer NOT NULL,
    total_cost           numeric NOT NULL,
    PRIMARY KEY (day, workflow_id)
) WITH (fillfactor = 50);

COMMENT ON TABLE workflow_days IS
    'One row per day and workflow: what its executions cost; kept in the same transaction as the executions.';
COMMENT ON COLUMN workflow_days.day IS
    'The day (UTC) on which the first delivery of the executions came.';
COMMENT ON COLUMN workflow_days.workflow_id IS
    'The workflow that ran.';
COMMENT ON COLUMN workflow_days.executions IS
    'How many executions came, whatever their status. 0 when all of them ended in another workflow.';
COMMENT ON COLUMN workflow_days.executions_with_cost IS
    'How many of them have a sensible_cost.';
COMMENT ON COLUMN workflow_days.total_cost IS
    'The sum of these costs, in the sender''s unit.';

-- A cost may be any JSON number, and a sum of the largest that PostgreSQL holds is an error: what
-- is no sensible cost is left out. src/store/cost.rs has the same rule.
CREATE FUNCTION sensible_cost(total_cost numeric) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN abs(total_cost) < 1e12 THEN round(total_cost, 12) END;

COMMENT ON FUNCTION sensible_cost(numeric) IS
    'The cost to 12 decimals; null when it is not below 10^12, which no execution costs.';

-- What is recorded already. Nothing is recorded meanwhile, so that nothing is counted twice or not
-- at all; ten million executions take a minute.
LOCK TABLE executions IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO workflow_hours (hour, workflow_id, executions, completed, failed, cancelled, other)
SELECT
    date_trunc('hour', first_received_at, 'UTC'),
    workflow_id,
    count(*),
    count(*) FILTER (WHERE status = 'completed'),
    count(*) FILTER (WHERE status = 'failed'),
    count(*) FILTER (WHERE status = 'cancelled'),
    count(*) FILTER (WHERE NOT is_terminal_status(status))
FROM executions
GROUP BY 1, 2;
INSERT INTO workflow_days (day, workflow_id, executions, executions_with_cost, total_cost)
SELECT
    (first_received_at AT TIME ZONE 'UTC')::date,
    workflow_id,
    count(*),
    count(sensible_cost(total_cost)),
    coalesce(sum(sensible_cost(total_cost)), 0)
FROM executions
GROUP BY 1, 2;
