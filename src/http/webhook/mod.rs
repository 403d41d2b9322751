//! The public port: webhooks.

mod body;
pub(super) mod handler;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use tower_http::catch_panic::CatchPanicLayer;

use super::Limiter;
use super::problem::{self, Problem};
use crate::credentials::Credentials;
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::spool::SpoolHandle;
use crate::traces::Traces;

/// Where the sender posts.
pub(crate) const WEBHOOK_PATH: &str = "/webhooks/workflow-completed";
/// The same, with a token in it.
const WITH_TOKEN: &str = "/webhooks/workflow-completed/{token}";

/// What the public port needs.
pub(crate) struct WebhookState {
    pub(crate) intake: SpoolHandle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) requests: Arc<Limiter>,
    pub(crate) memory: MemoryBudget,
    pub(crate) max_body_bytes: usize,
    pub(crate) body_timeout: Duration,
    /// `None` when traces are off.
    pub(crate) traces: Option<Traces>,
}

/// The public port. Behind the path there may be a token, or a slash that was not meant.
pub(crate) fn router(state: WebhookState) -> Router {
    let metrics = state.metrics.clone();
    Router::new()
        .route(WEBHOOK_PATH, post(handler::handle))
        .route(&format!("{WEBHOOK_PATH}/"), post(handler::handle))
        .route(WITH_TOKEN, post(handler::handle))
        .fallback(async || Problem::NotFound { there_is: "Webhooks go to /webhooks/workflow-completed." })
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed {
            allowed: "Webhooks are sent with POST.",
        })
        .layer(CatchPanicLayer::custom(move |_| problem::panicked(&metrics)))
        .with_state(Arc::new(state))
}
