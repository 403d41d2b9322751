//! The pages Executions, Execution, Bulks and Quarantine in a browser.

use std::io::Write;

use fantoccini::Locator;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::browser::Chromium;
use crate::support::fixtures::{example, execution, with};
use crate::support::receiver::TestReceiver;
use crate::support::rollups::recount_rollups;
use crate::support::wait::until;

const PROMPTS: [&str; 6] = [
    "Product photo of a ceramic teapot on a linen table, soft morning light",
    "A red fox in fresh snow, shallow depth of field",
    "Poster for a jazz evening, two colours, bold type",
    "ثعلب أحمر في الثلج عند الفجر",
    "Isometric illustration of a small harbour with boats",
    "Portrait of an astronaut in a field of sunflowers, 85 mm",
];

/// A PNG with a gradient in the colour of its number.
fn png(number: u8) -> Vec<u8> {
    const SIZE: u16 = 96;
    let mut pixels = Vec::new();
    for y in 0..SIZE {
        pixels.push(0);
        for x in 0..SIZE {
            let (x, y) = (u8::try_from(x).unwrap(), u8::try_from(y).unwrap());
            pixels.extend([number.wrapping_mul(47).wrapping_add(x), 90 + y, 160_u8.wrapping_sub(x / 2)]);
        }
    }
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::fast());
    deflate.write_all(&pixels).unwrap();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = [u32::from(SIZE).to_be_bytes(), u32::from(SIZE).to_be_bytes()].concat();
    header.extend([8, 2, 0, 0, 0]);
    for (kind, data) in [(b"IHDR", header), (b"IDAT", deflate.finish().unwrap()), (b"IEND", Vec::new())] {
        let chunk = [&kind[..], &data].concat();
        file.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        file.extend(&chunk);
        file.extend(crc32fast::hash(&chunk).to_be_bytes());
    }
    file
}

/// A server of images. Other files are empty.
async fn files() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    url
}

/// Answers one request: `/7.png` is the image 7.
async fn serve(mut stream: TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let name = request.split(|byte| matches!(byte, b' ' | b'/' | b'.')).nth(2).unwrap_or_default();
    let number = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    let (kind, body) = number.map_or(("video/mp4", Vec::new()), |number| ("image/png", png(number)));
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
}

/// A receiver that shows results of the returned server.
async fn start() -> (TestReceiver, String) {
    let files = files().await;
    let host = files.clone();
    let receiver = TestReceiver::start_with(|settings| settings.console.result_hosts.0 = vec![host]).await;
    (receiver, files)
}

/// An execution of the bulk `spring-catalogue`.
fn photo(files: &str, number: usize, status: &str) -> Value {
    let second = number % 50;
    with(
        execution(&format!("69ae8c7b-7500-4a45-b7c0-{number:012}"), status),
        json!({
            "workflow_id": "product-photos", "bulk_id": "spring-catalogue", "total_cost": 0.0421,
            "started_at": "2026-03-02T10:00:00Z", "completed_at": format!("2026-03-02T10:00:{second:02}.5Z"),
            "inputs": { "prompt": PROMPTS[number % PROMPTS.len()], "seed": number, "size": { "width": 1024, "height": 1024 } },
            "output": (status == "completed").then(|| [format!("{files}/{number}.png")]),
            "error": (status == "failed").then_some("ExecutionFailed"),
            "error_cause": (status == "failed").then_some("Step 'upscale' failed: the prompt was rejected by the safety filter of the model"),
            "step_outputs": {
                "draft": { "step_id": "draft", "status": "completed", "started_at": "2026-03-02T10:00:00Z",
                    "completed_at": "2026-03-02T10:00:02Z", "metadata": { "model": "openai-chatgpt-5", "version": "0.0.1" } },
                "upscale": { "step_id": "upscale", "status": status, "started_at": "2026-03-02T10:00:02Z",
                    "completed_at": format!("2026-03-02T10:00:{second:02}.5Z"), "metadata": { "model": "flux-1-1-pro", "fallback_used": number == 1 } },
            },
        }),
    )
}

/// A bulk with one execution that is missing, and rows that are hard to show.
async fn filled() -> (TestReceiver, String) {
    let (receiver, files) = start().await;
    for number in 0..14 {
        let status = match number {
            3 | 9 => "failed",
            12 => "running",
            13 => "cancelled",
            _ => "completed",
        };
        let url = format!("{}?order={}&user=42", receiver.url, 1200 + number);
        let body = photo(&files, number, status).to_string();
        assert_eq!(receiver.client.post(url).body(body).send().await.unwrap().status(), 200);
    }
    let expected = "UPDATE bulks SET expected = 15";
    receiver.wait_until_recorded().await;
    sqlx::query(expected).execute(&mut receiver.connection().await).await.unwrap();
    let mut deep: Value = serde_json::from_str(&example("deep-outputs.json")).unwrap();
    let text =
        deep.to_string().replace("https://cdn-us.eachlabs.ai/uploads/s1.png", &format!("{files}/5.png"));
    deep = serde_json::from_str(
        &text.replace("https://cdn-us.eachlabs.ai/uploads/a1.mp4", &format!("{files}/a1.mp4")),
    )
    .unwrap();
    deep["execution_id"] = "deep".into();
    receiver.accept(&deep).await;
    receiver.wait_until_recorded().await;
    deep["status"] = "failed".into();
    deep["error_cause"] = "Model timeout after 300s".into();
    receiver.accept(&deep).await;
    let long = "a-name-without-a-single-space".repeat(7);
    let body = with(
        execution(&long, "completed"),
        json!({ "workflow_id": long, "bulk_id": long, "inputs": { "prompt": "word ".repeat(400) },
                "output": { "text": "שלום עולם ".repeat(30), "caption": "A fox at dawn" } }),
    );
    let url = format!("{}?{long}={long}", receiver.url);
    assert_eq!(receiver.client.post(url).body(body.to_string()).send().await.unwrap().status(), 200);
    let cause = "a-cause-without-a-single-space".repeat(40);
    receiver.accept(with(execution("long-cause", "failed"), json!({ "error_cause": cause }))).await;
    for number in 0..4 {
        let body = json!({ "executionId": format!("q{number}"), "workflow_id": "product-photos", "status": "completed",
                           "bulkId": "spring-catalogue", "output": [format!("{files}/{number}.png")] });
        assert_eq!(receiver.post(body.to_string()).await.status(), 422);
    }
    receiver.post(r#"{"execution_id":"x","workflow_id":"w"}"#).await;
    for body in [
        json!({ "exec_id": "p0", "flow_id": "product-photos", "status": "succeeded", "output": format!("{files}/7.png"), "error": "" }),
        serde_json::from_str(&example("prediction-failed.json")).unwrap(),
        with(
            execution("autumn-1", "completed"),
            json!({ "bulk_id": "autumn", "output": [format!("{files}/8.png")] }),
        ),
    ] {
        receiver.accept(&body).await;
    }
    let response = json!({
        "bulk_id": "autumn",
        "executions": [{ "execution_id": "autumn-1", "status": "queued" }, { "execution_id": "autumn-2", "status": "queued" },
            { "execution_id": "autumn-3", "status": "queued" }, { "status": "failed", "message": long }],
        "references": [{ "order": "1" }, { "order": "2" }, { "order": "3" }, { "order": "4" }],
    });
    let url = format!("{}/api/v1/expected", receiver.admin);
    assert_eq!(receiver.client.post(url).json(&response).send().await.unwrap().status(), 200);
    receiver.wait_until_recorded().await;
    let change =
        "UPDATE expected_executions SET due_at = now() - interval '1 minute' WHERE execution_id = 'autumn-2';
        UPDATE executions SET fetched_from = 'delivery_log', authenticated_by = NULL
        WHERE execution_id LIKE '%7-b7c0-000000000005' OR execution_id LIKE '%000000000001'";
    sqlx::raw_sql(change).execute(&mut receiver.connection().await).await.unwrap();
    (receiver, files)
}

/// The entry of `q0`, or the only one.
async fn first_entry(receiver: &TestReceiver) -> i64 {
    let first = "SELECT min(quarantine_id) AS id FROM quarantine
        WHERE convert_from(body, 'UTF8') LIKE '%q0%' OR (SELECT count(*) FROM quarantine) = 1";
    receiver.row(first).await["id"].as_i64().unwrap()
}

/// The visible text of the page.
async fn text(browser: &Chromium) -> String {
    let text = browser.client.execute("return document.body.innerText", Vec::new()).await.unwrap();
    text.as_str().unwrap().to_owned()
}

async fn click(browser: &Chromium, selector: &str) {
    browser.client.find(Locator::Css(selector)).await.expect(selector).click().await.unwrap();
}

async fn fill(browser: &Chromium, selector: &str, value: &str) {
    browser.client.find(Locator::Css(selector)).await.expect(selector).send_keys(value).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_details_are_accessible_and_fit_phones_and_desktops_in_light_and_dark() {
    let mut violations = Vec::new();
    let ((receiver, _), browser) = (filled().await, Chromium::start().await);
    let entry = first_entry(&receiver).await;
    let long = "a-name-without-a-single-space".repeat(7);
    let pages = [
        ("/executions".to_owned(), "executions"),
        (
            "/executions?status=failed&q=no+such+words&workflow=product-photos&from=2026-01-01T00:00"
                .to_owned(),
            "executions-empty",
        ),
        ("/executions/69ae8c7b-7500-4a45-b7c0-000000000001".to_owned(), "execution"),
        ("/executions/69ae8c7b-7500-4a45-b7c0-000000000003".to_owned(), "execution-failed"),
        ("/executions/deep".to_owned(), "execution-deep"),
        (format!("/executions?workflow={long}"), "executions-long"),
        (format!("/executions/{long}"), "execution-long"),
        ("/executions/long-cause".to_owned(), "execution-long-cause"),
        ("/bulks".to_owned(), "bulks"),
        ("/bulks/spring-catalogue".to_owned(), "bulk"),
        ("/bulks/spring-catalogue?show=failures".to_owned(), "bulk-failures"),
        (format!("/bulks/{long}"), "bulk-long"),
        ("/bulks/autumn".to_owned(), "bulk-registered"),
        ("/bulks/autumn?show=missing".to_owned(), "bulk-missing"),
        ("/expected".to_owned(), "expected"),
        ("/predictions".to_owned(), "predictions"),
        ("/predictions/p0".to_owned(), "prediction"),
        ("/predictions/7c9a1b52-1f0e-4a44-8a83-0a9a6a4bb0f3".to_owned(), "prediction-failed"),
        ("/quarantine".to_owned(), "quarantine"),
        ("/quarantine?reason=%60execution_id%60+is+missing+or+null".to_owned(), "quarantine-reason"),
        (
            format!("/quarantine/{entry}?map.execution_id=executionId&map.bulk_id=bulkId&preview=1"),
            "quarantine-entry",
        ),
    ];
    for (width, height) in [(1_280, 1_600), (360, 1_600)] {
        for scheme in ["light", "dark"] {
            browser.emulate(width, height, scheme).await;
            for (path, name) in &pages {
                browser.open(&format!("{}{path}", receiver.admin)).await;
                browser.screenshot(&format!("{name}-{width}-{scheme}")).await;
                violations.extend(browser.violations(&format!("{name}-{width}-{scheme}")).await);
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_execution_is_found_with_its_cause() {
    let ((receiver, _), browser) = (filled().await, Chromium::start().await);
    browser.emulate(1_280, 900, "light").await;
    browser.open(&format!("{}/executions", receiver.admin)).await;
    fill(&browser, "input[type=search]", "Safety FILTER\u{e007}").await;
    until(async || browser.client.current_url().await.unwrap().query() == Some("q=Safety+FILTER")).await;
    // Only the prompts of the failed executions.
    until(async || text(&browser).await.contains("ثعلب")).await;
    assert!(!text(&browser).await.contains("Product photo"));
    click(&browser, "tbody .row-link").await;
    until(async || text(&browser).await.contains("Why it failed")).await;
    let shown = text(&browser).await;
    assert!(shown.contains("the prompt was rejected by the safety filter of the model"), "{shown}");
    assert_eq!(browser.console_messages().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_to_the_conflicts_shows_the_difference() {
    let ((receiver, _), browser) = (filled().await, Chromium::start().await);
    browser.emulate(1_280, 900, "light").await;
    browser.open(&format!("{}/executions/deep", receiver.admin)).await;
    assert!(!text(&browser).await.contains("later webhook"));
    click(&browser, "a[href='#conflicts']").await;
    until(async || text(&browser).await.contains("later webhook")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_completes_on_the_page_without_a_reload() {
    let ((receiver, files), browser) = (filled().await, Chromium::start().await);
    browser.emulate(1_280, 900, "light").await;
    browser.open(&format!("{}/bulks/spring-catalogue", receiver.admin)).await;
    let shown = text(&browser).await;
    assert!(shown.contains("2 missing: 1 not received, 1 running"), "{shown}");
    browser.client.execute("window.sameDocument = true", Vec::new()).await.unwrap();
    receiver.accept(photo(&files, 12, "completed")).await;
    until(async || text(&browser).await.contains("in progress 1 missing")).await;
    receiver.accept(photo(&files, 14, "completed")).await;
    until(async || text(&browser).await.contains("15 of 15")).await;
    let shown = text(&browser).await;
    assert!(!shown.contains(" missing") && !shown.contains("in progress"), "{shown}");
    // The numbers of the tabs are of the same read. The list does not move.
    assert!(shown.contains("Missing 0") && shown.contains("All executions 15"), "{shown}");
    assert!(shown.contains("2 new or changed: show"), "{shown}");
    let same = browser.client.execute("return window.sameDocument", Vec::new()).await.unwrap();
    assert_eq!(same, json!(true));
    // The whole row of the list follows, and is a link.
    browser.open(&format!("{}/bulks", receiver.admin)).await;
    receiver.accept(photo(&files, 15, "completed")).await;
    until(async || text(&browser).await.contains("16 of 15")).await;
    let link = "const box = [...document.querySelectorAll('td.num')].find((one) => one.textContent.startsWith('16 of'))
            .getBoundingClientRect();
        return document.elementFromPoint(box.right - 2, box.bottom - 2).closest('a')?.getAttribute('href')";
    let link = browser.client.execute(link, Vec::new()).await.unwrap();
    assert_eq!(link, json!("/bulks/spring-catalogue"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_opens_rows_and_searches_on_every_page() {
    let ((receiver, _), browser) = (filled().await, Chromium::start().await);
    browser.emulate(1_280, 900, "light").await;
    let press = async |keys: &str| {
        let active = browser.client.active_element().await.unwrap();
        active.send_keys(keys).await.unwrap();
    };
    let path = async || browser.client.current_url().await.unwrap().path().to_owned();
    // A row of the gallery has links to the image and to the execution.
    browser.open(&format!("{}/bulks/spring-catalogue", receiver.admin)).await;
    press("j").await;
    press("\u{e007}").await;
    until(async || path().await.starts_with("/executions/69ae8c7b")).await;
    for page in ["/settings", "/bulks/spring-catalogue", "/executions/deep", "/"] {
        browser.open(&format!("{}{page}", receiver.admin)).await;
        press("/").await;
        press("no such words\u{e007}").await;
        until(async || path().await == "/executions").await;
        assert_eq!(browser.client.current_url().await.unwrap().query(), Some("q=no+such+words"), "{page}");
    }
    for page in ["/executions", "/predictions", "/bulks", "/quarantine"] {
        browser.open(&format!("{}{page}", receiver.admin)).await;
        press("/").await;
        let name = "return document.activeElement.closest('main form')?.getAttribute('action')";
        assert_eq!(browser.client.execute(name, Vec::new()).await.unwrap(), json!(page));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_loaded_is_replaced_by_a_text_with_its_link() {
    let ((receiver, files), browser) = (start().await, Chromium::start().await);
    let url = format!("{files}/absent.png");
    receiver.accept(with(execution("broken", "completed"), json!({ "output": [url] }))).await;
    receiver.wait_until_recorded().await;
    browser.emulate(1_280, 900, "light").await;
    browser.open(&format!("{}/executions/broken", receiver.admin)).await;
    until(async || text(&browser).await.contains("The image cannot be loaded")).await;
    let link = "return document.querySelector('.no-image').closest('a').href";
    assert_eq!(browser.client.execute(link, Vec::new()).await.unwrap(), json!(url));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_is_previewed_and_recorded_in_the_browser() {
    let ((receiver, _), browser) = (filled().await, Chromium::start().await);
    browser.emulate(1_280, 900, "light").await;
    let entry = first_entry(&receiver).await;
    browser.open(&format!("{}/quarantine/{entry}", receiver.admin)).await;
    fill(&browser, "input[name='map.execution_id']", "executionId").await;
    fill(&browser, "input[name='map.bulk_id']", "bulkId").await;
    click(&browser, "button[name=preview]").await;
    until(async || text(&browser).await.contains("This would be recorded: 1 execution")).await;
    click(&browser, "form[action$='/retry'] button.primary").await;
    until(async || text(&browser).await.contains("Recorded q0 (new)")).await;
    assert_eq!(
        receiver.row("SELECT bulk_id FROM executions WHERE execution_id = 'q0'").await["bulk_id"],
        "spring-catalogue"
    );
    assert_eq!(browser.console_messages().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_runs_no_script_and_loads_nothing() {
    let ((receiver, _), browser) = (start().await, Chromium::start().await);
    let hostile = "\"'><img src=//evil.example/x.png onerror=document.title='owned'><svg onload=document.title='owned'><script>document.title='owned'</script>";
    let body = json!({
        "execution_id": "hostile", "workflow_id": hostile, "bulk_id": "hostile", "status": "failed", "error_cause": hostile,
        "output": [hostile, "https://evil.example/x.png", "https://evil.example/x.svg", "javascript:document.title='owned'"],
        "inputs": { "prompt": hostile, *hostile: hostile },
        "step_outputs": { *hostile: { "status": "failed", "error": hostile, "metadata": { "model": hostile } } },
    });
    receiver.accept(&body).await;
    receiver.wait_until_recorded().await;
    receiver.accept(with(body, json!({ "status": "completed", "output": hostile }))).await;
    receiver.post(json!({ *hostile: hostile }).to_string()).await;
    receiver.wait_until_recorded().await;
    browser.emulate(1_280, 900, "light").await;
    let entry = first_entry(&receiver).await;
    let mapping = format!(
        "/quarantine/{entry}?preview=1&set.execution_id=%22%3E%3Cscript%3E&set.workflow_id=w&set.status=x"
    );
    for path in [
        "/executions",
        "/executions/hostile",
        "/bulks/hostile",
        "/bulks/hostile?show=failures",
        "/quarantine",
        &*mapping,
    ] {
        // Also fails if a resource of another host was blocked or loaded: both are messages.
        browser.open(&format!("{}{path}", receiver.admin)).await;
        let script = "return document.querySelectorAll('main script, main [onerror], main [onload], main svg:not(.bar, .chart)').length
            + performance.getEntriesByType('resource').filter((one) => !one.name.startsWith(location.origin)).length
            + (document.title === 'owned')";
        assert_eq!(browser.client.execute(script, Vec::new()).await.unwrap(), json!(0), "{path}");
    }
}

/// Executions of the last day, so that the overview has a chart.
const A_DAY: &str = "
    INSERT INTO executions (execution_id, workflow_id, status, error, error_cause, total_cost, payload, deliveries,
        first_received_at, last_received_at)
    SELECT 'day-' || n, (ARRAY['product-photos', 'video-teasers', 'voice-over'])[1 + n % 3],
        CASE WHEN failed THEN 'failed' ELSE 'completed' END, CASE WHEN failed THEN 'ExecutionFailed' END,
        CASE WHEN failed THEN (ARRAY['The model did not answer within 300 seconds', 'The prompt was rejected by the safety filter'])[1 + n % 2] END,
        0.05, '{}', 1, at, at
    FROM (
        SELECT n, n % 17 = 0 OR n % 230 < 9 AS failed, now() - make_interval(mins => (n * 37 + n * n % 211) % 1430) AS at
        FROM generate_series(1, 900) AS n
    ) AS n";

/// `make screenshots` writes the images of the README with this test.
#[tokio::test(flavor = "multi_thread")]
async fn the_pages_in_the_readme_show_results_a_bulk_and_a_mapping() {
    let ((receiver, _), browser) = (filled().await, Chromium::start().await);
    sqlx::raw_sql(A_DAY).execute(&mut receiver.connection().await).await.unwrap();
    recount_rollups(&receiver).await;
    let entry = first_entry(&receiver).await;
    let mapping = format!("/quarantine/{entry}?map.execution_id=executionId&map.bulk_id=bulkId&preview=1");
    for (path, name, shown) in [
        ("/", "overview", "Failures"),
        ("/executions/69ae8c7b-7500-4a45-b7c0-000000000001", "execution", "upscale"),
        ("/bulks/spring-catalogue", "bulk", "2 missing: 1 not received, 1 running"),
        (&*mapping, "quarantine", "This would be recorded: 1 execution"),
    ] {
        // The mapping is below the preview.
        browser.emulate(1_200, if name == "quarantine" { 1_480 } else { 760 }, "light").await;
        browser.open(&format!("{}{path}", receiver.admin)).await;
        // Images outside of the window load when they are scrolled to.
        let loaded = "return [...document.querySelectorAll('main img')].every((one) =>
            one.getBoundingClientRect().top > innerHeight || one.complete && one.naturalWidth > 0)";
        until(async || browser.client.execute(loaded, Vec::new()).await.unwrap() == json!(true)).await;
        let page = text(&browser).await;
        assert!(page.contains(shown), "{page}");
        browser.screenshot(name).await;
    }
}
