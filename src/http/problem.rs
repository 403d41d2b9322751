//! Every answer that is not a success: `application/problem+json` (RFC 9457), with a stable `type`
//! and a sentence that a person can act on. None quotes what was sent.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::AuthError;
use crate::db::queries::QueryError;
use crate::delivery::RejectReason;
use crate::execution::InvalidPayload;
use crate::metrics::Metrics;

/// How long a sender should wait before it tries again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A 401 has to name a scheme.
const SCHEME: HeaderValue = HeaderValue::from_static("Webhook-Signature");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");
/// For browsers, which ask for it.
const BASIC: HeaderValue = HeaderValue::from_static(r#"Basic realm="workflow-receiver", charset="UTF-8""#);
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Why a request was not answered with success.
#[derive(Debug)]
pub(super) enum Problem {
    /// 400: the body is not JSON, or not a JSON object.
    NotAnObject(InvalidPayload),
    /// 400: the body did not come to its end.
    Interrupted,
    /// 400: the body is not the gzip that it says.
    NotGzip,
    /// 400: a parameter of the query, or the path, is not as it may be.
    Parameter {
        /// The parameter; `None` for one that is not known.
        name: Option<&'static str>,
        /// What it may be, completing the sentence "`name` …".
        allowed: String,
    },
    /// 401: nothing of it is kept. The answer is the same whatever is wrong.
    Unauthenticated(AuthError),
    /// 401, on the admin port.
    NoToken,
    /// 403: a web page may have sent it, and nothing authenticates senders.
    FromWebPage,
    /// 404, with what there is.
    NotFound { there_is: &'static str },
    /// 404: no such thing is recorded.
    NotRecorded { what: &'static str },
    /// 405, with what is allowed.
    MethodNotAllowed { allowed: &'static str },
    /// 408: the body did not come in time.
    TooSlow,
    /// 413
    TooLarge { max_body_bytes: usize },
    /// 415: the body is compressed in a way that is not known.
    UnknownEncoding,
    /// 421: a name that the receiver does not know itself by, where nobody has to show a token.
    Misdirected,
    /// 422: a JSON object, but no execution. It is kept.
    Unusable(InvalidPayload),
    /// 500: a bug.
    Panicked,
    /// 503: not kept, and the sender should try again.
    Refused(RejectReason),
    /// 503: PostgreSQL did not answer.
    QueryError(QueryError),
    /// 503: as many follow what happens, or export, as may.
    TooMany { what: &'static str },
}

/// Why a request was not answered with success (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Body {
    /// A stable name for what is wrong: `urn:workflow-receiver:problem:…`.
    r#type: String,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong, and what to do.
    detail: Cow<'static, str>,
    /// The parameter that is not as it may be, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'static str>,
}

impl Problem {
    /// The end of its type, such as `not-json`.
    pub(super) fn kind(&self) -> &'static str {
        self.parts().1
    }

    /// The status, the end of the type, and what happened and what to do.
    fn parts(&self) -> (StatusCode, &'static str, Cow<'static, str>) {
        match self {
            Self::NotAnObject(why @ InvalidPayload::NotJson(_)) => {
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
            Self::Parameter { name, allowed } => {
                let subject = name.map(|name| format!("`{name}` ")).unwrap_or_default();
                (StatusCode::BAD_REQUEST, "bad-parameter", format!("{subject}{allowed}.").into())
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
                "Send the receiver's admin.token: Authorization: Bearer TOKEN, or as the password in a browser.".into(),
            ),
            Self::FromWebPage => (
                StatusCode::FORBIDDEN,
                "from-web-page",
                "Webhooks are not authenticated here, so none is taken that a browser may have sent for a web page: it \
                 has an Origin, or was sent to a name that is not local. Set auth.url_tokens or \
                 auth.webhook_secrets to authenticate senders."
                    .into(),
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
            Self::Misdirected => (
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                "Without admin.token, the admin port answers under localhost or an IP address only. Set admin.token to \
                 use another name."
                    .into(),
            ),
            Self::NotFound { there_is } => {
                (StatusCode::NOT_FOUND, "not-found", format!("There is nothing here. {there_is}").into())
            }
            Self::NotRecorded { what } => {
                (StatusCode::NOT_FOUND, "not-recorded", format!("No {what} with this identifier is recorded.").into())
            }
            Self::MethodNotAllowed { allowed } => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", (*allowed).into())
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
                    RejectReason::Overloaded => "busy",
                    RejectReason::SpoolFull => "spool-full",
                    RejectReason::DiskError => "spool-failing",
                    RejectReason::ShuttingDown => "stopping",
                };
                (StatusCode::SERVICE_UNAVAILABLE, kind, format!("Not kept: {why}. Send it again.").into())
            }
            Self::QueryError(why) => {
                let (kind, what_to_do) = match why {
                    QueryError::Busy => ("reading-busy", "Ask again."),
                    QueryError::TimedOut => ("reading-slow", "Ask about less: a shorter time, or a smaller limit."),
                    QueryError::Failed(_) => ("no-database", "Webhooks are taken meanwhile. Ask again."),
                };
                (StatusCode::SERVICE_UNAVAILABLE, kind, format!("No answer: {why}. {what_to_do}").into())
            }
            Self::TooMany { what } => {
                (StatusCode::SERVICE_UNAVAILABLE, "too-many", format!("There are as many {what} as may be. Ask again later.").into())
            }
        }
    }
}

impl From<RejectReason> for Problem {
    fn from(why: RejectReason) -> Self {
        Self::Refused(why)
    }
}

impl From<AuthError> for Problem {
    fn from(why: AuthError) -> Self {
        Self::Unauthenticated(why)
    }
}

impl From<QueryError> for Problem {
    fn from(why: QueryError) -> Self {
        Self::QueryError(why)
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
            parameter: if let Self::Parameter { name, .. } = self { name } else { None },
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self {
            Self::Refused(_) | Self::QueryError(_) | Self::TooMany { .. } => {
                drop(headers.insert(header::RETRY_AFTER, RETRY_AFTER));
            }
            Self::Unauthenticated(_) => drop(headers.insert(header::WWW_AUTHENTICATE, SCHEME)),
            Self::NoToken => {
                headers.insert(header::WWW_AUTHENTICATE, BEARER);
                headers.append(header::WWW_AUTHENTICATE, BASIC);
            }
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
