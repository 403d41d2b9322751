//! `/docs`: a page that shows `/openapi.json` and sends requests.
//!
//! The page loads nothing from other machines; its Content-Security-Policy allows none.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/docs", get(async || file("text/html; charset=utf-8", include_str!("docs/page.html"))))
        .route("/docs/page.css", get(async || file("text/css; charset=utf-8", include_str!("docs/page.css"))))
        .route(
            "/docs/page.js",
            get(async || file("text/javascript; charset=utf-8", include_str!("docs/page.js"))),
        )
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, POLICY)], text)
}
