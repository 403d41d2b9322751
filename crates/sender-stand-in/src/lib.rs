//! Behaves like `each::labs`, for tests and demonstrations: the API in both generations ([`api`]), and webhooks with
//! signatures and retries ([`webhook`]). Executions run no model: each ends at once with an output made from its inputs.
//!
//! An input with `"fail": true` fails. The webhook of an input with `"lose": true` is not sent. In a bulk, an input with
//! `"reject": true` is rejected.
//!
//! [`demo`] sends webhooks of many kinds by itself, whose results [`media`] serves.

mod api;
pub mod demo;
mod media;
mod store;
mod webhook;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use store::Store;
pub use store::Trigger;

/// A request with this text in its path is answered 403, as by a proxy before the API.
pub const REJECTED_ID: &str = "rejected-by-a-proxy";

/// How the stand-in behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The key that requests must have.
    pub api_key: String,
    /// The number of attempts to deliver a webhook.
    pub attempts: u32,
    /// The pause before the next attempt.
    pub attempt_interval: Duration,
    /// The largest `total_count` of a list.
    pub max_total: usize,
    /// For a value n above 0, every n-th request is answered 429.
    pub throttle_every: usize,
    /// `Retry-After` of a 429, in seconds.
    pub retry_after: u64,
    /// For a value n above 0, the connection of every n-th request is cut.
    pub reset_every: usize,
    /// Makes identifiers random, so that a later run has others. `None` for a sequence from 1.
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            api_key: "stand-in-key".to_owned(),
            attempts: 3,
            attempt_interval: Duration::from_secs(10),
            max_total: 10_000,
            throttle_every: 0,
            retry_after: 1,
            reset_every: 0,
            seed: None,
        }
    }
}

/// A running stand-in. Stops when dropped.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    store: Mutex<Store>,
    http: reqwest::Client,
    requests: AtomicUsize,
    /// Every request is answered with this status; 0 for the usual responses.
    outage: AtomicU16,
    /// The number of webhooks that are still being delivered.
    delivering: watch::Sender<usize>,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StandIn {
    /// Listens on `address`.
    ///
    /// # Errors
    /// The error of the operating system.
    pub async fn start(address: SocketAddr, options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::new(options.seed)),
            options,
            http: reqwest::Client::new(),
            requests: AtomicUsize::new(0),
            outage: AtomicU16::new(0),
            delivering: watch::Sender::new(0),
        });
        let router = api::router(shared.clone()).merge(media::router());
        let server = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Ok(Self { address, shared, server })
    }

    /// The base address of the current API.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base address of the older API.
    #[must_use]
    pub fn older_base_url(&self) -> String {
        format!("http://{}/api/v1", self.address)
    }

    /// Ends an execution, and delivers its webhook in the background. Returns its identifier.
    #[expect(clippy::must_use_candidate, reason = "a caller may not need the identifier")]
    pub fn execute(&self, trigger: &Trigger) -> String {
        let id = self.shared.store().execute(trigger);
        webhook::deliver(&self.shared, &id);
        id
    }

    /// Starts an execution that runs until [`StandIn::end`].
    #[must_use]
    pub fn begin(&self, trigger: &Trigger) -> String {
        self.shared.store().begin(trigger)
    }

    /// Ends an execution. Its webhook is not sent, but the delivery log has it.
    pub fn end(&self, execution_id: &str) {
        self.shared.store().end(execution_id);
    }

    /// Ends an execution with these fields of its body. Its webhook is not sent, but the delivery log has it.
    pub fn end_with(&self, execution_id: &str, fields: Value) {
        self.shared.store().end_with(execution_id, fields);
    }

    /// Delivers the webhook of an execution in the background, in its current state.
    pub fn deliver(&self, execution_id: &str) {
        webhook::deliver(&self.shared, execution_id);
    }

    /// Posts a body once, signed with `secret`. Returns the status of the response; `None` without a response.
    pub async fn post(&self, url: &str, secret: Option<&str>, body: &Value) -> Option<u16> {
        webhook::post(&self.shared, url, secret, &body.to_string()).await
    }

    /// Posts a body once, with `token` as the bearer token. Returns the status of the response; `None` without a response.
    pub async fn post_with_token(&self, url: &str, token: Option<&str>, body: &Value) -> Option<u16> {
        let request =
            self.shared.http.post(url).header("Content-Type", "application/json").body(body.to_string());
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        Some(request.send().await.ok()?.status().as_u16())
    }

    /// A new identifier.
    #[must_use]
    pub fn new_id(&self) -> String {
        self.shared.store().new_id()
    }

    /// Adds a prediction (not an execution of a workflow) to the delivery log. Returns the body of its webhook.
    #[expect(clippy::must_use_candidate, reason = "a caller may not need the body")]
    pub fn predict(&self, webhook_url: &str) -> Value {
        self.shared.store().predict(webhook_url)
    }

    /// Sends the webhook of an execution again, as an operator can in the dashboard of `each::labs`.
    pub fn redeliver(&self, execution_id: &str) {
        webhook::redeliver(&self.shared, execution_id);
    }

    /// Removes an execution and its deliveries, as retention does.
    pub fn remove(&self, execution_id: &str) {
        self.shared.store().remove(execution_id);
    }

    /// Removes the deliveries of an execution from the log.
    pub fn remove_deliveries(&self, execution_id: &str) {
        self.shared.store().remove_deliveries(execution_id);
    }

    /// Makes Get Execution answer 404 for an execution. The list and the delivery log still have it.
    pub fn hide(&self, execution_id: &str) {
        self.shared.store().hide(execution_id);
    }

    /// The body of an execution's webhook.
    #[must_use]
    pub fn body(&self, execution_id: &str) -> Option<Value> {
        self.shared.store().find(execution_id).map(|execution| execution.body.clone())
    }

    /// Waits until every webhook was acknowledged, or its last attempt failed.
    pub async fn deliveries_finished(&self) {
        let _ = self.shared.delivering.subscribe().wait_for(|delivering| *delivering == 0).await;
    }

    /// Answers every request to the API with this error status, until it is called with `None`.
    pub fn fail_with(&self, status: Option<u16>) {
        self.shared.outage.store(status.unwrap_or_default(), Ordering::Relaxed);
    }

    /// The number of requests to the API so far.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}
