//! What operators read over HTTP: lists, their pages, one of each, numbers.

use std::collections::HashSet;

use reqwest::header::{AUTHORIZATION, HOST};
use serde_json::{Value, json};

use crate::harness::{TestReceiver, example, execution, no_database, until, with};

/// What is answered to a question that is right.
pub(crate) async fn asked(receiver: &TestReceiver, path: &str) -> Value {
    let answer = receiver.get(path).await;
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// The problem that is answered to one that is not.
async fn problem(receiver: &TestReceiver, path: &str) -> (u16, Value) {
    let answer = receiver.get(path).await;
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// One field of each item.
fn each<'p>(page: &'p Value, field: &str) -> Vec<&'p Value> {
    page["items"].as_array().unwrap().iter().map(|item| &item[field]).collect()
}

/// All pages of a list, `limit` items each at most; `between` is done after each.
async fn pages(receiver: &TestReceiver, path: &str, limit: usize, between: impl AsyncFn()) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let sign = if path.contains('?') { '&' } else { '?' };
        let page = asked(receiver, &format!("{path}{sign}limit={limit}{cursor}")).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        all.extend(items.iter().cloned());
        let Some(next) = page["next"].as_str() else { return all };
        cursor = format!("&cursor={next}");
        between().await;
    }
}

/// Executions of all kinds, a bulk, conflicts and quarantine.
pub(crate) async fn recorded() -> TestReceiver {
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
        receiver.recorded().await;
    }
    receiver.accept(with(execution("plain", "failed"), json!({ "error_cause": "it changed" }))).await;
    receiver.post(r#"{"execution_id":"odd","note":"é"}"#).await;
    receiver.recorded().await;
    receiver
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_are_listed_newest_first_by_each_filter_and_all_together() {
    let receiver = recorded().await;
    let bulk = "bulk=b%2F1+%C3%A9";
    for (query, ids) in [
        ("", vec!["running", "cancelled", "step", "failed", "plain"]),
        ("?status=completed", vec!["step", "plain"]),
        ("?status=failed", vec!["failed"]),
        ("?status=cancelled", vec!["cancelled"]),
        ("?status=running", vec!["running"]),
        ("?status=queued", vec![]),
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
    ] {
        let page = asked(&receiver, &format!("/api/v1/executions{query}")).await;
        assert_eq!(each(&page, "execution_id"), ids, "{query}");
        assert_eq!(page["next"].is_null(), !query.contains("limit"), "{query}");
    }
    let page = asked(&receiver, "/api/v1/executions?status=failed").await;
    let failed = &page["items"][0];
    let times = json!({ "first_received_at": failed["first_received_at"], "last_received_at": failed["last_received_at"] });
    assert_eq!(
        *failed,
        with(
            json!({
                "execution_id": "failed", "workflow_id": "v", "bulk_id": "b/1 é", "status": "failed",
                "error": "ExecutionFailed", "error_cause": "Model Timeout after 30s", "step_failed": false,
                "total_cost": null, "duration_seconds": null, "started_at": null, "completed_at": null,
                "authenticated_by": "none", "deliveries": 1
            }),
            times
        )
    );
    // A period holds its beginning and not its end.
    let (first, last) = (&failed["first_received_at"], failed["last_received_at"].as_str().unwrap());
    let from = asked(&receiver, &format!("/api/v1/executions?workflow=v&from={last}")).await;
    assert_eq!(each(&from, "first_received_at"), [first]);
    let to = asked(&receiver, &format!("/api/v1/executions?workflow=v&to={last}")).await;
    assert_eq!(to, json!({ "items": [], "next": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_all_that_was_there_once_whatever_comes_meanwhile() {
    let receiver = TestReceiver::start().await;
    let inserted = "
        INSERT INTO executions (execution_id, workflow_id, bulk_id, status, output, payload, deliveries,
            first_received_at, last_received_at)
        SELECT format('%s.%s', n % 7, n), 'w', 'b', CASE WHEN n % 2 = 0 THEN 'failed' ELSE 'completed' END,
            '[1, 2, 3]', '{}', 1, at, at
        FROM (SELECT n, timestamptz '2026-03-02' - n / 10 * interval '1 hour' AS at FROM generate_series(1, 60) AS n) AS n;
        INSERT INTO bulks (bulk_id, first_received_at)
        SELECT execution_id, first_received_at FROM executions;
        INSERT INTO execution_conflicts (execution_id, workflow_id, status, payload, body_sha256, deliveries,
            first_received_at, last_received_at)
        SELECT execution_id, 'w', 'failed', '{}', '', 1, first_received_at, last_received_at FROM executions;
        INSERT INTO quarantine (reason, body, body_sha256, deliveries, first_received_at, last_received_at)
        SELECT 'odd', '', execution_id::bytea, 1, first_received_at, last_received_at FROM executions";
    sqlx::raw_sql(inserted).execute(&mut receiver.connection().await).await.unwrap();
    let came = std::sync::atomic::AtomicUsize::new(0);
    let meanwhile = async || {
        let n = came.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        receiver
            .accept(with(execution(&format!("new {n}"), "failed"), json!({ "bulk_id": "b", "output": [n] })))
            .await;
        receiver
            .accept(with(
                execution(&format!("new {n}"), "completed"),
                json!({ "bulk_id": format!("new {n}") }),
            ))
            .await;
        receiver.post(json!({ "n": n }).to_string()).await;
        receiver.recorded().await;
    };
    for (path, key, count) in [
        ("/api/v1/executions", "execution_id", 60),
        ("/api/v1/executions?status=failed", "execution_id", 30),
        ("/api/v1/executions?workflow=w", "execution_id", 60),
        ("/api/v1/executions?bulk=b&status=completed", "execution_id", 30),
        ("/api/v1/results?bulk=b", "execution_id", 180),
        ("/api/v1/bulks", "bulk_id", 60),
        ("/api/v1/conflicts", "conflict_id", 60),
        ("/api/v1/quarantine", "quarantine_id", 60),
    ] {
        let until = "2026-03-02T00:00:01Z";
        for period in ["", &format!("to={until}")] {
            let sign = if path.contains('?') { '&' } else { '?' };
            let all = pages(&receiver, &format!("{path}{sign}{period}"), 7, meanwhile).await;
            let old: Vec<_> =
                all.iter().filter(|item| item["first_received_at"].as_str() < Some(until)).collect();
            let keys: HashSet<_> =
                old.iter().map(|item| format!("{} {}", item[key], item["position"])).collect();
            assert_eq!((old.len(), keys.len()), (count, count), "{path} {period}");
            let times: Vec<_> = all.iter().map(|item| item["first_received_at"].as_str().unwrap()).collect();
            assert!(times.is_sorted_by(|a, b| a >= b), "{path} {period}");
        }
    }
}

/// So many that no page may look at all of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_rare_is_found_behind_pages_that_are_short_or_empty() {
    let receiver = TestReceiver::start().await;
    let inserted = "
        INSERT INTO executions (execution_id, workflow_id, status, error_cause, output, payload, deliveries,
            first_received_at, last_received_at)
        SELECT 'e' || n, 'w', CASE WHEN n % 5000 = 0 THEN 'completed' ELSE 'failed' END,
            CASE WHEN n % 4000 = 1 THEN 'Rare' ELSE 'frequent' END, CASE WHEN n % 3000 = 2 THEN '7'::jsonb END, '{}', 1, at, at
        FROM (SELECT n, timestamptz '2026-03-02' - n * interval '1 second' AS at FROM generate_series(1, 16000) AS n) AS n;
        INSERT INTO bulks (bulk_id, expected, received, completed, first_received_at)
        SELECT execution_id, CASE status WHEN 'completed' THEN 1 END, 1, 1, first_received_at FROM executions";
    sqlx::raw_sql(inserted).execute(&mut receiver.connection().await).await.unwrap();
    for (path, count) in [
        ("/api/v1/executions?workflow=w&status=completed", 3),
        ("/api/v1/executions?status=completed", 3),
        ("/api/v1/executions?cause=rare", 4),
        ("/api/v1/results", 6),
        ("/api/v1/bulks?complete=yes", 3),
        ("/api/v1/bulks?complete=unknown", 15_997),
        ("/api/v1/bulks?complete=no", 0),
    ] {
        for limit in [1, 2, 1000] {
            if count / limit > 100 {
                continue;
            }
            let found = pages(&receiver, path, limit, async || {}).await;
            let keys: HashSet<_> = found.iter().map(|item| item["first_received_at"].as_str()).collect();
            assert_eq!((found.len(), keys.len()), (count, count), "{path}");
        }
    }
    let first = asked(&receiver, "/api/v1/bulks?complete=no").await;
    assert!(each(&first, "bulk_id").is_empty() && first["next"].is_string(), "{first}");
    let groups = asked(&receiver, "/api/v1/failures").await;
    assert_eq!((&groups["failed"], &groups["complete"]), (&json!(2_500), &json!(false)));
    let all = asked(&receiver, "/api/v1/failures?from=2026-03-01T23:50:00Z").await;
    assert_eq!((&all["failed"], &all["complete"]), (&json!(600), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_go_on_within_an_execution_that_made_many_and_past_one_that_made_much() {
    let receiver = TestReceiver::start().await;
    // What PostgreSQL cannot make small.
    let words = (0_u64..400_000).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
    let noise = words.map(|word| format!("{word:016x}")).collect::<Vec<_>>().concat();
    receiver.accept(with(execution("few", "completed"), json!({ "output": ["x", null] }))).await;
    receiver.accept(with(execution("much", "completed"), json!({ "output": [noise, "y"] }))).await;
    receiver
        .accept(with(execution("many", "completed"), json!({ "output": (1..=25).collect::<Vec<_>>() })))
        .await;
    receiver.recorded().await;
    for limit in [1, 10, 1000] {
        let all = pages(&receiver, "/api/v1/results", limit, async || {}).await;
        let found: Vec<_> = all
            .iter()
            .map(|r| format!("{} {}", r["execution_id"].as_str().unwrap(), r["position"]))
            .collect();
        let expected = (1..=25).map(|n| format!("many {n}"));
        let expected: Vec<_> =
            expected.chain(["much 1", "much 2", "few 1", "few 2"].map(str::to_owned)).collect();
        assert_eq!(found, expected, "by {limit}");
    }
    let page = asked(&receiver, "/api/v1/results?limit=1000").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 27, "a page ends behind so much");
    let one = asked(&receiver, "/api/v1/executions/much").await;
    assert_eq!(one["results"]["items"][0]["value"].as_str().map(str::len), Some(6_400_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_execution_has_its_steps_results_conflicts_and_payload() {
    let receiver = recorded().await;
    let whole = asked(&receiver, "/api/v1/executions/step").await;
    assert_eq!(whole["duration_seconds"], 7.5);
    assert_eq!(whole["step_failed"], true);
    let step = |key, id, status, cause| {
        json!({ "key": key, "step_id": id, "status": status, "error": null, "error_cause": cause,
                "started_at": null, "completed_at": null })
    };
    let steps =
        json!([step("draw", "d", "failed", json!("too large")), step("x", "x", "completed", json!(null))]);
    assert_eq!(whole["steps"], steps);
    assert_eq!(each(&whole["results"], "name"), ["video", "seconds"]);
    assert_eq!(each(&whole["results"], "kind"), ["url", "json"]);
    assert_eq!(whole["payload"]["step_outputs"]["draw"]["status"], "failed");
    assert_eq!((&whole["payload_text"], &whole["conflicts"]), (&json!(null), &json!(0)));

    let plain = asked(&receiver, "/api/v1/executions/plain").await;
    assert_eq!(
        (&plain["conflicts"], &plain["total_cost"], &plain["deliveries"]),
        (&json!(1), &json!(0.25), &json!(2))
    );
    let text = receiver.get("/api/v1/executions/plain").await.text().await.unwrap();
    assert!(text.contains(r#""total_cost":0.25,"#), "a number as it is written: {text}");

    let odd = r#"{"execution_id":"o/d?d","workflow_id":"w","status":"failed","error_cause":"CAUSE","inputs":"\u0000"}"#;
    let odd = odd.replace("CAUSE", &"é".repeat(1_500));
    receiver.accept(&odd).await;
    receiver.recorded().await;
    let whole = asked(&receiver, "/api/v1/executions/o%2Fd%3Fd").await;
    assert_eq!((&whole["payload"], &whole["payload_text"]), (&json!(null), &json!(odd)));
    assert_eq!(whole["error_cause"].as_str().unwrap().chars().count(), 1_500);
    let page = asked(&receiver, "/api/v1/executions?limit=1").await;
    assert_eq!(
        page["items"][0]["error_cause"].as_str().unwrap().chars().count(),
        1_000,
        "in lists, its beginning"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bulk_has_its_progress_its_executions_and_what_they_made() {
    let receiver = recorded().await;
    let bulk = asked(&receiver, "/api/v1/bulks/b%2F1%20%C3%A9").await;
    assert_eq!(each(&bulk["executions"], "execution_id"), ["step", "failed"]);
    assert_eq!(each(&bulk["results"], "value"), ["https://example.com/v.mp4", "8"]);
    assert_eq!((&bulk["received"], &bulk["failed"], &bulk["complete"]), (&json!(2), &json!(1), &json!(null)));
    let expect = "INSERT INTO bulks (bulk_id, expected) VALUES ('announced', 4)";
    sqlx::raw_sql(expect).execute(&mut receiver.connection().await).await.unwrap();
    let announced = asked(&receiver, "/api/v1/bulks/announced").await;
    assert_eq!((&announced["complete"], &announced["first_received_at"]), (&json!(false), &json!(null)));
    let page = asked(&receiver, "/api/v1/bulks").await;
    assert_eq!(each(&page, "bulk_id"), ["b/1 é"], "of the other nothing has come");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_grouped_by_cause_or_step_the_most_frequent_first() {
    let receiver = recorded().await;
    for n in 0..3 {
        let failed =
            json!({ "error_cause": "late", "step_outputs": { "a": { "status": "failed", "error": "E" } } });
        receiver.accept(with(execution(&format!("late {n}"), "failed"), failed)).await;
        receiver.recorded().await;
    }
    let by_cause = asked(&receiver, "/api/v1/failures").await;
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
    assert_eq!((&by_cause["failed"], &by_cause["complete"]), (&json!(4), &json!(true)));
    let by_step = asked(&receiver, "/api/v1/failures?by=step").await;
    let (a, d) = (json!(["w", "a", "E", null, 3, "late 2"]), json!(["w", "d", null, "too large", 1, "step"]));
    assert_eq!(groups(&by_step), [a.clone(), d]);
    let timeout = [timeout];
    assert_eq!(groups(&asked(&receiver, "/api/v1/failures?workflow=v&limit=1").await), timeout);
    assert_eq!(groups(&asked(&receiver, "/api/v1/failures?bulk=b%2F1%20%C3%A9").await), timeout);
    let first = asked(&receiver, "/api/v1/failures?limit=1").await;
    assert_eq!((groups(&first), &first["failed"]), (vec![late], &json!(4)), "all are counted");
    let none = asked(&receiver, "/api/v1/failures?by=step&workflow=none").await;
    assert_eq!(none, json!({ "groups": [], "failed": 0, "complete": true, "since": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_quarantine_are_listed_and_shown_whole() {
    let receiver = recorded().await;
    let page = asked(&receiver, "/api/v1/conflicts").await;
    assert_eq!(each(&page, "differs_in"), [&json!(["status", "output", "error_cause"])]);
    assert_eq!(page, asked(&receiver, "/api/v1/conflicts?execution=plain").await);
    assert_eq!(each(&asked(&receiver, "/api/v1/conflicts?execution=step").await, "execution_id"), [""; 0]);
    let id = &page["items"][0]["conflict_id"];
    let conflict = asked(&receiver, &format!("/api/v1/conflicts/{id}")).await;
    assert_eq!(conflict["recorded_output"], json!(["https://example.com/a.png", "b"]));
    assert_eq!(
        (&conflict["delivered_output"], &conflict["delivered_error_cause"]),
        (&json!(null), &json!("it changed"))
    );
    assert_eq!(conflict["payload"]["status"], "failed");

    let page = asked(&receiver, "/api/v1/quarantine").await;
    assert_eq!(each(&page, "reason"), ["`workflow_id` is missing or null"]);
    assert_eq!(each(&page, "body_bytes"), [34]);
    let id = &page["items"][0]["quarantine_id"];
    let whole = asked(&receiver, &format!("/api/v1/quarantine/{id}")).await;
    assert_eq!(whole["body_text"], r#"{"execution_id":"odd","note":"é"}"#);
    let binary = "UPDATE quarantine SET body = '\\xff'";
    sqlx::raw_sql(binary).execute(&mut receiver.connection().await).await.unwrap();
    assert_eq!(asked(&receiver, &format!("/api/v1/quarantine/{id}")).await["body_text"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_has_a_point_for_each_hour_or_day_and_how_the_receiver_is() {
    let receiver = recorded().await;
    until(async || receiver.ready().await.1["spooled"] == 0).await;
    let overview = asked(&receiver, "/api/v1/overview").await;
    let counts = json!({ "executions": 5, "completed": 2, "failed": 1, "cancelled": 1, "other": 1, "failure_rate": 0.2 });
    assert_eq!(overview["total"], counts);
    assert_eq!(overview["receiver"], json!({ "status": "ok", "problems": [], "spooled": 0 }));
    let series = overview["series"].as_array().unwrap();
    assert!((24..=25).contains(&series.len()));
    assert_eq!(series[0]["failure_rate"], Value::Null);
    assert_eq!(asked(&receiver, "/api/v1/overview?by=day").await["total"], counts);
    assert_eq!(asked(&receiver, "/api/v1/overview?workflow=v").await["total"]["failed"], 1);

    for (query, from, points) in [
        ("from=2020-01-01T00:00:00Z&to=2026-03-02T00:00:00Z", "2026-01-30T00:00:00Z", 744),
        ("by=day&from=2020-01-01T00:00:00Z&to=2026-03-02T00:00:00Z", "2025-03-01T00:00:00Z", 366),
        ("from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", 0),
        ("to=0000-01-01T00:00:00Z", "1970-01-01T00:00:00Z", 0),
    ] {
        let overview = asked(&receiver, &format!("/api/v1/overview?{query}")).await;
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
        let overview = asked(&receiver, &format!("/api/v1/overview?{query}")).await;
        let points = overview["series"].as_array().unwrap().iter().map(|p| json!([p["at"], p["executions"]]));
        assert_eq!(Value::Array(points.collect()), expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workflows_say_how_they_went_and_what_they_cost() {
    let receiver = recorded().await;
    for (id, cost) in [("a", 1.5), ("b", 0.1)] {
        receiver
            .accept(with(execution(id, "completed"), json!({ "workflow_id": "v", "total_cost": cost })))
            .await;
    }
    receiver.recorded().await;
    let page = asked(&receiver, "/api/v1/workflows").await;
    let v = json!({
        "workflow_id": "v", "executions": 3, "completed": 2, "failed": 1, "cancelled": 0, "other": 0,
        "failure_rate": 1.0 / 3.0, "executions_with_cost": 2, "total_cost": 1.6, "average_cost": 0.8
    });
    assert_eq!(page["items"][0], v);
    assert_eq!(each(&page, "workflow_id"), ["v", "w"]);
    assert_eq!(
        each(&asked(&receiver, "/api/v1/workflows?order=executions&days=1").await, "workflow_id"),
        ["w", "v"]
    );
    assert_eq!(each(&asked(&receiver, "/api/v1/workflows?order=failed&limit=1").await, "workflow_id"), ["v"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_said_with_what_can() {
    let receiver = recorded().await;
    let cursor = asked(&receiver, "/api/v1/executions?limit=1").await["next"].as_str().unwrap().to_owned();
    for (query, name, allowed) in [
        ("executions?limit=0", "limit", "`limit` must be a whole number from 1 to 1000."),
        ("executions?limit=1001", "limit", "from 1 to 1000"),
        ("executions?limit=ten", "limit", "from 1 to 1000"),
        ("executions?limit=", "limit", "from 1 to 1000"),
        ("executions?limit=1&limit=2", "limit", "must be given once"),
        ("executions?from=yesterday", "from", "must be a time like 2026-03-02T10:00:00Z"),
        ("executions?to=2026-03-02T10:00:00+01:00", "to", "a + in it is sent as %2B"),
        ("executions?status=", "status", "1 to 255 characters"),
        ("executions?bulk=%00", "bulk", "without U+0000"),
        (&format!("executions?cause={}", "x".repeat(256)), "cause", "1 to 255 characters"),
        ("executions?cursor=x", "cursor", "must be the `next` of a page of this list"),
        (&format!("bulks?cursor={cursor}"), "cursor", "of this list"),
        ("bulks?complete=maybe", "complete", "must be one of yes, no, unknown"),
        ("failures?by=name", "by", "must be one of cause, step"),
        ("overview?by=week", "by", "must be one of hour, day"),
        ("workflows?days=367", "days", "from 1 to 366"),
        ("workflows?order=name", "order", "must be one of cost, failed, executions"),
        ("export/executions?format=xml", "format", "must be one of jsonl, csv"),
        ("conflicts/x", "conflict_id", "must be a whole number"),
        ("quarantine/9223372036854775808", "quarantine_id", "must be a whole number"),
    ] {
        let (status, problem) = problem(&receiver, &format!("/api/v1/{query}")).await;
        assert_eq!((status, &problem["parameter"]), (400, &json!(name)), "{query}: {problem}");
        assert_eq!(problem["type"], "urn:workflow-receiver:problem:bad-parameter");
        assert!(problem["detail"].as_str().unwrap().contains(allowed), "{query}: {problem}");
    }
    for (query, known) in [
        ("executions?stauts=failed", "these are: status, workflow, bulk, cause, from, to, limit, cursor"),
        ("executions/plain?limit=1", "No parameters are known here"),
        ("export/results?limit=1", "these are: format, execution, workflow, bulk, from, to"),
        ("events?from=2026-03-02T10:00:00Z", "these are: status, workflow, bulk"),
    ] {
        let (status, problem) = problem(&receiver, &format!("/api/v1/{query}")).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(status == 400 && detail.contains(known) && !detail.contains("stauts"), "{query}: {problem}");
    }
    for path in
        ["executions/none", "executions/%00", "executions/%ff", "bulks/none", "conflicts/0", "quarantine/-1"]
    {
        let (status, problem) = problem(&receiver, &format!("/api/v1/{path}")).await;
        assert_eq!(
            (status, &problem["type"]),
            (404, &json!("urn:workflow-receiver:problem:not-recorded")),
            "{path}"
        );
    }
    assert_eq!(problem(&receiver, "/api/v1/nothing").await.0, 404);
    let post = receiver.client.post(format!("{}/api/v1/executions", receiver.admin)).send().await.unwrap();
    assert_eq!((post.status().as_u16(), &post.headers()["allow"]), (405, &"GET,HEAD".parse().unwrap()));
    assert_eq!(
        receiver
            .client
            .get(receiver.url.replace("/webhooks/workflow-completed", "/api/v1/executions"))
            .send()
            .await
            .unwrap()
            .status(),
        404,
        "never on the public port"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_shown_without_the_token_where_there_is_one() {
    let token = "an_admin_token_of_some_length";
    let receiver = TestReceiver::start_with(|settings| settings.admin.token = token.into()).await;
    let document: Value = receiver
        .client
        .get(format!("{}/openapi.json", receiver.admin))
        .bearer_auth(token)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let paths = document["paths"].as_object().unwrap().keys().filter(|path| path.starts_with("/api/"));
    let paths: Vec<_> = paths
        .cloned()
        .chain(["/openapi.json", "/docs", "/docs/page.js", "/nothing"].map(str::to_owned))
        .collect();
    assert!(paths.len() > 15);
    for path in paths {
        let (status, problem) = problem(&receiver, &path).await;
        assert_eq!(
            (status, &problem["type"]),
            (401, &json!("urn:workflow-receiver:problem:no-token")),
            "{path}"
        );
    }
    let ask = async |user: &str, password: &str| {
        let asked = receiver.client.get(format!("{}/api/v1/executions", receiver.admin));
        asked.basic_auth(user, Some(password)).send().await.unwrap()
    };
    assert_eq!(ask("anyone", token).await.status(), 200, "as a browser does");
    assert_eq!(ask(token, "").await.status(), 401);
    assert_eq!(ask("anyone", "an_admin_token_of_some_lengt").await.status(), 401);
    let challenges: Vec<_> =
        ask("", "").await.headers().get_all("www-authenticate").iter().cloned().collect();
    assert_eq!(challenges, ["Bearer", r#"Basic realm="workflow-receiver", charset="UTF-8""#]);
    for odd in ["Basic", "Basic !", "Basic bm8gY29sb24=", "Bearer", "Digest x"] {
        let asked = receiver.client.get(format!("{}/docs", receiver.admin)).header(AUTHORIZATION, odd);
        assert_eq!(asked.send().await.unwrap().status(), 401, "{odd}");
    }
}

/// A page from elsewhere can have its own name lead to loopback, and would then be of the same origin.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_what_is_recorded_is_shown_under_an_address_only() {
    let receiver = TestReceiver::start().await;
    for (host, path, status) in [
        ("evil.example:9090", "/api/v1/executions", 421),
        ("evil.example", "/openapi.json", 421),
        ("localhost:9090", "/api/v1/executions", 200),
        ("[::1]:9090", "/docs", 200),
        ("receiver:9090", "/health/ready", 200),
        ("receiver:9090", "/metrics", 200),
    ] {
        let asked = receiver.client.get(format!("{}{path}", receiver.admin)).header(HOST, host);
        assert_eq!(asked.send().await.unwrap().status(), status, "{host} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_away_it_is_said_and_webhooks_are_taken() {
    let receiver = TestReceiver::start_on(no_database(), |_| {}).await;
    for path in ["executions", "bulks/b", "overview", "export/executions"] {
        let (status, problem) = problem(&receiver, &format!("/api/v1/{path}")).await;
        assert_eq!(
            (status, &problem["type"]),
            (503, &json!("urn:workflow-receiver:problem:no-database")),
            "{path}"
        );
        assert!(problem["detail"].as_str().unwrap().contains("PostgreSQL cannot be reached"), "{problem}");
    }
    receiver.accept(execution("e", "completed")).await;
    let metric = receiver.metric("api_answered_total{status=\"503\"}").await;
    assert_eq!(metric, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_have_connections_and_a_time_of_their_own_and_only_read() {
    let receiver = TestReceiver::start_with(|settings| {
        settings.admin.read_connections = 1;
        settings.admin.statement_timeout = std::time::Duration::from_secs(20);
    })
    .await;
    receiver.accept(execution("e", "completed")).await;
    receiver.recorded().await;
    asked(&receiver, "/api/v1/executions").await;
    let backend = "SELECT pid FROM pg_stat_activity WHERE application_name = 'workflow-receiver reading'
        AND datname = current_database()";
    assert_eq!(receiver.rows(backend).await.len(), 1);
    // None is left in a transaction, which would hold up vacuum.
    for one in ["executions/none", "bulks/none", "conflicts/0", "executions/e"] {
        receiver.get(&format!("/api/v1/{one}")).await;
        let state = format!("SELECT state FROM pg_stat_activity WHERE pid IN ({backend})");
        assert_eq!(receiver.row(&state).await["state"], "idle", "{one}");
    }
    // One that is lost is made anew.
    let end = format!("SELECT pg_terminate_backend(pid, 10000) FROM ({backend}) AS b");
    sqlx::raw_sql(sqlx::AssertSqlSafe(end)).execute(&mut receiver.connection().await).await.unwrap();
    asked(&receiver, "/api/v1/executions").await;

    let mut holder = receiver.connection().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE bulks IN ACCESS EXCLUSIVE MODE").execute(&mut holder).await.unwrap();
    let (slow, busy) = tokio::join!(problem(&receiver, "/api/v1/bulks"), async {
        let blocked = format!("{backend} AND wait_event_type = 'Lock'");
        until(async || !receiver.rows(&blocked).await.is_empty()).await;
        // Recording goes on beside it.
        receiver.accept(execution("f", "completed")).await;
        receiver.recorded().await;
        problem(&receiver, "/api/v1/executions").await
    });
    assert_eq!((busy.0, &busy.1["type"]), (503, &json!("urn:workflow-receiver:problem:reading-busy")));
    assert_eq!((slow.0, &slow.1["type"]), (503, &json!("urn:workflow-receiver:problem:reading-slow")));
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    asked(&receiver, "/api/v1/bulks").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_for_reading_and_trying_needs_nothing_from_elsewhere() {
    let receiver = TestReceiver::start().await;
    let page = receiver.get("/docs").await;
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    let text = page.text().await.unwrap();
    assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("<script>"), "{text}");
    for linked in text.split(['"']).filter(|part| part.starts_with("docs/")) {
        assert_eq!(receiver.get(&format!("/{linked}")).await.status(), 200, "{linked}");
    }
    assert_eq!(receiver.get("/openapi.json").await.headers()["cache-control"], "no-store");
    // Every example of the sender's, and what is answered to it, is as the document says: `scripts/check-api` asks
    // for the rest.
    let document = asked(&receiver, "/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    let door = &document["paths"]["/webhooks/workflow-completed"];
    assert!(
        receiver
            .url
            .starts_with(&door["servers"][0]["url"].as_str().unwrap().replace("localhost", "127.0.0.1"))
    );
    let required = &document["components"]["schemas"]["Webhook"]["required"];
    assert_eq!(*required, json!(["execution_id", "workflow_id", "status"]));
    receiver.accept(example("completed.json")).await;
}

/// What the document promises, an address or a schema a line.
fn outline(document: &Value) -> String {
    let names = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut lines = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(method, _)| *method != "servers")
        {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let parameters: Vec<_> = parameters.iter().map(|p| p["name"].as_str().unwrap()).collect();
            let answers = operation["responses"].as_object().unwrap().iter().map(|(status, answer)| {
                let kinds = answer["content"].as_object().unwrap().iter().map(|(kind, content)| {
                    let schema = &content["schema"];
                    let named = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next());
                    format!("{kind} {}", named.or(schema["type"].as_str()).unwrap())
                });
                format!("  {status} {}", kinds.collect::<Vec<_>>().join(", "))
            });
            lines.push(format!("{} {path} ({})", method.to_uppercase(), parameters.join(", ")));
            lines.extend(answers.filter(|answer| !answer.ends_with(" Problem")));
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let parts = schema["allOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
        let fields = parts.iter().flat_map(|part| match part["$ref"].as_str() {
            Some(named) => vec![format!("all of {}", named.rsplit('/').next().unwrap())],
            None => names(&part["properties"]),
        });
        lines.push(format!("{name}: {}", fields.collect::<Vec<_>>().join(", ")));
    }
    lines.join("\n") + "\n"
}

/// Within `v1`, things are added; never renamed or taken away. `BLESS=1` writes what is new.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_document_promises_stays() {
    let receiver = TestReceiver::start().await;
    let outline = outline(&asked(&receiver, "/openapi.json").await);
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &outline).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap_or_default(), outline);
}
