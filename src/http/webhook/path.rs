//! The path of webhooks, and the tokens in a URL.

use axum::http::Uri;

pub(crate) const WEBHOOK_PATH: &str = "/webhooks/workflow-completed";
/// The route with a token after the path.
pub(super) const WITH_TOKEN: &str = "/webhooks/workflow-completed/{token}";

/// The tokens in a URL: after the path, and in the query.
pub(super) fn tokens(uri: &Uri) -> impl Iterator<Item = &str> {
    let query = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("token="));
    path_token(uri).into_iter().chain(query)
}

fn path_token(uri: &Uri) -> Option<&str> {
    let rest = uri.path().strip_prefix(WEBHOOK_PATH)?.strip_prefix('/')?;
    Some(rest).filter(|rest| !rest.is_empty())
}

/// The route of a URL, for traces: without the token.
pub(super) fn route(uri: &Uri) -> &'static str {
    if path_token(uri).is_some() { WITH_TOKEN } else { WEBHOOK_PATH }
}
