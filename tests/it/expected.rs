//! Expected executions: registered responses of trigger and bulk-trigger.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Response;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::fixtures::{execution, with};
use crate::support::http::{get_json, item_fields, problem};
use crate::support::postgres::url;
use crate::support::process::{program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::rollups::assert_counts_are_right;
use crate::support::sender::{ApiRequest, canned_api};
use crate::support::wait::{until, within};

const PATH: &str = "/api/v1/expected";

/// The response of a bulk-trigger with accepted inputs `1` to `accepted`, and then rejected ones.
fn bulk_response(accepted: usize, rejected: usize) -> Value {
    let queued = (1..=accepted).map(|n| json!({ "execution_id": n.to_string(), "status": "queued" }));
    let failed = (0..rejected).map(|_| json!({ "status": "failed", "message": "no prompt" }));
    json!({ "bulk_id": "b", "executions": queued.chain(failed).collect::<Vec<_>>() })
}

async fn post_response(receiver: &TestReceiver, response: &Value) -> Response {
    receiver.client.post(format!("{}{PATH}", receiver.admin)).json(response).send().await.unwrap()
}

async fn register(receiver: &TestReceiver, response: &Value) -> Value {
    let answer = post_response(receiver, response).await;
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn ended(id: &str) -> Value {
    with(execution(id, "completed"), json!({ "bulk_id": "b" }))
}

/// The executions in the list with this query.
async fn listed(receiver: &TestReceiver, query: &str) -> Vec<Value> {
    let page = get_json(receiver, &format!("{PATH}?{query}")).await;
    item_fields(&page, "execution_id").into_iter().cloned().collect()
}

async fn progress(receiver: &TestReceiver) -> Value {
    let bulk = get_json(receiver, "/api/v1/bulks/b").await;
    json!([bulk["complete"], bulk["received"], bulk["expected"], bulk["missing"], bulk["rejected"]])
}

const COMPLETED: &str = "SELECT change FROM changes WHERE type = 'bulk.completed'";

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_of_ten_with_rejected_inputs_a_duplicate_and_a_lost_webhook_shows_what_is_missing() {
    let receiver = TestReceiver::start().await;
    // Before the registration.
    for id in ["1", "2", "2"] {
        receiver.accept(ended(id)).await;
    }
    receiver.wait_until_recorded().await;
    let references = (1..=10).map(|n| json!({ "order": n })).collect::<Vec<_>>();
    let registered =
        register(&receiver, &with(bulk_response(8, 2), json!({ "references": references }))).await;
    assert_eq!(registered, json!({ "bulk_id": "b", "expected": 8, "rejected": 2, "is_new": true }));
    let own = format!("{}?order=own", receiver.url);
    receiver.client.post(own).body(ended("3").to_string()).send().await.unwrap();
    for id in ["4", "5", "6", "8"] {
        receiver.accept(ended(id)).await;
    }
    receiver.accept(with(ended("7"), json!({ "status": "running" }))).await;
    receiver.wait_until_recorded().await;
    assert_eq!(progress(&receiver).await, json!([false, 8, 8, 1, 2]));
    let missing = get_json(&receiver, "/api/v1/bulks/b").await["missing_executions"].clone();
    let item = &missing["items"][0];
    assert_eq!(missing["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        json!([item["execution_id"], item["position"], item["state"], item["status"], item["reference"]]),
        json!(["7", 7, "missing", "running", { "order": "7" }])
    );
    assert_eq!(receiver.row("SELECT execution_id FROM missing_executions").await["execution_id"], "7");
    assert_eq!(receiver.rows(COMPLETED).await.len(), 0);
    let rejected = get_json(&receiver, &format!("{PATH}?state=rejected&bulk=b")).await;
    assert_eq!(item_fields(&rejected, "position"), [9, 10]);
    assert_eq!(item_fields(&rejected, "message"), ["no prompt", "no prompt"]);
    assert_eq!(listed(&receiver, "state=arrived").await, ["1", "2", "3", "4", "5", "6", "8"]);

    receiver.accept(ended("7")).await;
    receiver.wait_until_recorded().await;
    assert_eq!(progress(&receiver).await, json!([true, 8, 8, 0, 2]));
    until(async || receiver.rows(COMPLETED).await.len() == 1).await;
    assert!(listed(&receiver, "state=missing").await.is_empty());
    // The reference is copied where the webhook's URL had none.
    let copied = "SELECT count(*) FROM executions WHERE reference ->> 'order' = execution_id";
    until(async || receiver.row(copied).await["count"] == 7).await;
    let found = get_json(&receiver, "/api/v1/executions?reference=order=7").await;
    assert_eq!(item_fields(&found, "execution_id"), ["7"]);
    let own = receiver.row("SELECT reference FROM executions WHERE execution_id = '3'").await;
    assert_eq!(own["reference"], json!({ "order": "own" }));
    until(async || receiver.rows("SELECT FROM expected_executions WHERE NOT settled").await.len() == 2).await;
    assert_eq!(listed(&receiver, "state=arrived").await.len(), 8, "settled executions are still listed");
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_after_all_webhooks_completes_the_bulk_once() {
    let receiver = TestReceiver::start().await;
    for id in ["1", "2", "3"] {
        receiver.accept(ended(id)).await;
    }
    receiver.wait_until_recorded().await;
    assert_eq!(progress(&receiver).await, json!([null, 3, null, null, null]));
    let registered = register(&receiver, &bulk_response(3, 0)).await;
    assert_eq!(registered["is_new"], true);
    assert_eq!(progress(&receiver).await, json!([true, 3, 3, 0, 0]));
    let rows = "SELECT * FROM expected_executions ORDER BY expected_id";
    until(async || receiver.rows("SELECT FROM expected_executions WHERE settled").await.len() == 3).await;
    let before = receiver.rows(rows).await;
    let again = register(&receiver, &bulk_response(3, 0)).await;
    assert_eq!(again, json!({ "bulk_id": "b", "expected": 3, "rejected": 0, "is_new": false }));
    until(async || receiver.rows(COMPLETED).await.len() == 1).await;
    assert_eq!(receiver.rows(rows).await, before);

    // Another response contradicts the registered one.
    for other in [
        bulk_response(2, 0),
        bulk_response(4, 0),
        bulk_response(2, 1),
        with(bulk_response(3, 0), json!({ "bulk_id": "c" })),
        with(bulk_response(3, 0), json!({ "references": [{ "a": "b" }, null, null] })),
        json!({ "execution_id": "1", "status": "queued" }),
    ] {
        let (kind, detail) = problem(post_response(&receiver, &other).await, 409).await;
        assert_eq!(kind, "already-registered", "{detail}");
        assert_eq!(receiver.rows(rows).await, before, "{other}");
    }
    assert!(receiver.rows("SELECT FROM bulks WHERE bulk_id = 'c'").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_registrations_of_one_response_and_its_webhooks_agree() {
    let receiver = TestReceiver::start().await;
    let response = bulk_response(20, 1);
    let registrations = (0..8).map(|_| register(&receiver, &response));
    let webhooks = (1..=20).map(|n| receiver.accept(ended(&n.to_string())));
    let (registered, _) =
        tokio::join!(futures_util::future::join_all(registrations), futures_util::future::join_all(webhooks));
    assert_eq!(registered.iter().filter(|registered| registered["is_new"] == true).count(), 1);
    receiver.wait_until_recorded().await;
    assert_eq!(progress(&receiver).await, json!([true, 20, 20, 0, 1]));
    until(async || receiver.rows(COMPLETED).await.len() == 1).await;
    assert_eq!(receiver.metric("record_retries_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_whose_inputs_were_all_rejected_is_complete() {
    let receiver = TestReceiver::start().await;
    register(&receiver, &bulk_response(0, 2)).await;
    assert_eq!(progress(&receiver).await, json!([true, 0, 0, 0, 2]));
    until(async || receiver.rows(COMPLETED).await.len() == 1).await;
    let bulks = get_json(&receiver, "/api/v1/bulks?complete=yes").await;
    assert_eq!(item_fields(&bulks, "bulk_id"), ["b"], "a registered bulk is listed without a webhook");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_is_overdue_until_its_webhook_arrives() {
    let receiver = TestReceiver::start().await;
    register(&receiver, &json!({ "trigger_id": "e", "status": "queued", "workflow_id": "w" })).await;
    register(&receiver, &json!({ "execution_id": "f", "status": "queued", "reference": { "order": 1 } }))
        .await;
    assert_eq!(listed(&receiver, "state=missing").await, ["f", "e"]);
    assert!(listed(&receiver, "state=overdue").await.is_empty());
    let due = receiver
        .row("SELECT due_at - registered_at = '20 minutes' AS right FROM expected_executions LIMIT 1");
    assert_eq!(due.await["right"], true);
    sqlx::raw_sql("UPDATE expected_executions SET due_at = now() WHERE execution_id = 'e'")
        .execute(&mut receiver.connection().await)
        .await
        .unwrap();
    assert_eq!(listed(&receiver, "state=overdue").await, ["e"]);
    assert_eq!(listed(&receiver, "state=missing").await, ["f", "e"], "also the overdue ones");
    assert_eq!(receiver.row("SELECT execution_id FROM overdue_executions").await["execution_id"], "e");
    // The count follows the next delivery, or 15 s.
    receiver.accept(execution("other", "completed")).await;
    until(async || receiver.metric("executions_overdue").await == 1.0).await;
    receiver.accept(execution("e", "failed")).await;
    until(async || receiver.metric("executions_overdue").await == 0.0).await;
    assert!(listed(&receiver, "state=overdue").await.is_empty());
    let paged = get_json(&receiver, &format!("{PATH}?limit=1")).await;
    let next = paged["next"].as_str().unwrap();
    assert_eq!(listed(&receiver, &format!("limit=1&cursor={next}")).await, ["e"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_is_not_possible_is_rejected_with_the_reason() {
    let receiver =
        TestReceiver::start_with(|settings| settings.admin.token = "a-long-enough-token".into()).await;
    let post = |kind: &'static str, body: String| {
        let request = receiver.client.post(format!("{}{PATH}", receiver.admin)).header("content-type", kind);
        request.bearer_auth("a-long-enough-token").body(body).send()
    };
    let json = "application/json; charset=utf-8";
    for (kind, body, status, problem_kind, part) in [
        (json, "{".to_owned(), 400, "not-a-trigger-response", "not JSON (line 1"),
        (json, r#"{"bulk_id":"b"}"#.to_owned(), 400, "not-a-trigger-response", "`executions` is missing"),
        (json, " ".repeat(2 << 20), 413, "too-large", "1048576 bytes"),
        ("text/plain", bulk_response(1, 0).to_string(), 415, "not-json-type", "application/json"),
    ] {
        let (found, detail) = problem(post(kind, body).await.unwrap(), status).await;
        assert!(found == problem_kind && detail.contains(part), "{found}: {detail}");
    }
    let (kind, _) = problem(post_response(&receiver, &bulk_response(1, 0)).await, 401).await;
    assert_eq!(kind, "no-token");
    assert!(receiver.rows("SELECT FROM expected_executions").await.is_empty());
    let accepted = post(json, bulk_response(1, 0).to_string()).await.unwrap();
    assert_eq!(accepted.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expected_execution_is_removed_with_its_execution_or_by_its_own_age() {
    let receiver = TestReceiver::start().await;
    register(&receiver, &bulk_response(2, 1)).await;
    register(&receiver, &with(bulk_response(0, 1), json!({ "bulk_id": "young" }))).await;
    receiver.accept(ended("1")).await;
    receiver.wait_until_recorded().await;
    let age = "UPDATE expected_executions SET registered_at = registered_at - interval '3 days' WHERE bulk_id = 'b';
        UPDATE executions SET first_received_at = first_received_at - interval '3 days',
            last_received_at = last_received_at - interval '3 days', recorded_at = recorded_at - interval '3 days'";
    sqlx::raw_sql(age).execute(&mut receiver.connection().await).await.unwrap();
    let mut prune = program(receiver.dir.path());
    prune
        .arg("prune")
        .env("DATABASE_URL", url(&receiver.database))
        .env("RECEIVER__RETENTION__EXECUTIONS", "2d");
    let (text, code) = run_to_end(&mut prune);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.lines().any(|line| line.starts_with("expected") && line.contains(" 2 ")), "{text}");
    let left = receiver.rows("SELECT bulk_id FROM expected_executions").await;
    assert_eq!(left, [json!({ "bulk_id": "young" })]);
}

fn command(receiver: &TestReceiver, arguments: &[&str]) -> Command {
    let mut command = program(receiver.dir.path());
    command.args(arguments).env("DATABASE_URL", url(&receiver.database));
    command
}

fn run(receiver: &TestReceiver, arguments: &[&str]) -> (String, Option<i32>) {
    run_to_end(&mut command(receiver, arguments))
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_register_responses_and_say_why_a_bulk_is_incomplete() {
    let receiver = TestReceiver::start().await;
    let file = receiver.dir.path().join("responses");
    let responses =
        format!("{}\n{}", bulk_response(3, 1), json!({ "execution_id": "single", "status": "queued" }));
    std::fs::write(&file, &responses).unwrap();
    let (text, code) =
        run(&receiver, &["register", "responses", "--reference", "order=1234", "--workflow", "w"]);
    assert_eq!(
        (&*text, code),
        ("registered  bulk b: 3 expected, 1 rejected\nregistered  1 expected\n", Some(0))
    );
    let mut again = command(&receiver, &["register", "-", "--json"]);
    let again = again.stdin(Stdio::from(std::fs::File::open(&file).unwrap())).output().unwrap();
    let again = String::from_utf8(again.stdout).unwrap();
    let is_new = again.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["is_new"].clone());
    assert_eq!(is_new.collect::<Vec<_>>(), [false, false]);

    receiver.accept(ended("1")).await;
    receiver.accept(with(ended("2"), json!({ "status": "running" }))).await;
    receiver.wait_until_recorded().await;
    let (bulk, _) = run(&receiver, &["bulks", "b"]);
    for part in [
        "complete        no: 2 missing: 1 not received, 1 running\n",
        "rejected        1 input\n",
        "order=1234",
    ] {
        assert!(bulk.contains(part), "{part}: {bulk}");
    }
    let (bulks, _) = run(&receiver, &["bulks", "--complete", "no"]);
    assert!(bulks.contains("no: 2 missing: 1 not received, 1 running"), "{bulks}");
    let (missing, _) = run(&receiver, &["expected", "--state", "missing", "--json"]);
    let ids =
        missing.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["execution_id"].clone());
    assert_eq!(ids.collect::<Vec<_>>(), ["single", "2", "3"]);
    let (rejected, _) = run(&receiver, &["expected", "--state", "rejected", "--bulk", "b"]);
    assert!(rejected.lines().count() == 2 && rejected.contains("no prompt"), "{rejected}");

    for (arguments, part) in [
        (
            &["bulks", "set-size", "b", "7"][..],
            "the response of bulk-trigger is registered for bulk \"b\": 3 executions",
        ),
        (
            &["bulks", "set-size", "mistyped", "7"],
            "no execution of bulk \"mistyped\" is recorded. If the identifier is right, use --force",
        ),
        (&["bulks", "set-size", "mistyped", "--unset"], "unknown bulk \"mistyped\""),
        (&["register", "absent"], "absent: No such file"),
    ] {
        let (text, code) = run(&receiver, arguments);
        assert!(code == Some(1) && text.contains(part), "{text}");
    }
    std::fs::write(&file, r#"{"execution_id":"x"} {"bulk_id":"y"}"#).unwrap();
    let (text, code) = run(&receiver, &["register", "responses"]);
    assert!(code == Some(1) && text.contains("response 2: `executions` is missing"), "{text}");
    let (text, code) = run(&receiver, &["bulks", "set-size", "b", "1", "--force"]);
    assert!(
        code == Some(0) && text.contains("complete        yes: 1 more than expected, 1 running\n"),
        "{text}"
    );
}

/// An API of `each::labs` that answers every request with `response`. Returns its address and the requests.
async fn stand_in(response: Value) -> (String, mpsc::UnboundedReceiver<ApiRequest>) {
    canned_api(move |_| (200, response.clone())).await
}

/// The command with settings of the API at `address`.
fn api_command(receiver: &TestReceiver, address: &str, arguments: &[&str]) -> Command {
    let mut command = command(receiver, arguments);
    command
        .env("RECEIVER__EACHLABS__BASE_URL", address)
        .env("RECEIVER__EACHLABS__API_KEY", "the-api-key")
        .env("RECEIVER__AUTH__WEBHOOK_SECRETS", "a-webhook-secret-of-this-receiver")
        .env("RECEIVER__EACHLABS__WEBHOOK_URL", WEBHOOK_URL);
    command
}

const WEBHOOK_URL: &str = "https://hooks.example.com/webhooks/workflow-completed";

#[tokio::test(flavor = "multi_thread")]
async fn trigger_commands_call_the_api_with_the_webhook_url_and_the_secret_and_register_the_response() {
    let receiver = TestReceiver::start().await;
    std::fs::write(receiver.dir.path().join("inputs"), r#"[{"prompt": "a"}, {"prompt": "b"}]"#).unwrap();
    std::fs::write(receiver.dir.path().join("input"), r#"{"prompt": "a"}"#).unwrap();
    let with_api = |address: &str, arguments: &[&str]| {
        let mut command = api_command(&receiver, address, arguments);
        tokio::task::spawn_blocking(move || run_to_end(&mut command))
    };
    let (address, mut requests) = stand_in(bulk_response(1, 1)).await;
    let arguments =
        ["bulk-trigger", "inputs", "--workflow", "w", "--workflow-version", "3", "--reference", "order=9"];
    let (text, code) = with_api(&address, &arguments).await.unwrap();
    assert!(code == Some(0) && text.contains("bulk b: 1 expected, 1 rejected"), "{text}");
    assert!(text.contains(r#""execution_id":"1""#) && !text.contains("secret"), "{text}");
    let (path, key, body) = within(requests.recv()).await.unwrap();
    assert_eq!((&*path, &*key), ("/v1/workflows/bulk-trigger/w/3", "the-api-key"));
    let expected = json!({ "inputs": [{ "prompt": "a" }, { "prompt": "b" }], "webhook_url": WEBHOOK_URL,
        "webhook_secret": "a-webhook-secret-of-this-receiver" });
    assert_eq!(body, expected);
    let item = get_json(&receiver, &format!("{PATH}?state=missing")).await["items"][0].clone();
    assert_eq!(
        json!([item["execution_id"], item["workflow_id"], item["reference"]]),
        json!(["1", "w", { "order": "9" }])
    );

    let (address, mut requests) = stand_in(json!({ "trigger_id": "e", "status": "queued" })).await;
    let older = format!("{address}/api/v1");
    let (text, code) = with_api(&older, &["trigger", "input", "--workflow", "w"]).await.unwrap();
    assert!(code == Some(0) && text.contains("1 expected"), "{text}");
    assert_eq!(within(requests.recv()).await.unwrap().0, "/api/v1/w/trigger");
    assert_eq!(listed(&receiver, "state=missing").await, ["e", "1"]);

    let (address, _requests) = stand_in(json!({ "strange": true })).await;
    let arguments = ["trigger", "input", "--workflow", "w", "--workflow-version", "3"];
    let (text, code) = with_api(&address, &arguments).await.unwrap();
    assert!(code == Some(1) && text.contains("triggered, but not registered"), "{text}");
    assert!(text.contains(r#"{"strange":true}"#), "the response is printed: {text}");
    let (text, _) = with_api(&address, &arguments[..4]).await.unwrap();
    assert!(text.contains("--workflow-version is required"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trigger_prints_no_secret_of_its_request_and_reports_a_pause() {
    let receiver = TestReceiver::start().await;
    std::fs::write(receiver.dir.path().join("input"), r#"{"prompt": "a"}"#).unwrap();
    let trigger = |address: &str| {
        let arguments = ["trigger", "input", "--workflow", "w", "--workflow-version", "3"];
        let mut command = api_command(&receiver, address, &arguments);
        command.env("RECEIVER__AUTH__URL_TOKENS", "a-token-of-this-receiver");
        tokio::task::spawn_blocking(move || run_to_end(&mut command))
    };
    let error =
        "the-api-key, a-webhook-secret-of-this-receiver and https://h/a-token-of-this-receiver failed";
    let (address, _requests) = canned_api(move |_| (500, json!({ "error": error }))).await;
    let (text, code) = trigger(&address).await.unwrap();
    assert!(code == Some(1) && text.contains("(key), (secret) and https://h/(secret) failed"), "{text}");

    let throttled = AtomicBool::new(true);
    let answer = move |_: &str| {
        let is_throttled = throttled.swap(false, Ordering::Relaxed);
        if is_throttled { (429, json!({})) } else { (200, json!({ "execution_id": "e" })) }
    };
    let (address, _requests) = canned_api(answer).await;
    let (text, code) = trigger(&address).await.unwrap();
    assert!(code == Some(0) && text.contains("HTTP 429. The request is sent again in 1 s"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_is_not_registered_does_not_complete_a_bulk() {
    let receiver = TestReceiver::start().await;
    receiver.accept(ended("other")).await;
    register(&receiver, &bulk_response(2, 0)).await;
    receiver.accept(ended("1")).await;
    receiver.wait_until_recorded().await;
    assert_eq!(progress(&receiver).await, json!([false, 2, 2, 1, 0]));
    let complete = get_json(&receiver, "/api/v1/bulks?complete=yes").await;
    assert!(complete["items"].as_array().unwrap().is_empty(), "{complete}");
    let (text, _) = run(&receiver, &["bulks", "b"]);
    assert!(text.contains("complete        no: 1 missing\n"), "{text}");
    let completed = "SELECT completed_at IS NOT NULL AS completed FROM bulks";
    assert_eq!(receiver.row(completed).await["completed"], false);
    assert!(receiver.rows(COMPLETED).await.is_empty());

    receiver.accept(ended("2")).await;
    receiver.wait_until_recorded().await;
    assert_eq!(progress(&receiver).await, json!([true, 3, 2, 0, 0]));
    assert_eq!(receiver.row(completed).await["completed"], true);
    until(async || receiver.rows(COMPLETED).await.len() == 1).await;
    assert_counts_are_right(&receiver).await;

    // A size that is set by hand replaces the registered executions, until the response is registered again.
    register(
        &receiver,
        &with(bulk_response(0, 0), json!({ "bulk_id": "c", "executions": [{ "execution_id": "lost" }] })),
    )
    .await;
    receiver.accept(with(ended("found"), json!({ "bulk_id": "c" }))).await;
    receiver.wait_until_recorded().await;
    let is_complete = async || get_json(&receiver, "/api/v1/bulks/c").await["complete"].clone();
    assert_eq!(is_complete().await, false);
    let (text, code) = run(&receiver, &["bulks", "set-size", "c", "1", "--force"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(is_complete().await, true);
    register(&receiver, &json!({ "bulk_id": "c", "executions": [{ "execution_id": "lost" }] })).await;
    assert_eq!(is_complete().await, false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_with_another_workflow_or_a_later_reference_is_rejected_with_the_reason() {
    let receiver = TestReceiver::start().await;
    let single = json!({ "execution_id": "e", "workflow_id": "v" });
    register(&receiver, &single).await;
    for other in [json!({ "workflow_id": "w" }), json!({ "reference": { "order": 1 } })] {
        let (kind, detail) = problem(post_response(&receiver, &with(single.clone(), other)).await, 409).await;
        assert!(kind == "already-registered" && detail.contains("with another workflow"), "{detail}");
        assert!(detail.contains("with another reference or without one"), "{detail}");
    }
    let again = register(&receiver, &json!({ "execution_id": "e" })).await;
    assert_eq!(again["is_new"], false, "a workflow that is left out contradicts nothing");
}
