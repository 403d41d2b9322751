//! Problems in `/openapi.json`.

use std::collections::BTreeMap;

use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::{Problem, ProblemBody};
use crate::auth::AuthError;
use crate::db::RegistrationConflict;
use crate::db::queries::QueryError;
use crate::delivery::RejectReason;
use crate::execution::InvalidPayload;
use crate::trigger::Triggered;

type Responses = BTreeMap<String, RefOr<Response>>;

/// Responses with a description and an example each.
fn problems<const N: usize>(responses: [(&str, Problem); N]) -> Responses {
    let response = |(description, example): (&str, Problem)| {
        let (status, body) = example.body();
        let schema = RefOr::Ref(Ref::from_schema_name(ProblemBody::name()));
        let content = ContentBuilder::new().schema(Some(schema)).example(serde_json::to_value(body).ok());
        let response = ResponseBuilder::new().description(description);
        let response = response.content("application/problem+json", content.build()).build();
        (status.as_str().to_owned(), response.into())
    };
    responses.map(response).into()
}

/// The problems of every `/api/v1` path.
pub(in crate::http) struct ApiProblems;

impl IntoResponses for ApiProblems {
    fn responses() -> Responses {
        problems([
            (
                "Invalid parameter. `detail` names it and the allowed values.",
                Problem::parameter("limit", "must be a whole number from 1 to 1000"),
            ),
            ("A token of the admin port is set, and the request does not contain one.", Problem::NoToken),
            (
                "No token of the admin port is set, and the host is neither localhost nor an IP address.",
                Problem::Misdirected,
            ),
            (
                "PostgreSQL did not answer, or there are too many requests.",
                Problem::QueryError(QueryError::Busy),
            ),
        ])
    }
}

/// The problems of every `/api/v1` path, and those of one path.
fn api_problems_and<const N: usize>(others: [(&str, Problem); N]) -> Responses {
    ApiProblems::responses().into_iter().chain(problems(others)).collect()
}

/// The problems of a path with an identifier.
pub(in crate::http) struct DetailProblems;

impl IntoResponses for DetailProblems {
    fn responses() -> Responses {
        let absent = Problem::NotRecorded { kind: "execution" };
        api_problems_and([("Nothing is recorded with this identifier.", absent)])
    }
}

/// The problems of `POST /api/v1/expected`.
pub(in crate::http) struct RegistrationProblems;

impl IntoResponses for RegistrationProblems {
    fn responses() -> Responses {
        let not_json = Triggered::parse(b"{").expect_err("the text is cut");
        api_problems_and([
            (
                "The body is not a response of trigger or bulk-trigger. `detail` says what is wrong. Nothing is registered.",
                Problem::NotATriggerResponse(not_json),
            ),
            (
                "Another response is registered for this bulk or execution. Nothing is changed.",
                Problem::AlreadyRegistered(RegistrationConflict::OtherResponse),
            ),
            ("The token has the role read.", Problem::ReadOnly),
            ("The body is larger than 1 MiB.", Problem::RegistrationTooLarge { max_bytes: 1 << 20 }),
            ("The Content-Type is not application/json.", Problem::NotJsonType),
        ])
    }
}

/// The problems of a reconciliation.
pub(in crate::http) struct ReconcileProblems;

impl IntoResponses for ReconcileProblems {
    fn responses() -> Responses {
        api_problems_and([
            ("The token has the role read, or a web page may have sent the request.", Problem::ReadOnly),
            ("eachlabs.api_key is not set.", Problem::NoApiKey),
        ])
    }
}

/// The problems of a path that reads the change feed.
pub(in crate::http) struct FeedProblems;

impl IntoResponses for FeedProblems {
    fn responses() -> Responses {
        api_problems_and([(
            "The next change was removed, or the number is higher than the last one. Reload the lists and continue with \
             `after=latest`.",
            Problem::ChangesRemoved,
        )])
    }
}

/// The problems of a webhook.
pub(in crate::http) struct WebhookProblems;

impl IntoResponses for WebhookProblems {
    fn responses() -> Responses {
        let no_workflow = InvalidPayload::Field { field: "workflow_id", problem: "is missing or null" };
        problems([
            (
                "The body is incomplete, not JSON, neither a JSON object nor an array of objects, or not valid gzip.",
                Problem::NotAnObject(InvalidPayload::NotAnObject),
            ),
            (
                "The sender is not authenticated. The webhook is not stored.",
                Problem::Unauthenticated(AuthError::NoCredentials),
            ),
            ("The request has no credentials, and a web page may have sent it.", Problem::FromWebPage),
            ("The body was not complete within http.body_timeout.", Problem::TooSlow),
            (
                "The body is larger than http.max_body_bytes, compressed or decompressed.",
                Problem::TooLarge { max_body_bytes: 16 << 20 },
            ),
            ("The Content-Encoding is neither gzip nor identity.", Problem::UnknownEncoding),
            (
                "JSON that is neither an execution nor a prediction. The webhook goes to quarantine, unless it is unsigned \
                 and auth.verify_unsigned is set.",
                Problem::NotAnExecution { error: no_workflow, is_stored: true },
            ),
            (
                "Not acknowledged: too many requests, spool full, disk error, shutdown, or too many unsigned webhooks wait for \
                 their verification. Send it again.",
                Problem::Rejected(RejectReason::Overloaded),
            ),
        ])
    }
}
