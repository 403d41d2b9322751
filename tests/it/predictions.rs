//! Predictions and legacy flows, which the sender posts to the same URL as the executions of workflows.

use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use workflow_receiver::config::Secrets;

use crate::support::fixtures::{example, execution, with};
use crate::support::http::{get_json, item_fields, signed};
use crate::support::postgres::{UNREACHABLE, end_fault_on, fault_on, new_database, raise, until_rows, url};
use crate::support::process::{Process, program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::retention::{age_by_three_days, pruned};
use crate::support::rollups::assert_counts_are_right;

const SECRET: &str = "whsec_your_secret_key";
/// The key in `legacy-flow.json`.
const API_KEY: &str = "legacy-key-1234567890";
const WORKFLOW: &str = "50741f40-8621-4d46-8a91-dff4d873be98";

fn command(receiver: &TestReceiver, arguments: &[&str]) -> (String, Option<i32>) {
    let dir = TempDir::new().unwrap();
    run_to_end(program(dir.path()).args(arguments).env("DATABASE_URL", url(&receiver.database)))
}

fn prediction(id: &str, status: &str) -> Value {
    json!({ "exec_id": id, "flow_id": null, "status": status, "output": "o", "error": "" })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_of_the_sender_is_answered_200_and_recorded_where_it_belongs() {
    let receiver = TestReceiver::start_with(|settings| {
        settings.auth.webhook_secrets = Secrets::of(&[SECRET]);
    })
    .await;
    for name in [
        "completed.json",
        "bulk-completed.json",
        "deep-outputs.json",
        "full-execution.json",
        "legacy-flow.json",
        "prediction-succeeded.json",
        "prediction-failed.json",
        "prediction-older.json",
    ] {
        let request = receiver.client.post(format!("{}?file={name}", receiver.url));
        let now = OffsetDateTime::now_utc().unix_timestamp();
        assert_eq!(
            signed(request, SECRET, now, &example(name)).send().await.unwrap().status(),
            200,
            "{name}"
        );
    }
    let counts = "SELECT (SELECT count(*) FROM executions) AS executions, (SELECT count(*) FROM predictions) AS predictions,
        (SELECT count(*) FROM quarantine) AS quarantine, (SELECT sum(received) FROM bulks) AS in_bulks,
        (SELECT sum(executions) FROM failure_rates) AS in_rates, (SELECT sum(completed) FROM failure_rates) AS completed,
        (SELECT sum(executions) FROM costs) AS in_costs, (SELECT sum(size) FROM change_batches) AS changes";
    let expected = json!({ "executions": 5, "predictions": 3, "quarantine": 0, "in_bulks": 1, "in_rates": 5,
                           "completed": 5, "in_costs": 5, "changes": 5 });
    assert_eq!(receiver.row(counts).await, expected);
    assert_counts_are_right(&receiver).await;

    let rows = receiver
        .rows("SELECT prediction_id, workflow_id, status, error, error_cause, failure_class, total_cost, duration_seconds,
                   authenticated_by, deliveries, conflicts, reference FROM latest_predictions ORDER BY prediction_id")
        .await;
    let row = |name: &str, fields: Value| {
        let none = json!({ "workflow_id": null, "error": null, "error_cause": null, "failure_class": null,
                           "total_cost": null, "duration_seconds": null, "authenticated_by": "signature",
                           "deliveries": 1, "conflicts": 0, "reference": { "file": name } });
        with(none, fields)
    };
    let succeeded = json!({ "prediction_id": "2f0d4c1e-6a35-4f0a-9a53-7d1f5f7f9c10", "status": "succeeded" });
    let failed = json!({
        "prediction_id": "7c9a1b52-1f0e-4a44-8a83-0a9a6a4bb0f3", "workflow_id": WORKFLOW, "status": "failed",
        "error": "PROVIDER_REJECTED", "error_cause": "Prompt refused by the provider", "failure_class": "content_moderation"
    });
    let older = json!({ "prediction_id": "f7b7a2f4-0d51-4ef3-9d2f-2f2b7a5f3b1c", "status": "success",
                        "total_cost": 0.012, "duration_seconds": 6.2 });
    let expected = [
        row("prediction-succeeded.json", succeeded),
        row("prediction-failed.json", failed),
        row("prediction-older.json", older),
    ];
    assert_eq!(rows, expected);
    let parsed = |name: &str| serde_json::from_str::<Value>(&example(name)).unwrap();
    let stored = receiver.row("SELECT payload, output FROM predictions WHERE status = 'failed'").await;
    let sent = parsed("prediction-failed.json");
    assert_eq!(stored, json!({ "payload": sent, "output": sent["output"] }));
    for (metric, count) in [
        ("predictions_recorded_total{status=\"completed\"}", 2.0),
        ("predictions_recorded_total{status=\"failed\"}", 1.0),
        ("executions_recorded_total{status=\"completed\"}", 5.0),
        ("executions_recorded_total{status=\"failed\"}", 0.0),
    ] {
        assert_eq!(receiver.metric(metric).await, count, "{metric}");
    }
}

/// Checks a rule with the deliveries in several batches and in a single one.
async fn both_ways(bodies: &[Value], expected: Value, conflicts: &[Value]) {
    let one_by_one = TestReceiver::start().await;
    for body in bodies {
        one_by_one.accept(body).await;
        one_by_one.wait_until_recorded().await;
    }
    let together = TestReceiver::start().await;
    let held = together.hold_recording().await;
    for body in bodies {
        together.accept(body).await;
    }
    held.release().await;
    for receiver in [one_by_one, together] {
        let row = receiver.row("SELECT status, deliveries, conflicts FROM predictions").await;
        assert_eq!(row, expected, "{bodies:?}");
        let stored = receiver
            .rows("SELECT prediction_id, status, payload, deliveries FROM prediction_conflicts ORDER BY conflict_id")
            .await;
        assert_eq!(stored, conflicts, "{bodies:?}");
        assert_eq!(receiver.rows("SELECT * FROM execution_conflicts").await, Vec::<Value>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_follow_the_rules_of_executions() {
    let body = |status| prediction("p", status);
    let (done, failed) = (body("succeeded"), with(body("failed"), json!({ "error": "NETWORK_ERROR" })));
    let row = |status: &str, deliveries: i32, conflicts: Value| json!({ "status": status, "deliveries": deliveries, "conflicts": conflicts });
    both_ways(&[done.clone(), done.clone(), body("running")], row("succeeded", 3, Value::Null), &[]).await;
    both_ways(&[body("queued"), body("running"), failed.clone()], row("failed", 3, Value::Null), &[]).await;
    for (first, second) in [(done.clone(), failed), (done.clone(), with(done, json!({ "flow_id": "w" })))] {
        let status = &second["status"];
        let conflict = json!({ "prediction_id": "p", "status": status, "payload": second, "deliveries": 2 });
        both_ways(&[first, second.clone(), second.clone()], row("succeeded", 3, json!(1)), &[conflict]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_and_null_identifiers_count_as_missing() {
    let receiver = TestReceiver::start().await;
    for body in [
        json!({ "execution_id": "p1", "flow_id": null, "status": "succeeded", "output": "o" }),
        json!({ "execution_id": "", "exec_id": "p2", "status": "succeeded" }),
        json!({ "execution_id": "e", "workflow_id": "", "flow_id": "f", "status": "succeeded" }),
    ] {
        assert_eq!(receiver.post(body.to_string()).await.status(), 200, "{body}");
    }
    // Whether it is a workflow or a prediction is not known.
    let unknown = json!({ "execution_id": "u", "status": "succeeded" });
    assert_eq!(receiver.post(unknown.to_string()).await.status(), 422);
    receiver.wait_until_recorded().await;
    let predictions = receiver.rows("SELECT prediction_id, workflow_id FROM predictions ORDER BY 1").await;
    let prediction = |id: &str| json!({ "prediction_id": id, "workflow_id": null });
    assert_eq!(predictions, [prediction("p1"), prediction("p2")]);
    let executions = receiver.rows("SELECT execution_id, workflow_id FROM executions").await;
    assert_eq!(executions, [json!({ "execution_id": "e", "workflow_id": "f" })]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_in_another_spelling_is_recorded_and_not_final() {
    let receiver = TestReceiver::start().await;
    for status in ["SUCCEEDED", " failed ", "canceled"] {
        receiver.accept(execution("e", status)).await;
        receiver.wait_until_recorded().await;
    }
    let row = receiver.row("SELECT status, is_terminal_status(status) AS ended FROM executions").await;
    assert_eq!(row, json!({ "status": "canceled", "ended": false }));
    assert_counts_are_right(&receiver).await;
    receiver.accept(execution("e", "cancelled")).await;
    receiver.wait_until_recorded().await;
    assert_eq!(receiver.row("SELECT status FROM executions").await["status"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_are_filtered_by_cause_and_exported() {
    let receiver = TestReceiver::start().await;
    for (id, status, error) in
        [("p1", "succeeded", ""), ("p2", "failed", "Model timeout after 9s"), ("p3", "failed", "=Refused")]
    {
        let fields = json!({ "error": error, "flow_id": (id == "p3").then_some("w") });
        receiver.accept(with(prediction(id, status), fields)).await;
    }
    receiver.wait_until_recorded().await;
    for (filter, ids) in [
        ("cause=TIMEOUT", &["p2"][..]),
        ("cause=refused&workflow=w", &["p3"]),
        ("cause=timeout&workflow=w", &[]),
        ("cause=timeout&status=succeeded", &[]),
    ] {
        let listed = get_json(&receiver, &format!("/api/v1/predictions?{filter}")).await;
        assert_eq!(item_fields(&listed, "prediction_id"), ids, "{filter}");
    }
    let (text, _) = command(&receiver, &["predictions", "--cause", "timeout"]);
    assert!(text.contains(" p2 ") && !text.contains("p3"), "{text}");

    let listed = get_json(&receiver, "/api/v1/predictions?status=failed").await;
    let answer = receiver.get("/api/v1/export/predictions?status=failed").await;
    assert_eq!(answer.headers()["content-disposition"], "attachment; filename=\"predictions.jsonl\"");
    let text = answer.text().await.unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json!(lines), listed["items"]);
    let csv = receiver.get("/api/v1/export/predictions?format=csv").await.text().await.unwrap();
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let columns: Vec<_> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    assert!(columns.iter().all(|column| lines[0].get(column).is_some()), "{columns:?}");
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.iter().map(|row| &row[0]).collect::<Vec<_>>(), ["p3", "p2", "p1"]);
    assert!(csv.contains("\"'=Refused\""), "{csv}");
    let (exported, code) = command(&receiver, &["export", "predictions", "--format", "csv"]);
    assert_eq!((exported, code), (csv, Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_and_a_prediction_with_the_same_identifier_are_two_rows() {
    let receiver = TestReceiver::start().await;
    let held = receiver.hold_recording().await;
    for body in [execution("same", "completed"), prediction("same", "failed"), execution("same", "completed")]
    {
        receiver.accept(body).await;
    }
    held.release().await;
    let execution =
        receiver.row("SELECT status, deliveries FROM executions WHERE execution_id = 'same'").await;
    assert_eq!(execution, json!({ "status": "completed", "deliveries": 2 }));
    let prediction = receiver.row("SELECT status, deliveries FROM predictions").await;
    assert_eq!(prediction, json!({ "status": "failed", "deliveries": 1 }));
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_flow_is_an_execution_of_its_workflow() {
    let receiver = TestReceiver::start().await;
    receiver.accept(example("legacy-flow.json")).await;
    receiver.accept(example("legacy-flow.json")).await;
    let row = receiver
        .row(
            "SELECT workflow_id, status, output, step_failed, deliveries, payload -> 'api_key' AS api_key,
                  completed_at = '2025-12-04T11:48:52Z' AS ended FROM executions",
        )
        .await;
    let expected = json!({ "workflow_id": WORKFLOW, "status": "succeeded", "deliveries": 2, "step_failed": true,
                           "output": "https://storage.googleapis.com/uploads/image.png", "api_key": null, "ended": true });
    assert_eq!(row, expected);
    let steps = receiver.rows("SELECT key, status, failure_class FROM steps ORDER BY key").await;
    let expected = [
        json!({ "key": "draft", "status": "succeeded", "failure_class": null }),
        json!({ "key": "draw", "status": "failed", "failure_class": "execution_timeout" }),
    ];
    assert_eq!(steps, expected);
    let failed = receiver.rows("SELECT step_id, execution_status FROM failed_steps").await;
    assert_eq!(failed, [json!({ "step_id": "draw", "execution_status": "succeeded" })]);
    // The status is terminal and counts as completed.
    receiver
        .accept(with(
            serde_json::from_str(&example("legacy-flow.json")).unwrap(),
            json!({ "status": "failed" }),
        ))
        .await;
    assert_eq!(receiver.rows("SELECT * FROM execution_conflicts").await.len(), 1);
    let rates = receiver.row("SELECT executions, completed, failed, other FROM failure_rates").await;
    assert_eq!(rates, json!({ "executions": 1, "completed": 1, "failed": 0, "other": 0 }));
    let changes = receiver.rows("SELECT unnest(types) AS type FROM change_batches ORDER BY batch_id").await;
    assert_eq!(changes, [json!({ "type": "execution.ended" }), json!({ "type": "execution.conflict" })]);
    let listed = get_json(&receiver, "/api/v1/executions?status=succeeded").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let bulk = json!({ "execution_id": "l", "flow_id": "w", "bulk_id": "b", "status": "success" });
    receiver.accept(bulk).await;
    let bulk = receiver.row("SELECT received, completed, other FROM bulks").await;
    assert_eq!(bulk, json!({ "received": 1, "completed": 1, "other": 0 }));
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_for_terminal_statuses_are_the_same_in_sql_and_in_the_receiver() {
    let receiver = TestReceiver::start().await;
    for status in
        ["completed", "succeeded", "success", "failed", "cancelled", "Succeeded", "running", "error"]
    {
        receiver.accept(execution(status, status)).await;
    }
    let differing = receiver
        .rows(
            "SELECT e.status FROM executions AS e, LATERAL (
                   SELECT types[array_position(execution_ids, e.execution_id)] AS type
                   FROM change_batches WHERE e.execution_id = ANY (execution_ids)) AS c
               WHERE (c.type = 'execution.ended') <> is_terminal_status(e.status)",
        )
        .await;
    assert_eq!(differing, Vec::<Value>::new());
    let rates = "SELECT sum(executions) AS executions, sum(completed) AS completed, sum(other) AS other FROM failure_rates";
    assert_eq!(receiver.row(rates).await, json!({ "executions": 8, "completed": 3, "other": 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_and_legacy_flows_survive_a_kill_before_they_are_recorded() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    // The database is reachable only after the kill.
    let process = Process::start(program(dir.path()).env("DATABASE_URL", UNREACHABLE));
    let names =
        ["prediction-succeeded.json", "prediction-failed.json", "prediction-older.json", "legacy-flow.json"];
    for name in names {
        process.accept(example(name)).await;
    }
    process.kill();
    let files = std::fs::read_dir(dir.path().join("data/spool")).unwrap();
    let spool: Vec<u8> = files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    let spool = String::from_utf8_lossy(&spool);
    assert!(spool.contains("step_results") && !spool.contains(API_KEY));
    let mut process = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
    process.wait_for("recording to PostgreSQL");
    until_rows(&database, "SELECT FROM predictions WHERE deliveries = 1", 3).await;
    until_rows(&database, "SELECT FROM executions WHERE status = 'succeeded' AND deliveries = 1", 1).await;
    until_rows(&database, "SELECT FROM quarantine", 0).await;
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_retry_records_the_bodies_that_an_earlier_build_quarantined() {
    let receiver = TestReceiver::start().await;
    let array = format!("[{},{}]", prediction("in-array", "failed"), execution("e", "completed"));
    let bodies = [
        example("prediction-succeeded.json"),
        example("prediction-failed.json"),
        example("prediction-older.json"),
        example("legacy-flow.json"),
        array,
        json!({ "id": "other", "status": "failed" }).to_string(),
    ];
    for body in &bodies {
        let insert = "INSERT INTO quarantine (reason, body, body_sha256, authenticated_by, deliveries, redeliveries, reference,
                 first_received_at, last_received_at)
             VALUES ('`execution_id` is missing or null', $1, sha256($1), 'signature', 3, 1, '{\"order\": \"1\"}',
                 '2026-01-01Z', '2026-01-02Z')";
        let mut connection = receiver.connection().await;
        sqlx::query(insert).bind(body.as_bytes()).execute(&mut connection).await.unwrap();
    }
    let (text, code) = command(&receiver, &["quarantine", "retry", "--all"]);
    assert!(code == Some(1) && text.contains("recorded 5, not recorded 1"), "{text}");
    assert!(text.contains("recorded as in-array (new)") && text.contains("recorded as e (new)"), "{text}");
    let rows = receiver
        .rows("SELECT deliveries, redeliveries, authenticated_by, reference, first_received_at = '2026-01-01Z' AS first,
                   last_received_at = '2026-01-02Z' AS last FROM predictions")
        .await;
    let row = json!({ "deliveries": 3, "redeliveries": 1, "authenticated_by": "signature",
                      "reference": { "order": "1" }, "first": true, "last": true });
    assert_eq!(rows, vec![row; 4]);
    let stored = receiver.row("SELECT string_agg(payload::text, '') AS text FROM executions").await;
    let stored = stored["text"].as_str().unwrap();
    assert!(stored.contains("step_results") && !stored.contains(API_KEY), "{stored}");
    let left = receiver.rows("SELECT body_text FROM quarantined").await;
    assert_eq!(left, [json!({ "body_text": bodies[5] })]);
    // Again, as after a crash between the commit and the response.
    receiver.accept(&bodies[0]).await;
    let row = receiver.row("SELECT deliveries FROM predictions WHERE status = 'succeeded'").await;
    assert_eq!(row["deliveries"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_objects_with_an_id_and_a_status_stay_in_quarantine() {
    let receiver = TestReceiver::start().await;
    for body in [
        json!({ "id": "p", "status": "success" }),
        json!({ "id": "p", "status": "success", "output": "o", "metrics": null }),
        json!({ "exec_id": "p" }),
        json!({ "exec_id": "", "status": "succeeded" }),
        json!([{ "exec_id": "p", "status": "succeeded" }]),
    ] {
        assert_eq!(receiver.post(body.to_string()).await.status(), 422, "{body}");
    }
    assert_eq!(receiver.rows("SELECT * FROM quarantine").await.len(), 5);
    assert_eq!(receiver.rows("SELECT * FROM predictions").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_are_listed_and_shown_over_http_and_on_the_command_line() {
    let receiver = TestReceiver::start().await;
    for (id, status, workflow, reference) in [
        ("a", "succeeded", Value::Null, ""),
        ("b", "failed", json!("w"), "?order=1"),
        ("c", "succeeded", json!("w"), ""),
        ("d/d?", "running", json!("v"), ""),
    ] {
        let error = if status == "failed" {
            json!({ "error_code": "EXECUTION_TIMEOUT", "error_message": "too slow" })
        } else {
            json!("")
        };
        let body = with(prediction(id, status), json!({ "flow_id": workflow, "error": error }));
        let request = receiver.client.post(format!("{}{reference}", receiver.url)).body(body.to_string());
        assert_eq!(request.send().await.unwrap().status(), 200);
        receiver.wait_until_recorded().await;
    }
    receiver.accept(with(prediction("a", "succeeded"), json!({ "output": "another" }))).await;
    receiver.wait_until_recorded().await;
    for (filter, ids) in [
        ("", &["d/d?", "c", "b", "a"][..]),
        ("?status=succeeded", &["c", "a"]),
        ("?status=failed", &["b"]),
        ("?workflow=w", &["c", "b"]),
        ("?workflow=w&status=failed", &["b"]),
        ("?reference=order=1", &["b"]),
        ("?reference=order=1&workflow=v", &[]),
        ("?from=1h&limit=1000", &["d/d?", "c", "b", "a"]),
        ("?to=yesterday", &[]),
    ] {
        let page = get_json(&receiver, &format!("/api/v1/predictions{filter}")).await;
        assert_eq!(item_fields(&page, "prediction_id"), ids, "{filter}");
    }
    let first = get_json(&receiver, "/api/v1/predictions?workflow=w&limit=1").await;
    let next = first["next"].as_str().unwrap();
    let second = get_json(&receiver, &format!("/api/v1/predictions?workflow=w&limit=1&cursor={next}")).await;
    assert_eq!((item_fields(&second, "prediction_id"), &second["next"]), (vec![&json!("b")], &Value::Null));

    let detail = get_json(&receiver, "/api/v1/predictions/b").await;
    for (field, value) in [
        ("error", json!("EXECUTION_TIMEOUT")),
        ("error_cause", json!("too slow")),
        ("failure_class", json!("execution_timeout")),
        ("workflow_id", json!("w")),
        ("output", json!("o")),
        ("reference", json!({ "order": "1" })),
        ("contradicted_by", json!([])),
    ] {
        assert_eq!(detail[field], value, "{field} of {detail}");
    }
    assert_eq!(detail["payload"]["exec_id"], "b");
    let detail = get_json(&receiver, "/api/v1/predictions/a").await;
    assert_eq!((&detail["output"], &detail["conflicts"]), (&json!("o"), &json!(1)));
    assert_eq!(detail["contradicted_by"][0]["status"], "succeeded");
    assert_eq!(get_json(&receiver, "/api/v1/predictions/d%2Fd%3F").await["status"], "running");
    assert_eq!(receiver.get("/api/v1/predictions/absent").await.status(), 404);
    assert_eq!(receiver.get("/api/v1/executions/b").await.status(), 404);

    let ids = |arguments: &[&str]| -> Vec<String> {
        let (text, code) = command(&receiver, &[&["predictions", "--json"], arguments].concat());
        assert_eq!(code, Some(0), "{text}");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["prediction_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["--since", "1h", "--status", "succeeded"]), ["c", "a"]);
    assert_eq!(ids(&["--workflow", "w", "--all"]), ["c", "b"]);
    assert_eq!(ids(&["--reference", "order=1"]), ["b"]);
    let (text, code) = command(&receiver, &["predictions", "a"]);
    assert!(code == Some(0) && text.contains("prediction        a") && text.contains("Conflicts:"), "{text}");
    let (text, code) = command(&receiver, &["predictions", "absent"]);
    assert!(code == Some(1) && text.contains("is not recorded"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_removes_predictions_their_payloads_and_their_conflicts() {
    let receiver = TestReceiver::start().await;
    for body in
        [prediction("old", "succeeded"), prediction("old", "failed"), prediction("redelivered", "failed")]
    {
        receiver.accept(body).await;
    }
    age_by_three_days(&receiver).await;
    receiver.accept(prediction("redelivered", "failed")).await;
    receiver.accept(prediction("new", "failed")).await;
    receiver.wait_until_recorded().await;
    assert_eq!(pruned(&receiver, &[("PAYLOADS", "2d")])["prediction_payloads"], 1);
    let removed = receiver
        .row("SELECT prediction_id, payload, output FROM predictions WHERE payload_removed_at IS NOT NULL")
        .await;
    assert_eq!(removed, json!({ "prediction_id": "old", "payload": null, "output": null }));
    // The hashes distinguish a duplicate from a conflict.
    receiver.accept(prediction("old", "succeeded")).await;
    receiver.accept(with(prediction("old", "succeeded"), json!({ "output": "other" }))).await;
    assert_eq!(receiver.rows("SELECT * FROM prediction_conflicts").await.len(), 2);
    age_by_three_days(&receiver).await;
    let limits = [("EXECUTIONS", "2d"), ("CONFLICTS", "2d")];
    let counts = pruned(&receiver, &limits);
    assert_eq!((&counts["predictions"], &counts["prediction_conflicts"]), (&json!(3), &json!(2)), "{counts}");
    assert_eq!(receiver.rows("SELECT 1 AS n FROM predictions").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prediction_that_postgresql_rejects_is_degraded_and_repaired_or_quarantined() {
    let receiver = TestReceiver::start().await;
    let condition = "NEW.prediction_id = 'refused'
        OR NEW.prediction_id IN ('degraded', 'twice') AND NEW.payload IS NOT NULL";
    fault_on(&receiver, "predictions", condition, &raise("P0001")).await;
    for body in
        [prediction("degraded", "succeeded"), prediction("refused", "failed"), execution("e", "completed")]
    {
        receiver.accept(body).await;
    }
    receiver.accept(r#"{"exec_id":"twice","status":"succeeded","x":1,"x":2}"#).await;
    let degraded = "SELECT payload, output, payload_bytes IS NULL AS whole FROM predictions WHERE prediction_id = 'degraded'";
    assert_eq!(receiver.row(degraded).await, json!({ "payload": null, "output": "o", "whole": false }));
    assert_eq!(receiver.row("SELECT acknowledged FROM quarantine").await["acknowledged"], true);
    assert_eq!(receiver.rows("SELECT 1 AS n FROM executions").await.len(), 1, "executions are recorded");
    end_fault_on(&receiver, "predictions").await;
    let (text, code) = command(&receiver, &["repair", "degraded"]);
    assert!(code == Some(0) && text.contains("degraded: repaired"), "{text}");
    let (text, code) = command(&receiver, &["repair", "--all"]);
    assert!(code == Some(0) && text.contains("repaired 1, unchanged 0, refused 0"), "{text}");
    let whole = json!({ "payload": prediction("degraded", "succeeded"), "output": "o", "whole": true });
    assert_eq!(receiver.row(degraded).await, whole);
    let (text, code) = command(&receiver, &["quarantine", "retry", "--acknowledged"]);
    assert!(code == Some(0) && text.contains("recorded as refused (new)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_and_results_contain_predictions_which_are_never_counted_as_executions() {
    let receiver = TestReceiver::start().await;
    let error = json!({ "error_code": "EXECUTION_TIMEOUT", "error_message": "too slow" });
    let image = |id: &str| json!([format!("https://example.com/{id}.png")]);
    // An execution and a prediction have the same identifier.
    for (body, reference) in [
        (with(execution("same", "completed"), json!({ "output": image("same") })), "?order=1"),
        (with(execution("e", "failed"), json!({ "error_cause": "too slow", "bulk_id": "b" })), ""),
        (with(prediction("same", "succeeded"), json!({ "output": image("prediction") })), "?order=1"),
        (with(prediction("f", "failed"), json!({ "flow_id": "w", "error": error })), "?order=2"),
        (with(prediction("g", "failed"), json!({ "error": error })), ""),
    ] {
        let request = receiver.client.post(format!("{}{reference}", receiver.url)).body(body.to_string());
        assert_eq!(request.send().await.unwrap().status(), 200);
        receiver.wait_until_recorded().await;
    }
    let failures = receiver
        .rows(
            "SELECT execution_id, prediction_id, workflow_id, bulk_id, error_cause, failure_class, reference
             FROM failures ORDER BY first_received_at",
        )
        .await;
    let row = |execution: Value, prediction: Value, workflow: Value, bulk: Value, reference: Value| {
        json!({ "execution_id": execution, "prediction_id": prediction, "workflow_id": workflow, "bulk_id": bulk,
                "error_cause": "too slow", "reference": reference,
                "failure_class": if prediction.is_null() { "unknown" } else { "execution_timeout" } })
    };
    let expected = [
        row(json!("e"), Value::Null, json!("w"), json!("b"), Value::Null),
        row(Value::Null, json!("f"), json!("w"), Value::Null, json!({ "order": "2" })),
        row(Value::Null, json!("g"), Value::Null, Value::Null, Value::Null),
    ];
    assert_eq!(failures, expected);
    let counted = receiver
        .row("SELECT count(execution_id), (SELECT sum(executions) FROM failure_rates) AS all FROM failures");
    assert_eq!(counted.await, json!({ "count": 1, "all": 2 }));

    let groups = async |filter: &str| {
        let answer = get_json(&receiver, &format!("/api/v1/failures{filter}")).await;
        let groups = answer["groups"].as_array().unwrap().iter();
        groups
            .map(|g| {
                json!([g["workflow_id"], g["latest_execution_id"], g["latest_prediction_id"], g["failed"]])
            })
            .collect::<Vec<_>>()
    };
    let (of_e, of_f) = (json!(["w", "e", null, 1]), json!(["w", null, "f", 1]));
    assert_eq!(groups("").await, [json!([null, null, "g", 1]), of_f.clone(), of_e.clone()]);
    assert_eq!(groups("?workflow=w").await, [of_f, of_e.clone()]);
    assert_eq!(groups("?bulk=b").await, [of_e]);
    assert_eq!(groups("?by=step").await, Vec::<Value>::new());

    let of_prediction = json!([null, "same", "output[0]", "https://example.com/prediction.png"]);
    let of_execution = json!(["same", null, "output[0]", "https://example.com/same.png"]);
    let rows = receiver
        .rows("SELECT json_build_array(execution_id, prediction_id, path, url) AS row FROM results WHERE reference @> '{\"order\": \"1\"}' ORDER BY first_received_at DESC")
        .await;
    assert_eq!(rows, [json!({ "row": of_prediction }), json!({ "row": of_execution })]);
    let results = async |filter: &str| {
        let page = get_json(&receiver, &format!("/api/v1/results?{filter}")).await;
        let items = page["items"].as_array().unwrap().iter();
        let items = items.map(|r| json!([r["execution_id"], r["prediction_id"], r["path"], r["url"]]));
        (items.collect::<Vec<_>>(), page["next"].as_str().map(str::to_owned))
    };
    for (filter, expected) in [
        ("reference=order=1", vec![of_prediction.clone(), of_execution.clone()]),
        ("execution=same", vec![of_execution.clone()]),
        ("prediction=same", vec![of_prediction.clone()]),
        ("workflow=w&kind=image", vec![of_execution.clone()]),
        ("execution=same&prediction=same", vec![]),
    ] {
        assert_eq!(results(filter).await.0, expected, "{filter}");
    }
    // Also at the same time, each of the two results is on one page.
    let same_time = "UPDATE executions SET first_received_at = '2026-01-01Z';
        UPDATE predictions SET first_received_at = '2026-01-01Z'";
    sqlx::raw_sql(same_time).execute(&mut receiver.connection().await).await.unwrap();
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let (items, next) = results(&format!("kind=image&limit=1{cursor}")).await;
        paged.extend(items);
        let Some(next) = next else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, [of_prediction, of_execution]);
    let exported = receiver.get("/api/v1/export/results?format=urls&kind=image").await.text().await.unwrap();
    assert_eq!(exported, "https://example.com/prediction.png\nhttps://example.com/same.png\n");
    let (text, code) = command(&receiver, &["results", "--kind", "image"]);
    assert!(code == Some(0) && text.contains("prediction same") && text.contains("\nsame "), "{text}");
    let (text, code) = command(&receiver, &["results", "--prediction", "same", "--urls"]);
    assert_eq!((&*text, code), ("https://example.com/prediction.png\n", Some(0)));
    let (text, code) = command(&receiver, &["failures"]);
    assert!(code == Some(0) && text.contains("prediction g") && text.contains(" e\n"), "{text}");
    // The console opens a prediction by its identifier, as an execution.
    assert_eq!(receiver.get("/executions?q=g").await.url().path(), "/predictions/g");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_failed_prediction_is_its_error_and_no_result() {
    let receiver = TestReceiver::start().await;
    receiver.accept(example("prediction-failed.json")).await;
    let oldest = json!({ "id": "oldest", "status": "failed", "output": "NSFW content detected", "input": {}, "metrics": {} });
    receiver.accept(oldest).await;
    receiver.accept(prediction("done", "succeeded")).await;
    receiver.wait_until_recorded().await;
    let rows = receiver.rows("SELECT prediction_id, text FROM results").await;
    assert_eq!(rows, [json!({ "prediction_id": "done", "text": "o" })]);
    let page = get_json(&receiver, "/api/v1/results").await;
    assert_eq!(item_fields(&page, "prediction_id"), ["done"]);
    let row = receiver
        .row(
            "SELECT error, error_cause, failure_class FROM latest_predictions WHERE prediction_id = 'oldest'",
        )
        .await;
    let expected = json!({ "error": null, "error_cause": "NSFW content detected", "failure_class": "content_moderation" });
    assert_eq!(row, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prediction_of_a_workflow_has_no_final_result_so_that_final_results_are_listed_once() {
    let receiver = TestReceiver::start().await;
    let output = json!({ "output": "https://example.com/a.png" });
    let reference = "?user=42";
    for body in [
        with(execution("e", "completed"), output.clone()),
        with(with(prediction("step", "succeeded"), output.clone()), json!({ "flow_id": "w" })),
        with(prediction("alone", "succeeded"), json!({ "output": "https://example.com/b.png" })),
    ] {
        let request = receiver.client.post(format!("{}{reference}", receiver.url)).body(body.to_string());
        assert_eq!(request.send().await.unwrap().status(), 200);
        receiver.wait_until_recorded().await;
    }
    let finals = json!([{ "id": "alone" }, { "id": "e" }]);
    let query = "SELECT coalesce(execution_id, prediction_id) AS id FROM results
        WHERE is_final AND reference @> '{\"user\": \"42\"}' ORDER BY id";
    assert_eq!(json!(receiver.rows(query).await), finals);
    let page = get_json(&receiver, "/api/v1/results?reference=user=42&final=true").await;
    assert_eq!(item_fields(&page, "url"), ["https://example.com/b.png", "https://example.com/a.png"]);
    let page = get_json(&receiver, "/api/v1/results?reference=user=42").await;
    assert_eq!(item_fields(&page, "is_final"), [true, false, true]);
    let (text, code) = command(&receiver, &["results", "--reference", "user=42", "--final", "--urls"]);
    assert_eq!((&*text, code), ("https://example.com/b.png\nhttps://example.com/a.png\n", Some(0)));
}
