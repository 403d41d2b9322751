//! The two doors: webhooks on the public port; health, metrics and what is recorded on the admin port.

mod admin;
mod api;
mod body;
mod operators;
mod pace;
mod problem;
mod receive;
mod server;
mod slots;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::credentials::Credentials;
use crate::health::Monitor;
use crate::intake::{IntakeDepth, SpoolHandle};
use crate::live::EventBus;
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::reading::Pool;
use crate::spool::SpoolStatus;
use crate::traces::Traces;
use problem::Problem;
pub(crate) use server::{ConnectionLimits, serve};
#[cfg(fuzzing)]
pub(crate) use server::{connection, protocol};
pub(crate) use slots::Limiter;

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
pub(crate) fn public(door: WebhookState) -> Router {
    let metrics = door.metrics.clone();
    Router::new()
        .route(WEBHOOK_PATH, post(receive::handle))
        .route(&format!("{WEBHOOK_PATH}/"), post(receive::handle))
        .route(WITH_TOKEN, post(receive::handle))
        .fallback(async || Problem::NotFound { there_is: "Webhooks go to /webhooks/workflow-completed." })
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed {
            allowed: "Webhooks are sent with POST.",
        })
        .layer(CatchPanicLayer::custom(move |_| problem::panicked(&metrics)))
        .with_state(Arc::new(door))
}

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
pub(crate) fn admin(admin: AdminState) -> Router {
    let (credentials, metrics) = (admin.credentials.clone(), admin.metrics.clone());
    Router::new()
        .route("/health/live", get(admin::live))
        .route("/health/ready", get(admin::ready))
        .route("/metrics", get(admin::metrics))
        .layer(middleware::from_fn_with_state(credentials.clone(), operators::ask_for_local_name))
        .with_state(admin.clone())
        .merge(api::routes(admin))
        .fallback(async || Problem::NotFound { there_is: "/docs shows what there is." })
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed {
            allowed: "Everything here is asked with GET.",
        })
        .layer(middleware::from_fn_with_state(credentials, operators::require_token))
        .layer(CatchPanicLayer::custom(move |_| problem::panicked(&metrics)))
        .layer(middleware::from_fn(pace::pace))
}
