//! The admin port: health, metrics and the read API.

mod api;
pub(super) mod auth;
mod health;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use super::Limiter;
use super::problem::{self, Problem};
use super::server::activity;
use crate::credentials::Credentials;
use crate::db::queries::Pool;
use crate::health::Monitor;
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::recorder::events::EventBus;
use crate::spool::{IntakeDepth, SpoolStatus};

/// What the admin port needs.
#[derive(Clone)]
pub(crate) struct AdminState {
    pub(crate) requests: Arc<Limiter>,
    pub(crate) memory: MemoryBudget,
    pub(crate) intake: IntakeDepth,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) kept: watch::Receiver<SpoolStatus>,
    /// How the parts are.
    pub(crate) health: Monitor,
    /// Recording has ended: event streams are closed.
    pub(crate) closing: CancellationToken,
    /// Interval between comments on an event stream without events.
    pub(crate) heartbeat: Duration,
    /// The connections that operators' questions go over.
    pub(crate) pool: Arc<Pool>,
    /// What is recorded, as it happens.
    pub(crate) live: EventBus,
    /// Where the public port listens.
    pub(crate) webhook_port: u16,
    /// The token that requests have to carry, if any.
    pub(crate) credentials: Arc<Credentials>,
}

/// The admin port.
pub(crate) fn router(state: AdminState) -> Router {
    let (credentials, metrics) = (state.credentials.clone(), state.metrics.clone());
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .layer(middleware::from_fn_with_state(credentials.clone(), auth::ask_for_local_name))
        .with_state(state.clone())
        .merge(api::routes(state))
        .fallback(async || Problem::NotFound { there_is: "/docs shows what there is." })
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed {
            allowed: "Everything here is asked with GET.",
        })
        .layer(middleware::from_fn_with_state(credentials, auth::require_token))
        .layer(CatchPanicLayer::custom(move |_| problem::panicked(&metrics)))
        .layer(middleware::from_fn(activity::pace))
}
