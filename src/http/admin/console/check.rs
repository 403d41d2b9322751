//! Checks of the forms of actions: the role `operate`, and the form key of the operator.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};

use super::form::{self, FormData};
use super::layout::{PageError, Tab, page};
use super::state::Console;
use super::view::View;
use crate::auth::Operator;

/// The largest form, in bytes.
const MAX_FORM: usize = 1 << 20;

/// Reads the form of a POST request for [`FormData`].
pub(super) async fn read_form(mut request: Request, next: Next) -> Response {
    if request.method() == Method::POST {
        let body = std::mem::replace(request.body_mut(), Body::empty());
        let Ok(body) = Limited::new(body, MAX_FORM).collect().await else {
            return (StatusCode::PAYLOAD_TOO_LARGE, "The form is too large or incomplete.").into_response();
        };
        request.extensions_mut().insert(FormData::parse(&body.to_bytes()));
    }
    next.run(request).await
}

/// Rejects a POST request without the role `operate` or without the form key of its operator.
pub(super) async fn check_form(
    State(console): State<Arc<Console>>,
    request: Request,
    next: Next,
) -> Response {
    if *request.method() == Method::GET || *request.method() == Method::HEAD {
        return next.run(request).await;
    }
    match rejection(&request) {
        None => next.run(request).await,
        Some(why) => {
            let (mut parts, _) = request.into_parts();
            let Ok(view) = View::from_request_parts(&mut parts, &console).await;
            page(&view, Tab::Overview, "Not done", Err(PageError::Rejected(why)))
        }
    }
}

/// Why a form is rejected.
fn rejection(request: &Request) -> Option<&'static str> {
    let operator = request.extensions().get::<Operator>();
    let form_key = request.extensions().get::<FormData>().map_or("", |fields| fields.get(form::KEY));
    if !operator.is_some_and(|operator| operator.owns_form(form_key)) {
        return Some(
            "The form is out of date: the session has changed, or another web page sent it. Go back, reload the page and \
             try again.",
        );
    }
    // Each operator may log out.
    let allowed = request.uri().path() == "/logout" || operator.is_some_and(Operator::may_operate);
    (!allowed).then_some(form::READ_ONLY)
}
