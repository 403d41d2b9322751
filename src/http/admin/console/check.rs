//! Checks of the forms of actions: the role `operate`, and the form key of the operator.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};

use super::form::{self, FormData};
use super::layout::{PageError, Tab, page};
use super::state::Console;
use super::view::View;

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
    State(_): State<Arc<Console>>,
    view: View,
    request: Request,
    next: Next,
) -> Response {
    if *request.method() == Method::GET || *request.method() == Method::HEAD {
        return next.run(request).await;
    }
    let fields = request.extensions().get::<FormData>().cloned().unwrap_or_default();
    if !view.operator.owns_form(fields.get(form::KEY)) {
        return page(
            &view,
            Tab::Overview,
            "Not done",
            Err(PageError::Refused(
                "The form is out of date: the session has changed, or another web page sent it. Go back, reload the page and \
             try again.",
            )),
        );
    }
    // Each operator may log out.
    if !view.operator.may_operate() && request.uri().path() != "/logout" {
        let why = "Your token has the role read. Actions need the role operate.";
        return page(&view, Tab::Overview, "Not done", Err(PageError::Refused(why)));
    }
    next.run(request).await
}
