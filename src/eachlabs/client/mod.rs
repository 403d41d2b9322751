//! The calls of the API.

mod send;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Method;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use url::Url;

use super::error::ApiError;
use super::rate::RateLimit;
use super::responses::{self, ExecutionRow, LoggedDelivery, Page};
use super::retry::MAX_ATTEMPTS;
use crate::config::{ApiAccess, Eachlabs, SettingsError};
use crate::metrics::Metrics;

/// Idle connections are closed before the server or a proxy closes them.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// A client of the API. Clones share the connections and the limit of concurrent requests.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    access: ApiAccess,
    requests: Arc<Semaphore>,
    /// Time limit of a request.
    timeout: Duration,
    /// The largest accepted response, in bytes.
    max_response_bytes: usize,
    metrics: Arc<Metrics>,
    /// The maximum number of times that a request is sent.
    max_attempts: u32,
    rate: Option<Arc<RateLimit>>,
    /// Secrets in the bodies of requests. No error contains them.
    secrets: Arc<[SecretString]>,
    /// Called before a pause, after which a request is sent again.
    on_retry: Option<fn(&ApiError, Duration)>,
}

impl Client {
    /// `None` without a key. `max_body_bytes` is the size of the largest webhook.
    ///
    /// # Errors
    /// [`SettingsError`] for invalid settings, or if the system has no certificates.
    pub(crate) fn new(
        settings: &Eachlabs,
        max_body_bytes: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Option<Self>, SettingsError> {
        let Some(access) = settings.access()? else { return Ok(None) };
        let connector = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|error| SettingsError::Unreadable(format!("the system has no certificates: {error}")))?
            .https_or_http()
            .enable_http1()
            .build();
        // This client follows no redirects and stores no cookies.
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        let requests = Arc::new(Semaphore::new(settings.max_requests));
        // In the delivery log, a body is a JSON string: escaped characters can double its size.
        let max_response_bytes = 2 * max_body_bytes + (1 << 20);
        let timeout = settings.timeout;
        Ok(Some(Self {
            http,
            access,
            requests,
            timeout,
            max_response_bytes,
            metrics,
            max_attempts: MAX_ATTEMPTS,
            rate: None,
            secrets: Arc::default(),
            on_retry: None,
        }))
    }

    /// A client that sends each request once, and at most `max_per_minute` requests a minute.
    pub(crate) fn without_retries(&self, max_per_minute: u32) -> Self {
        Self { max_attempts: 1, rate: Some(Arc::new(RateLimit::new(max_per_minute))), ..self.clone() }
    }

    /// A client whose requests contain `secrets`, and that calls `on_retry` before a pause.
    pub(crate) fn for_trigger(
        self,
        mut secrets: Vec<SecretString>,
        on_retry: fn(&ApiError, Duration),
    ) -> Self {
        // A longer secret can contain a shorter one.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose_secret().len()));
        Self { secrets: secrets.into(), on_retry: Some(on_retry), ..self }
    }

    /// Triggers a workflow, or a bulk of it. Returns the response unchanged. `version` is not used by the older host.
    ///
    /// The client sends the request again only if `each::labs` has certainly not processed it.
    ///
    /// # Errors
    /// [`ApiError`]
    pub(crate) async fn trigger(
        &self,
        workflow: &str,
        version: &str,
        is_bulk: bool,
        body: Bytes,
    ) -> Result<Bytes, ApiError> {
        let call = if is_bulk { "bulk-trigger" } else { "trigger" };
        let url = self.url(&["v1", "workflows", call, workflow, version], &[workflow, call])?;
        self.send(Method::POST, url, Some(body)).await
    }

    /// Reads an execution, in the form of a webhook's body. `None` if `each::labs` does not have it.
    ///
    /// # Errors
    /// [`ApiError`]
    pub(crate) async fn execution(&self, execution_id: &str) -> Result<Option<Bytes>, ApiError> {
        let url =
            self.url(&["v1", "workflows", "executions", execution_id], &["executions", execution_id])?;
        found(self.send(Method::GET, url, None).await)
    }

    /// Reads a page of a workflow's executions, or of one of its bulks.
    ///
    /// # Errors
    /// [`ApiError`]; [`ApiError::is_not_found`] if `each::labs` does not have the workflow.
    pub(crate) async fn executions(
        &self,
        workflow: &str,
        bulk: Option<&str>,
        offset: usize,
        limit: usize,
    ) -> Result<Page<ExecutionRow>, ApiError> {
        let mut url = self.url(&["v1", "workflows", workflow, "executions"], &[workflow, "executions"])?;
        if let Some(bulk) = bulk {
            url.query_pairs_mut().append_pair("bulk_id", bulk);
        }
        paged(&mut url, offset, limit);
        responses::executions(&self.send(Method::GET, url, None).await?, workflow, limit)
    }

    /// Reads a page of the delivery log.
    ///
    /// # Errors
    /// [`ApiError::Unsupported`] from the older host; other [`ApiError`]s.
    pub(crate) async fn deliveries(
        &self,
        offset: usize,
        limit: usize,
    ) -> Result<Page<LoggedDelivery>, ApiError> {
        let mut url = self.delivery_log_url(&["v1", "webhooks"])?;
        paged(&mut url, offset, limit);
        responses::deliveries(&self.send(Method::GET, url, None).await?, limit)
    }

    /// Reads the latest delivery of an execution. `None` if `each::labs` does not have one.
    ///
    /// # Errors
    /// [`ApiError::Unsupported`] from the older host; other [`ApiError`]s.
    pub(crate) async fn delivery(&self, execution_id: &str) -> Result<Option<LoggedDelivery>, ApiError> {
        let url = self.delivery_log_url(&["v1", "webhooks", execution_id])?;
        let body = found(self.send(Method::GET, url, None).await)?;
        body.map(|body| responses::delivery(&body)).transpose()
    }

    /// Reads the latest delivery of an execution. `None` also from the older host, and if the entry has another form.
    ///
    /// # Errors
    /// [`ApiError`]
    pub(crate) async fn usable_delivery(
        &self,
        execution_id: &str,
    ) -> Result<Option<LoggedDelivery>, ApiError> {
        match self.delivery(execution_id).await {
            Err(ApiError::Unsupported(_) | ApiError::Malformed(_)) => Ok(None),
            logged => logged,
        }
    }

    /// [`ApiError::Unsupported`] for the older host.
    fn delivery_log_url(&self, path: &[&str]) -> Result<Url, ApiError> {
        if self.access.is_older { Err(ApiError::Unsupported("delivery log")) } else { self.url(path, &[]) }
    }

    /// Whether an identifier can be in the path of a request. `Url` drops dot segments and some control characters, and a
    /// proxy may decode an encoded slash, so the path would be another one.
    pub(crate) fn is_requestable(identifier: &str) -> bool {
        let is_unsafe = |c: char| matches!(c, '/' | '\\') || c.is_control();
        !matches!(identifier, "" | "." | "..") && !identifier.contains(is_unsafe)
    }

    /// Appends the segments of the path for the host, percent-encoded, to the base address.
    fn url(&self, current: &[&str], older: &[&str]) -> Result<Url, ApiError> {
        let path = if self.access.is_older { older } else { current };
        if !path.iter().all(|segment| Self::is_requestable(segment)) {
            return Err(no_such_identifier());
        }
        let mut url = self.access.base_url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        Ok(url)
    }
}

/// An identifier that cannot be in a URL does not exist.
fn no_such_identifier() -> ApiError {
    let text = ": the identifier cannot be in a URL".to_owned();
    ApiError::Status { status: 404, text, is_documented: true }
}

fn paged(url: &mut Url, offset: usize, limit: usize) {
    url.query_pairs_mut().append_pair("offset", &offset.to_string()).append_pair("limit", &limit.to_string());
}

/// `None` for 404.
fn found<T>(result: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match result {
        Err(error) if error.is_not_found() => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_that_could_lead_to_another_path_is_not_requested() {
        for identifier in ["7f9c2b1e-4d3a", "my flow", "a.b", "...", "50%", "é"] {
            assert!(Client::is_requestable(identifier), "{identifier}");
        }
        for identifier in ["", ".", "..", "../../admin", "a/b", "..\\admin", "a\nb"] {
            assert!(!Client::is_requestable(identifier), "{identifier}");
        }
    }
}
