//! Every answer that is not a success: `application/problem+json` (RFC 9457), with a stable `type`
//! and a sentence that a person can act on. None quotes what was sent.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::auth::Refusal;
use crate::intake::Refused;
use crate::metrics::Metrics;
use crate::payload::Unusable;

/// How long a sender should wait before it tries again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A 401 has to name a scheme.
const SCHEME: HeaderValue = HeaderValue::from_static("Webhook-Signature");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Why a request was not answered with success.
#[derive(Debug)]
pub(super) enum Problem {
    /// 400: the body is not JSON, or not a JSON object.
    NotAnObject(Unusable),
    /// 400: the body did not come to its end.
    Interrupted,
    /// 400: the body is not the gzip that it says.
    NotGzip,
    /// 401: nothing of it is kept. The answer is the same whatever is wrong.
    Unauthenticated(Refusal),
    /// 401, on the admin port.
    NoToken,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 408: the body did not come in time.
    TooSlow,
    /// 413
    TooLarge { max_body_bytes: usize },
    /// 415: the body is compressed in a way that is not known.
    UnknownEncoding,
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
            Self::NotGzip => {
                (StatusCode::BAD_REQUEST, "not-gzip", "The body is not the gzip that Content-Encoding says.".into())
            }
            Self::Unauthenticated(_) => (
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "This does not come from a sender that the receiver knows. Trigger workflows with the \
                 webhook_secret, or the webhook_url with the token, that the receiver is set up with."
                    .into(),
            ),
            Self::NoToken => (
                StatusCode::UNAUTHORIZED,
                "no-token",
                "Send the receiver's admin.token: Authorization: Bearer TOKEN.".into(),
            ),
            Self::TooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                "too-slow",
                "The body did not come in time. The receiver's http.body_timeout sets this limit.".into(),
            ),
            Self::UnknownEncoding => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unknown-encoding",
                "The body is compressed in a way that is not known here. Send it plain, or with gzip.".into(),
            ),
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
                format!("{why}: this cannot be recorded as an execution. It is put into quarantine, as long as that has room.").into(),
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

impl From<Refusal> for Problem {
    fn from(why: Refusal) -> Self {
        Self::Unauthenticated(why)
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
        match self {
            Self::Refused(_) => drop(headers.insert(header::RETRY_AFTER, RETRY_AFTER)),
            Self::Unauthenticated(_) => drop(headers.insert(header::WWW_AUTHENTICATE, SCHEME)),
            Self::NoToken => drop(headers.insert(header::WWW_AUTHENTICATE, BEARER)),
            Self::UnknownEncoding => drop(headers.insert(header::ACCEPT_ENCODING, GZIP)),
            _ => {}
        }
        response
    }
}

/// The answer to a request that ended in a panic.
pub(super) fn panicked(metrics: &Metrics) -> Response {
    metrics.panicked();
    Problem::Panicked.into_response()
}
