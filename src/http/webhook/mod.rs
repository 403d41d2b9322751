//! The public port: webhooks.

mod body;
mod deadline;
pub(super) mod handler;
mod head;
mod path;
mod schema;
mod state;
mod trace;
mod unrouted;

use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::post;
use tower_http::catch_panic::CatchPanicLayer;

use super::{health, problem};
use crate::health::Monitor;
pub(crate) use path::WEBHOOK_PATH;
pub(crate) use state::WebhookState;
use unrouted::UnroutedRequests;

/// Serves webhooks. A slash, or a slash and a token, may follow their path. With `health` (`http.health`), also serves
/// `/health/live` and `/health/ready`.
pub(crate) fn router(state: WebhookState, health: Option<Monitor>) -> Router {
    let metrics = state.metrics.clone();
    let unrouted = Arc::new(UnroutedRequests::new(metrics.clone()));
    let also_unrouted = unrouted.clone();
    let health = health.map(health::public_routes).unwrap_or_default();
    Router::new()
        .route(WEBHOOK_PATH, post(handler::handle))
        .route(&format!("{WEBHOOK_PATH}/"), post(handler::handle))
        .route(path::WITH_TOKEN, post(handler::handle))
        .method_not_allowed_fallback(move || ready(also_unrouted.method_not_allowed()))
        .with_state(Arc::new(state))
        .merge(health)
        .fallback(move |method: Method, uri: Uri| ready(unrouted.not_found(&method, &uri)))
        .layer(CatchPanicLayer::custom(move |_| {
            metrics.answered(500);
            problem::panicked(&metrics)
        }))
}
