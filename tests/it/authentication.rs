//! Authentication of webhooks and of the admin port.

use std::os::unix::fs::PermissionsExt;

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use workflow_receiver::config::{Secrets, Settings};

use crate::support::fixtures::execution;
use crate::support::http::{problem, signed};
use crate::support::postgres::{count_rows, new_database, rows, url};
use crate::support::process::{Process, program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::wait::until;

const SECRET: &str = "whsec_your_secret_key";
const TOKEN: &str = "kMzTgn5Yp0OQx3vB7wEa";

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

async fn start(change: impl FnOnce(&mut Settings)) -> TestReceiver {
    TestReceiver::start_with(|settings| {
        settings.auth.webhook_secrets = Secrets::of(&["the_next_secret_key", SECRET]);
        change(settings);
    })
    .await
}

/// Sends the request and checks that it is answered 401.
async fn refused(request: RequestBuilder) -> Value {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["www-authenticate"], "Webhook-Signature");
    let text = answer.text().await.unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn accepted(request: RequestBuilder) {
    let answer: Response = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_signature_is_401_and_nothing_is_stored() {
    let receiver = start(|_| {}).await;
    let body = execution("e", "completed").to_string();
    let post = || receiver.client.post(&receiver.url);
    let sign = |secret, at, body: &str| signed(post(), secret, at, body);
    let mut answers = vec![
        refused(post().body(body.clone())).await,
        refused(sign("whsec_another_secret", now(), &body)).await,
        refused(sign(SECRET, now() - 301, &body)).await,
        refused(sign(SECRET, now() + 302, &body)).await,
        refused(sign(SECRET, now(), &body).body(format!("{body} "))).await,
        refused(sign(SECRET, now(), &body).body(body[..body.len() - 1].to_owned())).await,
        refused(sign(SECRET, now(), &body).body("")).await,
        refused(post().header("X-Webhook-Secret", SECRET).body(body.clone())).await,
        refused(post().header("X-Webhook-Signature", "sha256=00").body(body.clone())).await,
        // The body is not read before the head is accepted.
        refused(post().body("{")).await,
    ];
    answers.dedup();
    assert_eq!(answers.len(), 1, "all answers are the same: {answers:?}");
    assert_eq!(answers[0]["status"], 401);
    assert_eq!(receiver.progress.waiting(), 0);
    let spooled: i64 = rusqlite::Connection::open(receiver.spool_file())
        .unwrap()
        .query_row("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'deliveries'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(spooled, 0, "nothing was written to the spool");
    assert_eq!(count_rows(&receiver, "executions").await + count_rows(&receiver, "quarantine").await, 0);
    for (reason, times) in [("no_credentials", 3), ("timestamp", 2), ("signature", 5)] {
        let metric = format!("webhooks_unauthenticated_total{{reason=\"{reason}\"}}");
        assert_eq!(receiver.metric(&metric).await, f64::from(times), "{reason}");
    }
    accepted(sign(SECRET, now(), &body)).await;
    assert_eq!(count_rows(&receiver, "executions").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_signature_is_accepted_as_a_retry_and_secrets_can_be_rotated() {
    let receiver = start(|_| {}).await;
    let (body, at) = (execution("e", "completed").to_string(), now() - 200);
    for secret in [SECRET, SECRET, "the_next_secret_key"] {
        accepted(signed(receiver.client.post(&receiver.url), secret, at, &body)).await;
    }
    let row = receiver.row("SELECT deliveries, authenticated_by FROM executions").await;
    assert_eq!(row, json!({ "deliveries": 3, "authenticated_by": "signature" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_authenticates_and_is_recorded() {
    let receiver = start(|settings| {
        settings.auth.secret_header = true;
        settings.auth.url_tokens = Secrets::of(&["another-token-of-enough-length", TOKEN]);
    })
    .await;
    let body = |id: &str| execution(id, "completed").to_string();
    let post = |suffix: &str| receiver.client.post(format!("{}{suffix}", receiver.url));
    accepted(signed(post(""), SECRET, now(), &body("signature"))).await;
    accepted(post("").header("X-Webhook-Secret", SECRET).body(body("secret_header"))).await;
    accepted(post(&format!("/{TOKEN}")).body(body("url_token"))).await;
    accepted(post(&format!("?a=1&token={TOKEN}&b")).body(body("url_token in the query"))).await;
    // The strongest valid method is recorded; invalid ones are ignored.
    accepted(signed(post(&format!("/{TOKEN}")), SECRET, now(), &body("signature and token"))).await;
    accepted(signed(post(&format!("/{TOKEN}")), "wrong", now(), &body("url_token, wrongly signed"))).await;
    // A wrong signature and a right secret.
    let both = signed(post(""), "wrong", now(), &body("secret_header, wrongly signed"));
    accepted(both.header("X-Webhook-Secret", SECRET)).await;
    let wrong = &TOKEN[1..];
    let mut answers = Vec::new();
    for secret in ["", &SECRET[1..], &format!("{SECRET}2")] {
        answers.push(refused(post("").header("X-Webhook-Secret", secret).body(body("refused"))).await);
    }
    for suffix in
        ["", "/", "/x", "?token=", "?token", "?Token=x", &format!("/{wrong}"), &format!("?token={wrong}")]
    {
        answers.push(refused(post(suffix).body(body("refused"))).await);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "a wrong and a missing token have the same answer: {answers:?}");
    // Quarantine entries record their method, too.
    problem(post(&format!("/{TOKEN}")).body("{}").send().await.unwrap(), 422).await;
    let kept = receiver.rows("SELECT execution_id, authenticated_by FROM executions").await;
    assert_eq!(kept.len(), 7);
    for row in kept {
        let (id, method) = (row["execution_id"].as_str().unwrap(), row["authenticated_by"].as_str().unwrap());
        assert!(id.starts_with(method), "{row}");
    }
    let row = receiver.row("SELECT authenticated_by, acknowledged FROM quarantine").await;
    assert_eq!(row, json!({ "authenticated_by": "url_token", "acknowledged": false }));
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_replacements_record_their_method() {
    let receiver = start(|settings| settings.auth.url_tokens = Secrets::of(&[TOKEN])).await;
    let by_token = format!("{}/{TOKEN}", receiver.url);
    let post = async |id: &str, status: &str| {
        accepted(receiver.client.post(&by_token).body(execution(id, status).to_string())).await;
    };
    let sign = async |id: &str, status: &str| {
        let body = execution(id, status).to_string();
        accepted(signed(receiver.client.post(&receiver.url), SECRET, now(), &body)).await;
    };
    post("conflict", "completed").await;
    sign("conflict", "failed").await;
    post("replacement", "running").await;
    sign("replacement", "completed").await;
    let query = "SELECT execution_id, authenticated_by FROM executions ORDER BY 1";
    assert_eq!(
        receiver.rows(query).await,
        [
            json!({ "execution_id": "conflict", "authenticated_by": "url_token" }),
            json!({ "execution_id": "replacement", "authenticated_by": "signature" })
        ]
    );
    let row = receiver.row("SELECT authenticated_by FROM execution_conflicts").await;
    assert_eq!(row["authenticated_by"], "signature");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_ends_unauthenticated_access_also_if_it_is_allowed() {
    let open = TestReceiver::start_with(|settings| settings.auth.allow_unauthenticated = true).await;
    open.accept(execution("e", "completed")).await;
    let row = open.row("SELECT authenticated_by FROM executions").await;
    assert_eq!(row, json!({ "authenticated_by": "none" }));

    let receiver = start(|settings| settings.auth.allow_unauthenticated = true).await;
    let body = execution("e", "completed").to_string();
    refused(receiver.client.post(&receiver.url).body(body.clone())).await;
    accepted(signed(receiver.client.post(&receiver.url), SECRET, now(), &body)).await;
    let row = receiver.row("SELECT authenticated_by FROM executions").await;
    assert_eq!(row, json!({ "authenticated_by": "signature" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_read_from_files_and_from_lists_in_the_environment() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let process = Process::start(
        program(dir.path())
            .env("RECEIVER__HTTP__LISTEN", "0.0.0.0:0")
            .env("RECEIVER__DATABASE__URL_FILE", file("url", &format!("{}\n", url(&database))))
            .env("RECEIVER__AUTH__WEBHOOK_SECRETS_FILE", file("secrets", "one\n\n  whsec_in_a_file \n"))
            .env("RECEIVER__AUTH__WEBHOOK_SECRETS", "whsec_in_the_list")
            .env("RECEIVER__AUTH__URL_TOKENS", format!("{TOKEN}, another-token-of-enough-length")),
    );
    let client = reqwest::Client::new();
    let webhooks = process.url.replace("0.0.0.0", "127.0.0.1");
    let body = |id: &str| execution(id, "completed").to_string();
    accepted(signed(client.post(&webhooks), "whsec_in_a_file", now(), &body("a"))).await;
    accepted(client.post(format!("{webhooks}/another-token-of-enough-length")).body(body("b"))).await;
    accepted(signed(client.post(&webhooks), "whsec_in_the_list", now(), &body("c"))).await;
    refused(signed(client.post(&webhooks), "", now(), &body("d"))).await;
    let log = process.terminate();
    assert!(
        !log.iter().any(|line| line.contains("Anyone who can reach this port can post webhooks")),
        "{log:#?}"
    );
    assert_eq!(rows(&database, "SELECT execution_id FROM executions").await.len(), 3);
}

#[test]
fn settings_that_would_disable_authentication_by_mistake_are_errors_without_the_secret() {
    let dir = TempDir::new().unwrap();
    let empty = dir.path().join("empty");
    std::fs::write(&empty, " \n").unwrap();
    let list = dir.path().join("list.toml");
    std::fs::write(&list, "[auth]\nwebhook_secrets = [\"HUSH-long-enough\", \"\"]\n").unwrap();
    let cases: [(&str, &str, &[&str]); 14] = [
        ("RECEIVER__AUTH__WEBHOOK_SECRETS", ",", &["auth.webhook_secrets"]),
        ("RECEIVER__AUTH__URL_TOKENS", " ", &["auth.url_tokens"]),
        ("RECEIVER__AUTH__WEBHOOK_SECRETS_FILE", "whsec_HUSH", &["(not shown)", "cannot be read"]),
        ("RECEIVER__DATABASE__URL_FILE", "postgres://u:HUSH@h/d", &["(not shown)", "cannot be read"]),
        ("RECEIVER_AUTH__WEBHOOK_SECRETS", "HUSH", &["RECEIVER_AUTH__WEBHOOK_SECRETS", "two underscores"]),
        ("RECEIVER__AUTH__URL_TOKENS", "HUSH", &["auth.url_tokens", "16 to 255", "new-token"]),
        ("RECEIVER__AUTH__URL_TOKENS", "HUSH with spaces, and more", &["auth.url_tokens", "A-Z a-z"]),
        ("RECEIVER__AUTH__VERIFY_UNSIGNED", "true", &["auth.verify_unsigned", "set eachlabs.api_key, too"]),
        ("RECEIVER__AUTH__SECRET_HEADER", "true", &["auth.secret_header", "set auth.webhook_secrets"]),
        ("RECEIVER__AUTH__WEBHOOK_SECRETS_FILE", empty.to_str().unwrap(), &["_file", "the file is empty"]),
        (
            "RECEIVER__AUTH__URL_TOKENS_FILE",
            "/absent",
            &["auth.url_tokens_file", "/absent", "cannot be read"],
        ),
        ("RECEIVER__ADMIN__TOKEN", "HUSH", &["admin.token", "at least 16"]),
        ("RECEIVER__ADMIN__LISTEN", "0.0.0.0:0", &["admin.listen", "RECEIVER__ADMIN__TOKEN"]),
        ("RECEIVER__AUTH", "HUSH", &["auth", "must be a section, not a value"]),
    ];
    for (variable, value, parts) in cases {
        let (text, code) = run_to_end(program(dir.path()).env(variable, value));
        assert_eq!(code, Some(1), "{variable}={value}: {text}");
        assert!(!text.contains("HUSH"), "{text}");
        for part in parts {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }
    let both = run_to_end(
        program(dir.path())
            .env("RECEIVER__DATABASE__URL_FILE", &list)
            .env("DATABASE_URL", "postgres://u:HUSH@h/d"),
    );
    assert!(
        both.1 == Some(1) && both.0.contains("database.url is set, too") && !both.0.contains("HUSH"),
        "{both:?}"
    );
    let (text, code) = run_to_end(program(dir.path()).arg("--config").arg(&list));
    assert!(code == Some(1) && text.contains("webhook_secrets") && !text.contains("HUSH"), "{text}");
}

#[test]
fn new_token_prints_a_valid_token_and_the_webhook_url() {
    let dir = TempDir::new().unwrap();
    let new_token = || {
        let (text, code) = run_to_end(program(dir.path()).arg("new-token"));
        assert_eq!(code, Some(0), "{text}");
        text
    };
    let text = new_token();
    let token = text.lines().next().unwrap();
    assert!(token.len() >= 43 && token.chars().all(|c| c.is_ascii_alphanumeric()), "{text}");
    assert!(text.contains(&format!("/webhooks/workflow-completed/{token}")), "{text}");
    assert!(text.contains(&format!("RECEIVER__AUTH__URL_TOKENS={token}")), "{text}");
    assert_ne!(new_token(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_requires_its_token_and_health_without_it_has_no_details() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let process = Process::start(
        program(dir.path())
            .env("DATABASE_URL", url(&database))
            .env("RECEIVER__ADMIN__LISTEN", "0.0.0.0:0")
            .env("RECEIVER__ADMIN__TOKEN", TOKEN),
    );
    let port = process.admin.rsplit(':').next().unwrap().to_owned();
    let client = reqwest::Client::new();
    let get = |path: &str| client.get(format!("http://127.0.0.1:{port}{path}"));
    let without_token =
        |path: &str| [get(path), get(path).bearer_auth("x"), get(path).header("authorization", TOKEN)];
    for path in ["/metrics", "/api/v1/executions", "/docs", "/elsewhere", "/health"] {
        for request in without_token(path) {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            assert_eq!(problem(answer, 401).await.0, "no-token");
        }
    }
    let body = async |request: RequestBuilder| {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json::<Value>().await.unwrap()
    };
    until(async || body(get("/health/ready").bearer_auth(TOKEN)).await["status"] == "ok").await;
    for path in ["/health/live", "/health/ready"] {
        for request in without_token(path) {
            assert_eq!(body(request).await, json!({ "status": "ok" }), "{path}");
        }
    }
    assert!(body(get("/health/ready").bearer_auth(TOKEN)).await["parts"].is_object());
    assert_eq!(get("/metrics").bearer_auth(TOKEN).send().await.unwrap().status(), 200);
    let healthcheck = |token: &str| {
        run_to_end(
            program(dir.path())
                .arg("healthcheck")
                .env("RECEIVER__ADMIN__LISTEN", format!("0.0.0.0:{port}"))
                .env("RECEIVER__ADMIN__TOKEN", token),
        )
    };
    let (text, code) = healthcheck(TOKEN);
    assert!(code == Some(0) && text.contains("parts"), "{text}");
    let other = healthcheck("another-token-of-enough-length");
    assert_eq!(other, ("{\"status\":\"ok\"}\n".to_owned(), Some(0)));
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_admin_token_file_is_created_with_a_random_token() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let file = dir.path().join("admin-token");
    let command = |arguments: &[&str]| {
        let mut command = program(dir.path());
        command.args(arguments).env("DATABASE_URL", url(&database)).env("RECEIVER__ADMIN__TOKEN_FILE", &file);
        command
    };
    let (text, code) = run_to_end(&mut command(&["admin-token"]));
    assert!(code == Some(1) && text.contains("admin.token_file") && !file.exists(), "{text}");
    // Left by a crash, with permissions for all users.
    std::fs::write(file.with_extension("new"), "unfinished").unwrap();
    let mut tokens = Vec::new();
    for start in 0..2 {
        let process = Process::start(&mut command(&[]));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let (token, code) = run_to_end(&mut command(&["admin-token"]));
        assert_eq!(code, Some(0), "{token}");
        let metrics = reqwest::Client::new().get(format!("http://{}/metrics", process.admin));
        let without_token = metrics.try_clone().unwrap().send().await.unwrap();
        assert_eq!(without_token.status(), 401);
        assert_eq!(metrics.bearer_auth(token.trim_end()).send().await.unwrap().status(), 200);
        let log = process.terminate();
        let created = log.iter().any(|line| line.contains("created admin.token_file"));
        assert_eq!(created, start == 0, "{log:#?}");
        assert!(!log.iter().any(|line| line.contains(token.trim_end())), "{log:#?}");
        tokens.push(token);
    }
    assert!(tokens[0] == tokens[1] && tokens[0].trim_end().len() >= 43, "{tokens:?}");

    for (path, why) in
        [("/absent/admin-token", "cannot be created"), ("a-token-set-by-mistake", "(not shown)")]
    {
        let (text, code) = run_to_end(command(&[]).env("RECEIVER__ADMIN__TOKEN_FILE", path));
        assert!(code == Some(1) && text.contains("admin.token_file") && text.contains(why), "{text}");
    }
    assert!(!dir.path().join("a-token-set-by-mistake").exists());
}
