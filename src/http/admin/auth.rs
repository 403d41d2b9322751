//! Who may ask on the admin port.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::credentials::{Credentials, Current};
use crate::http::origin::{is_address, is_local, names_this_machine};
use crate::http::problem::Problem;

/// Lets those in who show the token: as `Authorization: Bearer TOKEN`, or, as browsers do, for a password with any
/// name. Everyone when none is set.
pub(super) async fn require_token(
    State(credentials): State<Arc<Credentials>>,
    request: Request,
    next: Next,
) -> Response {
    let (current, shown) = (credentials.current(), presented_token(request.headers()));
    let right = |current: &Current| current.admin_token.is_none_or(|token| token.matches(&shown));
    if right(&current) || (credentials.refreshed(&current).await && right(&credentials.current())) {
        next.run(request).await
    } else {
        Problem::NoToken.into_response()
    }
}

fn presented_token(headers: &HeaderMap) -> Vec<u8> {
    let value = headers.get(header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    let after = |scheme: &[u8]| {
        let named = value.get(..scheme.len()).is_some_and(|name| name.eq_ignore_ascii_case(scheme));
        named.then(|| value[scheme.len()..].trim_ascii())
    };
    if let Some(token) = after(b"Bearer ") {
        return token.to_vec();
    }
    let pair = after(b"Basic ").and_then(|pair| BASE64_STANDARD.decode(pair).ok()).unwrap_or_default();
    let name = pair.iter().position(|byte| *byte == b':');
    name.map(|end| pair[end + 1..].to_vec()).unwrap_or_default()
}

/// Protects what is recorded against DNS rebinding when no token is set: only `localhost` and IP addresses are accepted
/// in `Host`.
pub(super) async fn reject_foreign_host(
    State(credentials): State<Arc<Credentials>>,
    request: Request,
    next: Next,
) -> Response {
    let open = credentials.current().admin_token.is_none();
    if !open || names_this_machine(request.headers(), request.uri(), is_address) {
        next.run(request).await
    } else {
        Problem::Misdirected.into_response()
    }
}

/// The same for health and metrics, which monitoring may ask by a name without a dot.
pub(super) async fn ask_for_local_name(
    State(credentials): State<Arc<Credentials>>,
    request: Request,
    next: Next,
) -> Response {
    let open = credentials.current().admin_token.is_none();
    if !open || names_this_machine(request.headers(), request.uri(), is_local) {
        next.run(request).await
    } else {
        Problem::Misdirected.into_response()
    }
}
