//! Every answer that is not a success: `application/problem+json` (RFC 9457), with a stable `type`
//! and a sentence that a person can act on. None quotes what was sent.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::intake::Refused;
use crate::metrics::Metrics;
use crate::payload::Unusable;

/// How long a sender should wait before it tries again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request was not answered with success.
#[derive(Debug)]
pub(super) enum Problem {
    /// 400: the body is not JSON, or not a JSON object.
    NotAnObject(Unusable),
    /// 400: the body did not come to its end.
    Interrupted,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 413
    TooLarge { max_body_bytes: usize },
    /// 422: a JSON object, but no execution. It is kept.
    Unusable(Unusable),
    /// 500: a bug.
    Panicked,
    /// 503: not kept, and the sender should try again.
    Refused(Refused),
}

#[derive(Serialize)]
struct Body {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: Cow<'static, str>,
}

impl Problem {
    /// The status, the end of the type, and what happened and what to do.
    fn parts(&self) -> (StatusCode, &'static str, Cow<'static, str>) {
        match self {
            Self::NotAnObject(why @ Unusable::NotJson(_)) => {
                (StatusCode::BAD_REQUEST, "not-json", format!("{why}. Send the execution as a JSON object.").into())
            }
            Self::NotAnObject(why) => {
                (StatusCode::BAD_REQUEST, "not-an-object", format!("{why}. Send the execution as a JSON object.").into())
            }
            Self::Interrupted => {
                (StatusCode::BAD_REQUEST, "interrupted", "The body ended before it was complete. Send it again.".into())
            }
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "not-found",
                format!("There is nothing here. Webhooks go to {}.", super::WEBHOOK_PATH).into(),
            ),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Webhooks are sent with POST.".into())
            }
            Self::TooLarge { max_body_bytes } => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                format!("The body is larger than {max_body_bytes} bytes. The receiver's http.max_body_bytes sets this limit.").into(),
            ),
            Self::Unusable(why) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "no-execution",
                format!("{why}: this cannot be recorded as an execution. It is kept in quarantine.").into(),
            ),
            Self::Panicked => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The receiver failed on this request. Send it again; if that fails too, tell its operator.".into(),
            ),
            Self::Refused(why) => {
                let kind = match why {
                    Refused::Busy => "busy",
                    Refused::Full => "spool-full",
                    Refused::Failing => "spool-failing",
                    Refused::Stopping => "stopping",
                };
                (StatusCode::SERVICE_UNAVAILABLE, kind, format!("Not kept: {why}. Send it again.").into())
            }
        }
    }
}

impl From<Refused> for Problem {
    fn from(why: Refused) -> Self {
        Self::Refused(why)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, kind, detail) = self.parts();
        let body = Body {
            r#type: format!("urn:workflow-receiver:problem:{kind}"),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail,
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(self, Self::Refused(_)) {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

/// The answer to a request that ended in a panic.
pub(super) fn panicked(metrics: &Metrics) -> Response {
    metrics.panicked();
    Problem::Panicked.into_response()
}
