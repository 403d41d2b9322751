-- Retention counts from this time, too, so that a row that a receiver with a wrong clock recorded is not removed as soon
-- as that clock is right. Rows that are there already get a constant, which rewrites no table; of them, only what the
-- receiver's clock said is known.

ALTER TABLE executions ADD COLUMN recorded_at timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00Z';
ALTER TABLE executions ALTER COLUMN recorded_at SET DEFAULT now();
ALTER TABLE execution_conflicts ADD COLUMN recorded_at timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00Z';
ALTER TABLE execution_conflicts ALTER COLUMN recorded_at SET DEFAULT now();
ALTER TABLE quarantine ADD COLUMN recorded_at timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00Z';
ALTER TABLE quarantine ALTER COLUMN recorded_at SET DEFAULT now();

COMMENT ON COLUMN executions.recorded_at IS
    'When the latest delivery of this execution was recorded, by PostgreSQL''s clock; 1970 when that was before the schema had this column. retention.* counts from the later of this time and last_received_at.';
COMMENT ON COLUMN execution_conflicts.recorded_at IS
    'When this delivery was last recorded, by PostgreSQL''s clock; 1970 when that was before the schema had this column. retention.* counts from the later of this time and last_received_at.';
COMMENT ON COLUMN quarantine.recorded_at IS
    'When this body was last recorded, by PostgreSQL''s clock; 1970 when that was before the schema had this column. retention.* counts from the later of this time and last_received_at.';
