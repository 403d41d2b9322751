//! References of the caller: the query parameters of `webhook_url`, and `X-Webhook-Redelivery`.

use serde_json::{Value, json};
use tempfile::TempDir;
use workflow_receiver::config::Secrets;

use crate::support::fixtures::{execution, with};
use crate::support::http::{get_json, item_fields, problem};
use crate::support::postgres::{new_database, rows, until_rows, url};
use crate::support::process::{Process, program, run_to_end};
use crate::support::receiver::TestReceiver;

/// The secret of the URL tokens in these tests.
const TOKEN: &str = "kMzTgn5Yp0OQx3vB7wEa";

async fn accept(receiver: &TestReceiver, query: &str, body: &Value) {
    let request = receiver.client.post(format!("{}?{query}", receiver.url)).body(body.to_string());
    assert_eq!(request.send().await.unwrap().status(), 200, "{query}");
    receiver.wait_until_recorded().await;
}

fn workflow_receiver(receiver: &TestReceiver, arguments: &[&str]) -> String {
    let dir = TempDir::new().unwrap();
    let mut command = program(dir.path());
    let (text, code) = run_to_end(command.args(arguments).env("DATABASE_URL", url(&receiver.database)));
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_and_results_are_found_by_a_parameter_of_the_webhook_url() {
    let receiver = TestReceiver::start().await;
    for (id, query) in
        [("one", "order=1234&user=42"), ("two", "order=1234&user=7"), ("three", "user=42"), ("four", "")]
    {
        let body = with(
            execution(id, "completed"),
            json!({ "output": [format!("https://files.example/{id}.png")] }),
        );
        accept(&receiver, query, &body).await;
    }
    let rows =
        receiver.rows("SELECT execution_id, reference FROM executions ORDER BY first_received_at").await;
    let row = |id: &str, reference: Value| json!({ "execution_id": id, "reference": reference });
    let expected = [
        row("one", json!({ "order": "1234", "user": "42" })),
        row("two", json!({ "order": "1234", "user": "7" })),
        row("three", json!({ "user": "42" })),
        row("four", Value::Null),
    ];
    assert_eq!(rows, expected);
    let of_order = r#"SELECT execution_id FROM latest_executions WHERE reference @> '{"order": "1234"}'"#;
    let found = receiver.rows(of_order).await;
    assert_eq!(found, [json!({ "execution_id": "two" }), json!({ "execution_id": "one" })]);

    let listed = get_json(&receiver, "/api/v1/executions?reference=order=1234").await;
    assert_eq!(item_fields(&listed, "execution_id"), ["two", "one"]);
    assert_eq!(listed["items"][1]["reference"], json!({ "order": "1234", "user": "42" }));
    let both = get_json(&receiver, "/api/v1/executions?reference=order=1234&workflow=w&limit=1").await;
    assert_eq!(item_fields(&both, "execution_id"), ["two"]);
    let next = both["next"].as_str().unwrap();
    let page = format!("/api/v1/executions?reference=order=1234&workflow=w&limit=1&cursor={next}");
    assert_eq!(item_fields(&get_json(&receiver, &page).await, "execution_id"), ["one"]);
    let results = get_json(&receiver, "/api/v1/results?reference=user%3D42").await;
    assert_eq!(item_fields(&results, "execution_id"), ["three", "one"]);
    assert_eq!(results["items"][0]["reference"], json!({ "user": "42" }));
    let csv =
        receiver.get("/api/v1/export/executions?format=csv&reference=order=1234").await.text().await.unwrap();
    assert_eq!(csv.lines().count(), 3, "{csv}");
    assert!(csv.contains(r#""{""user"": ""42"", ""order"": ""1234""}""#), "{csv}");
    for invalid in ["order", "=1234", "order=%00"] {
        let answer = receiver.get(&format!("/api/v1/executions?reference={invalid}")).await;
        let (kind, detail) = problem(answer, 400).await;
        assert_eq!(kind, "bad-parameter");
        assert!(
            detail.contains("reference") && detail.contains("name=value, such as order=1234"),
            "{detail}"
        );
    }

    let text = workflow_receiver(&receiver, &["executions", "--reference", "order=1234"]);
    assert!(text.contains(" two ") && text.contains(" one ") && !text.contains(" three "), "{text}");
    let text = workflow_receiver(&receiver, &["results", "--reference", "user=42", "--since", "7d"]);
    assert!(text.contains("https://files.example/three.png") && !text.contains("two.png"), "{text}");
    let text = workflow_receiver(&receiver, &["executions", "one"]);
    assert!(text.contains("order=1234 user=42"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_found_by_a_reference_and_the_tables_show_it() {
    let receiver = TestReceiver::start().await;
    let failed = |id: &str, more: Value| {
        let steps = json!({ "s": { "status": "failed", "error_cause": id, "metadata": { "model": "m", "version": "1.2" } } });
        let fields = json!({ "error_cause": format!("cause of {id}"), "step_outputs": steps });
        with(with(execution(id, "failed"), fields), more)
    };
    for (query, body) in [
        ("order=1234&user=42", failed("one", json!({ "bulk_id": "b", "version_id": "v7" }))),
        ("order=7", failed("two", json!({}))),
        ("order=1234", json!({ "exec_id": "p", "status": "failed", "error": "refused" })),
        ("order=1234", json!({ "exec_id": "q", "flow_id": "w", "status": "failed", "error": "refused" })),
    ] {
        accept(&receiver, query, &body).await;
    }
    accept(&receiver, "", &execution("none", "completed")).await;
    for (filter, failed) in [("order=1234", 3), ("order=7", 1), ("order=8", 0)] {
        let path = format!("/api/v1/failures?reference={filter}");
        assert_eq!(get_json(&receiver, &path).await["failed"], failed, "{filter}");
    }
    for (filter, failed) in
        [("workflow=w", 2), ("bulk=b", 1), ("workflow=other", 0), ("by=step", 1), ("by=model&workflow=w", 1)]
    {
        let path = format!("/api/v1/failures?reference=order=1234&{filter}");
        assert_eq!(get_json(&receiver, &path).await["failed"], failed, "{filter}");
    }
    let answer = receiver.get("/api/v1/failures?reference=order").await;
    assert_eq!(problem(answer, 400).await.0, "bad-parameter");
    let text = workflow_receiver(&receiver, &["failures", "--reference", "order=7"]);
    assert!(text.contains("cause of two") && !text.contains("cause of one"), "{text}");

    let text = workflow_receiver(&receiver, &["executions"]);
    assert!(text.contains("order=1234 user=42  cause of one"), "{text}");
    let text = workflow_receiver(&receiver, &["predictions"]);
    assert!(text.contains("order=1234  refused"), "{text}");
    let text = workflow_receiver(&receiver, &["executions", "--status", "completed"]);
    assert!(!text.contains("reference"), "{text}");

    // The version of the workflow, and of the model.
    let detail = get_json(&receiver, "/api/v1/executions/one").await;
    assert_eq!((&detail["version_id"], &detail["steps"][0]["model_version"]), (&json!("v7"), &json!("1.2")));
    assert_eq!(get_json(&receiver, "/api/v1/executions/two").await["version_id"], Value::Null);
    let text = workflow_receiver(&receiver, &["executions", "one"]);
    assert!(text.lines().any(|line| line.starts_with("version ") && line.ends_with(" v7")), "{text}");
    assert!(text.contains("m      1.2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_reference_stays_and_redeliveries_are_counted() {
    let receiver = TestReceiver::start().await;
    let (running, done) = (execution("e", "running"), execution("e", "completed"));
    let redelivered = |body: &Value| {
        receiver.client.post(&receiver.url).header("X-Webhook-Redelivery", "true").body(body.to_string())
    };
    assert_eq!(redelivered(&running).send().await.unwrap().status(), 200);
    receiver.wait_until_recorded().await;
    let row = async || receiver.row("SELECT reference, redeliveries, deliveries FROM executions").await;
    assert_eq!(row().await, json!({ "reference": null, "redeliveries": 1, "deliveries": 1 }));
    // A duplicate, the replacement, a conflict: each could change the reference.
    accept(&receiver, "order=first", &running).await;
    accept(&receiver, "", &done).await;
    assert_eq!(redelivered(&done).send().await.unwrap().status(), 200);
    accept(&receiver, "order=later", &done).await;
    accept(&receiver, "order=conflict", &execution("e", "failed")).await;
    let expected = json!({ "reference": { "order": "first" }, "redeliveries": 2, "deliveries": 6 });
    assert_eq!(row().await, expected);

    // The same in one batch.
    let held = receiver.hold_recording().await;
    for (query, status) in [("", "running"), ("order=first", "running"), ("order=second", "completed")] {
        let request = receiver.client.post(format!("{}?{query}", receiver.url));
        let request =
            request.header("X-Webhook-Redelivery", "true").body(execution("batch", status).to_string());
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    held.release().await;
    receiver.wait_until_recorded().await;
    let batch =
        receiver.row("SELECT reference, redeliveries FROM executions WHERE execution_id = 'batch'").await;
    assert_eq!(batch, json!({ "reference": { "order": "first" }, "redeliveries": 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_secret_in_the_url_is_not_recorded() {
    const SECRETS: [&str; 2] = ["whsec_the_previous_secret", "whsec_the_current_secret"];
    let receiver = TestReceiver::start_with(|settings| {
        settings.auth.webhook_secrets = Secrets::of(&SECRETS);
        settings.auth.url_tokens = Secrets::of(&[TOKEN, "another_token_1234"]);
    })
    .await;
    let [previous, current] = SECRETS;
    let secret = format!("webhook_secret={current}&ref=x-{previous}&sent=another_token_1234&access_token=1");
    accept(&receiver, &format!("token={TOKEN}&order=5&{secret}"), &execution("e", "completed")).await;
    let row = receiver.row("SELECT reference FROM executions").await;
    assert_eq!(row["reference"], json!({ "order": "5" }));
    let unread = format!("{}?token={TOKEN}&{secret}", receiver.url);
    assert_eq!(receiver.client.post(unread).body("{}").send().await.unwrap().status(), 422);
    receiver.wait_until_recorded().await;
    let quarantined = receiver.row("SELECT reference FROM quarantine").await;
    assert_eq!(quarantined["reference"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_survives_a_kill_and_a_quarantine_and_has_no_token() {
    let database = new_database().await;
    let dir = TempDir::new().unwrap();
    let command = || {
        let mut command = program(dir.path());
        command
            .env("RECEIVER__SPOOL__DIR", dir.path().join("spool"))
            .env("RECEIVER__AUTH__URL_TOKENS", TOKEN);
        command
    };
    let process = Process::start(command().env("DATABASE_URL", crate::support::postgres::UNREACHABLE));
    let client = reqwest::Client::new();
    let post = async |body: Value| {
        let url = format!("{}?order=1234&token={TOKEN}&note=%00%E2%82%AC", process.url);
        let request = client.post(url).header("X-Webhook-Redelivery", "true").body(body.to_string());
        request.send().await.unwrap().status()
    };
    assert_eq!(post(execution("e", "completed")).await, 200);
    assert_eq!(post(json!({ "executionId": "q", "workflow_id": "w", "status": "completed" })).await, 422);
    process.kill();

    let mut process = Process::start(command().env("DATABASE_URL", url(&database)));
    process.wait_for("recording to PostgreSQL");
    until_rows(&database, "SELECT FROM quarantine", 1).await;
    until_rows(&database, "SELECT FROM executions", 1).await;
    process.terminate();
    let retry = ["quarantine", "retry", "--all", "--map", "execution_id=executionId"];
    let (text, code) = run_to_end(command().args(retry).env("DATABASE_URL", url(&database)));
    assert_eq!(code, Some(0), "{text}");
    let recorded =
        rows(&database, "SELECT execution_id, reference, redeliveries FROM executions ORDER BY 1").await;
    let row = |id: &str| {
        let reference = json!({ "order": "1234", "note": "\u{fffd}€" });
        json!({ "execution_id": id, "reference": reference, "redeliveries": 1 })
    };
    assert_eq!(recorded, [row("e"), row("q")]);
}
