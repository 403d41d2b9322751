//! What a page knows about its request, and the security headers of all pages.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use super::state::Console;

/// Extractor for the handlers of pages.
pub(super) struct View {
    /// The path and query.
    pub(super) uri: Uri,
    /// `ok`, `degraded` or `unavailable`, for the header.
    pub(super) health: &'static str,
}

impl FromRequestParts<Arc<Console>> for View {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self, Infallible> {
        let health = console.admin.health.health().status();
        Ok(Self { uri: parts.uri.clone(), health })
    }
}

/// Adds the security headers to a page.
pub(super) async fn secure(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let _ = &console;
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(header::CACHE_CONTROL, "no-store");
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    );
    response
}
