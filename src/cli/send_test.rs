//! `workflow-receiver send-test`

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use secrecy::ExposeSecret;
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::CommandError;
use super::healthcheck::reachable;
use super::output::print_line;
use crate::auth::sign;
use crate::config::Settings;
use crate::http::WEBHOOK_PATH;
use crate::http_client;
use crate::logging::printable;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `send-test`.
#[derive(Debug, Args)]
pub struct SendTest {
    /// The status in the webhook
    #[arg(long, default_value = "completed", value_parser = NonEmptyStringValueParser::new())]
    status: String,
}

impl SendTest {
    /// Sends a webhook to `http.listen`, with the first secret or token of the settings. It is recorded as an execution of
    /// the workflow `workflow-receiver-test`.
    ///
    /// # Errors
    /// If the receiver does not answer 200.
    pub async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let now = OffsetDateTime::now_utc();
        let id = format!("test-{}", now.unix_timestamp_nanos() / 1_000_000);
        let body = json!({
            "execution_id": id,
            "workflow_id": "workflow-receiver-test",
            "status": self.status,
            "output": "sent by workflow-receiver send-test",
        });
        let body = body.to_string();
        let auth = &settings.auth;
        let token = auth.url_tokens.0.first().map(|token| format!("/{}", token.expose_secret()));
        let mut request = Request::post(format!("{WEBHOOK_PATH}{}", token.unwrap_or_default()))
            .header(CONTENT_TYPE, "application/json");
        if let Some(secret) = auth.webhook_secrets.0.first() {
            for (name, value) in sign(secret, body.as_bytes(), now) {
                request = request.header(name, value);
            }
        }
        let address = reachable(settings.http.listen).to_string();
        let send = http_client::send(&address, request.body(Full::from(body))?);
        let (status, answer) = timeout(TIMEOUT, send)
            .await
            .map_err(|_| format!("no answer from {address} within 10 s"))?
            .map_err(|error| format!("no answer from {address}: {error}. Is the receiver running?"))?;
        let answer = String::from_utf8_lossy(&answer);
        if status != StatusCode::OK {
            return Err(format!("{address} answered {status}: {}", printable(&answer)).into());
        }
        print_line(format_args!("{address} answered 200. See: workflow-receiver executions {id}"));
        Ok(())
    }
}
