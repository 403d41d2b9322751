//! Health and metrics.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

use super::state::AdminState;
use crate::metrics::Levels;

/// Always 200.
pub(super) async fn live() -> impl IntoResponse {
    Json(serde_json::json!({ "status": "ok" }))
}

/// 200 while webhooks are accepted, with or without PostgreSQL; 503 otherwise.
pub(super) async fn ready(State(admin): State<AdminState>) -> impl IntoResponse {
    let health = admin.health.health();
    let code = if health.accepts_webhooks() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(health))
}

/// All metrics in the OpenMetrics format.
pub(super) async fn metrics(State(admin): State<AdminState>) -> impl IntoResponse {
    let spool = *admin.spool.borrow();
    let health = admin.health.health();
    let levels = Levels {
        requests_in_flight: admin.requests.in_use(),
        requests_receiving_body: admin.requests.waiting_on_peer(),
        body_memory: admin.memory.reserved(),
        intake_depth: admin.intake.get(),
        spool_depth: spool.depth(),
        spool_bytes: spool.bytes,
        spool_wal_bytes: spool.wal_bytes,
        spool_oldest_received_at: spool.oldest_received_at,
        event_listeners: admin.feed.subscribers(),
        ready: health.accepts_webhooks(),
        recording_stalled: health.parts.recording.stalled(),
        stuck: health.parts.recording.stuck,
        stuck_oldest_received_at: admin.health.oldest_stuck(),
    };
    let page = admin.metrics.render(&levels);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page)
}
