//! Requests that a web page may have made a browser send: cross-origin requests and DNS rebinding.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Uri, header};

/// Whether a web page may have sent the request: it has an `Origin` header, or a `Sec-Fetch-Site` header of another site.
/// Senders of webhooks set neither header.
pub(super) fn is_from_a_web_page(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    headers.contains_key(header::ORIGIN) || site.is_some_and(|site| site != b"none" && site != b"same-origin")
}

/// Whether a web page of another origin sent a form of the console. The console's own pages set `Origin`, too.
pub(super) fn has_foreign_origin(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site != "same-origin" && site != "none";
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    origin.is_some_and(|origin| origin.split_once("://").is_none_or(|(_, origin)| origin != host))
}

/// Whether the request may be the result of DNS rebinding: its host may be a registered domain.
pub(super) fn has_public_host(headers: &HeaderMap, uri: &Uri) -> bool {
    !all_hosts_are(headers, uri, is_not_a_domain)
}

/// Whether `accepted` is true for each host of the request: in `Host` and in the URL. A request without a host passes: it
/// is not from a browser.
pub(super) fn all_hosts_are(headers: &HeaderMap, uri: &Uri, accepted: fn(&str) -> bool) -> bool {
    // An unreadable host counts as a public name.
    let hosts = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("not.readable"));
    hosts.filter(|host| !host.is_empty()).all(accepted)
        && uri.authority().map(Authority::as_str).is_none_or(accepted)
}

/// `localhost` or an IP address, with an optional port. Browsers send IP addresses in the usual notation, so decimal,
/// octal and hexadecimal ones are not accepted.
pub(super) fn is_localhost_or_ip(host: &str) -> bool {
    match host.strip_prefix('[').map(|host| host.split_once(']')) {
        Some(Some((address, port))) => address.parse::<Ipv6Addr>().is_ok() && is_port(port),
        Some(None) => false,
        None => {
            let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
            (name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok()) && is_port(port)
        }
    }
}

/// `localhost`, an IP address, or a name without a dot. Such a name cannot be registered as a domain.
pub(super) fn is_not_a_domain(host: &str) -> bool {
    let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    is_localhost_or_ip(host) || !name.is_empty() && name.bytes().all(plain) && is_port(port)
}

/// Empty, or a colon and a port.
fn is_port(port: &str) -> bool {
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    port.is_empty() || port.strip_prefix(':').is_some_and(digits)
}

#[cfg(test)]
mod tests {
    use super::{is_localhost_or_ip, is_not_a_domain};

    #[test]
    fn addresses_and_local_names_are_accepted_and_public_names_rejected() {
        for address in [
            "localhost",
            "LOCALHOST:9090",
            "127.0.0.1",
            "127.0.0.1:9090",
            "[::1]:9090",
            "[::1]",
            "10.0.0.7",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(is_localhost_or_ip(address) && is_not_a_domain(address), "{address}");
        }
        for name in [
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "[x]",
            "[::1].evil",
            "[::1].evil:9090",
            "[::1]:x",
            "[::1]:",
            "[::1",
            "[127.0.0.1]",
            "127.0.0.1:9090.evil",
            "127.0.0.1:",
            "127.0.0.1:99999",
            "127.0.0.1:+80",
            "127.0.0.1:80:80",
            "localhost.",
            "127.0.0.1.",
            "localhost@evil.example",
            "user@127.0.0.1",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "127.1",
            "evil.",
            "::1",
            ":80",
        ] {
            assert!(!is_localhost_or_ip(name) && !is_not_a_domain(name), "{name}");
        }
        for name in ["receiver", "receiver:9090", "my-host_1", "2130706433"] {
            assert!(!is_localhost_or_ip(name) && is_not_a_domain(name), "{name}");
        }
    }
}
