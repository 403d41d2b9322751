//! Sends a request, and again after temporary errors.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use tokio::time::{sleep, timeout};
use url::Url;

use super::{Client, no_such_identifier};
use crate::eachlabs::error::ApiError;
use crate::eachlabs::retry::{backoff, retry_after};
use crate::metrics::ApiResult;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("workflow-receiver/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The largest body of an error that is read, in bytes.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// A failed attempt.
struct Failure {
    error: ApiError,
    retry_after: Option<Duration>,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self { error, retry_after: None }
    }
}

impl Client {
    /// Sends a request, and again after temporary errors. Returns the body of a 2xx response.
    pub(super) async fn send(
        &self,
        method: Method,
        url: Url,
        body: Option<Bytes>,
    ) -> Result<Bytes, ApiError> {
        let is_repeatable = method == Method::GET;
        let mut attempt = 0;
        loop {
            let failure = match self.attempt(method.clone(), url.clone(), body.clone()).await {
                Ok(body) => return Ok(body),
                Err(failure) => failure,
            };
            let error = failure.error;
            attempt += 1;
            let may_repeat = is_repeatable || error.is_unprocessed();
            if attempt >= self.max_attempts || !error.is_temporary() || !may_repeat {
                return Err(error);
            }
            tracing::debug!(attempt, "a request to each::labs failed and is sent again: {error}");
            let was_reset = matches!(error, ApiError::Unreachable { not_sent: false, .. });
            // each::labs sometimes resets a connection. The first repetition then needs no pause.
            if !(was_reset && attempt == 1) {
                let pause = failure.retry_after.unwrap_or_else(|| backoff(attempt));
                if let Some(on_retry) = self.on_retry {
                    on_retry(&error, pause);
                }
                sleep(pause).await;
            }
        }
    }

    async fn attempt(&self, method: Method, url: Url, body: Option<Bytes>) -> Result<Bytes, Failure> {
        if let Some(rate) = &self.rate {
            rate.wait().await;
        }
        let _permit = self.requests.acquire().await;
        let attempt = timeout(self.timeout, self.try_attempt(method, url, body)).await;
        let result = attempt.unwrap_or_else(|_| Err(ApiError::TimedOut.into()));
        if let (Some(rate), Err(Failure { retry_after: Some(pause), .. })) = (&self.rate, &result) {
            rate.pause_for(*pause);
        }
        let label = result.as_ref().map_or_else(|failure| failure.error.result(), |_| ApiResult::Ok);
        self.metrics.eachlabs_requested(label);
        result
    }

    async fn try_attempt(&self, method: Method, url: Url, body: Option<Bytes>) -> Result<Bytes, Failure> {
        let mut request = Request::new(Full::from(body.clone().unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() = url.as_str().parse().map_err(|_| no_such_identifier())?;
        let headers = request.headers_mut();
        headers.insert(&self.access.header.0, self.access.header.1.clone());
        headers.insert(ACCEPT, JSON);
        headers.insert(USER_AGENT, AGENT);
        if body.is_some() {
            headers.insert(CONTENT_TYPE, JSON);
        }
        let response = self.http.request(request).await;
        let (head, body) = response.map_err(|error| ApiError::from_client(&error))?.into_parts();
        let status = head.status;
        if status.is_success() {
            return Ok(collect(body, self.max_response_bytes).await?);
        }
        let retry_after = retry_after(&head.headers);
        let body = collect(body, MAX_ERROR_BYTES).await.unwrap_or_default();
        let error = ApiError::from_status(status, &body, &self.access.key, &self.secrets);
        Err(Failure { error, retry_after })
    }
}

async fn collect(body: Incoming, max_bytes: usize) -> Result<Bytes, ApiError> {
    let collected = Limited::new(body, max_bytes).collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| {
        if error.is::<LengthLimitError>() {
            ApiError::TooLarge { max_bytes }
        } else {
            ApiError::interrupted(&*error)
        }
    })
}
