-- Views for operators, dashboards and scripts. They are stable: README.md in this directory says what may change.
--
-- No view fails on unexpected data: a value that was not sent, or has another shape, is null or has no row. The view changes
-- and views with an order in their name (latest, slow) are ordered; the others are not. Hours and days are in UTC.
--
-- Each comment on a view names the columns to filter by: these filters use an index.

-- Failures ------------------------------------------------------------------------------------

-- The time of a step is text that was sent. A cast of a text that is not a time would fail.
CREATE FUNCTION rfc3339_time(value text) RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE
        WHEN value ~ ('^(?!0000)\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d'
            '(\.\d{1,30})?([Zz]|[+-](0\d|1[0-4]):[0-5]\d)$')
            THEN CASE
                WHEN substr(value, 9, 2)::integer <= date_part('day',
                    make_date(substr(value, 1, 4)::integer, substr(value, 6, 2)::integer, 1) + interval '1 month -1 day')
                    THEN value::timestamptz
            END
    END;

COMMENT ON FUNCTION rfc3339_time(text) IS
    'The time, or null if the text is not an RFC 3339 timestamp.';

-- The codes are those of the sender's predictions. The patterns match the messages of the sender and of model providers.
-- Their order matters: an image that could not be downloaded in time is an invalid input, and a timeout of a provider is a
-- timeout. Numbers count only as a status of HTTP: "must be under 500 characters" is not an internal error.
CREATE FUNCTION failure_class(VARIADIC texts text[]) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    original text;
    value text;
    http_status text;
BEGIN
    FOREACH original IN ARRAY coalesce(texts, '{}') LOOP
        CONTINUE WHEN original IS NULL OR original = 'ExecutionFailed';
        -- Only the beginning: longer messages quote other texts, which could match.
        value := left(original, 2000);
        CASE substring(value FROM '\m(INPUT_VALIDATION_ERROR|INPUT_DOWNLOAD_ERROR|PROVIDER_[A-Z_]+|NETWORK_ERROR|EXECUTION_TIMEOUT|PIPELINE_CONFIG_ERROR|PUBLISH_FAILED|WORKER_LOST|ITERATION_ERROR)\M')
            WHEN 'INPUT_VALIDATION_ERROR', 'INPUT_DOWNLOAD_ERROR' THEN RETURN 'invalid_user_input';
            WHEN 'PROVIDER_REJECTED' THEN RETURN 'content_moderation';
            WHEN 'PROVIDER_AUTH_ERROR' THEN RETURN 'provider_auth';
            WHEN 'PROVIDER_RATE_LIMIT' THEN RETURN 'provider_rate_limit';
            WHEN 'PROVIDER_SERVER_ERROR', 'PROVIDER_FAILED', 'PROVIDER_BAD_REQUEST' THEN RETURN 'provider_error';
            WHEN 'NETWORK_ERROR' THEN RETURN 'provider_unavailable';
            WHEN 'EXECUTION_TIMEOUT' THEN RETURN 'execution_timeout';
            WHEN 'PIPELINE_CONFIG_ERROR' THEN RETURN 'invalid_model_config';
            WHEN 'PUBLISH_FAILED', 'WORKER_LOST', 'ITERATION_ERROR' THEN RETURN 'internal_error';
            ELSE NULL;
        END CASE;
        value := translate(lower(value), '_-' || chr(8217), '  ''');
        IF value ~ '\m(content (policy|policies|filter\w*|moderat\w*)|usage polic\w+|moderat(ed|ion|or)|nsfw|safety (system|filter\w*|check\w*|setting\w*|guideline\w*|polic\w+|reasons?)|prohibited content|flagged|(sensitive|inappropriate|explicit|unsafe|harmful) content|violat\w+ (\w+ ){0,4}(polic\w+|guidelines?|terms)|responsible ai)\M' THEN
            RETURN 'content_moderation';
        ELSIF value ~ '\m((fetch|download|retrieve|decode)(ing)?\M (?!.{0,20}\m(outputs?|results?|models?|weights)\M).{0,30}|(load|access|open|read)(ing)? ((the|your|an?|given|input|source|reference) )*)\m(urls?|images?|videos?|audios?|files?|media|https?://)'
            AND value ~ '\m(fail\w*|unable|not|cannot|can''t|couldn''t|errors?)\M' THEN
            RETURN 'invalid_user_input';
        ELSIF value ~ '(time ?out\w*|timed ?out)\M(?! (must|should|parameter|value|seconds?|ms|is (invalid|required)))|\m(deadline ?exceeded|took too long|exceed\w* (the )?((max\w*|execution|time) )+(time|limit)|did not (finish|complete|answer|respond) (with)?in)\M' THEN
            RETURN 'execution_timeout';
        ELSIF value ~ '\m(rate ?limit\w*|too many (concurrent )?(requests|jobs|predictions|executions)|(exceed\w*|insufficient|over|out of) ((your|the|current|api|daily|monthly) )*quota|quota (\w+ ){0,2}(exceeded|exhausted|reached)|resource ((has|have) been )?exhausted|(was|been|is|request|requests|being) throttled|throttling\w*|concurrency limit|requests per (minute|second))\M' THEN
            RETURN 'provider_rate_limit';
        ELSIF value ~ '\m(unauthori[sz]ed|unauthenticated|authentication|authorization (failed|error|required)|invalid (authentication|((api|access|auth|bearer) )?(key|credentials?)|((api|access|auth|bearer) )token)|((incorrect|missing|wrong|expired|no) )?api key|(permission|access) (is |was )?denied|forbidden|not authori[sz]ed|insufficient permissions?)\M' THEN
            RETURN 'provider_auth';
        ELSIF value ~ '\m(unknown model|invalid model|no such model|unsupported model|invalid version|models?\M[^:,;]{0,60}\m((was |is |could |be |not )*not found|does not exist|(was |is |has been )?(deprecated|retired)|no longer (available|supported|exists))|model not found|model version|((invalid|missing|bad|wrong|model|pipeline) )?configuration|misconfigured)\M' THEN
            RETURN 'invalid_model_config';
        ELSIF value ~ '\m(out of memory|oom)\M' THEN
            RETURN 'provider_error';
        ELSIF value ~ '\m(overloaded|(server|service|model|system) (is )?(currently |too )?busy|high demand)\M' THEN
            RETURN 'provider_unavailable';
        ELSIF value ~ '\m(invalid (input|image|video|audio|file|url|parameter|value|prompt|argument|format|type|request|size|dimension|resolution|aspect ratio|base64)s?|validation (error|failed)|missing (required|input|parameter|image|prompt)|(is|are|field) required|unsupported (format|file|image|video|media|audio|language|aspect ratio|resolution)|not supported|too (small|large|long|short|big|few)|must (be|have|contain|not be|match)|exceeds? (the )?(\w+ ){0,3}(max\w*|limit|allowed|size|length|[0-9]+ ?[a-z]*)|no (\w+ )?(face|person|speech|audio|image)s? (\w+ )?(detected|found)|bad request|unprocessable|malformed|does not exist|maximum context length|not a valid|cannot identify image|(could not|cannot|can''t|couldn''t) be (downloaded|fetched|loaded|decoded|read|opened))\M' THEN
            RETURN 'invalid_user_input';
        ELSIF value ~ '\m(unavailable|bad gateway|connection (was |has been )?(refused|reset|closed|aborted|error)|connect(ion)?error|econn(reset|refused|aborted)|enotfound|eai again|epipe|socket hang up|network error|no (\w+ )?capacity|(at|over|insufficient) capacity|server disconnected)\M' THEN
            RETURN 'provider_unavailable';
        ELSIF value ~ '\minternal ?(server ?)?error\M' THEN
            RETURN 'internal_error';
        ELSIF value ~ '\m(provider (error|failed)|prediction failed|model (error|failed)|upstream error|(inference|generation) failed)\M' THEN
            RETURN 'provider_error';
        END IF;
        http_status := substring(
            value FROM '(?:\m(?:status(?: ?code)?|http(?:/[0-9.]+)?|(?:http )?error(?: ?code)?|code)"?(?: is| was)?[ :=(]{1,3}|\((?=[0-9]{3}\)))([45][0-9][0-9])(?![0-9.%]| ?(?:px|pixels?|characters?|tokens?|mb|kb|ms|s|seconds?|frames?)\M)'
        );
        CASE http_status
            WHEN '400', '413', '415', '422' THEN RETURN 'invalid_user_input';
            WHEN '401', '403' THEN RETURN 'provider_auth';
            WHEN '408' THEN RETURN 'execution_timeout';
            WHEN '429' THEN RETURN 'provider_rate_limit';
            WHEN '500' THEN RETURN 'internal_error';
            WHEN '502', '503', '504', '529' THEN RETURN 'provider_unavailable';
            ELSE NULL;
        END CASE;
    END LOOP;
    RETURN 'unknown';
END
$$;

COMMENT ON FUNCTION failure_class(text[]) IS
    'Class of a failure from the first text that shows it: content_moderation, execution_timeout, invalid_user_input, invalid_model_config, provider_auth, provider_error, provider_rate_limit, provider_unavailable, internal_error, or unknown. Example: failure_class(error_cause, error).';

CREATE FUNCTION path_of_key(key text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '.' || CASE WHEN key ~ '^[A-Za-z_][A-Za-z0-9_]*$' THEN key ELSE to_json(key)::text END;

COMMENT ON FUNCTION path_of_key(text) IS
    'A key as a part of a path, in the form of jsonpath and jq.';

-- Legacy flows send an array, step_results, instead of the object step_outputs. Each can be an object or an array.
CREATE FUNCTION steps_of(payload jsonb) RETURNS TABLE (key text, step jsonb, path text, n bigint)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    BEGIN ATOMIC
        SELECT s.key, s.step, s.path, s.n
        -- OFFSET 0: the payload is decompressed once.
        FROM (
            SELECT
                CASE WHEN f.has_outputs THEN 'step_outputs' ELSE 'step_results' END AS field,
                CASE WHEN f.has_outputs THEN f.outputs ELSE payload -> 'step_results' END AS steps
            FROM (
                SELECT
                    o.outputs,
                    coalesce(
                        jsonb_typeof(o.outputs) IN ('object', 'array') AND o.outputs NOT IN ('{}', '[]'), false
                    ) AS has_outputs
                FROM (SELECT payload -> 'step_outputs' AS outputs OFFSET 0) AS o
                OFFSET 0
            ) AS f
            OFFSET 0
        ) AS p
        CROSS JOIN LATERAL (
            SELECT o.key, o.value AS step, p.field || path_of_key(o.key) AS path, o.position AS n
            FROM jsonb_each(CASE jsonb_typeof(p.steps) WHEN 'object' THEN p.steps END)
                WITH ORDINALITY AS o (key, value, position)
            UNION ALL
            SELECT
                coalesce(a.value ->> 'step_id', a.position::text),
                a.value,
                format('%s[%s]', p.field, a.position - 1),
                a.position
            FROM jsonb_array_elements(CASE jsonb_typeof(p.steps) WHEN 'array' THEN p.steps END)
                WITH ORDINALITY AS a (value, position)
        ) AS s;
    END;

COMMENT ON FUNCTION steps_of(jsonb) IS
    'The steps in a payload, with their keys: those of step_outputs or, if it is missing or empty, those of step_results (legacy flows). path leads to the step, and n is its position.';

-- The texts of the failed steps are read only if the cause shows no class. The limits bound the time for any payload: a list
-- reads this for 1,000 executions.
CREATE FUNCTION execution_failure_class(error_cause text, error text, step_failed boolean, payload jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce(
        nullif(failure_class(error_cause), 'unknown'),
        CASE
            WHEN step_failed AND pg_column_size(payload) <= 16384 THEN nullif(failure_class((
                SELECT string_agg(f.text, E'\n' ORDER BY f.key)
                FROM (
                    SELECT s.key, left(concat_ws(' ', s.step ->> 'error_cause', s.step ->> 'error'), 500) AS text
                    FROM steps_of(payload) AS s
                    WHERE s.step ->> 'status' = 'failed'
                    LIMIT 100
                ) AS f
            )), 'unknown')
        END,
        failure_class(error)
    );

COMMENT ON FUNCTION execution_failure_class(text, text, boolean, jsonb) IS
    'Class of a failed execution: failure_class of its cause or, if that is unknown, of the texts of its failed steps or of its error. The steps are read in payloads of at most 16 KiB (compressed).';

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
    e.first_received_at,
    e.reference,
    s.step -> 'metadata' ->> 'model' AS model
FROM executions AS e
CROSS JOIN LATERAL steps_of(e.payload) AS s (key, step)
WHERE (e.status = 'failed' OR e.step_failed) AND s.step ->> 'status' = 'failed';

COMMENT ON VIEW failed_steps IS
    'One row per failed step, also of completed executions. No rows for removed payloads. Filter by first_received_at, workflow_id, bulk_id or execution_id.';
COMMENT ON COLUMN failed_steps.execution_id IS
    'Identifier of the execution, as sent.';
COMMENT ON COLUMN failed_steps.workflow_id IS
    'Identifier of the workflow, as sent.';
COMMENT ON COLUMN failed_steps.bulk_id IS
    'Identifier of the bulk, as sent; null without a bulk.';
COMMENT ON COLUMN failed_steps.execution_status IS
    'Status of the execution. A completed execution can contain a failed step.';
COMMENT ON COLUMN failed_steps.step_id IS
    'Identifier of the step.';
COMMENT ON COLUMN failed_steps.error IS
    'Kind of failure of the step; null if not sent.';
COMMENT ON COLUMN failed_steps.error_cause IS
    'Cause of the failure of the step, as sent; null if not sent.';
COMMENT ON COLUMN failed_steps.started_at IS
    'Start of the step, text as sent; null if not sent.';
COMMENT ON COLUMN failed_steps.completed_at IS
    'End of the step, text as sent; null if not sent.';
COMMENT ON COLUMN failed_steps.first_received_at IS
    'When the first delivery of the execution was received, by the receiver''s clock.';
COMMENT ON COLUMN failed_steps.reference IS
    'Query parameters of the webhook''s URL, as a JSON object of strings; null without any. Filter: reference @> ''{"order": "1234"}''.';
COMMENT ON COLUMN failed_steps.model IS
    'Model that ran; null for a step without a model.';

CREATE VIEW steps AS
SELECT
    e.execution_id,
    e.workflow_id,
    e.payload ->> 'version_id' AS version_id,
    e.bulk_id,
    e.status AS execution_status,
    s.key,
    coalesce(s.step ->> 'step_id', s.key) AS step_id,
    s.step ->> 'status' AS status,
    m.metadata ->> 'model' AS model,
    m.metadata ->> 'version' AS model_version,
    coalesce(
        CASE WHEN t.completed_at >= t.started_at THEN date_part('epoch', t.completed_at - t.started_at) END,
        CASE jsonb_typeof(m.seconds) WHEN 'number' THEN CASE WHEN m.seconds::numeric >= 0 AND m.seconds::numeric < 1e9 THEN round(m.seconds::numeric, 9)::float8 END END
    ) AS duration_seconds,
    CASE jsonb_typeof(m.cost) WHEN 'number' THEN sensible_cost(m.cost::numeric) END AS cost,
    m.is_fallback,
    CASE WHEN m.is_fallback THEN coalesce(
        m.metadata ->> 'primary_error',
        CASE jsonb_typeof(m.fallback) WHEN 'string' THEN m.fallback #>> '{}' ELSE m.fallback ->> 'reason' END
    ) END AS first_error,
    s.step ->> 'error' AS error,
    s.step ->> 'error_cause' AS error_cause,
    CASE WHEN s.step ->> 'status' = 'failed' THEN failure_class(s.step ->> 'error_cause', s.step ->> 'error') END AS failure_class,
    s.step ->> 'selected' AS selected,
    s.step ->> 'started_at' AS started_at,
    s.step ->> 'completed_at' AS completed_at,
    e.first_received_at,
    e.reference
FROM executions AS e
CROSS JOIN LATERAL steps_of(e.payload) AS s (key, step)
CROSS JOIN LATERAL (
    SELECT
        f.*,
        -- A model has a primary_error only if a fallback ran after it.
        coalesce(
            f.metadata ->> 'fallback_used' = 'true'
            OR jsonb_typeof(f.fallback) IN ('object', 'string') AND f.fallback <> '""'
            OR f.metadata ->> 'fallback_used' IS NULL AND f.metadata ->> 'primary_error' <> '',
            false
        ) AS is_fallback
    FROM (
        SELECT
            s.step -> 'metadata' AS metadata,
            coalesce(nullif(s.step -> 'fallback', 'null'), s.step -> 'metadata' -> 'fallback') AS fallback,
            coalesce(
                nullif(s.step -> 'metadata' -> 'elapsed_seconds', 'null'), s.step -> 'metadata' -> 'execution_time'
            ) AS seconds,
            coalesce(nullif(s.step -> 'cost', 'null'), s.step -> 'metadata' -> 'cost') AS cost
        OFFSET 0
    ) AS f
) AS m
CROSS JOIN LATERAL (
    SELECT
        rfc3339_time(s.step ->> 'started_at') AS started_at,
        rfc3339_time(s.step ->> 'completed_at') AS completed_at
) AS t
WHERE jsonb_typeof(s.step) = 'object';

COMMENT ON VIEW steps IS
    'One row per step, with its model. No rows for removed payloads. Filter by first_received_at, workflow_id, bulk_id or execution_id.';
COMMENT ON COLUMN steps.execution_id IS
    'Identifier of the execution, as sent.';
COMMENT ON COLUMN steps.workflow_id IS
    'Identifier of the workflow, as sent.';
COMMENT ON COLUMN steps.version_id IS
    'Identifier of the workflow''s version, as sent; null if not sent.';
COMMENT ON COLUMN steps.bulk_id IS
    'Identifier of the bulk, as sent; null without a bulk.';
COMMENT ON COLUMN steps.execution_status IS
    'Status of the execution. A completed execution can contain a failed step.';
COMMENT ON COLUMN steps.key IS
    'Key of the step in the payload''s step_outputs; in a legacy flow its step_id, or its position in step_results.';
COMMENT ON COLUMN steps.step_id IS
    'Identifier of the step; the key if not sent.';
COMMENT ON COLUMN steps.status IS
    'Status of the step, as sent: queued, running, completed, failed, cancelled or skipped (a branch that was not chosen).';
COMMENT ON COLUMN steps.model IS
    'Model that ran; null for a step without a model.';
COMMENT ON COLUMN steps.model_version IS
    'Version of the model; null if not sent.';
COMMENT ON COLUMN steps.duration_seconds IS
    'Seconds from started_at to completed_at, or else the duration in the step''s metadata; null if unknown.';
COMMENT ON COLUMN steps.cost IS
    'Cost of the step, in the sender''s unit; null if not sent.';
COMMENT ON COLUMN steps.is_fallback IS
    'Whether the output is from a fallback, because the first model failed (see first_error).';
COMMENT ON COLUMN steps.first_error IS
    'Error of the first model, before the fallback; null without a fallback.';
COMMENT ON COLUMN steps.error IS
    'Kind of failure of the step; null if not sent.';
COMMENT ON COLUMN steps.error_cause IS
    'Cause of the failure of the step, as sent; null if not sent.';
COMMENT ON COLUMN steps.failure_class IS
    'failure_class(error_cause, error) of a failed step; otherwise null.';
COMMENT ON COLUMN steps.selected IS
    'Branch that a choice step selected; null for other steps.';
COMMENT ON COLUMN steps.started_at IS
    'Start of the step, text as sent; null if not sent.';
COMMENT ON COLUMN steps.completed_at IS
    'End of the step, text as sent; null if not sent.';
COMMENT ON COLUMN steps.first_received_at IS
    'When the first delivery of the execution was received, by the receiver''s clock.';
COMMENT ON COLUMN steps.reference IS
    'Query parameters of the webhook''s URL, as a JSON object of strings; null without any. Filter: reference @> ''{"order": "1234"}''.';

CREATE VIEW failures AS
SELECT
    e.execution_id,
    NULL AS prediction_id,
    e.workflow_id,
    e.bulk_id,
    e.error,
    e.error_cause,
    (
        SELECT array_agg(coalesce(s.step ->> 'step_id', s.key) ORDER BY s.key)
        FROM steps_of(e.payload) AS s (key, step)
        WHERE s.step ->> 'status' = 'failed'
    ) AS failed_steps,
    e.started_at,
    e.completed_at,
    e.first_received_at,
    e.last_received_at,
    e.payload_removed_at,
    e.reference,
    execution_failure_class(e.error_cause, e.error, e.step_failed, e.payload) AS failure_class
FROM executions AS e
WHERE e.status = 'failed'
UNION ALL
SELECT
    NULL,
    p.prediction_id,
    p.workflow_id,
    NULL,
    p.error,
    p.error_cause,
    NULL,
    NULL,
    NULL,
    p.first_received_at,
    p.last_received_at,
    p.payload_removed_at,
    p.reference,
    failure_class(p.error, p.error_cause)
FROM predictions AS p
WHERE p.status = 'failed';

COMMENT ON VIEW failures IS
    'One row per failed execution and per failed prediction: why it failed, and in which steps. count(execution_id) counts executions only. Filter by first_received_at, workflow_id, bulk_id, execution_id or prediction_id.';
COMMENT ON COLUMN failures.execution_id IS
    'Identifier of the execution, as sent; null for a prediction.';
COMMENT ON COLUMN failures.prediction_id IS
    'Identifier of the prediction, as sent; null for an execution.';
COMMENT ON COLUMN failures.workflow_id IS
    'Identifier of the workflow, as sent; null for a prediction outside of a workflow.';
COMMENT ON COLUMN failures.bulk_id IS
    'Identifier of the bulk, as sent; null without a bulk, and for a prediction.';
COMMENT ON COLUMN failures.error IS
    'Kind of failure, such as ExecutionFailed, or for a prediction PROVIDER_REJECTED; null if not sent.';
COMMENT ON COLUMN failures.error_cause IS
    'Cause of the failure, as sent; null if not sent. See also failed_steps.';
COMMENT ON COLUMN failures.failed_steps IS
    'Identifiers of the steps with status failed; null if there are none, if the payload was removed, and for a prediction.';
COMMENT ON COLUMN failures.started_at IS
    'Start of the execution, by the sender''s clock; null if unknown, and for a prediction.';
COMMENT ON COLUMN failures.completed_at IS
    'End of the execution, by the sender''s clock; null if unknown, and for a prediction.';
COMMENT ON COLUMN failures.first_received_at IS
    'When the first delivery was received, by the receiver''s clock.';
COMMENT ON COLUMN failures.last_received_at IS
    'When the latest delivery was received, by the receiver''s clock.';
COMMENT ON COLUMN failures.payload_removed_at IS
    'When retention removed the payload, and with it failed_steps; null if it was not removed.';
COMMENT ON COLUMN failures.reference IS
    'Query parameters of the webhook''s URL, as a JSON object of strings; null without any. Filter: reference @> ''{"order": "1234"}''.';
COMMENT ON COLUMN failures.failure_class IS
    'One of the sender''s classes of failures: see the functions failure_class and execution_failure_class. From error_cause, the failed steps or error; for a prediction from error and error_cause.';

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
    'One row per hour and workflow: its executions by status, including removed ones. Filter by hour.';
COMMENT ON COLUMN failure_rates.hour IS
    'Start of the hour (UTC) of the executions'' first_received_at.';
COMMENT ON COLUMN failure_rates.workflow_id IS
    'Workflow of the executions.';
COMMENT ON COLUMN failure_rates.executions IS
    'Number of executions: completed + failed + cancelled + other.';
COMMENT ON COLUMN failure_rates.completed IS
    'Executions with status completed, or succeeded or success in a legacy flow.';
COMMENT ON COLUMN failure_rates.failed IS
    'Executions with status failed.';
COMMENT ON COLUMN failure_rates.cancelled IS
    'Executions with status cancelled.';
COMMENT ON COLUMN failure_rates.other IS
    'Executions with any other status, which is not terminal.';
COMMENT ON COLUMN failure_rates.failure_rate IS
    'failed / executions, from 0 to 1.';

-- The lateral query reads one hour by index, so a filter on `hour` skips the other hours. The hours are an array. For
-- the rows of generate_series, the planner would expect a thousand hours and compile the query (JIT), which takes
-- longer than the query itself.
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
    'One row per hour, workflow and cause: the number of failed executions, without removed ones. Filter by hour: the failed executions of each of these hours are read.';
COMMENT ON COLUMN failure_causes.hour IS
    'Start of the hour (UTC) of the executions'' first_received_at.';
COMMENT ON COLUMN failure_causes.workflow_id IS
    'Workflow of the executions.';
COMMENT ON COLUMN failure_causes.error IS
    'Kind of failure, such as ExecutionFailed; null if not sent.';
COMMENT ON COLUMN failure_causes.error_cause IS
    'Cause of the failure, as sent; null if not sent.';
COMMENT ON COLUMN failure_causes.failed IS
    'Number of executions that failed for this cause.';

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
    last_received_at,
    payload_removed_at,
    reference,
    fetched_from
FROM executions
ORDER BY first_received_at DESC;

COMMENT ON VIEW latest_executions IS
    'One row per execution, latest first, without payload and output. Use LIMIT, or filter by bulk_id or execution_id. For one workflow use latest_of_workflow.';
COMMENT ON COLUMN latest_executions.execution_id IS
    'Identifier of the execution, as sent.';
COMMENT ON COLUMN latest_executions.workflow_id IS
    'Identifier of the workflow, as sent.';
COMMENT ON COLUMN latest_executions.bulk_id IS
    'Identifier of the bulk, as sent; null without a bulk.';
COMMENT ON COLUMN latest_executions.status IS
    'Status, as sent. completed, failed and cancelled are terminal, and succeeded or success in a legacy flow; any other status, such as running, is not.';
COMMENT ON COLUMN latest_executions.error_cause IS
    'Cause of the failure, as sent; null if not sent.';
COMMENT ON COLUMN latest_executions.total_cost IS
    'Cost of the execution, in the sender''s unit; null if not sent or not a number.';
COMMENT ON COLUMN latest_executions.duration_seconds IS
    'Seconds from started_at to completed_at; null if one of them is unknown, or if completed_at is earlier.';
COMMENT ON COLUMN latest_executions.started_at IS
    'Start of the execution, by the sender''s clock; null if unknown.';
COMMENT ON COLUMN latest_executions.completed_at IS
    'End of the execution, by the sender''s clock; null if unknown.';
COMMENT ON COLUMN latest_executions.authenticated_by IS
    'How the recorded delivery was authenticated: signature, secret_header, url_token, callback (confirmed by the sender''s API), or none (no authentication configured); null for a fetched execution, and if unknown.';
COMMENT ON COLUMN latest_executions.deliveries IS
    'Number of deliveries of this execution, including duplicates and conflicts.';
COMMENT ON COLUMN latest_executions.first_received_at IS
    'When the first delivery of this execution was received, by the receiver''s clock.';
COMMENT ON COLUMN latest_executions.last_received_at IS
    'When the latest delivery of this execution was received, by the receiver''s clock.';
COMMENT ON COLUMN latest_executions.payload_removed_at IS
    'When retention removed payload and output; null if they were not removed.';
COMMENT ON COLUMN latest_executions.reference IS
    'Query parameters of the webhook''s URL, as a JSON object of strings; null without any. Filter: reference @> ''{"order": "1234"}''.';
COMMENT ON COLUMN latest_executions.fetched_from IS
    'Part of the sender''s API that the execution was read from because its webhook did not arrive: delivery_log, list or execution; null for a webhook.';

-- With `latest_executions WHERE workflow_id = ...`, PostgreSQL may scan the latest executions of all workflows. This is
-- slow for a workflow that has not run for months. The row comparisons below match executions_workflow_id only.
CREATE FUNCTION latest_of_workflow(workflow text) RETURNS SETOF latest_executions
    LANGUAGE sql STABLE PARALLEL SAFE
    BEGIN ATOMIC
        SELECT
            e.execution_id,
            e.workflow_id,
            e.bulk_id,
            e.status,
            e.error_cause,
            e.total_cost,
            CASE
                WHEN e.completed_at >= e.started_at THEN date_part('epoch', e.completed_at - e.started_at)
            END,
            e.started_at,
            e.completed_at,
            e.authenticated_by,
            e.deliveries,
            e.first_received_at,
            e.last_received_at,
            e.payload_removed_at,
            e.reference,
            e.fetched_from
        FROM executions AS e
        WHERE (e.workflow_id, e.first_received_at) >= (workflow, '-infinity'::timestamptz)
            AND (e.workflow_id, e.first_received_at) <= (workflow, 'infinity'::timestamptz)
        ORDER BY e.workflow_id DESC, e.first_received_at DESC;
    END;

COMMENT ON FUNCTION latest_of_workflow(text) IS
    'The rows of latest_executions of one workflow, latest first. Use LIMIT, without ORDER BY. Needs SELECT on executions.';

CREATE VIEW slow_executions AS
SELECT
    execution_id,
    workflow_id,
    bulk_id,
    status,
    date_part('epoch', completed_at - started_at) AS duration_seconds,
    started_at,
    completed_at,
    first_received_at,
    date_bin('1 hour', first_received_at, 'epoch') AS hour,
    reference
FROM executions
WHERE completed_at >= started_at
ORDER BY duration_seconds DESC;

COMMENT ON VIEW slow_executions IS
    'One row per execution with a known duration, slowest first. Filter by hour, and use LIMIT. Filters by first_received_at or workflow_id read all executions of that time or workflow.';
COMMENT ON COLUMN slow_executions.execution_id IS
    'Identifier of the execution, as sent.';
COMMENT ON COLUMN slow_executions.workflow_id IS
    'Identifier of the workflow, as sent.';
COMMENT ON COLUMN slow_executions.bulk_id IS
    'Identifier of the bulk, as sent; null without a bulk.';
COMMENT ON COLUMN slow_executions.status IS
    'Status of the execution, as sent.';
COMMENT ON COLUMN slow_executions.duration_seconds IS
    'Seconds from started_at to completed_at.';
COMMENT ON COLUMN slow_executions.started_at IS
    'Start of the execution, by the sender''s clock.';
COMMENT ON COLUMN slow_executions.completed_at IS
    'End of the execution, by the sender''s clock.';
COMMENT ON COLUMN slow_executions.first_received_at IS
    'When the first delivery of this execution was received, by the receiver''s clock.';
COMMENT ON COLUMN slow_executions.hour IS
    'Start of the hour (UTC) of first_received_at. The current hour is date_bin(''1 hour'', now(), ''epoch'').';
COMMENT ON COLUMN slow_executions.reference IS
    'Query parameters of the webhook''s URL, as a JSON object of strings; null without any. Filter: reference @> ''{"order": "1234"}''.';

-- Results -------------------------------------------------------------------------------------

-- PostgreSQL 15 has no test for valid JSON that does not raise an error. JSON of more than 1 MiB is not parsed. Neither is
-- JSON with a number whose exponent has three digits, because jsonb writes such a number with all its zeros.
CREATE FUNCTION json_in_text(value text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    trimmed text;
    parsed jsonb;
BEGIN
    IF octet_length(value) > 1048576 THEN
        RETURN NULL;
    END IF;
    trimmed := btrim(value, E' \t\r\n');
    IF left(trimmed, 1) || right(trimmed, 1) NOT IN ('{}', '[]', '""')
        OR trimmed ~ '[:,\s[]-?[0-9]+(\.[0-9]+)?[eE][+-]?[0-9]{3}'
    THEN
        RETURN NULL;
    END IF;
    parsed := trimmed::jsonb;
    -- JSON can be encoded several times.
    RETURN CASE jsonb_typeof(parsed) WHEN 'string' THEN json_in_text(parsed #>> '{}') ELSE parsed END;
EXCEPTION
    WHEN data_exception OR program_limit_exceeded THEN
        RETURN NULL;
END
$$;

COMMENT ON FUNCTION json_in_text(text) IS
    'The JSON object or array that the text contains; null for any other text. The text is at most 1 MiB long.';

CREATE FUNCTION media_type_of_url(url text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        -- The letters after the last dot of the path, which can be escaped. A URL without a path has no extension.
        replace(lower(substring(url FROM '^[^:]+://[^/?#]+/[^?#;]*((?:\.|%2[Ee])[A-Za-z0-9]+)(?:;[^?#]*)?(?:[?#]|$)')), '%2e', '.')
        WHEN '.png' THEN 'image/png'
        WHEN '.apng' THEN 'image/apng'
        WHEN '.jpg' THEN 'image/jpeg'
        WHEN '.jpeg' THEN 'image/jpeg'
        WHEN '.jfif' THEN 'image/jpeg'
        WHEN '.webp' THEN 'image/webp'
        WHEN '.gif' THEN 'image/gif'
        WHEN '.avif' THEN 'image/avif'
        WHEN '.heic' THEN 'image/heic'
        WHEN '.heif' THEN 'image/heif'
        WHEN '.jxl' THEN 'image/jxl'
        WHEN '.exr' THEN 'image/x-exr'
        WHEN '.ico' THEN 'image/vnd.microsoft.icon'
        WHEN '.bmp' THEN 'image/bmp'
        WHEN '.tif' THEN 'image/tiff'
        WHEN '.tiff' THEN 'image/tiff'
        WHEN '.svg' THEN 'image/svg+xml'
        WHEN '.psd' THEN 'image/vnd.adobe.photoshop'
        WHEN '.mp4' THEN 'video/mp4'
        WHEN '.m4v' THEN 'video/mp4'
        WHEN '.webm' THEN 'video/webm'
        WHEN '.mov' THEN 'video/quicktime'
        WHEN '.mkv' THEN 'video/matroska'
        WHEN '.avi' THEN 'video/x-msvideo'
        WHEN '.mpg' THEN 'video/mpeg'
        WHEN '.mpeg' THEN 'video/mpeg'
        WHEN '.ogv' THEN 'video/ogg'
        WHEN '.3gp' THEN 'video/3gpp'
        WHEN '.flv' THEN 'video/x-flv'
        WHEN '.wmv' THEN 'video/x-ms-wmv'
        WHEN '.ts' THEN 'video/mp2t'
        WHEN '.m3u8' THEN 'application/vnd.apple.mpegurl'
        WHEN '.mp3' THEN 'audio/mpeg'
        WHEN '.wav' THEN 'audio/wav'
        WHEN '.flac' THEN 'audio/flac'
        WHEN '.ogg' THEN 'audio/ogg'
        WHEN '.opus' THEN 'audio/ogg'
        WHEN '.m4a' THEN 'audio/mp4'
        WHEN '.aac' THEN 'audio/aac'
        WHEN '.weba' THEN 'audio/webm'
        WHEN '.oga' THEN 'audio/ogg'
        WHEN '.mka' THEN 'audio/matroska'
        WHEN '.wma' THEN 'audio/x-ms-wma'
        WHEN '.aiff' THEN 'audio/aiff'
        WHEN '.aif' THEN 'audio/aiff'
        WHEN '.mid' THEN 'audio/midi'
        WHEN '.txt' THEN 'text/plain'
        WHEN '.md' THEN 'text/markdown'
        WHEN '.srt' THEN 'text/srt'
        WHEN '.vtt' THEN 'text/vtt'
        WHEN '.html' THEN 'text/html'
        WHEN '.htm' THEN 'text/html'
        WHEN '.pdf' THEN 'application/pdf'
        WHEN '.rtf' THEN 'application/rtf'
        WHEN '.epub' THEN 'application/epub+zip'
        WHEN '.doc' THEN 'application/msword'
        WHEN '.docx' THEN 'application/vnd.openxmlformats-officedocument.wordprocessingml.document'
        WHEN '.xlsx' THEN 'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet'
        WHEN '.pptx' THEN 'application/vnd.openxmlformats-officedocument.presentationml.presentation'
        WHEN '.csv' THEN 'text/csv'
        WHEN '.json' THEN 'application/json'
        WHEN '.jsonl' THEN 'application/jsonl'
        WHEN '.xml' THEN 'application/xml'
        WHEN '.zip' THEN 'application/zip'
        WHEN '.glb' THEN 'model/gltf-binary'
        WHEN '.gltf' THEN 'model/gltf+json'
        WHEN '.obj' THEN 'model/obj'
        WHEN '.stl' THEN 'model/stl'
        WHEN '.usdz' THEN 'model/vnd.usdz+zip'
    END;

COMMENT ON FUNCTION media_type_of_url(text) IS
    'Media type by the extension of the URL''s path; null if the extension is unknown.';

CREATE FUNCTION result_kind(media_type text, path text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce(
        CASE
            WHEN media_type ~ '^(image|video|audio)/' THEN split_part(media_type, '/', 1)
            WHEN media_type IN ('application/vnd.apple.mpegurl', 'application/x-mpegurl') THEN 'video'
            WHEN media_type ~ '^text/(html|rtf)$|^application/(pdf|rtf|msword|epub|vnd\.(openxmlformats|oasis|ms-))'
                THEN 'document'
            WHEN media_type ~ '^text/' AND media_type NOT IN ('text/csv', 'text/xml') THEN 'text'
            WHEN media_type <> 'application/octet-stream' THEN 'data'
        END,
        -- The last of these words in the path.
        CASE substring(
            lower(path) FROM '.*(thumb|poster|image|img|picture|photo|video|movie|clip|audio|speech|voice|music|song|sound)'
        )
            WHEN 'video' THEN 'video'
            WHEN 'movie' THEN 'video'
            WHEN 'clip' THEN 'video'
            WHEN 'audio' THEN 'audio'
            WHEN 'speech' THEN 'audio'
            WHEN 'voice' THEN 'audio'
            WHEN 'music' THEN 'audio'
            WHEN 'song' THEN 'audio'
            WHEN 'sound' THEN 'audio'
            WHEN 'thumb' THEN 'image'
            WHEN 'poster' THEN 'image'
            WHEN 'image' THEN 'image'
            WHEN 'img' THEN 'image'
            WHEN 'picture' THEN 'image'
            WHEN 'photo' THEN 'image'
        END,
        'document'
    );

COMMENT ON FUNCTION result_kind(text, text) IS
    'Kind of a URL: image, video, audio, text, document or data. By its media type; if that is unknown, by the keys of its path; otherwise document.';

-- Longer texts are no URLs, because a pattern takes seconds on many megabytes.
CREATE FUNCTION is_result_url(value text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN octet_length(value) <= 8192
            THEN value ~ '^[A-Za-z][A-Za-z0-9+.-]*://[^\s[:cntrl:]]+$' AND value !~ ',https?://'
        ELSE false
    END OR left(value, 300) ~* '^data:[a-z]+/[^,\s[:cntrl:]]{1,200},';

COMMENT ON FUNCTION is_result_url(text) IS
    'Whether the text is a URL with a host, such as https://..., of at most 8 KiB, or a data URL with a media type.';

-- A comma between two URLs separates them; any other comma belongs to a URL. One pattern checks the whole text, and the
-- text is split without a pattern: a pattern for each URL takes seconds if a text of 1 MiB has many short ones.
CREATE FUNCTION urls_in_text(value text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN octet_length(value) <= 1048576
            AND btrim(value, E' \t\r\n') ~ '[ \t\r\n][A-Za-z][A-Za-z0-9+.-]*://|,https?://'
            AND value ~ '^[ \t\r\n]*[A-Za-z][A-Za-z0-9+.-]*://[^\s[:cntrl:]]+(?:[ \t\r\n,]+[A-Za-z][A-Za-z0-9+.-]*://[^\s[:cntrl:]]+)*[ \t\r\n,]*$'
        THEN to_jsonb(array_remove(string_to_array(
            replace(replace(replace(
                translate(btrim(value, E', \t\r\n'), E'\t\r\n', '   '),
                ', ', ' '), ',https://', ' https://'), ',http://', ' http://'),
            ' '), ''))
    END;

COMMENT ON FUNCTION urls_in_text(text) IS
    'The URLs of a text that contains only URLs, separated by blanks, line breaks or commas, as a JSON array; null for any other text. The text is at most 1 MiB long.';

-- Embeddings and masks have thousands of elements.
CREATE FUNCTION is_array_of_numbers(value jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce(
        jsonb_typeof(value -> 0) IN ('number', 'boolean') AND jsonb_typeof(value -> 1) IN ('number', 'boolean'), false
    );

COMMENT ON FUNCTION is_array_of_numbers(jsonb) IS
    'Whether the value is an array whose first two elements are numbers or booleans.';

-- The values of each place are read level by level. A place is the output, a field of workflow_output, or the output of a
-- step. Each place, and each text that contains JSON or several URLs, is a `whole`. A whole that contains no result is itself one result, of
-- the kind data.
--
-- The costs are bounded for any payload. At most 10,000 values of a place are read, and 50,000 of the first 2,000 places,
-- 16 levels deep. The output is the first place. Each value counts, also one that is no result. Of an array, at most 1,000
-- objects and arrays are read, or 10,000 texts. Arrays of numbers are not read. A path is cut after 1,000 characters.
CREATE FUNCTION execution_results(output jsonb, payload jsonb)
    RETURNS TABLE (
        "position" bigint, path text, step_id text, is_final boolean, kind text, media_type text, url text, text text,
        is_partial boolean
    )
    LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 5
    -- Compilation takes longer than the query. SET also keeps PostgreSQL from planning the query for each caller.
    SET jit = off
    BEGIN ATOMIC
        -- In this order, without a sort of the large values.
        WITH places AS (
            SELECT w.*
            FROM (
                SELECT 2 AS origin, 1::bigint AS n, 'output' AS path, NULL AS step_id, output AS value
                UNION ALL
                SELECT 1, o.n, coalesce('workflow_output' || path_of_key(o.key), 'workflow_output'), NULL, o.value
                FROM (SELECT payload -> 'workflow_output' AS named OFFSET 0) AS f
                CROSS JOIN LATERAL (
                    SELECT e.key, e.value, e.n
                    FROM jsonb_each(CASE jsonb_typeof(f.named) WHEN 'object' THEN f.named END)
                        WITH ORDINALITY AS e (key, value, n)
                    UNION ALL
                    SELECT NULL, f.named, 1
                    WHERE jsonb_typeof(f.named) <> 'object'
                ) AS o
                UNION ALL
                SELECT
                    3,
                    row_number() OVER (ORDER BY s.step ->> 'started_at', s.n),
                    s.path || '.output',
                    coalesce(s.step ->> 'step_id', CASE WHEN s.path !~ '\]$' THEN s.key END),
                    s.step -> 'output'
                FROM steps_of(payload) AS s
                WHERE coalesce(s.step ->> 'status', '') NOT IN ('failed', 'cancelled', 'skipped')
            ) AS w
            WHERE w.value NOT IN ('null', '""', '[]', '{}')
            LIMIT 2000
        ),
        found AS (
            SELECT
                w.step_id,
                f.place,
                f.path,
                f.media_type,
                f.is_whole,
                CASE WHEN f.is_whole OR jsonb_typeof(f.value) = 'string' THEN f.value END AS value,
                -- Whether values inside are not read.
                CASE jsonb_typeof(f.value)
                    WHEN 'object' THEN cardinality(f.place) = 17 AND f.value <> '{}'
                    WHEN 'array' THEN jsonb_array_length(f.value) > CASE
                        WHEN cardinality(f.place) = 17 THEN 0
                        WHEN jsonb_typeof(f.value -> 0) = 'string' THEN 10000
                        ELSE 1000
                    END AND NOT is_array_of_numbers(f.value)
                END AS is_cut
            FROM places AS w
            CROSS JOIN LATERAL (
                WITH RECURSIVE read AS (
                    SELECT
                        ARRAY[w.origin, w.n::integer] AS place,
                        left(w.path, 1000) AS path,
                        coalesce(json_in_text(t.value), urls_in_text(t.value), w.value) AS value,
                        NULL AS media_type,
                        -- Whether a text at this place is a result.
                        true AS has_text,
                        true AS is_whole
                    FROM (SELECT CASE jsonb_typeof(w.value) WHEN 'string' THEN w.value #>> '{}' END AS value OFFSET 0) AS t
                    UNION ALL
                    -- Values that are no results have no row below, but count for the limit.
                    SELECT
                        p.place || c.n::integer,
                        CASE
                            WHEN k.is_kept
                                THEN left(p.path || coalesce(path_of_key(c.key), format('[%s]', c.n - 1)), 1000)
                        END,
                        CASE WHEN k.is_kept THEN coalesce(t.json, c.value) END,
                        CASE
                            -- An element of an array has no media type beside it.
                            WHEN t.is_url AND c.key IS NOT NULL THEN coalesce(
                                lower(substring(
                                    coalesce(
                                        p.value ->> 'content_type', p.value ->> 'contentType', p.value ->> 'mime_type',
                                        p.value ->> 'mimeType', p.value ->> 'media_type', p.value ->> 'type'
                                    ) FROM '^[A-Za-z]+/[A-Za-z0-9.+-]{1,100}'
                                )),
                                lower(substring(p.value ->> 'type' FROM '^(?:[Ii]mage|[Vv]ideo|[Aa]udio)$')) || '/*'
                            )
                        END,
                        t.has_text,
                        t.has_text AND t.json IS NOT NULL
                    FROM read AS p
                    CROSS JOIN LATERAL (
                        SELECT o.key, o.value, o.n
                        FROM jsonb_each(CASE jsonb_typeof(p.value) WHEN 'object' THEN p.value END)
                            WITH ORDINALITY AS o (key, value, n)
                        -- Skips the fields of the request and of its processing: they are not results.
                        WHERE lower(o.key) <> ALL ('{input, inputs, image_input, image_inputs, parameters, params, request, requests, headers, log, logs, error, errors, webhook, webhook_url, callback_url, status_url, cancel_url, response_url, $schema}')
                            AND lower(o.key) NOT LIKE 'input\_%'
                            -- Replicate's URLs of its API.
                            AND NOT (o.key = 'urls' AND jsonb_typeof(o.value) = 'object' AND o.value ? 'cancel')
                        UNION ALL
                        SELECT NULL, a.value, a.n
                        FROM jsonb_array_elements(
                            CASE
                                WHEN jsonb_typeof(p.value) <> 'array' OR is_array_of_numbers(p.value) THEN NULL
                                WHEN jsonb_typeof(p.value -> 0) = 'string'
                                    THEN jsonb_path_query_array(p.value, '$[0 to 9999]')
                                ELSE jsonb_path_query_array(p.value, '$[0 to 999]')
                            END
                        ) WITH ORDINALITY AS a (value, n)
                    ) AS c
                    CROSS JOIN LATERAL (
                        SELECT
                            v.value,
                            v.has_text,
                            coalesce(is_result_url(btrim(v.value, E' \t\r\n')), false) AS is_url,
                            CASE
                                WHEN left(v.value, 20) ~ '^\s*[\[{"]' THEN json_in_text(v.value)
                                WHEN left(v.value, 20) ~ '://' AND v.value ~ '[\s,]' THEN urls_in_text(v.value)
                            END AS json
                        FROM (
                            SELECT
                                CASE jsonb_typeof(c.value) WHEN 'string' THEN c.value #>> '{}' END AS value,
                                CASE
                                    WHEN c.key IS NULL THEN p.has_text
                                    ELSE lower(c.key) = ANY ('{text, texts, content, caption, captions, transcript, transcription, translation, translations, summary, description, descriptions, answer, answers, response, responses, completion, completions, result, results, output, outputs, output_text, generated_text, body, markdown, html, lyrics, story, script}')
                                END AS has_text
                            OFFSET 0
                        ) AS v
                        OFFSET 0
                    ) AS t
                    CROSS JOIN LATERAL (
                        SELECT
                            jsonb_typeof(c.value) = 'object'
                            OR jsonb_typeof(c.value) = 'array' AND NOT is_array_of_numbers(c.value)
                            OR t.is_url OR t.json IS NOT NULL
                            OR t.has_text AND t.value <> '' AS is_kept
                        OFFSET 0
                    ) AS k
                    WHERE cardinality(p.place) < 17 AND jsonb_typeof(p.value) IN ('object', 'array')
                )
                SELECT * FROM read LIMIT 10000
            ) AS f
            LIMIT 50000
        ),
        limits AS (
            SELECT coalesce(bool_or(p.is_cut), false) OR max(p.n) >= 10000 OR sum(p.n) >= 50000 OR count(*) >= 2000 AS is_partial
            FROM (SELECT bool_or(f.is_cut) AS is_cut, count(*) AS n FROM found AS f GROUP BY f.place[1:2]) AS p
        ),
        ordered AS (
            SELECT
                f.*,
                jsonb_typeof(f.value) = 'string' AS is_text,
                -- In this order, the results in a whole are directly after it.
                lead(f.place) OVER (ORDER BY f.place) AS next
            FROM found AS f
            WHERE f.value IS NOT NULL
        ),
        -- A value that is found several times is one result, at its first place.
        grouped AS (
            SELECT
                o.is_text,
                t.value,
                min(o.place) AS place,
                (array_agg(o.path ORDER BY o.place))[1] AS path,
                (array_agg(o.step_id ORDER BY o.place) FILTER (WHERE o.step_id IS NOT NULL))[1] AS step_id,
                max(o.media_type) AS media_type
            FROM ordered AS o
            CROSS JOIN LATERAL (
                SELECT CASE WHEN o.is_text AND is_result_url(trimmed.value) THEN trimmed.value ELSE v.value END AS value
                FROM (SELECT o.value #>> '{}' AS value OFFSET 0) AS v
                CROSS JOIN LATERAL (SELECT btrim(v.value, E' \t\r\n') AS value OFFSET 0) AS trimmed
                OFFSET 0
            ) AS t
            WHERE o.is_text OR o.next IS NULL OR o.next[1:cardinality(o.place)] <> o.place
            GROUP BY o.is_text, t.value
        ),
        typed AS (
            SELECT
                g.*,
                u.is_url,
                CASE
                    WHEN u.is_url THEN coalesce(
                        lower(substring(left(g.value, 200) FROM '^(?:[Dd][Aa][Tt][Aa]):([A-Za-z]+/[A-Za-z0-9.+-]+)')),
                        -- The extensions webm and ogg are those of videos and of audio.
                        substring(g.media_type FROM '^(?:image|video|audio)/[^*]+$'),
                        CASE WHEN octet_length(g.value) <= 8192 THEN media_type_of_url(g.value) END,
                        g.media_type
                    )
                END AS known_type
            FROM grouped AS g
            CROSS JOIN LATERAL (SELECT g.is_text AND is_result_url(g.value) AS is_url OFFSET 0) AS u
            OFFSET 0
        )
        SELECT
            row_number() OVER (ORDER BY t.place),
            t.path,
            t.step_id,
            t.place[1] < 3,
            CASE
                WHEN t.is_url THEN result_kind(t.known_type, t.path)
                WHEN t.is_text THEN 'text'
                ELSE 'data'
            END,
            CASE WHEN t.known_type NOT LIKE '%*' THEN t.known_type END,
            CASE
                WHEN NOT t.is_url THEN NULL
                WHEN left(t.value, 5) ~* '^data:' THEN substring(left(t.value, 300) FROM '^[A-Za-z]+:[^,\s]+,')
                ELSE t.value
            END,
            CASE WHEN NOT t.is_url THEN t.value END,
            (SELECT l.is_partial FROM limits AS l)
        FROM typed AS t
        ORDER BY t.place;
    END;

COMMENT ON FUNCTION execution_results(jsonb, jsonb) IS
    'The results in the output and the payload of an execution or a prediction: see the view results.';

CREATE VIEW results AS
SELECT
    s.execution_id,
    s.prediction_id,
    s.workflow_id,
    s.bulk_id,
    r."position",
    r.path,
    r.step_id,
    r.is_final AND (s.prediction_id IS NULL OR s.workflow_id IS NULL) AS is_final,
    r.kind,
    r.media_type,
    r.url,
    r.text,
    r.is_partial,
    s.first_received_at,
    s.reference
FROM (
    SELECT execution_id, NULL AS prediction_id, workflow_id, bulk_id, output, payload, first_received_at, reference
    FROM executions
    UNION ALL
    SELECT NULL, prediction_id, workflow_id, NULL, output, payload, first_received_at, reference
    FROM predictions
    -- The output of a failed prediction is its error.
    WHERE status <> 'failed'
) AS s
CROSS JOIN LATERAL execution_results(s.output, s.payload) AS r;

COMMENT ON VIEW results IS
    'One row per result of an execution or a prediction: a file, a text, or an output without any of them. Each value is listed once per execution. No rows for failed predictions and for removed payloads. Filter by bulk_id, execution_id, prediction_id, workflow_id, reference or first_received_at.';
COMMENT ON COLUMN results.execution_id IS
    'Identifier of the execution, as sent; null for a prediction.';
COMMENT ON COLUMN results.prediction_id IS
    'Identifier of the prediction, as sent; null for an execution.';
COMMENT ON COLUMN results.workflow_id IS
    'Identifier of the workflow, as sent; null for a prediction outside of a workflow.';
COMMENT ON COLUMN results.bulk_id IS
    'Identifier of the bulk, as sent; null without a bulk, and for a prediction.';
COMMENT ON COLUMN results.position IS
    'Position among the results of the execution, from 1: workflow_output, output, then the steps by their start.';
COMMENT ON COLUMN results.path IS
    'Path of the value in the payload, in the form of jsonpath and jq: workflow_output.clip, step_outputs.stills.output.images[0]. The first path if the payload contains the value several times. In a text that is JSON or several URLs, the path continues inside the text. At most 1,000 characters.';
COMMENT ON COLUMN results.step_id IS
    'Identifier of the first step whose output contains it; null if there is none.';
COMMENT ON COLUMN results.is_final IS
    'Whether workflow_output or output contains it; false if only a step does, and for a prediction of a workflow, because it is a step. Failed, cancelled and skipped steps are ignored.';
COMMENT ON COLUMN results.kind IS
    'image, video, audio, text, document or data. For a URL, the first of these decides: the media type of a data URL, an image, video or audio type beside the URL (content_type, mime_type), the extension, another type beside the URL, a word in the path (video_url, images); otherwise document. An output without a URL or text is data.';
COMMENT ON COLUMN results.media_type IS
    'Media type of the URL, such as video/mp4; null if unknown or not a URL. URLs are never fetched.';
COMMENT ON COLUMN results.url IS
    'The URL; null for a value that is not a URL. For a data URL, only the part before the data: the payload contains the rest.';
COMMENT ON COLUMN results.text IS
    'The text, or an output without a URL or text as JSON; null for a URL.';
COMMENT ON COLUMN results.is_partial IS
    'Whether the payload has more values than are searched for results: it can contain more results than are listed.';
COMMENT ON COLUMN results.first_received_at IS
    'When the first delivery of the execution or prediction was received, by the receiver''s clock.';
COMMENT ON COLUMN results.reference IS
    'Query parameters of the webhook''s URL, as a JSON object of strings; null without any. Filter: reference @> ''{"order": "1234"}''.';

-- Predictions ---------------------------------------------------------------------------------

CREATE VIEW latest_predictions AS
SELECT
    prediction_id,
    workflow_id,
    status,
    output,
    error,
    error_cause,
    CASE WHEN status = 'failed' THEN failure_class(error, error_cause) END AS failure_class,
    total_cost,
    duration_seconds,
    authenticated_by,
    deliveries,
    coalesce(conflicts, 0) AS conflicts,
    first_received_at,
    last_received_at,
    payload_removed_at,
    reference
FROM predictions
ORDER BY first_received_at DESC;

COMMENT ON VIEW latest_predictions IS
    'One row per prediction, latest first, without payload. Use LIMIT, or filter by first_received_at or prediction_id.';
COMMENT ON COLUMN latest_predictions.prediction_id IS
    'Identifier of the prediction, as sent.';
COMMENT ON COLUMN latest_predictions.workflow_id IS
    'Workflow that the prediction is a step of; null for a prediction outside of a workflow.';
COMMENT ON COLUMN latest_predictions.status IS
    'Status, as sent. succeeded, success, completed, failed and cancelled are terminal; any other status is not.';
COMMENT ON COLUMN latest_predictions.output IS
    'Output of the prediction, any JSON; null if not sent or if removed (see payload_removed_at).';
COMMENT ON COLUMN latest_predictions.error IS
    'Kind of failure, such as PROVIDER_REJECTED; null if not sent.';
COMMENT ON COLUMN latest_predictions.error_cause IS
    'Cause of the failure, as sent; null if not sent.';
COMMENT ON COLUMN latest_predictions.failure_class IS
    'failure_class(error, error_cause) of a failed prediction; otherwise null.';
COMMENT ON COLUMN latest_predictions.total_cost IS
    'Cost of the prediction, in the sender''s unit; null if not sent or not a number.';
COMMENT ON COLUMN latest_predictions.duration_seconds IS
    'How long the model ran; null if not sent or not a number.';
COMMENT ON COLUMN latest_predictions.authenticated_by IS
    'How the recorded delivery was authenticated: signature, secret_header, url_token, callback (confirmed by the sender''s API), or none (no authentication configured); null for a fetched prediction, and if unknown.';
COMMENT ON COLUMN latest_predictions.deliveries IS
    'Number of deliveries of this prediction, including duplicates and conflicts.';
COMMENT ON COLUMN latest_predictions.conflicts IS
    'Number of conflicting deliveries in prediction_conflicts, including removed ones.';
COMMENT ON COLUMN latest_predictions.first_received_at IS
    'When the first delivery of this prediction was received, by the receiver''s clock.';
COMMENT ON COLUMN latest_predictions.last_received_at IS
    'When the latest delivery of this prediction was received, by the receiver''s clock.';
COMMENT ON COLUMN latest_predictions.payload_removed_at IS
    'When retention removed payload and output; null if they were not removed.';
COMMENT ON COLUMN latest_predictions.reference IS
    'Query parameters of the webhook''s URL, as a JSON object of strings; null without any. Filter: reference @> ''{"order": "1234"}''.';

-- Costs ---------------------------------------------------------------------------------------

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
    'One row per day and workflow: the cost of its executions, including removed ones. Filter by day.';
COMMENT ON COLUMN costs.day IS
    'Day (UTC) of the executions'' first_received_at.';
COMMENT ON COLUMN costs.workflow_id IS
    'Workflow of the executions.';
COMMENT ON COLUMN costs.executions IS
    'Number of executions, with any status.';
COMMENT ON COLUMN costs.executions_with_cost IS
    'Number of executions with a cost below 10^12.';
COMMENT ON COLUMN costs.total_cost IS
    'Sum of these costs, in the sender''s unit; 0 if there are none.';
COMMENT ON COLUMN costs.average_cost IS
    'total_cost / executions_with_cost; null if executions_with_cost is 0.';

-- Conflicts and quarantine --------------------------------------------------------------------

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
            CASE
                WHEN e.payload_removed_at IS NULL AND e.output IS DISTINCT FROM c.output THEN 'output'
                WHEN e.payload_removed_at IS NOT NULL AND e.output_sha256 IS DISTINCT FROM json_sha256(c.output)
                    THEN 'output'
            END,
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
    c.last_received_at,
    e.payload_removed_at AS recorded_payload_removed_at
FROM execution_conflicts AS c
LEFT JOIN executions AS e ON c.execution_id = e.execution_id;

COMMENT ON VIEW conflicts IS
    'One row per conflicting delivery, compared with the recorded execution. Filter by first_received_at, execution_id or conflict_id.';
COMMENT ON COLUMN conflicts.conflict_id IS
    'Number of the conflict, in the order of recording.';
COMMENT ON COLUMN conflicts.execution_id IS
    'Execution that the delivery contradicts.';
COMMENT ON COLUMN conflicts.workflow_id IS
    'Workflow in the delivery.';
COMMENT ON COLUMN conflicts.bulk_id IS
    'Bulk in the delivery; null without a bulk.';
COMMENT ON COLUMN conflicts.differs_in IS
    'Names of the fields that differ; empty if only bytes differ that jsonb cannot store; null if the execution was removed.';
COMMENT ON COLUMN conflicts.recorded_status IS
    'Recorded status, which stays.';
COMMENT ON COLUMN conflicts.delivered_status IS
    'Status in the delivery.';
COMMENT ON COLUMN conflicts.recorded_output IS
    'Recorded output; also null if it was removed.';
COMMENT ON COLUMN conflicts.delivered_output IS
    'Output in the delivery.';
COMMENT ON COLUMN conflicts.recorded_error_cause IS
    'Recorded cause of the failure.';
COMMENT ON COLUMN conflicts.delivered_error_cause IS
    'Cause of the failure in the delivery.';
COMMENT ON COLUMN conflicts.recorded_authenticated_by IS
    'How the recorded delivery was authenticated: signature, secret_header, url_token, callback or none; null for a fetched execution, and if unknown.';
COMMENT ON COLUMN conflicts.delivered_authenticated_by IS
    'How the conflicting delivery was authenticated: signature, secret_header, url_token, callback or none; null for a fetched execution, and if unknown.';
COMMENT ON COLUMN conflicts.deliveries IS
    'Number of deliveries with this body.';
COMMENT ON COLUMN conflicts.first_received_at IS
    'When this body was first received, by the receiver''s clock.';
COMMENT ON COLUMN conflicts.last_received_at IS
    'When this body was last received, by the receiver''s clock.';
COMMENT ON COLUMN conflicts.recorded_payload_removed_at IS
    'When retention removed the recorded payload and output; null if they were not removed. differs_in stays correct.';

-- PostgreSQL 15 has no test for valid UTF-8 that does not raise an error.
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
    'The bytes as text; null if they are not UTF-8 or contain U+0000.';

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
    last_received_at,
    reference,
    utf8_text(api_body) AS api_text
FROM quarantine;

COMMENT ON VIEW quarantined IS
    'One row per quarantined body, with its text. Filter by first_received_at or quarantine_id.';
COMMENT ON COLUMN quarantined.quarantine_id IS
    'Number of the entry, in the order of recording.';
COMMENT ON COLUMN quarantined.reason IS
    'Why the body is not an execution, why PostgreSQL rejected it, or why an unsigned webhook was not confirmed.';
COMMENT ON COLUMN quarantined.body_text IS
    'Body as text; null if it is not UTF-8. For such a body: SELECT encode(body, ''escape'') FROM quarantine.';
COMMENT ON COLUMN quarantined.body_bytes IS
    'Size of the body in bytes.';
COMMENT ON COLUMN quarantined.authenticated_by IS
    'How a delivery of this body was authenticated: signature, secret_header, url_token, callback (confirmed by the sender''s API), none, or unverified (auth.verify_unsigned); null for a fetched execution, and if unknown. An authenticated delivery replaces none and unverified.';
COMMENT ON COLUMN quarantined.acknowledged IS
    'Whether a delivery of this body was answered 200. An unsigned webhook that was not confirmed does not count.';
COMMENT ON COLUMN quarantined.intact IS
    'Whether the body is as received; false if it was damaged in the spool.';
COMMENT ON COLUMN quarantined.deliveries IS
    'Number of deliveries with this body.';
COMMENT ON COLUMN quarantined.first_received_at IS
    'When this body was first received, by the receiver''s clock.';
COMMENT ON COLUMN quarantined.last_received_at IS
    'When this body was last received, by the receiver''s clock.';
COMMENT ON COLUMN quarantined.reference IS
    'Query parameters of the webhook''s URL, as a JSON object of strings; null without any.';
COMMENT ON COLUMN quarantined.api_text IS
    'The execution as the sender''s API has it, for an unsigned webhook that differs from it; otherwise null.';

-- Changes -------------------------------------------------------------------------------------

CREATE VIEW changes AS
SELECT
    b.last_change - b.size + c.position AS change,
    c.type,
    c.execution_id,
    c.workflow_id,
    c.bulk_id,
    c.status,
    b.recorded_at
FROM change_batches AS b
CROSS JOIN LATERAL
    unnest(b.types, b.execution_ids, b.workflow_ids, b.bulk_ids, b.statuses)
        WITH ORDINALITY AS c (type, execution_id, workflow_id, bulk_id, status, position)
WHERE b.last_change IS NOT NULL
ORDER BY b.last_change DESC, c.position DESC;

COMMENT ON VIEW changes IS
    'One row per change of an execution or bulk, latest first. Use LIMIT. To read the changes after a number, use changes_after.';
COMMENT ON COLUMN changes.change IS
    'Number of the change. The numbers have no gaps. A change with a lower number is visible earlier.';
COMMENT ON COLUMN changes.type IS
    'execution.updated: the execution has a new status that is not terminal; execution.ended: it has a terminal status (once per execution); execution.conflict: a delivery contradicts an ended execution; execution.undone: an operator has undone a retry of a quarantined webhook; bulk.completed: at least `expected` executions of the bulk have ended, and all of its registered response, if there is one (once per bulk).';
COMMENT ON COLUMN changes.execution_id IS
    'Identifier of the execution, as sent; null for bulk.completed.';
COMMENT ON COLUMN changes.workflow_id IS
    'Workflow in the delivery; null for bulk.completed.';
COMMENT ON COLUMN changes.bulk_id IS
    'Bulk in the delivery; null without a bulk.';
COMMENT ON COLUMN changes.status IS
    'Status in the delivery; for execution.undone the status that is recorded now, null if the execution is not recorded any more; null for bulk.completed.';
COMMENT ON COLUMN changes.recorded_at IS
    'When the transaction that made the change began, by PostgreSQL''s clock.';

-- The number is computed, so a filter on changes.change cannot use the index on last_change.
CREATE FUNCTION changes_after(after bigint) RETURNS SETOF changes
    LANGUAGE sql STABLE PARALLEL SAFE
    BEGIN ATOMIC
        SELECT
            b.last_change - b.size + c.position,
            c.type,
            c.execution_id,
            c.workflow_id,
            c.bulk_id,
            c.status,
            b.recorded_at
        FROM change_batches AS b
        CROSS JOIN LATERAL
            unnest(b.types, b.execution_ids, b.workflow_ids, b.bulk_ids, b.statuses)
                WITH ORDINALITY AS c (type, execution_id, workflow_id, bulk_id, status, position)
        WHERE b.last_change > after AND b.last_change - b.size + c.position > after
        ORDER BY b.last_change, c.position;
    END;

COMMENT ON FUNCTION changes_after(bigint) IS
    'The rows of changes with a higher number, lowest first. Use LIMIT, without ORDER BY. Needs SELECT on change_batches.';
