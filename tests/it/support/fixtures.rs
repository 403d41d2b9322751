//! Bodies, rows and pages that tests use.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::receiver::TestReceiver;

/// A file of tests/payloads.
pub(crate) fn example(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads").join(name)).unwrap()
}

/// A webhook body with the required fields.
pub(crate) fn execution(id: &str, status: &str) -> Value {
    json!({ "execution_id": id, "workflow_id": "w", "status": status })
}

/// `value` with `fields` added or replaced.
pub(crate) fn with(mut value: Value, fields: Value) -> Value {
    value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    value
}

/// A body of exactly `size` bytes.
pub(crate) fn body_of_size(id: &str, size: usize) -> String {
    let body =
        |fill: usize| with(execution(id, "completed"), json!({ "fill": "x".repeat(fill) })).to_string();
    body(size - body(0).len())
}

/// An execution that uses most columns.
pub(crate) fn full_execution(id: &str) -> Value {
    with(
        execution(id, "completed"),
        json!({ "bulk_id": "b", "output": { "url": id }, "total_cost": 0.25, "inputs": [id] }),
    )
}

/// Bodies of the executions `e0`, `e1`, …
pub(crate) fn numbered_executions(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| execution(&format!("e{n}"), "completed").to_string())
}

/// A receiver that has recorded executions of each status, a bulk, a conflict and a quarantined body.
pub(crate) async fn sample_receiver() -> TestReceiver {
    let receiver = TestReceiver::start().await;
    for body in [
        with(
            execution("plain", "completed"),
            json!({ "output": ["https://example.com/a.png", "b"], "total_cost": 0.25 }),
        ),
        with(
            execution("failed", "failed"),
            json!({ "workflow_id": "v", "bulk_id": "b/1 é", "error": "ExecutionFailed", "error_cause": "Model Timeout after 30s" }),
        ),
        with(
            execution("step", "completed"),
            json!({ "bulk_id": "b/1 é", "output": { "video": "https://example.com/v.mp4", "seconds": 8 },
                    "started_at": "2026-03-02T09:00:00Z", "completed_at": "2026-03-02T09:00:07.5Z",
                    "step_outputs": { "draw": { "step_id": "d", "status": "failed", "error_cause": "too large" }, "x": { "status": "completed" } } }),
        ),
        execution("cancelled", "cancelled"),
        execution("running", "running"),
    ] {
        receiver.accept(body).await;
        receiver.wait_until_recorded().await;
    }
    receiver.accept(with(execution("plain", "failed"), json!({ "error_cause": "it changed" }))).await;
    receiver.post(r#"{"execution_id":"odd","note":"é"}"#).await;
    receiver.wait_until_recorded().await;
    receiver
}

/// A month of executions and two years of rollups: enough rows for the planner to prefer an index.
pub(crate) const A_MONTH: &str = "
    INSERT INTO executions (execution_id, workflow_id, bulk_id, status, output, payload, step_failed,
        deliveries, started_at, completed_at, first_received_at, last_received_at)
    SELECT 'e' || n, CASE n % 20 WHEN 0 THEN 'product-video' ELSE 'w' || n % 20 END,
        CASE WHEN n % 3 = 0 THEN 'b' || n / 30 END, CASE WHEN n % 25 = 0 THEN 'failed' ELSE 'completed' END,
        '[\"https://example.com/a.png\"]',
        jsonb_build_object('step_outputs', jsonb_build_object('s', jsonb_build_object('status',
            CASE WHEN n % 40 = 0 THEN 'failed' ELSE 'completed' END))),
        n % 40 = 0, 1, at, at, at, at
    FROM (SELECT n, timestamptz '2026-03-02 10:00Z' - n * interval '1 minute' AS at
          FROM generate_series(1, 40000) AS n) AS n;
    INSERT INTO bulks (bulk_id, received, completed, first_received_at, last_received_at)
    SELECT bulk_id, count(*), count(*), min(first_received_at), max(first_received_at)
    FROM executions WHERE bulk_id IS NOT NULL GROUP BY bulk_id;
    INSERT INTO workflow_hours
    SELECT hour, 'w' || w, 1, 1, 0, 0, 0
    FROM generate_series(timestamptz '2026-01-01', '2026-03-02 10:00Z', '1 hour') AS hour, generate_series(1, 20) AS w;
    INSERT INTO workflow_days
    SELECT day, CASE w WHEN 0 THEN 'product-video' ELSE 'w' || w END, 1, 1, 1
    FROM generate_series(date '2024-01-01', '2026-03-02', '1 day') AS day, generate_series(0, 99) AS w;
    INSERT INTO execution_conflicts (execution_id, workflow_id, status, payload, body_sha256, deliveries,
        first_received_at, last_received_at)
    SELECT execution_id, workflow_id, 'cancelled', '{}', '', 1, first_received_at, last_received_at
    FROM executions WHERE status = 'completed';
    INSERT INTO predictions (prediction_id, workflow_id, status, payload, deliveries, first_received_at, last_received_at)
    SELECT execution_id, CASE WHEN bulk_id IS NULL THEN workflow_id END,
        CASE status WHEN 'failed' THEN 'failed' ELSE 'succeeded' END, '{}', 1, first_received_at, last_received_at
    FROM executions;
    INSERT INTO prediction_conflicts (prediction_id, status, payload, body_sha256, deliveries, first_received_at,
        last_received_at)
    SELECT prediction_id, 'cancelled', '{}', '', 1, first_received_at, last_received_at FROM predictions;
    INSERT INTO quarantine (reason, body, body_sha256, deliveries, first_received_at, last_received_at)
    SELECT 'odd', execution_id::bytea, sha256(execution_id::bytea), 1, first_received_at, last_received_at
    FROM executions;
    INSERT INTO change_batches (last_change, size, types, execution_ids, workflow_ids, bulk_ids, statuses)
    SELECT 100 * n, 100, array_fill('execution.ended'::text, '{100}'), array_fill('e' || n, '{100}'),
        array_fill('w'::text, '{100}'), array_fill(NULL::text, '{100}'), array_fill('completed'::text, '{100}')
    FROM generate_series(1, 5000) AS n;
    ANALYZE";

/// Stops the clock of PostgreSQL at 10:00 on 2 March 2026, the time of the examples in the cookbook.
pub(crate) const STOPPED_CLOCK: &str = "
    CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql STABLE
        RETURN '2026-03-02 10:00Z'::timestamptz;
    SET search_path = public, pg_catalog;
    SET timezone = 'UTC'";

/// The page with the cookbook.
pub(crate) fn cookbook_page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operators.md")
}

/// The cookbook, split at its fences: every second piece is a code block that starts with its language.
pub(crate) fn cookbook_pieces() -> Vec<String> {
    std::fs::read_to_string(cookbook_page()).unwrap().split("```").map(str::to_owned).collect()
}

/// The SQL queries of the cookbook.
pub(crate) fn cookbook_queries() -> Vec<String> {
    cookbook_pieces().iter().filter_map(|piece| Some(piece.strip_prefix("sql\n")?.to_owned())).collect()
}
