//! The rules of recording: one row per execution, the first terminal status wins.

use serde_json::{Value, json};

use crate::support::fixtures::{execution, with};
use crate::support::http::get_json;
use crate::support::receiver::TestReceiver;

async fn status(receiver: &TestReceiver) -> Value {
    receiver.row("SELECT status, deliveries FROM executions WHERE execution_id = 'e'").await
}

async fn conflicts(receiver: &TestReceiver) -> Vec<Value> {
    receiver
        .rows(
            "SELECT execution_id, status, payload, deliveries FROM execution_conflicts ORDER BY conflict_id",
        )
        .await
}

/// Checks a rule with the deliveries in several batches and in a single one.
async fn both_ways(bodies: &[Value], expected: Value, expected_conflicts: &[Value]) {
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
        assert_eq!(status(&receiver).await, expected);
        assert_eq!(conflicts(&receiver).await, expected_conflicts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_only_counts() {
    let done = execution("e", "completed");
    both_ways(&[done.clone(), done.clone(), done], json!({ "status": "completed", "deliveries": 3 }), &[])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_status_replaces_a_non_terminal_one() {
    for terminal in ["completed", "failed", "cancelled"] {
        both_ways(
            &[execution("e", "queued"), execution("e", "running"), execution("e", terminal)],
            json!({ "status": terminal, "deliveries": 3 }),
            &[],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_non_terminal_status_never_replaces_a_terminal_one() {
    both_ways(
        &[execution("e", "failed"), execution("e", "running"), execution("e", "mystery")],
        json!({ "status": "failed", "deliveries": 3 }),
        &[],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn among_non_terminal_statuses_the_latest_delivery_is_kept() {
    both_ways(
        &[
            execution("e", "running"),
            execution("e", "paused"),
            execution("e", "running"),
            execution("e", "queued"),
        ],
        json!({ "status": "queued", "deliveries": 4 }),
        &[],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_contradicts_the_first_is_stored_as_a_conflict_and_never_applied() {
    let (done, failed) = (execution("e", "completed"), execution("e", "failed"));
    both_ways(
        &[done.clone(), failed.clone(), done, failed.clone()],
        json!({ "status": "completed", "deliveries": 4 }),
        &[json!({ "execution_id": "e", "status": "failed", "payload": failed, "deliveries": 2 })],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_status_with_another_result_is_a_conflict() {
    let first = with(execution("e", "completed"), json!({ "output": ["a"], "bulk_id": "b" }));
    for other in [
        json!({ "output": ["b"] }),
        json!({ "output": null }),
        json!({ "bulk_id": "other" }),
        json!({ "workflow_id": "other" }),
        json!({ "error": "ExecutionFailed" }),
        json!({ "error_cause": "?" }),
    ] {
        let second = with(first.clone(), other);
        both_ways(
            &[first.clone(), second.clone()],
            json!({ "status": "completed", "deliveries": 2 }),
            &[json!({ "execution_id": "e", "status": "completed", "payload": second, "deliveries": 1 })],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_result_as_a_different_json_text_is_a_duplicate() {
    let receiver = TestReceiver::start().await;
    for body in [
        r#"{"execution_id":"e","workflow_id":"w","status":"completed","output":{"a":1,"b":[2.50]}}"#,
        r#"{ "output" : { "b":[2.5], "a":1 }, "status":"completed","workflow_id":"w","execution_id":"\u0065" }"#,
        r#"{"execution_id":"e","workflow_id":"w","status":"completed","output":{"a":1,"b":[2.5]},"bulk_id":null,"total_cost":1,"new_field":true}"#,
    ] {
        receiver.accept(body).await;
    }
    assert_eq!(status(&receiver).await, json!({ "status": "completed", "deliveries": 3 }));
    assert!(conflicts(&receiver).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_of_a_webhook_is_stored_and_shown_under_its_own_name() {
    let receiver = TestReceiver::start().await;
    let body = |id: &str, status: &str, what: &str| {
        json!({
            "execution_id": id, "workflow_id": format!("{what} workflow"), "bulk_id": format!("{what} bulk"),
            "status": status, "error": format!("{what} error"), "error_cause": format!("{what} cause"),
            "output": format!("{what} output"), "total_cost": what.len(),
            "started_at": "2026-03-01T01:02:03Z", "completed_at": "2026-03-02T01:02:03Z",
            "step_outputs": { "a": { "status": if what == "the" { "failed" } else { "completed" } } }
        })
    };
    // One is inserted, and the other replaces a status.
    receiver.accept(body("inserted", "completed", "the")).await;
    receiver.accept(body("replaced", "running", "another")).await;
    receiver.wait_until_recorded().await;
    receiver.accept(body("replaced", "completed", "the")).await;
    for (id, deliveries) in [("inserted", 1), ("replaced", 2)] {
        let fields = json!({
            "execution_id": id, "workflow_id": "the workflow", "bulk_id": "the bulk", "status": "completed",
            "error": "the error", "error_cause": "the cause", "step_failed": true, "total_cost": 3,
            "authenticated_by": "none", "deliveries": deliveries
        });
        let row = receiver
            .row(&format!(
                "SELECT *, started_at = '2026-03-01T01:02:03Z' AND completed_at = '2026-03-02T01:02:03Z' AS times
                 FROM executions WHERE execution_id = '{id}'"
            ))
            .await;
        let rest = json!({ "payload": body(id, "completed", "the"), "payload_bytes": null, "output": "the output",
                           "times": true });
        for (field, value) in fields.as_object().unwrap().iter().chain(rest.as_object().unwrap()) {
            assert_eq!(&row[field], value, "{field} of {row}");
        }
        let shown = get_json(&receiver, &format!("/api/v1/executions/{id}")).await;
        let times = json!({ "started_at": "2026-03-01T01:02:03Z", "completed_at": "2026-03-02T01:02:03Z",
                            "duration_seconds": 86_400.0 });
        for (field, value) in fields.as_object().unwrap().iter().chain(times.as_object().unwrap()) {
            assert_eq!(&shown[field], value, "{field} of {shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_kept_in_the_payload() {
    let receiver = TestReceiver::start().await;
    let body = with(execution("e", "completed"), json!({ "version_id": "v2", "région": { "é": [1, null] } }));
    receiver.accept(&body).await;
    assert_eq!(receiver.row("SELECT payload FROM executions").await["payload"], body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_in_a_body_is_stored_neither_in_the_spool_nor_in_postgresql() {
    const KEY: &str = "eachlabs-key-1234567890";
    let receiver = TestReceiver::start().await;
    let held = receiver.hold_recording().await;
    let legacy = json!({ "execution_id": "q", "flow_id": "w", "api_key": KEY, "status": "succeeded" });
    let webhook = with(execution("e", "completed"), json!({ "api_key": KEY }));
    let unknown = json!({ "executions": [{ "id": "u", "Api_Key": KEY }] });
    for body in [webhook, legacy.clone(), json!([legacy]), unknown] {
        receiver.post(body.to_string()).await;
    }
    let files = std::fs::read_dir(receiver.spool_file().parent().unwrap()).unwrap();
    let spool: Vec<u8> = files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    let text = String::from_utf8_lossy(&spool);
    assert!(text.contains(r#""api_key":null"#) && !text.contains(KEY));
    held.release().await;
    receiver.wait_until_recorded().await;
    let rows = receiver
        .rows("SELECT payload::text AS body FROM executions UNION ALL SELECT body_text FROM quarantined")
        .await;
    let bodies: Vec<&str> = rows.iter().map(|row| row["body"].as_str().unwrap()).collect();
    assert_eq!(bodies.iter().filter(|body| body.to_lowercase().contains("api_key")).count(), 4);
    assert!(!bodies.concat().contains(KEY), "{bodies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_are_opaque() {
    let receiver = TestReceiver::start().await;
    let longest = "x".repeat(255);
    let ids = [
        "exec-1",
        "EXEC-1",
        " exec-1 ",
        "'; DROP TABLE executions; --",
        "日本\n\t\"\\",
        "🦀",
        "%s",
        "null",
        &longest,
    ];
    for id in ids {
        let body = with(execution(id, "completed"), json!({ "workflow_id": id, "bulk_id": id }));
        receiver.accept(body).await;
    }
    let rows = receiver.rows("SELECT execution_id, workflow_id, bulk_id FROM executions").await;
    assert_eq!(rows.len(), ids.len());
    for id in ids {
        assert!(rows.contains(&json!({ "execution_id": id, "workflow_id": id, "bulk_id": id })), "{id}");
    }
    assert_eq!(receiver.rows("SELECT * FROM bulks").await.len(), ids.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_timestamp_is_null_and_stays_in_the_payload() {
    let receiver = TestReceiver::start().await;
    for (id, sent, recorded) in [
        ("utc", json!("2025-12-04T11:48:10.123456Z"), json!("2025-12-04 11:48:10.123456+00")),
        ("offset", json!("2025-12-04T11:48:10+02:00"), json!("2025-12-04 09:48:10+00")),
        ("words", json!("yesterday"), Value::Null),
        ("no zone", json!("2025-12-04T11:48:10"), Value::Null),
        ("number", json!(1_764_848_890), Value::Null),
        ("null", Value::Null, Value::Null),
    ] {
        let body = with(execution(id, "completed"), json!({ "started_at": sent, "completed_at": sent }));
        receiver.accept(body).await;
        let row = receiver
            .row(&format!(
                "SELECT (started_at AT TIME ZONE 'UTC')::text || '+00' AS at, started_at IS NOT DISTINCT FROM completed_at
                 AS same, payload->'started_at' AS sent FROM executions WHERE execution_id = '{id}'"
            ))
            .await;
        assert_eq!(row, json!({ "at": recorded, "same": true, "sent": sent }), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_jsonb_cannot_hold_is_recorded_as_bytes() {
    let receiver = TestReceiver::start().await;
    let deep = format!("{}1{}", "[".repeat(500_000), "]".repeat(500_000));
    let huge = format!("1{}", "0".repeat(140_000));
    for (id, odd, fits) in [
        ("nul", r#""inputs":{"prompt":"\u0000"}"#.to_owned(), false),
        ("surrogate", r#""inputs":{"prompt":"\ud83d"}"#.to_owned(), false),
        ("key", r#""inputs":{"\udc00":1}"#.to_owned(), false),
        ("exponent", r#""inputs":1e400"#.to_owned(), false),
        ("tiny", r#""inputs":1e-20000"#.to_owned(), false),
        ("huge", format!(r#""inputs":{huge}"#), false),
        ("deep", format!(r#""inputs":{deep}"#), false),
        ("twice", r#""inputs":{"a":1,"a":2}"#.to_owned(), true),
    ] {
        let body = format!(
            r#"{{"execution_id":"{id}","workflow_id":"w","status":"failed","error_cause":"why","output":[1],{odd}}}"#
        );
        receiver.accept(&body).await;
        receiver.accept(&body).await;
        let row = receiver
            .row(&format!(
                "SELECT status, error_cause, deliveries, payload IS NOT NULL AS fits, convert_from(payload_bytes, 'UTF8') AS bytes
                 FROM executions WHERE execution_id = '{id}'"
            ))
            .await;
        assert_eq!(row["bytes"].as_str(), Some(&*body), "{id}");
        let rest = (&row["status"], &row["error_cause"], &row["deliveries"], &row["fits"]);
        assert_eq!(rest, (&json!("failed"), &json!("why"), &json!(2), &json!(fits)), "{id}");
    }
    // An output that jsonb can hold is in its column even if the rest of the body is not.
    let row = receiver.row("SELECT output FROM executions WHERE execution_id = 'nul'").await;
    assert_eq!(row["output"], json!([1]));
    assert!(receiver.rows("SELECT * FROM quarantine").await.is_empty());
    assert!(conflicts(&receiver).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_its_column_cannot_hold_leaves_only_that_column_null() {
    let receiver = TestReceiver::start().await;
    for (id, odd) in [
        ("output", r#""inputs":"\u0000","output":1e-20000"#),
        ("cost", r#""inputs":"\u0000","total_cost":1e-20000"#),
        ("both", r#""output":1e-20000,"total_cost":1e-20000"#),
        ("late", r#""started_at":"9999-12-31T23:59:59-01:00""#),
        ("early", r#""started_at":"0000-01-01T00:00:00+01:00""#),
        ("leap", r#""started_at":"2016-12-31T23:59:60Z","completed_at":"2016-12-31t23:59:59.9999999999z""#),
    ] {
        receiver
            .accept(format!(r#"{{"execution_id":"{id}","workflow_id":"w","status":"failed",{odd}}}"#))
            .await;
    }
    let rows = receiver.rows("SELECT execution_id FROM executions WHERE status = 'failed'").await;
    assert_eq!(rows.len(), 6, "{rows:?}");
    assert!(receiver.rows("SELECT * FROM quarantine").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_of_outputs_that_jsonb_cannot_hold_is_found() {
    let receiver = TestReceiver::start().await;
    for output in [r"\u0000a", r"\u0000a", r"\u0000b"] {
        receiver
            .accept(format!(
                r#"{{"execution_id":"e","workflow_id":"w","status":"completed","output":"{output}"}}"#
            ))
            .await;
    }
    assert_eq!(status(&receiver).await, json!({ "status": "completed", "deliveries": 3 }));
    assert_eq!(conflicts(&receiver).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_times_of_receipt_are_recorded() {
    let receiver = TestReceiver::start().await;
    let before = time::OffsetDateTime::now_utc();
    receiver.accept(execution("e", "completed")).await;
    receiver.wait_until_recorded().await;
    let between = time::OffsetDateTime::now_utc();
    receiver.accept(execution("e", "completed")).await;
    let row = receiver
        .row(&format!(
            "SELECT first_received_at BETWEEN '{before}' AND '{between}' AS first,
                    last_received_at BETWEEN '{between}' AND clock_timestamp() AS last FROM executions"
        ))
        .await;
    assert_eq!(row, json!({ "first": true, "last": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_integer_is_the_same_identifier_as_the_string_with_its_digits() {
    let receiver = TestReceiver::start().await;
    for id in ["12345", "\"12345\"", "12345"] {
        let body =
            format!(r#"{{"execution_id":{id},"workflow_id":{id},"bulk_id":{id},"status":"completed"}}"#);
        receiver.accept(body).await;
        receiver.wait_until_recorded().await;
    }
    let rows = receiver
        .rows("SELECT execution_id, workflow_id, bulk_id, deliveries, conflicts FROM executions")
        .await;
    let row = json!({ "execution_id": "12345", "workflow_id": "12345", "bulk_id": "12345", "deliveries": 3, "conflicts": null });
    assert_eq!(rows, [row]);
    assert_eq!(get_json(&receiver, "/api/v1/executions/12345").await["payload"]["execution_id"], 12345);
}
