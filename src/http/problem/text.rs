//! Status, type and text of each problem.

use std::borrow::Cow;

use axum::http::StatusCode;

use super::Problem;
use crate::db::queries::QueryError;
use crate::delivery::RejectReason;
use crate::execution::InvalidPayload;

impl Problem {
    /// The status, the last part of `type`, and `detail`.
    #[expect(clippy::too_many_lines, reason = "the list of all problems")]
    pub(in crate::http) fn parts(&self) -> (StatusCode, &'static str, Cow<'static, str>) {
        let (status, kind, detail): (_, _, Cow<'static, str>) = match self {
            Self::NotAnObject(error) => {
                let not_json = matches!(error, InvalidPayload::NotJson(_));
                let kind = if not_json { "not-json" } else { "not-an-object" };
                (400, kind, format!("{error}. Send the execution as a JSON object.").into())
            }
            Self::Interrupted => (400, "interrupted", "The body is incomplete. Send it again.".into()),
            Self::NotGzip => {
                let detail = "Content-Encoding is gzip, but the body is not valid gzip, has more than 16 members, or is larger than the \
                    decompressed body.";
                (400, "not-gzip", detail.into())
            }
            Self::Parameter { name, allowed } => {
                (400, "bad-parameter", format!("`{name}` {allowed}.").into())
            }
            Self::NotATriggerResponse(error) => {
                (400, "not-a-trigger-response", format!("The body cannot be registered: {error}.").into())
            }
            Self::AlreadyRegistered(conflict) => {
                (409, "already-registered", format!("Not registered: {conflict}.").into())
            }
            Self::RegistrationTooLarge { max_bytes } => {
                (413, "too-large", format!("The body is larger than {max_bytes} bytes.").into())
            }
            Self::NotJsonType => {
                (415, "not-json-type", "Send JSON with Content-Type: application/json.".into())
            }
            Self::Unauthenticated(_) => (
                401,
                "unauthenticated",
                "The sender is not authenticated. Trigger workflows with a webhook_secret of this receiver, or with \
                 a webhook_url that contains one of its tokens."
                    .into(),
            ),
            Self::NoToken => (
                401,
                "no-token",
                "Send admin.token or one of admin.tokens as Authorization: Bearer TOKEN, or log in at /login.".into(),
            ),
            Self::FromWebPage => (
                403,
                "from-web-page",
                "A web page may have made a browser send this request: it has no credentials, and it has an Origin \
                 header, a Sec-Fetch-Site header of another site, or a public host name. Authenticate senders with \
                 auth.url_tokens or auth.webhook_secrets."
                    .into(),
            ),
            Self::CrossSite => (
                403,
                "cross-site",
                "A web page may have sent this request: it has an Origin header, or a Sec-Fetch-Site header of another \
                 site. Send it with a program such as curl."
                    .into(),
            ),
            Self::NoApiKey => (
                409,
                "no-api-key",
                "The receiver has no key for the API of each::labs. Set eachlabs.api_key, and start it again.".into(),
            ),
            Self::ReadOnly => {
                (403, "read-only", "This token has the role read. Actions need the role operate.".into())
            }
            Self::NotFound { hint } => (404, "not-found", format!("Not found. {hint}").into()),
            Self::NotRecorded { kind } => {
                (404, "not-recorded", format!("There is no {kind} with this identifier.").into())
            }
            Self::MethodNotAllowed { allowed } => (405, "method-not-allowed", (*allowed).into()),
            Self::ChangesRemoved => (
                410,
                "changes-removed",
                "The change after this number is not stored: it was removed (retention.changes), or the number is \
                 higher than the last one. Reload the lists, then continue with after=latest."
                    .into(),
            ),
            Self::TooSlow => (
                408,
                "too-slow",
                "The body was not complete in time. http.body_timeout of the receiver sets this limit.".into(),
            ),
            Self::TooLarge { max_body_bytes } => (
                413,
                "too-large",
                format!(
                    "The body is larger than {max_body_bytes} bytes. http.max_body_bytes of the receiver sets this \
                     limit."
                )
                .into(),
            ),
            Self::UnknownEncoding => (
                415,
                "unknown-encoding",
                "The Content-Encoding is not supported. Send the body uncompressed or with gzip.".into(),
            ),
            Self::Misdirected => (
                421,
                "misdirected",
                "Without admin.token, use localhost or an IP address as the host name. Set admin.token to allow \
                 other names."
                    .into(),
            ),
            Self::NotAnExecution { error, is_stored } => {
                let stored = if *is_stored {
                    "it goes to quarantine if that is not full"
                } else {
                    "it is not stored, because it is unsigned"
                };
                (422, "no-execution", format!("{error}. The webhook cannot be recorded; {stored}.").into())
            }
            Self::Panicked => (
                500,
                "internal",
                "Internal error. Send the request again. If it fails again, report it to the operator of this \
                 receiver."
                    .into(),
            ),
            Self::Rejected(reason) => {
                let kind = match reason {
                    RejectReason::Overloaded => "busy",
                    RejectReason::SpoolFull => "spool-full",
                    RejectReason::DiskError => "spool-failing",
                    RejectReason::ShuttingDown => "stopping",
                    RejectReason::VerificationFull => "verification-full",
                };
                (503, kind, format!("Not acknowledged: {reason}. Send it again.").into())
            }
            Self::QueryError(error) => {
                let (kind, remedy) = match error {
                    QueryError::Busy => ("reading-busy", "Try again."),
                    QueryError::TimedOut => ("reading-slow", "Use a shorter period or a smaller limit."),
                    QueryError::Failed(_) => ("no-database", "Webhooks are still accepted. Try again."),
                };
                (503, kind, format!("The query failed: {error}. {remedy}").into())
            }
            Self::TooMany { kind } => (503, "too-many", format!("Too many {kind}. Try again later.").into()),
        };
        (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), kind, detail)
    }
}
