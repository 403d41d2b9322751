//! `/openapi.json`: both ports, described for tools.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use bytes::Bytes;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder, ServerBuilder};
use utoipa::{IntoResponses, OpenApi, ToSchema};

use super::{events, export, handlers};
use crate::http::{WEBHOOK_PATH, problem, receive};
use crate::live::ChangeEvent;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "workflow-receiver",
        description = "What is recorded of workflow executions, for operators, and the door that their webhooks come \
                       in by. Lists come newest first; `next` of a page is the `cursor` of the one behind it, and \
                       nothing that was there at the first page comes twice or is left out."
    ),
    paths(
        handlers::overview, handlers::workflows, handlers::executions, handlers::execution, handlers::results,
        handlers::failures, handlers::bulks, handlers::bulk, handlers::conflicts, handlers::conflict,
        handlers::quarantine, handlers::quarantined, events::events, export::executions, export::results,
        receive::handle
    ),
    components(schemas(problem::Body, ChangeEvent)),
    security(("token" = []), ("password" = [])),
    servers((url = "/", description = "The admin port (admin.listen)"))
)]
struct Description;

/// The document. `webhook_port` is where the public port listens.
pub(super) fn document(webhook_port: u16) -> Bytes {
    let mut document = Description::openapi();
    document.info.license = None;
    schemes(&mut document);
    let url = format!("http://localhost:{webhook_port}");
    let public = ServerBuilder::new()
        .url(url)
        .description(Some("The public port (http.listen), or a proxy before it"));
    if let Some(door) = document.paths.paths.get_mut(WEBHOOK_PATH) {
        door.servers = Some(vec![public.build()]);
    }
    document.to_json().expect("what is derived can be written").into()
}

fn schemes(document: &mut Document) {
    let http = |scheme, description| {
        SecurityScheme::Http(HttpBuilder::new().scheme(scheme).description(Some(description)).build())
    };
    let key = ApiKeyValue::with_description::<&str>;
    let token = http(HttpAuthScheme::Bearer, "admin.token, where it is set");
    let password =
        http(HttpAuthScheme::Basic, "admin.token as the password, with any name: as browsers ask for it");
    let signature = SecurityScheme::ApiKey(ApiKey::Header(key(
        "X-Webhook-Signature",
        "sha256= and the HMAC-SHA256 of X-Webhook-Timestamp, a dot, and the body (auth.webhook_secrets)",
    )));
    let secret = SecurityScheme::ApiKey(ApiKey::Header(key(
        "X-Webhook-Secret",
        "The secret itself (auth.secret_header)",
    )));
    let url_token = SecurityScheme::ApiKey(ApiKey::Query(key(
        "token",
        "Or behind the path, after a slash (auth.url_tokens)",
    )));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("token", token);
    components.add_security_scheme("password", password);
    components.add_security_scheme("signature", signature);
    components.add_security_scheme("secret", secret);
    components.add_security_scheme("url_token", url_token);
}

/// An answer that is a problem document.
fn refusal(description: &str) -> RefOr<Response> {
    let schema = Ref::from_schema_name(problem::Body::name());
    let content = Content::new(Some(RefOr::Ref(schema)));
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content)
        .build()
        .into()
}

fn refusals(answers: &[(StatusCode, &str)]) -> BTreeMap<String, RefOr<Response>> {
    answers.iter().map(|(status, description)| (status.as_u16().to_string(), refusal(description))).collect()
}

/// What any question may be answered.
pub(super) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[
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
pub(in crate::http) struct DoorRefusals;

impl IntoResponses for DoorRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[
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
