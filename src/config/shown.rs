//! The settings in force, without secrets: for the console, and as TOML. The types of secrets serialize without their
//! value.

use std::fmt::Write;
use std::path::Path;

use config::{Config, ValueKind};
use serde_json::Value;

use super::error::{NOT_SHOWN, SettingsError};
use super::load::{default_layer, layers_in_force};
use super::{DEFAULTS, Settings};

/// A setting in force.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// `[section]` in `config/default.toml`.
    pub(crate) section: String,
    pub(crate) key: String,
    pub(crate) value: String,
    /// Whether the value differs from the default.
    pub(crate) changed: bool,
    /// The comment in `config/default.toml`.
    pub(crate) comment: String,
}

impl Settings {
    /// All settings in the order of `config/default.toml`.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let [values, defaults] =
            [self, &Self::defaults()].map(|settings| serde_json::to_value(settings).unwrap_or_default());
        let (mut section, mut comment, mut shown) = (String::new(), Vec::new(), Vec::new());
        for line in DEFAULTS.lines() {
            if let Some(text) = line.strip_prefix('#') {
                comment.push(text.trim());
            } else if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                name.clone_into(&mut section);
                comment.clear();
            } else if let Some((key, _)) = line.split_once(" = ") {
                let [value, default] = [&values, &defaults].map(|values| text(&values[&section][key]));
                shown.push(Shown {
                    section: section.clone(),
                    key: key.to_owned(),
                    changed: value != default,
                    value,
                    comment: std::mem::take(&mut comment).join(" "),
                });
            } else {
                comment.clear();
            }
        }
        shown
    }

    /// The settings in force as TOML, with the default of each changed value. Secrets are not shown.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_as_toml(file: Option<&Path>) -> Result<String, SettingsError> {
        let [settings, default_settings] = [Self::load(file)?, Self::defaults()]
            .map(|settings| serde_json::to_value(settings).unwrap_or_default());
        let (in_force, defaults) = (layers_in_force(file)?, default_layer()?);
        let (mut section, mut text) = ("", String::new());
        for line in DEFAULTS.lines().filter(|line| !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name;
                let blank = if text.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{blank}[{section}]");
            } else if let Some((name, _)) = line.split_once(" = ") {
                let value = toml_value(&in_force, section, name, &settings[section][name]);
                let default = toml_value(&defaults, section, name, &default_settings[section][name]);
                let comment = if value == default { String::new() } else { format!(" # default: {default}") };
                let _ = writeln!(text, "{name} = {value}{comment}");
            }
        }
        Ok(text)
    }
}

/// A value as TOML; a secret as `"(not shown)"`. `setting` is the serialized setting: the types of secrets serialize
/// without their value.
fn toml_value(layers: &Config, section: &str, name: &str, setting: &Value) -> String {
    if setting.as_str().is_some_and(|text| text.ends_with("not shown)")) {
        return quoted(NOT_SHOWN);
    }
    let Ok(value) = layers.get::<config::Value>(&format!("{section}.{name}")) else {
        return "\"\"".to_owned();
    };
    match value.kind {
        ValueKind::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| quoted(&item.to_string())).collect();
            format!("[{}]", items.join(", "))
        }
        // In the environment, every value is a text.
        ValueKind::String(text) if setting.is_number() || setting.is_boolean() => text,
        ValueKind::String(text) => quoted(&text),
        other => other.to_string(),
    }
}

/// A TOML string. JSON's escapes are valid in TOML.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, Secrets};

    #[test]
    fn only_numbers_and_booleans_have_no_quotation_marks_in_toml() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[http]\nmax_requests = \"7\"\n[traces]\nservice_name = \"7e1\"\n").unwrap();
        let text = Settings::load_as_toml(Some(file.path())).unwrap();
        assert!(text.contains("\nmax_requests = 7 # default: 2048\n"), "{text}");
        assert!(text.contains("\nservice_name = \"7e1\" # default: "), "{text}");
    }

    #[test]
    fn every_setting_is_shown_and_no_secret() {
        let mut settings = Settings::defaults();
        let secret = "hush-this-is-a-secret";
        settings.admin.token = Secret::from(secret);
        settings.admin.tokens = Secrets::of(&["anna:read:hush-this-is-a-secret"]);
        settings.auth.webhook_secrets = Secrets::of(&[secret, secret]);
        settings.auth.url_tokens = Secrets::of(&[secret]);
        settings.database.url = Secret::from("postgres://u:hush-this-is-a-secret@h/d");
        settings.traces.otlp_headers = Secrets::of(&["authorization=hush-this-is-a-secret"]);
        settings.eachlabs.api_key = Secret::from(secret);
        settings.eachlabs.webhook_url = format!("https://h/webhooks/workflow-completed/{secret}");
        settings.http.max_requests = 7;
        let shown = settings.shown();
        assert!(!format!("{shown:?}").contains("hush"), "{shown:?}");
        let value = |section: &str, key: &str| {
            let setting = shown.iter().find(|shown| shown.section == section && shown.key == key).unwrap();
            (setting.value.as_str(), setting.changed)
        };
        assert_eq!(value("http", "max_requests"), ("7", true));
        assert_eq!(value("http", "idle_timeout"), ("1m 15s", false));
        assert_eq!(value("http", "listen"), ("127.0.0.1:8080", false));
        assert_eq!(value("log", "format"), ("auto", false));
        assert_eq!(value("retention", "payloads"), ("forever", false));
        assert_eq!(value("auth", "webhook_secrets"), ("(2 set, not shown)", true));
        assert_eq!(value("console", "result_hosts").0, "cdn-us.eachlabs.ai, storage.googleapis.com");
        let lines = DEFAULTS.lines().filter(|line| !line.starts_with('#') && line.contains(" = "));
        assert_eq!(shown.len(), lines.count());
    }
}
