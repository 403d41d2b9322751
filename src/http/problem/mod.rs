//! Error responses: `application/problem+json` (RFC 9457) with a stable `type`. They quote nothing of the request, except the
//! name of an unknown parameter.

mod responses;
mod text;

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::AuthError;
use crate::db::RegistrationConflict;
use crate::db::queries::QueryError;
use crate::delivery::RejectReason;
use crate::execution::InvalidPayload;
use crate::metrics::Metrics;
use crate::trigger::InvalidResponse;

pub(super) use responses::{
    ApiProblems, DetailProblems, FeedProblems, ReconcileProblems, RegistrationProblems, WebhookProblems,
};

/// Seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

// Values of `WWW-Authenticate`, which is mandatory in a 401.
const SIGNATURE: HeaderValue = HeaderValue::from_static("Webhook-Signature");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");
/// Makes browsers prompt for the password.
const BASIC: HeaderValue = HeaderValue::from_static(r#"Basic realm="workflow-receiver", charset="UTF-8""#);
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Problem {
    /// 400: the body is not JSON, or neither a JSON object nor an array of objects.
    NotAnObject(InvalidPayload),
    /// 400: the connection ended within the body.
    Interrupted,
    /// 400: the body is not gzip, although `Content-Encoding` is.
    NotGzip,
    /// 400: an invalid parameter of the query or the path.
    Parameter {
        name: Cow<'static, str>,
        /// The rest of the sentence after the name, such as "must be …".
        allowed: String,
    },
    /// 400: the body cannot be registered. The text quotes no value of it.
    NotATriggerResponse(InvalidResponse),
    /// 409: another response is registered.
    AlreadyRegistered(RegistrationConflict),
    /// 401 on the public port. The response is the same for every [`AuthError`].
    Unauthenticated(AuthError),
    /// 401 on the admin port.
    NoToken,
    /// 403: a web page may have sent the request to the admin port.
    CrossSite,
    /// 403: the webhook has no credentials, and a web page may have sent it.
    FromWebPage,
    /// 403 on the admin port: the token has the role `read`.
    ReadOnly,
    /// 404: no such path.
    NotFound { hint: &'static str },
    /// 404: no such row. `kind` is "execution", for example.
    NotRecorded { kind: &'static str },
    /// 409: `eachlabs.api_key` is not set.
    NoApiKey,
    /// 410: the change after the given number is not stored.
    ChangesRemoved,
    /// 405
    MethodNotAllowed { allowed: &'static str },
    /// 408: the body was not complete within `http.body_timeout`.
    TooSlow,
    /// 413
    TooLarge { max_body_bytes: usize },
    /// 413 on the admin port.
    RegistrationTooLarge { max_bytes: usize },
    /// 415 on the admin port: the `Content-Type` is not `application/json`.
    NotJsonType,
    /// 415: an unknown `Content-Encoding`.
    UnknownEncoding,
    /// 421: no token of the admin port is set, and `Host` is not `localhost`, an IP address or, for health and metrics, a name
    /// without a dot.
    Misdirected,
    /// 422: JSON that is neither an execution nor a prediction. An unverified delivery is not stored; others go to
    /// quarantine.
    NotAnExecution { error: InvalidPayload, is_stored: bool },
    /// 500: a bug.
    Panicked,
    /// 503: the delivery is not on disk; the sender should retry.
    Rejected(RejectReason),
    /// 503: a query failed, timed out, or found no free connection.
    QueryError(QueryError),
    /// 503: the limit of event streams or exports is reached.
    TooMany { kind: &'static str },
}

/// Why a request failed (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// A stable name of the problem: `urn:workflow-receiver:problem:…`.
    r#type: String,
    /// The HTTP status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong and what to do.
    detail: Cow<'static, str>,
    /// The name of the invalid parameter, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<Cow<'static, str>>,
}

impl Problem {
    /// An invalid parameter. `allowed` completes the sentence that begins with its name.
    pub(super) fn parameter(name: impl Into<Cow<'static, str>>, allowed: impl Into<String>) -> Self {
        Self::Parameter { name: name.into(), allowed: allowed.into() }
    }

    fn body(&self) -> (StatusCode, ProblemBody) {
        let (status, kind, detail) = self.parts();
        let body = ProblemBody {
            r#type: format!("urn:workflow-receiver:problem:{kind}"),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail,
            parameter: if let Self::Parameter { name, .. } = self { Some(name.clone()) } else { None },
        };
        (status, body)
    }

    /// The last part of `type`, such as `not-json`.
    pub(super) fn kind(&self) -> &'static str {
        self.parts().1
    }
}

impl From<RejectReason> for Problem {
    fn from(reason: RejectReason) -> Self {
        Self::Rejected(reason)
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        Self::Unauthenticated(error)
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        Self::QueryError(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, body) = self.body();
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self {
            Self::Rejected(_) | Self::QueryError(_) | Self::TooMany { .. } => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            Self::Unauthenticated(_) => {
                headers.insert(header::WWW_AUTHENTICATE, SIGNATURE);
            }
            Self::NoToken => {
                headers.insert(header::WWW_AUTHENTICATE, BEARER);
                headers.append(header::WWW_AUTHENTICATE, BASIC);
            }
            Self::UnknownEncoding => {
                headers.insert(header::ACCEPT_ENCODING, GZIP);
            }
            _ => {}
        }
        response
    }
}

/// The response to a request whose handler panicked.
pub(super) fn panicked(metrics: &Metrics) -> Response {
    metrics.panicked();
    Problem::Panicked.into_response()
}
