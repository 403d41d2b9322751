//! Who may ask on the admin port.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::problem::Problem;
use crate::credentials::{Credentials, Current};

/// Lets those in who show the token: as `Authorization: Bearer TOKEN`, or, as browsers do, for a password with any
/// name. Everyone when none is set.
pub(super) async fn ask_for_token(
    State(credentials): State<Arc<Credentials>>,
    request: Request,
    next: Next,
) -> Response {
    let (current, shown) = (credentials.current(), shown(request.headers()));
    let right = |current: &Current| current.admin_token.is_none_or(|token| token.is(&shown));
    if right(&current) || (credentials.refreshed(&current).await && right(&credentials.current())) {
        next.run(request).await
    } else {
        Problem::NoToken.into_response()
    }
}

fn shown(headers: &HeaderMap) -> Vec<u8> {
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

/// Where nobody has to show a token, a page from elsewhere could have its own name lead to this machine, and read
/// through its visitor's browser what is recorded. It cannot do so with an address.
pub(super) async fn ask_for_address(
    State(credentials): State<Arc<Credentials>>,
    request: Request,
    next: Next,
) -> Response {
    let host = host(request.headers(), request.uri());
    if credentials.current().admin_token.is_some() || host.is_none_or(is_address) {
        next.run(request).await
    } else {
        Problem::Misdirected.into_response()
    }
}

/// Under which name the receiver is asked; `None` when nobody says.
fn host<'r>(headers: &'r HeaderMap, uri: &'r Uri) -> Option<&'r str> {
    let named = headers.get(header::HOST).map(|host| host.to_str().unwrap_or("unreadable"));
    named.or_else(|| uri.authority().map(Authority::as_str))
}

fn is_address(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(address) => address.split(']').next(),
        None => host.split(':').next(),
    };
    name.is_some_and(|name| name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn an_address_is_told_from_a_name() {
        for address in
            ["localhost", "LOCALHOST:9090", "127.0.0.1", "127.0.0.1:9090", "[::1]:9090", "[::1]", "10.0.0.7"]
        {
            assert!(is_address(address), "{address}");
        }
        for name in [
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "[x]",
        ] {
            assert!(!is_address(name), "{name}");
        }
    }
}
