//! Sends webhooks, signed, until they are acknowledged or the last attempt failed.

use std::fmt::Write as _;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use time::OffsetDateTime;
use tokio::time::sleep;

use super::Shared;
use super::store::now;

/// Delivers the webhook of an execution in the background.
pub(crate) fn deliver(shared: &Arc<Shared>, execution_id: &str) {
    spawn(shared, execution_id, false);
}

/// As [`deliver`], with the header of a redelivery.
pub(crate) fn redeliver(shared: &Arc<Shared>, execution_id: &str) {
    spawn(shared, execution_id, true);
}

fn spawn(shared: &Arc<Shared>, execution_id: &str, is_redelivery: bool) {
    let (shared, id) = (shared.clone(), execution_id.to_owned());
    shared.delivering.send_modify(|delivering| *delivering += 1);
    tokio::spawn(async move {
        send(&shared, &id, is_redelivery).await;
        shared.delivering.send_modify(|delivering| *delivering -= 1);
    });
}

async fn send(shared: &Shared, id: &str, is_redelivery: bool) {
    let found = shared.store().find(id).cloned();
    let Some((execution, url)) = found.and_then(|found| Some((found.clone(), found.webhook_url?))) else {
        return;
    };
    let body = execution.body.to_string();
    // All attempts have the same timestamp and signature.
    let timestamp = OffsetDateTime::now_utc().unix_timestamp().to_string();
    for attempt in 1..=shared.options.attempts {
        let mut request = request(shared, &url, execution.webhook_secret.as_deref(), &timestamp, &body);
        if is_redelivery {
            request = request.header("X-Webhook-Redelivery", "true");
        }
        let status = request.send().await.ok().map(|response| response.status());
        let is_success = status.is_some_and(|status| status.is_success());
        if let Some(delivery) = shared.store().delivery(id) {
            delivery.attempts.push(json!({
                "status": if is_success { "SUCCESS" } else { "FAILED" },
                "status_code": status.map(|status| status.as_u16()), "created_at": now()
            }));
        }
        if is_success {
            return;
        }
        if attempt < shared.options.attempts {
            sleep(shared.options.attempt_interval).await;
        }
    }
}

/// Sends `body` once, without an entry in the delivery log. Returns the status of the response.
pub(crate) async fn post(shared: &Shared, url: &str, secret: Option<&str>, body: &str) -> Option<u16> {
    let timestamp = OffsetDateTime::now_utc().unix_timestamp().to_string();
    let response = request(shared, url, secret, &timestamp, body).send().await.ok()?;
    Some(response.status().as_u16())
}

fn request(
    shared: &Shared,
    url: &str,
    secret: Option<&str>,
    timestamp: &str,
    body: &str,
) -> reqwest::RequestBuilder {
    let request = shared.http.post(url).header("Content-Type", "application/json").body(body.to_owned());
    match secret {
        None => request,
        Some(secret) => request
            .header("X-Webhook-Timestamp", timestamp)
            .header("X-Webhook-Signature", signature(secret, timestamp, body))
            .header("X-Webhook-Secret", secret),
    }
}

fn signature(secret: &str, timestamp: &str, body: &str) -> String {
    let mut text = "sha256=".to_owned();
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) {
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body.as_bytes());
        for byte in mac.finalize().into_bytes() {
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
}
