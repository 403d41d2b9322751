//! `workflow-receiver send-test`

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use hyper::StatusCode;
use time::OffsetDateTime;

use super::CommandError;
use super::output::print_line;
use crate::config::Settings;
use crate::http::WEBHOOK_PATH;
use crate::http_client::reachable;
use crate::logging::printable;
use crate::test_webhook::TestWebhook;

/// Arguments of `send-test`.
#[derive(Debug, Args)]
pub(crate) struct SendTest {
    /// The status in the webhook
    #[arg(long, default_value = "completed", value_parser = NonEmptyStringValueParser::new())]
    status: String,
}

impl SendTest {
    /// Sends a webhook to `http.listen`, with the first secret or token of the settings. The webhook is recorded as an
    /// execution of the workflow `workflow-receiver-test`.
    ///
    /// # Errors
    /// If the receiver does not answer 200.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let output = "sent by workflow-receiver send-test";
        let now = OffsetDateTime::now_utc();
        let webhook = TestWebhook::new(&settings.auth, WEBHOOK_PATH, &self.status, output, now)?;
        let id = webhook.execution_id.clone();
        let sent = webhook.send(settings.http.listen).await;
        let (status, answer) = sent.map_err(|error| format!("{error}. Is the receiver running?"))?;
        let address = reachable(settings.http.listen);
        if status != StatusCode::OK {
            return Err(format!("{address} answered {status}: {}", printable(&answer)).into());
        }
        print_line(format_args!("{address} answered 200. See: workflow-receiver executions {id}"));
        Ok(())
    }
}
