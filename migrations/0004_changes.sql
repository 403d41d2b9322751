-- The change feed: every committed change of an execution or bulk, with a number.
--
-- A transaction that records executions inserts its changes here as arrays, in a few rows. This costs less than a row per
-- change. Its row locks on the executions are held until the commit, so the batches of one execution have identity
-- values in the order of their commits. Batches of different executions can have another order, because identity values are
-- assigned before the commit.
--
-- Therefore readers use another number. One transaction at a time numbers the committed batches that have no number,
-- in the order of batch_id. A batch that commits later gets later numbers. So the numbers have no gaps, and a reader
-- that has seen a number never sees a new change with a lower one.

CREATE TABLE change_batches (
    batch_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    last_change   bigint,
    size          integer     NOT NULL CHECK (size > 0),
    types         text[]      NOT NULL,
    execution_ids text[]      NOT NULL,
    workflow_ids  text[]      NOT NULL,
    bulk_ids      text[]      NOT NULL,
    statuses      text[]      NOT NULL,
    recorded_at   timestamptz NOT NULL DEFAULT now()
);

-- Identifiers of executions do not compress, and trying to compress them would take three times as long as the rest of the
-- insert. The other arrays repeat a few values, so they compress fast.
ALTER TABLE change_batches ALTER COLUMN execution_ids SET STORAGE EXTERNAL;

COMMENT ON TABLE change_batches IS
    'The change feed: changes of executions and bulks, a row for up to 500 changes of a transaction. Read it with the view changes or the function changes_after.';
COMMENT ON COLUMN change_batches.batch_id IS
    'Number of the batch, assigned before the commit. Has gaps.';
COMMENT ON COLUMN change_batches.last_change IS
    'Number of the last change of the batch; null until the receiver assigns it, shortly after the commit.';
COMMENT ON COLUMN change_batches.size IS
    'Number of changes in the batch: the length of each array.';
COMMENT ON COLUMN change_batches.types IS
    'Type of each change: execution.updated, execution.ended, execution.conflict, execution.undone or bulk.completed.';
COMMENT ON COLUMN change_batches.execution_ids IS
    'Execution of each change; null for bulk.completed.';
COMMENT ON COLUMN change_batches.workflow_ids IS
    'Workflow of each change; null for bulk.completed.';
COMMENT ON COLUMN change_batches.bulk_ids IS
    'Bulk of each change; null without a bulk.';
COMMENT ON COLUMN change_batches.statuses IS
    'Status in the delivery of each change; for execution.undone the status that is recorded now; null for bulk.completed.';
COMMENT ON COLUMN change_batches.recorded_at IS
    'When the transaction began, by PostgreSQL''s clock. retention.changes counts from it.';

-- Readers, the next number, and retention.
CREATE UNIQUE INDEX change_batches_last_change ON change_batches (last_change) WHERE last_change IS NOT NULL;
-- Batches to be numbered: nearly always empty.
CREATE INDEX change_batches_unnumbered ON change_batches (batch_id) WHERE last_change IS NULL;

-- A trigger, so that a bulk also completes when a statement of an operator sets `expected`. The row of the bulk is locked
-- before the trigger runs. So the batch_id of this change is higher than those of all executions that were counted.
-- The function runs only if enough executions have ended: then it reads whether they are those of the registered
-- response, if there is one (the view bulk_progress has the same condition).
CREATE FUNCTION complete_bulk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF
        NEW.rejected IS NOT NULL
        AND EXISTS (SELECT FROM missing_executions AS x WHERE x.bulk_id = NEW.bulk_id)
    THEN
        RETURN NEW;
    END IF;
    NEW.completed_at := now();
    INSERT INTO change_batches (size, types, execution_ids, workflow_ids, bulk_ids, statuses)
    VALUES (1, '{bulk.completed}', '{NULL}', '{NULL}', ARRAY[NEW.bulk_id], '{NULL}');
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION complete_bulk() IS
    'Sets bulks.completed_at and adds the change bulk.completed. A role that updates bulks needs INSERT on change_batches and SELECT on missing_executions.';

CREATE TRIGGER complete_bulk BEFORE UPDATE ON bulks FOR EACH ROW
    WHEN (NEW.completed_at IS NULL AND NEW.completed + NEW.failed + NEW.cancelled >= NEW.expected)
    EXECUTE FUNCTION complete_bulk();
