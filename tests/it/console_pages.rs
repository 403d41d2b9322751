//! The pages Executions, Execution, Bulks and Quarantine of the console, over HTTP.

use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use sender_stand_in::{Options, StandIn, Trigger};
use serde_json::{Value, json};

use crate::support::fixtures::{example, execution, sample_receiver, with};
use crate::support::receiver::TestReceiver;
use crate::support::wait::until;

/// The HTML of a page.
async fn page(receiver: &TestReceiver, path: &str) -> String {
    let answer = receiver.get(path).await;
    assert_eq!(answer.status(), 200, "{path}");
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/html"), "{path}");
    answer.text().await.unwrap()
}

/// Where a request without a body redirects to.
async fn location(receiver: &TestReceiver, path: &str) -> String {
    let client = Client::builder().redirect(Policy::none()).build().unwrap();
    let answer = client.get(format!("{}{path}", receiver.admin)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{path}");
    answer.headers()["location"].to_str().unwrap().to_owned()
}

/// The visible text of a page, with single spaces.
fn text(html: &str) -> String {
    let mut text = String::new();
    let mut in_tag = false;
    for character in html.split("<body").nth(1).unwrap_or(html).chars() {
        match character {
            '<' => in_tag = true,
            '>' => {
                in_tag = false;
                text.push(' ');
            }
            character if !in_tag => text.push(character),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The links of a page to executions.
fn executions(html: &str) -> Vec<String> {
    let links = html.split("href=\"/executions/").skip(1).filter_map(|rest| rest.split('"').next());
    let mut links: Vec<_> = links.map(str::to_owned).collect();
    links.dedup();
    links
}

/// Submits a form of a page.
async fn submit(receiver: &TestReceiver, page_path: &str, action: &str, fields: &[(&str, &str)]) -> String {
    let html = page(receiver, page_path).await;
    let form = html.split("<form").find(|form| form.contains(&format!("action=\"{action}\""))).expect(action);
    let hidden = hidden_fields(form.split("</form>").next().unwrap());
    let answer = send(receiver, action, &hidden, fields).await;
    assert_eq!(answer.status(), 200, "{action}");
    answer.text().await.unwrap()
}

/// Sends a form that the page does not have, with the key of its other forms.
async fn post_form(
    receiver: &TestReceiver,
    page_path: &str,
    action: &str,
    fields: &[(&str, &str)],
) -> Response {
    let hidden = hidden_fields(&page(receiver, page_path).await);
    let key: Vec<_> = hidden.into_iter().filter(|(name, _)| name == "form_key").take(1).collect();
    send(receiver, action, &key, fields).await
}

fn hidden_fields(html: &str) -> Vec<(String, String)> {
    let value = |input: &str, name: &str| {
        input.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).map(unescape)
    };
    let hidden = html.split("<input").skip(1).filter(|input| input.contains("type=\"hidden\""));
    hidden.filter_map(|input| Some((value(input, "name")?, value(input, "value")?))).collect()
}

async fn send(
    receiver: &TestReceiver,
    action: &str,
    hidden: &[(String, String)],
    fields: &[(&str, &str)],
) -> Response {
    let hidden = hidden.iter().map(|(name, value)| (&**name, &**value));
    let fields = hidden.chain(fields.iter().copied());
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    receiver.client.post(format!("{}{action}", receiver.admin)).body(body).send().await.unwrap()
}

fn unescape(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_search_box_finds_ids_references_causes_and_prompts() {
    let receiver = TestReceiver::start().await;
    for (id, prompt, cause) in [
        ("one", "A fox in the Morning snow", None),
        ("two", "A red fox", Some("Model timeout after 30s")),
        ("three", "50% off_now", None),
    ] {
        let status = if cause.is_some() { "failed" } else { "completed" };
        let step =
            json!({ "status": status, "error_cause": cause, "metadata": { "model": format!("model-{id}") } });
        let body = json!({ "bulk_id": "bulk/1", "inputs": { "prompt": prompt }, "error_cause": cause, "status": status,
                           "step_outputs": { "draw": step } });
        let body = with(execution(id, "completed"), body).to_string();
        let url = format!("{}?order={id}&user=user-of-{id}", receiver.url);
        assert_eq!(receiver.client.post(url).body(body).send().await.unwrap().status(), 200);
        receiver.wait_until_recorded().await;
    }
    assert_eq!(location(&receiver, "/executions?q=two").await, "/executions/two");
    assert_eq!(location(&receiver, "/executions?q=bulk/1").await, "/bulks/bulk%2F1");
    assert_eq!(
        location(&receiver, "/executions?q=w&status=failed").await,
        "/executions?status=failed&workflow=w"
    );
    assert_eq!(
        location(&receiver, "/executions?q=execution_timeout").await,
        "/executions?class=execution_timeout"
    );
    for (query, found) in [
        ("q=order=three", &["three"][..]),
        ("q=order=four", &[]),
        ("q=TIMEOUT", &["two"]),
        ("q=fox", &["two", "one"]),
        ("q=snow%20FOX", &["one"]),
        ("q=fox&status=failed", &["two"]),
        ("q=5%25f%20o_f", &[]),
        ("q=50%25%20off_now", &["three"]),
        ("q=fox&since=1h", &["two", "one"]),
        ("q=fox&to=2026-01-01T00:00", &[]),
        ("status=failed", &["two"]),
        ("bulk=bulk/1&status=completed", &["three", "one"]),
        ("workflow=other", &[]),
        ("q=user-of-three", &["three"]),
        ("q=model-one", &["one"]),
        ("model=model-two", &["two"]),
        ("model=model-one", &[]),
        ("q=too%20slow", &["two"]),
        ("q=Execution_Time", &["two"]),
        ("class=execution_timeout", &["two"]),
        ("class=execution_timeout&workflow=w&since=1h", &["two"]),
        ("class=provider_auth", &[]),
        ("fault=provider&q=fox", &["two"]),
        ("fault=input", &[]),
    ] {
        let html = page(&receiver, &format!("/executions?{query}")).await;
        assert_eq!(executions(&html), found, "{query}\n{}", text(&html));
        assert_eq!(html.contains("No execution matches"), found.is_empty(), "{query}");
    }
    for (path, row) in [("/executions", "/executions/one"), ("/bulks", "/bulks/bulk%2F1")] {
        assert!(page(&receiver, path).await.contains(row), "{path}");
        let html = page(&receiver, &format!("{path}?from=tomorrow")).await;
        assert!(html.contains("tomorrow") && html.contains("must be a time like"), "{}", text(&html));
        assert!(html.contains("No rows are shown") && !html.contains(row), "{}", text(&html));
    }
    for (since, name) in [("30d", "30 d"), ("90d", "90d")] {
        let html = page(&receiver, &format!("/executions?since={since}")).await;
        let marked = html.split("aria-current=\"true\">").map(|rest| rest.split('<').next().unwrap());
        assert!(marked.clone().any(|chip| chip == name), "{since}: {:?}", marked.collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_read_page_by_page_with_its_filters() {
    let receiver = TestReceiver::start().await;
    let insert = "INSERT INTO executions (execution_id, workflow_id, status, payload, deliveries, first_received_at, last_received_at)
        SELECT 'e' || lpad(n::text, 4, '0'), 'w', 'completed', jsonb_build_object('inputs', jsonb_build_object('prompt',
            CASE WHEN n % 1100 = 0 THEN 'needle' ELSE 'hay' END)), 1, at, at
        FROM (SELECT n, now() - n * interval '1 second' AS at FROM generate_series(1, 2250) AS n) AS n";
    sqlx::raw_sql(insert).execute(&mut receiver.connection().await).await.unwrap();
    let next = |html: &str| {
        let link = html.split("rel=\"next\" href=\"").nth(1)?.split('"').next()?;
        Some(unescape(link))
    };
    let mut seen = Vec::new();
    let mut path = Some("/executions?status=completed".to_owned());
    while let Some(current) = path {
        let html = page(&receiver, &current).await;
        seen.extend(executions(&html));
        path = next(&html);
    }
    let expected: Vec<_> = (1..=2250).map(|n| format!("e{n:04}")).collect();
    assert_eq!(seen, expected);
    // A search scans 1,000 executions at a time.
    let mut path = "/executions?q=needle&workflow=w".to_owned();
    let mut found = Vec::new();
    for expected in [&["No match among the newest 1\u{202f}000"][..], &["e1100"], &["e2200"]] {
        let html = page(&receiver, &path).await;
        assert!(html.contains(expected[0]), "{}", text(&html));
        found.extend(executions(&html));
        path = next(&html).unwrap_or_default();
    }
    assert_eq!((found, path), (vec!["e1100".to_owned(), "e2200".to_owned()], String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_shows_its_results_steps_inputs_conflicts_and_payload() {
    let receiver = TestReceiver::start_with(|settings| {
        settings.console.result_hosts.0 = vec!["cdn-us.eachlabs.ai".to_owned()];
    })
    .await;
    let mut body: Value = serde_json::from_str(&example("deep-outputs.json")).unwrap();
    body["execution_id"] = "deep".into();
    body["inputs"] = json!({ "prompt": "A fox at dawn", "seed": 1.50 });
    body["output"]["elsewhere"] = "https://elsewhere.example/x.png".into();
    let url = format!("{}?order=1234", receiver.url);
    assert_eq!(receiver.client.post(url).body(body.to_string()).send().await.unwrap().status(), 200);
    receiver.wait_until_recorded().await;
    let mut changed = body.clone();
    (changed["status"], changed["error_cause"]) = ("failed".into(), "it changed".into());
    changed["output"] = "other".into();
    receiver.accept(&changed).await;
    receiver.accept(&body).await;
    receiver.wait_until_recorded().await;

    let html = page(&receiver, "/executions/deep").await;
    for part in [
        "<video class=\"media\" src=\"https://cdn-us.eachlabs.ai/uploads/a1.mp4\"",
        "<img src=\"https://cdn-us.eachlabs.ai/uploads/s1.png\"",
        "href=\"https://elsewhere.example/x.png\"",
        "referrerpolicy=\"no-referrer\"",
        "href=\"/executions?q=order%3D1234\"",
        "href=\"/executions/deep/payload\"",
        "<a class=\"badge warn\" href=\"#conflicts\">1 conflict</a>",
    ] {
        assert!(html.contains(part), "{part}\n{html}");
    }
    assert!(!html.contains("src=\"https://elsewhere"), "other hosts are links");
    let place = |section| html.find(section).unwrap_or_else(|| panic!("{section}: {html}"));
    assert!(place("id=\"conflicts\"") < place("id=\"results\""), "{html}");
    let text = text(&html);
    for part in [
        "kling-v2",
        "The first model failed: Model timeout after 300s",
        "took 72.5 s",
        "cost 0.4125",
        "3 deliveries",
        "1 conflict",
        "recorded completed later webhook failed",
        "seed : 1.5",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let cost = "<span title=\"0.4125\">0.4125</span>";
    assert!(html.contains(cost) && page(&receiver, "/executions").await.contains(cost), "{html}");
    let payload = receiver.get("/executions/deep/payload").await;
    assert_eq!(payload.headers()["content-disposition"], "attachment; filename=\"payload.json\"");
    assert_eq!(payload.headers()["x-content-type-options"], "nosniff");
    assert_eq!(payload.json::<Value>().await.unwrap(), body);
    assert_eq!(receiver.get("/executions/none").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_shows_what_is_missing_its_results_and_its_failures() {
    let receiver = TestReceiver::start().await;
    let bulk = |id: &str, status: &str| {
        let body = json!({ "bulk_id": "b 1", "output": [format!("https://cdn-us.eachlabs.ai/{id}.png")],
                           "inputs": { "prompt": format!("Prompt of {id}") },
                           "error_cause": if status == "failed" { "no GPU" } else { "" } });
        with(execution(id, status), body)
    };
    for (id, status) in [("a", "completed"), ("b", "failed"), ("c", "running")] {
        receiver.accept(bulk(id, status)).await;
    }
    receiver.wait_until_recorded().await;
    sqlx::query("UPDATE bulks SET expected = 20").execute(&mut receiver.connection().await).await.unwrap();
    for path in ["/bulks", "/bulks?complete=no", "/bulks/b%201"] {
        let text = text(&page(&receiver, path).await);
        assert!(text.contains("in progress 18 missing: 17 not received, 1 running"), "{path}: {text}");
        assert!(text.contains("1 completed 1 failed 1 running 17 not received"), "{path}: {text}");
    }
    // Without deliveries, the bulk needs attention.
    assert!(!page(&receiver, "/").await.contains("/bulks?complete=no"));
    let quiet = "UPDATE bulks SET last_received_at = now() - interval '1 hour'";
    sqlx::query(quiet).execute(&mut receiver.connection().await).await.unwrap();
    assert!(text(&page(&receiver, "/").await).contains("1 bulk is incomplete"));
    let many = "INSERT INTO bulks (bulk_id, expected, first_received_at, last_received_at)
        SELECT 'many-' || n, 2, now() - interval '1 hour', now() - interval '1 hour' FROM generate_series(1, 101) AS n";
    sqlx::query(many).execute(&mut receiver.connection().await).await.unwrap();
    let overview = text(&page(&receiver, "/").await);
    assert!(overview.contains("+ bulks are incomplete (older bulks are not counted)"), "{overview}");
    let removed = "DELETE FROM bulks WHERE bulk_id LIKE 'many-%'";
    sqlx::query(removed).execute(&mut receiver.connection().await).await.unwrap();
    let html = page(&receiver, "/bulks/b%201").await;
    assert!(html.contains("<span class=\"badge warn\">incomplete</span>"), "{html}");
    assert!(
        text(&html).contains("Results Failures 1 Running 1 Missing 18 All executions 3"),
        "{}",
        text(&html)
    );
    assert!(page(&receiver, "/bulks?complete=yes").await.contains("No bulk matches"));
    let html = page(&receiver, "/bulks/b%201").await;
    assert!(
        html.contains("src=\"https://cdn-us.eachlabs.ai/a.png\"") && html.contains("Prompt of a"),
        "{html}"
    );
    for (list, format) in [("results", "urls"), ("results", "csv"), ("executions", "jsonl")] {
        let link = format!("/api/v1/export/{list}?bulk=b+1&amp;format={format}");
        assert!(html.contains(&link), "{link}");
        assert_eq!(receiver.get(&unescape(&link)).await.status(), 200, "{link}");
    }
    let html = page(&receiver, "/bulks/b%201?show=failures").await;
    assert_eq!(executions(&html), ["b"]);
    assert!(text(&html).contains("Prompt of b no GPU"), "{}", text(&html));
    assert_eq!(executions(&page(&receiver, "/bulks/b%201?show=running").await), ["c"]);
    assert_eq!(executions(&page(&receiver, "/bulks/b%201?show=executions").await).len(), 3);
    sqlx::query("UPDATE bulks SET expected = 1").execute(&mut receiver.connection().await).await.unwrap();
    let text = text(&page(&receiver, "/bulks/b%201").await);
    assert!(text.contains("2 more than expected"), "{text}");
    assert_eq!(receiver.get("/bulks/none").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_is_opened_by_its_id_and_shows_its_state_and_its_causes() {
    let receiver = TestReceiver::start().await;
    for (id, status, cause) in
        [("a", "completed", ""), ("b", "failed", "Model timeout after 30s"), ("c", "failed", "no <GPU>")]
    {
        let body = json!({ "bulk_id": "spring-2", "error_cause": cause });
        receiver.accept(with(execution(id, status), body)).await;
    }
    receiver.wait_until_recorded().await;
    assert_eq!(location(&receiver, "/bulks?open=spring-2").await, "/bulks/spring-2");
    assert_eq!(location(&receiver, "/bulks?open=spr").await, "/bulks/spring-2");
    let html = page(&receiver, "/bulks?open=a").await;
    assert!(text(&html).contains("No bulk has an id that begins with a ."), "{}", text(&html));
    let more = "INSERT INTO bulks (bulk_id, expected) VALUES ('spring', 1), ('sprint', 1)";
    sqlx::query(more).execute(&mut receiver.connection().await).await.unwrap();
    assert_eq!(location(&receiver, "/bulks?open=spring").await, "/bulks/spring");
    let html = page(&receiver, "/bulks?open=spr").await;
    assert!(text(&html).contains("begins with spr : spring spring-2 sprint"), "{}", text(&html));
    sqlx::query("DELETE FROM bulks WHERE bulk_id <> 'spring-2'")
        .execute(&mut receiver.connection().await)
        .await
        .unwrap();

    let html = page(&receiver, "/bulks/spring-2").await;
    assert_eq!(text(&html).matches("size not set").count(), 1, "{}", text(&html));
    let command = "workflow-receiver bulks set-size spring-2 EXECUTIONS";
    assert!(html.contains(&format!("<code>{command}</code>")), "{html}");
    assert!(html.contains(&format!("data-copy=\"{command}\"")), "{html}");
    assert!(!text(&html).contains("Missing 0") && text(&html).contains("Running 0"), "{}", text(&html));

    sqlx::query("UPDATE bulks SET expected = 3").execute(&mut receiver.connection().await).await.unwrap();
    let html = page(&receiver, "/bulks").await;
    assert!(html.contains("<span class=\"badge ok\">complete</span>"), "{html}");
    assert!(text(&html).contains("complete 2 failed"), "{}", text(&html));
    let html = page(&receiver, "/bulks/spring-2?show=failures").await;
    for (cause, found) in [("Model+timeout+after+30s", "b"), ("no+%3CGPU%3E", "c")] {
        let list = format!("/executions?status=failed&q={cause}&bulk=spring-2");
        assert!(html.contains(&list.replace('&', "&amp;")), "{list}: {html}");
        assert_eq!(executions(&page(&receiver, &list).await), [found], "{list}");
    }
    assert!(text(&html).contains("provider the provider was too slow execution_timeout"), "{}", text(&html));
    let link = "href=\"/executions?bulk=spring-2&amp;class=execution_timeout\"";
    assert!(html.contains(link), "{html}");
    let html = page(&receiver, "/executions/b").await;
    assert!(
        text(&html).contains("At fault: provider the provider was too slow execution_timeout"),
        "{}",
        text(&html)
    );
    assert!(html.contains("href=\"/executions?status=failed&amp;class=execution_timeout\""), "{html}");
    let html = page(&receiver, "/executions/c").await;
    assert!(text(&html).contains("At fault: unknown the cause is of no known class"), "{}", text(&html));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_identifier_is_shown_with_links_to_where_it_may_be() {
    let receiver = TestReceiver::start().await;
    for (path, list) in [
        ("/executions/x%3Cb%3E", "/executions"),
        ("/predictions/x%3Cb%3E", "/predictions"),
        ("/bulks/x%3Cb%3E", "/bulks"),
    ] {
        let answer = receiver.get(path).await;
        assert_eq!(answer.status(), 404, "{path}");
        let html = answer.text().await.unwrap();
        let main = html.split("<main").nth(1).unwrap();
        assert!(main.contains("<p class=\"id\"><bdi>x&lt;b&gt;</bdi></p>"), "{main}");
        for link in [list, "/executions?q=x%3Cb%3E", "/quarantine"] {
            assert!(main.contains(&format!("href=\"{link}\"")), "{link}: {main}");
        }
    }
}

async fn quarantine_ids(receiver: &TestReceiver) -> Vec<i64> {
    let rows = receiver.rows("SELECT quarantine_id FROM quarantine ORDER BY quarantine_id").await;
    rows.iter().map(|row| row["quarantine_id"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_is_previewed_and_then_recorded() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("known", "completed")).await;
    for id in ["one", "two", "known"] {
        let body = json!({ "executionId": id, "workflow_id": "w", "status": "completed", "bulkId": "b", "output": [1.50] });
        assert_eq!(receiver.post(body.to_string()).await.status(), 422);
        receiver.wait_until_recorded().await;
    }
    assert_eq!(receiver.post(r#"{"other":"body"}"#).await.status(), 422);
    receiver.post(r#"{"execution_id":"x","workflow_id":"w"}"#).await;
    receiver.wait_until_recorded().await;
    let entries = "SELECT quarantine_id FROM quarantine ORDER BY quarantine_id";
    let ids = quarantine_ids(&receiver).await;
    let html = page(&receiver, "/quarantine").await;
    let shown = text(&html);
    assert!(shown.contains("execution_id is missing or null 4") && !shown.contains('`'), "{shown}");
    assert!(shown.contains("&quot;executionId&quot;:&quot;two&quot;"), "the rows show their bodies: {shown}");
    let reason = "/quarantine?reason=%60execution_id%60+is+missing+or+null";
    assert!(html.contains(reason), "{html}");
    assert!(text(&page(&receiver, reason).await).contains("4 entries"));

    let entry = format!("/quarantine/{}", ids[0]);
    let preview = text(&page(&receiver, &format!("{entry}?preview=1")).await);
    assert!(preview.contains("would stay in quarantine: execution_id is missing or null"), "{preview}");
    let mapped = format!("{entry}?map.execution_id=executionId&preview=1");
    let preview = text(&page(&receiver, &mapped).await);
    let lost = "would stay in quarantine: bulkId is not read, and the execution would have no bulk_id";
    assert!(preview.contains(lost) && !preview.contains("--force"), "{preview}");
    let advice =
        "Read bulk_id from bulkId , or select \u{201c}Record without bulk_id (ignore bulkId)\u{201d}";
    assert!(preview.contains(advice), "{preview}");
    let preview = text(&page(&receiver, &format!("{entry}?map.execution_id=run&preview=1")).await);
    assert!(preview.contains("The body has no key run execution_id is missing or null"), "{preview}");
    let other = format!("/quarantine/{}?preview=1", ids[3]);
    let preview = text(&page(&receiver, &other).await);
    let all = "execution_id is missing or null workflow_id is missing or null status is missing or null";
    assert!(preview.contains(all) && !preview.contains("Record without"), "{preview}");
    let both = format!("{entry}?map.status=status&set.status=failed&preview=1");
    let preview = text(&page(&receiver, &both).await);
    assert!(preview.contains("status : choose one of the two"), "{preview}");
    let preview = text(&page(&receiver, &format!("{mapped}&force=on")).await);
    for part in [
        "This would be recorded: 1 execution",
        "new execution",
        "execution_id one",
        "output [1.5",
        "bulk_id none",
        "These keys are not read: bulkId",
    ] {
        assert!(preview.contains(part), "{part}\n{preview}");
    }
    let known = format!("/quarantine/{}?map.execution_id=executionId&force=on&preview=1", ids[2]);
    assert!(text(&page(&receiver, &known).await).contains("conflict with a recorded execution"));
    assert_eq!(receiver.rows("SELECT * FROM executions").await.len(), 1, "a preview records nothing");
    assert_eq!(receiver.rows(entries).await.len(), 5);

    let mapped = format!("{entry}?map.execution_id=executionId&map.bulk_id=bulkId&preview=1");
    let done = text(&submit(&receiver, &mapped, &format!("{entry}/retry"), &[]).await);
    assert!(done.contains("Recorded one (new) . Check or undo"), "{done}");
    assert_eq!(receiver.row("SELECT received FROM bulks WHERE bulk_id = 'b'").await["received"], 1);
    // All entries with the reason: the known execution is a conflict, and one body has no executionId.
    let mapped = format!("/quarantine/{}?map.execution_id=executionId&force=on&preview=1", ids[1]);
    let done = text(&submit(&receiver, &mapped, "/quarantine/retry", &[]).await);
    assert!(done.contains("Recorded 2 entries; 1 stay in quarantine"), "{done}");
    assert_eq!(receiver.rows("SELECT * FROM execution_conflicts").await.len(), 1);

    let retried = text(&page(&receiver, "/quarantine/retried").await);
    for part in ["one (new)", "known (conflict)", "execution_id is missing or null", "Undo all of these"] {
        assert!(retried.contains(part), "{part}\n{retried}");
    }
    // The form of the latest retry.
    let html = submit(&receiver, "/quarantine/retried", "/quarantine/undo", &[]).await;
    assert!(html.contains("Undone: <a href=\"/executions?q="), "{html}");
    assert_eq!(receiver.rows(entries).await.len(), 3);
    assert_eq!(receiver.rows("SELECT * FROM quarantine_retries").await.len(), 2);

    // In quarantine again, and recorded again.
    let left = quarantine_ids(&receiver).await;
    let again = left.iter().find(|id| [ids[1], ids[2]].contains(id)).unwrap();
    let mapped = format!("/quarantine/{again}?map.execution_id=executionId&force=on&preview=1");
    let done = text(&submit(&receiver, &mapped, &format!("/quarantine/{again}/retry"), &[]).await);
    assert!(done.contains("Recorded "), "{done}");

    let drop = format!("/quarantine/{}", ids[3]);
    let done = text(&submit(&receiver, &drop, &format!("{drop}/drop"), &[]).await);
    assert!(done.contains("Dropped 1"), "{done}");
    let reason = "/quarantine?reason=%60status%60+is+missing+or+null";
    let done = text(&submit(&receiver, reason, "/quarantine/drop", &[]).await);
    assert!(done.contains("Dropped 1") && done.contains("The quarantine is empty"), "{done}");
    let audit = receiver.rows("SELECT action, target, succeeded FROM audit ORDER BY audit_id").await;
    let actions: Vec<_> = audit.iter().map(|row| row["action"].as_str().unwrap()).collect();
    let expected = [
        "quarantine.retry",
        "quarantine.retry_reason",
        "quarantine.undo",
        "quarantine.retry",
        "quarantine.drop",
        "quarantine.drop_reason",
    ];
    assert_eq!(actions, expected);
    let target = audit[0]["target"].as_str().unwrap();
    assert!(target.ends_with(" --map execution_id=executionId --map bulk_id=bulkId"), "{target}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_shows_who_dropped_which_entries() {
    let receiver = TestReceiver::start().await;
    receiver.post(r#"{"execution_id":"x","workflow_id":"w"}"#).await;
    receiver.wait_until_recorded().await;
    let reason = "/quarantine?reason=%60status%60+is+missing+or+null";
    submit(&receiver, reason, "/quarantine/drop", &[]).await;
    let log = text(&page(&receiver, "/audit").await);
    let row = "an operator without a token quarantine.drop_reason status is missing or null Dropped 1";
    assert!(log.contains(row) && !log.contains('`'), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_in_a_mapping_leads_to_its_json_pointer() {
    let receiver = TestReceiver::start().await;
    assert_eq!(receiver.post(r#"{"data":{"run":"7"}}"#).await.status(), 422);
    receiver.wait_until_recorded().await;
    for (source, hint) in [
        ("data.run", Some("/data/run")),
        ("%24.data.run", Some("/data/run")),
        ("data/run", Some("/data/run")),
        ("/data/other", None),
        ("run", None),
    ] {
        let path = format!("/quarantine/1?map.execution_id={source}&preview=1");
        let preview = text(&page(&receiver, &path).await);
        assert!(preview.contains("The body has no "), "{source}: {preview}");
        let text = "To read a key in an object, enter its JSON pointer: ";
        assert_eq!(preview.contains(text), hint.is_some(), "{source}: {preview}");
        assert!(hint.is_none_or(|hint| preview.contains(&format!("{text}{hint}"))), "{source}: {preview}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_a_mapping_recorded_says_who_recorded_it() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("known", "completed")).await;
    let body = json!({ "executionId": "one", "workflow_id": "w", "status": "completed" });
    assert_eq!(receiver.post(body.to_string()).await.status(), 422);
    receiver.wait_until_recorded().await;
    let id = receiver.row("SELECT quarantine_id AS id FROM quarantine").await["id"].to_string();
    let preview = format!("/quarantine/{id}?map.execution_id=executionId&preview=1");
    submit(&receiver, &preview, &format!("/quarantine/{id}/retry"), &[]).await;
    let shown = text(&page(&receiver, "/executions/one").await);
    assert!(
        shown.contains(&format!("Recorded from quarantine entry {id} by an operator without a token, now")),
        "{shown}"
    );
    assert!(!page(&receiver, "/executions/known").await.contains("Recorded from"));
    assert!(
        text(&page(&receiver, "/quarantine/retried").await).contains("now by an operator without a token")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_for_all_entries_is_confirmed_and_sets_no_identifier() {
    let receiver = TestReceiver::start().await;
    for id in ["one", "two"] {
        let body = json!({ "executionId": id, "workflow_id": "w", "status": "completed" });
        assert_eq!(receiver.post(body.to_string()).await.status(), 422);
    }
    receiver.post(r#"{"execution_id":"x","workflow_id":"w"}"#).await;
    receiver.wait_until_recorded().await;
    let entry = async |what: &str| {
        let entry = format!("SELECT min(quarantine_id) AS id FROM quarantine WHERE reason LIKE '%{what}%'");
        format!("/quarantine/{}", receiver.row(&entry).await["id"])
    };
    let (without_id, without_status) = (entry("execution_id").await, entry("status").await);

    let html = page(&receiver, &format!("{without_status}?set.status=bogus&preview=1")).await;
    let warning = "The status \u{201c} bogus \u{201d} is not a known terminal status";
    assert!(text(&html).contains(warning), "{}", text(&html));
    assert!(html.contains("list=\"statuses\"") && html.contains("<option value=\"succeeded\">"), "{html}");
    let html = page(&receiver, &format!("{without_status}?set.status=success&preview=1")).await;
    assert!(!text(&html).contains("not a known terminal status"), "{}", text(&html));

    let html = page(&receiver, &format!("{without_id}?map.execution_id=executionId&preview=1")).await;
    assert!(html.contains("Record all with this reason (2 entries)"), "{html}");
    assert!(html.find("id=\"preview\"") < html.find("id=\"mapping\""), "{html}");
    let html = page(&receiver, &format!("{without_id}?set.execution_id=one&preview=1")).await;
    assert!(
        text(&html).contains("is for this entry only") && !html.contains("/quarantine/retry\""),
        "{html}"
    );
    let fields = [("reason", "`execution_id` is missing or null"), ("set.execution_id", "one")];
    let answer = post_form(&receiver, &without_id, "/quarantine/retry", &fields).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(receiver.rows("SELECT * FROM executions").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_in_every_field_stays_text() {
    const HOSTILE: [&str; 6] = [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)' x='",
        "</textarea></pre></details><svg onload=alert(1)>",
        "javascript:alert(1)//\"onclick=\"alert(1)",
        "\u{202e}gnp.exe\u{2066}<b>\u{1b}[31m",
    ];
    let receiver = TestReceiver::start().await;
    let mut paths = Vec::new();
    for (n, hostile) in HOSTILE.iter().enumerate() {
        let id = |field: &str| format!("{field}{n}{hostile}");
        let body = json!({
            "execution_id": id("e"), "workflow_id": id("w"), "bulk_id": id("b"), "status": "failed",
            "error": hostile, "error_cause": hostile, "total_cost": 1,
            "output": { *hostile: [hostile, format!("https://cdn-us.eachlabs.ai/{hostile}.png")] },
            "workflow_output": { *hostile: hostile },
            "inputs": { "prompt": hostile, *hostile: { *hostile: [hostile] } },
            "step_outputs": { *hostile: { "step_id": hostile, "status": "failed", "error": hostile, "error_cause": hostile,
                "selected": hostile, "fallback": { "reason": hostile }, "metadata": { "model": hostile, "version": hostile } } },
        });
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair(hostile, hostile).finish();
        let post = |body: Value| {
            receiver.client.post(format!("{}?{query}", receiver.url)).body(body.to_string()).send()
        };
        assert_eq!(post(body.clone()).await.unwrap().status(), 200);
        receiver.wait_until_recorded().await;
        post(with(body.clone(), json!({ "status": hostile, "output": hostile }))).await.unwrap();
        post(with(body.clone(), json!({ "status": "completed", "output": { *hostile: hostile } })))
            .await
            .unwrap();
        post(json!({ *hostile: hostile, "workflow_id": hostile })).await.unwrap();
        receiver
            .accept(with(execution(&format!("running{n}"), hostile), json!({ "bulk_id": id("b") })))
            .await;
        receiver.wait_until_recorded().await;
        let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let segment = |text: &str| encode(text).replace('+', "%20");
        paths.extend([
            format!("/executions/{}", segment(&id("e"))),
            format!("/bulks/{}", segment(&id("b"))),
            format!("/bulks/{}?show=failures", segment(&id("b"))),
            format!("/executions?q={}%20x", encode(hostile)),
            format!(
                "/executions?workflow={}&status={}&since={}",
                encode(hostile),
                encode(hostile),
                encode(hostile)
            ),
            format!("/quarantine?reason={}", encode(hostile)),
        ]);
    }
    for row in receiver.rows("SELECT quarantine_id FROM quarantine").await {
        let entry = format!("/quarantine/{}", row["quarantine_id"]);
        paths.push(format!("{entry}?map.execution_id=%22%3E%3Cscript%3E&set.execution_id=%22%3E%3Cscript%3E&set.status=x&preview=1"));
    }
    paths.extend(["/executions", "/bulks", "/quarantine"].map(str::to_owned));
    for path in &paths {
        let html = receiver.get(path).await.text().await.unwrap();
        let body = html.split("<body").nth(1).expect(path);
        for raw in ["<script", "<img src=x", "<svg onload", "<b>", "\"onclick", "onerror=alert(1)>"] {
            assert!(!body.contains(raw), "{path} contains {raw}\n{body}");
        }
        // Attributes such as `data-copy` and `value` keep the exact text.
        let shown = text(&html);
        assert!(!shown.contains(['\u{202e}', '\u{1b}']), "{path} shows control characters\n{shown}");
        // Within a tag, a quotation mark of the text would end the attribute. Maud quotes with ".
        for tag in body.split('<').filter_map(|rest| rest.split_once('>')).map(|(tag, _)| tag) {
            for handler in [" onmouseover=", " onload=", " onerror=", " onclick="] {
                let outside: String = tag.split('"').step_by(2).collect();
                assert!(!outside.contains(handler), "{path}: <{tag}>");
            }
            for attribute in ["href", "src", "action"] {
                assert!(!tag.contains(&format!("{attribute}=\"javascript:")), "{path}: <{tag}>");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_without_rows_say_what_to_do() {
    let receiver = TestReceiver::start().await;
    for (path, expected) in [
        ("/executions?q=absent%20words", "a reference such as order=1484"),
        ("/quarantine/retried", "Nothing has been recorded from the quarantine yet"),
        ("/executions", "No execution is recorded yet"),
        ("/bulks", "No bulk is recorded yet"),
        ("/quarantine", "The quarantine is empty"),
    ] {
        let shown = text(&page(&receiver, path).await);
        assert!(shown.contains(expected), "{path}: {shown}");
    }
    for path in ["/executions/none", "/bulks/none", "/quarantine/1"] {
        assert_eq!(receiver.get(path).await.status(), 404, "{path}");
    }
    assert_eq!(receiver.get("/quarantine/x").await.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_and_bulks_make_small_pages() {
    let receiver = sample_receiver().await;
    let insert = "INSERT INTO executions (execution_id, workflow_id, bulk_id, status, output, payload, deliveries,
            first_received_at, last_received_at)
        SELECT repeat('x', 190) || n, 'w', 'large', 'completed', output,
            jsonb_build_object('output', output, 'inputs', jsonb_build_object('prompt', repeat('word ', 5000))), 1, now(), now()
        FROM generate_series(1, 10000) AS n, to_jsonb(ARRAY['https://cdn-us.eachlabs.ai/a.png']) AS output;
        INSERT INTO bulks (bulk_id, expected, received, completed, first_received_at, last_received_at)
        VALUES ('large', 10017, 10000, 10000, now(), now())";
    sqlx::raw_sql(insert).execute(&mut receiver.connection().await).await.unwrap();
    for path in ["/bulks/large", "/bulks/large?show=executions", "/executions?bulk=large", "/executions"] {
        let html = page(&receiver, path).await;
        assert!(html.len() < 200_000, "{path}: {}", html.len());
        assert!(html.contains("rel=\"next\""), "{path}");
    }
    assert!(text(&page(&receiver, "/bulks/large").await).contains("in progress 17 missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_words_for_completed_count_as_completed() {
    let receiver = TestReceiver::start().await;
    for status in ["completed", "succeeded", "success", "failed", "queued"] {
        receiver.accept(execution(status, status)).await;
    }
    receiver.wait_until_recorded().await;
    let html = page(&receiver, "/executions?status=completed").await;
    assert_eq!(executions(&html), ["success", "succeeded", "completed"]);
    assert!(html.contains("<span class=\"badge ok\"><bdi>succeeded</bdi>"), "{html}");
    assert_eq!(executions(&page(&receiver, "/executions?status=running").await), ["queued"]);
    assert_eq!(executions(&page(&receiver, "/executions?status=succeeded").await), ["succeeded"]);
    for (id, is_running) in [("success", false), ("queued", true)] {
        let html = page(&receiver, &format!("/executions/{id}")).await;
        assert_eq!(html.contains("Reconcile"), is_running, "{html}");
    }
}

/// Registers a response of bulk-trigger for the bulk `b`.
async fn register(receiver: &TestReceiver, executions: &Value) {
    let url = format!("{}/api/v1/expected", receiver.admin);
    let response = json!({ "bulk_id": "b", "executions": executions });
    assert_eq!(receiver.client.post(url).json(&response).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_executions_rejected_inputs_and_overdue_executions_are_shown() {
    let receiver = TestReceiver::start().await;
    let empty = page(&receiver, "/expected").await;
    assert!(empty.contains("No response is registered"), "{empty}");
    let executions = json!([
        { "execution_id": "one", "status": "queued", "reference": { "order": "1" } },
        { "execution_id": "two", "status": "queued", "reference": { "order": "<2>" } },
        { "status": "failed", "message": "no <prompt>" },
        { "execution_id": "three", "status": "queued" },
        { "status": "failed", "message": "no <prompt>" },
    ]);
    register(&receiver, &executions).await;
    receiver.accept(with(execution("one", "completed"), json!({ "bulk_id": "b" }))).await;
    receiver.wait_until_recorded().await;
    assert!(!page(&receiver, "/").await.contains("overdue"));
    let due =
        "UPDATE expected_executions SET due_at = now() - interval '1 minute' WHERE execution_id = 'two'";
    sqlx::raw_sql(due).execute(&mut receiver.connection().await).await.unwrap();

    let html = page(&receiver, "/bulks/b").await;
    let shown = text(&html);
    for part in [
        "Received 1 of 3 2 of 5 inputs rejected",
        "2 missing",
        "no &lt;prompt&gt; (inputs 3, 5)",
        "Set eachlabs.api_key",
        "Missing 2",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(html.contains("disabled title=\"Set eachlabs.api_key"), "{html}");
    assert!(html.contains("<a href=\"/expected?state=rejected&amp;bulk=b\">rejected</a>"), "{html}");
    let shown = text(&page(&receiver, "/bulks/b?show=missing").await);
    assert!(shown.contains("2 two overdue order=&lt;2&gt;") && shown.contains("4 three missing"), "{shown}");
    assert!(!shown.contains("1 one"), "{shown}");
    // One button is for the bulk, the other for the overdue execution.
    assert_eq!(shown.matches("Reconcile").count(), 2, "{shown}");
    let html = page(&receiver, "/expected?state=arrived").await;
    assert!(
        text(&html).contains("Bulks / Expected executions") && text(&html).contains("1 one"),
        "{}",
        text(&html)
    );
    assert!(!html.contains("<time"), "a webhook is recorded, so nothing is due: {html}");
    let overview = page(&receiver, "/").await;
    assert!(
        overview.contains("href=\"/expected?state=overdue\"") && overview.contains("execution is overdue")
    );
    let shown = text(&page(&receiver, "/expected?state=overdue").await);
    assert!(shown.contains("two Bulk b overdue"), "{shown}");
    assert!(!shown.contains("three"), "{shown}");
    // The search finds a registered reference before the webhook.
    let shown = text(&page(&receiver, "/executions?q=order%3D%3C2%3E").await);
    assert!(shown.contains("Registered executions") && shown.contains("2 two Bulk b overdue"), "{shown}");
    assert!(!shown.contains("three") && !shown.contains("No execution matches"), "{shown}");
    // It also finds a part of the reference, without its name.
    let shown = text(&page(&receiver, "/executions?q=%3C2%3E").await);
    assert!(shown.contains("Registered executions") && shown.contains("2 two Bulk b overdue"), "{shown}");
    assert!(!shown.contains("three") && !shown.contains("No execution matches"), "{shown}");
    // It also finds the registered reference of a recorded execution whose webhook has another one.
    let other = "UPDATE executions SET reference = '{\"user\": \"42\"}' WHERE execution_id = 'one'";
    sqlx::raw_sql(other).execute(&mut receiver.connection().await).await.unwrap();
    let html = page(&receiver, "/executions?q=order%3D1").await;
    assert_eq!(self::executions(&html), ["one"]);
    assert!(text(&html).contains("1 one Bulk b arrived completed"), "{}", text(&html));
    let html = page(&receiver, "/executions/one").await;
    assert!(html.contains("href=\"/executions?q=order%3D1\""), "{html}");
    let shown = text(&page(&receiver, "/expected?state=rejected&bulk=b").await);
    assert!(shown.contains("no execution no &lt;prompt&gt; rejected"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_button_reconcile_fetches_missing_executions_in_the_background() {
    let options = Options { api_key: "a-key-of-the-test".to_owned(), ..Options::default() };
    let stand_in = StandIn::start("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    let base_url = stand_in.base_url();
    let receiver = TestReceiver::start_with(move |settings| {
        settings.eachlabs.api_key = "a-key-of-the-test".into();
        settings.eachlabs.base_url = base_url;
        settings.reconcile.enabled = false;
    })
    .await;
    let trigger = Trigger {
        workflow: "w".to_owned(),
        bulk: Some("b".to_owned()),
        inputs: json!({ "prompt": "A garden" }),
        webhook_url: None,
        webhook_secret: None,
    };
    let [one, two] = [(), ()].map(|()| stand_in.execute(&trigger));
    register(
        &receiver,
        &json!([
            { "execution_id": one, "status": "queued" },
            { "execution_id": "unknown", "status": "queued" },
            { "execution_id": two, "status": "queued" },
        ]),
    )
    .await;
    let due = "UPDATE expected_executions SET due_at = now() - interval '1 minute'";
    sqlx::raw_sql(due).execute(&mut receiver.connection().await).await.unwrap();
    let ended = async |number: i64| {
        let ended = format!(
            "SELECT count(*) AS n FROM audit WHERE succeeded AND action = 'reconcile' AND audit_id = {number}"
        );
        receiver.row(&ended).await["n"] == 1
    };
    let path = format!("/executions/{one}/reconcile");
    let shown = text(&page(&receiver, "/bulks/b").await);
    assert!(shown.contains("Registered ") && !shown.contains("First webhook"), "{shown}");
    let html = submit(&receiver, "/bulks/b?show=missing", &path, &[]).await;
    assert!(html.contains("The action has started") || html.contains("1 fetched"), "{}", text(&html));
    assert!(
        html.contains("data-live=\"action\"") && html.contains("aria-current=\"true\">Missing"),
        "{html}"
    );
    until(async || ended(1).await).await;
    receiver.wait_until_recorded().await;
    let html = page(&receiver, &format!("/executions/{one}?done=1")).await;
    let shown = text(&html);
    assert!(shown.contains("Compared 1 execution with each::labs: 1 fetched"), "{shown}");
    assert!(shown.contains("No final webhook had arrived in time. The execution was read from"), "{shown}");
    assert!(shown.contains("Webhooks none: the execution was fetched"), "{shown}");
    assert!(shown.contains("Input of the bulk 1"), "{shown}");
    receiver.accept(execution("sent", "completed")).await;
    receiver.wait_until_recorded().await;
    assert_eq!(executions(&page(&receiver, "/executions?fetched=1").await), [&*one]);
    let overview = page(&receiver, "/").await;
    assert!(overview.contains("href=\"/executions?fetched=1&amp;since=24h\""), "{overview}");
    assert!(
        text(&overview).contains("1 fetched: its final webhook did not arrive in time"),
        "{}",
        text(&overview)
    );
    for list in ["/executions", "/bulks/b"] {
        assert!(page(&receiver, list).await.contains(">fetched</span>"), "{list}");
    }
    let after_a_webhook = format!(
        "UPDATE executions SET deliveries = 2, first_received_at = completed_at - interval '90 s' WHERE execution_id = '{one}'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(after_a_webhook))
        .execute(&mut receiver.connection().await)
        .await
        .unwrap();
    let shown = text(&page(&receiver, &format!("/executions/{one}")).await);
    assert!(
        shown.contains("1 delivery before the execution ended (such as running ), no final one."),
        "{shown}"
    );
    assert!(shown.contains("first webhook 1 min ago"), "{shown}");

    submit(&receiver, "/bulks/b", "/bulks/b/reconcile", &[]).await;
    until(async || ended(2).await).await;
    let shown = text(&page(&receiver, "/bulks/b?done=2").await);
    assert!(shown.contains("1 fetched, 1 absent at each::labs"), "{shown}");
    let audit = receiver.rows("SELECT actor, action, target FROM audit ORDER BY audit_id").await;
    let expected =
        [&*one, "b"].map(|target| json!({ "actor": "anyone", "action": "reconcile", "target": target }));
    assert_eq!(audit, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_are_listed_and_shown_with_their_result() {
    let receiver = TestReceiver::start().await;
    assert!(page(&receiver, "/predictions").await.contains("No prediction is recorded yet"));
    for name in ["prediction-succeeded.json", "prediction-failed.json"] {
        receiver.accept(serde_json::from_str::<Value>(&example(name)).unwrap()).await;
    }
    receiver.wait_until_recorded().await;
    let (succeeded, failed) =
        ("2f0d4c1e-6a35-4f0a-9a53-7d1f5f7f9c10", "7c9a1b52-1f0e-4a44-8a83-0a9a6a4bb0f3");
    let html = page(&receiver, "/predictions").await;
    assert!(html.contains(&format!("/predictions/{succeeded}")) && html.contains("badge ok"), "{html}");
    let html = page(&receiver, "/predictions?status=failed").await;
    assert!(html.contains(failed) && !html.contains(succeeded), "{html}");
    let other = json!({ "exec_id": "queued", "flow_id": null, "status": "queued" });
    receiver.accept(other).await;
    receiver.wait_until_recorded().await;
    let html = page(&receiver, "/predictions?status=running").await;
    assert_eq!(
        [succeeded, failed, "queued"].map(|id| html.contains(&format!("/predictions/{id}"))),
        [false, false, true]
    );
    let html = page(&receiver, "/predictions?status=succeeded").await;
    assert_eq!(
        [succeeded, failed, "queued"].map(|id| html.contains(&format!("/predictions/{id}"))),
        [true, false, false]
    );
    let html = page(&receiver, &format!("/predictions/{succeeded}")).await;
    assert!(html.contains("<img src=\"https://cdn-us.eachlabs.ai/uploads/2f0d4c1e.png\""), "{html}");
    let html = page(&receiver, &format!("/predictions/{failed}")).await;
    assert!(html.contains("href=\"/executions?workflow=50741f40-8621-4d46-8a91-dff4d873be98\""), "{html}");
    assert!(text(&html).contains("Prompt refused by the provider"), "{}", text(&html));
    assert!(
        text(&html).contains("At fault: our input the prompt was rejected content_moderation"),
        "{}",
        text(&html)
    );
    assert!(!text(&html).contains(" Result "), "the output is the error: {}", text(&html));
    let html = page(&receiver, "/predictions?from=tomorrow").await;
    assert!(html.contains("must be a time like") && !html.contains(failed), "{html}");
    receiver
        .accept(with(
            serde_json::from_str(&example("prediction-failed.json")).unwrap(),
            json!({ "status": "succeeded" }),
        ))
        .await;
    receiver.wait_until_recorded().await;
    let html = page(&receiver, &format!("/predictions/{failed}")).await;
    assert!(html.contains("<a class=\"badge warn\" href=\"#conflicts\">1 conflict</a>"), "{html}");
    assert_eq!(receiver.get("/predictions/none").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_without_a_match_leads_to_the_other_lists_that_have_one() {
    let receiver = TestReceiver::start().await;
    let post = |query: &str, body: String| {
        receiver.client.post(format!("{}?{query}", receiver.url)).body(body).send()
    };
    let body = r#"{"event":"run.finished","data":{"run":"7","flow":"Banner-Ads"}}"#;
    assert_eq!(post("order=1046", body.to_owned()).await.unwrap().status(), 422);
    post("user=42&model=flux-1-1-pro", example("prediction-failed.json")).await.unwrap();
    post("user=43&model=other", example("prediction-succeeded.json")).await.unwrap();
    receiver.accept(with(execution("one", "completed"), json!({ "inputs": { "prompt": "A fox" } }))).await;
    receiver.wait_until_recorded().await;
    let shown = text(&page(&receiver, "/predictions").await);
    assert!(shown.contains("flux-1-1-pro") && shown.contains("user=42"), "{shown}");
    assert!(!shown.contains("model=flux"), "the model has a column: {shown}");
    let (failed, quarantined) = ("7c9a1b52-1f0e-4a44-8a83-0a9a6a4bb0f3", "href=\"/quarantine/1\"");
    for (path, link, shown) in [
        ("/executions?q=order%3D1046", "/quarantine?q=order%3D1046", "1 webhook in quarantine matches"),
        ("/executions?q=1046", "/quarantine?q=1046", "1 webhook in quarantine matches"),
        ("/predictions?q=banner-ads+RUN", "/quarantine?q=banner-ads+RUN", "1 webhook in quarantine matches"),
        ("/executions?q=refused+by", "/predictions?q=refused+by", "1 prediction matches"),
        ("/executions?q=user%3D42", "/predictions?q=user%3D42", "1 prediction matches"),
        ("/executions?q=the+prompt+rejected", "/predictions?q=the+prompt+rejected", "1 prediction matches"),
        ("/quarantine?q=a+fox", "/executions?q=a+fox", "1 execution matches"),
    ] {
        let html = page(&receiver, path).await;
        assert!(
            html.contains(&format!("href=\"{link}\"")) && text(&html).contains(shown),
            "{path}: {}",
            text(&html)
        );
        let found = page(&receiver, link).await;
        let row = match link.split('?').next().unwrap() {
            "/quarantine" => quarantined,
            "/predictions" => failed,
            _ => "/executions/one",
        };
        assert!(found.contains(row), "{link}: {}", text(&found));
    }
    for (path, expected) in [
        ("/executions?q=no+such", "No execution matches"),
        ("/predictions?q=no+such", "No prediction matches"),
        ("/quarantine?q=no+such", "No entry matches"),
    ] {
        let shown = text(&page(&receiver, path).await);
        let elsewhere = ["1 execution", "1 prediction", "1 webhook"].iter().any(|list| shown.contains(list));
        assert!(shown.contains(expected) && !elsewhere, "{path}: {shown}");
    }
    // The first characters of an identifier are not in the texts that are searched.
    let html = page(&receiver, "/executions?q=on").await;
    assert!(html.contains("href=\"/executions/one\"") && !html.contains("No execution matches"), "{html}");
    assert!(text(&html).contains("Executions whose id begins with on one"), "{}", text(&html));
    let succeeded = "2f0d4c1e-6a35-4f0a-9a53-7d1f5f7f9c10";
    for (path, shows_failed, shows_succeeded) in [
        ("/predictions?q=flux-1-1-pro", true, false),
        ("/predictions?q=user%3D43", false, true),
        ("/predictions?class=content_moderation", true, false),
        ("/predictions?fault=provider", false, false),
    ] {
        let html = page(&receiver, path).await;
        assert_eq!(
            [failed, succeeded].map(|id| html.contains(id)),
            [shows_failed, shows_succeeded],
            "{path}"
        );
    }
    let shown = text(&page(&receiver, "/predictions").await);
    assert!(shown.contains("failed flux-1-1-pro") && shown.contains("succeeded other"), "{shown}");
    let shown = text(&page(&receiver, &format!("/predictions/{failed}")).await);
    assert!(shown.contains("model flux-1-1-pro"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_counted_up_to_a_thousand() {
    let receiver = TestReceiver::start().await;
    let mut connection = receiver.connection().await;
    for (number, shown) in [(560, "560 webhooks"), (441, "1 000+ webhooks")] {
        let insert = "INSERT INTO quarantine (reason, body, body_sha256, deliveries, first_received_at, last_received_at)
            SELECT 'no status', body, sha256(body), 1, now(), now()
            FROM (SELECT convert_to('{\"flow\":\"banner\",\"n\":' || random() || '}', 'UTF8') AS body
                  FROM generate_series(1, $1)) AS bodies";
        sqlx::query(insert).bind(number).execute(&mut connection).await.unwrap();
        let overview = text(&page(&receiver, "/").await);
        assert!(overview.contains(&format!("{shown} in quarantine")), "{shown}: {overview}");
        let search = text(&page(&receiver, "/executions?q=banner+flow").await);
        assert!(
            search.contains(&format!("{} match", shown.replace("webhooks", "webhooks in quarantine"))),
            "{shown}: {search}"
        );
    }
    let insert = "INSERT INTO execution_conflicts
            (execution_id, workflow_id, status, payload, body_sha256, deliveries, first_received_at, last_received_at)
        SELECT 'e' || n, 'w', 'failed', '{}', '', 1, now() - n * interval '1 hour', now() FROM generate_series(1, 30) AS n;
        INSERT INTO executions
            (execution_id, workflow_id, status, payload, fetched_from, deliveries, first_received_at, last_received_at)
        SELECT 'e' || n, 'w', 'completed', '{}', 'list', 1, now() - n * interval '1 hour', now() FROM generate_series(1, 40) AS n;
        INSERT INTO expected_executions (execution_id, position, registered_at, due_at)
        SELECT 'e' || n, 1, now(), now() - interval '1 minute' FROM generate_series(31, 65) AS n";
    sqlx::raw_sql(insert).execute(&mut connection).await.unwrap();
    let overview = text(&page(&receiver, "/").await);
    for part in ["23 webhooks contradict", "23 fetched", "25 executions are overdue"] {
        assert!(overview.contains(part), "{part}: {overview}");
    }
}
