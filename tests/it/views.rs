//! The operators' views: their rows, their robustness, and their use of indexes.

use serde_json::{Value, json};

use crate::support::fixtures::{A_MONTH, STOPPED_CLOCK, cookbook_queries, example, execution, with};
use crate::support::postgres::scans;
use crate::support::receiver::TestReceiver;
use crate::support::rollups::recount_rollups;

#[tokio::test(flavor = "multi_thread")]
async fn failures_name_their_cause_and_the_steps_that_failed() {
    let receiver = TestReceiver::start().await;
    receiver.accept(example("failed.json")).await;
    let steps = json!({
        "draw": { "step_id": "draw", "status": "completed" },
        "b": { "step_id": "upscale", "status": "failed", "error_cause": "too large" },
        "a": { "status": "failed" }
    });
    receiver.accept(with(execution("e", "failed"), json!({ "bulk_id": "b", "step_outputs": steps }))).await;
    receiver.accept(execution("done", "completed")).await;
    let failures = receiver
        .rows("SELECT workflow_id, bulk_id, error, error_cause, failed_steps FROM failures ORDER BY first_received_at")
        .await;
    assert_eq!(
        failures,
        [
            json!({
                "workflow_id": "50741f40-8621-4d46-8a91-dff4d873be98", "bulk_id": null,
                "error": "ExecutionFailed", "failed_steps": null,
                "error_cause": "Step 'generate_image' failed: Model timeout after 30s"
            }),
            json!({
                "workflow_id": "w", "bulk_id": "b", "error": null, "error_cause": null,
                "failed_steps": ["a", "upscale"]
            })
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_is_found_whatever_the_status_of_its_execution_is() {
    let receiver = TestReceiver::start().await;
    receiver.accept(example("full-execution.json")).await;
    let steps =
        json!({ "a": { "status": "failed", "error_cause": { "code": 7 } }, "b": { "status": "skipped" } });
    receiver.accept(with(execution("e", "failed"), json!({ "step_outputs": steps }))).await;
    let failed = receiver
        .rows(
            "SELECT execution_status, step_id, error, error_cause, completed_at FROM failed_steps
             ORDER BY first_received_at",
        )
        .await;
    assert_eq!(
        failed,
        [
            json!({
                "execution_status": "completed", "step_id": "step2", "error": "ExecutionFailed",
                "error_cause": "Model timeout after 30s", "completed_at": "2025-12-04T11:50:53Z"
            }),
            json!({
                "execution_status": "failed", "step_id": "a", "error": null, "error_cause": "{\"code\": 7}",
                "completed_at": null
            })
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn step_failed_belongs_to_the_recorded_result() {
    let receiver = TestReceiver::start().await;
    let steps = |status| json!({ "step_outputs": { "a": { "status": status } } });
    for (id, bodies, failed) in [
        ("ended well", [("running", "failed"), ("completed", "completed")], false),
        ("ended badly", [("running", "completed"), ("completed", "failed")], true),
        ("contradicted", [("completed", "completed"), ("failed", "failed")], false),
    ] {
        for (status, step) in bodies {
            receiver.accept(with(execution(id, status), steps(step))).await;
            receiver.wait_until_recorded().await;
        }
        let recorded = format!("SELECT step_failed FROM executions WHERE execution_id = '{id}'");
        assert_eq!(receiver.row(&recorded).await["step_failed"], failed, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_progress_knows_whether_a_bulk_is_complete() {
    let receiver = TestReceiver::start().await;
    for (id, status) in [("1", "completed"), ("2", "failed"), ("3", "cancelled"), ("4", "running")] {
        receiver.accept(with(execution(id, status), json!({ "bulk_id": "b" }))).await;
    }
    receiver.wait_until_recorded().await;
    for (expected, complete) in [("NULL", Value::Null), ("4", json!(false)), ("3", json!(true))] {
        let say = format!("UPDATE bulks SET expected = {expected}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(say)).execute(&mut receiver.connection().await).await.unwrap();
        let progress = receiver
            .row(
                "SELECT complete, received, completed, failed, cancelled, other,
                        seconds_since_last BETWEEN 0 AND 600 AS just_now
                 FROM bulk_progress WHERE bulk_id = 'b'",
            )
            .await;
        let counts = json!({
            "complete": complete, "received": 4, "completed": 1, "failed": 1, "cancelled": 1, "other": 1,
            "just_now": true
        });
        assert_eq!(progress, counts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_executions_and_slow_executions_are_sorted() {
    let receiver = TestReceiver::start().await;
    for (id, started_at, completed_at) in [
        ("half a second", json!("2026-03-02T09:00:00Z"), json!("2026-03-02T09:00:00.5Z")),
        ("a day", json!("2026-03-01T09:00:00Z"), json!("2026-03-02T09:00:00Z")),
        ("backwards", json!("2026-03-02T09:00:01Z"), json!("2026-03-02T09:00:00Z")),
        ("no start", json!(null), json!("2026-03-02T09:00:00Z")),
    ] {
        let times = json!({ "started_at": started_at, "completed_at": completed_at });
        receiver.accept(with(execution(id, "completed"), times)).await;
    }
    assert_eq!(
        receiver.rows("SELECT execution_id, duration_seconds FROM latest_executions LIMIT 3").await,
        [
            json!({ "execution_id": "no start", "duration_seconds": null }),
            json!({ "execution_id": "backwards", "duration_seconds": null }),
            json!({ "execution_id": "a day", "duration_seconds": 86_400 })
        ]
    );
    assert_eq!(
        receiver.rows("SELECT execution_id, duration_seconds FROM slow_executions").await,
        [
            json!({ "execution_id": "a day", "duration_seconds": 86_400 }),
            json!({ "execution_id": "half a second", "duration_seconds": 0.5 })
        ]
    );
}

/// Executions of two workflows, before and after the end of an hour, and a day later.
async fn around_an_hour() -> TestReceiver {
    let receiver = TestReceiver::start().await;
    let body = |id, status, fields| with(execution(id, status), fields);
    for body in [
        body("1", "completed", json!({ "total_cost": 0.1 })),
        body("2", "failed", json!({ "total_cost": 0.2, "error_cause": "late" })),
        body("3", "failed", json!({ "error_cause": "late" })),
        body("4", "cancelled", json!({ "workflow_id": "v", "total_cost": 1 })),
        body("5", "running", json!({ "workflow_id": "v" })),
        body("6", "failed", json!({ "total_cost": 2 })),
    ] {
        receiver.accept(body).await;
    }
    receiver.wait_until_recorded().await;
    let times = "UPDATE executions SET (first_received_at, last_received_at) = (at, at) FROM (VALUES
        ('1', timestamptz '2026-03-01 22:59:59.999999Z'), ('2', '2026-03-01 23:00Z'), ('3', '2026-03-01 23:59Z'),
        ('4', '2026-03-01 23:00Z'), ('5', '2026-03-01 23:00Z'), ('6', '2026-03-02 23:00Z')
    ) AS t (id, at) WHERE execution_id = id";
    sqlx::raw_sql(times).execute(&mut receiver.connection().await).await.unwrap();
    recount_rollups(&receiver).await;
    receiver
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_counted_by_hour_workflow_and_cause() {
    let receiver = around_an_hour().await;
    let rates = "SELECT to_char(hour AT TIME ZONE 'UTC', 'DD HH24:MI') AS hour, workflow_id, executions, completed,
                        failed, cancelled, other, failure_rate FROM failure_rates ORDER BY failure_rates.hour, workflow_id";
    let rate = |hour, workflow, counts: [i32; 5], rate| {
        json!({
            "hour": hour, "workflow_id": workflow, "executions": counts[0], "completed": counts[1],
            "failed": counts[2], "cancelled": counts[3], "other": counts[4], "failure_rate": rate
        })
    };
    assert_eq!(
        receiver.rows(rates).await,
        [
            rate("01 22:00", "w", [1, 1, 0, 0, 0], 0.0),
            rate("01 23:00", "v", [2, 0, 0, 1, 1], 0.0),
            rate("01 23:00", "w", [2, 0, 2, 0, 0], 1.0),
            rate("02 23:00", "w", [1, 0, 1, 0, 0], 1.0)
        ]
    );
    let causes =
        "SELECT to_char(hour AT TIME ZONE 'UTC', 'DD HH24:MI') AS hour, workflow_id, error_cause, failed
                  FROM failure_causes ORDER BY failure_causes.hour";
    assert_eq!(
        receiver.rows(causes).await,
        [
            json!({ "hour": "01 23:00", "workflow_id": "w", "error_cause": "late", "failed": 2 }),
            json!({ "hour": "02 23:00", "workflow_id": "w", "error_cause": null, "failed": 1 })
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn costs_are_summed_by_day_and_workflow() {
    let receiver = around_an_hour().await;
    let cost = |day, workflow, counts: [i32; 2], total, average| {
        json!({
            "day": day, "workflow_id": workflow, "executions": counts[0], "executions_with_cost": counts[1],
            "total_cost": total, "average_cost": average
        })
    };
    assert_eq!(
        receiver.rows("SELECT * FROM costs ORDER BY day, workflow_id").await,
        [
            cost("2026-03-01", "v", [2, 1], json!(1), json!(1)),
            cost("2026-03-01", "w", [3, 2], json!(0.3), json!(0.15)),
            cost("2026-03-02", "w", [1, 1], json!(2), json!(2))
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_name_the_different_fields() {
    let receiver = TestReceiver::start().await;
    let first = with(execution("e", "completed"), json!({ "output": ["a"], "bulk_id": "b" }));
    receiver.accept(&first).await;
    receiver.accept(with(first.clone(), json!({ "output": ["b"] }))).await;
    let other =
        json!({ "status": "failed", "output": null, "error": "E", "error_cause": "why", "bulk_id": null });
    receiver.accept(with(first, with(other, json!({ "workflow_id": "v" })))).await;
    let conflicts = receiver
        .rows(
            "SELECT differs_in, recorded_status, delivered_status, recorded_output, delivered_output,
                    delivered_error_cause, recorded_authenticated_by AS recorded_by,
                    delivered_authenticated_by AS delivered_by FROM conflicts ORDER BY conflict_id",
        )
        .await;
    assert_eq!(
        conflicts,
        [
            json!({
                "differs_in": ["output"], "recorded_status": "completed", "delivered_status": "completed",
                "recorded_output": ["a"], "delivered_output": ["b"], "delivered_error_cause": null,
                "recorded_by": "none", "delivered_by": "none"
            }),
            json!({
                "differs_in": ["workflow_id", "bulk_id", "status", "output", "error", "error_cause"],
                "recorded_status": "completed", "delivered_status": "failed",
                "recorded_output": ["a"], "delivered_output": null, "delivered_error_cause": "why",
                "recorded_by": "none", "delivered_by": "none"
            })
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantined_shows_the_body_as_text() {
    let receiver = TestReceiver::start().await;
    assert_eq!(receiver.post(r#"{"execution_id":"é"}"#).await.status(), 422);
    assert_eq!(
        receiver.row("SELECT reason, body_text, body_bytes, authenticated_by, acknowledged, deliveries FROM quarantined").await,
        json!({
            "reason": "`workflow_id` is missing or null", "body_text": "{\"execution_id\":\"é\"}",
            "body_bytes": 21, "authenticated_by": "none", "acknowledged": false, "deliveries": 1
        })
    );
}

/// Executions with undocumented values.
fn odd_bodies() -> Vec<String> {
    let mut odd: Vec<String> = [
        r#""step_outputs":[{"status":"failed"}]"#,
        r#""step_outputs":"failed""#,
        r#""step_outputs":null"#,
        r#""step_outputs":{"a":null,"b":1,"c":"failed","d":["failed"],"e":{"status":{"failed":true}}}"#,
        r#""step_outputs":{"a":{"status":"failed","step_id":{"x":1},"error":[],"error_cause":5,"started_at":"soon"}}"#,
        r#""step_outputs":{"a":{"status":["failed"]}}"#,
        r#""step_outputs":{"a":{"status":"failed"}},"inputs":"\u0000""#,
        r#""started_at":"9999-12-31T23:59:59Z","completed_at":"0000-01-01T00:00:00Z""#,
        r#""started_at":"0000-01-01T00:00:00Z","completed_at":"9999-12-31T23:59:59Z""#,
        r#""total_cost":9e131071"#,
        r#""total_cost":-9e131071"#,
        r#""total_cost":1e-16383"#,
        r#""output":[[[[]]],{},null]"#,
        r#""output":{"":"","\ufffe":[null]}"#,
        r#""output":"://""#,
        r#""output":1e-20000"#,
    ]
    .iter()
    .map(|field| (*field).to_owned())
    .collect();
    odd.push(format!(r#""output":[{}1]"#, "1,".repeat(200_000)));
    odd.push(format!(r#""output":"https://{}""#, "x".repeat(1_000_000)));
    odd.push(format!(r#""step_outputs":{}{{"status":"failed"}}{}"#, r#"{"a":"#.repeat(500), "}".repeat(500)));
    let body = |(n, field)| {
        // Twice each, so that the aggregates contain them, too.
        let (n, status) = (n / 2, if n % 2 == 0 { "failed" } else { "completed" });
        format!(
            r#"{{"execution_id":"{n}-{status}","workflow_id":"w","bulk_id":"b","status":"{status}",{field}}}"#
        )
    };
    odd.iter().flat_map(|field| [field, field]).enumerate().map(body).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_view_fails_for_undocumented_values() {
    let receiver = TestReceiver::start().await;
    let bodies = odd_bodies();
    receiver
        .accept(
            r#"{"exec_id":"p","status":"failed","error":{"error_code":[1]},"metrics":{"cost":1e308,"predict_time":1e308}}"#,
        )
        .await;
    for body in &bodies {
        receiver.accept(body).await;
        receiver.accept(body.replacen("\"bulk_id\"", "\"error_cause\":\"other\",\"bulk_id\"", 1)).await;
    }
    receiver.wait_until_recorded().await;
    let odd =
        "INSERT INTO quarantine (reason, body, body_sha256, deliveries, first_received_at, last_received_at)
            SELECT 'odd', body, sha256(body), 1, now(), now()
            FROM (VALUES ('\\xff'::bytea), ('\\x00'), (''), ('\\xeda080'), ('{}')) AS b (body);
        INSERT INTO bulks (bulk_id, expected) VALUES ('announced', 1);
        INSERT INTO bulks (bulk_id, first_received_at, last_received_at)
            VALUES ('tomorrow', now() + interval '1 day', now() + interval '1 day');
        INSERT INTO execution_conflicts (execution_id, workflow_id, status, payload, body_sha256, deliveries,
                first_received_at, last_received_at)
            VALUES ('not recorded any more', 'w', 'failed', 'null', '', 1, now(), now());
        INSERT INTO expected_executions (execution_id, due_at) VALUES ('overdue', now() - interval '1 hour');
        INSERT INTO unverified_deliveries (execution_id, status, body, received_at) VALUES ('u', '', '\\xff', now())";
    sqlx::raw_sql(odd).execute(&mut receiver.connection().await).await.unwrap();
    let views = receiver.rows("SELECT viewname FROM pg_views WHERE schemaname = 'public'").await;
    assert_eq!(views.len(), 17);
    for view in views {
        let view = view["viewname"].as_str().unwrap();
        let rows = receiver.row(&format!("SELECT count(v::text) AS rows FROM {view} AS v")).await;
        assert!(rows["rows"].as_i64() > Some(0), "{view} has no rows");
    }
    let differ = "SELECT count(*) FROM (SELECT * FROM latest_executions EXCEPT SELECT * FROM latest_of_workflow('w')) AS d";
    assert_eq!(receiver.row(differ).await["count"], 0, "the function returns the rows of the view");
    // All bodies were recorded.
    let kept = receiver.row("SELECT count(*), count(DISTINCT status) AS statuses FROM executions").await;
    assert_eq!(kept, json!({ "count": bodies.len(), "statuses": 2 }));
    let text = "SELECT count(*), count(body_text) AS texts FROM quarantined";
    assert_eq!(receiver.row(text).await, json!({ "count": 5, "texts": 2 }));
    let bulk = "SELECT complete, seconds_since_last FROM bulk_progress WHERE bulk_id = ";
    let announced = receiver.row(&format!("{bulk} 'announced'")).await;
    assert_eq!(announced, json!({ "complete": false, "seconds_since_last": null }));
    let tomorrow = receiver.row(&format!("{bulk} 'tomorrow'")).await;
    assert_eq!(tomorrow, json!({ "complete": null, "seconds_since_last": 0 }));
    let failed = "SELECT count(*) FROM failed_steps WHERE execution_status = 'completed'";
    assert_eq!(receiver.row(failed).await["count"], 2, "a failed step in an object, and one in an array");
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_queries_use_an_index() {
    let receiver = TestReceiver::start().await;
    let mut connection = receiver.connection().await;
    for setup in [A_MONTH, STOPPED_CLOCK] {
        sqlx::raw_sql(setup).execute(&mut connection).await.unwrap();
    }
    let expected = "INSERT INTO expected_executions (execution_id, bulk_id, position, settled, due_at)
        SELECT 'e' || n, 'b' || n / 30, n % 30 + 1, n % 99 <> 0, now() FROM generate_series(1, 20000) AS n;
        INSERT INTO unverified_deliveries (execution_id, status, body, received_at)
        SELECT 'e' || n, 'completed', n::text::bytea, now() FROM generate_series(1, 5000) AS n;
        ANALYZE expected_executions, unverified_deliveries";
    sqlx::raw_sql(expected).execute(&mut connection).await.unwrap();
    for query in cookbook_queries() {
        let scans = scans(&mut connection, &query).await;
        let whole = scans.iter().any(|scan| scan.starts_with("Seq Scan"));
        assert!(!whole, "{query}\n{scans:#?}");
        let indexed = scans.iter().any(|scan| scan.contains(" by ")) || query.starts_with("INSERT");
        assert!(indexed, "{query}\n{scans:#?}");
    }
    let whole = scans(&mut connection, "SELECT * FROM executions").await;
    assert_eq!(whole, ["Seq Scan on executions"], "a sequential scan is recognised");
    let failed =
        scans(&mut connection, "SELECT * FROM failed_steps ORDER BY first_received_at LIMIT 5").await;
    assert_eq!(failed, ["Index Scan on executions by executions_with_failure"]);
    for (query, index) in [
        (
            "failed_steps WHERE execution_status = 'completed' ORDER BY first_received_at DESC",
            "executions_with_failed_step_only",
        ),
        ("slow_executions WHERE hour = '2026-03-02 09:00Z'", "executions_slow"),
        // Not by executions_first_received_at: the workflow may not have run for months.
        ("latest_of_workflow('w1')", "executions_workflow_id"),
    ] {
        let found = scans(&mut connection, &format!("SELECT * FROM {query} LIMIT 5")).await;
        assert_eq!(found, [format!("Index Scan on executions by {index}")], "{query}");
    }
}
