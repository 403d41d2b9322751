//! The admin port: health and metrics.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

use super::Admin;
use crate::metrics::Levels;
use crate::recorder::Recording;

/// The answer to `/health/ready`.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`: all is well; `degraded`: webhooks are taken, but see `problems`; `unavailable`: they are not.
    status: &'static str,
    /// What is wrong, a sentence each.
    problems: Vec<String>,
    /// Deliveries on disk that wait for PostgreSQL.
    spooled: i64,
}

/// 200 as long as the process answers.
pub(super) async fn live() -> impl IntoResponse {
    Json(serde_json::json!({ "status": "ok" }))
}

/// 200 while webhooks are taken, with PostgreSQL or without; 503 otherwise.
pub(super) async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let (code, health) = health(&admin);
    (code, Json(health))
}

/// How the receiver is, and the status that says so.
pub(super) fn health(admin: &Admin) -> (StatusCode, Health) {
    let kept = *admin.kept.borrow();
    let refusing = kept.refusing.map(|why| format!("webhooks are answered 503: {why}"));
    let stopping = admin.stopping.is_cancelled().then(|| "the receiver is stopping".to_owned());
    let recording = match &*admin.recording.borrow() {
        Recording::Failing { since, why } => {
            let since = since.truncate_to_second().format(&Rfc3339).unwrap_or_default();
            Some(format!("not recording since {since}: {why}"))
        }
        Recording::Starting => Some("PostgreSQL has not answered yet".to_owned()),
        Recording::Working => None,
    };
    let unavailable = refusing.is_some() || stopping.is_some();
    let problems: Vec<_> = [refusing, stopping, recording].into_iter().flatten().collect();
    let (code, status) = match (unavailable, problems.is_empty()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (false, false) => (StatusCode::OK, "degraded"),
        (false, true) => (StatusCode::OK, "ok"),
    };
    (code, Health { status, problems, spooled: kept.depth() })
}

/// All metrics, as Prometheus reads them.
pub(super) async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let kept = *admin.kept.borrow();
    let levels = Levels {
        requests_in_hand: admin.requests.taken(),
        requests_reading: admin.requests.slow(),
        body_memory: admin.memory.reserved(),
        intake_depth: admin.intake.get(),
        event_listeners: admin.live.listeners(),
    };
    let page = admin.metrics.render(&levels, &kept);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page)
}
