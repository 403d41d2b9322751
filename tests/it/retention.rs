//! Retention: which rows expire, which are kept, and the comparison with removed payloads.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fixtures::{execution, with};
use crate::support::http::get_json;
use crate::support::postgres::{UNREACHABLE, execute_when_recorded};
use crate::support::process::{program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::retention::{age_by_three_days, prune, pruned};

/// Numbers, and strings that look like numbers.
const NUMBERS: &str = r#"{"execution_id":"numbers","workflow_id":"w","status":"completed",
    "output":{"a":[1,1.0,100,-0.0,0.250,"1.0","\"1.50\\"],"b.0":{"c":1e2,"d":1.05}}}"#;

/// The same numbers, written differently.
const NUMBERS_REWRITTEN: &str = r#"{"execution_id":"numbers","workflow_id":"w","status":"completed",
    "output":{"a":[1.000,1,1e2,0,25e-2,"1.0","\"1.50\\"],"b.0":{"c":100.0,"d":1.0500}}}"#;

/// Executions with usual and unusual bodies.
fn bodies() -> Vec<String> {
    let body = |id, fields| with(execution(id, "completed"), fields).to_string();
    vec![
        body("array", json!({ "output": ["https://example.com/a.png", "b"], "bulk_id": "b" })),
        body("object", json!({ "output": { "b": 1, "a": [null] }, "inputs": { "prompt": "x" } })),
        body("none", json!({ "error_cause": "why" })),
        body("null", json!({ "output": null })),
        r#"{"execution_id":"number","workflow_id":"w","status":"completed","output":1.50}"#.to_owned(),
        NUMBERS.to_owned(),
        r#"{"execution_id":"twice","workflow_id":"w","status":"completed","output":"o","a":1,"a":2}"#
            .to_owned(),
        r#"{"execution_id":"nul-output","workflow_id":"w","status":"failed","output":"\u0000"}"#.to_owned(),
        r#"{"execution_id":"nul","workflow_id":"w","status":"failed","inputs":"\u0000"}"#.to_owned(),
    ]
}

/// The same executions with another output, the last one with other bytes only.
fn contradictions() -> Vec<String> {
    let other =
        |body: &String| body.replace("\"output\"", "\"was\"").replacen('{', r#"{"output":"other","#, 1);
    let bytes = bodies().last().unwrap().replace(r"\u0000", r"\u0000\u0000");
    bodies().iter().map(other).chain([bytes]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_and_conflicts_are_recognised_after_the_payload_was_removed() {
    let receiver = TestReceiver::start().await;
    for body in bodies() {
        receiver.accept(body).await;
    }
    age_by_three_days(&receiver).await;
    assert_eq!(
        pruned(&receiver, &[("PAYLOADS", "2d")]),
        json!({ "payloads": bodies().len(), "quarantine_retries": 0 })
    );
    assert_eq!(
        pruned(&receiver, &[("PAYLOADS", "2d")]),
        json!({ "payloads": 0, "quarantine_retries": 0 }),
        "removed only once"
    );

    for body in bodies() {
        receiver.accept(&body).await;
        // Equal as jsonb; a body that jsonb cannot hold is compared byte by byte.
        receiver.accept(if body.contains(r"\u0000") { body } else { body.replace(',', " , ") }).await;
    }
    let kept = "SELECT deliveries, payload_removed_at IS NOT NULL AS removed,
                       num_nonnulls(output, payload, payload_bytes) AS kept FROM executions";
    let expected = json!({ "deliveries": 3, "removed": true, "kept": 0 });
    assert_eq!(receiver.rows(kept).await, vec![expected; bodies().len()]);
    assert!(receiver.rows("SELECT * FROM execution_conflicts").await.is_empty());

    for body in contradictions() {
        receiver.accept(body).await;
        receiver.wait_until_recorded().await;
    }
    let conflicts = receiver
        .rows(
            "SELECT differs_in, recorded_payload_removed_at IS NOT NULL AS removed FROM conflicts
             ORDER BY conflict_id",
        )
        .await;
    let mut expected = vec![json!({ "differs_in": ["output"], "removed": true }); bodies().len()];
    expected.push(json!({ "differs_in": [], "removed": true }));
    assert_eq!(conflicts, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_numbers_are_duplicates_and_others_conflicts_before_and_after_the_payload_was_removed() {
    for removed in [false, true] {
        let receiver = TestReceiver::start().await;
        receiver.accept(NUMBERS).await;
        if removed {
            age_by_three_days(&receiver).await;
            assert_eq!(
                pruned(&receiver, &[("PAYLOADS", "2d")]),
                json!({ "payloads": 1, "quarantine_retries": 0 })
            );
        }
        receiver.accept(NUMBERS_REWRITTEN).await;
        let stored = "SELECT deliveries, conflicts FROM executions";
        assert_eq!(receiver.row(stored).await, json!({ "deliveries": 2, "conflicts": null }));
        let others = [
            ("1.05", "1.5"),
            ("1.05", "1.005"),
            ("100", "10"),
            ("0.250", "0.2500001"),
            (r#""1.0""#, r#""1""#),
            (r#""1.0""#, "1"),
            (r#"\"1.50"#, r#"\"1.5"#),
            ("b.0", "b"),
        ];
        for (from, to) in others {
            let other = NUMBERS.replace(from, to);
            assert_ne!(other, NUMBERS);
            receiver.accept(other).await;
        }
        let conflicts = receiver.row("SELECT conflicts FROM executions").await;
        assert_eq!(conflicts, json!({ "conflicts": others.len() }), "removed: {removed}");
        let views = receiver.rows("SELECT DISTINCT differs_in FROM conflicts").await;
        assert_eq!(views, [json!({ "differs_in": ["output"] })]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_non_terminal_status_without_payload_is_replaced_with_the_payload_of_the_next() {
    let receiver = TestReceiver::start().await;
    receiver.accept(with(execution("e", "running"), json!({ "output": "draft" }))).await;
    age_by_three_days(&receiver).await;
    assert_eq!(pruned(&receiver, &[("PAYLOADS", "2d")]), json!({ "payloads": 1, "quarantine_retries": 0 }));
    receiver.accept(with(execution("e", "running"), json!({ "output": "draft" }))).await;
    let row = "SELECT status, output, payload_removed_at IS NULL AS kept, output_sha256 IS NULL AS plain FROM executions";
    let removed = json!({ "status": "running", "output": null, "kept": false, "plain": false });
    assert_eq!(receiver.row(row).await, removed, "a duplicate does not restore the payload");
    let shown = get_json(&receiver, "/api/v1/executions/e").await;
    assert!(shown["payload"].is_null() && shown["payload_removed_at"].is_string(), "{shown}");
    receiver.accept(with(execution("e", "completed"), json!({ "output": "done" }))).await;
    let whole = json!({ "status": "completed", "output": "done", "kept": true, "plain": true });
    assert_eq!(receiver.row(row).await, whole);
    assert_eq!(pruned(&receiver, &[("PAYLOADS", "2d"), ("EXECUTIONS", "2d")])["payloads"], 0);
    assert_eq!(receiver.row(row).await, whole, "the age counts from the latest delivery");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_views_show_when_a_payload_was_removed() {
    let receiver = TestReceiver::start().await;
    let steps = json!({ "output": ["o"], "step_outputs": { "s": { "status": "failed" } } });
    receiver.accept(with(execution("e", "failed"), with(steps, json!({ "error_cause": "why" })))).await;
    receiver.accept(with(execution("e", "failed"), json!({ "output": "other" }))).await;
    for body in bodies() {
        receiver.accept(body).await;
    }
    let views_of_e = async || {
        let failure = receiver
            .row(
                "SELECT error_cause, failed_steps, payload_removed_at IS NOT NULL AS removed FROM failures
                  WHERE execution_id = 'e'",
            )
            .await;
        let views = receiver.rows("SELECT viewname FROM pg_views WHERE schemaname = 'public'").await;
        let mut rows = serde_json::Map::new();
        for view in views {
            let view = view["viewname"].as_str().unwrap();
            let count = receiver.row(&format!("SELECT count(v::text) AS rows FROM {view} AS v")).await;
            rows.insert(view.to_owned(), count["rows"].clone());
        }
        (failure, rows)
    };
    age_by_three_days(&receiver).await;
    let (failure, mut rows) = views_of_e().await;
    assert_eq!(failure, json!({ "error_cause": "why", "failed_steps": ["s"], "removed": false }));
    assert!(rows["results"].as_i64() > Some(0) && rows["failed_steps"] == 1, "{rows:?}");
    pruned(&receiver, &[("PAYLOADS", "2d")]);
    let (failure, after) = views_of_e().await;
    assert_eq!(failure, json!({ "error_cause": "why", "failed_steps": null, "removed": true }));
    rows.extend(["results", "failed_steps", "steps"].map(|view| (view.to_owned(), json!(0))));
    assert_eq!(after, rows);
    let latest = receiver.rows("SELECT FROM latest_executions WHERE payload_removed_at IS NULL").await;
    assert_eq!(latest, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn rollups_outlive_their_executions_and_a_bulk_is_removed_with_its_last_execution() {
    let receiver = TestReceiver::start().await;
    let body = |id| with(execution(id, "completed"), json!({ "bulk_id": "b", "total_cost": 0.5 }));
    receiver.accept(body("1")).await;
    receiver.accept(body("2")).await;
    execute_when_recorded(&receiver, "INSERT INTO bulks (bulk_id, expected) VALUES ('announced', 4)").await;
    age_by_three_days(&receiver).await;
    receiver.accept(body("3")).await;
    receiver.accept(execution("alone", "failed")).await;
    let history = "SELECT (SELECT jsonb_agg(h) FROM failure_rates AS h) AS hours, (SELECT jsonb_agg(d) FROM costs AS d) AS days";
    let before = receiver.row(history).await;
    let limits = [("EXECUTIONS", "2d")];
    assert_eq!(
        pruned(&receiver, &limits),
        json!({ "executions": 2, "expected": 0, "quarantine_retries": 0, "bulks": 0 })
    );
    let bulk = "SELECT received, completed FROM bulks WHERE bulk_id = 'b'";
    assert_eq!(receiver.row(bulk).await, json!({ "received": 3, "completed": 3 }));
    assert_eq!(receiver.row(history).await, before);

    receiver.accept(body("1")).await;
    let again = "SELECT deliveries FROM executions WHERE execution_id = '1'";
    assert_eq!(receiver.row(again).await, json!({ "deliveries": 1 }), "new again");
    assert_eq!(receiver.row(bulk).await["received"], 4);

    age_by_three_days(&receiver).await;
    assert_eq!(
        pruned(&receiver, &limits),
        json!({ "executions": 3, "expected": 0, "quarantine_retries": 0, "bulks": 1 })
    );
    assert_eq!(receiver.row("SELECT bulk_id FROM bulks").await, json!({ "bulk_id": "announced" }));
    receiver.accept(body("4")).await;
    assert_eq!(receiver.row(bulk).await["received"], 1, "the bulk is new");
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_quarantine_have_their_own_limits_and_acknowledged_webhooks_have_none() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("e", "completed")).await;
    receiver.accept(execution("e", "failed")).await;
    receiver.accept(execution("e", "cancelled")).await;
    for body in ["{}", r#"{"a":1}"#, r#"{"a":2}"#] {
        assert_eq!(receiver.post(body).await.status(), 422);
    }
    execute_when_recorded(&receiver, "UPDATE quarantine SET acknowledged = true WHERE body = '{}'").await;
    age_by_three_days(&receiver).await;
    receiver.accept(execution("e", "cancelled")).await;
    assert_eq!(receiver.post(r#"{"a":2}"#).await.status(), 422);
    receiver.wait_until_recorded().await;

    assert_eq!(pruned(&receiver, &[("CONFLICTS", "2d")]), json!({ "conflicts": 1 }));
    assert_eq!(
        receiver.row("SELECT delivered_status AS s FROM conflicts").await,
        json!({ "s": "cancelled" })
    );
    assert_eq!(
        pruned(&receiver, &[("QUARANTINE", "2d")]),
        json!({ "quarantine": 1, "quarantine_retries": 0 })
    );
    let kept = receiver.rows("SELECT body_text, acknowledged FROM quarantined ORDER BY 1").await;
    let entry = |body, acknowledged| json!({ "body_text": body, "acknowledged": acknowledged });
    assert_eq!(kept, [entry(r#"{"a":2}"#, false), entry("{}", true)]);
    let executions = receiver.row("SELECT count(*) FROM executions WHERE payload IS NOT NULL").await;
    assert_eq!(executions["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_the_expired_rows_and_removes_nothing() {
    let receiver = TestReceiver::start().await;
    for id in ["1", "2", "3"] {
        receiver.accept(with(execution(id, "completed"), json!({ "bulk_id": "b" }))).await;
    }
    assert_eq!(receiver.post("{}").await.status(), 422);
    age_by_three_days(&receiver).await;
    execute_when_recorded(
        &receiver,
        "UPDATE executions SET first_received_at = '2026-01-02 03:04:05.678Z' WHERE execution_id = '1'",
    )
    .await;
    receiver.accept(execution("new", "completed")).await;
    receiver.wait_until_recorded().await;
    let limits = [("PAYLOADS", "1d"), ("EXECUTIONS", "2d"), ("QUARANTINE", "1y")];
    let (text, code) = prune(&receiver, &limits, &["--dry-run"]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((code, lines[0][..3].join(" ")), (Some(0), "would be removed".to_owned()), "{text}");
    assert_eq!(lines[1][..3], ["executions", "3", "2026-01-02T03:04:05Z"], "{text}");
    assert_eq!(lines[2][..2], ["payloads", "0"], "{text}: payloads are removed with their executions");
    assert_eq!((lines[3][0], lines[4][0]), ("predictions", "prediction_payloads"), "{text}");
    assert_eq!(lines[5][..2], ["expected", "0"], "{text}");
    assert_eq!(lines[6][..2], ["bulks", "1"], "{text}");
    assert_eq!(lines[7][..2], ["quarantine", "0"], "{text}");
    assert_eq!((lines[8][..2].to_vec(), lines.len()), (vec!["quarantine_retries", "0"], 9), "{text}");

    let (json, _) = prune(&receiver, &limits, &["--dry-run", "--json"]);
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["kind"], &first["dry_run"], &first["rows"]),
        (&json!("executions"), &json!(true), &json!(3))
    );
    assert_eq!(first["oldest"], "2026-01-02T03:04:05.678Z");
    assert!(first["newest"].as_str() < first["before"].as_str(), "{first}");

    let kept =
        "SELECT (SELECT count(payload) FROM executions) AS executions, (SELECT count(*) FROM bulks) AS bulks,
                       (SELECT count(*) FROM quarantine) AS quarantine";
    assert_eq!(receiver.row(kept).await, json!({ "executions": 4, "bulks": 1, "quarantine": 1 }));
    let (text, code) = prune(&receiver, &limits, &[]);
    assert!(code == Some(0) && text.contains("removed"), "{text}");
    assert_eq!(receiver.row(kept).await, json!({ "executions": 1, "bulks": 0, "quarantine": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_or_with_one_that_is_too_short_prune_shows_the_setting() {
    let receiver = TestReceiver::start().await;
    let (text, code) = prune(&receiver, &[], &[]);
    assert!(code == Some(1) && text.contains("RECEIVER__RETENTION__PAYLOADS=90d"), "{text}");
    let (text, code) = prune(&receiver, &[("EXECUTIONS", "12h")], &[]);
    assert!(code == Some(1) && text.contains("retention.executions = 12h: must be from 1d"), "{text}");
    let dir = TempDir::new().unwrap();
    let mut away = program(dir.path());
    away.env("RECEIVER__RETENTION__PAYLOADS", "1d").env("DATABASE_URL", UNREACHABLE);
    let (text, code) = run_to_end(away.args(["prune", "--json"]));
    assert!(code == Some(1) && text.contains("PostgreSQL cannot be reached"), "{text}");
}
