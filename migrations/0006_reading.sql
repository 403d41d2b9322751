-- What lists ask for that is rare, without reading what is not.
--
-- Both are partial: an execution that completed as most do has no entry in either, and costs nothing more.

-- "Which are running? Which were cancelled?"
CREATE INDEX IF NOT EXISTS executions_rare_status ON executions (first_received_at)
WHERE status NOT IN ('completed', 'failed');

-- "What failed in this workflow, and why?"
CREATE INDEX IF NOT EXISTS executions_workflow_failures ON executions (workflow_id, first_received_at)
WHERE status = 'failed' OR step_failed;
