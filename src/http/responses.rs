//! The problem documents of operations, as OpenAPI responses.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::problem::Body;

/// An answer that is a problem document.
fn problem(description: &str) -> RefOr<Response> {
    let schema = Ref::from_schema_name(Body::name());
    let content = Content::new(Some(RefOr::Ref(schema)));
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content)
        .build()
        .into()
}

fn problems(answers: &[(StatusCode, &str)]) -> BTreeMap<String, RefOr<Response>> {
    answers.iter().map(|(status, description)| (status.as_u16().to_string(), problem(description))).collect()
}

/// What any question may be answered.
pub(super) struct ApiProblems;

impl IntoResponses for ApiProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[
            (
                StatusCode::BAD_REQUEST,
                "A parameter is not as it may be: the answer names it, and what it may be.",
            ),
            (StatusCode::UNAUTHORIZED, "admin.token is set, and was not shown."),
            (
                StatusCode::MISDIRECTED_REQUEST,
                "admin.token is not set, and the receiver was asked by a name.",
            ),
            (StatusCode::SERVICE_UNAVAILABLE, "PostgreSQL does not answer, or too much is asked at once."),
        ])
    }
}

/// What a webhook may be answered, but 200.
pub(super) struct WebhookProblems;

impl IntoResponses for WebhookProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[
            (StatusCode::BAD_REQUEST, "Not JSON, or not a JSON object; not the gzip that it says."),
            (StatusCode::UNAUTHORIZED, "Not from a sender that the receiver knows; nothing is kept."),
            (StatusCode::FORBIDDEN, "Nothing authenticates senders, and a web page may have sent it."),
            (StatusCode::REQUEST_TIMEOUT, "The body did not come within http.body_timeout."),
            (StatusCode::PAYLOAD_TOO_LARGE, "Larger than http.max_body_bytes, compressed or not."),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Compressed, but not with gzip."),
            (
                StatusCode::UNPROCESSABLE_ENTITY,
                "JSON without a usable execution_id, workflow_id or status; kept in quarantine.",
            ),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "Not kept: too many at once, spool full, disk failing, or stopping. Send it again.",
            ),
        ])
    }
}
