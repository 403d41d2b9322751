//! `[traces]`

use std::path::PathBuf;

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::error::{NOT_SHOWN, SettingsError, not_allowed};
use super::secrets::Secrets;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    pub otlp_endpoint: String,
    pub otlp_headers: Secrets,
    pub otlp_headers_file: PathBuf,
    pub sample_ratio: f64,
    pub service_name: String,
}

/// The OpenTelemetry collector that receives the traces.
#[derive(Debug, Clone)]
pub(crate) struct Collector {
    /// Host and port.
    pub(crate) address: String,
    pub(crate) path: Uri,
    /// The values are secrets.
    pub(crate) headers: HeaderMap,
}

impl Traces {
    /// `None` when traces are off.
    ///
    /// # Errors
    /// [`SettingsError::NotAllowed`]
    pub(crate) fn collector(&self) -> Result<Option<Collector>, SettingsError> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return not_allowed("traces.sample_ratio", self.sample_ratio, "must be from 0 to 1");
        }
        if self.service_name.trim().is_empty() {
            let why = "must not be empty: collectors group traces by it";
            return not_allowed("traces.service_name", &self.service_name, why);
        }
        let headers = self.headers()?;
        let endpoint = &*self.otlp_endpoint;
        if endpoint.is_empty() {
            return Ok(None);
        }
        let usable =
            |uri: &Uri| uri.scheme_str() == Some("http") && uri.query().is_none() && !endpoint.contains('@');
        let collector = || {
            let uri = endpoint.parse().ok().filter(usable)?;
            let address = format!("{}:{}", uri.host()?, uri.port_u16().unwrap_or(80));
            let path = format!("{}/v1/traces", uri.path().trim_end_matches('/')).parse().ok()?;
            Some(Collector { address, path, headers })
        };
        if let Some(collector) = collector() {
            return Ok(Some(collector));
        }
        // The text before an @ may be a password.
        let shown = if endpoint.contains('@') { NOT_SHOWN } else { endpoint };
        let why = "must be like http://127.0.0.1:4318, without TLS, user and query. Use the collector's port for OTLP \
                   over HTTP";
        not_allowed("traces.otlp_endpoint", shown, why)
    }

    fn headers(&self) -> Result<HeaderMap, SettingsError> {
        let header = |text: &str| {
            let (name, value) = text.split_once('=')?;
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
        };
        let headers: Option<HeaderMap> =
            self.otlp_headers.0.iter().map(|text| header(text.expose_secret())).collect();
        match headers {
            Some(headers) => Ok(headers),
            None => not_allowed("traces.otlp_headers", NOT_SHOWN, "each must be name=value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn traces(change: impl FnOnce(&mut Traces)) -> Result<Option<Collector>, String> {
        let mut traces = Settings::defaults().traces;
        change(&mut traces);
        traces.collector().map_err(|error| error.to_string())
    }

    #[test]
    fn traces_are_off_until_an_endpoint_is_set() {
        assert!(traces(|_| {}).unwrap().is_none());
        for (endpoint, address, path) in [
            ("http://127.0.0.1:4318", "127.0.0.1:4318", "/v1/traces"),
            ("http://collector:4318/", "collector:4318", "/v1/traces"),
            ("http://collector/otlp/", "collector:80", "/otlp/v1/traces"),
            ("http://[::1]:4318", "[::1]:4318", "/v1/traces"),
        ] {
            let collector = traces(|t| t.otlp_endpoint = endpoint.to_owned()).unwrap().unwrap();
            assert_eq!((&*collector.address, collector.path.path()), (address, path), "{endpoint}");
        }
    }

    #[test]
    fn errors_name_the_setting_and_show_no_secret() {
        for endpoint in ["https://collector:4318", "collector:4318", "http://", "4318", "http://c/?key=v"] {
            let why = traces(|t| t.otlp_endpoint = endpoint.to_owned()).unwrap_err();
            let begin = format!("traces.otlp_endpoint = {endpoint}: must be like http://127.0.0.1:4318");
            assert!(why.starts_with(&begin), "{why}");
        }
        let why = traces(|t| t.otlp_endpoint = "http://u:hunter2@collector:4318".to_owned()).unwrap_err();
        assert!(why.starts_with("traces.otlp_endpoint") && !why.contains("hunter2"), "{why}");
        for headers in ["hunter2", "a b=hunter2", "a=hun\nter2"] {
            let why = traces(|t| t.otlp_headers = Secrets::of(&[headers])).unwrap_err();
            assert_eq!(why, "traces.otlp_headers = (not shown): each must be name=value");
        }
        for ratio in [-0.1, 1.1, f64::NAN] {
            let why = traces(|t| t.sample_ratio = ratio).unwrap_err();
            assert_eq!(why, format!("traces.sample_ratio = {ratio}: must be from 0 to 1"));
        }
        assert!(traces(|t| t.service_name = " ".to_owned()).unwrap_err().contains("traces.service_name"));
    }
}
