//! The admin port: health, metrics, the API and the console.

mod api;
mod auth;
mod console;
mod feed;
mod health;
mod metrics;
mod sessions;
mod state;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;

use super::health::health_routes;
use super::problem::{self, Problem};
use super::server::activity;
pub(crate) use feed::Feed;
pub(crate) use state::AdminState;

pub(crate) fn router(state: AdminState) -> Router {
    let counters = state.metrics.clone();
    let accepted = (state.credentials.clone(), auth::HOSTS_WITHOUT_DOMAIN);
    let reject_public_host = middleware::from_fn_with_state(accepted, auth::check_host);
    let console::Routes { pages, not_found, login } = console::routes(state.clone());
    // Load balancers send no token.
    let health = health_routes(health::ready).layer(reject_public_host.clone()).with_state(state.clone());
    Router::new()
        .route("/metrics", get(metrics::metrics))
        .layer(reject_public_host)
        .with_state(state.clone())
        .merge(api::routes(state.clone()))
        .merge(pages)
        .fallback_service(not_found)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed {
            allowed: "See /docs for the methods of this path.",
        })
        .layer(middleware::from_fn_with_state(state, auth::require_token))
        .merge(health)
        .merge(login)
        .layer(CatchPanicLayer::custom(move |_| problem::panicked(&counters)))
        .layer(middleware::from_fn(activity::track_response))
}
