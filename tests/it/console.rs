//! The operator console: login, roles, forms, the audit log, headers and escaping.

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use workflow_receiver::config::{Secret, Secrets, Settings};

use crate::support::fixtures::{example, execution, with};
use crate::support::postgres::{execute, new_database, no_database, url};
use crate::support::process::{Process, program};
use crate::support::receiver::TestReceiver;
use crate::support::wait::{until, within};

const OPERATOR: &str = "the-token-of-an-operator";
const READER: &str = "the-token-of-a-reader-1";

/// A browser: it sends `Accept: text/html`, keeps one cookie, and follows no redirect.
struct Browser {
    client: Client,
    admin: String,
    cookie: String,
}

impl Browser {
    fn new(admin: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("accept", HeaderValue::from_static("text/html,application/xhtml+xml"));
        let client = Client::builder().redirect(Policy::none()).default_headers(headers).build().unwrap();
        Self { client, admin: admin.to_owned(), cookie: String::new() }
    }

    fn request(&self, request: RequestBuilder) -> RequestBuilder {
        if self.cookie.is_empty() { request } else { request.header("cookie", &self.cookie) }
    }

    async fn get(&self, path: &str) -> Response {
        self.request(self.client.get(format!("{}{path}", self.admin))).send().await.unwrap()
    }

    async fn text(&self, path: &str) -> String {
        let answer = self.get(path).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        let body = form(fields);
        let request = self.client.post(format!("{}{path}", self.admin)).body(body);
        self.request(request.header("content-type", "application/x-www-form-urlencoded"))
            .send()
            .await
            .unwrap()
    }

    /// Logs in, and keeps the cookie.
    async fn log_in(&mut self, token: &str) {
        let answer = self.post("/login", &[("token", token), ("next", "/settings")]).await;
        assert_eq!((answer.status().as_u16(), location(&answer)), (303, "/settings"));
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        for part in ["; Path=/", "; HttpOnly", "; SameSite=Strict", "; Max-Age=43200"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        assert!(!cookie.contains("Secure") && !cookie.contains(token), "{cookie}");
        cookie.split(';').next().unwrap().clone_into(&mut self.cookie);
    }

    /// The form key of a page.
    async fn form_key(&self, path: &str) -> String {
        let page = self.text(path).await;
        let (_, rest) = page.split_once("name=\"form_key\" value=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    let mut form = reqwest::Url::parse("http://x/").unwrap();
    form.query_pairs_mut().extend_pairs(fields);
    form.query().unwrap_or_default().to_owned()
}

fn location(answer: &Response) -> &str {
    answer.headers()["location"].to_str().unwrap()
}

fn tokens(settings: &mut Settings) {
    let tokens = [format!("olga:operate:{OPERATOR}"), format!("rita:read:{READER}")];
    settings.admin.tokens = Secrets::of(&[&tokens[0], &tokens[1]]);
    settings.admin.token = Secret::from("the-single-admin-token");
    settings.auth.webhook_secrets = Secrets::of(&["whsec_of_the_console"]);
}

async fn with_tokens() -> TestReceiver {
    TestReceiver::start_with(tokens).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_with_a_token_and_out_again() {
    let receiver = with_tokens().await;
    let mut browser = Browser::new(&receiver.admin);
    let answer = browser.get("/executions?status=failed").await;
    assert_eq!(
        (answer.status().as_u16(), location(&answer)),
        (303, "/login?next=%2Fexecutions%3Fstatus%3Dfailed")
    );
    // A client that is not a browser gets a problem, as before.
    assert_eq!(receiver.get("/executions").await.status(), 401);
    let page = browser.text("/login?next=%2Fbulks").await;
    assert!(page.contains("value=\"/bulks\""), "{page}");
    assert!(
        page.contains("<code>workflow-receiver admin-token</code> prints <code>admin.token</code>."),
        "{page}"
    );

    for wrong in ["", "wrong", READER.trim_end_matches('1')] {
        let answer = browser.post("/login", &[("token", wrong)]).await;
        assert_eq!(answer.status(), 401, "{wrong}");
        assert!(!answer.headers().contains_key("set-cookie"));
        let page = answer.text().await.unwrap();
        assert!(page.contains("This token is not valid. It may have been replaced."), "{page}");
    }
    let foreign = browser.client.post(format!("{}/login", receiver.admin)).body(form(&[("token", READER)]));
    assert_eq!(foreign.header("sec-fetch-site", "cross-site").send().await.unwrap().status(), 403);
    let foreign = browser.client.post(format!("{}/login", receiver.admin)).body(form(&[("token", READER)]));
    assert_eq!(foreign.header("origin", "https://evil.example").send().await.unwrap().status(), 403);

    browser.log_in(READER).await;
    let settings = browser.text("/settings").await;
    assert!(settings.contains("rita"), "{settings}");
    for secret in [READER, OPERATOR, "the-single-admin-token", "whsec_of_the_console"] {
        assert!(!settings.contains(secret));
    }
    // The session is also valid for the API, which the pages use.
    assert_eq!(browser.get("/api/v1/executions").await.status(), 200);
    let key = browser.form_key("/settings").await;
    let answer = browser.post("/logout", &[("form_key", &key)]).await;
    assert_eq!(location(&answer), "/login");
    assert!(answer.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    // A copy of the cookie is of no use.
    assert_eq!(browser.get("/settings").await.status(), 303);
    assert_eq!(browser.get("/api/v1/executions").await.status(), 303);
    assert_eq!(browser.post("/test-webhook", &[("form_key", &key)]).await.status(), 303);

    // Behind a proxy with TLS, the cookie is sent over TLS only.
    let https = browser.client.post(format!("{}/login", receiver.admin)).body(form(&[("token", READER)]));
    let answer = https.header("x-forwarded-proto", "https").send().await.unwrap();
    assert!(answer.headers()["set-cookie"].to_str().unwrap().ends_with("; Secure"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_out_ends_the_session_at_all_receivers_and_after_a_restart() {
    let database = new_database().await;
    let [one, other] = [
        TestReceiver::start_on(database.clone(), tokens).await,
        TestReceiver::start_on(database.clone(), tokens).await,
    ];
    for receiver in [&one, &other] {
        within(receiver.progress.clone().recording()).await;
    }
    let [mut browser, mut stays] = [(); 2].map(|()| Browser::new(&one.admin));
    browser.log_in(OPERATOR).await;
    stays.log_in(OPERATOR).await;
    let at_other = Browser { cookie: browser.cookie.clone(), ..Browser::new(&other.admin) };
    assert_eq!(at_other.get("/settings").await.status(), 200);
    let key = browser.form_key("/settings").await;
    browser.post("/logout", &[("form_key", &key)]).await;
    assert_eq!(browser.get("/settings").await.status(), 303);
    // A receiver looks a session up again after two seconds.
    until(async || at_other.get("/settings").await.status() == 303).await;
    assert_eq!(stays.get("/settings").await.status(), 200, "the other session of the token continues");

    let (dir, database) = one.stop().await;
    let one = TestReceiver::start_in(dir, database, tokens).await;
    within(one.progress.clone().recording()).await;
    browser.admin.clone_from(&one.admin);
    assert_eq!(browser.get("/settings").await.status(), 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_are_limited_for_each_address() {
    let receiver = with_tokens().await;
    let browser = Browser::new(&receiver.admin);
    for _ in 0..10 {
        assert_eq!(browser.post("/login", &[("token", "a-guess-of-a-token")]).await.status(), 401);
    }
    let answer = browser.post("/login", &[("token", OPERATOR)]).await;
    assert_eq!(answer.status(), 429);
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=61).contains(&wait), "{wait}");
    assert!(answer.text().await.unwrap().contains("Too many failed attempts to log in"));
    let elsewhere = Client::builder().redirect(Policy::none()).local_address(Some([127, 0, 0, 2].into()));
    let elsewhere = Browser { client: elsewhere.build().unwrap(), ..Browser::new(&receiver.admin) };
    assert_eq!(elsewhere.post("/login", &[("token", OPERATOR)]).await.status(), 303);
    // A token in a header is not a login.
    let bearer = browser.client.get(format!("{}/api/v1/executions", receiver.admin)).bearer_auth(OPERATOR);
    assert_eq!(bearer.send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_from_another_site_is_answered_with_a_page_that_opens_it_again() {
    let receiver = with_tokens().await;
    let browser = Browser::new(&receiver.admin);
    // The browser does not send the cookie with such a request. The answer opens the same page from this site.
    let request = browser.client.get(format!("{}/bulks?x=%22%3E%3Cb%3E", receiver.admin));
    let answer = request.header("sec-fetch-site", "cross-site").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let page = answer.text().await.unwrap();
    assert!(page.contains("http-equiv=\"refresh\" content=\"0;url=/bulks?x=%22%3E%3Cb%3E\""), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_needs_the_role_operate_and_the_form_key_and_is_audited() {
    let receiver = with_tokens().await;
    let [mut olga, mut rita] = [(); 2].map(|()| Browser::new(&receiver.admin));
    olga.log_in(OPERATOR).await;
    rita.log_in(READER).await;
    let [olgas_key, ritas_key] = [olga.form_key("/settings").await, rita.form_key("/settings").await];

    // A reader sees the button, but it is disabled.
    assert!(rita.text("/settings").await.contains("<fieldset class=\"plain\" disabled"));
    assert_eq!(rita.post("/test-webhook", &[("form_key", &ritas_key)]).await.status(), 403);
    // A form of another page, or of another session.
    for key in ["", "wrong", &ritas_key] {
        let answer = olga.post("/test-webhook", &[("form_key", key)]).await;
        assert_eq!(answer.status(), 403);
        assert!(answer.text().await.unwrap().contains("out of date"));
    }
    // A token in a header needs the form key, too: browsers repeat a password by themselves.
    let basic = olga.client.post(format!("{}/test-webhook", receiver.admin)).basic_auth("x", Some(OPERATOR));
    assert_eq!(basic.send().await.unwrap().status(), 403);
    assert_eq!(receiver.rows("SELECT * FROM audit").await.len(), 0);

    let answer = olga.post("/test-webhook", &[("form_key", &olgas_key)]).await;
    assert_eq!((answer.status().as_u16(), location(&answer)), (303, "/?done=1"));
    let page = olga.text("/?done=1").await;
    assert!(
        page.contains("was answered") && page.contains("Test webhook <a href=\"/executions?q="),
        "{page}"
    );
    let audit = receiver.row("SELECT actor, action, target, succeeded FROM audit").await;
    assert_eq!(audit, json!({ "actor": "olga", "action": "webhook.test", "target": "", "succeeded": true }));
    let log = rita.text("/audit").await;
    assert!(log.contains("olga") && log.contains("webhook.test"), "{log}");
    let recorded = receiver.row("SELECT workflow_id, status, authenticated_by FROM executions").await;
    assert_eq!(
        recorded,
        json!({ "workflow_id": "workflow-receiver-test", "status": "completed", "authenticated_by": "signature" })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_a_token_ends_its_sessions() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let file = dir.path().join("tokens");
    std::fs::write(&file, format!("olga:operate:{OPERATOR}\nrita:read:{READER}\n")).unwrap();
    let mut process = Process::start(
        program(dir.path()).env("DATABASE_URL", url(&database)).env("RECEIVER__ADMIN__TOKENS_FILE", &file),
    );
    let admin = format!("http://{}", process.admin);
    let [mut olga, mut rita] = [(); 2].map(|()| Browser::new(&admin));
    olga.log_in(OPERATOR).await;
    rita.log_in(READER).await;
    std::fs::write(&file, format!("olga:operate:a-new-token-of-olga\nrita:read:{READER}\n")).unwrap();
    process.signal(Signal::HUP);
    process.wait_for("secrets re-read");
    assert_eq!(olga.get("/settings").await.status(), 303);
    assert_eq!(rita.get("/settings").await.status(), 200);
    olga.log_in("a-new-token-of-olga").await;
    assert_eq!(olga.get("/settings").await.status(), 200);
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_strict_headers_and_load_nothing_from_other_hosts() {
    let receiver = TestReceiver::start_with(|settings| {
        settings.console.result_hosts.0 = vec!["cdn.example.com".to_owned()];
    })
    .await;
    let browser = Browser::new(&receiver.admin);
    for path in [
        "/",
        "/executions",
        "/bulks",
        "/quarantine",
        "/conflicts",
        "/settings",
        "/audit",
        "/executions/unknown",
    ] {
        let page = browser.get(path).await;
        let header = |name: &str| page.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("x-content-type-options"), "nosniff");
        let policy = header("content-security-policy");
        let directives: Vec<_> = policy.split(';').map(str::trim).collect();
        for directive in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' https://cdn.example.com",
            "media-src 'self' https://cdn.example.com",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(directives.contains(&directive), "{directive}: {policy}");
        }
        let text = page.text().await.unwrap();
        assert!(
            !text.contains("style=") && !text.contains(" onclick") && !text.contains("<script>"),
            "{text}"
        );
        for asset in text.split('"').filter(|part| part.starts_with("/console/")) {
            let answer = receiver.get(asset).await;
            assert_eq!(answer.status(), 200, "{asset}");
            assert_eq!(answer.headers()["cache-control"], "public, max-age=31536000, immutable");
        }
    }
    // DNS rebinding.
    let rebound = browser.client.get(format!("{}/", receiver.admin)).header("host", "evil.example");
    assert_eq!(rebound.send().await.unwrap().status(), 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_escapes_the_text_of_webhooks() {
    let receiver = TestReceiver::start().await;
    let hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u{202e}evil\u{7}";
    let body = json!({ "workflow_id": hostile, "error": hostile, "error_cause": hostile });
    receiver.accept(with(execution(hostile, "failed"), body)).await;
    receiver.accept(execution("earlier", "failed")).await;
    receiver.wait_until_recorded().await;
    let before =
        "UPDATE executions SET first_received_at = now() - interval '31 days' WHERE execution_id = 'earlier'";
    execute(&receiver, before).await;
    let browser = Browser::new(&receiver.admin);
    for path in ["/", "/?period=1h", "/?period=7d", "/?period=30d"] {
        let page = browser.text(path).await;
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
        assert!(page.contains("<span class=\"code-point\">U+202E</span>"), "{page}");
        for raw in ["<script>alert", "<img src=x", "\u{202e}", "\u{7}", "\"'><"] {
            assert!(!page.contains(raw), "{path}: {raw:?} in {page}");
        }
        // The earlier failure is in the 7 days before this period only.
        assert_eq!(page.contains(">new</span>"), path == "/?period=30d", "{path}: {page}");
    }
    receiver.accept(execution(hostile, "cancelled")).await;
    receiver.wait_until_recorded().await;
    let page = browser.text("/conflicts").await;
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("status, "), "{page}");
    assert!(!page.contains("<script>alert") && !page.contains('\u{202e}'), "{page}");
    let page = browser.text("/conflicts?since=1h").await;
    assert!(page.contains("aria-current=\"true\">1 h</a>") && page.contains("&lt;script&gt;"), "{page}");
    assert!(!browser.text("/conflicts?to=2026-01-01T00:00").await.contains("&lt;script&gt;"));
    let answer = browser.get("/?period=9h").await;
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("must be one of 1h, 24h, 7d, 30d"));
}

#[tokio::test(flavor = "multi_thread")]
async fn causes_and_numbers_of_the_overview_link_to_their_rows() {
    let receiver = TestReceiver::start().await;
    let cause = "Model timeout after 30s";
    for id in ["one", "two"] {
        let body = json!({ "error": "ExecutionFailed", "error_cause": cause, "workflow_id": "draw" });
        receiver.accept(with(execution(id, "failed"), body)).await;
        receiver.wait_until_recorded().await;
    }
    receiver.accept(execution("other", "failed")).await;
    receiver.accept(execution("runs", "running")).await;
    receiver.accept(serde_json::from_str::<Value>(&example("prediction-failed.json")).unwrap()).await;
    receiver.wait_until_recorded().await;
    let browser = Browser::new(&receiver.admin);
    let page = browser.text("/?period=7d").await;
    let list = "/executions?status=failed&q=Model+timeout+after+30s&workflow=draw&since=7d";
    assert_eq!(page.matches(&format!("href=\"{}\"", list.replace('&', "&amp;"))).count(), 2, "{page}");
    let found = browser.text(list).await;
    assert!(["one", "two"].iter().all(|id| found.contains(&format!("href=\"/executions/{id}\""))), "{found}");
    assert!(!found.contains("/executions/other"), "{found}");
    for part in [
        "href=\"/executions/two\"><time",
        "<span class=\"badge muted\">provider</span></span> <a href=\"/executions?status=failed&amp;since=7d&amp;class=execution_timeout\">the provider was too slow <code class=\"name\">",
        "href=\"/executions?status=failed&amp;fault=provider&amp;since=7d\">provider <strong>2</strong></a>",
        "href=\"/executions?status=failed&amp;fault=unknown&amp;since=7d\">unknown <strong>1</strong></a>",
        "<h2>Failed predictions</h2>",
        "href=\"/predictions?status=failed&amp;q=Prompt+refused+by+the+provider&amp;workflow=50741f40-8621-4d46-8a91-dff4d873be98&amp;since=7d\"",
        "href=\"/executions?status=failed&amp;since=7d\">All failures",
        "<dt>running</dt>",
        "Workflows by cost, the last 7 days (UTC)",
        "href=\"/executions?workflow=draw&amp;since=7d\"",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains(" · </small>"), "{page}");
    assert!(!page.contains("in other causes"), "{page}");
    for n in 0..8 {
        let body = json!({ "error_cause": format!("cause {n}") });
        receiver.accept(with(execution(&format!("more-{n}"), "failed"), body)).await;
    }
    receiver.wait_until_recorded().await;
    let page = browser.text("/?period=7d").await;
    let others = "and 2 <a href=\"/executions?status=failed&amp;since=7d\">in other causes</a>";
    assert!(page.contains(others), "{page}");
    // A cause is counted in all workflows.
    let body = json!({ "error": "ExecutionFailed", "error_cause": cause, "workflow_id": "paint" });
    receiver.accept(with(execution("three", "failed"), body)).await;
    receiver.wait_until_recorded().await;
    let page = browser.text("/?period=7d").await;
    let list = "href=\"/executions?status=failed&amp;q=Model+timeout+after+30s&amp;since=7d\"";
    assert!(page.contains(&format!("{list}>3</a>")), "{page}");
    assert!(page.contains("<bdi>draw</bdi>, <bdi>paint</bdi>"), "{page}");
    let page = browser.text("/executions?status=failed&since=30d").await;
    assert!(page.contains("aria-current=\"true\">30 d</a>"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_shows_which_model_fails_most() {
    let receiver = TestReceiver::start().await;
    for (n, (model, cause)) in [
        ("flux", "Model timeout after 30s"),
        ("flux", "Model timeout after 30s"),
        ("flux", "too many requests"),
        ("kling", "Model timeout after 30s"),
        ("kling", "Model timeout after 30s"),
    ]
    .into_iter()
    .enumerate()
    {
        let step = json!({ "status": "failed", "error_cause": cause, "metadata": { "model": model } });
        let body = json!({ "error_cause": cause, "step_outputs": { "draw": step } });
        receiver.accept(with(execution(&n.to_string(), "failed"), body)).await;
    }
    receiver.wait_until_recorded().await;
    let browser = Browser::new(&receiver.admin);
    let page = browser.text("/?period=7d").await;
    let (_, card) = page.split_once("<h2>Failures by model</h2>").expect(&page);
    let place = |part: &str| card.find(part).unwrap_or_else(|| panic!("{part}: {card}"));
    let list = "/executions?model=flux&since=7d";
    let row = |model: &str, number: u32| {
        format!(
            "model={model}&amp;since=7d\"><bdi>{model}</bdi></a></td><td class=\"num\" data-label=\"Failed steps\">{number}<"
        )
    };
    assert!(place(&row("flux", 3)) < place(&row("kling", 2)), "{card}");
    assert!(card.contains("2 of 3"), "{card}");
    let found = browser.text(list).await;
    assert_eq!(
        ["0", "1", "2", "3"].map(|id| found.contains(&format!("href=\"/executions/{id}\""))),
        [true, true, true, false]
    );
    let page = browser.text("/executions/2").await;
    assert!(page.contains("href=\"/executions?model=flux\""), "{page}");
    assert!(page.contains("href=\"#step-0\"") && page.contains("id=\"step-0\""), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_shown_with_units_and_empty_ones_as_not_set() {
    let receiver = TestReceiver::start().await;
    let page = Browser::new(&receiver.admin).text("/settings").await;
    assert!(page.contains("16777216</bdi> <span class=\"soft\">(16.0 MiB)</span>"), "{page}");
    assert!(page.contains("<span class=\"soft\">not set</span>"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_page_says_how_to_send_a_webhook_and_sends_one() {
    let receiver = TestReceiver::start_with(|settings| {
        settings.auth.url_tokens = Secrets::of(&["a-token-for-the-url-1"]);
    })
    .await;
    let browser = Browser::new(&receiver.admin);
    let page = browser.text("/").await;
    assert!(page.contains("No webhook yet") && page.contains("webhook_url"), "{page}");
    assert!(!page.contains("a-token-for-the-url-1"));
    let key = browser.form_key("/").await;
    let answer = browser.post("/test-webhook", &[("form_key", &key)]).await;
    assert_eq!(answer.status(), 303);
    let recorded = receiver.row("SELECT authenticated_by FROM executions").await;
    assert_eq!(recorded, json!({ "authenticated_by": "url_token" }));
    let audit = receiver.row("SELECT actor FROM audit").await;
    assert_eq!(audit, json!({ "actor": "anyone" }));
    assert!(!browser.text("/").await.contains("No webhook yet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_a_page_for_browsers_and_a_problem_for_programs() {
    let receiver = TestReceiver::start().await;
    let answer = Browser::new(&receiver.admin).get("/absent?x=<script>").await;
    assert_eq!(answer.status(), 404);
    assert!(answer.headers().contains_key("content-security-policy"));
    let page = answer.text().await.unwrap();
    assert!(page.contains("Page not found") && page.contains("aria-label=\"Pages\""), "{page}");
    let answer = receiver.get("/absent").await;
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgresql_the_overview_shows_the_state_of_the_receiver() {
    let receiver = TestReceiver::start_on(no_database(), |_| {}).await;
    let browser = Browser::new(&receiver.admin);
    let page = browser.text("/").await;
    assert!(page.contains("<span>Recording</span><strong><span class=\"badge warn\">paused"), "{page}");
    receiver.accept(execution("waiting", "completed")).await;
    let page = browser.text("/").await;
    assert!(page.contains("The database cannot be read"), "{page}");
    assert!(page.contains("<span>Recording</span><strong>1 waiting"), "{page}");
    assert_eq!(browser.get("/audit").await.status(), 503);
    let key = browser.form_key("/settings").await;
    let answer = browser.post("/test-webhook", &[("form_key", &key)]).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().await.unwrap().contains("The database cannot be read"));
}
