//! Errors of the API. No text contains the key, or another secret of the request.

use std::error::Error;

use hyper::StatusCode;
use hyper_util::client::legacy;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::config::Secret;
use crate::logging::printable;
use crate::metrics::ApiResult;

/// The longest text of the API in an error, in characters.
const MAX_TEXT: usize = 200;

/// Why a request to the API failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiError {
    /// The connection failed or ended before the response.
    #[error("each::labs cannot be reached: {reason}")]
    Unreachable {
        reason: String,
        /// No byte of the request was sent.
        not_sent: bool,
    },
    #[error(
        "the certificate of eachlabs.base_url is not trusted ({reason}): check eachlabs.base_url, or set SSL_CERT_FILE to \
         a file with the certificates of the trusted authorities"
    )]
    Untrusted { reason: String },
    #[error("each::labs did not answer within eachlabs.timeout")]
    TimedOut,
    #[error("{} (HTTP {status}): check eachlabs.api_key and eachlabs.base_url{text}", denied(*status))]
    Denied { status: u16, text: String },
    #[error("each::labs answered HTTP {status}{text}")]
    Status {
        status: u16,
        text: String,
        /// The body is a JSON object with the text `error`, as the API documents it. The page of a proxy is not.
        is_documented: bool,
    },
    /// The response is larger than the limit.
    #[error("the response of each::labs is larger than {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("the response of each::labs is not the documented JSON: {0}")]
    Malformed(&'static str),
    /// The older host lacks the call.
    #[error(
        "eachlabs.base_url is the older host, which has no {0}: set eachlabs.base_url to the current host"
    )]
    Unsupported(&'static str),
}

impl ApiError {
    pub(super) fn from_client(error: &legacy::Error) -> Self {
        Self::unreachable(error, error.is_connect())
    }

    /// The connection ended, or the response broke off.
    pub(super) fn interrupted(error: &(dyn Error + 'static)) -> Self {
        Self::unreachable(error, false)
    }

    fn unreachable(error: &(dyn Error + 'static), not_sent: bool) -> Self {
        // The last cause is the specific one, such as "Connection refused".
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let reason = printable(&cause.to_string());
        // Recognized by the text, because rustls is not a direct dependency.
        match reason.strip_prefix("invalid peer certificate: ") {
            Some(reason) => Self::Untrusted { reason: reason.to_owned() },
            None => Self::Unreachable { reason, not_sent },
        }
    }

    /// Describes a response that is not 2xx. `body` may contain the key and `secrets`.
    pub(super) fn from_status(
        status: StatusCode,
        body: &[u8],
        key: &Secret,
        secrets: &[SecretString],
    ) -> Self {
        let body: Value = serde_json::from_str(&String::from_utf8_lossy(body)).unwrap_or_default();
        let sentence = |name| body.get(name).and_then(Value::as_str);
        let sentences: Vec<_> = ["error", "message", "details"].into_iter().filter_map(sentence).collect();
        let mut text = String::new();
        if !sentences.is_empty() {
            let without_key = sentences.join("; ").replace(key.expose_secret(), "(key)");
            let hide = |text: String, secret: &SecretString| text.replace(secret.expose_secret(), "(secret)");
            let printable = printable(&secrets.iter().fold(without_key, hide));
            text = format!(": {}", printable.chars().take(MAX_TEXT).collect::<String>());
        }
        match status.as_u16() {
            status @ (401 | 403) => Self::Denied { status, text },
            status => Self::Status { status, text, is_documented: sentence("error").is_some() },
        }
    }

    /// A 404 of a proxy does not count: it is not about the execution.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404, is_documented: true, .. })
    }

    /// Whether the request itself is the cause: the API is available, and other requests may succeed.
    pub(crate) fn is_about_the_request(&self) -> bool {
        match self {
            Self::Status { status: 404, is_documented, .. } => *is_documented,
            Self::Status { status, .. } => matches!(status, 400 | 405 | 410 | 414 | 422),
            // A proxy or an outage can also cause an unusable response.
            Self::TooLarge { .. }
            | Self::Malformed(_)
            | Self::Unsupported(_)
            | Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::TimedOut
            | Self::Denied { .. } => false,
        }
    }

    /// Whether the same request may succeed later.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }

    /// Whether `each::labs` has certainly not processed the request.
    pub(super) fn is_unprocessed(&self) -> bool {
        matches!(self, Self::Unreachable { not_sent: true, .. } | Self::Status { status: 429, .. })
    }

    pub(super) fn result(&self) -> ApiResult {
        match self {
            Self::Unreachable { .. } | Self::Untrusted { .. } | Self::TimedOut => ApiResult::Unreachable,
            Self::Denied { .. } => ApiResult::Denied,
            Self::Status { status: 404, .. } => ApiResult::NotFound,
            Self::Status { status: 429, .. } => ApiResult::Throttled,
            Self::Status { status: 500..=599, .. } => ApiResult::Failed,
            Self::Status { .. } | Self::Unsupported(_) => ApiResult::Rejected,
            Self::TooLarge { .. } | Self::Malformed(_) => ApiResult::Unusable,
        }
    }
}

/// What happened, for the text of [`ApiError::Denied`].
fn denied(status: u16) -> &'static str {
    match status {
        401 => "each::labs rejected the key",
        _ => "each::labs or a proxy before it denied the request",
    }
}
