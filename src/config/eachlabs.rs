//! `[eachlabs]`

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize, Serializer};
use strum::{EnumString, VariantNames};
use url::Url;

use super::error::{NOT_SHOWN, SettingsError, check_duration, check_range, not_allowed};
use super::secrets::{QUOTED, Secret, is_quoted};
use super::variant;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Eachlabs {
    pub api_key: Secret,
    pub api_key_file: PathBuf,
    pub base_url: String,
    #[serde(deserialize_with = "variant")]
    pub paths: ApiPaths,
    #[serde(deserialize_with = "variant")]
    pub key_header: KeyHeader,
    #[serde(serialize_with = "as_secret")]
    pub webhook_url: String,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    pub max_requests: usize,
}

/// The URL may end with a URL token.
#[expect(clippy::ptr_arg, reason = "serde calls it with the field's type")]
fn as_secret<S: Serializer>(text: &String, serializer: S) -> Result<S::Ok, S::Error> {
    Secret::from(text.as_str()).serialize(serializer)
}

/// The paths of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames, Serialize)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ApiPaths {
    /// `Older` if the path of `base_url` ends with `/api/v1`, otherwise `Current`.
    Auto,
    /// `/v1/workflows/…`
    Current,
    /// `/{workflow}/trigger`, `/executions/…`
    Older,
}

/// The header with the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames, Serialize)]
pub enum KeyHeader {
    /// `X-API-Key: KEY`
    #[serde(rename = "X-API-Key")]
    #[strum(serialize = "X-API-Key")]
    XApiKey,
    /// `Authorization: Bearer KEY`
    Authorization,
}

/// The address of the API and the key for it.
#[derive(Debug, Clone)]
pub(crate) struct ApiAccess {
    pub(crate) base_url: Url,
    pub(crate) is_older: bool,
    pub(crate) header: (HeaderName, HeaderValue),
    pub(crate) key: Secret,
}

impl Eachlabs {
    /// `None` without a key: then nothing is requested from the API.
    ///
    /// # Errors
    /// [`SettingsError::NotAllowed`]
    pub(crate) fn access(&self) -> Result<Option<ApiAccess>, SettingsError> {
        let second = Duration::from_secs(1);
        check_duration("eachlabs.timeout", self.timeout, second, 300 * second)?;
        check_range("eachlabs.max_requests", self.max_requests, 1, 64)?;
        self.public_url()?;
        let base_url = self.base_url()?;
        let key = self.api_key.expose_secret();
        if key.is_empty() {
            return Ok(None);
        }
        if is_quoted(key) {
            return not_allowed("eachlabs.api_key", NOT_SHOWN, QUOTED);
        }
        let (name, value) = match self.key_header {
            KeyHeader::XApiKey => (HeaderName::from_static("x-api-key"), HeaderValue::from_str(key)),
            KeyHeader::Authorization => (AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}"))),
        };
        let Ok(mut value) = value else {
            return not_allowed("eachlabs.api_key", NOT_SHOWN, "contains a control character");
        };
        value.set_sensitive(true);
        let is_older = match self.paths {
            ApiPaths::Auto => base_url.path().trim_end_matches('/').ends_with("/api/v1"),
            ApiPaths::Current => false,
            ApiPaths::Older => true,
        };
        Ok(Some(ApiAccess { base_url, is_older, header: (name, value), key: self.api_key.clone() }))
    }

    fn base_url(&self) -> Result<Url, SettingsError> {
        let usable = |url: &Url| {
            let host = url.host_str().unwrap_or_default();
            let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
            let is_loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
            let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
            is_plain && (url.scheme() == "https" || url.scheme() == "http" && is_loopback)
        };
        if let Some(url) = Url::parse(&self.base_url).ok().filter(usable) {
            return Ok(url);
        }
        // The text before an @ may be a password.
        let shown = if self.base_url.contains('@') { NOT_SHOWN } else { &self.base_url };
        let why = "must be like https://api.eachlabs.ai, without user and query; http only on loopback";
        not_allowed("eachlabs.base_url", shown, why)
    }

    /// The public URL of the webhook port; `None` if it is not set.
    ///
    /// # Errors
    /// [`SettingsError::NotAllowed`]
    pub(crate) fn public_url(&self) -> Result<Option<Url>, SettingsError> {
        if self.webhook_url.is_empty() {
            return Ok(None);
        }
        let usable = |url: &Url| matches!(url.scheme(), "http" | "https") && url.host().is_some();
        if let Some(url) = Url::parse(&self.webhook_url).ok().filter(usable) {
            return Ok(Some(url));
        }
        // It may contain a token.
        let why = "must be like https://hooks.example.com/webhooks/workflow-completed";
        not_allowed("eachlabs.webhook_url", NOT_SHOWN, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn access(change: impl FnOnce(&mut Eachlabs)) -> Result<Option<ApiAccess>, String> {
        let mut eachlabs = Settings::defaults().eachlabs;
        eachlabs.api_key = "a-key".into();
        change(&mut eachlabs);
        eachlabs.access().map_err(|error| error.to_string())
    }

    #[test]
    fn the_api_is_not_used_without_a_key() {
        assert!(access(|e| e.api_key = "".into()).unwrap().is_none());
    }

    #[test]
    fn one_setting_switches_between_the_hosts() {
        for (base_url, is_older) in [
            ("https://api.eachlabs.ai", false),
            ("https://workflows.eachlabs.run/api/v1", true),
            ("https://workflows.eachlabs.run/api/v1/", true),
            ("http://127.0.0.1:1", false),
        ] {
            let access = access(|e| e.base_url = base_url.to_owned()).unwrap().unwrap();
            assert_eq!(access.is_older, is_older, "{base_url}");
            assert_eq!(access.header.0, "x-api-key");
        }
    }

    #[test]
    fn errors_name_the_setting_and_show_no_secret() {
        for base_url in
            ["http://api.eachlabs.ai", "api.eachlabs.ai", "https://u:hunter2@a/", "https://a/?k=v", ""]
        {
            let why = access(|e| e.base_url = base_url.to_owned()).unwrap_err();
            assert!(why.starts_with("eachlabs.base_url = ") && !why.contains("hunter2"), "{why}");
        }
        for key in ["\"hunter2\"", "hun\nter2"] {
            let why = access(|e| e.api_key = key.into()).unwrap_err();
            assert!(why.starts_with("eachlabs.api_key = (not shown)"), "{why}");
        }
        let why = access(|e| e.webhook_url = "hunter2".to_owned()).unwrap_err();
        assert!(why.starts_with("eachlabs.webhook_url = (not shown)"), "{why}");
        let header = access(|e| e.key_header = KeyHeader::Authorization).unwrap().unwrap().header;
        assert_eq!(header.1, "Bearer a-key");
        assert!(!format!("{header:?}").contains("a-key"));
    }
}
