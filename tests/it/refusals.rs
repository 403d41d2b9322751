//! Problems of the admin port, and protection against cross-origin requests and DNS rebinding.

use reqwest::header::{AUTHORIZATION, HOST};
use serde_json::{Value, json};
use workflow_receiver::config::Secrets;

use crate::support::fixtures::{execution, sample_receiver};
use crate::support::http::get_json;
use crate::support::postgres::no_database;
use crate::support::receiver::TestReceiver;
use crate::support::wait::until;

/// Status and problem of a failed request.
async fn problem(receiver: &TestReceiver, path: &str) -> (u16, Value) {
    let answer = receiver.get(path).await;
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_parameters_are_problems_that_name_the_allowed_values() {
    let receiver = sample_receiver().await;
    receiver.accept(execution("queued", "queued")).await;
    receiver.wait_until_recorded().await;
    let cursor = get_json(&receiver, "/api/v1/executions?limit=1").await["next"].as_str().unwrap().to_owned();
    for (query, name, allowed) in [
        ("executions?limit=0", "limit", "`limit` must be a whole number from 1 to 1000."),
        ("executions?limit=1001", "limit", "from 1 to 1000"),
        ("executions?limit=ten", "limit", "from 1 to 1000"),
        ("executions?limit=", "limit", "from 1 to 1000"),
        ("executions?limit=1&limit=2", "limit", "must be given once"),
        ("executions?from=tomorrow", "from", "`from` must be a time like 2026-03-02T10:00:00Z"),
        ("executions?from=1", "from", "how long ago (30m, 1h, 7d), today or yesterday (UTC)"),
        ("executions?to=2026-03-02T10:00:00+01:00", "to", "encode + as %2B"),
        ("executions?to=9999-12-31T23:59:59-23:59", "to", "must be a time like"),
        ("overview?to=0000-01-01T00:00:00%2B23:59", "to", "must be a time like"),
        ("overview?from=9999-12-31T23:59:59-00:01", "from", "must be a time like"),
        ("executions?status=", "status", "1 to 255 characters"),
        ("executions?bulk=%00", "bulk", "without U+0000"),
        (&format!("executions?cause={}", "x".repeat(256)), "cause", "1 to 255 characters"),
        ("executions?cursor=x", "cursor", "must be the unchanged `next` of a page of this list"),
        (&format!("bulks?cursor={cursor}"), "cursor", "of this list"),
        (
            &format!("executions?cursor={cursor}&workflow=w"),
            "cursor",
            "`cursor` belongs to a list with another filter: only `from`, `to` and `limit` may change",
        ),
        (
            "executions?status=faild",
            "status",
            "`status` must be one of the statuses in use: cancelled, completed, failed, running, queued.",
        ),
        ("export/executions?status=failed,cancelled", "status", "running, queued; lists are not supported."),
        ("executions?stauts=failed", "stauts", "`stauts` is unknown. The parameters are: status, workflow,"),
        (&format!("executions?{}=1", "é".repeat(60)), &"é".repeat(50), "is unknown. The parameters"),
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
        (
            "executions?a=failed",
            "`a` is unknown. The parameters are: status, workflow, bulk, cause, reference, from, to, limit, cursor.",
        ),
        ("executions/plain?a=1", "`a` is unknown: this path has no parameters."),
        (
            "export/results?a=1",
            "`a` is unknown. The parameters are: format, kind, final, execution, prediction, workflow, bulk, reference, from, to.",
        ),
        (
            "events?a=2026-03-02T10:00:00Z",
            "`a` is unknown. The parameters are: after, status, workflow, bulk.",
        ),
    ] {
        let (status, problem) = problem(&receiver, &format!("/api/v1/{query}")).await;
        assert_eq!((status, &problem["detail"]), (400, &json!(known)), "{query}");
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
async fn every_path_requires_the_token_if_it_is_set() {
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
    let paths: Vec<_> =
        paths.cloned().chain(["/openapi.json", "/docs", "/", "/nothing"].map(str::to_owned)).collect();
    assert!(paths.len() > 15);
    for path in paths {
        let (status, problem) = problem(&receiver, &path).await;
        assert_eq!(
            (status, &problem["type"]),
            (401, &json!("urn:workflow-receiver:problem:no-token")),
            "{path}"
        );
    }
    let get_with_password = async |user: &str, password: &str| {
        let request = receiver.client.get(format!("{}/api/v1/executions", receiver.admin));
        request.basic_auth(user, Some(password)).send().await.unwrap()
    };
    assert_eq!(get_with_password("anyone", token).await.status(), 200, "as a browser does");
    assert_eq!(get_with_password(token, "").await.status(), 401);
    assert_eq!(get_with_password("anyone", "an_admin_token_of_some_lengt").await.status(), 401);
    let challenges: Vec<_> =
        get_with_password("", "").await.headers().get_all("www-authenticate").iter().cloned().collect();
    assert_eq!(challenges, ["Bearer", r#"Basic realm="workflow-receiver", charset="UTF-8""#]);
    for odd in ["Basic", "Basic !", "Basic bm8gY29sb24=", "Bearer", "Digest x"] {
        let request = receiver.client.get(format!("{}/docs", receiver.admin)).header(AUTHORIZATION, odd);
        assert_eq!(request.send().await.unwrap().status(), 401, "{odd}");
    }
}

/// DNS rebinding: a web page points its own host name to loopback, and its requests are then same-origin.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_dns_rebinding_is_rejected() {
    let receiver = TestReceiver::start().await;
    for (host, path, status) in [
        ("evil.example:9090", "/api/v1/executions", 421),
        ("evil.example", "/openapi.json", 421),
        ("localhost:9090", "/api/v1/executions", 200),
        ("[::1]:9090", "/docs", 200),
        ("receiver:9090", "/health/ready", 200),
        ("receiver:9090", "/metrics", 200),
        ("evil.example:9090", "/health/ready", 421),
        ("evil.example:9090", "/metrics", 421),
        ("[::1].evil:9090", "/api/v1/executions", 421),
        ("[::1].evil:9090", "/metrics", 421),
        ("127.0.0.1:9090.evil", "/api/v1/executions", 421),
        ("127.0.0.1:9090.evil", "/metrics", 421),
    ] {
        let request = receiver.client.get(format!("{}{path}", receiver.admin)).header(HOST, host);
        assert_eq!(request.send().await.unwrap().status(), status, "{host} {path}");
    }
}

/// Requests that a web page makes a browser send, across origins or by DNS rebinding.
#[tokio::test(flavor = "multi_thread")]
async fn web_pages_cannot_post_webhooks_without_authentication() {
    let token = "a-token-of-enough-length";
    let open = TestReceiver::start().await;
    // With allow_unauthenticated, any name is accepted: a proxy may pass it on.
    let named = TestReceiver::start_with(|s| s.auth.allow_unauthenticated = true).await;
    let closed = TestReceiver::start_with(|s| s.auth.url_tokens = Secrets::of(&[token])).await;
    for (name, value, status) in [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
        ("host", "evil.example:8080", 403),
        ("host", "[::1].evil:8080", 403),
        ("sec-fetch-site", "none", 200),
        ("sec-fetch-site", "same-origin", 200),
        ("host", "localhost:8080", 200),
        ("host", "[::1]:8080", 200),
        ("host", "receiver:8080", 200),
    ] {
        let body = execution(&format!("{name} {value}"), "completed").to_string();
        let answer = open.client.post(&open.url).header(name, value).body(body.clone()).send().await.unwrap();
        assert_eq!(answer.status(), status, "{name}: {value}");
        if status == 403 {
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["type"], "urn:workflow-receiver:problem:from-web-page");
        }
        let answer =
            named.client.post(&named.url).header(name, value).body(body.clone()).send().await.unwrap();
        assert_eq!(answer.status(), if name == "host" { 200 } else { status }, "{name}: {value}");
        // A sender with a token is authenticated; Origin does not matter.
        let known = closed.client.post(format!("{}/{token}", closed.url)).header(name, value).body(body);
        assert_eq!(known.send().await.unwrap().status(), 200, "{name}: {value}");
    }
    let recorded = open.rows("SELECT execution_id FROM executions").await;
    assert_eq!(recorded.len(), 5, "{recorded:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_queries_are_problems_and_webhooks_are_accepted() {
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
async fn queries_have_their_own_connections_and_time_limit_and_are_read_only() {
    let receiver = TestReceiver::start_with(|settings| {
        settings.admin.read_connections = 1;
        settings.admin.statement_timeout = std::time::Duration::from_secs(20);
    })
    .await;
    receiver.accept(execution("e", "completed")).await;
    receiver.wait_until_recorded().await;
    get_json(&receiver, "/api/v1/executions").await;
    let backend = "SELECT pid FROM pg_stat_activity WHERE application_name = 'workflow-receiver reading'
        AND datname = current_database()";
    assert_eq!(receiver.rows(backend).await.len(), 1);
    // No connection stays in a transaction, which would delay vacuum.
    for one in ["executions/none", "bulks/none", "conflicts/0", "executions/e"] {
        receiver.get(&format!("/api/v1/{one}")).await;
        let state = format!("SELECT state FROM pg_stat_activity WHERE pid IN ({backend})");
        assert_eq!(receiver.row(&state).await["state"], "idle", "{one}");
    }
    // A lost connection is replaced.
    let end = format!("SELECT pg_terminate_backend(pid, 10000) FROM ({backend}) AS b");
    sqlx::raw_sql(sqlx::AssertSqlSafe(end)).execute(&mut receiver.connection().await).await.unwrap();
    get_json(&receiver, "/api/v1/executions").await;

    let mut holder = receiver.connection().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE bulks IN ACCESS EXCLUSIVE MODE").execute(&mut holder).await.unwrap();
    let (slow, busy) = tokio::join!(problem(&receiver, "/api/v1/bulks"), async {
        let blocked = format!("{backend} AND wait_event_type = 'Lock'");
        until(async || !receiver.rows(&blocked).await.is_empty()).await;
        // Recording continues meanwhile.
        receiver.accept(execution("f", "completed")).await;
        receiver.wait_until_recorded().await;
        problem(&receiver, "/api/v1/executions").await
    });
    assert_eq!((busy.0, &busy.1["type"]), (503, &json!("urn:workflow-receiver:problem:reading-busy")));
    assert_eq!((slow.0, &slow.1["type"]), (503, &json!("urn:workflow-receiver:problem:reading-slow")));
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    get_json(&receiver, "/api/v1/bulks").await;
}
