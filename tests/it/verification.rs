//! Unsigned webhooks, which the sender's API has to confirm (`auth.verify_unsigned`).

use std::process::Command;
use std::time::Duration;

use sender_stand_in::{REJECTED_ID, StandIn, Trigger};
use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use workflow_receiver::config::{Secrets, Settings};

use crate::support::collector::Collector;
use crate::support::fixtures::{execution, with};
use crate::support::http::{get_json, gzip, problem, signed};
use crate::support::postgres::{end_fault_on, fault_on, new_database, no_database, raise, rows, url};
use crate::support::process::{Process, program, run_to_end};
use crate::support::receiver::{TestReceiver, fast_retries, short_timeouts};
use crate::support::sender::{
    KEY, SECRET, program_with_api, receiver_with_api, stand_in, trigger, unused_address, with_api,
};
use crate::support::spool::spool_file;
use crate::support::wait::{until, within};

/// Unsigned webhooks are verified, and quarantined at once if they are not confirmed.
fn verify_unsigned(settings: &mut Settings) {
    settings.auth.webhook_secrets = Secrets::of(&[SECRET]);
    settings.auth.verify_unsigned = true;
    settings.verification.grace = Duration::ZERO;
}

/// A stand-in, and a receiver that verifies unsigned webhooks with it.
async fn verifying(change: impl FnOnce(&mut Settings)) -> (StandIn, TestReceiver) {
    let change = |settings: &mut Settings, _: &StandIn| {
        verify_unsigned(settings);
        change(settings);
    };
    receiver_with_api(|_| {}, change).await
}

/// The program in `dir` at `address`, which verifies unsigned webhooks with the stand-in.
fn verifying_program(
    dir: &TempDir,
    database: &PgConnectOptions,
    address: &str,
    stand_in: &StandIn,
) -> Command {
    let mut command = program_with_api(dir.path(), database, address, stand_in);
    command
        .env("RECEIVER__AUTH__VERIFY_UNSIGNED", "true")
        .env("RECEIVER__VERIFICATION__GRACE", "0s")
        .env("RECEIVER__RECONCILE__ENABLED", "false");
    command
}

/// A stand-in, and a process that verifies unsigned webhooks with it. It records.
async fn verifying_process() -> (TempDir, PgConnectOptions, StandIn, Process) {
    let (dir, database, stand_in) = (TempDir::new().unwrap(), new_database().await, stand_in(|_| {}).await);
    let command = &mut verifying_program(&dir, &database, &unused_address(), &stand_in);
    let mut receiver = Process::start(command);
    receiver.wait_for("recording to PostgreSQL");
    (dir, database, stand_in, receiver)
}

fn unsigned(url: &str, inputs: Value) -> Trigger {
    Trigger { webhook_secret: None, ..trigger("w", url, inputs) }
}

/// Waits until no delivery waits for its verification, and all are recorded.
async fn until_verified(receiver: &TestReceiver) {
    let waiting = "SELECT FROM unverified_deliveries";
    until(async || receiver.rows(waiting).await.is_empty()).await;
    receiver.wait_until_recorded().await;
}

async fn verified(receiver: &TestReceiver, result: &str) -> f64 {
    receiver.metric(&format!("verifications_total{{result=\"{result}\"}}")).await
}

const EXECUTIONS: &str =
    "SELECT execution_id, status, authenticated_by, deliveries, conflicts FROM executions ORDER BY 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_unsigned_webhook_is_recorded_and_a_forged_one_is_quarantined_with_both_versions() {
    let (stand_in, receiver) = verifying(|_| {}).await;

    let genuine = stand_in.execute(&unsigned(&format!("{}?order=7", receiver.url), json!({ "prompt": "é" })));
    within(stand_in.deliveries_finished()).await;
    until_verified(&receiver).await;
    let recorded = receiver.row(
        "SELECT execution_id, payload, authenticated_by, fetched_from, reference, deliveries FROM executions",
    );
    let expected = json!({
        "execution_id": genuine, "payload": stand_in.body(&genuine), "authenticated_by": "callback",
        "fetched_from": null, "reference": { "order": "7" }, "deliveries": 1
    });
    assert_eq!(recorded.await, expected);

    // A field that is not compared is recorded as each::labs has it.
    let other = stand_in.begin(&unsigned(&receiver.url, json!({})));
    stand_in.end(&other);
    let altered =
        with(stand_in.body(&other).unwrap(), json!({ "total_cost": 9, "step_outputs": { "s": {} } }));
    receiver.accept(altered).await;
    until_verified(&receiver).await;
    let row = format!("SELECT payload, total_cost::text FROM executions WHERE execution_id = '{other}'");
    let expected = json!({ "payload": stand_in.body(&other), "total_cost": "0.25" });
    assert_eq!(receiver.row(&row).await, expected);

    // Forged: unknown to the API, another output, and another status of an execution that is recorded with a signature.
    let sent = stand_in.execute(&trigger("w", &receiver.url, json!({})));
    within(stand_in.deliveries_finished()).await;
    let before = receiver.rows(EXECUTIONS).await;
    let hidden = stand_in.begin(&unsigned(&receiver.url, json!({})));
    stand_in.end(&hidden);
    let different =
        with(stand_in.body(&hidden).unwrap(), json!({ "output": ["https://evil.example/x.png"] }));
    let unknown = receiver.client.post(&receiver.url).header("X-Webhook-Redelivery", "true");
    let unknown = unknown.body(execution("unknown", "completed").to_string()).send().await.unwrap();
    assert_eq!(unknown.status(), 200);
    receiver.accept(&different).await;
    receiver.accept(with(stand_in.body(&sent).unwrap(), json!({ "status": "failed" }))).await;
    until_verified(&receiver).await;
    assert_eq!(receiver.rows(EXECUTIONS).await, before, "no outcome has changed");
    assert_eq!(receiver.rows("SELECT FROM execution_conflicts").await.len(), 0);
    let quarantine =
        "SELECT reason, authenticated_by, acknowledged, api_text::jsonb AS api, body_text::jsonb AS body
                      FROM quarantined ORDER BY reason";
    let entry = |reason: &str, body: Value, api: Option<Value>| json!({ "reason": reason, "authenticated_by": "unverified", "acknowledged": false, "api": api, "body": body });
    let other_status = with(stand_in.body(&sent).unwrap(), json!({ "status": "failed" }));
    let expected = [
        entry("differs from each::labs in output", different.clone(), stand_in.body(&hidden)),
        entry("differs from each::labs in status", other_status, stand_in.body(&sent)),
        entry(
            "not confirmed: each::labs does not have the execution",
            execution("unknown", "completed"),
            None,
        ),
    ];
    assert_eq!(receiver.rows(quarantine).await, expected);
    for (result, count) in [("confirmed", 2.0), ("different", 2.0), ("unknown", 1.0)] {
        assert!((verified(&receiver, result).await - count).abs() < 0.1, "{result}");
    }

    // Both versions in the API, the console and on the command line.
    let id = "SELECT quarantine_id FROM quarantine WHERE reason LIKE '%output'";
    let id = receiver.row(id).await["quarantine_id"].clone();
    let detail = get_json(&receiver, &format!("/api/v1/quarantine/{id}")).await;
    let parsed = |field: &str| serde_json::from_str::<Value>(detail[field].as_str().unwrap()).unwrap();
    assert_eq!((parsed("body_text"), Some(parsed("api_text"))), (different, stand_in.body(&hidden)));
    let page = receiver.get(&format!("/quarantine/{id}")).await.text().await.unwrap();
    assert!(page.contains("Version at each::labs") && page.contains("evil.example"), "{page}");
    let dir = TempDir::new().unwrap();
    let command = |arguments: &[&str]| {
        let mut command = program(dir.path());
        command.env("DATABASE_URL", url(&receiver.database)).arg("quarantine").args(arguments);
        tokio::task::block_in_place(|| run_to_end(&mut command))
    };
    let (text, code) = command(&["show", "--api", &id.to_string()]);
    assert_eq!((serde_json::from_str(&text).ok(), code), (stand_in.body(&hidden), Some(0)));
    let (text, _) = command(&["list"]);
    assert_eq!(text.matches("unsigned").count(), 3, "{text}");

    // `--all` skips unsigned webhooks, so it cannot exceed the limit of waiting ones.
    let (text, code) = command(&["retry", "--all"]);
    assert!(code == Some(0) && text.contains("recorded 0, not recorded 0"), "{text}");
    assert_eq!(receiver.rows(quarantine).await.len(), 3);

    // A retry does not record a forged webhook. The webhook is verified again.
    let ids = receiver.rows("SELECT quarantine_id FROM quarantine").await;
    let ids: Vec<_> = ids.iter().map(|row| row["quarantine_id"].to_string()).collect();
    let arguments: Vec<_> = ["retry"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    let (text, code) = command(&arguments);
    assert!(
        code == Some(0) && text.contains("3 unsigned webhooks wait until each::labs confirms them"),
        "{text}"
    );
    until(async || receiver.rows(quarantine).await.len() == 3).await;
    until_verified(&receiver).await;
    assert_eq!(receiver.rows(EXECUTIONS).await, before);
    let redelivered = "SELECT redeliveries FROM quarantine WHERE reason LIKE 'not confirmed%'";
    assert_eq!(receiver.row(redelivered).await["redeliveries"], 1, "a retry keeps the header");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_prediction_is_verified_with_the_delivery_log() {
    let (stand_in, receiver) = verifying(|_| {}).await;
    let genuine = stand_in.predict("http://elsewhere.example/");
    (0..250).for_each(|_| drop(stand_in.predict("http://elsewhere.example/")));
    let forged = json!({ "exec_id": "forged", "flow_id": null, "status": "succeeded", "output": "x" });
    let different = with(stand_in.predict("http://elsewhere.example/"), json!({ "output": "y" }));
    for body in [&genuine, &forged, &different] {
        receiver.accept(body).await;
    }
    until_verified(&receiver).await;
    let row = receiver.row("SELECT prediction_id, payload, authenticated_by FROM predictions").await;
    let expected =
        json!({ "prediction_id": genuine["exec_id"], "payload": genuine, "authenticated_by": "callback" });
    assert_eq!(row, expected);
    let reasons = receiver.rows("SELECT reason FROM quarantine ORDER BY 1").await;
    let expected = [
        json!({ "reason": "differs from each::labs in output" }),
        json!({ "reason": "not confirmed: the delivery log of each::labs does not have the prediction" }),
    ];
    assert_eq!(reasons, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_the_delivery_log_that_is_too_large_hides_no_prediction() {
    // Responses of up to 1 MiB and 2 KiB are accepted.
    let (stand_in, receiver) = verifying(|settings| settings.http.max_body_bytes = 1 << 10).await;
    let genuine = stand_in.predict("http://elsewhere.example/");
    let large = json!({ "text": "x".repeat(2 << 20) });
    stand_in.end(&stand_in.begin(&trigger("w", "http://127.0.0.1:1/", large)));
    receiver.accept(&genuine).await;
    until_verified(&receiver).await;
    let row = receiver.row("SELECT prediction_id, authenticated_by FROM predictions").await;
    assert_eq!(row, json!({ "prediction_id": genuine["exec_id"], "authenticated_by": "callback" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_signature_or_token_is_401_although_unsigned_webhooks_are_accepted() {
    let (_stand_in, receiver) = verifying(|settings| {
        settings.auth.secret_header = true;
        settings.auth.url_tokens = Secrets::of(&["a-token-of-the-test"]);
    })
    .await;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let body = execution("e", "completed").to_string();
    let post = |url: String| receiver.client.post(url);
    for request in [
        signed(post(receiver.url.clone()), "wrong", now, &body),
        signed(post(receiver.url.clone()), SECRET, now - 400, &body),
        post(receiver.url.clone()).header("X-Webhook-Secret", "wrong").body(body.clone()),
        post(format!("{}?token=wrong", receiver.url)).body(body.clone()),
        post(format!("{}/wrong", receiver.url)).body(body.clone()),
    ] {
        assert_eq!(problem(request.send().await.unwrap(), 401).await.0, "unauthenticated");
    }
    let web_page = post(receiver.url.clone()).header("Origin", "https://evil.example").body(body.clone());
    assert_eq!(web_page.send().await.unwrap().status(), 403);
    assert!(receiver.rows("SELECT FROM unverified_deliveries").await.is_empty());

    // A body that is neither an execution nor a prediction cannot be verified later: it is answered 422 and not stored.
    let odd = r#"{"execution_id":"odd"}"#;
    let (_, detail) = problem(receiver.post(odd).await, 422).await;
    assert!(detail.ends_with("it is not stored, because it is unsigned."), "{detail}");
    assert_eq!(receiver.progress.waiting(), 0);
    receiver.wait_until_recorded().await;
    assert!(receiver.rows("SELECT FROM quarantine").await.is_empty());
    // A signed one is stored. Its authentication replaces that of an entry that was not confirmed.
    let entry =
        "INSERT INTO quarantine (reason, body, body_sha256, authenticated_by, acknowledged, deliveries,
             first_received_at, last_received_at)
         SELECT 'not confirmed', $1, sha256($1), 'unverified', false, 1, now(), now()";
    let insert = sqlx::query(entry).bind(odd.as_bytes());
    insert.execute(&mut receiver.connection().await).await.unwrap();
    let request = signed(post(receiver.url.clone()), SECRET, now, odd);
    assert_eq!(request.send().await.unwrap().status(), 422);
    receiver.wait_until_recorded().await;
    let row = receiver.row("SELECT authenticated_by, reason, deliveries FROM quarantine").await;
    let reason = "`workflow_id` is missing or null";
    assert_eq!(row, json!({ "authenticated_by": "signature", "reason": reason, "deliveries": 2 }));
    let usage = "SELECT bodies, bytes, unconfirmed_bodies, unconfirmed_bytes FROM quarantine_usage";
    let expected =
        json!({ "bodies": 1, "bytes": odd.len(), "unconfirmed_bodies": 0, "unconfirmed_bytes": 0 });
    assert_eq!(receiver.row(usage).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_is_down_unsigned_webhooks_wait_and_signed_ones_are_recorded() {
    let (stand_in, receiver) = verifying(|settings| {
        settings.verification.max_rows = 4;
        settings.admin.stalled_after = Duration::from_millis(100);
    })
    .await;
    // A rejected key fails at once; the client tries other errors again.
    stand_in.fail_with(Some(401));
    let genuine = stand_in.execute(&unsigned(&receiver.url, json!({})));
    within(stand_in.deliveries_finished()).await;
    receiver.accept(execution("forged", "completed")).await;
    let sent = stand_in.execute(&trigger("w", &receiver.url, json!({})));
    within(stand_in.deliveries_finished()).await;
    let row = |id: &str, method: &str| json!({ "execution_id": id, "status": "completed", "authenticated_by": method, "deliveries": 1, "conflicts": null });
    assert_eq!(receiver.rows(EXECUTIONS).await, [row(&sent, "signature")]);

    let waiting = "SELECT execution_id, status, workflow_id FROM unverified
                   WHERE attempts > 0 AND last_error LIKE '%rejected the key (HTTP 401)%' ORDER BY execution_id";
    let wait = |id: &str| json!({ "execution_id": id, "status": "completed", "workflow_id": "w" });
    until(async || receiver.rows(waiting).await == [wait(&genuine), wait("forged")]).await;
    until(async || receiver.metric("unverified_waiting").await == 2.0).await;
    assert!(receiver.metric("unverified_oldest_age_seconds").await > 0.0);
    assert_eq!(receiver.metric("verification_failing").await, 1.0);
    // Both may be younger than `admin.stalled_after`.
    until(async || receiver.ready().await.1["parts"]["verification"]["state"] == "waiting").await;
    let (status, health) = receiver.ready().await;
    let part = &health["parts"]["verification"];
    assert_eq!((status, &part["state"], &part["waiting"]), (200, &json!("waiting"), &json!(2)), "{health}");
    assert!(health["problems"][0].as_str().unwrap().contains("rejected the key"), "{health}");

    // At the limit, unsigned webhooks are answered 503. Signed ones are not affected.
    until(async || receiver.post(execution("further", "completed").to_string()).await.status() == 503).await;
    let refused = receiver.post(execution("further", "completed").to_string()).await;
    assert_eq!(problem(refused, 503).await.0, "verification-full");
    until(async || receiver.ready().await.1["parts"]["verification"]["state"] == "full").await;
    let also = stand_in.execute(&trigger("w", &receiver.url, json!({})));
    within(stand_in.deliveries_finished()).await;
    assert_eq!(receiver.rows(EXECUTIONS).await, [row(&sent, "signature"), row(&also, "signature")]);

    stand_in.fail_with(None);
    until_verified(&receiver).await;
    let mut expected = [row(&genuine, "callback"), row(&sent, "signature"), row(&also, "signature")];
    expected.sort_by_key(|row| row["execution_id"].to_string());
    assert_eq!(receiver.rows(EXECUTIONS).await, expected);
    until(async || receiver.metric("unverified_waiting").await == 0.0).await;
    assert_eq!(receiver.metric("verification_failing").await, 0.0);
    until(async || receiver.ready().await.1["parts"]["verification"]["state"] == "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_each_labs_has_later_is_confirmed_within_the_grace() {
    let (stand_in, receiver) =
        verifying(|settings| settings.verification.grace = Duration::from_mins(10)).await;
    let id = stand_in.begin(&unsigned("", json!({})));
    let output = json!({ "status": "completed", "output": ["u"] });
    receiver.accept(with(execution(&id, "completed"), output.clone())).await;
    let waiting = "SELECT last_error FROM unverified WHERE attempts = 1";
    until(async || !receiver.rows(waiting).await.is_empty()).await;
    let expected = json!({ "last_error": "not confirmed: the execution is running at each::labs" });
    assert_eq!(receiver.row(waiting).await, expected);
    stand_in.end_with(&id, output);
    until_verified(&receiver).await;
    assert_eq!(receiver.row(EXECUTIONS).await["authenticated_by"], "callback");
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_webhooks_that_wait_survive_a_kill_and_no_secret_is_shown() {
    let (dir, database, address) = (TempDir::new().unwrap(), new_database().await, unused_address());
    let (stand_in, collector) = (stand_in(|_| {}).await, Collector::start().await);
    let start = || {
        Process::start(
            verifying_program(&dir, &database, &address, &stand_in)
                .env("RECEIVER__TRACES__OTLP_ENDPOINT", &collector.endpoint),
        )
    };
    let mut receiver = start();
    receiver.wait_for("recording to PostgreSQL");
    stand_in.fail_with(Some(401));
    let mut ids: Vec<_> = (0..3).map(|_| stand_in.execute(&unsigned(&receiver.url, json!({})))).collect();
    within(stand_in.deliveries_finished()).await;
    receiver.accept(execution("forged", "completed")).await;
    let count = "SELECT FROM unverified_deliveries";
    until(async || rows(&database, count).await.len() == 4).await;
    // After a kill, deliveries that the spool still holds are stored once more, and counted twice.
    let file = spool_file(&dir.path().join("data"));
    let spooled = async || {
        let spool = rusqlite::Connection::open(&file).unwrap();
        spool.query_row("SELECT count(*) FROM deliveries", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    until(async || spooled().await == 0).await;
    until(async || !collector.messages().is_empty()).await;
    receiver.signal(rustix::process::Signal::KILL);
    let mut log = receiver.ended().1;
    // As if the claims of the killed process ended in three seconds.
    let claim = "UPDATE unverified_deliveries SET claimed_by = 1, due_at = now() + interval '3 s'";
    let mut connection = sqlx::PgConnection::connect_with(&database).await.unwrap();
    sqlx::raw_sql(claim).execute(&mut connection).await.unwrap();
    assert_eq!(rows(&database, count).await.len(), 4);

    stand_in.fail_with(None);
    let receiver = start();
    until(async || rows(&database, count).await.is_empty()).await;
    let recorded = "SELECT execution_id, authenticated_by, deliveries FROM executions ORDER BY execution_id";
    until(async || rows(&database, recorded).await.len() == 3).await;
    ids.sort();
    let row = |id: &String| json!({ "execution_id": id, "authenticated_by": "callback", "deliveries": 1 });
    assert_eq!(rows(&database, recorded).await, ids.iter().map(row).collect::<Vec<_>>());
    assert_eq!(rows(&database, "SELECT FROM quarantine").await.len(), 1);

    let metrics = reqwest::get(format!("http://{}/metrics", receiver.admin)).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let entries = reqwest::get(format!("http://{}/api/v1/quarantine", receiver.admin)).await.unwrap();
    let entries = entries.text().await.unwrap();
    log.extend(receiver.terminate());
    let dump = "SELECT to_jsonb(e)::text || to_jsonb(q)::text AS row FROM executions AS e, quarantined AS q";
    let dump = format!("{:?}", rows(&database, dump).await);
    let spool = std::fs::read(&file).unwrap();
    let spool = String::from_utf8_lossy(&spool);
    let traces = collector.messages();
    assert!(!traces.is_empty());
    let traces: String = traces.iter().map(|(_, message)| String::from_utf8_lossy(message)).collect();
    for secret in [KEY, SECRET] {
        for text in [&*log.join("\n"), &*metrics, &*entries, &*dump, &*spool, &*traces] {
            assert!(!text.contains(secret));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_receivers_request_each_unsigned_execution_once() {
    let (database, stand_in) = (new_database().await, stand_in(|_| {}).await);
    let mut receivers = Vec::new();
    for _ in 0..2 {
        let change = |settings: &mut Settings| {
            with_api(settings, &unused_address(), stand_in.base_url());
            verify_unsigned(settings);
        };
        let receiver = TestReceiver::start_on(database.clone(), change).await;
        within(receiver.progress.clone().recording()).await;
        receivers.push(receiver);
    }
    for n in 0..60 {
        stand_in.execute(&unsigned(&receivers[n % 2].url, json!({})));
    }
    within(stand_in.deliveries_finished()).await;
    until_verified(&receivers[0]).await;
    until_verified(&receivers[1]).await;
    let row = "SELECT count(*) AS n, sum(deliveries) AS deliveries FROM executions WHERE authenticated_by = 'callback'";
    assert_eq!(receivers[0].row(row).await, json!({ "n": 60, "deliveries": 60 }));
    assert_eq!(stand_in.requests(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_webhook_whose_row_a_trigger_suppresses_waits_in_the_spool_and_delays_no_execution() {
    let (stand_in, receiver) = verifying(short_timeouts).await;
    fault_on(&receiver, "unverified_deliveries", "true", "RETURN NULL").await;
    stand_in.execute(&unsigned(&receiver.url, json!({})));
    within(stand_in.deliveries_finished()).await;
    until(async || {
        let health = receiver.ready().await.1.to_string();
        health.contains("a trigger on unverified_deliveries suppressed a row")
    })
    .await;
    stand_in.execute(&trigger("w", &receiver.url, json!({})));
    until(async || receiver.rows_now(EXECUTIONS).await.len() == 1).await;
    end_fault_on(&receiver, "unverified_deliveries").await;
    until_verified(&receiver).await;
    until(async || receiver.rows_now(EXECUTIONS).await.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_comes_from_the_delivery_log_and_not_from_the_unsigned_url() {
    let (stand_in, receiver) = verifying(|_| {}).await;
    let [plain, ordered, running] = ["", "?order=7", "?order=8"]
        .map(|query| stand_in.begin(&trigger("w", &format!("{}{query}", receiver.url), json!({}))));
    for id in [&plain, &ordered] {
        stand_in.end(id);
    }
    for id in [&plain, &ordered, &running] {
        let forged = receiver.client.post(format!("{}?order=EVIL", receiver.url));
        let forged = forged.body(stand_in.body(id).unwrap().to_string());
        assert_eq!(forged.send().await.unwrap().status(), 200);
    }
    until_verified(&receiver).await;
    let references = "SELECT execution_id AS id, reference FROM executions ORDER BY 1";
    let row = |id: &str, reference: Value| json!({ "id": id, "reference": reference });
    let order = |order: &str| json!({ "order": order });
    let expected = [row(&plain, Value::Null), row(&ordered, order("7")), row(&running, Value::Null)];
    assert_eq!(receiver.rows(references).await, expected);

    // The signed webhook of the execution that was running has its own.
    stand_in.end(&running);
    stand_in.deliver(&running);
    within(stand_in.deliveries_finished()).await;
    receiver.wait_until_recorded().await;
    let expected = [row(&plain, Value::Null), row(&ordered, order("7")), row(&running, order("8"))];
    assert_eq!(receiver.rows(references).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_webhook_waits_while_the_quarantine_is_full_or_the_answer_of_the_api_is_unusable() {
    let (stand_in, receiver) = verifying(|settings| settings.quarantine.max_rows = 1).await;
    let waiting = async |error: &str| {
        let query = format!("SELECT execution_id FROM unverified WHERE last_error LIKE '%{error}%'");
        until(async || !receiver.rows(&query).await.is_empty()).await;
    };
    // 200 with a body that is not an execution.
    stand_in.fail_with(Some(200));
    let genuine = stand_in.execute(&unsigned(&receiver.url, json!({})));
    within(stand_in.deliveries_finished()).await;
    waiting("not the documented JSON").await;
    stand_in.fail_with(None);
    until_verified(&receiver).await;
    assert_eq!(receiver.row(EXECUTIONS).await["execution_id"], *genuine);

    receiver.accept(execution("forged", "completed")).await;
    until_verified(&receiver).await;
    receiver.accept(execution("another", "completed")).await;
    waiting("the quarantine is full").await;
    assert_eq!(receiver.rows("SELECT FROM quarantine").await.len(), 1);
    // Entries that were not confirmed take no space from signed webhooks that were answered 422.
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let post = receiver.client.post(receiver.url.clone());
    let odd = signed(post, SECRET, now, r#"{"execution_id":"odd"}"#);
    assert_eq!(odd.send().await.unwrap().status(), 422);
    receiver.wait_until_recorded().await;
    assert_eq!(receiver.rows("SELECT FROM quarantine").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stored_version_of_the_api_is_cut_and_counted() {
    let (stand_in, receiver) = verifying(|_| {}).await;
    let id = stand_in.begin(&unsigned("", json!({})));
    stand_in.end_with(&id, json!({ "status": "completed", "output": "é".repeat(1 << 20) }));
    receiver.accept(with(execution(&id, "completed"), json!({ "output": "x" }))).await;
    until_verified(&receiver).await;
    let entry = receiver.row(
        "SELECT octet_length(body) + octet_length(api_body) AS bytes, octet_length(api_body) < 66000 AS is_cut,
             api_text LIKE '%[cut: the first % of % bytes]' AS is_marked FROM quarantined JOIN quarantine USING (quarantine_id)",
    );
    let entry = entry.await;
    assert_eq!((&entry["is_cut"], &entry["is_marked"]), (&json!(true), &json!(true)), "{entry}");
    let usage =
        receiver.row("SELECT unconfirmed_bodies, unconfirmed_bytes, bodies FROM quarantine_usage").await;
    let expected = json!({ "unconfirmed_bodies": 1, "unconfirmed_bytes": entry["bytes"], "bodies": 0 });
    assert_eq!(usage, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_fail_for_some_executions_do_not_delay_others_and_end_in_the_quarantine() {
    let (stand_in, receiver) = verifying(|_| {}).await;
    for n in 0..8 {
        receiver.accept(execution(&format!("{REJECTED_ID}-{n}"), "completed")).await;
    }
    let failed = "SELECT FROM unverified WHERE attempts > 0";
    until(async || receiver.rows(failed).await.len() == 8).await;
    assert_eq!(receiver.metric("verification_failing").await, 1.0);
    let genuine = stand_in.execute(&unsigned(&receiver.url, json!({})));
    within(stand_in.deliveries_finished()).await;
    until(async || receiver.rows(EXECUTIONS).await.iter().any(|row| row["execution_id"] == *genuine)).await;
    assert_eq!(receiver.rows("SELECT FROM unverified").await.len(), 8);

    let old = "UPDATE unverified_deliveries
        SET strikes = 9, received_at = now() - interval '11 min', due_at = now() - interval '1 day'
        WHERE execution_id LIKE '%-0'";
    sqlx::raw_sql(old).execute(&mut receiver.connection().await).await.unwrap();
    let quarantine = "SELECT reason FROM quarantine";
    until(async || receiver.rows(quarantine).await.len() == 1).await;
    let reason = receiver.row(quarantine).await;
    assert!(reason["reason"].as_str().unwrap().contains("HTTP 403"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_unsigned_webhooks_are_verified_once_and_an_identifier_cannot_change_the_request() {
    let (stand_in, receiver) = verifying(|_| {}).await;
    stand_in.fail_with(Some(401));
    for _ in 0..20 {
        receiver.accept(execution("forged", "completed")).await;
    }
    receiver.wait_until_recorded().await;
    let row = receiver.row("SELECT execution_id, deliveries FROM unverified").await;
    assert_eq!(row, json!({ "execution_id": "forged", "deliveries": 20 }));
    stand_in.fail_with(None);
    until_verified(&receiver).await;
    assert_eq!(receiver.row("SELECT deliveries FROM quarantine").await, json!({ "deliveries": 20 }));

    let requests = stand_in.requests();
    for id in [".\t.", "\n..", "..", "e\r"] {
        receiver.accept(execution(id, "completed")).await;
    }
    until_verified(&receiver).await;
    assert_eq!(stand_in.requests(), requests);
    let reason = "SELECT DISTINCT reason FROM quarantine WHERE deliveries = 1";
    let expected = json!({ "reason": "not confirmed: each::labs has no such identifier" });
    assert_eq!(receiver.rows(reason).await, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_webhooks_that_were_answered_503_are_fetched() {
    let (stand_in, receiver) = verifying(|settings| {
        settings.verification.max_rows = 1;
        settings.reconcile.enabled = true;
        settings.reconcile.interval = Duration::from_millis(200);
    })
    .await;
    let reconciled_until = receiver.spool_file().with_file_name("reconciled-until");
    until(async || reconciled_until.exists()).await;
    stand_in.fail_with(Some(401));
    receiver.accept(execution("forged", "completed")).await;
    let genuine = stand_in.execute(&unsigned(&receiver.url, json!({})));
    within(stand_in.deliveries_finished()).await;
    assert!(receiver.rows(EXECUTIONS).await.is_empty());
    stand_in.fail_with(None);
    until(async || !receiver.rows(EXECUTIONS).await.is_empty()).await;
    let row = receiver.row("SELECT execution_id, fetched_from FROM executions").await;
    assert_eq!(row, json!({ "execution_id": genuine, "fetched_from": "delivery_log" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_stuck_delivery_only_unsigned_webhooks_that_wait_count() {
    let (stand_in, receiver) = verifying(|settings| {
        short_timeouts(settings);
        settings.verification.max_rows = 3;
    })
    .await;
    let accept_signed = async |id: &str| {
        let body = with(execution(id, "completed"), json!({ "bulk_id": "locked" })).to_string();
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let request = signed(receiver.client.post(&receiver.url), SECRET, now, &body);
        assert_eq!(request.send().await.unwrap().status(), 200);
    };
    accept_signed("recorded").await;
    receiver.wait_until_recorded().await;
    let mut holder = receiver.connection().await;
    sqlx::raw_sql("BEGIN; SELECT FROM bulks FOR UPDATE").execute(&mut holder).await.unwrap();
    accept_signed("stuck").await;
    until(async || receiver.metric("stuck_deliveries").await == 1.0).await;

    for confirmed in 1..=7 {
        let id = stand_in.begin(&unsigned("", json!({})));
        stand_in.end(&id);
        let body = stand_in.body(&id).unwrap().to_string();
        // 503 until a measurement finds that the earlier ones are recorded.
        until(async || receiver.post(body.clone()).await.status() == 200).await;
        let recorded = "SELECT FROM executions WHERE authenticated_by = 'callback'";
        until(async || receiver.rows_now(recorded).await.len() == confirmed).await;
    }
    assert_eq!(receiver.metric("stuck_deliveries").await, 1.0);
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    assert_eq!(receiver.rows(EXECUTIONS).await.len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_webhooks_in_the_spool_count_after_a_start_and_health_reports_the_limit() {
    let mut dir = TempDir::new().unwrap();
    let change = |settings: &mut Settings| {
        fast_retries(settings);
        verify_unsigned(settings);
        settings.eachlabs.api_key = KEY.into();
        settings.verification.max_rows = 3;
    };
    for start in 0..3 {
        let receiver = TestReceiver::start_in(dir, no_database(), change).await;
        for n in 0..4 {
            let answer = receiver.post(execution(&format!("e{start}-{n}"), "completed").to_string()).await;
            let expected = if start == 0 && n < 3 { 200 } else { 503 };
            assert_eq!(answer.status(), expected, "start {start}, webhook {n}");
        }
        let health = receiver.ready().await.1;
        assert_eq!(health["parts"]["verification"]["state"], "full", "start {start}");
        assert!(health["problems"].to_string().contains("unsigned webhooks are answered 503"), "{health}");
        dir = receiver.stop().await.0;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_the_api_leaves_out_is_no_conflict() {
    let (stand_in, receiver) = verifying(|_| {}).await;
    let id = stand_in.begin(&unsigned("", json!({})));
    stand_in.end(&id);
    let webhook = with(stand_in.body(&id).unwrap(), json!({ "bulk_id": "b" }));
    receiver.accept(&webhook).await;
    until_verified(&receiver).await;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let post = receiver.client.post(receiver.url.clone());
    assert_eq!(signed(post, SECRET, now, &webhook.to_string()).send().await.unwrap().status(), 200);
    receiver.wait_until_recorded().await;
    let row = json!({ "execution_id": id, "status": "completed", "authenticated_by": "callback", "deliveries": 2, "conflicts": null });
    assert_eq!(receiver.rows(EXECUTIONS).await, [row]);
    assert!(receiver.rows("SELECT FROM quarantine").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_forged_output_is_compared_in_bounded_memory() {
    let (_dir, database, stand_in, receiver) = verifying_process().await;
    let before = receiver.resident_kib();
    let id = stand_in.begin(&unsigned("", json!({})));
    stand_in.end_with(&id, json!({ "status": "completed", "output": [{ "": 0 }, "x"] }));
    let fields = with(execution(&id, "completed"), json!({ "output": "OUTPUT" })).to_string();
    let forged = fields.replace("\"OUTPUT\"", &format!("[{}1]", r#"{"":0},"#.repeat(2_000_000)));
    let post = reqwest::Client::new().post(&receiver.url).header("content-encoding", "gzip");
    assert_eq!(post.body(gzip(forged)).send().await.unwrap().status(), 200);
    let reason = "SELECT reason FROM quarantine";
    until(async || !rows(&database, reason).await.is_empty()).await;
    assert_eq!(rows(&database, reason).await, [json!({ "reason": "differs from each::labs in output" })]);
    let peak = receiver.peak_resident_kib();
    println!("{before} KiB before, {peak} KiB at most");
    assert!(peak < before + (256 << 10), "{before} KiB before, {peak} KiB at most");
    receiver.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_proxy_answers_404_genuine_unsigned_webhooks_wait() {
    let (stand_in, receiver) = verifying(|_| {}).await;
    stand_in.fail_with(Some(404));
    let mut ids: Vec<_> = (0..4).map(|_| stand_in.execute(&unsigned(&receiver.url, json!({})))).collect();
    within(stand_in.deliveries_finished()).await;
    let waiting = "SELECT FROM unverified WHERE attempts > 0 AND last_error = 'each::labs answered HTTP 404'";
    until(async || receiver.rows(waiting).await.len() == 4).await;
    assert_eq!(receiver.metric("verification_failing").await, 1.0);
    stand_in.fail_with(None);
    until_verified(&receiver).await;
    ids.sort();
    let recorded = receiver.rows("SELECT execution_id FROM executions ORDER BY 1").await;
    assert_eq!(recorded, ids.iter().map(|id| json!({ "execution_id": id })).collect::<Vec<_>>());
    let health = receiver.ready().await.1;
    let expected = "no webhook that was answered 200 is in quarantine, except unsigned ones that each::labs did not confirm";
    assert_eq!(health["parts"]["quarantine"]["detail"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_begins_when_the_api_first_answers_that_the_execution_is_unknown() {
    let (stand_in, receiver) =
        verifying(|settings| settings.verification.grace = Duration::from_mins(10)).await;
    stand_in.fail_with(Some(401));
    let id = stand_in.begin(&unsigned("", json!({})));
    let output = json!({ "status": "completed", "output": ["u"] });
    receiver.accept(with(execution(&id, "completed"), output.clone())).await;
    let failed = "SELECT FROM unverified WHERE attempts > 0";
    until(async || !receiver.rows(failed).await.is_empty()).await;
    // As if the API had been down for an hour.
    let old = "UPDATE unverified_deliveries SET received_at = now() - interval '1 hour', due_at = now()";
    sqlx::raw_sql(old).execute(&mut receiver.connection().await).await.unwrap();
    stand_in.fail_with(None);
    let unknown = "SELECT FROM unverified WHERE last_error LIKE '%is running at each::labs'";
    until(async || !receiver.rows(unknown).await.is_empty()).await;
    stand_in.end_with(&id, output);
    until_verified(&receiver).await;
    assert_eq!(receiver.row(EXECUTIONS).await["authenticated_by"], "callback");

    // It also ends.
    receiver.accept(execution("unknown", "completed")).await;
    until(async || !receiver.rows(failed).await.is_empty()).await;
    let old = "UPDATE unverified_deliveries SET unknown_since = now() - interval '11 min', due_at = now()";
    sqlx::raw_sql(old).execute(&mut receiver.connection().await).await.unwrap();
    until_verified(&receiver).await;
    assert_eq!(receiver.rows("SELECT FROM quarantine").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_webhook_whose_claim_failed_in_postgresql_is_verified_again() {
    let (stand_in, receiver) = verifying(|_| {}).await;
    sqlx::raw_sql("CREATE SEQUENCE faults").execute(&mut receiver.connection().await).await.unwrap();
    let of_claimed_row = "OLD.claimed_by IS NOT NULL AND NEW.claimed_by IS NOT NULL";
    let fail = format!("PERFORM nextval('faults'); {}", raise("57014"));
    fault_on(&receiver, "unverified_deliveries", of_claimed_row, &fail).await;
    let execution_id = stand_in.execute(&unsigned(&receiver.url, json!({})));
    until(async || receiver.row("SELECT is_called FROM faults").await["is_called"] == true).await;
    end_fault_on(&receiver, "unverified_deliveries").await;
    until_verified(&receiver).await;
    assert_eq!(receiver.row(EXECUTIONS).await["execution_id"], *execution_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_measurement_waiting_webhooks_are_soon_measured_again() {
    let (stand_in, receiver) =
        verifying(|settings| settings.database.statement_timeout = Duration::from_secs(3)).await;
    let mut connection = receiver.connection().await;
    let mut locked = connection.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE unverified_deliveries").execute(&mut *locked).await.unwrap();
    let measuring = "SELECT FROM pg_stat_activity
                     WHERE wait_event_type = 'Lock' AND query LIKE '%min(received_at) AS oldest_received_at%'";
    until(async || !receiver.rows(measuring).await.is_empty()).await;
    until(async || receiver.rows(measuring).await.is_empty()).await;
    locked.rollback().await.unwrap();
    stand_in.fail_with(Some(401));
    receiver.accept(execution("e", "completed")).await;
    until(async || receiver.metric("unverified_waiting").await == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_predictions_do_not_delay_workflows() {
    // A search of the log needs longer than the test.
    let (stand_in, receiver) = verifying(|settings| settings.verification.max_requests_per_minute = 40).await;
    (0..1100).for_each(|_| drop(stand_in.predict("http://elsewhere.example/")));
    let forged = |n: usize| json!({ "exec_id": format!("forged-{n}"), "flow_id": null, "status": "succeeded", "output": "x" });
    for n in 0..8 {
        receiver.accept(forged(n)).await;
    }
    let genuine = stand_in.execute(&unsigned(&receiver.url, json!({})));
    within(stand_in.deliveries_finished()).await;
    until(async || !receiver.rows(EXECUTIONS).await.is_empty()).await;
    assert_eq!(receiver.row(EXECUTIONS).await["execution_id"], *genuine);
    assert_eq!(receiver.rows("SELECT FROM unverified").await.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_predictions_share_a_search_of_the_delivery_log() {
    let (stand_in, receiver) =
        verifying(|settings| settings.verification.max_requests_per_minute = 1_000_000).await;
    (0..1100).for_each(|_| drop(stand_in.predict("http://elsewhere.example/")));
    for n in 0..100 {
        let forged = json!({ "exec_id": format!("forged-{n}"), "flow_id": null, "status": "succeeded" });
        receiver.accept(forged).await;
    }
    until_verified(&receiver).await;
    assert_eq!(receiver.rows("SELECT FROM quarantine").await.len(), 100);
    let requests = stand_in.requests();
    assert!(requests < 1_000, "{requests} requests; a search has 20");
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_that_a_proxy_rejects_do_not_flood_the_log() {
    let (_dir, database, _stand_in, mut receiver) = verifying_process().await;
    let (failed, quarantined) = ("SELECT FROM unverified WHERE attempts > 0", "SELECT FROM quarantine");
    let unknown = async |n: usize| {
        receiver.accept(execution(&format!("unknown-{n}"), "completed")).await;
        until(async || rows(&database, quarantined).await.len() == n + 1).await;
    };
    unknown(0).await;
    for round in 1..=4 {
        for n in 0..2 {
            let id = format!("{REJECTED_ID}-{round}-{n}");
            receiver.accept(execution(&id, "completed")).await;
        }
        until(async || rows(&database, failed).await.len() == 2 * round).await;
        unknown(round).await;
    }
    receiver.wait_for("can be verified again");
    let log = receiver.terminate();
    let lines = |text: &str| log.iter().filter(|line| line.contains(text)).collect::<Vec<_>>();
    let failures = lines("each::labs answered others");
    assert_eq!((failures.len(), lines("can be verified again").len()), (1, 1), "{log:#?}");
    assert!(failures[0].contains("or a proxy before it denied the request (HTTP 403)"), "{failures:?}");
    assert!(lines("cannot be verified now and wait").is_empty());
}
