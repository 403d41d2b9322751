-- The rule for an execution that is recorded already. An execution_id that comes more than once has ended.
--   recorded      delivered                           verdict
--   terminal      not terminal                        duplicate    late news: only counted
--   terminal      terminal, the same outcome          duplicate    only counted
--   terminal      terminal, another outcome           conflict     stored in execution_conflicts, never applied
--                                                     conflict_dropped  the same, beyond $18 conflicts or $19 bytes
--                                                                  of an execution: only counted
--   not terminal  terminal, or another status         replacement  all of it is replaced
--   not terminal  the same status                     duplicate    only counted
WITH incoming AS (
    SELECT
        i.n, i.execution_id, i.workflow_id, i.bulk_id, i.status, i.started_at, i.completed_at,
        i.output::jsonb AS output, i.error, i.error_cause, i.total_cost::numeric AS total_cost,
        i.payload::jsonb AS payload, i.payload_bytes, i.step_failed, i.authenticated_by, i.deliveries,
        i.first_received_at, i.last_received_at,
        sha256(coalesce(i.payload_bytes, convert_to(i.payload, 'UTF8'))) AS body_sha256,
        coalesce(octet_length(i.payload_bytes), octet_length(i.payload)) AS body_size
    FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::text[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::bytea[], $13::boolean[], $14::text[],
        $15::integer[], $16::timestamptz[], $17::timestamptz[]
    ) WITH ORDINALITY AS i (
        execution_id, workflow_id, bulk_id, status, started_at, completed_at, output, error, error_cause,
        total_cost, payload, payload_bytes, step_failed, authenticated_by, deliveries, first_received_at,
        last_received_at, n
    )
),
-- Locked in one order, like the insert, so that receivers never wait for each other in a circle.
settled AS (
    SELECT
        i.n,
        i.body_sha256,
        i.body_size,
        coalesce(e.conflicts, 0) AS conflicts,
        coalesce(e.conflict_bytes, 0) AS conflict_bytes,
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
                    -- The same bytes, where columns may be left out (Item::degrade).
                    WHEN sha256(e.payload_bytes) = i.body_sha256 OR e.payload_sha256 = i.body_sha256
                        THEN 'duplicate'
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
-- Which conflicts are stored: those that are already, and as many new ones as there is room for, in their order. One
-- that is too large by itself takes no room from others.
conflicting AS (
    SELECT
        s.n, s.execution_id, s.body_sha256, s.body_size, s.conflicts, s.conflict_bytes,
        EXISTS (
            SELECT FROM execution_conflicts AS c
            WHERE c.execution_id = s.execution_id AND c.body_sha256 = s.body_sha256
        ) AS is_known
    FROM settled AS s
    WHERE s.verdict = 'conflict'
),
placed AS (
    SELECT
        c.n,
        c.conflicts + count(*) OVER earlier AS conflicts,
        c.conflict_bytes + sum(c.body_size) OVER earlier AS conflict_bytes
    FROM conflicting AS c
    WHERE NOT c.is_known AND c.conflict_bytes + c.body_size <= $19::bigint
    WINDOW earlier AS (PARTITION BY c.execution_id ORDER BY c.n)
),
stored AS (
    INSERT INTO execution_conflicts AS c (
        execution_id, workflow_id, bulk_id, status, output, error, error_cause, payload, payload_bytes,
        body_sha256, authenticated_by, deliveries, first_received_at, last_received_at
    )
    SELECT
        i.execution_id, i.workflow_id, i.bulk_id, i.status, i.output, i.error, i.error_cause, i.payload,
        i.payload_bytes, i.body_sha256, i.authenticated_by, i.deliveries, i.first_received_at, i.last_received_at
    FROM incoming AS i
    WHERE i.n IN (SELECT k.n FROM conflicting AS k WHERE k.is_known)
        OR i.n IN (
            SELECT p.n FROM placed AS p WHERE p.conflicts <= $18::bigint AND p.conflict_bytes <= $19::bigint
        )
    ON CONFLICT (execution_id, body_sha256) DO UPDATE SET
        deliveries = c.deliveries + excluded.deliveries,
        first_received_at = least(c.first_received_at, excluded.first_received_at),
        last_received_at = greatest(c.last_received_at, excluded.last_received_at),
        recorded_at = greatest(c.recorded_at, excluded.recorded_at)
    -- A row that was there before has this transaction as its xmax.
    RETURNING c.execution_id, c.body_sha256, c.xmax = 0 AS is_new
),
news AS (
    SELECT
        s.n, s.execution_id, i.deliveries, i.first_received_at, i.last_received_at,
        CASE WHEN k.is_new THEN s.body_size END AS new_bytes,
        s.verdict = 'conflict' AND k.is_new IS NULL AS is_dropped
    FROM settled AS s
    INNER JOIN incoming AS i ON s.n = i.n
    LEFT JOIN stored AS k ON s.execution_id = k.execution_id AND s.body_sha256 = k.body_sha256
        AND s.verdict = 'conflict'
    WHERE s.verdict <> 'replacement'
),
counted AS (
    UPDATE executions AS e
    SET
        deliveries = e.deliveries + m.deliveries,
        first_received_at = least(e.first_received_at, m.first_received_at),
        last_received_at = greatest(e.last_received_at, m.last_received_at),
        recorded_at = greatest(e.recorded_at, now()),
        -- Null as long as there are none, which takes no room.
        conflicts = nullif(coalesce(e.conflicts, 0) + m.new_conflicts, 0),
        conflict_bytes = nullif(coalesce(e.conflict_bytes, 0) + m.new_bytes, 0),
        conflicts_dropped = nullif(coalesce(e.conflicts_dropped, 0) + m.dropped, 0)
    FROM (
        SELECT
            n.execution_id,
            sum(n.deliveries)::integer AS deliveries,
            min(n.first_received_at) AS first_received_at,
            max(n.last_received_at) AS last_received_at,
            count(n.new_bytes)::integer AS new_conflicts,
            coalesce(sum(n.new_bytes), 0) AS new_bytes,
            coalesce(sum(n.deliveries) FILTER (WHERE n.is_dropped), 0)::integer AS dropped
        FROM news AS n
        GROUP BY n.execution_id
    ) AS m
    WHERE e.execution_id = m.execution_id
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
        last_received_at = greatest(e.last_received_at, i.last_received_at),
        recorded_at = greatest(e.recorded_at, now())
    FROM settled AS s
    INNER JOIN incoming AS i ON s.n = i.n
    WHERE e.execution_id = s.execution_id AND s.verdict = 'replacement'
)
SELECT
    s.n AS "n!",
    CASE WHEN d.is_dropped THEN 'conflict_dropped' ELSE s.verdict END AS "verdict!",
    s.previous_workflow_id,
    s.previous_bulk_id,
    s.previous_status,
    s.previous_total_cost,
    s.previous_first_received_at
FROM settled AS s
LEFT JOIN news AS d ON s.n = d.n AND d.is_dropped
