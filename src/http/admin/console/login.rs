//! `/login` and `/logout`: sessions of browsers.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{DOCTYPE, Markup, html};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::assets::ICON;
use super::components::{duration, notice};
use super::form::FormData;
use super::layout::head;
use super::login_limit::client_address;
use super::state::{Console, ConsoleState};
use crate::auth::{Operator, SESSION_COOKIE, SESSION_DURATION};
use crate::credentials::Current;
use crate::http::origin::has_foreign_origin;
use crate::http::server::Connection;

/// Sends a browser without a session to the login page.
///
/// A browser does not send the cookie (`SameSite=Strict`) when it follows a link of another site. Such a request is
/// answered with a page that opens the same URL again, now from this site.
pub(in crate::http::admin) fn redirect(uri: &Uri, headers: &HeaderMap) -> Response {
    let here = local(uri.path_and_query().map_or("/", |path| path.as_str()));
    let no_store = [(header::CACHE_CONTROL, "no-store"), (header::REFERRER_POLICY, "no-referrer")];
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site") {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head { title { "workflow-receiver" } meta http-equiv="refresh" content={ "0;url=" (here) }; }
                body { a href=(here) { "Continue" } }
            }
        };
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        ];
        return (no_store, headers, page.into_string()).into_response();
    }
    let next: String = form_urlencoded::byte_serialize(here.as_bytes()).collect();
    let login = if here == "/" { "/login".to_owned() } else { format!("/login?next={next}") };
    (no_store, Redirect::to(&login)).into_response()
}

/// `GET /login`
pub(super) async fn show(State(console): ConsoleState, uri: Uri) -> Response {
    if !console.admin.credentials.current().admin_tokens.are_required() {
        return Redirect::to("/").into_response();
    }
    let query = uri.query().unwrap_or_default();
    let next = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "next");
    let next = next.map(|(_, next)| next.into_owned()).unwrap_or_default();
    login_page(StatusCode::OK, local(&next), html! {})
}

/// `POST /login`
pub(super) async fn log_in(
    State(console): ConsoleState,
    Extension(connection): Extension<Connection>,
    headers: HeaderMap,
    form_data: FormData,
) -> Response {
    let next = local(form_data.get("next"));
    if has_foreign_origin(&headers) {
        return login_page(
            StatusCode::FORBIDDEN,
            next,
            notice("bad", html! { "Another website sent this form. Log in on this page." }),
        );
    }
    let peer = connection.peer().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let address = client_address(peer, &headers);
    if let Some(wait) = console.login_limit.wait(address, Instant::now()) {
        return too_many_attempts(next, wait);
    }
    if let Some(session) = session(&console, form_data.get("token").trim()).await {
        let mut response = Redirect::to(next).into_response();
        set_cookie(&mut response, &headers, &session, SESSION_DURATION.whole_seconds());
        return response;
    }
    console.login_limit.failed(address, Instant::now());
    tracing::warn!(%address, "a login to the console was rejected: unknown token");
    let message = html! { "This token is not valid. It may have been replaced." };
    login_page(StatusCode::UNAUTHORIZED, next, notice("bad", message))
}

fn too_many_attempts(next: &str, wait: Duration) -> Response {
    let seconds = wait.as_secs() + 1;
    let message = html! { "Too many failed attempts to log in. Try again in " (duration(seconds)) "." };
    let mut response = login_page(StatusCode::TOO_MANY_REQUESTS, next, notice("bad", message));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Begins a session. Reads the files of tokens again if the token is unknown and a file has changed.
async fn session(console: &Arc<Console>, token: &str) -> Option<String> {
    let credentials = &console.admin.credentials;
    let begin = |current: &Current| {
        current.admin_tokens.begin_session(token.as_bytes(), OffsetDateTime::now_utc()).ok_or(())
    };
    credentials.check(credentials.current(), begin).await.1.ok()
}

/// `POST /logout`: ends the session, also for a copy of its cookie.
pub(super) async fn log_out(
    State(console): ConsoleState,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
) -> Response {
    if let Some(session) = operator.session {
        let ended = console.admin.ended_sessions.end(&console.admin.credentials.database, session).await;
        if let Err(error) = ended {
            tracing::warn!(%error, "a log-out could not be stored: the session has ended at this receiver only, and only until its restart");
        }
    }
    let mut response = Redirect::to("/login").into_response();
    set_cookie(&mut response, &headers, "", 0);
    response
}

/// The cookie is `Secure` if a proxy has received the request over https.
fn set_cookie(response: &mut Response, headers: &HeaderMap, value: &str, max_age: i64) {
    let is_https = headers.get("x-forwarded-proto").is_some_and(|protocol| protocol == "https");
    let secure = if is_https { "; Secure" } else { "" };
    let cookie =
        format!("{SESSION_COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age}{secure}");
    if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
}

/// `next` if it is a path on this server, otherwise `/`. Browsers read `//host` and `/\host` as another server.
pub(super) fn local(next: &str) -> &str {
    let is_path = next.starts_with('/') && !next[1..].starts_with(['/', '\\']);
    if is_path && !next.contains(char::is_control) && !next.starts_with("/login") { next } else { "/" }
}

#[expect(clippy::needless_pass_by_value, reason = "calls with `html! { … }` are shorter")]
fn login_page(status: StatusCode, next: &str, message: Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            (head("Log in", html! {}))
            body.login {
                main {
                    form.card method="post" action="/login" {
                        p.brand { img src=(ICON.path) alt="" width="28" height="28"; span { "workflow-receiver" } }
                        h1 { "Log in" }
                        (message)
                        input type="hidden" name="next" value=(next);
                        // Password managers need a user name.
                        input.visually-hidden type="text" name="username" value="workflow-receiver"
                            autocomplete="username" tabindex="-1" aria-hidden="true" readonly;
                        label {
                            span { "Token" }
                            input type="password" name="token" required autofocus autocomplete="current-password"
                                maxlength="1000";
                        }
                        button.primary { "Log in" }
                        p.soft {
                            small {
                                "A token of " code { "admin.token" } " or " code { "admin.tokens" } ". On the server, "
                                code { "workflow-receiver admin-token" } " prints " code { "admin.token" } "."
                            }
                        }
                    }
                }
            }
        }
    };
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.into_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::local;

    #[test]
    fn only_paths_of_this_server_follow_a_login() {
        assert_eq!(local("/executions?status=failed"), "/executions?status=failed");
        for next in [
            "",
            "https://evil.example",
            "//evil.example",
            "/\\evil.example",
            "javascript:x",
            "/a\nb",
            "/login",
        ] {
            assert_eq!(local(next), "/", "{next:?}");
        }
    }
}
