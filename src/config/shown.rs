//! The settings in force, without secrets. The types of secrets serialize without their value.

use serde_json::Value;

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
