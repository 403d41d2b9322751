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

use super::health;
use super::problem::{self, Problem};
use crate::health::Monitor;
pub(crate) use path::WEBHOOK_PATH;
pub(crate) use state::WebhookState;

/// A slash, or a slash and a token, may follow the path of webhooks. `health` is also served, if there is one
/// (`http.health`).
pub(crate) fn router(state: WebhookState, health: Option<Monitor>) -> Router {
    let metrics = state.metrics.clone();
    let health = health.map(health::public_routes).unwrap_or_default();
    Router::new()
        .route(WEBHOOK_PATH, post(handler::handle))
        .route(&format!("{WEBHOOK_PATH}/"), post(handler::handle))
        .route(path::WITH_TOKEN, post(handler::handle))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed { allowed: "Use POST." })
        .with_state(Arc::new(state))
        .merge(health)
        .fallback(async || Problem::NotFound { hint: "Send webhooks to /webhooks/workflow-completed." })
        .layer(CatchPanicLayer::custom(move |_| problem::panicked(&metrics)))
}
