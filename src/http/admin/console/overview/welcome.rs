//! The overview before the first webhook: how to send one.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use maud::{Markup, html};
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::auth::Operator;
use crate::http::admin::console::components::copy_button;
use crate::http::admin::console::form;
use crate::http::admin::console::layout::{self, Tab};
use crate::http::admin::console::state::{Console, ConsoleState};
use crate::http::admin::console::view::View;
use crate::http::webhook::WEBHOOK_PATH;
use crate::http_client;

/// Time limit of the test webhook.
const TIMEOUT: Duration = Duration::from_secs(10);

const TRIGGER: &str = r#"curl -X POST https://api.eachlabs.ai/v1/workflows/trigger/$WORKFLOW/$VERSION \
  -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json" \
  -d '{
    "inputs": {"prompt": "A sunset landscape"},
    "webhook_url": "https://YOUR-HOST/webhooks/workflow-completed",
    "webhook_secret": "YOUR-SECRET"
  }'"#;

pub(super) fn welcome(operator: &Operator) -> Markup {
    html! {
        section.card {
            h2 { "No webhook yet" }
            p { "Trigger a workflow with the public URL of this receiver. each::labs sends a webhook there when it ends." }
            div.with-copy { pre.block tabindex="0" { (TRIGGER) } (copy_button(TRIGGER)) }
            p.soft {
                code { "YOUR-HOST" } " is the name under which your proxy publishes this receiver. " code { "YOUR-SECRET" }
                " is one of " code { "auth.webhook_secrets" } "."
            }
        }
        (test_button(operator))
    }
}

/// The button that sends a test webhook.
pub(in crate::http::admin::console) fn test_button(operator: &Operator) -> Markup {
    html! {
        section.card {
            h2 { "Send a test webhook" }
            p {
                "The receiver sends a webhook to its own port, signed as each::labs does, and records it. It is marked as a \
                 test: its workflow is " code { "workflow-receiver-test" } "."
            }
            (form::action(operator, "/test-webhook", "", html! { button.primary { "Send a test webhook" } }))
        }
    }
}

/// `POST /test-webhook`
pub(in crate::http::admin::console) async fn send(State(console): ConsoleState, view: View) -> Response {
    let action = console.act(&view.operator, "webhook.test", "", async |_| send_test(&console).await).await;
    match form::done("/", action) {
        Ok(response) => response,
        Err(error) => layout::page(&view, Tab::Overview, "Not sent", Err(error)),
    }
}

fn request(
    console: &Console,
    body: String,
    now: OffsetDateTime,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let credentials = console.admin.credentials.for_test_webhook(body.as_bytes(), now);
    let token = credentials.token.map(|token| format!("/{token}")).unwrap_or_default();
    let mut request = Request::post(format!("{WEBHOOK_PATH}{token}"));
    for (name, value) in credentials.headers {
        request = request.header(name, value);
    }
    request.body(Full::from(body))
}

/// Replaces "all addresses" with loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Sends a webhook through the public port, as the sender does.
async fn send_test(console: &Console) -> Result<String, String> {
    let now = OffsetDateTime::now_utc();
    let execution_id = format!("test-{}", now.unix_timestamp_nanos() / 1_000_000);
    let body = serde_json::json!({
        "execution_id": execution_id,
        "workflow_id": "workflow-receiver-test",
        "status": "completed",
        "output": "This is a test webhook, sent from the console.",
        "test": true,
    });
    let request = request(console, body.to_string(), now).map_err(|error| error.to_string())?;
    let address = reachable(console.admin.webhook_address);
    let exchange = timeout(TIMEOUT, http_client::send(&address.to_string(), request)).await;
    let (status, _) = exchange
        .map_err(|_| format!("{address} did not answer within {} s", TIMEOUT.as_secs()))?
        .map_err(|error| format!("{address} did not answer: {error}"))?;
    if status.is_success() {
        Ok(format!("Test webhook {execution_id} was answered {}. It is recorded shortly.", status.as_u16()))
    } else {
        Err(format!("The test webhook was answered {}.", status.as_u16()))
    }
}
