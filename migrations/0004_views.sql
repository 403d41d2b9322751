-- The questions that operators ask every day, as views. They are a promise: what may change in
-- them, and how, is in README.md beside this file.
--
-- No view fails on an odd row: what the sender left out, or sent in another shape, is null or has
-- no row. Those whose name says an order (latest, slow) come in it, the others in none. Hours and
-- days are those of UTC.
--
-- An index is paid for by every execution, so there are few. Most questions are about the last
-- hour or day, one workflow, or one bulk, and the first migration's indexes lead there.

-- Failed executions, and completed ones in which a step failed --------------------------------

-- A column and not only an index's condition: an index that looks into the payload would have each
-- duplicate, which only counts, unpack it again. The receiver fills it. What is recorded already is
-- left as it is: no version is released.
ALTER TABLE executions ADD COLUMN step_failed boolean NOT NULL DEFAULT false;

COMMENT ON COLUMN executions.step_failed IS
    'Whether one of the steps in step_outputs failed, whatever became of the execution: failed_steps has them.';

-- "What failed lately?" and "Which step?": few executions, found without reading any other. It
-- takes the place of executions_failed, so there is no index more than before.
DROP INDEX executions_failed;
CREATE INDEX executions_with_failure ON executions (first_received_at) WHERE status = 'failed' OR step_failed;

CREATE VIEW failures AS
SELECT
    e.execution_id,
    e.workflow_id,
    e.bulk_id,
    e.error,
    e.error_cause,
    (
        SELECT array_agg(coalesce(s.step ->> 'step_id', s.key) ORDER BY s.key)
        FROM jsonb_each(
            CASE jsonb_typeof(e.payload -> 'step_outputs') WHEN 'object' THEN e.payload -> 'step_outputs' END
        ) AS s (key, step)
        WHERE s.step ->> 'status' = 'failed'
    ) AS failed_steps,
    e.started_at,
    e.completed_at,
    e.first_received_at,
    e.last_received_at
FROM executions AS e
WHERE e.status = 'failed';

COMMENT ON VIEW failures IS
    'One row per failed execution: why it failed, and in which steps. Ask by first_received_at, workflow_id, bulk_id or execution_id.';
COMMENT ON COLUMN failures.execution_id IS
    'The execution that failed.';
COMMENT ON COLUMN failures.workflow_id IS
    'The workflow that ran.';
COMMENT ON COLUMN failures.bulk_id IS
    'The bulk that the execution was triggered in; null when it was triggered alone.';
COMMENT ON COLUMN failures.error IS
    'The kind of failure, such as ExecutionFailed; null unless sent.';
COMMENT ON COLUMN failures.error_cause IS
    'Why it failed, in the sender''s words; null unless sent (failed_steps may know more).';
COMMENT ON COLUMN failures.failed_steps IS
    'The identifiers of the steps whose status is failed; null when the webhook names none.';
COMMENT ON COLUMN failures.started_at IS
    'When the execution started, by the sender; null unless sent.';
COMMENT ON COLUMN failures.completed_at IS
    'When the execution ended, by the sender; null unless sent.';
COMMENT ON COLUMN failures.first_received_at IS
    'When the first delivery of this execution came, by the receiver''s clock.';
COMMENT ON COLUMN failures.last_received_at IS
    'When the latest delivery of this execution came, by the receiver''s clock.';

CREATE VIEW failed_steps AS
SELECT
    e.execution_id,
    e.workflow_id,
    e.bulk_id,
    e.status AS execution_status,
    coalesce(s.step ->> 'step_id', s.key) AS step_id,
    s.step ->> 'error' AS error,
    s.step ->> 'error_cause' AS error_cause,
    s.step ->> 'started_at' AS started_at,
    s.step ->> 'completed_at' AS completed_at,
    e.first_received_at
FROM executions AS e
CROSS JOIN LATERAL jsonb_each(
    CASE jsonb_typeof(e.payload -> 'step_outputs') WHEN 'object' THEN e.payload -> 'step_outputs' END
) AS s (key, step)
WHERE (e.status = 'failed' OR e.step_failed) AND s.step ->> 'status' = 'failed';

COMMENT ON VIEW failed_steps IS
    'One row per failed step of any execution, completed ones included. Ask by first_received_at, workflow_id, bulk_id or execution_id.';
COMMENT ON COLUMN failed_steps.execution_id IS
    'The execution that the step belongs to.';
COMMENT ON COLUMN failed_steps.workflow_id IS
    'The workflow that ran.';
COMMENT ON COLUMN failed_steps.bulk_id IS
    'The bulk that the execution was triggered in; null when it was triggered alone.';
COMMENT ON COLUMN failed_steps.execution_status IS
    'The status of the whole execution: a completed one can hold a failed step.';
COMMENT ON COLUMN failed_steps.step_id IS
    'The step that failed.';
COMMENT ON COLUMN failed_steps.error IS
    'The kind of the step''s failure; null unless sent.';
COMMENT ON COLUMN failed_steps.error_cause IS
    'Why the step failed, in the sender''s words; null unless sent.';
COMMENT ON COLUMN failed_steps.started_at IS
    'When the step started, as the sender wrote it; null unless sent.';
COMMENT ON COLUMN failed_steps.completed_at IS
    'When the step ended, as the sender wrote it; null unless sent.';
COMMENT ON COLUMN failed_steps.first_received_at IS
    'When the first delivery of the execution came, by the receiver''s clock.';

-- Executions ----------------------------------------------------------------------------------

CREATE VIEW latest_executions AS
SELECT
    execution_id,
    workflow_id,
    bulk_id,
    status,
    error_cause,
    total_cost,
    CASE WHEN completed_at >= started_at THEN date_part('epoch', completed_at - started_at) END AS duration_seconds,
    started_at,
    completed_at,
    authenticated_by,
    deliveries,
    first_received_at,
    last_received_at
FROM executions
ORDER BY first_received_at DESC;

COMMENT ON VIEW latest_executions IS
    'One row per execution, those that came last first, without payload and output. Ask with LIMIT, or by workflow_id, bulk_id or execution_id.';
COMMENT ON COLUMN latest_executions.execution_id IS
    'The sender''s identifier of the execution.';
COMMENT ON COLUMN latest_executions.workflow_id IS
    'The workflow that ran.';
COMMENT ON COLUMN latest_executions.bulk_id IS
    'The bulk that the execution was triggered in; null when it was triggered alone.';
COMMENT ON COLUMN latest_executions.status IS
    'As sent: completed, failed and cancelled are terminal; anything else, such as running, is not.';
COMMENT ON COLUMN latest_executions.error_cause IS
    'Why it failed, in the sender''s words; null unless sent.';
COMMENT ON COLUMN latest_executions.total_cost IS
    'The cost of the execution, in the sender''s unit; null unless sent.';
COMMENT ON COLUMN latest_executions.duration_seconds IS
    'From started_at to completed_at; null unless both were sent, in this order.';
COMMENT ON COLUMN latest_executions.started_at IS
    'When the execution started, by the sender; null unless sent.';
COMMENT ON COLUMN latest_executions.completed_at IS
    'When the execution ended, by the sender; null unless sent.';
COMMENT ON COLUMN latest_executions.authenticated_by IS
    'How the delivery that is recorded got in: signature, secret_header, url_token, or none when nobody asked; null when not known.';
COMMENT ON COLUMN latest_executions.deliveries IS
    'How many deliveries came for this execution, duplicates and conflicts included.';
COMMENT ON COLUMN latest_executions.first_received_at IS
    'When the first delivery of this execution came, by the receiver''s clock.';
COMMENT ON COLUMN latest_executions.last_received_at IS
    'When the latest delivery of this execution came, by the receiver''s clock.';

-- No index by duration: it would cost every execution a write at a random place, for a question
-- that is asked about the last hour or one workflow.
CREATE VIEW slow_executions AS
SELECT
    execution_id,
    workflow_id,
    bulk_id,
    status,
    date_part('epoch', completed_at - started_at) AS duration_seconds,
    started_at,
    completed_at,
    first_received_at
FROM executions
WHERE completed_at >= started_at
ORDER BY duration_seconds DESC;

COMMENT ON VIEW slow_executions IS
    'One row per execution whose duration is known, the slowest first. Ask by first_received_at or workflow_id: without, all executions are read.';
COMMENT ON COLUMN slow_executions.execution_id IS
    'The sender''s identifier of the execution.';
COMMENT ON COLUMN slow_executions.workflow_id IS
    'The workflow that ran.';
COMMENT ON COLUMN slow_executions.bulk_id IS
    'The bulk that the execution was triggered in; null when it was triggered alone.';
COMMENT ON COLUMN slow_executions.status IS
    'As sent: how the execution ended.';
COMMENT ON COLUMN slow_executions.duration_seconds IS
    'From started_at to completed_at.';
COMMENT ON COLUMN slow_executions.started_at IS
    'When the execution started, by the sender.';
COMMENT ON COLUMN slow_executions.completed_at IS
    'When the execution ended, by the sender.';
COMMENT ON COLUMN slow_executions.first_received_at IS
    'When the first delivery of this execution came, by the receiver''s clock.';

CREATE VIEW results AS
SELECT
    e.execution_id,
    e.workflow_id,
    e.bulk_id,
    r.position,
    r.name,
    CASE
        WHEN jsonb_typeof(r.value) <> 'string' THEN 'json'
        WHEN r.value #>> '{}' ~ '^[A-Za-z][A-Za-z0-9+.-]*://\S+$' THEN 'url'
        ELSE 'text'
    END AS kind,
    r.value #>> '{}' AS value,
    e.first_received_at
FROM executions AS e
CROSS JOIN LATERAL (
    SELECT a.position, NULL AS name, a.value
    FROM jsonb_array_elements(CASE jsonb_typeof(e.output) WHEN 'array' THEN e.output END)
        WITH ORDINALITY AS a (value, position)
    UNION ALL
    SELECT o.position, o.name, o.value
    FROM jsonb_each(CASE jsonb_typeof(e.output) WHEN 'object' THEN e.output END)
        WITH ORDINALITY AS o (name, value, position)
    UNION ALL
    SELECT 1, NULL, e.output
    WHERE jsonb_typeof(e.output) NOT IN ('array', 'object', 'null')
) AS r;

COMMENT ON VIEW results IS
    'One row per output of an execution: each element of an array, each field of an object, or the one value. Ask by bulk_id, execution_id, workflow_id or first_received_at.';
COMMENT ON COLUMN results.execution_id IS
    'The execution that made it.';
COMMENT ON COLUMN results.workflow_id IS
    'The workflow that ran.';
COMMENT ON COLUMN results.bulk_id IS
    'The bulk that the execution was triggered in; null when it was triggered alone.';
COMMENT ON COLUMN results.position IS
    'Its place in the execution''s output, from 1.';
COMMENT ON COLUMN results.name IS
    'Its field''s name where the output is an object; null otherwise.';
COMMENT ON COLUMN results.kind IS
    'url: an address, such as https://...; text: any other string; json: anything else.';
COMMENT ON COLUMN results.value IS
    'The address, the text, or the JSON as text.';
COMMENT ON COLUMN results.first_received_at IS
    'When the first delivery of the execution came, by the receiver''s clock.';

-- Bulks ---------------------------------------------------------------------------------------

-- "Which bulks came last, and which of them wait?" Paid once a bulk, not by its executions: the
-- first time hardly ever changes, so updates of the counts stay heap-only. By the last time, none would.
CREATE INDEX bulks_first_received_at ON bulks (first_received_at);

CREATE VIEW bulk_progress AS
SELECT
    bulk_id,
    completed + failed + cancelled >= expected AS complete,
    expected,
    received,
    completed,
    failed,
    cancelled,
    other,
    first_received_at,
    last_received_at,
    CASE
        WHEN last_received_at IS NOT NULL THEN greatest(date_part('epoch', now() - last_received_at), 0)::bigint
    END AS seconds_since_last
FROM bulks;

COMMENT ON VIEW bulk_progress IS
    'One row per bulk: how far it is. Ask by bulk_id or first_received_at.';
COMMENT ON COLUMN bulk_progress.bulk_id IS
    'The sender''s identifier of the bulk.';
COMMENT ON COLUMN bulk_progress.complete IS
    'Whether as many executions as expected have ended; null when it is not known how many are expected.';
COMMENT ON COLUMN bulk_progress.expected IS
    'How many executions the bulk has, where somebody said so; null when unknown.';
COMMENT ON COLUMN bulk_progress.received IS
    'Different executions recorded in this bulk; always completed + failed + cancelled + other.';
COMMENT ON COLUMN bulk_progress.completed IS
    'Executions of this bulk whose status is completed.';
COMMENT ON COLUMN bulk_progress.failed IS
    'Executions of this bulk whose status is failed.';
COMMENT ON COLUMN bulk_progress.cancelled IS
    'Executions of this bulk whose status is cancelled.';
COMMENT ON COLUMN bulk_progress.other IS
    'Executions of this bulk with any other status: not ended yet, as far as is known.';
COMMENT ON COLUMN bulk_progress.first_received_at IS
    'When the first delivery of this bulk that changed a count came; null before that.';
COMMENT ON COLUMN bulk_progress.last_received_at IS
    'When the latest delivery of this bulk that changed a count came; null before that.';
COMMENT ON COLUMN bulk_progress.seconds_since_last IS
    'Seconds from last_received_at until now; null before that, never less than 0.';

-- Sums by hour and by day -----------------------------------------------------------------------
--
-- Rates and costs are read from the sums that the store keeps. An execution that ended in another
-- workflow than it ran in can leave an hour or a day of that empty.

CREATE VIEW failure_rates AS
SELECT
    hour,
    workflow_id,
    executions::bigint AS executions,
    completed::bigint AS completed,
    failed::bigint AS failed,
    cancelled::bigint AS cancelled,
    other::bigint AS other,
    round(failed::numeric / executions, 4) AS failure_rate
FROM workflow_hours
WHERE executions > 0;

COMMENT ON VIEW failure_rates IS
    'One row per hour and workflow: how its executions went. Ask by hour.';
COMMENT ON COLUMN failure_rates.hour IS
    'The hour, by its beginning (UTC), in which the first delivery of the executions came.';
COMMENT ON COLUMN failure_rates.workflow_id IS
    'The workflow that ran.';
COMMENT ON COLUMN failure_rates.executions IS
    'How many executions came; always completed + failed + cancelled + other.';
COMMENT ON COLUMN failure_rates.completed IS
    'Those whose status is completed.';
COMMENT ON COLUMN failure_rates.failed IS
    'Those whose status is failed.';
COMMENT ON COLUMN failure_rates.cancelled IS
    'Those whose status is cancelled.';
COMMENT ON COLUMN failure_rates.other IS
    'Those with any other status: not ended yet, as far as is known.';
COMMENT ON COLUMN failure_rates.failure_rate IS
    'failed divided by executions, from 0 to 1.';

-- Each hour is a question of its own to an index: a condition on `hour` leaves the others unasked.
-- They come as an array because the planner takes a series for a thousand hours, and then prepares
-- at length for work that nobody asked for.
CREATE VIEW failure_causes AS
SELECT
    h.hour,
    f.workflow_id,
    f.error,
    f.error_cause,
    f.failed
FROM unnest(ARRAY(
    SELECT generate_series(date_trunc('hour', min(first_received_at), 'UTC'), max(first_received_at), '1 hour')
    FROM executions
)) AS h (hour)
CROSS JOIN LATERAL (
    SELECT workflow_id, error, error_cause, count(*) AS failed
    FROM executions
    WHERE
        status = 'failed'
        AND first_received_at >= h.hour AND first_received_at < h.hour + interval '1 hour'
    GROUP BY workflow_id, error, error_cause
) AS f;

COMMENT ON VIEW failure_causes IS
    'One row per hour, workflow and cause: how many executions failed. Ask by hour: each hour asked for has its failed executions read.';
COMMENT ON COLUMN failure_causes.hour IS
    'The hour, by its beginning (UTC), in which the first delivery of the executions came.';
COMMENT ON COLUMN failure_causes.workflow_id IS
    'The workflow that ran.';
COMMENT ON COLUMN failure_causes.error IS
    'The kind of failure, such as ExecutionFailed; null unless sent.';
COMMENT ON COLUMN failure_causes.error_cause IS
    'Why they failed, in the sender''s words; null unless sent.';
COMMENT ON COLUMN failure_causes.failed IS
    'How many executions failed so.';

CREATE VIEW costs AS
SELECT
    day,
    workflow_id,
    executions::bigint AS executions,
    executions_with_cost::bigint AS executions_with_cost,
    trim_scale(total_cost) AS total_cost,
    trim_scale(round(total_cost / nullif(executions_with_cost, 0), 12)) AS average_cost
FROM workflow_days
WHERE executions > 0;

COMMENT ON VIEW costs IS
    'One row per day and workflow: what its executions cost. Ask by day.';
COMMENT ON COLUMN costs.day IS
    'The day (UTC) on which the first delivery of the executions came.';
COMMENT ON COLUMN costs.workflow_id IS
    'The workflow that ran.';
COMMENT ON COLUMN costs.executions IS
    'How many executions came, whatever their status.';
COMMENT ON COLUMN costs.executions_with_cost IS
    'How many of them say what they cost, below 10^12.';
COMMENT ON COLUMN costs.total_cost IS
    'The sum of these costs, in the sender''s unit; 0 when none is known.';
COMMENT ON COLUMN costs.average_cost IS
    'total_cost divided by executions_with_cost; null when none is known.';

-- What was kept aside ---------------------------------------------------------------------------

-- "Which contradictions came lately?" Paid by conflicts only.
CREATE INDEX execution_conflicts_first_received_at ON execution_conflicts (first_received_at);

CREATE VIEW conflicts AS
SELECT
    c.conflict_id,
    c.execution_id,
    c.workflow_id,
    c.bulk_id,
    CASE
        WHEN e.execution_id IS NOT NULL THEN array_remove(ARRAY[
            CASE WHEN e.workflow_id <> c.workflow_id THEN 'workflow_id' END,
            CASE WHEN e.bulk_id IS DISTINCT FROM c.bulk_id THEN 'bulk_id' END,
            CASE WHEN e.status <> c.status THEN 'status' END,
            CASE WHEN e.output IS DISTINCT FROM c.output THEN 'output' END,
            CASE WHEN e.error IS DISTINCT FROM c.error THEN 'error' END,
            CASE WHEN e.error_cause IS DISTINCT FROM c.error_cause THEN 'error_cause' END
        ], NULL)
    END AS differs_in,
    e.status AS recorded_status,
    c.status AS delivered_status,
    e.output AS recorded_output,
    c.output AS delivered_output,
    e.error_cause AS recorded_error_cause,
    c.error_cause AS delivered_error_cause,
    e.authenticated_by AS recorded_authenticated_by,
    c.authenticated_by AS delivered_authenticated_by,
    c.deliveries,
    c.first_received_at,
    c.last_received_at
FROM execution_conflicts AS c
LEFT JOIN executions AS e ON c.execution_id = e.execution_id;

COMMENT ON VIEW conflicts IS
    'One row per delivery that contradicts the recorded outcome, beside that outcome. Ask by first_received_at, execution_id or conflict_id.';
COMMENT ON COLUMN conflicts.conflict_id IS
    'Identifies the row; rises with the order of recording.';
COMMENT ON COLUMN conflicts.execution_id IS
    'The execution whose recorded outcome is contradicted.';
COMMENT ON COLUMN conflicts.workflow_id IS
    'The workflow, as the delivery has it.';
COMMENT ON COLUMN conflicts.bulk_id IS
    'The bulk, as the delivery has it.';
COMMENT ON COLUMN conflicts.differs_in IS
    'What the delivery says otherwise than the record; empty when only the bytes differ that jsonb cannot hold; null when the execution is not recorded any more.';
COMMENT ON COLUMN conflicts.recorded_status IS
    'The status that stands.';
COMMENT ON COLUMN conflicts.delivered_status IS
    'The status that the delivery reports.';
COMMENT ON COLUMN conflicts.recorded_output IS
    'The output that stands.';
COMMENT ON COLUMN conflicts.delivered_output IS
    'The output, as the delivery has it.';
COMMENT ON COLUMN conflicts.recorded_error_cause IS
    'The cause that stands.';
COMMENT ON COLUMN conflicts.delivered_error_cause IS
    'The cause, as the delivery has it.';
COMMENT ON COLUMN conflicts.recorded_authenticated_by IS
    'How the delivery that stands got in: signature, secret_header, url_token, none; null when not known.';
COMMENT ON COLUMN conflicts.delivered_authenticated_by IS
    'How this delivery got in: signature, secret_header, url_token, none; null when not known.';
COMMENT ON COLUMN conflicts.deliveries IS
    'How many times this very delivery came.';
COMMENT ON COLUMN conflicts.first_received_at IS
    'When this delivery first came, by the receiver''s clock.';
COMMENT ON COLUMN conflicts.last_received_at IS
    'When this delivery last came, by the receiver''s clock.';

-- PostgreSQL 15 cannot ask whether bytes are text without an error when they are not.
CREATE FUNCTION utf8_text(body bytea) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT
AS $$
BEGIN
    RETURN convert_from(body, 'UTF8');
EXCEPTION
    WHEN character_not_in_repertoire OR untranslatable_character THEN
        RETURN NULL;
END
$$;

COMMENT ON FUNCTION utf8_text(bytea) IS
    'The bytes as text; null when they are not UTF-8 or hold U+0000, which PostgreSQL''s text cannot.';

-- "What went into quarantine lately?" Paid by quarantined bodies only.
CREATE INDEX quarantine_first_received_at ON quarantine (first_received_at);

CREATE VIEW quarantined AS
SELECT
    quarantine_id,
    reason,
    utf8_text(body) AS body_text,
    octet_length(body) AS body_bytes,
    authenticated_by,
    acknowledged,
    intact,
    deliveries,
    first_received_at,
    last_received_at
FROM quarantine;

COMMENT ON VIEW quarantined IS
    'One row per body in quarantine, readable. Ask by first_received_at or quarantine_id.';
COMMENT ON COLUMN quarantined.quarantine_id IS
    'Identifies the row; rises with the order of recording.';
COMMENT ON COLUMN quarantined.reason IS
    'Why the body is no execution, or why PostgreSQL refused it.';
COMMENT ON COLUMN quarantined.body_text IS
    'The body as text; null when it is not UTF-8: encode(body, ''escape'') in quarantine shows any.';
COMMENT ON COLUMN quarantined.body_bytes IS
    'The length of the body in bytes.';
COMMENT ON COLUMN quarantined.authenticated_by IS
    'How this body got in first: signature, secret_header, url_token, none; null when not known.';
COMMENT ON COLUMN quarantined.acknowledged IS
    'Whether the sender was answered 200, at least once; otherwise 422, and it knows.';
COMMENT ON COLUMN quarantined.intact IS
    'Whether the body is the one that came; false when the spool''s disk has altered it.';
COMMENT ON COLUMN quarantined.deliveries IS
    'How many times this very body came.';
COMMENT ON COLUMN quarantined.first_received_at IS
    'When this body first came, by the receiver''s clock.';
COMMENT ON COLUMN quarantined.last_received_at IS
    'When this body last came, by the receiver''s clock.';
