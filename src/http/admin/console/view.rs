//! What a page knows about its request, and the security headers of all pages.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use super::state::Console;
use crate::auth::Operator;
use crate::config::Role;
use crate::db::queries::audit::{Action, Actions};

/// The parameter with the number of an action, whose result the page shows.
const DONE: &str = "done";

/// Extractor for the handlers of pages.
pub(super) struct View {
    /// The path and the query, without [`DONE`].
    pub(super) uri: Uri,
    pub(super) operator: Operator,
    /// `ok`, `degraded` or `unavailable`, for the header.
    pub(super) health: &'static str,
    /// The action that has led to this page.
    pub(super) done: Option<Action>,
}

impl FromRequestParts<Arc<Console>> for View {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self, Infallible> {
        let health = console.admin.health.health().status();
        let operator = parts.extensions.get().cloned().unwrap_or_else(unnamed_operator);
        let (uri, audit_id) = without_done(&parts.uri);
        let done = match audit_id {
            Some(audit_id) => {
                let actions = console.run(&Actions::only(audit_id)).await.unwrap_or_default();
                actions.into_iter().find(|action| action.audit_id == audit_id)
            }
            None => None,
        };
        Ok(Self { uri, operator, health, done })
    }
}

/// The middleware of the admin port adds an operator to each request. Without it, no form is accepted.
fn unnamed_operator() -> Operator {
    Operator { name: String::new(), role: Role::Read, form_key: String::new(), session: None }
}

/// Removes [`DONE`] from the query. Other parameters keep their order.
fn without_done(uri: &Uri) -> (Uri, Option<i64>) {
    let query = uri.query().unwrap_or_default();
    let is_done = |part: &&str| part.strip_prefix(DONE).is_some_and(|rest| rest.starts_with('='));
    let Some(done) = query.split('&').find(is_done) else { return (uri.clone(), None) };
    let audit_id = done.split_once('=').and_then(|(_, number)| number.parse().ok());
    let rest: Vec<_> = query.split('&').filter(|part| !is_done(part)).collect();
    let path =
        if rest.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), rest.join("&")) };
    (path.parse().unwrap_or_else(|_| uri.clone()), audit_id)
}

/// Adds the security headers to a page.
pub(super) async fn secure(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: HeaderValue| {
        headers.insert(name, value);
    };
    set(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    set(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    set(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    set(header::CONTENT_SECURITY_POLICY, console.policy.clone());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_an_action_is_not_a_parameter_of_the_page() {
        for (uri, rest, done) in [
            ("/q?done=7", "/q", Some(7)),
            ("/q?a=1&done=7&b=2", "/q?a=1&b=2", Some(7)),
            ("/q?done=x", "/q", None),
            ("/q?undone=7&done", "/q?undone=7&done", None),
            ("/q", "/q", None),
        ] {
            let (uri, found) = without_done(&uri.parse().unwrap());
            assert_eq!((uri.to_string().as_str(), found), (rest, done));
        }
    }
}
