//! What is kept only so long: what goes, what stays, and what is still known of what has gone.

use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tempfile::TempDir;

use crate::harness::{TestReceiver, execution, rows, until, url, with};
use crate::process::{Process, outcome, program};
use crate::sums::wrong_sums;

const DAY: u64 = 24 * 60 * 60;

/// `workflow-receiver prune …` on the receiver's database, with these limits.
fn prune(receiver: &TestReceiver, limits: &[(&str, &str)], arguments: &[&str]) -> (String, Option<i32>) {
    let dir = TempDir::new().unwrap();
    let mut command = program(dir.path());
    for (kind, kept) in limits {
        command.env(format!("RECEIVER__RETENTION__{kind}"), kept);
    }
    outcome(command.arg("prune").args(arguments).env("DATABASE_URL", url(&receiver.database)))
}

/// Prunes, and gives how many rows went of each kind that has a limit.
fn pruned(receiver: &TestReceiver, limits: &[(&str, &str)]) -> Value {
    let (text, code) = prune(receiver, limits, &["--json"]);
    assert_eq!(code, Some(0), "{text}");
    rows_by_kind(&text)
}

fn rows_by_kind(lines: &str) -> Value {
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["kind"].as_str().unwrap().to_owned(), line["rows"].clone())).collect()
}

/// All that is recorded came so much earlier.
async fn age(receiver: &TestReceiver, by: &str) {
    receiver.recorded().await;
    let times = format!(
        "SET first_received_at = first_received_at - interval '{by}',
             last_received_at = last_received_at - interval '{by}'"
    );
    for table in ["executions", "bulks", "execution_conflicts", "quarantine"] {
        run(receiver, &format!("UPDATE {table} {times}")).await;
    }
}

async fn run(receiver: &TestReceiver, statements: &str) {
    let mut connection = receiver.connection().await;
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await.unwrap();
}

/// Executions as senders send them, and as they might.
fn bodies() -> Vec<String> {
    let body = |id, fields| with(execution(id, "completed"), fields).to_string();
    vec![
        body("array", json!({ "output": ["https://example.com/a.png", "b"], "bulk_id": "b" })),
        body("number", json!({ "output": 1.50 })),
        body("object", json!({ "output": { "b": 1, "a": [null] }, "inputs": { "prompt": "x" } })),
        body("none", json!({})),
        body("null", json!({ "output": null, "error_cause": "why" })),
        r#"{"execution_id":"twice","workflow_id":"w","status":"completed","output":"o","a":1,"a":2}"#.to_owned(),
        r#"{"execution_id":"nul","workflow_id":"w","status":"failed","inputs":"\u0000"}"#.to_owned(),
        r#"{"execution_id":"nul-output","workflow_id":"w","status":"failed","output":"\u0000"}"#.to_owned(),
    ]
}

/// The same executions with another outcome, the first one but for what jsonb cannot hold.
fn contradictions() -> Vec<String> {
    let other = |body: &String| {
        let (start, end) = body.split_once('{').unwrap();
        format!("{start}{{\"output\":\"other\",{}", end.replace("\"output\":", "\"was\":"))
    };
    let mut others: Vec<_> = bodies().iter().map(other).collect();
    others.push(bodies()[6].replace(r"\u0000", r"\u0000\u0000"));
    others
}

const OUTCOMES: &str = "SELECT execution_id, deliveries, payload_removed_at IS NOT NULL AS removed,
        num_nonnulls(output, payload, payload_bytes) AS kept
    FROM executions ORDER BY execution_id";

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_after_its_payload_is_removed_is_a_duplicate_and_what_contradicts_a_conflict() {
    let receiver = TestReceiver::start().await;
    for body in bodies() {
        receiver.accept(body).await;
    }
    age(&receiver, "3 days").await;
    assert_eq!(pruned(&receiver, &[("PAYLOADS", "2d")]), json!({ "payloads": bodies().len() }));

    for body in bodies() {
        receiver.accept(&body).await;
        // Written otherwise, but the same to jsonb.
        if !body.contains(r"\u0000") {
            receiver.accept(body.replace(',', ", ")).await;
        }
    }
    let rows = receiver.rows(OUTCOMES).await;
    assert_eq!(rows.len(), bodies().len());
    for row in &rows {
        let deliveries = if row["execution_id"].as_str().unwrap().starts_with("nul") { 2 } else { 3 };
        // "null" is no body that jsonb cannot hold.
        let deliveries = if row["execution_id"] == "null" { 3 } else { deliveries };
        assert_eq!((&row["deliveries"], &row["removed"], &row["kept"]), (&json!(deliveries), &json!(true), &json!(0)), "{row}");
    }
    assert_eq!(receiver.rows("SELECT * FROM execution_conflicts").await, Vec::<Value>::new());

    for body in contradictions() {
        receiver.accept(body).await;
    }
    let conflicts = receiver
        .rows("SELECT execution_id, differs_in, recorded_output, recorded_payload_removed_at IS NOT NULL AS removed
               FROM conflicts ORDER BY conflict_id")
        .await;
    assert_eq!(conflicts.len(), contradictions().len(), "{conflicts:#?}");
    for (n, conflict) in conflicts.iter().enumerate() {
        let differs = if n < bodies().len() { json!(["output"]) } else { json!([]) };
        assert_eq!((&conflict["differs_in"], &conflict["removed"]), (&differs, &json!(true)), "{conflict}");
    }
}
