//! `/openapi.json`: the document of both ports.

mod complete;
mod example;

use bytes::Bytes;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, ServerBuilder};

use crate::db::queries::changes::Change;
use crate::http::problem;
use crate::http::webhook::{WEBHOOK_PATH, handler};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "workflow-receiver",
        description = "Read access to recorded workflow executions, registration of expected ones and fetching of missed ones (admin \
                       port), and the endpoint for their webhooks (public port). Lists with pages are newest first. The `next` of a page is the `cursor` of the \
                       following page. Items that exist when the first page is read are neither skipped nor repeated.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "Executions", description = "Recorded executions, their results and their failures."),
        (name = "Predictions", description = "Executions of a single model."),
        (name = "Bulks", description = "Groups of executions that were triggered together, their progress, and the executions that are expected."),
        (name = "Statistics", description = "Counts, failure rates and costs."),
        (
            name = "Conflicts and quarantine",
            description = "Webhooks that contradict a recorded execution, and webhooks that cannot be recorded."
        ),
        (name = "Changes and exports", description = "Changes in the order in which they are recorded, and whole lists as files."),
        (name = "Missed webhooks", description = "Executions of each::labs whose webhook did not arrive."),
        (name = "Webhooks", description = "The path for each::labs, on the public port.")
    ),
    components(schemas(problem::ProblemBody, Change)),
    security(("token" = []), ("password" = [])),
    servers((url = "/", description = "The admin port (admin.listen)"))
)]
struct Description;

#[derive(OpenApi)]
#[openapi(paths(handler::handle))]
struct WebhookPort;

/// Completes the document of the `api` routes with the description, the webhook's path and the security schemes.
/// `webhook_port` is the TCP port of `http.listen`.
pub(super) fn document(api: Document, webhook_port: u16) -> Bytes {
    let mut document = Description::openapi();
    document.merge(api);
    document.merge(WebhookPort::openapi());
    add_security_schemes(&mut document);
    let server = ServerBuilder::new()
        .url(format!("http://localhost:{webhook_port}"))
        .description(Some("The public port (http.listen), or a proxy in front of it"));
    if let Some(webhook) = document.paths.paths.get_mut(WEBHOOK_PATH) {
        webhook.servers = Some(vec![server.build()]);
    }
    complete::complete(&mut document);
    document.to_json().expect("the document is serializable").into()
}

fn add_security_schemes(document: &mut Document) {
    let http = |scheme, description| {
        SecurityScheme::Http(HttpBuilder::new().scheme(scheme).description(Some(description)).build())
    };
    let key = ApiKeyValue::with_description::<&str>;
    let header = |name, description| SecurityScheme::ApiKey(ApiKey::Header(key(name, description)));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "token",
        http(HttpAuthScheme::Bearer, "A token of admin.token or admin.tokens, if one is set"),
    );
    components.add_security_scheme(
        "password",
        http(HttpAuthScheme::Basic, "The token as the password, with any user name"),
    );
    components.add_security_scheme(
        "signature",
        header(
            "X-Webhook-Signature",
            "sha256= and the hex HMAC-SHA256 of X-Webhook-Timestamp, a dot and the body (auth.webhook_secrets)",
        ),
    );
    components
        .add_security_scheme("secret", header("X-Webhook-Secret", "The secret itself (auth.secret_header)"));
    let url_token = key("token", "A token, also accepted after the path and a slash (auth.url_tokens)");
    components.add_security_scheme("url_token", SecurityScheme::ApiKey(ApiKey::Query(url_token)));
}
