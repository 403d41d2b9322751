-- Sessions of the console that a log-out has ended.
--
-- A session is a signed cookie with a time of expiry; no table stores it. A row in this table ends it earlier, for all
-- receivers.

CREATE TABLE ended_sessions (
    session_sha256 bytea PRIMARY KEY,
    expires_at     timestamptz NOT NULL
);

COMMENT ON TABLE ended_sessions IS
    'Sessions of the console that a log-out has ended before they expire. A later log-out removes the expired rows.';
COMMENT ON COLUMN ended_sessions.session_sha256 IS
    'SHA-256 of the session in the cookie, without its signature.';
COMMENT ON COLUMN ended_sessions.expires_at IS
    'When the session would have expired.';
