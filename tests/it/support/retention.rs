//! Pruning, and rows old enough to be pruned.

use serde_json::Value;
use tempfile::TempDir;

use super::postgres::{execute_when_recorded, url};
use super::process::{program, run_to_end};
use super::receiver::TestReceiver;

/// Runs `workflow-receiver prune` on the receiver's database with these limits. Returns its output and exit code.
pub(crate) fn prune(
    receiver: &TestReceiver,
    limits: &[(&str, &str)],
    arguments: &[&str],
) -> (String, Option<i32>) {
    let dir = TempDir::new().unwrap();
    let mut command = program(dir.path());
    for (kind, kept) in limits {
        command.env(format!("RECEIVER__RETENTION__{kind}"), kept);
    }
    run_to_end(command.arg("prune").args(arguments).env("DATABASE_URL", url(&receiver.database)))
}

/// Prunes. Returns the number of removed rows of each kind that has a limit, without predictions if none was removed.
pub(crate) fn pruned(receiver: &TestReceiver, limits: &[(&str, &str)]) -> Value {
    let (text, code) = prune(receiver, limits, &["--json"]);
    assert_eq!(code, Some(0), "{text}");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let counts = lines.map(|line| (line["kind"].as_str().unwrap().to_owned(), line["rows"].clone()));
    counts.filter(|(kind, rows)| *rows != 0 || !kind.starts_with("prediction")).collect()
}

/// Moves the times of all rows back by three days.
pub(crate) async fn age_by_three_days(receiver: &TestReceiver) {
    let times = ["first_received_at", "last_received_at", "recorded_at"];
    for (table, times) in [
        ("executions", &times[..]),
        ("bulks", &times[..2]),
        ("execution_conflicts", &times),
        ("predictions", &times),
        ("prediction_conflicts", &times),
        ("quarantine", &times),
    ] {
        let earlier: Vec<_> = times.iter().map(|at| format!("{at} = {at} - interval '3 days'")).collect();
        execute_when_recorded(receiver, &format!("UPDATE {table} SET {}", earlier.join(", "))).await;
    }
    let changes = "UPDATE change_batches SET recorded_at = recorded_at - interval '3 days'";
    execute_when_recorded(receiver, changes).await;
}

/// A statement that inserts executions received three days ago, all at the same moment.
pub(crate) fn old_executions_sql(rows: usize) -> String {
    format!(
        "INSERT INTO executions (execution_id, workflow_id, status, payload, deliveries, first_received_at, last_received_at,
             recorded_at)
         SELECT 'many-' || n, 'w', 'completed', '{{}}', 1, at, at, at
         FROM generate_series(1, {rows}) AS n, (SELECT now() - interval '3 days' AS at) AS earlier"
    )
}
