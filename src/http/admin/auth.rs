//! Access to the admin port. If a token is set, a request needs a token or a session. Otherwise the `Host` header is
//! checked.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use time::OffsetDateTime;

use super::console::login;
use super::state::AdminState;
use crate::auth::{Operator, SESSION_COOKIE};
use crate::credentials::{Credentials, Current};
use crate::http::origin::{all_hosts_are, is_localhost_or_ip, is_not_a_domain};
use crate::http::problem::Problem;

/// Requires a token or a session, if a token is set, and adds the [`Operator`] to the request. A browser is sent to the
/// login page.
pub(super) async fn require_token(
    State(admin): State<AdminState>,
    mut request: Request,
    next: Next,
) -> Response {
    match identify(&admin, request.headers()).await {
        Some(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        None if accepts_html(request.headers()) => login::redirect(request.uri(), request.headers()),
        None => Problem::NoToken.into_response(),
    }
}

/// Requires the role `operate` for every method except GET, HEAD and OPTIONS.
pub(super) async fn require_operate(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let may_operate = request.extensions().get().is_some_and(Operator::may_operate);
    if reads || may_operate { next.run(request).await } else { Problem::ReadOnly.into_response() }
}

/// The sender of the request: by the token in `Authorization: Bearer TOKEN`, by the password of `Basic`, or by the cookie of
/// a session that has not ended. Without any token in the settings, every sender is accepted.
pub(super) async fn identify(admin: &AdminState, headers: &HeaderMap) -> Option<Operator> {
    let credentials = &admin.credentials;
    let current = credentials.current();
    if let Some(anyone) = current.admin_tokens.anyone() {
        return Some(anyone);
    }
    if headers.contains_key(header::AUTHORIZATION) {
        let presented = presented_token(headers);
        let check = |current: &Current| current.admin_tokens.by_token(&presented).ok_or(());
        return credentials.check(current, check).await.1.ok();
    }
    let cookie = session_cookie(headers)?;
    let operator = current.admin_tokens.by_session(cookie, OffsetDateTime::now_utc())?;
    let has_ended = admin.ended_sessions.has_ended(&admin.pool, operator.session?).await;
    (!has_ended).then_some(operator)
}

fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == SESSION_COOKIE).map(|(_, value)| value)
}

/// Whether the client is a browser that opens a page. Scripts and command-line clients do not name `text/html` in `Accept`.
pub(super) fn accepts_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
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

/// The hosts that [`check_host`] accepts.
pub(super) type AcceptedHosts = fn(&str) -> bool;
/// For the API and the console.
pub(super) const LOCAL_HOSTS: AcceptedHosts = is_localhost_or_ip;
/// For health and metrics. Monitoring uses names without a dot.
pub(super) const HOSTS_WITHOUT_DOMAIN: AcceptedHosts = is_not_a_domain;

/// Protects against DNS rebinding when no token is set: only certain hosts are accepted in `Host`.
pub(super) async fn check_host(
    State((credentials, accepted)): State<(Arc<Credentials>, AcceptedHosts)>,
    request: Request,
    next: Next,
) -> Response {
    let has_token = credentials.current().admin_tokens.are_required();
    if has_token || all_hosts_are(request.headers(), request.uri(), accepted) {
        next.run(request).await
    } else {
        Problem::Misdirected.into_response()
    }
}
