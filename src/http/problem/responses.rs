//! Problems in `/openapi.json`.

use std::collections::BTreeMap;

use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::ProblemBody;

fn problems<const N: usize>(responses: [(u16, &str); N]) -> BTreeMap<String, RefOr<Response>> {
    let problem = |description| {
        let content = Content::new(Some(RefOr::Ref(Ref::from_schema_name(ProblemBody::name()))));
        ResponseBuilder::new().description(description).content("application/problem+json", content)
    };
    responses.map(|(status, text)| (status.to_string(), problem(text).build().into())).into()
}

/// The problems of every `/api/v1` path.
pub(in crate::http) struct ApiProblems;

impl IntoResponses for ApiProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems([
            (400, "Invalid parameter. `detail` names it and the allowed values."),
            (401, "admin.token is set and the request does not contain it."),
            (421, "admin.token is not set and the host is neither localhost nor an IP address."),
            (503, "PostgreSQL did not answer, or there are too many requests."),
        ])
    }
}

/// The problems of a webhook.
pub(in crate::http) struct WebhookProblems;

impl IntoResponses for WebhookProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems([
            (400, "The body is incomplete, not JSON, not a JSON object, or not valid gzip."),
            (401, "The sender is not authenticated. The webhook is not stored."),
            (403, "Senders are not authenticated, and a web page may have sent the request."),
            (408, "The body was not complete within http.body_timeout."),
            (413, "The body is larger than http.max_body_bytes, compressed or decompressed."),
            (415, "The Content-Encoding is neither gzip nor identity."),
            (
                422,
                "JSON without a valid execution_id, workflow_id or status. The webhook goes to quarantine.",
            ),
            (503, "Not stored: too many requests, spool full, disk error, or shutdown. Send it again."),
        ])
    }
}
