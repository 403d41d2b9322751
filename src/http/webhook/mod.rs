//! The public port: webhooks.

mod body;
mod deadline;
pub(super) mod handler;
mod head;
mod path;
mod schema;
mod state;
mod trace;

use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use tower_http::catch_panic::CatchPanicLayer;

use super::problem::{self, Problem};
pub(crate) use path::WEBHOOK_PATH;
pub(crate) use state::WebhookState;

/// A slash, or a slash and a token, may follow the path.
pub(crate) fn router(state: WebhookState) -> Router {
    let metrics = state.metrics.clone();
    Router::new()
        .route(WEBHOOK_PATH, post(handler::handle))
        .route(&format!("{WEBHOOK_PATH}/"), post(handler::handle))
        .route(path::WITH_TOKEN, post(handler::handle))
        .fallback(async || Problem::NotFound { hint: "Send webhooks to /webhooks/workflow-completed." })
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed { allowed: "Use POST." })
        .layer(CatchPanicLayer::custom(move |_| problem::panicked(&metrics)))
        .with_state(Arc::new(state))
}
