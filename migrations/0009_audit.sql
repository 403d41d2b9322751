-- Actions of operators.

CREATE TABLE audit (
    audit_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    actor     text        NOT NULL,
    action    text        NOT NULL,
    target    text        NOT NULL,
    succeeded boolean,
    result    text
);

COMMENT ON TABLE audit IS
    'One row per action of an operator in the console, and per retry, undo or drop of quarantined webhooks on the command line. A row is added before the action and gets its result after it; nothing removes rows.';
COMMENT ON COLUMN audit.audit_id IS
    'Number of the action.';
COMMENT ON COLUMN audit.at IS
    'When the action began, by PostgreSQL''s clock.';
COMMENT ON COLUMN audit.actor IS
    'Name of the operator''s token: admin for admin.token, a name in admin.tokens, anyone if the admin port needs no token, or command line.';
COMMENT ON COLUMN audit.action IS
    'What was done, such as quarantine.drop.';
COMMENT ON COLUMN audit.target IS
    'Identifiers of the rows that the action concerns, and the mapping of a retry; empty if it concerns no row.';
COMMENT ON COLUMN audit.succeeded IS
    'Whether the action succeeded; null while it runs, and if the receiver ended during the action.';
COMMENT ON COLUMN audit.result IS
    'What the action changed, or why it failed; null while succeeded is null.';
