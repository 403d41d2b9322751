//! The settings of the operator console.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::error::{SettingsError, not_allowed};
use super::list::List;

/// The settings of the operator console.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Console {
    pub result_hosts: Hosts,
}

/// A list of hosts: an array, or comma-separated text as in the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hosts(pub Vec<String>);

impl Console {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        match self.result_hosts.0.iter().find(|host| !is_host_or_origin(host)) {
            Some(host) => not_allowed(
                "console.result_hosts",
                format_args!("{host:?}"),
                "each must be a host, such as cdn.example.com or *.example.com, or an origin such as \
                 http://127.0.0.1:9000",
            ),
            None => Ok(()),
        }
    }
}

/// `[http://|https://][*.]host[:port]`. The text becomes part of a header, so no other characters are allowed.
fn is_host_or_origin(text: &str) -> bool {
    let host = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    let host = host.strip_prefix("*.").unwrap_or(host);
    let (name, port) = host.split_once(':').unwrap_or((host, "1"));
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.split('.').all(label) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match List::deserialize(deserializer) {
            Ok(List::Text(text)) => Ok(Self(List::parts(&text).map(str::to_owned).collect())),
            Ok(List::Items(hosts)) => Ok(Self(hosts)),
            Err(_) => Err(D::Error::custom("must be a string, or a list of strings")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_host_or_origin;

    #[test]
    fn only_hosts_and_origins_are_allowed() {
        for host in [
            "cdn-us.eachlabs.ai",
            "*.example.com",
            "cdn.example.com:8443",
            "http://127.0.0.1:9000",
            "localhost",
        ] {
            assert!(is_host_or_origin(host), "{host}");
        }
        for host in [
            "",
            "*",
            "a b",
            "a;script-src *",
            "https://",
            "ftp://a",
            "a/b",
            "a..b",
            "a:0",
            "a:x",
            "'self'",
            "*.*.a",
        ] {
            assert!(!is_host_or_origin(host), "{host}");
        }
    }
}
