//! The console in a browser.

use fantoccini::Locator;
use serde_json::json;

use crate::support::browser::Chromium;
use crate::support::fixtures::{execution, with};
use crate::support::receiver::TestReceiver;

/// Executions of several statuses, with long names, hostile text and right-to-left text.
async fn filled() -> TestReceiver {
    let receiver = TestReceiver::start().await;
    let causes = [
        "The model did not answer within 300 seconds",
        "Content policy violation: the prompt was rejected by the safety filter of the model",
        "<script>alert(1)</script>\u{202e}txt.exe",
        "انتهت المهلة قبل أن يرد النموذج",
    ];
    let long_name = "a-workflow-with-a-long-name-".repeat(7);
    for number in 0..60_usize {
        let id = format!("exec-{number:03}");
        let workflow = ["product-photos", "video-teasers", &long_name][number % 3];
        let mut body = with(execution(&id, "completed"), json!({ "workflow_id": workflow }));
        if number % 5 == 0 {
            let cause = causes[number / 5 % causes.len()];
            body = with(
                execution(&id, "failed"),
                json!({ "workflow_id": workflow, "error": "ExecutionFailed", "error_cause": cause }),
            );
        }
        receiver.accept(body).await;
    }
    assert_eq!(receiver.post("{}").await.status(), 422);
    receiver.accept(execution("exec-001", "failed")).await;
    receiver.wait_until_recorded().await;
    receiver
}

/// Pages, with their names in the screenshots.
const PAGES: [(&str, &str); 6] = [
    ("/", "overview"),
    ("/?period=1h", "overview-hour"),
    ("/settings", "settings"),
    ("/conflicts", "conflicts"),
    ("/audit", "audit"),
    ("/docs#list_executions", "docs"),
];

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_accessible_have_no_error_and_fit_phones_and_desktops_in_light_and_dark() {
    let mut violations = Vec::new();
    let (receiver, browser) = (filled().await, Chromium::start().await);
    for (width, height) in [(1_280, 900), (360, 800)] {
        for scheme in ["light", "dark"] {
            browser.emulate(width, height, scheme).await;
            for (path, name) in PAGES {
                browser.open(&format!("{}{path}", receiver.admin)).await;
                browser.screenshot(&format!("{name}-{width}-{scheme}")).await;
                violations.extend(browser.violations(&format!("{name}-{width}-{scheme}")).await);
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_page_and_the_page_of_an_unknown_path_are_accessible() {
    let receiver =
        TestReceiver::start_with(|settings| settings.admin.token = "a-long-token-of-the-test".into()).await;
    let browser = Chromium::start().await;
    let mut violations = Vec::new();
    for scheme in ["light", "dark"] {
        browser.emulate(360, 800, scheme).await;
        browser.client.delete_all_cookies().await.unwrap();
        browser.open(&format!("{}/absent", receiver.admin)).await;
        violations.extend(browser.violations("login").await);
        let token = browser.client.find(Locator::Css("input[name=token]")).await.unwrap();
        token.send_keys("a-long-token-of-the-test\u{e007}").await.unwrap();
        let heading = browser.client.wait().for_element(Locator::Css(".empty h1")).await.unwrap();
        assert_eq!(heading.text().await.unwrap(), "Page not found");
        browser.screenshot(&format!("absent-{scheme}")).await;
        violations.extend(browser.violations("absent").await);
        // The status 404 is a message.
        browser.console_messages().await;
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tabs_are_in_view_on_a_phone() {
    let receiver = TestReceiver::start().await;
    let browser = Chromium::start().await;
    browser.emulate(360, 800, "light").await;
    browser.open(&format!("{}/settings", receiver.admin)).await;
    let script = "const tabs = [...document.querySelectorAll('header nav a')].map((tab) => tab.getBoundingClientRect());
        return tabs.length > 3 && tabs.every((tab) => tab.left >= 0 && tab.right <= innerWidth && tab.bottom <= 130)";
    assert_eq!(browser.client.execute(script, Vec::new()).await.unwrap(), json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_select_rows_and_show_the_list_of_keys() {
    let (receiver, browser) = (filled().await, Chromium::start().await);
    browser.emulate(1_280, 900, "light").await;
    browser.open(&format!("{}/", receiver.admin)).await;
    let press = async |key: &str| {
        let script =
            "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: arguments[0], bubbles: true }))";
        browser.client.execute(script, vec![json!(key)]).await.unwrap();
    };
    let selected = async || {
        let script = "return [...document.querySelectorAll('[data-row]')].findIndex((row) => row.matches('.selected'))";
        browser.client.execute(script, Vec::new()).await.unwrap()
    };
    assert_eq!(selected().await, json!(-1));
    for (key, row) in [("j", 0), ("j", 1), ("k", 0), ("k", 0)] {
        press(key).await;
        assert_eq!(selected().await, json!(row), "{key}");
    }
    press("?").await;
    let open = "return document.getElementById('shortcuts').open";
    assert_eq!(browser.client.execute(open, Vec::new()).await.unwrap(), json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_in_a_response_on_the_api_page_link_to_their_pages() {
    let (receiver, browser) = (TestReceiver::start().await, Chromium::start().await);
    receiver.accept(with(execution("an execution", "completed"), json!({ "bulk_id": "b" }))).await;
    let prediction = json!({ "exec_id": "a prediction", "flow_id": null, "status": "succeeded" });
    receiver.accept(prediction).await;
    receiver.wait_until_recorded().await;
    browser.open(&format!("{}/docs", receiver.admin)).await;
    for (operation, page) in [
        ("list_executions", "/executions/an%20execution"),
        ("list_executions", "/bulks/b"),
        ("list_predictions", "/predictions/a%20prediction"),
    ] {
        let find = async |selector: &str| {
            let selector = format!("#{operation} {selector}");
            browser.client.wait().for_element(Locator::Css(&selector)).await.expect(page);
        };
        find("button.primary").await;
        let send = "document.querySelector(`#${arguments[0]} button.primary`).click()";
        browser.client.execute(send, vec![json!(operation)]).await.unwrap();
        find(&format!(".json a[href='{page}']")).await;
    }
}
