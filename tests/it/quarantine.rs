//! The quarantine: storing, listing, retrying, dropping, and its limits.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fixtures::execution;
use crate::support::postgres::{fault_on, new_database, raise, url};
use crate::support::process::{Process, program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::wait::until;

/// Runs `workflow-receiver quarantine …` on the receiver's database.
fn quarantine(receiver: &TestReceiver, arguments: &[&str]) -> (String, Option<i32>) {
    let dir = TempDir::new().unwrap();
    let mut command = program(dir.path());
    run_to_end(command.arg("quarantine").args(arguments).env("DATABASE_URL", url(&receiver.database)))
}

fn changed(id: &str) -> Value {
    json!({ "executionId": id, "workflow_id": "w", "status": "completed", "output": "o", "bulk_id": "b" })
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_in_a_changed_format_are_recorded_with_a_mapping() {
    let receiver = TestReceiver::start().await;
    for id in ["one", "one", "two"] {
        assert_eq!(receiver.post(changed(id).to_string()).await.status(), 422);
        // One by one, so that the numbers are known.
        receiver.wait_until_recorded().await;
    }
    assert_eq!(receiver.post(r#"{"executionId":"three"}"#).await.status(), 422);
    receiver.wait_until_recorded().await;

    let (text, code) = quarantine(&receiver, &["list"]);
    assert_eq!((code, text.lines().count()), (Some(0), 4), "{text}");
    assert!(text.contains(" 422 ") && text.contains("`execution_id` is missing or null"), "{text}");
    let (json, _) = quarantine(&receiver, &["list", "--json"]);
    let mut entries: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    entries.reverse();
    assert_eq!(entries[0]["deliveries"], 2, "newest first");
    let ids: Vec<String> = entries.iter().map(|entry| entry["quarantine_id"].to_string()).collect();
    assert_eq!(quarantine(&receiver, &["show", &ids[0]]), (changed("one").to_string(), Some(0)));

    let (text, code) = quarantine(&receiver, &["retry", &ids[0]]);
    assert!(code == Some(1) && text.contains("stays in quarantine: `execution_id` is missing"), "{text}");
    let (text, code) = quarantine(&receiver, &["retry", "--all", "--map", "execution_id=executionId"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("{}: recorded as one (new)", ids[0])), "{text}");
    assert!(text.contains(&format!("{}: stays in quarantine: `workflow_id`", ids[2])), "{text}");
    assert!(text.contains("recorded 2, not recorded 1"), "{text}");

    let recorded = receiver
        .rows("SELECT execution_id, status, output, bulk_id, payload, deliveries FROM executions ORDER BY 1")
        .await;
    let row = |id: &str, deliveries| {
        json!({ "execution_id": id, "status": "completed", "output": "o", "bulk_id": "b",
                "payload": changed(id), "deliveries": deliveries })
    };
    assert_eq!(recorded, [row("one", 2), row("two", 1)], "the payload is the original body");
    assert_eq!(receiver.row("SELECT received FROM bulks").await["received"], 2);

    let mapped = [
        "retry",
        &ids[2],
        "--map",
        "execution_id=/executionId",
        "--set",
        "workflow_id=w",
        "--set",
        "status=failed",
    ];
    assert_eq!(quarantine(&receiver, &mapped).1, Some(0));
    assert_eq!(receiver.rows("SELECT * FROM quarantine").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_that_ignores_the_bulk_or_the_output_is_refused_and_a_dry_run_changes_nothing() {
    let receiver = TestReceiver::start().await;
    let body = json!({ "id": "e", "workflow_id": "w", "status": "completed", "bulkId": "b", "result": 1, "extra": 2 });
    assert_eq!(receiver.post(body.to_string()).await.status(), 422);
    receiver.wait_until_recorded().await;
    let retry = |more: &[&str]| {
        quarantine(&receiver, &[&["retry", "--all", "--map", "execution_id=id"], more].concat())
    };
    let (text, code) = retry(&[]);
    let refused = "`bulkId` is not read, and the execution would have no `bulk_id`. Add bulk_id=bulkId to the mapping, or use --force";
    assert!(code == Some(1) && text.contains(refused), "{text}");
    let (text, code) = retry(&["--map", "bulk_id=bulkId"]);
    assert!(code == Some(1) && text.contains("`result` is not read"), "{text}");
    let complete = ["--map", "bulk_id=bulkId", "--map", "output=result"];
    let (text, code) = retry(&[&complete[..], &["--dry-run"]].concat());
    assert_eq!(code, Some(0), "{text}");
    for part in ["would be recorded as e (new)", "not read, only in the payload: extra", "would record 1"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let counts =
        "SELECT (SELECT count(*) FROM executions) AS executions, (SELECT count(*) FROM bulks) AS bulks,
        (SELECT count(*) FROM change_batches) AS changes, (SELECT count(*) FROM quarantine) AS quarantine";
    let nothing = json!({ "executions": 0, "bulks": 0, "changes": 0, "quarantine": 1 });
    assert_eq!(receiver.row(counts).await, nothing);
    assert_eq!(retry(&["--force"]).1, Some(0));
    assert_eq!(receiver.row("SELECT bulk_id FROM executions").await["bulk_id"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quarantine_is_listed_by_reason_and_by_period() {
    let receiver = TestReceiver::start().await;
    assert_eq!(quarantine(&receiver, &["list"]).0, "No rows.\n");
    assert_eq!(quarantine(&receiver, &["list", "--by-reason"]).0, "No rows.\n");
    for body in [json!({ "n": 1 }), json!({ "n": 2 }), json!({ "execution_id": "e", "workflow_id": "w" })] {
        assert_eq!(receiver.post(body.to_string()).await.status(), 422);
    }
    receiver.wait_until_recorded().await;
    let json_lines = |arguments: &[&str]| -> Vec<Value> {
        let (text, _) = quarantine(&receiver, arguments);
        text.lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let reasons = json_lines(&["list", "--by-reason", "--json"]);
    let counts: Vec<_> = reasons.iter().map(|reason| &reason["entries"]).collect();
    assert_eq!(counts, [2, 1], "{reasons:?}");
    let (text, _) = quarantine(&receiver, &["list", "--by-reason", "--since", "1h"]);
    assert!(text.lines().nth(1).unwrap().ends_with("`execution_id` is missing or null"), "{text}");
    assert_eq!(json_lines(&["list", "--json", "--limit", "2"]).len(), 2);
    assert_eq!(quarantine(&receiver, &["list", "--until", "1h"]).0, "No rows.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_an_upgrade_records_bodies_that_can_be_parsed_now() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("known", "completed")).await;
    for body in [execution("new", "completed"), execution("known", "completed"), execution("known", "failed")]
    {
        let keep = "INSERT INTO quarantine (reason, body, body_sha256, deliveries, first_received_at, last_received_at)
             VALUES ('?', $1, sha256($1), 3, '2026-01-01', '2026-01-02')";
        let mut connection = receiver.connection().await;
        sqlx::query(keep).bind(body.to_string().into_bytes()).execute(&mut connection).await.unwrap();
    }
    receiver.wait_until_recorded().await;
    let (text, code) = quarantine(&receiver, &["retry", "--all"]);
    assert_eq!(code, Some(0), "{text}");
    for outcome in ["new (new)", "known (duplicate)", "known (conflict)"] {
        assert!(text.contains(outcome), "{text}");
    }
    let row = receiver
        .row("SELECT deliveries, first_received_at::date AS first, last_received_at::date AS last, authenticated_by
              FROM executions WHERE execution_id = 'new'")
        .await;
    assert_eq!(
        row,
        json!({ "deliveries": 3, "first": "2026-01-01", "last": "2026-01-02", "authenticated_by": null })
    );
    assert_eq!(receiver.rows("SELECT * FROM execution_conflicts").await.len(), 1);
    assert_eq!(receiver.rows("SELECT * FROM quarantine").await, Vec::<Value>::new());
}

/// Stores a body in quarantine, as an older receiver does that cannot parse it.
async fn insert_entry(receiver: &TestReceiver, body: &[u8], intact: bool) {
    let keep = "INSERT INTO quarantine
            (reason, body, body_sha256, intact, deliveries, first_received_at, last_received_at)
         VALUES ('?', $1, sha256($1), $2, 1, now(), now())";
    let mut connection = receiver.connection().await;
    sqlx::query(keep).bind(body).bind(intact).execute(&mut connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_records_all_executions_of_an_array_or_none() {
    let receiver = TestReceiver::start().await;
    let element = |id: &str| json!({ "id": id, "workflow_id": "w", "status": "completed" });
    assert_eq!(receiver.post(json!([element("a"), element("b")]).to_string()).await.status(), 422);
    assert_eq!(receiver.post(json!([element("c"), { "status": "failed" }]).to_string()).await.status(), 422);
    receiver.wait_until_recorded().await;
    let (text, code) = quarantine(&receiver, &["retry", "--all", "--map", "execution_id=id"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("recorded as a (new)") && text.contains("recorded as b (new)"), "{text}");
    assert!(text.contains("stays in quarantine: `execution_id` is missing"), "{text}");
    let kept = receiver.rows("SELECT payload FROM executions ORDER BY execution_id").await;
    assert_eq!(kept, [json!({ "payload": element("a") }), json!({ "payload": element("b") })]);
    assert_eq!(receiver.rows("SELECT * FROM quarantine").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_all_skips_damaged_bodies() {
    let receiver = TestReceiver::start().await;
    let altered = execution("altered", "faihed").to_string();
    insert_entry(&receiver, altered.as_bytes(), false).await;
    let many = "INSERT INTO quarantine (reason, body, body_sha256, deliveries, first_received_at, last_received_at)
         SELECT '?', body, sha256(body), 1, now(), now() FROM (
             SELECT convert_to(format('{\"execution_id\":\"%s\",\"workflow_id\":\"w\",\"status\":\"failed\"}', n), 'UTF8')
             FROM generate_series(1, 1100) AS n) AS b (body)";
    sqlx::raw_sql(many).execute(&mut receiver.connection().await).await.unwrap();
    let (text, code) = quarantine(&receiver, &["retry", "--all"]);
    assert!(code == Some(0) && text.ends_with("recorded 1100, not recorded 0\n"), "{text}");
    assert_eq!(receiver.row("SELECT intact FROM quarantine").await["intact"], false);
    let id = receiver.row("SELECT quarantine_id AS id FROM quarantine").await["id"].to_string();
    assert_eq!(quarantine(&receiver, &["retry", &id]).1, Some(0), "a damaged body is retried by its number");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_degrades_an_execution_that_postgresql_rejects() {
    let receiver = TestReceiver::start().await;
    fault_on(&receiver, "executions", "NEW.payload IS NOT NULL", &raise("P0001")).await;
    insert_entry(&receiver, execution("e\u{1b}", "completed").to_string().as_bytes(), true).await;
    let (text, code) = quarantine(&receiver, &["retry", "--all"]);
    assert!(code == Some(0) && text.contains(r"e\u{1b} (new)"), "{text}");
    let row = receiver.row("SELECT status, payload IS NULL AS as_bytes FROM executions").await;
    assert_eq!(row, json!({ "status": "completed", "as_bytes": true }));
}

/// The same body is received again while two retries run.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_neither_loses_nor_repeats_deliveries_received_meanwhile() {
    let receiver = TestReceiver::start().await;
    let mut sent = 0;
    for _ in 0..5 {
        let posts = async {
            for _ in 0..40 {
                assert_eq!(receiver.post(changed("e").to_string()).await.status(), 422);
            }
        };
        let retries = async || {
            let database = receiver.database.clone();
            let retry = move || {
                let dir = TempDir::new().unwrap();
                let mut command = program(dir.path());
                command.args(["quarantine", "retry", "--all", "--map", "execution_id=executionId"]);
                run_to_end(command.env("DATABASE_URL", url(&database)))
            };
            tokio::task::spawn_blocking(retry).await.unwrap()
        };
        tokio::join!(posts, retries(), retries());
        sent += 40;
    }
    receiver.wait_until_recorded().await;
    let (text, _) = quarantine(&receiver, &["retry", "--all", "--map", "execution_id=executionId"]);
    assert!(!text.contains("deadlock"), "{text}");
    assert_eq!(receiver.rows("SELECT * FROM quarantine").await, Vec::<Value>::new());
    assert_eq!(receiver.row("SELECT deliveries FROM executions").await["deliveries"], sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_deletes_entries_and_reports_missing_ones() {
    let receiver = TestReceiver::start().await;
    assert_eq!(receiver.post("{}").await.status(), 422);
    let id = receiver.row("SELECT quarantine_id AS id FROM quarantine").await["id"].to_string();
    for arguments in [["show", "999"], ["retry", "999"], ["drop", "999"]] {
        let (text, code) = quarantine(&receiver, &arguments);
        assert!(code == Some(1) && text.contains("no entry 999"), "{text}");
    }
    assert_eq!(quarantine(&receiver, &["drop", &id]), ("dropped 1\n".to_owned(), Some(0)));
    assert!(receiver.rows("SELECT * FROM quarantine").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quarantine_has_a_limit_but_always_stores_acknowledged_webhooks() {
    let receiver = TestReceiver::start_with(|settings| {
        settings.quarantine.max_rows = 3;
        settings.quarantine.max_bytes = 1_000;
    })
    .await;
    let body = |n: usize, size: usize| format!(r#"{{"n":{n},"fill":"{}"}}"#, "x".repeat(size));
    // In one batch: the body that is too large does not count against the limit.
    let held = receiver.hold_recording().await;
    assert_eq!(receiver.post(body(0, 2_000)).await.status(), 422, "larger than max_bytes");
    for n in 1..=5 {
        assert_eq!(receiver.post(body(n, 10)).await.status(), 422);
    }
    assert_eq!(receiver.post(body(1, 10)).await.status(), 422, "a body that is stored already");
    held.release().await;
    let kept = receiver.rows("SELECT deliveries FROM quarantine ORDER BY deliveries DESC").await;
    assert_eq!(kept.iter().map(|row| &row["deliveries"]).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(receiver.metric("quarantine_dropped_total").await, 3.0);
    // One by one.
    for n in 6..8 {
        assert_eq!(receiver.post(body(n, 10)).await.status(), 422);
        receiver.wait_until_recorded().await;
    }
    assert_eq!(receiver.metric("quarantine_dropped_total").await, 5.0);
    assert_eq!(receiver.rows("SELECT * FROM quarantine").await.len(), 3);

    // Answered 200, and rejected by PostgreSQL afterwards.
    fault_on(&receiver, "executions", "NEW.execution_id = 'refused'", &raise("P0001")).await;
    receiver.accept(execution("refused", "completed")).await;
    let kept = receiver.rows("SELECT acknowledged FROM quarantine WHERE acknowledged").await;
    assert_eq!(kept.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quarantine_command_reaches_a_running_private_postgresql() {
    let dir = TempDir::new().unwrap();
    let list = || run_to_end(program(dir.path()).args(["quarantine", "list"]));
    let (text, code) = list();
    assert!(code == Some(1) && text.contains("set DATABASE_URL, or start the receiver first"), "{text}");
    let mut process = Process::start(&mut program(dir.path()));
    process.wait_for("recording to PostgreSQL");
    let (text, code) = list();
    assert!(code == Some(0) && text.contains("No rows."), "{text}");
    process.terminate();
    assert_eq!(list().1, Some(1));
}

/// The first drop is logged at once, later ones together.
#[tokio::test(flavor = "multi_thread")]
async fn each_webhook_that_a_full_quarantine_drops_is_in_the_log() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let mut command = program(dir.path());
    command.env("DATABASE_URL", url(&database)).env("RECEIVER__QUARANTINE__MAX_ROWS", "1");
    let mut process = Process::start(&mut command);
    process.wait_for("recording to PostgreSQL");
    for n in 0..5 {
        let post = reqwest::Client::new().post(&process.url).body(format!("{{\"odd\":{n}}}"));
        assert_eq!(post.send().await.unwrap().status(), 422);
        until(async || process.counter("quarantine_dropped_total").await == n).await;
    }
    let lines = process.terminate().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let dropped: i64 = lines.filter_map(|line| line["dropped"].as_i64()).sum();
    assert_eq!(dropped, 4);
}
