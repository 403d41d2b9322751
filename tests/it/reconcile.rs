//! Executions whose webhook did not arrive, fetched from the sender's API. `crates/sender-stand-in` is the sender.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Client, Response};
use rusqlite::Connection as Sqlite;
use sender_stand_in::{Options, StandIn, Trigger};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use workflow_receiver::config::{Secrets, Settings};

use crate::support::fixtures::{execution, with};
use crate::support::http::problem;
use crate::support::postgres::{new_database, rows};
use crate::support::process::{Process, program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::sender::{
    KEY, SECRET, canned_api, program_with_api, receiver_with_api, receiver_with_api_at, stand_in, trigger,
    unused_address, webhook_url, with_api,
};
use crate::support::wait::{until, within};

/// The receiver uses the older host of the stand-in.
fn use_older_host(settings: &mut Settings, stand_in: &StandIn) {
    settings.eachlabs.base_url = stand_in.older_base_url();
}

/// A stand-in, and a receiver that reconciles in the background every 100 ms.
async fn in_background(change: impl FnOnce(&mut Settings)) -> (StandIn, TestReceiver) {
    let change = |settings: &mut Settings, _: &StandIn| {
        settings.reconcile.enabled = true;
        settings.reconcile.interval = Duration::from_millis(100);
        change(settings);
    };
    receiver_with_api(|_| {}, change).await
}

async fn post(receiver: &TestReceiver, query: &str) -> Response {
    let url = format!("{}/api/v1/reconcile?{query}", receiver.admin);
    within(receiver.client.post(url).send()).await.unwrap()
}

/// The last line of a complete run.
async fn reconcile(receiver: &TestReceiver, query: &str) -> Value {
    let text = post(receiver, query).await.text().await.unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["type"], "done", "{text}");
    last
}

/// `workflow-receiver reconcile`
fn command(receiver: &TestReceiver, dir: &TempDir) -> Command {
    let mut command = program(dir.path());
    command.env("RECEIVER__ADMIN__LISTEN", receiver.admin.strip_prefix("http://").unwrap()).arg("reconcile");
    command
}

/// 1,000 executions of three workflows, single and in bulks. Every seventh failed.
fn execute_a_thousand(stand_in: &StandIn, webhook_url: &str) -> Vec<String> {
    let ids = (0..1000).map(|n| {
        let url = format!("{webhook_url}?order={n}");
        let inputs = json!({ "prompt": format!("\"garden\" {n} é"), "fail": n % 7 == 0 });
        let bulk = (n % 3 == 0).then(|| format!("b0000000-0000-4000-8000-{:012}", n / 30));
        stand_in.execute(&Trigger { bulk, ..trigger(["w1", "w2", "w3"][n % 3], &url, inputs) })
    });
    ids.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_missed_while_the_receiver_was_off_are_fetched_although_the_run_is_killed() {
    let (dir, database, address) = (TempDir::new().unwrap(), new_database().await, unused_address());
    let stand_in = stand_in(|options| (options.throttle_every, options.reset_every) = (7, 5)).await;
    let start = || Process::start(&mut program_with_api(dir.path(), &database, &address, &stand_in));
    let receiver = start();
    until(async || dir.path().join("data/spool/reconciled-until").exists()).await;
    receiver.terminate();

    let ids = execute_a_thousand(&stand_in, &webhook_url(&address));
    stand_in.predict(&webhook_url(&address));
    stand_in.execute(&trigger("w1", "http://127.0.0.1:1/webhooks/workflow-completed", json!({})));
    within(stand_in.deliveries_finished()).await;

    let (mut log, mut interrupted) = (Vec::new(), 0);
    let recorded = async || {
        let count = rows(&database, "SELECT count(*) AS n FROM executions").await;
        usize::try_from(count[0]["n"].as_u64().unwrap()).unwrap()
    };
    for n in 1..=10 {
        let receiver = start();
        until(async || recorded().await >= 90 * n).await;
        receiver.signal(rustix::process::Signal::KILL);
        let lines = receiver.ended().1;
        interrupted += usize::from(
            !lines.iter().any(|line| line.contains("the comparison with each::labs is complete")),
        );
        log.extend(lines);
    }
    assert!(interrupted >= 3, "the run was killed {interrupted} times");
    let mut receiver = start();
    receiver.wait_for("the comparison with each::labs is complete");
    until(async || recorded().await == ids.len()).await;

    let row = "SELECT execution_id, payload, workflow_id, bulk_id, status, output, error, error_cause, fetched_from,
                   authenticated_by, reference->>'order' AS order_number, conflicts
               FROM executions ORDER BY execution_id";
    for (n, (row, id)) in rows(&database, row).await.into_iter().zip(&ids).enumerate() {
        let body = stand_in.body(id).unwrap();
        let expected = json!({
            "execution_id": id, "payload": body, "workflow_id": body["workflow_id"], "bulk_id": body["bulk_id"],
            "status": body["status"], "output": body["output"], "error": body["error"],
            "error_cause": body["error_cause"], "fetched_from": "delivery_log", "authenticated_by": null,
            "order_number": n.to_string(), "conflicts": null
        });
        assert_eq!(row, expected);
    }
    let metrics = reqwest::get(format!("http://{}/metrics", receiver.admin)).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    log.extend(receiver.terminate());
    let spool = std::fs::read(dir.path().join("data/spool/spool.db")).unwrap();
    let dump = "SELECT to_jsonb(e)::text || to_jsonb(b)::text AS row FROM executions AS e, change_batches AS b LIMIT 2000";
    let dump = format!("{:?}", rows(&database, dump).await);
    for secret in [KEY, SECRET] {
        for text in [&*log.join("\n"), &*metrics, &*dump, &*String::from_utf8_lossy(&spool)] {
            assert!(!text.contains(secret));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_wrong_secret_everything_since_a_time_is_fetched() {
    let (address, stand_in) = (unused_address(), stand_in(|_| {}).await);
    let wrong = TestReceiver::start_with(|settings| {
        with_api(settings, &address, stand_in.base_url());
        settings.auth.webhook_secrets = Secrets::of(&["another-webhook-secret"]);
    })
    .await;
    let execute = |count: usize| {
        let trigger = trigger("w", &webhook_url(&address), json!({ "prompt": "garden" }));
        (0..count).map(|_| stand_in.execute(&trigger)).collect::<Vec<_>>()
    };
    let ids = execute(120);
    within(stand_in.deliveries_finished()).await;
    assert_eq!(wrong.row("SELECT count(*) AS n FROM executions").await["n"], 0);
    assert!(wrong.metric("webhooks_answered_total{status=\"401\"}").await >= 360.0);

    let (dir, database) = wrong.stop().await;
    let receiver = TestReceiver::start_in(dir, database, |settings| {
        with_api(settings, &address, stand_in.base_url());
        settings.auth.webhook_secrets = Secrets::of(&[SECRET]);
    })
    .await;
    let dry = reconcile(&receiver, "since=2h&dry_run=true").await;
    assert_eq!((&dry["missing"], &dry["fetched"]), (&json!(120), &json!(0)));

    let command_dir = TempDir::new().unwrap();
    let run = || run_to_end(command(&receiver, &command_dir).args(["--since", "2h"]));
    let (text, code) = tokio::task::block_in_place(run);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("{}: fetched", ids[0])), "{text}");
    assert!(text.contains("checked 120, already recorded 0, fetched 120"), "{text}");
    assert_eq!(receiver.row("SELECT count(*) AS n FROM executions").await["n"], 120);
    assert!(receiver.metric("executions_fetched_total{source=\"delivery_log\"}").await == 120.0);

    let again = reconcile(&receiver, "since=2h").await;
    assert_eq!((&again["recorded"], &again["fetched"]), (&json!(120), &json!(0)));

    // A webhook that arrives after the fetch is a duplicate, and another one is recorded as usual.
    stand_in.redeliver(&ids[0]);
    let later = execute(1);
    within(stand_in.deliveries_finished()).await;
    let row = async |id: &str| {
        let query =
            "SELECT deliveries, redeliveries, conflicts, fetched_from, authenticated_by FROM executions";
        receiver.row(&format!("{query} WHERE execution_id = '{id}'")).await
    };
    assert_eq!(
        row(&ids[0]).await,
        json!({ "deliveries": 2, "redeliveries": 1, "conflicts": null, "fetched_from": "delivery_log", "authenticated_by": null })
    );
    assert_eq!(
        row(&later[0]).await,
        json!({ "deliveries": 1, "redeliveries": 0, "conflicts": null, "fetched_from": null, "authenticated_by": "signature" })
    );
    let shown = receiver.get(&format!("/api/v1/executions/{}", ids[0])).await.json::<Value>().await.unwrap();
    assert_eq!(shown["fetched_from"], "delivery_log");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_host_is_read_by_lists_and_single_executions() {
    let (stand_in, receiver) = receiver_with_api(|options| options.max_total = 10, use_older_host).await;
    // The workflow becomes known by a webhook.
    let known = stand_in.execute(&trigger("w", &receiver.url, json!({})));
    within(stand_in.deliveries_finished()).await;
    receiver.wait_until_recorded().await;
    let unsent = |workflow: &str, bulk: Option<&str>, inputs: Value| {
        let bulk = bulk.map(str::to_owned);
        stand_in.execute(&Trigger { bulk, webhook_url: None, ..trigger(workflow, "", inputs) })
    };
    for n in 0..150 {
        unsent("w", None, json!({ "fail": n % 2 == 0 }));
    }
    let hidden = [unsent("w", None, json!({})), unsent("w", None, json!({ "fail": true }))];
    for id in &hidden {
        stand_in.hide(id);
    }
    let done = reconcile(&receiver, "since=1h").await;
    assert_eq!(
        (&done["checked"], &done["recorded"], &done["fetched"]),
        (&json!(153), &json!(1), &json!(152))
    );
    let sources = "SELECT fetched_from, count(*) AS n FROM executions GROUP BY 1 ORDER BY 1";
    let sources = receiver.rows(sources).await;
    let expected = [(json!("execution"), 150), (json!("list"), 2), (Value::Null, 1)];
    let expected = expected.map(|(source, n)| json!({ "fetched_from": source, "n": n }));
    assert_eq!(sources, expected);

    // A row of the list lacks fields, but a later webhook with the same status is a duplicate.
    for (id, status) in hidden.iter().zip(["completed", "failed"]) {
        let body = with(execution(id, status), json!({ "output": "another form", "bulk_id": "b" }));
        receiver.accept(body).await;
    }
    receiver.accept(execution(&hidden[0], "failed")).await;
    let query =
        "SELECT deliveries, conflicts FROM executions WHERE fetched_from = 'list' ORDER BY execution_id";
    let expected =
        [json!({ "deliveries": 3, "conflicts": 1 }), json!({ "deliveries": 2, "conflicts": null })];
    assert_eq!(receiver.rows(query).await, expected);
    let query = format!("SELECT fetched_from FROM executions WHERE execution_id = '{known}'");
    assert_eq!(receiver.row(&query).await["fetched_from"], Value::Null);

    // Bulks of a workflow that is not known, with an identifier that the API filters by, and with another one.
    let uuid = "b0000000-0000-4000-8000-000000000001";
    for bulk in [uuid, "spring", "other"] {
        (0..3).for_each(|_| drop(unsent("v", Some(bulk), json!({}))));
    }
    let answer = post(&receiver, &format!("bulk={uuid}")).await.text().await.unwrap();
    assert!(answer.contains("\"failed\"") && answer.contains("add the workflow"), "{answer}");
    for (query, fetched) in [
        (format!("bulk={uuid}&workflow=v"), 3),
        ("bulk=spring&workflow=v".to_owned(), 3),
        ("workflow=v".to_owned(), 3),
        (format!("bulk={uuid}"), 0),
        (format!("execution={known}"), 0),
    ] {
        assert_eq!(reconcile(&receiver, &query).await["fetched"], fetched, "{query}");
    }
}

/// Triggers a bulk of 10 through the stand-in: two inputs are rejected, and the webhook of one is lost. Registers the
/// response. Returns the bulk, and the executions with a webhook and without one.
async fn bulk_of_ten(receiver: &TestReceiver, stand_in: &StandIn) -> (String, Vec<String>, String) {
    let inputs: Vec<_> =
        (0..10).map(|n| json!({ "reject": n == 2 || n == 7, "lose": n == 4, "fail": n == 5 })).collect();
    let body = json!({ "inputs": inputs, "webhook_url": receiver.url, "webhook_secret": SECRET });
    let url = format!("{}/v1/workflows/bulk-trigger/w/1", stand_in.base_url());
    let answer = receiver.client.post(url).header("X-API-Key", KEY).json(&body).send().await.unwrap();
    let response: Value = answer.json().await.unwrap();
    within(stand_in.deliveries_finished()).await;
    let expected = format!("{}/api/v1/expected", receiver.admin);
    assert_eq!(receiver.client.post(expected).json(&response).send().await.unwrap().status(), 200);
    let mut ids: Vec<_> = response["executions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|e| e["execution_id"].as_str())
        .map(str::to_owned)
        .collect();
    // One of the two rejected inputs is before the lost one.
    let lost = ids.remove(3);
    (response["bulk_id"].as_str().unwrap().to_owned(), ids, lost)
}

/// Complete, expected, received, missing, rejected.
async fn progress(receiver: &TestReceiver, bulk: &str) -> Value {
    let detail: Value = receiver.get(&format!("/api/v1/bulks/{bulk}")).await.json().await.unwrap();
    json!([detail["complete"], detail["expected"], detail["received"], detail["missing"], detail["rejected"]])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_of_ten_with_two_rejected_a_lost_webhook_and_a_duplicate_is_fetched() {
    let (stand_in, receiver) = receiver_with_api(|_| {}, |_, _| {}).await;
    let (bulk, delivered, lost) = bulk_of_ten(&receiver, &stand_in).await;
    stand_in.redeliver(&delivered[0]);
    within(stand_in.deliveries_finished()).await;
    receiver.wait_until_recorded().await;
    assert_eq!(progress(&receiver, &bulk).await, json!([false, 8, 7, 1, 2]));

    let done = reconcile(&receiver, &format!("bulk={bulk}")).await;
    assert_eq!((&done["checked"], &done["fetched"]), (&json!(8), &json!(1)), "{done}");
    receiver.wait_until_recorded().await;
    assert_eq!(progress(&receiver, &bulk).await, json!([true, 8, 8, 0, 2]));
    let query = "SELECT execution_id, fetched_from FROM executions WHERE fetched_from IS NOT NULL";
    assert_eq!(receiver.rows(query).await, [json!({ "execution_id": lost, "fetched_from": "delivery_log" })]);
    let query = format!("SELECT deliveries FROM executions WHERE execution_id = '{}'", delivered[0]);
    assert_eq!(receiver.row(&query).await["deliveries"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overdue_execution_is_requested_in_the_background() {
    let (stand_in, receiver) = in_background(|settings| {
        settings.expected.overdue_after = Duration::from_millis(1);
    })
    .await;
    let (bulk, ..) = bulk_of_ten(&receiver, &stand_in).await;
    until(async || progress(&receiver, &bulk).await == json!([true, 8, 8, 0, 2])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_stays_running_is_requested_and_one_that_the_sender_lost_is_not_requested_again() {
    let (stand_in, receiver) = in_background(|settings| {
        settings.reconcile.running_after = Duration::from_millis(100);
    })
    .await;
    let trigger = trigger("w", &receiver.url, json!({}));
    let [logged, unlogged] = [(), ()].map(|()| stand_in.begin(&trigger));
    for id in [&*logged, &*unlogged, "lost"] {
        receiver.accept(execution(id, "running")).await;
    }
    stand_in.end(&logged);
    stand_in.end(&unlogged);
    stand_in.remove_deliveries(&unlogged);
    let query = "SELECT e.execution_id, e.status, e.fetched_from, coalesce(c.absent, false) AS absent
        FROM executions AS e LEFT JOIN reconcile_checks AS c USING (execution_id) ORDER BY 1";
    let row = |id: &str, status: &str, from: Option<&str>, absent: bool| json!({ "execution_id": id, "status": status, "fetched_from": from, "absent": absent });
    let expected = [
        row(&logged, "completed", Some("delivery_log"), false),
        row(&unlogged, "completed", Some("execution"), false),
        row("lost", "running", None, true),
    ];
    // Checks that are too old to prevent a request.
    let old = "INSERT INTO reconcile_checks VALUES ('old', now() - interval '31 days', true);
        INSERT INTO absent_workflows VALUES ('old', now() - interval '31 days')";
    sqlx::raw_sql(old).execute(&mut receiver.connection().await).await.unwrap();
    until(async || {
        let rows = receiver.rows(query).await;
        rows.iter().zip(&expected).all(|(row, expected)| {
            ["status", "fetched_from"].iter().all(|field| row[*field] == expected[*field])
                && (row["execution_id"] != "lost" || row["absent"] == true)
        })
    })
    .await;

    let (requests, success) =
        (stand_in.requests(), receiver.metric("reconcile_success_timestamp_seconds").await);
    // Several rounds later.
    until(async || receiver.metric("reconcile_success_timestamp_seconds").await >= success + 2.0).await;
    assert_eq!(stand_in.requests(), requests, "nothing is due");
    assert_eq!(receiver.metric("reconcile_failing").await, 0.0);
    let done = reconcile(&receiver, "execution=lost").await;
    assert_eq!(done["absent"], 1, "an operator can request it again");
    let old = "SELECT FROM reconcile_checks WHERE execution_id = 'old'
        UNION ALL SELECT FROM absent_workflows";
    assert!(receiver.rows(old).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_are_not_marked_if_the_sender_has_none_of_them() {
    let (stand_in, receiver) = in_background(|settings| {
        settings.reconcile.running_after = Duration::from_millis(100);
    })
    .await;
    for id in ["a", "b"] {
        receiver.accept(execution(id, "running")).await;
    }
    receiver.wait_until_recorded().await;
    until(async || {
        // The first rounds may find only one of them, and mark it.
        let clear = "DELETE FROM reconcile_checks";
        sqlx::raw_sql(clear).execute(&mut receiver.connection().await).await.unwrap();
        receiver.metric("reconcile_failing").await == 1.0
    })
    .await;
    let absent = "SELECT FROM reconcile_checks WHERE absent";
    assert!(receiver.rows(absent).await.is_empty());

    let known = stand_in.begin(&trigger("w", "", json!({})));
    receiver.accept(execution(&known, "running")).await;
    until(async || receiver.rows(absent).await.len() == 2).await;
    until(async || receiver.metric("reconcile_failing").await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_the_sender_does_not_have_is_marked_and_not_requested_again() {
    let (stand_in, receiver) = receiver_with_api(|_| {}, use_older_host).await;
    receiver.accept(with(execution("e", "completed"), json!({ "workflow_id": "gone" }))).await;
    receiver.wait_until_recorded().await;
    // If each::labs has no recorded workflow, the key is probably wrong: nothing is marked.
    let failed = post(&receiver, "since=1h").await.text().await.unwrap();
    assert!(failed.contains("none of the recorded workflows"), "{failed}");
    let marked = "SELECT workflow_id FROM absent_workflows";
    assert!(receiver.rows(marked).await.is_empty());

    stand_in.execute(&trigger("w", &receiver.url, json!({})));
    within(stand_in.deliveries_finished()).await;
    receiver.wait_until_recorded().await;
    let requests = async || {
        let before = stand_in.requests();
        reconcile(&receiver, "since=1h").await;
        stand_in.requests() - before
    };
    assert_eq!(requests().await, 2);
    assert_eq!(receiver.rows(marked).await, [json!({ "workflow_id": "gone" })]);
    assert_eq!(requests().await, 1, "only the list of w");
    let by_hand = post(&receiver, "workflow=gone").await.text().await.unwrap();
    assert!(by_hand.contains("no workflow with this identifier"), "{by_hand}");
    assert_eq!(stand_in.requests(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_api_is_reported_without_the_key() {
    let other_key = |options: &mut Options| options.api_key = "the-other-key".into();
    let (_stand_in, receiver) = receiver_with_api(other_key, |_, _| {}).await;
    let answer = post(&receiver, "since=1h").await.text().await.unwrap();
    let failed: Value = serde_json::from_str(answer.lines().last().unwrap()).unwrap();
    assert_eq!(failed["type"], "failed");
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("rejected the key (HTTP 401): check eachlabs.api_key"), "{error}");
    assert!(error.ends_with("invalid api key (key)"), "{error}");
    assert!(receiver.metric("eachlabs_requests_total{result=\"denied\"}").await == 1.0);
    let dir = TempDir::new().unwrap();
    let run = || run_to_end(command(&receiver, &dir).args(["e1", "e2"]));
    let (text, code) = tokio::task::block_in_place(run);
    assert_eq!(code, Some(1));
    assert!(text.contains("rejected the key") && !text.contains(KEY), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconciliation_needs_a_key_and_is_rejected_from_a_web_page() {
    let receiver = TestReceiver::start().await;
    assert_eq!(problem(post(&receiver, "since=1h").await, 409).await.0, "no-api-key");
    for query in ["", "since=1h&workflow=w", "execution=e&bulk=b"] {
        let (kind, detail) = problem(post(&receiver, query).await, 400).await;
        assert!(
            kind == "bad-parameter" && detail.contains("Only bulk and workflow can be combined"),
            "{detail}"
        );
    }
    let url = format!("{}/api/v1/reconcile?since=1h", receiver.admin);
    let answer = Client::new().post(url).header("Origin", "https://evil.example").send().await.unwrap();
    assert_eq!(problem(answer, 403).await.0, "cross-site");
}

async fn register(receiver: &TestReceiver, response: &Value) {
    let url = format!("{}/api/v1/expected", receiver.admin);
    let answer = receiver.client.post(url).json(response).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_form_does_not_count_as_an_empty_log() {
    let log = Arc::new(Mutex::new(Value::Null));
    let shown = log.clone();
    let (address, _requests) = canned_api(move |_| (200, shown.lock().unwrap().clone())).await;
    let receiver = receiver_with_api_at(address, |_| {}).await;
    let set = |answer: Value| *log.lock().unwrap() = answer;
    let failure = async || {
        let text = post(&receiver, "since=1h").await.text().await.unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        (last["type"].clone(), last["error"].to_string())
    };
    let unavailable = json!({ "error": "temporarily unavailable", "webhooks": null });
    for answer in [unavailable, json!({}), json!({ "data": { "webhooks": [] } })] {
        set(answer);
        let (kind, error) = failure().await;
        assert!(kind == "failed" && error.contains("a list without its rows"), "{error}");
    }
    set(json!({ "webhooks": [{ "target": receiver.url, "body": "{}" }], "limit": 100, "total_count": 1 }));
    assert_eq!(reconcile(&receiver, "since=1h").await["unusable"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_webhooks_of_other_urls_only_hints_at_the_setting() {
    let (stand_in, receiver) = receiver_with_api(|_| {}, |_, _| {}).await;
    stand_in.end(&stand_in.begin(&trigger("w", "http://127.0.0.1:1/webhooks/workflow-completed", json!({}))));
    let done = reconcile(&receiver, "since=1h").await;
    assert_eq!((&done["checked"], &done["other_urls"]), (&json!(0), &json!(1)));
    let dir = TempDir::new().unwrap();
    let run = || run_to_end(command(&receiver, &dir).args(["--since", "1h"]));
    let (text, code) = tokio::task::block_in_place(run);
    assert!(code == Some(0) && text.contains("sent to other URLs 1"), "{text}");
    assert!(text.contains("check eachlabs.webhook_url"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_in_a_fetched_execution_are_not_stored() {
    let (stand_in, receiver) = receiver_with_api(|_| {}, |_, _| {}).await;
    let fields = json!({
        "status": "completed",
        "inputs": { "api_key": "nested-key", "prompt": "api_key" },
        "step_outputs": { "s": { "API_KEY": ["another-key"] } },
        "webhook_secret": "a-nested-secret"
    });
    let [logged, unlogged] = [(), ()].map(|()| {
        let id = stand_in.begin(&trigger("w", &receiver.url, json!({})));
        stand_in.end_with(&id, fields.clone());
        id
    });
    stand_in.remove_deliveries(&unlogged);
    for (id, source) in [(logged, "delivery_log"), (unlogged, "execution")] {
        assert_eq!(reconcile(&receiver, &format!("execution={id}")).await["fetched"], 1);
        receiver.wait_until_recorded().await;
        let row = format!("SELECT fetched_from, payload FROM executions WHERE execution_id = '{id}'");
        let row = receiver.row(&row).await;
        assert_eq!(row["fetched_from"], source);
        let text = row["payload"].to_string();
        assert!(!["nested-key", "another-key", "a-nested-secret"].iter().any(|secret| text.contains(secret)));
        assert_eq!(row["payload"]["inputs"], json!({ "api_key": null, "prompt": "api_key" }));
    }
}

/// An API that has the execution `good`, an unusable answer for `odd…`, 400 for `bad…`, and nothing else.
fn one_good_execution(path: &str) -> (u16, Value) {
    let id = path.rsplit('/').next().unwrap();
    match path {
        "/v1/workflows/executions/good" => (200, execution("good", "completed")),
        _ if id.starts_with("odd") && path.contains("executions") => {
            (200, json!({ "id": id, "state": "done" }))
        }
        _ if id.starts_with("bad") => (400, json!({ "error": "must be a UUID" })),
        _ => (404, json!({ "error": "not found" })),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_cannot_be_fetched_is_stored_as_checked_and_does_not_end_the_run() {
    let (address, _requests) = canned_api(one_good_execution).await;
    let receiver = receiver_with_api_at(address, |_| {}).await;
    let ids = ["bad", "gone", "odd", "good"].map(|id| json!({ "execution_id": id, "status": "queued" }));
    register(&receiver, &json!({ "bulk_id": "b", "executions": ids })).await;
    let done = reconcile(&receiver, "bulk=b").await;
    assert_eq!(
        json!([done["checked"], done["fetched"], done["absent"], done["unusable"]]),
        json!([4, 1, 2, 1])
    );
    let checks = "SELECT execution_id, absent FROM reconcile_checks ORDER BY 1";
    let check = |id: &str, absent: bool| json!({ "execution_id": id, "absent": absent });
    assert_eq!(receiver.rows(checks).await, [check("bad", true), check("gone", true), check("odd", false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_that_cannot_be_fetched_do_not_delay_others_in_the_background() {
    for kind in ["odd", "gone"] {
        let (address, _requests) = canned_api(one_good_execution).await;
        let receiver = receiver_with_api_at(address, |settings| {
            settings.eachlabs.webhook_url = String::new();
            settings.reconcile.enabled = true;
            settings.reconcile.interval = Duration::from_millis(100);
            settings.expected.overdue_after = Duration::from_millis(1);
        })
        .await;
        let ids: Vec<_> = (0..500).map(|n| json!({ "execution_id": format!("{kind}{n}") })).collect();
        register(&receiver, &json!({ "bulk_id": "b", "executions": ids })).await;
        register(&receiver, &json!({ "execution_id": "good" })).await;
        until(async || receiver.rows("SELECT FROM executions").await.len() == 1).await;
        until(async || receiver.rows("SELECT FROM reconcile_checks").await.len() == 500).await;
        assert!(receiver.rows("SELECT FROM reconcile_checks WHERE absent").await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_webhook_that_was_answered_503_opens_a_gap() {
    let (stand_in, receiver) = in_background(|settings| {
        settings.http.max_body_bytes = 1 << 20;
        settings.http.max_bytes_in_flight = 100_000;
    })
    .await;
    // The first start has no gap.
    until(async || receiver.dir.path().join("spool/reconciled-until").exists()).await;
    let lost = stand_in.begin(&trigger("w", &receiver.url, json!({})));
    stand_in.end(&lost);
    let large = with(execution("large", "completed"), json!({ "output": "x".repeat(200_000) }));
    assert_eq!(receiver.post(large.to_string().into_bytes()).await.status(), 503);
    let fetched = "SELECT execution_id FROM executions WHERE fetched_from = 'delivery_log'";
    until(async || receiver.rows(fetched).await == [json!({ "execution_id": lost })]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_deliveries_that_the_spool_has_lost_are_fetched() {
    for damage in ["DELETE FROM deliveries", "UPDATE deliveries SET body = zeroblob(length(body))"] {
        let (stand_in, receiver) = in_background(|_| {}).await;
        // The first start has no gap.
        until(async || receiver.dir.path().join("spool/reconciled-until").exists()).await;
        let held = receiver.hold_recording().await;
        let file = Sqlite::open(receiver.spool_file()).unwrap();
        let before: i64 = file.query_row("SELECT max(seq) FROM deliveries", [], |row| row.get(0)).unwrap();
        let mut ids: Vec<_> =
            (0..3).map(|_| stand_in.execute(&trigger("w", &receiver.url, json!({})))).collect();
        within(stand_in.deliveries_finished()).await;
        assert_eq!(file.execute(&format!("{damage} WHERE seq > ?"), [before]).unwrap(), 3);
        held.release().await;
        receiver.accept(execution("later", "completed")).await;
        ids.sort();
        let expected: Vec<_> = ids.iter().map(|id| json!({ "execution_id": id })).collect();
        let fetched = "SELECT execution_id FROM executions WHERE fetched_from = 'delivery_log' ORDER BY 1";
        until(async || receiver.rows(fetched).await == expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reports_that_it_waits_for_another_run() {
    let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = receiver_with_api_at(format!("http://{}", api.local_addr().unwrap()), |_| {}).await;
    let _first = post(&receiver, "execution=a").await;
    // The API does not answer the first run.
    let _connection = within(api.accept()).await.unwrap();
    let mut second = post(&receiver, "execution=b").await;
    let line = within(second.chunk()).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), json!({ "type": "waiting" }));
}
