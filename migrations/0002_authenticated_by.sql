-- How each delivery got in, and, in quarantine, whether the sender was told that it is kept for good.
-- Both are cheap to add: no row is rewritten.

ALTER TABLE executions ADD COLUMN authenticated_by text COLLATE "C";
ALTER TABLE execution_conflicts ADD COLUMN authenticated_by text COLLATE "C";
ALTER TABLE quarantine
    ADD COLUMN authenticated_by text COLLATE "C",
    ADD COLUMN acknowledged boolean NOT NULL DEFAULT true,
    ADD COLUMN intact boolean NOT NULL DEFAULT true;

COMMENT ON COLUMN executions.authenticated_by IS
    'How the delivery that is recorded here got in: signature, secret_header, url_token, or none when nobody asked; null when a receiver took it that did not say.';
COMMENT ON COLUMN execution_conflicts.authenticated_by IS
    'How this delivery got in: signature, secret_header, url_token, none; null when not known.';
COMMENT ON COLUMN quarantine.authenticated_by IS
    'How this body got in first: signature, secret_header, url_token, none; null when not known.';
COMMENT ON COLUMN quarantine.acknowledged IS
    'Whether the sender was answered 200, at least once: such rows are kept whatever quarantine.max_rows and max_bytes say.';
COMMENT ON COLUMN quarantine.intact IS
    'Whether the body is the one that came; false when the spool''s disk has altered it: look before you retry.';
