//! A test webhook to the receiver's own port, with the first secret or token of the settings.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use secrecy::ExposeSecret;
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::auth::sign;
use crate::config::Auth;
use crate::http_client::{reachable, send};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A webhook of the workflow `workflow-receiver-test`.
pub(crate) struct TestWebhook {
    pub(crate) execution_id: String,
    request: Request<Full<Bytes>>,
}

impl TestWebhook {
    /// `path` is the path of webhooks without a token. `output` is the output of the execution.
    ///
    /// # Errors
    /// If a token cannot be part of a URL.
    pub(crate) fn new(
        auth: &Auth,
        path: &str,
        status: &str,
        output: &str,
        now: OffsetDateTime,
    ) -> Result<Self, hyper::http::Error> {
        let execution_id = format!("test-{}", now.unix_timestamp_nanos() / 1_000_000);
        let body = json!({
            "execution_id": execution_id,
            "workflow_id": "workflow-receiver-test",
            "status": status,
            "output": output,
            "test": true,
        });
        let body = body.to_string();
        let secret = auth.webhook_secrets.0.first();
        let token = auth.url_tokens.0.first().filter(|_| secret.is_none());
        let token = token.map(|token| format!("/{}", token.expose_secret())).unwrap_or_default();
        let mut request = Request::post(format!("{path}{token}")).header(CONTENT_TYPE, "application/json");
        if let Some(secret) = secret {
            for (name, value) in sign(secret, body.as_bytes(), now) {
                request = request.header(name, value);
            }
        }
        Ok(Self { execution_id, request: request.body(Full::from(body))? })
    }

    /// Sends the webhook to the public port. Returns the status and the body of the response.
    ///
    /// # Errors
    /// A sentence without a full stop, if there is no response.
    pub(crate) async fn send(self, port: SocketAddr) -> Result<(StatusCode, String), String> {
        let address = reachable(port);
        let (status, body) = timeout(TIMEOUT, send(&address.to_string(), self.request))
            .await
            .map_err(|_| format!("no answer from {address} within {} s", TIMEOUT.as_secs()))?
            .map_err(|error| format!("no answer from {address}: {error}"))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}
