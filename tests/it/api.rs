//! The read API: lists, details, failures, statistics.

use serde_json::{Value, json};

use crate::support::fixtures::{execution, sample_receiver, with};
use crate::support::http::{get_json, item_fields};
use crate::support::receiver::TestReceiver;
use crate::support::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn executions_are_listed_newest_first_by_each_filter_and_all_together() {
    let receiver = sample_receiver().await;
    let bulk = "bulk=b%2F1+%C3%A9";
    for (query, ids) in [
        ("", vec!["running", "cancelled", "step", "failed", "plain"]),
        ("?status=completed", vec!["step", "plain"]),
        ("?status=failed", vec!["failed"]),
        ("?status=cancelled", vec!["cancelled"]),
        ("?status=running", vec!["running"]),
        ("?workflow=v", vec!["failed"]),
        ("?workflow=w&status=completed", vec!["step", "plain"]),
        ("?workflow=w&status=failed", vec![]),
        ("?workflow=w&status=cancelled", vec!["cancelled"]),
        (&format!("?{bulk}"), vec!["step", "failed"]),
        (&format!("?{bulk}&status=failed&workflow=v&cause=timeout"), vec!["failed"]),
        (&format!("?{bulk}&status=failed&workflow=w"), vec![]),
        ("?cause=model%20timeout", vec!["failed"]),
        ("?cause=TIMEOUT&workflow=v", vec!["failed"]),
        ("?cause=30_", vec![]),
        ("?cause=timeout&status=completed", vec![]),
        ("?from=2000-01-01T00:00:00Z&to=9999-12-31T23:59:59.999Z&limit=2", vec!["running", "cancelled"]),
        ("?to=2000-01-01T00:00:00%2B01:00", vec![]),
        ("?from=9999-01-01T00:00:00Z", vec![]),
        ("?from=yesterday&status=failed", vec!["failed"]),
        ("?from=1h&to=0s&status=failed", vec!["failed"]),
        ("?to=yesterday", vec![]),
        ("?to=1h", vec![]),
    ] {
        let page = get_json(&receiver, &format!("/api/v1/executions{query}")).await;
        assert_eq!(item_fields(&page, "execution_id"), ids, "{query}");
        assert_eq!(page["next"].is_null(), !query.contains("limit"), "{query}");
    }
    let page = get_json(&receiver, "/api/v1/executions?status=failed").await;
    let failed = &page["items"][0];
    let times = json!({ "first_received_at": failed["first_received_at"], "last_received_at": failed["last_received_at"] });
    assert_eq!(
        *failed,
        with(
            json!({
                "execution_id": "failed", "workflow_id": "v", "bulk_id": "b/1 é", "status": "failed",
                "error": "ExecutionFailed", "error_cause": "Model Timeout after 30s",
                "failure_class": "execution_timeout", "step_failed": false,
                "total_cost": null, "duration_seconds": null, "started_at": null, "completed_at": null,
                "authenticated_by": "none", "fetched_from": null, "deliveries": 1, "redeliveries": 0, "reference": null
            }),
            times
        )
    );
    // A period includes `from` and excludes `to`.
    let (first, last) = (&failed["first_received_at"], failed["last_received_at"].as_str().unwrap());
    let from = get_json(&receiver, &format!("/api/v1/executions?workflow=v&from={last}")).await;
    assert_eq!(item_fields(&from, "first_received_at"), [first]);
    let to = get_json(&receiver, &format!("/api/v1/executions?workflow=v&to={last}")).await;
    assert_eq!(to, json!({ "items": [], "next": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_has_its_steps_results_conflicts_and_payload() {
    let receiver = sample_receiver().await;
    let detail = get_json(&receiver, "/api/v1/executions/step").await;
    assert_eq!(detail["duration_seconds"], 7.5);
    assert_eq!(detail["step_failed"], true);
    let step = |key, id, status, cause: Value| {
        let class = if cause.is_null() { Value::Null } else { json!("invalid_user_input") };
        json!({ "key": key, "step_id": id, "status": status, "error": null, "error_cause": cause,
                "failure_class": class, "model": null, "model_version": null, "duration_seconds": null,
                "cost": null, "is_fallback": false, "first_error": null, "selected": null,
                "started_at": null, "completed_at": null })
    };
    let steps =
        json!([step("draw", "d", "failed", json!("too large")), step("x", "x", "completed", json!(null))]);
    assert_eq!(detail["steps"], steps);
    assert_eq!(item_fields(&detail["results"], "path"), ["output.video"]);
    assert_eq!(item_fields(&detail["results"], "kind"), ["video"]);
    assert_eq!(detail["payload"]["step_outputs"]["draw"]["status"], "failed");
    assert_eq!((&detail["payload_text"], &detail["conflicts"]), (&json!(null), &json!(0)));

    let plain = get_json(&receiver, "/api/v1/executions/plain").await;
    assert_eq!(
        (&plain["conflicts"], &plain["total_cost"], &plain["deliveries"]),
        (&json!(1), &json!(0.25), &json!(2))
    );
    let text = receiver.get("/api/v1/executions/plain").await.text().await.unwrap();
    assert!(text.contains(r#""total_cost":0.25,"#), "the number as PostgreSQL stores it: {text}");

    let odd = r#"{"execution_id":"o/d?d","workflow_id":"w","status":"failed","error_cause":"CAUSE","inputs":"\u0000"}"#;
    let odd = odd.replace("CAUSE", &"é".repeat(1_500));
    receiver.accept(&odd).await;
    receiver.wait_until_recorded().await;
    let detail = get_json(&receiver, "/api/v1/executions/o%2Fd%3Fd").await;
    assert_eq!((&detail["payload"], &detail["payload_text"]), (&json!(null), &json!(odd)));
    assert_eq!(detail["error_cause"].as_str().unwrap().chars().count(), 1_500);
    let page = get_json(&receiver, "/api/v1/executions?limit=1").await;
    assert_eq!(
        page["items"][0]["error_cause"].as_str().unwrap().chars().count(),
        1_000,
        "lists contain an excerpt"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_has_its_progress_executions_and_results() {
    let receiver = sample_receiver().await;
    let bulk = get_json(&receiver, "/api/v1/bulks/b%2F1%20%C3%A9").await;
    assert_eq!(item_fields(&bulk["executions"], "execution_id"), ["step", "failed"]);
    assert_eq!(item_fields(&bulk["results"], "url"), ["https://example.com/v.mp4"]);
    assert_eq!((&bulk["received"], &bulk["failed"], &bulk["complete"]), (&json!(2), &json!(1), &json!(null)));
    let expect = "INSERT INTO bulks (bulk_id, expected) VALUES ('announced', 4)";
    sqlx::raw_sql(expect).execute(&mut receiver.connection().await).await.unwrap();
    let announced = get_json(&receiver, "/api/v1/bulks/announced").await;
    assert_eq!((&announced["complete"], &announced["first_received_at"]), (&json!(false), &json!(null)));
    let page = get_json(&receiver, "/api/v1/bulks").await;
    assert_eq!(item_fields(&page, "bulk_id"), ["b/1 é"], "a bulk without executions is not listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_grouped_by_cause_or_step_most_frequent_first() {
    let receiver = sample_receiver().await;
    for n in 0..3 {
        let failed =
            json!({ "error_cause": "late", "step_outputs": { "a": { "status": "failed", "error": "E" } } });
        receiver.accept(with(execution(&format!("late {n}"), "failed"), failed)).await;
        receiver.wait_until_recorded().await;
    }
    let by_cause = get_json(&receiver, "/api/v1/failures").await;
    let groups = |page: &Value| -> Vec<Value> {
        let group = |g: &Value| {
            json!([
                g["workflow_id"],
                g["step_id"],
                g["error"],
                g["error_cause"],
                g["failed"],
                g["latest_execution_id"]
            ])
        };
        page["groups"].as_array().unwrap().iter().map(group).collect()
    };
    let late = json!(["w", null, null, "late", 3, "late 2"]);
    let timeout = json!(["v", null, "ExecutionFailed", "Model Timeout after 30s", 1, "failed"]);
    assert_eq!(groups(&by_cause), [late.clone(), timeout.clone()]);
    assert_eq!((&by_cause["failed"], &by_cause["partial"]), (&json!(4), &json!(false)));
    let by_step = get_json(&receiver, "/api/v1/failures?by=step").await;
    let (a, d) = (json!(["w", "a", "E", null, 3, "late 2"]), json!(["w", "d", null, "too large", 1, "step"]));
    assert_eq!(groups(&by_step), [a.clone(), d]);
    let timeout = [timeout];
    assert_eq!(groups(&get_json(&receiver, "/api/v1/failures?workflow=v&limit=1").await), timeout);
    assert_eq!(groups(&get_json(&receiver, "/api/v1/failures?bulk=b%2F1%20%C3%A9").await), timeout);
    let first = get_json(&receiver, "/api/v1/failures?limit=1").await;
    assert_eq!((groups(&first), &first["failed"]), (vec![late], &json!(4)), "all are counted");
    let none = get_json(&receiver, "/api/v1/failures?by=step&workflow=none").await;
    assert_eq!(none, json!({ "groups": [], "failed": 0, "partial": false, "since": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_quarantine_entries_have_lists_and_details() {
    let receiver = sample_receiver().await;
    let page = get_json(&receiver, "/api/v1/conflicts").await;
    assert_eq!(item_fields(&page, "differs_in"), [&json!(["status", "output", "error_cause"])]);
    assert_eq!(page, get_json(&receiver, "/api/v1/conflicts?execution=plain").await);
    assert_eq!(
        item_fields(&get_json(&receiver, "/api/v1/conflicts?execution=step").await, "execution_id"),
        [""; 0]
    );
    let id = &page["items"][0]["conflict_id"];
    let conflict = get_json(&receiver, &format!("/api/v1/conflicts/{id}")).await;
    assert_eq!(conflict["recorded_output"], json!(["https://example.com/a.png", "b"]));
    assert_eq!(
        (&conflict["delivered_output"], &conflict["delivered_error_cause"]),
        (&json!(null), &json!("it changed"))
    );
    assert_eq!(conflict["payload"]["status"], "failed");

    let page = get_json(&receiver, "/api/v1/quarantine").await;
    assert_eq!(item_fields(&page, "reason"), ["`workflow_id` is missing or null"]);
    assert_eq!(item_fields(&page, "body_bytes"), [34]);
    let id = &page["items"][0]["quarantine_id"];
    let detail = get_json(&receiver, &format!("/api/v1/quarantine/{id}")).await;
    assert_eq!(detail["body_text"], r#"{"execution_id":"odd","note":"é"}"#);
    let binary = "UPDATE quarantine SET body = '\\xff'";
    sqlx::raw_sql(binary).execute(&mut receiver.connection().await).await.unwrap();
    assert_eq!(get_json(&receiver, &format!("/api/v1/quarantine/{id}")).await["body_text"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_has_a_point_per_hour_or_day_and_the_health_of_the_receiver() {
    let receiver = sample_receiver().await;
    until(async || receiver.ready().await.1["spooled"] == 0).await;
    let overview = get_json(&receiver, "/api/v1/overview").await;
    let counts = json!({ "executions": 5, "completed": 2, "failed": 1, "cancelled": 1, "other": 1, "failure_rate": 0.2 });
    assert_eq!(overview["total"], counts);
    assert_eq!(overview["receiver"], json!({ "status": "ok", "problems": [], "spooled": 0 }));
    let series = overview["series"].as_array().unwrap();
    assert!((24..=25).contains(&series.len()));
    assert_eq!(series[0]["failure_rate"], Value::Null);
    assert_eq!(get_json(&receiver, "/api/v1/overview?by=day").await["total"], counts);
    assert_eq!(get_json(&receiver, "/api/v1/overview?workflow=v").await["total"]["failed"], 1);

    for (query, from, points) in [
        ("from=2020-01-01T00:00:00Z&to=2026-03-02T00:00:00Z", "2026-01-30T00:00:00Z", 744),
        ("by=day&from=2020-01-01T00:00:00Z&to=2026-03-02T00:00:00Z", "2025-03-01T00:00:00Z", 366),
        ("from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", 0),
        ("to=0000-01-01T00:00:00Z", "1970-01-01T00:00:00Z", 0),
    ] {
        let overview = get_json(&receiver, &format!("/api/v1/overview?{query}")).await;
        let found = (&overview["from"], overview["series"].as_array().unwrap().len());
        assert_eq!(found, (&json!(from), points), "{query}");
    }

    let hours = "TRUNCATE workflow_hours; INSERT INTO workflow_hours VALUES
        ('2026-03-01 22:00Z', 'w', 1, 1, 0, 0, 0), ('2026-03-01 23:00Z', 'w', 3, 1, 2, 0, 0), ('2026-03-01 23:00Z', 'v', 1, 0, 0, 1, 0),
        ('2026-03-03 00:00Z', 'w', 7, 7, 0, 0, 0)";
    sqlx::raw_sql(hours).execute(&mut receiver.connection().await).await.unwrap();
    for (query, expected) in [
        (
            "from=2026-03-01T22:30:00Z&to=2026-03-02T01:00:00Z",
            json!([["2026-03-01T22:00:00Z", 1], ["2026-03-01T23:00:00Z", 4], ["2026-03-02T00:00:00Z", 0]]),
        ),
        (
            "by=day&from=2026-03-01T00:00:00Z&to=2026-03-03T00:00:00Z",
            json!([["2026-03-01T00:00:00Z", 5], ["2026-03-02T00:00:00Z", 0]]),
        ),
        (
            "by=day&from=2026-03-01T12:00:00%2B14:00&to=2026-03-01T22:00:00Z",
            json!([["2026-02-28T00:00:00Z", 0], ["2026-03-01T00:00:00Z", 5]]),
        ),
        (
            "from=2026-03-01T23:00:00Z&to=2026-03-01T23:00:00.000001Z&workflow=v",
            json!([["2026-03-01T23:00:00Z", 1]]),
        ),
    ] {
        let overview = get_json(&receiver, &format!("/api/v1/overview?{query}")).await;
        let points = overview["series"].as_array().unwrap().iter().map(|p| json!([p["at"], p["executions"]]));
        assert_eq!(Value::Array(points.collect()), expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workflows_have_counts_and_costs() {
    let receiver = sample_receiver().await;
    for (id, cost) in [("a", 1.5), ("b", 0.1)] {
        receiver
            .accept(with(execution(id, "completed"), json!({ "workflow_id": "v", "total_cost": cost })))
            .await;
    }
    receiver.wait_until_recorded().await;
    let page = get_json(&receiver, "/api/v1/workflows").await;
    let v = json!({
        "workflow_id": "v", "executions": 3, "completed": 2, "failed": 1, "cancelled": 0, "other": 0,
        "failure_rate": 1.0 / 3.0, "executions_with_cost": 2, "total_cost": 1.6, "average_cost": 0.8
    });
    assert_eq!(page["items"][0], v);
    assert_eq!(item_fields(&page, "workflow_id"), ["v", "w"]);
    assert_eq!(
        item_fields(&get_json(&receiver, "/api/v1/workflows?order=executions&days=1").await, "workflow_id"),
        ["w", "v"]
    );
    assert_eq!(
        item_fields(&get_json(&receiver, "/api/v1/workflows?order=failed&limit=1").await, "workflow_id"),
        ["v"]
    );
}

/// Failed executions without steps do not count against the scan limit.
#[tokio::test(flavor = "multi_thread")]
async fn failed_steps_are_found_after_many_failures_without_steps() {
    let receiver = TestReceiver::start().await;
    let step = json!({ "step_outputs": { "draw": { "status": "failed", "error_cause": "too large" } } });
    receiver.accept(with(execution("first", "failed"), step)).await;
    receiver.wait_until_recorded().await;
    let without = "INSERT INTO executions
            (execution_id, workflow_id, status, payload, deliveries, first_received_at, last_received_at)
        SELECT 'e' || n, 'w', 'failed', '{}', 1, now(), now() FROM generate_series(1, 1100) AS n";
    sqlx::raw_sql(without).execute(&mut receiver.connection().await).await.unwrap();
    let failures = get_json(&receiver, "/api/v1/failures?by=step").await;
    assert_eq!((&failures["failed"], &failures["partial"]), (&json!(1), &json!(false)));
    assert_eq!(failures["groups"][0]["error_cause"], "too large");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_status_is_accepted_while_nothing_is_recorded_or_too_much_to_scan() {
    let receiver = TestReceiver::start().await;
    let empty = json!({ "items": [], "next": null });
    assert_eq!(get_json(&receiver, "/api/v1/executions?status=faild").await, empty);
    receiver.accept(execution("e", "completed")).await;
    receiver.wait_until_recorded().await;
    assert_eq!(receiver.get("/api/v1/executions?status=faild").await.status(), 400);
    assert_eq!(receiver.get("/api/v1/export/executions?status=faild").await.status(), 400);
    for unused in ["failed", "cancelled", "running"] {
        assert_eq!(get_json(&receiver, &format!("/api/v1/executions?status={unused}")).await, empty);
    }
    receiver.accept(execution("f", "faild")).await;
    receiver.wait_until_recorded().await;
    let page = get_json(&receiver, "/api/v1/executions?status=faild").await;
    assert_eq!(item_fields(&page, "execution_id"), ["f"]);
    let cancelled = "INSERT INTO executions
            (execution_id, workflow_id, status, payload, deliveries, first_received_at, last_received_at)
        SELECT 'c' || n, 'w', 'cancelled', '{}', 1, now(), now() FROM generate_series(1, 10000) AS n";
    sqlx::raw_sql(cancelled).execute(&mut receiver.connection().await).await.unwrap();
    assert_eq!(receiver.get("/api/v1/executions?status=faild").await.status(), 200, "it is older");
}
