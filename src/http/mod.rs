//! The two doors: webhooks on the public port, health and metrics on the admin port.

mod admin;
mod problem;
mod receive;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;

use crate::intake::{Intake, IntakeDepth};
use crate::metrics::Metrics;
use crate::recorder::Recording;
use crate::spool::Kept;
use problem::Problem;

/// Where the sender posts.
pub(crate) const WEBHOOK_PATH: &str = "/webhooks/workflow-completed";

/// What the public port needs.
pub(crate) struct Door {
    pub(crate) intake: Intake,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) max_body_bytes: usize,
}

/// The public port.
pub(crate) fn public(door: Door) -> Router {
    let metrics = door.metrics.clone();
    Router::new()
        .route(WEBHOOK_PATH, post(receive::receive))
        .fallback(async || Problem::NotFound)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(CatchPanicLayer::custom(move |_| problem::panicked(&metrics)))
        .with_state(Arc::new(door))
}

/// What the admin port needs.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) intake: IntakeDepth,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) kept: watch::Receiver<Kept>,
    pub(crate) recording: watch::Receiver<Recording>,
    pub(crate) stopping: tokio_util::sync::CancellationToken,
}

/// The admin port.
pub(crate) fn admin(admin: Admin) -> Router {
    Router::new()
        .route("/health/live", get(admin::live))
        .route("/health/ready", get(admin::ready))
        .route("/metrics", get(admin::metrics))
        .fallback(async || Problem::NotFound)
        .with_state(admin)
}
