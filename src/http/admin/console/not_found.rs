//! The answer to an unknown path.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::layout::{self, PageError, Tab};
use super::state::ConsoleState;
use super::view::View;
use crate::http::admin::auth::accepts_html;
use crate::http::problem::Problem;

/// A page for browsers, otherwise a problem document.
pub(super) async fn answer(State(_): ConsoleState, view: View, headers: HeaderMap) -> Response {
    if accepts_html(&headers) {
        return layout::page(&view, Tab::Other, "Not found", Err(PageError::NoPage));
    }
    Problem::NotFound { hint: "See /docs." }.into_response()
}
