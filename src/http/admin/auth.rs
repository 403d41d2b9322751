//! Access to the admin port: the token, or without one a check of the `Host` header.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::credentials::{Credentials, Current};
use crate::http::origin::{all_hosts_are, is_address, is_local};
use crate::http::problem::Problem;

/// Requires `admin.token`, if it is set.
pub(super) async fn require_token(
    State(credentials): State<Arc<Credentials>>,
    request: Request,
    next: Next,
) -> Response {
    if is_authorized(&credentials, request.headers()).await {
        next.run(request).await
    } else {
        Problem::NoToken.into_response()
    }
}

/// Whether the request has `admin.token`, or none is set. The token is sent as `Authorization: Bearer TOKEN`, or as the
/// password of `Basic` (browsers).
pub(super) async fn is_authorized(credentials: &Arc<Credentials>, headers: &HeaderMap) -> bool {
    let current = credentials.current();
    if !headers.contains_key(header::AUTHORIZATION) {
        return current.admin_token.is_none();
    }
    let presented = presented_token(headers);
    let check = |current: &Current| {
        let matches = current.admin_token.is_none_or(|token| token.matches(&presented));
        matches.then_some(()).ok_or(())
    };
    credentials.check(current, check).await.1.is_ok()
}

fn presented_token(headers: &HeaderMap) -> Vec<u8> {
    let value = headers.get(header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    let after = |scheme: &[u8]| {
        let found = value.get(..scheme.len()).is_some_and(|name| name.eq_ignore_ascii_case(scheme));
        found.then(|| value[scheme.len()..].trim_ascii())
    };
    if let Some(token) = after(b"Bearer ") {
        return token.to_vec();
    }
    let pair = after(b"Basic ").and_then(|pair| BASE64_STANDARD.decode(pair).ok()).unwrap_or_default();
    let colon = pair.iter().position(|byte| *byte == b':');
    colon.map(|colon| pair[colon + 1..].to_vec()).unwrap_or_default()
}

/// Protects the read API against DNS rebinding when no token is set: only `localhost` and IP addresses are accepted in
/// `Host`.
pub(super) async fn reject_foreign_host(
    credentials: State<Arc<Credentials>>,
    request: Request,
    next: Next,
) -> Response {
    check_host(&credentials, request, next, is_address).await
}

/// Protects health and metrics in the same way, but also accepts names without a dot: monitoring uses such names.
pub(super) async fn reject_public_host(
    credentials: State<Arc<Credentials>>,
    request: Request,
    next: Next,
) -> Response {
    check_host(&credentials, request, next, is_local).await
}

async fn check_host(
    credentials: &Credentials,
    request: Request,
    next: Next,
    accepted: fn(&str) -> bool,
) -> Response {
    let has_token = credentials.current().admin_token.is_some();
    if has_token || all_hosts_are(request.headers(), request.uri(), accepted) {
        next.run(request).await
    } else {
        Problem::Misdirected.into_response()
    }
}
