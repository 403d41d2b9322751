//! The hosts from which pages load images, videos and sounds (`console.result_hosts`).

use axum::http::{HeaderValue, Uri};

use crate::config::Hosts;

/// Parsed `console.result_hosts`.
#[derive(Debug)]
pub(super) struct ResultHosts(Vec<Origin>);

#[derive(Debug)]
struct Origin {
    scheme: String,
    /// Lowercase. Without `*.` for a wildcard.
    host: String,
    any_subdomain: bool,
    port: Option<u16>,
}

impl ResultHosts {
    pub(super) fn new(hosts: &Hosts) -> Self {
        Self(hosts.0.iter().map(|host| Origin::parse(&host.to_ascii_lowercase())).collect())
    }

    /// Whether a page may load `url`. The browser enforces the same with [`Self::policy`].
    pub(super) fn allow(&self, url: &str) -> bool {
        let Ok(uri) = url.parse::<Uri>() else { return false };
        let Some(authority) = uri.authority().filter(|authority| !authority.as_str().contains('@')) else {
            return false;
        };
        let (scheme, host) = (uri.scheme_str().unwrap_or_default(), authority.host().to_ascii_lowercase());
        self.0.iter().any(|origin| origin.matches(scheme, &host, authority.port_u16()))
    }

    /// The Content-Security-Policy of all pages.
    pub(super) fn policy(&self) -> HeaderValue {
        let sources = ["'self'".to_owned()].into_iter().chain(self.0.iter().map(Origin::source));
        let sources = sources.collect::<Vec<_>>().join(" ");
        let policy = format!(
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src {sources}; \
             media-src {sources}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        );
        // The settings allow only characters of host names.
        HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
    }
}

impl Origin {
    fn parse(text: &str) -> Self {
        let (scheme, host) = text.split_once("://").unwrap_or(("https", text));
        let (any_subdomain, host) = host.strip_prefix("*.").map_or((false, host), |host| (true, host));
        let (host, port) = host.split_once(':').unwrap_or((host, ""));
        Self { scheme: scheme.to_owned(), host: host.to_owned(), any_subdomain, port: port.parse().ok() }
    }

    fn matches(&self, scheme: &str, host: &str, port: Option<u16>) -> bool {
        let host_matches = if self.any_subdomain {
            host.strip_suffix(&*self.host).is_some_and(|sub| sub.len() > 1 && sub.ends_with('.'))
        } else {
            host == self.host
        };
        let default = if self.scheme == "https" { 443 } else { 80 };
        scheme == self.scheme && host_matches && port.unwrap_or(default) == self.port.unwrap_or(default)
    }

    fn source(&self) -> String {
        let star = if self.any_subdomain { "*." } else { "" };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{star}{}{port}", self.scheme, self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_results_of_the_configured_hosts_are_shown() {
        let names = ["cdn.example.com", "*.storage.example", "http://127.0.0.1:9000"];
        let hosts = ResultHosts::new(&Hosts(names.map(str::to_owned).to_vec()));
        for url in [
            "https://cdn.example.com/a.png?x=1#y",
            "https://CDN.example.com:443/a.png",
            "https://a.b.storage.example/a.png",
            "http://127.0.0.1:9000/a.mp4",
        ] {
            assert!(hosts.allow(url), "{url}");
        }
        for url in [
            "http://cdn.example.com/a.png",
            "https://cdn.example.com:8443/a.png",
            "https://cdn.example.com@evil.example/a.png",
            "https://cdn.example.com.evil.example/a.png",
            "https://storage.example/a.png",
            "https://evilstorage.example/a.png",
            "//cdn.example.com/a.png",
            "/a.png",
            "javascript:alert(1)",
            "data:image/png;base64,AA",
            "",
        ] {
            assert!(!hosts.allow(url), "{url}");
        }
        let policy = hosts.policy();
        let policy = policy.to_str().unwrap();
        assert!(policy.contains(
            "img-src 'self' https://cdn.example.com https://*.storage.example http://127.0.0.1:9000;"
        ));
    }
}
