//! The overview before the first webhook: how to send one.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use time::OffsetDateTime;

use crate::auth::Operator;
use crate::http::admin::console::components::copy_button;
use crate::http::admin::console::form;
use crate::http::admin::console::layout::{self, Tab};
use crate::http::admin::console::state::{Console, ConsoleState};
use crate::http::admin::console::view::View;
use crate::http::webhook::WEBHOOK_PATH;
use crate::test_webhook::TestWebhook;

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
            p { "Trigger a workflow with the public URL of this receiver. each::labs sends a webhook to this URL when the execution ends." }
            div.with-copy { pre.block tabindex="0" { (TRIGGER) } (copy_button(TRIGGER)) }
            p.soft {
                code { "YOUR-HOST" } " is the public host name of this receiver. " code { "YOUR-SECRET" }
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
                "The receiver sends a webhook to its own port, as each::labs would, and records it. The workflow of the \
                 execution is " code { "workflow-receiver-test" } "."
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

/// Sends a webhook through the public port, as the sender does.
async fn send_test(console: &Console) -> Result<String, String> {
    let auth = console.admin.credentials.auth();
    let output = "This is a test webhook, sent from the console.";
    let webhook = TestWebhook::new(&auth, WEBHOOK_PATH, "completed", output, OffsetDateTime::now_utc());
    let webhook = webhook.map_err(|error| error.to_string())?;
    let execution_id = webhook.execution_id.clone();
    match webhook.send(console.admin.webhook_address).await? {
        (status, _) if status.is_success() => {
            Ok(format!("Test webhook {execution_id} was answered {}.", status.as_u16()))
        }
        (status, _) => Err(format!("The test webhook was answered {}.", status.as_u16())),
    }
}
