//! The head of a webhook request.

use std::sync::Arc;

use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use time::OffsetDateTime;

use super::body::{self, Encoding};
use super::path::tokens;
use super::state::WebhookState;
use crate::auth::{AuthError, PendingAuth};
use crate::credentials::Current;
use crate::delivery::reference::{MAX_REFERENCE_BYTES, UrlParameters};
use crate::http::origin::{has_public_host, is_from_a_web_page};
use crate::http::problem::Problem;
use crate::http::server::Connection;

/// The sender sets it to `true` when it sends a webhook again.
const REDELIVERY: &str = "x-webhook-redelivery";

/// The parts of a request's head that the handler needs.
pub(super) struct Head {
    /// The secrets that `auth` was checked with.
    pub(super) secrets: Arc<Current>,
    pub(super) auth: Result<PendingAuth, AuthError>,
    /// The request has no credentials, and a web page may have made a browser send it.
    pub(super) may_be_from_a_web_page: bool,
    pub(super) content_length: Option<u64>,
    pub(super) encoding: Result<Encoding, Problem>,
    pub(super) connection: Option<Connection>,
    /// See [`crate::delivery::Delivery`].
    pub(super) reference: Option<String>,
    pub(super) is_redelivery: bool,
}

impl Head {
    /// Drops the head before the body is read: a slow body must not keep a large head in memory.
    pub(super) async fn of(state: &WebhookState, head: Parts) -> Self {
        let headers = &head.headers;
        let check = |secrets: &Current| {
            secrets.authenticator.check_head(headers, tokens(&head.uri), OffsetDateTime::now_utc())
        };
        let (secrets, auth) = state.credentials.check(state.credentials.current(), check).await;
        let anonymous = auth.as_ref().is_ok_and(PendingAuth::is_anonymous);
        let local_only = secrets.authenticator.is_local_only();
        let read = || UrlParameters::of_uri(&head.uri, tokens(&head.uri), secrets.sender_secrets());
        let UrlParameters { reference, is_cut, has_secret } = auth.is_ok().then(read).unwrap_or_default();
        if let Some(count) = state.long_references.count(is_cut.into()) {
            tracing::warn!(
                count,
                "webhooks have query parameters of more than {MAX_REFERENCE_BYTES} bytes: some are not recorded in \
                 `reference`. Shorten webhook_url"
            );
        }
        if let Some(count) = state.secret_references.count(has_secret.into()) {
            tracing::warn!(
                count,
                "webhooks have query parameters that are or may be secrets: they are not recorded in `reference`. Remove \
                 them from webhook_url"
            );
        }
        Self {
            secrets,
            auth,
            may_be_from_a_web_page: anonymous
                && (is_from_a_web_page(headers) || local_only && has_public_host(headers, &head.uri)),
            content_length: headers.get(CONTENT_LENGTH).and_then(|size| size.to_str().ok()?.parse().ok()),
            encoding: body::encoding(headers),
            connection: head.extensions.get().cloned(),
            reference,
            is_redelivery: headers
                .get(REDELIVERY)
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true")),
        }
    }
}
