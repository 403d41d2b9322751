-- Bounds that cost the same however much is stored: what is stored is counted as it changes, and not counted again
-- for each batch.

-- Null as long as an execution has no conflicts, so that most rows take no room for them.
ALTER TABLE executions
    ADD COLUMN conflicts integer,
    ADD COLUMN conflict_bytes bigint,
    ADD COLUMN conflicts_dropped integer;

COMMENT ON COLUMN executions.conflicts IS
    'How many different deliveries that contradict this outcome were stored in execution_conflicts, those removed since included; null when there were none. At most conflicts.max_per_execution.';
COMMENT ON COLUMN executions.conflict_bytes IS
    'The length of their bodies; null when there were none. At most conflicts.max_bytes_per_execution.';
COMMENT ON COLUMN executions.conflicts_dropped IS
    'How many deliveries contradicted this outcome and were not stored, since the bounds of conflicts.* were reached; null when there were none.';

UPDATE executions AS e
SET conflicts = c.conflicts, conflict_bytes = c.conflict_bytes
FROM (
    SELECT
        execution_id,
        count(*) AS conflicts,
        sum(coalesce(octet_length(payload_bytes), octet_length(payload::text))) AS conflict_bytes
    FROM execution_conflicts
    GROUP BY execution_id
) AS c
WHERE e.execution_id = c.execution_id;

-- "Which executions have parts that are stored as bytes only?" Paid by those that have payload_bytes.
CREATE INDEX IF NOT EXISTS executions_with_payload_bytes ON executions (execution_id) WHERE payload_bytes IS NOT NULL;

LOCK TABLE quarantine IN SHARE ROW EXCLUSIVE MODE;

CREATE TABLE quarantine_usage (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    bodies   bigint NOT NULL,
    bytes    bigint NOT NULL
) WITH (fillfactor = 50);

COMMENT ON TABLE quarantine_usage IS
    'One row: what the bodies in quarantine that were answered 422 come to. Triggers on quarantine keep it.';
COMMENT ON COLUMN quarantine_usage.only_row IS
    'Always true: there is one row.';
COMMENT ON COLUMN quarantine_usage.bodies IS
    'How many they are. At most quarantine.max_rows.';
COMMENT ON COLUMN quarantine_usage.bytes IS
    'Their length in bytes. At most quarantine.max_bytes.';

INSERT INTO quarantine_usage (bodies, bytes)
SELECT
    count(*),
    coalesce(sum(octet_length(body)), 0)
FROM quarantine
WHERE NOT acknowledged;

-- By triggers, so that it is also right after rows are deleted by hand. The row is locked after those of quarantine, and nothing after
-- it.
CREATE FUNCTION count_quarantine() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    rows_added bigint := 0;
    bytes_added bigint := 0;
    counted record;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        UPDATE quarantine_usage SET bodies = 0, bytes = 0;
        RETURN NULL;
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        SELECT count(*) AS rows, coalesce(sum(octet_length(body)), 0) AS bytes INTO counted
        FROM new_rows WHERE NOT acknowledged;
        rows_added := counted.rows;
        bytes_added := counted.bytes;
    END IF;
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        SELECT count(*) AS rows, coalesce(sum(octet_length(body)), 0) AS bytes INTO counted
        FROM old_rows WHERE NOT acknowledged;
        rows_added := rows_added - counted.rows;
        bytes_added := bytes_added - counted.bytes;
    END IF;
    IF rows_added <> 0 OR bytes_added <> 0 THEN
        UPDATE quarantine_usage SET bodies = bodies + rows_added, bytes = bytes + bytes_added;
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION count_quarantine() IS
    'Keeps quarantine_usage. Who writes to quarantine needs the right to update quarantine_usage, too.';

CREATE TRIGGER count_inserted AFTER INSERT ON quarantine
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_quarantine();
CREATE TRIGGER count_updated AFTER UPDATE ON quarantine
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_quarantine();
CREATE TRIGGER count_deleted AFTER DELETE ON quarantine
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION count_quarantine();
CREATE TRIGGER count_truncated AFTER TRUNCATE ON quarantine
    FOR EACH STATEMENT EXECUTE FUNCTION count_quarantine();
