//! Recognizes the deliveries in the sender's log that were sent to this receiver.

use std::iter;

use axum::http::Uri;
use url::Url;

use crate::delivery::reference::UrlParameters;

/// The last segment of the path before a token.
const ROUTE: &str = "/workflow-completed";

/// `eachlabs.webhook_url`, without its query and a token after the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnUrl {
    host: String,
    port: Option<u16>,
    path: String,
}

/// A URL of this receiver.
#[derive(Debug)]
pub(crate) struct MatchedUrl {
    /// The caller's reference in the query, without the tokens of the URL and without secrets.
    pub(crate) reference: Option<String>,
}

impl OwnUrl {
    pub(crate) fn new(url: &Url) -> Self {
        let path = url.path().trim_end_matches('/');
        let end = path.find(ROUTE).map_or(path.len(), |at| at + ROUTE.len());
        Self {
            host: url.host_str().unwrap_or_default().to_ascii_lowercase(),
            port: url.port_or_known_default(),
            path: path[..end].to_owned(),
        }
    }

    /// `None` unless `url` has the same host, port and path. A token after the path and the query are not compared.
    pub(crate) fn matched<'s>(
        &self,
        url: &str,
        secrets: impl Iterator<Item = &'s str>,
    ) -> Option<MatchedUrl> {
        let url = Url::parse(url).ok()?;
        let after_path = url.path().strip_prefix(&*self.path)?;
        let is_own = url.host_str()?.eq_ignore_ascii_case(&self.host)
            && url.port_or_known_default() == self.port
            && (after_path.is_empty() || after_path.starts_with('/'));
        if !is_own {
            return None;
        }
        let in_query =
            url.query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("token="));
        let tokens = iter::once(after_path.trim_matches('/')).chain(in_query);
        // In the text of a `Url`, characters that are not valid in a URL, such as a space, are encoded.
        let uri: Option<Uri> = url.as_str().parse().ok();
        Some(MatchedUrl {
            reference: uri.and_then(|uri| UrlParameters::of_uri(&uri, tokens, secrets).reference),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_no_token_and_no_secret() {
        let own = OwnUrl::new(&Url::parse("https://h/webhooks/workflow-completed").unwrap());
        let url = "https://h/webhooks/workflow-completed/a_token_of_this?order=1&token=another&x=a_token_of_this&y=a_secret";
        let reference = |url| own.matched(url, ["a_secret"].into_iter()).unwrap().reference;
        assert_eq!(reference(url).as_deref(), Some(r#"{"order":"1"}"#));
        assert_eq!(reference("https://h/webhooks/workflow-completed"), None);
        let url = "https://h/webhooks/workflow-completed?order=a b<c>|{d}^\"`é&x=1#end";
        assert_eq!(reference(url).as_deref(), Some(r#"{"order":"a b<c>|{d}^\"`é","x":"1"}"#));
    }

    #[test]
    fn query_and_token_are_not_compared() {
        let own = |url: &str| OwnUrl::new(&Url::parse(url).unwrap());
        let plain = own("https://Hooks.example.com/webhooks/workflow-completed");
        assert_eq!(plain, own("https://hooks.example.com/webhooks/workflow-completed/a_token_of_this?x=1"));
        let matches = |url: &str| plain.matched(url, iter::empty()).is_some();
        for url in [
            "https://hooks.example.com/webhooks/workflow-completed",
            "https://hooks.example.com:443/webhooks/workflow-completed/",
            "https://hooks.example.com/webhooks/workflow-completed/a_token?order=1",
            "https://hooks.example.com/webhooks/workflow-completed?token=a_token",
        ] {
            assert!(matches(url), "{url}");
        }
        for url in [
            "https://hooks.example.com/webhooks/workflow-completed-2",
            "https://hooks.example.com:8443/webhooks/workflow-completed",
            "http://hooks.example.com/webhooks/workflow-completed",
            "https://example.com/webhooks/workflow-completed",
            "https://hooks.example.com/other?/webhooks/workflow-completed",
            "not a URL",
        ] {
            assert!(!matches(url), "{url}");
        }
    }
}
