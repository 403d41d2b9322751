//! `workflow-receiver healthcheck`: for container engines, because the image has no shell and no curl.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, StatusCode};
use secrecy::{ExposeSecret, SecretString};

use crate::http_client::reachable;
use crate::{config, http_client};

const TIMEOUT: Duration = Duration::from_secs(3);

/// Requests `/health/ready` and returns its body, which has no details if the receiver has another `admin.token`.
///
/// # Errors
/// If webhooks are not accepted (the body is the error), or there is no response within three seconds.
pub(crate) async fn healthcheck(admin: &config::Admin) -> Result<String, String> {
    let address = admin.listen;
    let (status, text) = tokio::time::timeout(TIMEOUT, ready(reachable(address), &admin.token))
        .await
        .map_err(|_| format!("no answer from {address} within 3 s"))?
        .map_err(|e| format!("no answer from {address}: {e}"))?;
    if status.is_success() { Ok(text) } else { Err(text) }
}

async fn ready(
    admin: SocketAddr,
    token: &SecretString,
) -> Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))?;
    bearer.set_sensitive(true);
    let request = Request::get("/health/ready").header(AUTHORIZATION, bearer).body(Full::default())?;
    let (status, body) = http_client::send(&admin.to_string(), request).await?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
