//! The routes `/health/live` and `/health/ready` of both ports.

use axum::extract::State;
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::problem::Problem;
use crate::health::{Health, Monitor};

/// `ready` is the handler of `/health/ready`.
pub(super) fn health_routes<S, H, T>(ready: H) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    H: Handler<T, S>,
    T: 'static,
{
    Router::new()
        .route("/health/live", get(async || Json(StatusOnly { status: "ok" })))
        .route("/health/ready", get(ready))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed { allowed: "Use GET." })
}

/// The routes of the public port, without details.
pub(super) fn public_routes(health: Monitor) -> Router {
    health_routes(async |State(health): State<Monitor>| ready(&health.health(), false)).with_state(health)
}

/// [`Health`] without details.
#[derive(Serialize)]
struct StatusOnly {
    status: &'static str,
}

/// 200 while the receiver is ready ([`Health::is_ready`]), otherwise 503.
pub(super) fn ready(health: &Health, with_details: bool) -> Response {
    let code = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if with_details {
        (code, Json(health)).into_response()
    } else {
        (code, Json(StatusOnly { status: health.status() })).into_response()
    }
}
