-- Creates three roles with minimal privileges in the receiver's database. Run this file with psql as a superuser, before the
-- schema is created and again after each `migrate`, because it grants privileges on existing objects.
--
--   psql -f docs/roles.sql "$DATABASE_URL"
--   (set passwords: \password workflow_receiver_owner, and so on)
--   DATABASE_URL=postgres://workflow_receiver_owner:…@host/name workflow-receiver migrate
--   psql -f docs/roles.sql "$DATABASE_URL"
--   DATABASE_URL=postgres://workflow_receiver:…@host/name RECEIVER__DATABASE__MIGRATE=false workflow-receiver
--
-- With `psql -v retention=on -f docs/roles.sql …`, the receiver may also delete executions, predictions, bulks, expected executions,
-- conflicts and changes. retention.executions, retention.conflicts, retention.changes, `quarantine undo`, and `bulks set-size
-- --unset` for a bulk without executions need this privilege. Without `-v retention=on`, the file revokes it.
--
-- An existing schema of another role is transferred to workflow_receiver_owner.
\set ON_ERROR_STOP on

-- workflow_receiver_owner     `migrate`: owns the tables
-- workflow_receiver           `serve` and the commands that write rows; cannot change tables
-- workflow_receiver_operator  people and tools: read only
SELECT format('CREATE ROLE %I LOGIN', role)
FROM unnest('{workflow_receiver_owner, workflow_receiver, workflow_receiver_operator}'::text[]) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec
ALTER ROLE workflow_receiver_operator SET default_transaction_read_only = on;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
SELECT format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()) \gexec
REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO workflow_receiver_owner;
GRANT USAGE ON SCHEMA public TO workflow_receiver, workflow_receiver_operator;

SELECT format('ALTER %s %s OWNER TO workflow_receiver_owner', kind, name)
FROM (
    SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, c.oid::regclass::text
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v')
        AND c.relname = ANY ('{executions, bulks, execution_conflicts, quarantine, quarantine_usage, workflow_hours, workflow_days,
            change_batches, reconcile_checks, absent_workflows, changes, failures, failed_steps, steps, latest_executions, slow_executions, results,
            bulk_progress, failure_rates, failure_causes, costs, conflicts, quarantined, predictions, prediction_conflicts,
            latest_predictions, expected_executions, missing_executions, overdue_executions, unverified_deliveries, unverified, quarantine_retries, ended_sessions, audit, _sqlx_migrations}')
    UNION ALL
    SELECT 'FUNCTION', p.oid::regprocedure::text
    FROM pg_proc AS p
    WHERE p.pronamespace = 'public'::regnamespace AND p.proname IN ('is_terminal_status', 'is_successful_status', 'steps_of', 'sensible_cost', 'utf8_text', 'json_sha256',
        'latest_of_workflow', 'count_quarantine', 'complete_bulk', 'changes_after', 'failure_class', 'execution_failure_class', 'rfc3339_time',
        'execution_results', 'json_in_text', 'media_type_of_url', 'result_kind', 'is_result_url', 'urls_in_text', 'path_of_key', 'is_array_of_numbers')
) AS ours (kind, name) \gexec

-- Rows of these tables can be deleted only with `retention=on` (below), except where DELETE is in this list. To remove a payload, the
-- receiver updates the row.
SELECT format('GRANT %s ON %I TO workflow_receiver', privileges, name)
FROM (VALUES
    ('executions', 'SELECT, INSERT, UPDATE'),
    ('bulks', 'SELECT, INSERT, UPDATE'),
    ('execution_conflicts', 'SELECT, INSERT, UPDATE'),
    ('predictions', 'SELECT, INSERT, UPDATE'),
    ('prediction_conflicts', 'SELECT, INSERT, UPDATE'),
    ('workflow_hours', 'SELECT, INSERT, UPDATE'),
    ('workflow_days', 'SELECT, INSERT, UPDATE'),
    ('quarantine', 'SELECT, INSERT, UPDATE, DELETE'),
    ('quarantine_usage', 'SELECT, UPDATE'),
    ('quarantine_retries', 'SELECT, INSERT, UPDATE, DELETE'),
    ('change_batches', 'SELECT, INSERT, UPDATE'),
    ('expected_executions', 'SELECT, INSERT, UPDATE'),
    ('reconcile_checks', 'SELECT, INSERT, UPDATE, DELETE'),
    ('absent_workflows', 'SELECT, INSERT, UPDATE, DELETE'),
    ('unverified_deliveries', 'SELECT, INSERT, UPDATE, DELETE'),
    ('audit', 'SELECT, INSERT, UPDATE'),
    ('ended_sessions', 'SELECT, INSERT, DELETE'),
    -- For the read API.
    ('steps', 'SELECT'),
    ('bulk_progress', 'SELECT'),
    ('conflicts', 'SELECT'),
    ('overdue_executions', 'SELECT'),
    -- Also for the trigger complete_bulk.
    ('missing_executions', 'SELECT')
) AS wanted (name, privileges)
WHERE to_regclass(name) IS NOT NULL \gexec

\if :{?retention}
\else
    \set retention off
\endif
SELECT format(CASE WHEN :'retention'::boolean THEN 'GRANT DELETE ON %I TO' ELSE 'REVOKE DELETE ON %I FROM' END, name)
    || ' workflow_receiver'
FROM unnest('{executions, bulks, execution_conflicts, predictions, prediction_conflicts, change_batches, expected_executions}'::text[]) AS name
WHERE to_regclass(name) IS NOT NULL \gexec

GRANT SELECT ON ALL TABLES IN SCHEMA public TO workflow_receiver_operator;
ALTER DEFAULT PRIVILEGES FOR ROLE workflow_receiver_owner IN SCHEMA public
    GRANT SELECT ON TABLES TO workflow_receiver_operator;
