-- Bodies that cannot be recorded as an execution or prediction, or that the sender did not confirm.

CREATE TABLE quarantine (
    quarantine_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reason            text        NOT NULL,
    body              bytea       NOT NULL,
    body_sha256       bytea       NOT NULL CONSTRAINT quarantine_once_by_content UNIQUE,
    authenticated_by  text COLLATE "C",
    acknowledged      boolean     NOT NULL DEFAULT true,
    intact            boolean     NOT NULL DEFAULT true,
    deliveries        integer     NOT NULL CHECK (deliveries > 0),
    redeliveries      integer     NOT NULL DEFAULT 0,
    reference         jsonb,
    api_body          bytea,
    first_received_at timestamptz NOT NULL,
    last_received_at  timestamptz NOT NULL,
    recorded_at       timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE quarantine IS
    'Bodies that cannot be recorded as an execution or prediction, or that the sender did not confirm: the exact bytes and the reason. One row per body.';
COMMENT ON COLUMN quarantine.quarantine_id IS
    'Number of the entry, in the order of recording.';
COMMENT ON COLUMN quarantine.reason IS
    'Why the body is not an execution, why PostgreSQL rejected it, or why an unsigned webhook was not confirmed.';
COMMENT ON COLUMN quarantine.body IS
    'Exact bytes of the body. convert_from(body, ''UTF8'') shows them as text.';
COMMENT ON COLUMN quarantine.body_sha256 IS
    'SHA-256 of the body. A repeated delivery with the same body only increases deliveries.';
COMMENT ON COLUMN quarantine.authenticated_by IS
    'How a delivery of this body was authenticated: signature, secret_header, url_token, callback (confirmed by the sender''s API), none, or unverified (auth.verify_unsigned); null for a fetched execution, and if unknown. An authenticated delivery replaces none and unverified.';
COMMENT ON COLUMN quarantine.acknowledged IS
    'Whether a delivery of this body was answered 200. An unsigned webhook that was not confirmed does not count. quarantine.max_rows, quarantine.max_bytes and retention.quarantine do not apply to acknowledged entries.';
COMMENT ON COLUMN quarantine.intact IS
    'Whether the body is as received; false if it was damaged in the spool. Check a damaged body before you retry it.';
COMMENT ON COLUMN quarantine.deliveries IS
    'Number of deliveries with this body. After a crash, a delivery can be counted twice.';
COMMENT ON COLUMN quarantine.reference IS
    'Query parameters of the webhook''s URL, without secrets, as a JSON object of strings: {"order": "1234"}; null without any. The sender''s signature does not cover them. The first delivery with parameters counts.';
COMMENT ON COLUMN quarantine.api_body IS
    'The execution as the sender''s API has it, for an unsigned webhook that differs from it, cut after 64 KiB; otherwise null.';
COMMENT ON COLUMN quarantine.redeliveries IS
    'Number of deliveries with the header X-Webhook-Redelivery: the sender sent the webhook again on request.';
COMMENT ON COLUMN quarantine.first_received_at IS
    'When this body was first received, by the receiver''s clock.';
COMMENT ON COLUMN quarantine.last_received_at IS
    'When this body was last received, by the receiver''s clock.';
COMMENT ON COLUMN quarantine.recorded_at IS
    'When this body was last recorded, by PostgreSQL''s clock. retention.quarantine counts from the later of last_received_at and recorded_at.';

-- Latest entries, and retention.
CREATE INDEX quarantine_first_received_at ON quarantine (first_received_at);

-- The size of the quarantine is counted when it changes: the check of the limits costs the same for any size.
CREATE TABLE quarantine_usage (
    only_row           boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    bodies             bigint NOT NULL,
    bytes              bigint NOT NULL,
    unconfirmed_bodies bigint NOT NULL,
    unconfirmed_bytes  bigint NOT NULL
) WITH (fillfactor = 50);

COMMENT ON TABLE quarantine_usage IS
    'One row: the number and size of quarantined bodies that are not acknowledged. Triggers on quarantine update it.';
COMMENT ON COLUMN quarantine_usage.only_row IS
    'Always true: limits the table to one row.';
COMMENT ON COLUMN quarantine_usage.bodies IS
    'Number of bodies that were answered 422. At most quarantine.max_rows.';
COMMENT ON COLUMN quarantine_usage.bytes IS
    'Total size of these bodies in bytes. At most quarantine.max_bytes.';
COMMENT ON COLUMN quarantine_usage.unconfirmed_bodies IS
    'Number of unsigned webhooks that were not confirmed. At most quarantine.max_rows, which applies separately to bodies.';
COMMENT ON COLUMN quarantine_usage.unconfirmed_bytes IS
    'Total size of their body and api_body in bytes. At most quarantine.max_bytes, which applies separately to bytes.';

INSERT INTO quarantine_usage (bodies, bytes, unconfirmed_bodies, unconfirmed_bytes) VALUES (0, 0, 0, 0);

-- Triggers keep the counts correct when rows are deleted by hand, too. The row of quarantine_usage is locked last, after
-- the rows of quarantine, so it cannot cause a deadlock.
CREATE FUNCTION count_quarantine() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    added bigint[] := '{0, 0, 0, 0}';
    removed bigint[] := '{0, 0, 0, 0}';
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        UPDATE quarantine_usage SET bodies = 0, bytes = 0, unconfirmed_bodies = 0, unconfirmed_bytes = 0;
        RETURN NULL;
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        SELECT ARRAY[
            count(*) FILTER (WHERE NOT is_unconfirmed), coalesce(sum(size) FILTER (WHERE NOT is_unconfirmed), 0),
            count(*) FILTER (WHERE is_unconfirmed), coalesce(sum(size) FILTER (WHERE is_unconfirmed), 0)
        ] INTO added
        FROM (
            SELECT
                coalesce(n.authenticated_by = 'unverified', false) AS is_unconfirmed,
                octet_length(n.body) + coalesce(octet_length(n.api_body), 0) AS size
            FROM new_rows AS n WHERE NOT n.acknowledged
        ) AS n;
    END IF;
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        SELECT ARRAY[
            count(*) FILTER (WHERE NOT is_unconfirmed), coalesce(sum(size) FILTER (WHERE NOT is_unconfirmed), 0),
            count(*) FILTER (WHERE is_unconfirmed), coalesce(sum(size) FILTER (WHERE is_unconfirmed), 0)
        ] INTO removed
        FROM (
            SELECT
                coalesce(o.authenticated_by = 'unverified', false) AS is_unconfirmed,
                octet_length(o.body) + coalesce(octet_length(o.api_body), 0) AS size
            FROM old_rows AS o WHERE NOT o.acknowledged
        ) AS o;
    END IF;
    IF added <> removed THEN
        UPDATE quarantine_usage SET
            bodies = bodies + added[1] - removed[1],
            bytes = bytes + added[2] - removed[2],
            unconfirmed_bodies = unconfirmed_bodies + added[3] - removed[3],
            unconfirmed_bytes = unconfirmed_bytes + added[4] - removed[4];
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION count_quarantine() IS
    'Updates quarantine_usage. A role that writes to quarantine needs UPDATE on quarantine_usage.';

CREATE TRIGGER count_inserted AFTER INSERT ON quarantine
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_quarantine();
CREATE TRIGGER count_updated AFTER UPDATE ON quarantine
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_quarantine();
CREATE TRIGGER count_deleted AFTER DELETE ON quarantine
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION count_quarantine();
CREATE TRIGGER count_truncated AFTER TRUNCATE ON quarantine
    FOR EACH STATEMENT EXECUTE FUNCTION count_quarantine();
