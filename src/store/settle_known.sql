-- The rule for an execution that is recorded already. Each execution_id comes once.
--   recorded      delivered                           verdict
--   terminal      not terminal                        duplicate    late news: only counted
--   terminal      terminal, the same outcome          duplicate    only counted
--   terminal      terminal, another outcome           conflict     kept aside, never applied
--   not terminal  terminal, or another status         replacement  all of it is replaced
--   not terminal  the same status                     duplicate    only counted
WITH incoming AS (
    SELECT
        i.execution_id, i.workflow_id, i.bulk_id, i.status, i.started_at, i.completed_at,
        i.output::jsonb AS output, i.error, i.error_cause, i.total_cost::numeric AS total_cost,
        i.payload::jsonb AS payload, i.payload_bytes, i.step_failed, i.authenticated_by, i.deliveries,
        i.first_received_at, i.last_received_at,
        sha256(coalesce(i.payload_bytes, convert_to(i.payload, 'UTF8'))) AS body_sha256
    FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::text[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::bytea[], $13::boolean[], $14::text[],
        $15::integer[], $16::timestamptz[], $17::timestamptz[]
    ) AS i (
        execution_id, workflow_id, bulk_id, status, started_at, completed_at, output, error, error_cause,
        total_cost, payload, payload_bytes, step_failed, authenticated_by, deliveries, first_received_at,
        last_received_at
    )
),
-- Locked in one order, like the insert, so that receivers never wait for each other in a circle.
settled AS (
    SELECT
        e.execution_id,
        e.workflow_id AS previous_workflow_id,
        e.bulk_id AS previous_bulk_id,
        e.status AS previous_status,
        e.total_cost::text AS previous_total_cost,
        e.first_received_at AS previous_first_received_at,
        CASE
            WHEN is_terminal_status(e.status) THEN
                CASE
                    WHEN NOT is_terminal_status(i.status) THEN 'duplicate'
                    WHEN (e.workflow_id, e.bulk_id, e.status, e.error, e.error_cause)
                        IS DISTINCT FROM
                        (i.workflow_id, i.bulk_id, i.status, i.error, i.error_cause)
                        THEN 'conflict'
                    -- Of a payload that is removed, what is needed to compare it is still known.
                    WHEN e.payload_removed_at IS NOT NULL THEN
                        CASE
                            WHEN e.output_sha256 IS DISTINCT FROM json_sha256(i.output) THEN 'conflict'
                            WHEN e.payload_sha256 IS DISTINCT FROM sha256(i.payload_bytes)
                                AND e.payload_sha256 IS NOT NULL THEN 'conflict'
                            ELSE 'duplicate'
                        END
                    WHEN e.output IS DISTINCT FROM i.output THEN 'conflict'
                    -- What jsonb cannot hold can only be compared byte by byte.
                    WHEN e.payload IS NULL AND e.payload_bytes IS DISTINCT FROM i.payload_bytes THEN 'conflict'
                    ELSE 'duplicate'
                END
            WHEN i.status = e.status THEN 'duplicate'
            ELSE 'replacement'
        END AS verdict
    FROM executions AS e
    INNER JOIN incoming AS i ON e.execution_id = i.execution_id
    ORDER BY e.execution_id
    FOR UPDATE OF e
),
counted AS (
    UPDATE executions AS e
    SET
        deliveries = e.deliveries + i.deliveries,
        first_received_at = least(e.first_received_at, i.first_received_at),
        last_received_at = greatest(e.last_received_at, i.last_received_at)
    FROM settled AS s
    INNER JOIN incoming AS i ON s.execution_id = i.execution_id
    WHERE e.execution_id = s.execution_id AND s.verdict <> 'replacement'
),
replaced AS (
    UPDATE executions AS e
    SET
        workflow_id = i.workflow_id,
        bulk_id = i.bulk_id,
        status = i.status,
        started_at = i.started_at,
        completed_at = i.completed_at,
        output = i.output,
        error = i.error,
        error_cause = i.error_cause,
        total_cost = i.total_cost,
        payload = i.payload,
        payload_bytes = i.payload_bytes,
        payload_removed_at = NULL,
        output_sha256 = NULL,
        payload_sha256 = NULL,
        step_failed = i.step_failed,
        authenticated_by = i.authenticated_by,
        deliveries = e.deliveries + i.deliveries,
        first_received_at = least(e.first_received_at, i.first_received_at),
        last_received_at = greatest(e.last_received_at, i.last_received_at)
    FROM settled AS s
    INNER JOIN incoming AS i ON s.execution_id = i.execution_id
    WHERE e.execution_id = s.execution_id AND s.verdict = 'replacement'
),
kept_aside AS (
    INSERT INTO execution_conflicts AS c (
        execution_id, workflow_id, bulk_id, status, output, error, error_cause, payload, payload_bytes,
        body_sha256, authenticated_by, deliveries, first_received_at, last_received_at
    )
    SELECT
        i.execution_id, i.workflow_id, i.bulk_id, i.status, i.output, i.error, i.error_cause, i.payload,
        i.payload_bytes, i.body_sha256, i.authenticated_by, i.deliveries, i.first_received_at, i.last_received_at
    FROM settled AS s
    INNER JOIN incoming AS i ON s.execution_id = i.execution_id
    WHERE s.verdict = 'conflict'
    ON CONFLICT (execution_id, body_sha256) DO UPDATE SET
        deliveries = c.deliveries + excluded.deliveries,
        first_received_at = least(c.first_received_at, excluded.first_received_at),
        last_received_at = greatest(c.last_received_at, excluded.last_received_at)
)
SELECT
    execution_id,
    verdict AS "verdict!",
    previous_workflow_id,
    previous_bulk_id,
    previous_status,
    previous_total_cost,
    previous_first_received_at
FROM settled
