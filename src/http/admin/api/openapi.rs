//! `/openapi.json`: both ports, described for tools.

use bytes::Bytes;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, ServerBuilder};

use super::{events, export, handlers};
use crate::http::webhook::handler;
use crate::http::{WEBHOOK_PATH, problem};
use crate::recorder::events::ChangeEvent;

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
        handler::handle
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
