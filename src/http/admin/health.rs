//! Readiness, with details.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::auth;
use super::state::AdminState;
use crate::http::health;

/// The details need a token or a session, if a token is set.
pub(super) async fn ready(State(admin): State<AdminState>, headers: HeaderMap) -> Response {
    let with_details = auth::identify(&admin, &headers).await.is_some();
    health::ready(&admin.health.health(), with_details)
}
