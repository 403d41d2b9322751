//! Loads the settings.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use config::builder::DefaultState;
use config::{Config, ConfigBuilder, ConfigError, Environment, File, FileFormat};
use secrecy::ExposeSecret;

use super::error::{NOT_SHOWN, SettingsError, not_allowed, secret_reason};
use super::secrets::{Sources, create_token, read_file, read_list, read_one};
use super::{DEFAULTS, Settings};

impl Settings {
    /// Reads the defaults, then `PORT`, then `file`, then the environment, with `DATABASE_URL` last, and checks the result.
    ///
    /// # Errors
    /// [`SettingsError`] for a file that cannot be read, an unknown key, or an invalid value.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        Self::from_environment(file)?.complete(file)
    }

    /// As [`Settings::load`], but first creates `admin.token_file` if it does not exist.
    ///
    /// # Errors
    /// As [`Settings::load`], and if the file cannot be created.
    pub fn load_to_serve(file: Option<&Path>) -> Result<Self, SettingsError> {
        let mut settings = Self::from_environment(file)?;
        let admin = &mut settings.admin;
        if admin.token.expose_secret().is_empty() {
            admin.token_created = create_token("admin.token_file", &admin.token_file)?;
        }
        settings.complete(file)
    }

    fn from_environment(file: Option<&Path>) -> Result<Self, SettingsError> {
        reject_misspelt(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        Self::from_layers(&layers_in_force(file)?)
    }

    /// The defaults, without a file and without the environment.
    ///
    /// # Panics
    /// If a value of `config/default.toml` is invalid: a bug.
    #[must_use]
    pub fn defaults() -> Self {
        let settings = default_layer().and_then(|layers| Self::from_layers(&layers)?.complete(None));
        settings.expect("the defaults are valid")
    }

    fn from_layers(layers: &Config) -> Result<Self, SettingsError> {
        layers.clone().try_deserialize().map_err(|error| explain(error, layers))
    }

    /// Reads the files of secrets, and checks the settings.
    fn complete(mut self, config: Option<&Path>) -> Result<Self, SettingsError> {
        self.read_files(config)?;
        self.apply_database_url()?;
        self.check()?;
        Ok(self)
    }

    /// Reads the files of secrets, such as those that container engines provide.
    fn read_files(&mut self, config: Option<&Path>) -> Result<(), SettingsError> {
        let Self { auth, eachlabs, admin, database, traces, sources, .. } = self;
        let files = [
            &auth.webhook_secrets_file,
            &auth.url_tokens_file,
            &admin.token_file,
            &admin.tokens_file,
            &database.url_file,
        ];
        *sources = Sources::of(config, files.map(PathBuf::as_path));
        read_list("auth.webhook_secrets_file", &auth.webhook_secrets_file, &mut auth.webhook_secrets)?;
        read_list("auth.url_tokens_file", &auth.url_tokens_file, &mut auth.url_tokens)?;
        read_list("traces.otlp_headers_file", &traces.otlp_headers_file, &mut traces.otlp_headers)?;
        read_one("eachlabs.api_key_file", &eachlabs.api_key_file, &mut eachlabs.api_key)?;
        read_list("admin.tokens_file", &admin.tokens_file, &mut admin.tokens)?;
        read_one("admin.token_file", &admin.token_file, &mut admin.token)?;
        read_one("database.url_file", &database.url_file, &mut database.url)
    }
}

/// The merged values: the defaults, then `PORT`, then `file`, then the environment of this process, with `DATABASE_URL` last.
pub(super) fn layers_in_force(file: Option<&Path>) -> Result<Config, SettingsError> {
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    layers(file, Environment::default(), variable("DATABASE_URL"), variable("PORT"))
}

/// The values of `config/default.toml`.
pub(super) fn default_layer() -> Result<Config, SettingsError> {
    let defaults = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    defaults.build().map_err(|error| unreadable(error, None))
}

fn layers(
    file: Option<&Path>,
    environment: Environment,
    database_url: Option<String>,
    port: Option<String>,
) -> Result<Config, SettingsError> {
    let mut layers = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(port) = port.filter(|port| !port.is_empty()) {
        layers = layers.add_source(File::from_str(&listen_on(&port)?, FileFormat::Toml));
    }
    if let Some(path) = file {
        layers = layers.add_source(File::from_str(&read_toml(path)?, FileFormat::Toml));
    }
    layers
        .add_source(environment.prefix("RECEIVER").prefix_separator("__").separator("__").ignore_empty(true))
        .set_override_option("database.url", database_url.filter(|url| !url.is_empty()))
        .and_then(ConfigBuilder::<DefaultState>::build)
        .map_err(|error| unreadable(error, file))
}

/// The settings that `PORT` implies.
fn listen_on(port: &str) -> Result<String, SettingsError> {
    match port.parse::<u16>() {
        Ok(port @ 1..) => Ok(format!("[http]\nlisten = \"0.0.0.0:{port}\"\n")),
        _ => not_allowed("PORT", port, "must be a port from 1 to 65535, or not set"),
    }
}

/// Rejects variables that look like settings but have a single underscore. If a secret was ignored, webhooks would not be
/// authenticated.
fn reject_misspelt(names: impl Iterator<Item = String>) -> Result<(), SettingsError> {
    let sections = || DEFAULTS.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']'));
    for name in names {
        let rest = name.strip_prefix("RECEIVER_").filter(|rest| !rest.starts_with('_'));
        let section = rest.and_then(|rest| rest.split('_').next());
        if section.is_some_and(|section| sections().any(|known| known.eq_ignore_ascii_case(section))) {
            let why = "use two underscores: RECEIVER__SECTION__KEY";
            return not_allowed(&name, NOT_SHOWN, why);
        }
    }
    Ok(())
}

/// The text of the file of `--config`.
fn read_toml(file: &Path) -> Result<String, SettingsError> {
    let unreadable = |why: &dyn Display| {
        SettingsError::Unreadable(format!("{}: the file cannot be read: {why}", file.display()))
    };
    let bytes = read_file(file).map_err(|error| unreadable(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(&"it is not UTF-8"))?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

/// A TOML syntax error. Without the line that the parser shows: it may contain a secret.
fn unreadable(error: ConfigError, file: Option<&Path>) -> SettingsError {
    SettingsError::Unreadable(match error {
        ConfigError::FileParse { cause, .. } => {
            let file = file.unwrap_or(Path::new("")).display();
            let cause = cause.to_string();
            let (place, why) = (cause.lines().next(), cause.lines().last());
            format!("{file}: {}: {}", place.unwrap_or_default(), why.unwrap_or_default())
        }
        other => other.to_string(),
    })
}

/// Adds the key and the value to an error of the library, which often lacks them.
fn explain(error: ConfigError, layers: &Config) -> SettingsError {
    let (key, why) = match error {
        ConfigError::Type { key: Some(key), expected, .. } => (key, format!("must be {expected}")),
        ConfigError::At { key: Some(key), error, .. } => {
            (key, error.to_string().replace("expected a duration", "must be a duration, like 10s"))
        }
        other => return SettingsError::Unreadable(other.to_string()),
    };
    if let Some(why) = secret_reason(&why) {
        return SettingsError::Unreadable(format!("{key} {why}"));
    }
    match layers.get_string(&key) {
        Ok(value) if key.contains('.') => SettingsError::NotAllowed { key, value, allowed: why },
        Ok(_) => SettingsError::Unreadable(format!("{key}: must be a section, not a value")),
        Err(_) => SettingsError::Unreadable(format!("{key}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let variables = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let environment = Environment::default().source(Some(variables));
        Settings::from_layers(&layers(None, environment, None, None)?)?.complete(None)
    }

    fn error(key: &str, value: &str) -> String {
        with(&[(key, value)]).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_allowed_and_as_documented() {
        let settings = with(&[]).unwrap();
        assert_eq!(settings.http.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.admin.listen.to_string(), "127.0.0.1:9090");
        assert_eq!(settings.http.max_body_bytes, 16 << 20);
        settings.require_auth_off_loopback().unwrap();
        let exposed = with(&[("RECEIVER__HTTP__LISTEN", "0.0.0.0:8080")]).unwrap();
        assert!(exposed.require_auth_off_loopback().is_err(), "nothing authenticates the senders");
        assert!(!settings.retention.removes_something());
    }

    #[test]
    fn the_connect_timeout_of_the_url_replaces_the_setting() {
        let timeout = |query| {
            let url = format!("postgres://h/d{query}");
            with(&[("RECEIVER__DATABASE__URL", &url)]).map(|settings| settings.database.connect_timeout)
        };
        assert_eq!(timeout("").unwrap(), Duration::from_secs(5));
        assert_eq!(timeout("?connect_timeout=7").unwrap(), Duration::from_secs(7));
        let error = timeout("?connect_timeout=7000").unwrap_err().to_string();
        assert!(error.starts_with("database.connect_timeout = 7000s"), "{error}");
    }

    /// `config/default.toml` is the only source of defaults: a field without a line is an error, and so is a line without a
    /// field.
    #[test]
    fn every_setting_has_a_field_and_a_line_in_the_defaults() {
        let load = |toml: &str| {
            let source = File::from_str(toml, FileFormat::Toml);
            Config::builder().add_source(source).build().unwrap().try_deserialize::<Settings>()
        };
        load(DEFAULTS).unwrap();
        let mut section = String::new();
        for line in DEFAULTS.lines() {
            if line.starts_with('[') {
                section = format!("\n{line}\n");
                let unknown =
                    load(&DEFAULTS.replace(&section, &format!("{section}unknown = 1\n"))).unwrap_err();
                assert!(unknown.to_string().contains("unknown field `unknown`"), "{section}: {unknown}");
            } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
                let (before, after) = DEFAULTS.split_once(&section).unwrap();
                let without = format!("{before}{section}{}", after.replacen(&format!("{line}\n"), "", 1));
                assert_ne!(without, DEFAULTS);
                assert!(load(&without).is_err(), "{key} has a default in the code");
            }
        }
    }

    #[test]
    fn the_environment_overrides_the_defaults() {
        let settings = with(&[
            ("RECEIVER__HTTP__LISTEN", "127.0.0.1:1"),
            ("RECEIVER__RECORDER__BATCH_ROWS", "7"),
            ("RECEIVER__DATABASE__MIGRATE", "false"),
            ("RECEIVER__SHUTDOWN__DRAIN_TIMEOUT", "2m"),
            ("RECEIVER__RETENTION__PAYLOADS", "90d"),
            ("RECEIVER__RETENTION__CONFLICTS", "forever"),
            ("RECEIVER__HTTP__IDLE_TIMEOUT", "1h"),
        ])
        .unwrap();
        assert_eq!(settings.http.listen.port(), 1);
        assert_eq!(settings.recorder.batch_rows, 7);
        assert!(!settings.database.migrate);
        assert_eq!(settings.shutdown.drain_timeout, Duration::from_mins(2));
        assert_eq!(settings.retention.payloads, Some(Duration::from_hours(90 * 24)));
        assert_eq!(settings.retention.conflicts, None);
        settings.require_auth_off_loopback().unwrap();
    }

    #[test]
    fn the_example_for_compose_contains_valid_settings() {
        let example = include_str!("../../.env.example");
        let lines = example.lines().filter_map(|line| line.strip_prefix("# ")?.split_once('='));
        let settings: Vec<_> = lines.filter(|(name, _)| name.starts_with("RECEIVER__")).collect();
        assert!(settings.len() > 5);
        with(&settings).unwrap();
    }

    #[test]
    fn port_overrides_only_the_defaults() {
        let listen = |port: &str, file: Option<&Path>, pairs: &[(&str, &str)]| {
            let variables = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let environment = Environment::default().source(Some(variables));
            layers(file, environment, None, Some(port.to_owned()))
                .and_then(|layers| Settings::from_layers(&layers))
                .map(|settings| settings.http.listen.to_string())
                .map_err(|error| error.to_string())
        };
        let (file, other) =
            (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(&file, "[http]\nlisten = \"127.0.0.1:1\"\n").unwrap();
        std::fs::write(&other, "[http]\nmax_requests = 9\n").unwrap();
        let variable = [("RECEIVER__HTTP__LISTEN", "127.0.0.1:2")];
        for (port, file, pairs, expected) in [
            ("10000", None, &[][..], "0.0.0.0:10000"),
            ("10000", Some(other.path()), &[], "0.0.0.0:10000"),
            ("10000", Some(file.path()), &[], "127.0.0.1:1"),
            ("10000", None, &variable, "127.0.0.1:2"),
            ("10000", Some(file.path()), &variable, "127.0.0.1:2"),
            ("", None, &[], "127.0.0.1:8080"),
        ] {
            assert_eq!(listen(port, file, pairs).unwrap(), expected, "{port} {file:?} {pairs:?}");
        }
        for port in ["0", "65536", "-1", "http", "0.0.0.0:80", " "] {
            let error = listen(port, None, &[]).unwrap_err();
            assert_eq!(error, format!("PORT = {port}: must be a port from 1 to 65535, or not set"));
        }
    }

    #[test]
    fn an_error_names_the_key_the_value_and_what_is_allowed() {
        assert_eq!(
            error("RECEIVER__HTTP__MAX_BODY_BYTES", "3"),
            "http.max_body_bytes = 3: must be from 1024 to 104857600"
        );
        assert_eq!(
            error("RECEIVER__HTTP__LISTEN", "nowhere"),
            "http.listen = nowhere: must be an IP address and a port, like 127.0.0.1:8080"
        );
        assert_eq!(error("RECEIVER__LOG__FORMAT", "xml"), "log.format = xml: must be auto, pretty or json");
        assert_eq!(error("RECEIVER__INTAKE__CAPACITY", "many"), "intake.capacity = many: must be an integer");
        for (key, value, parts) in [
            ("RECEIVER__HTTP__LISTENS", "x", ["http: unknown field `listens`", "`max_body_bytes`"]),
            ("RECEIVER__HTPP__LISTEN", "x", ["unknown field `htpp`", "`http`"]),
            ("RECEIVER__HTTP", "x", ["http", "must be a section, not a value"]),
            (
                "RECEIVER__SHUTDOWN__DRAIN_TIMEOUT",
                "soon",
                ["shutdown.drain_timeout = soon", "must be a duration, like 10s"],
            ),
            (
                "RECEIVER__RETENTION__PAYLOADS",
                "90",
                ["retention.payloads = 90", "must be \"forever\" or a duration in days, like 90d"],
            ),
            ("RECEIVER__HTTP__IDLE_TIMEOUT", "61m", ["http.idle_timeout = 3660s", "to 3600s"]),
            ("RECEIVER__RETENTION__PAYLOADS", "90m", ["retention.payloads = 1h 30m: ", "from 1d to 100y"]),
            ("RECEIVER__RETENTION__QUARANTINE", "900y", ["retention.quarantine = 900years: ", "to 100y"]),
            (
                "RECEIVER__RETENTION__EXECUTIONS",
                "23h",
                ["retention.executions = 23h: must be from 1d", "would be recorded as new"],
            ),
            ("RECEIVER__LOG__FILTER", "a=b=c", ["log.filter = \"a=b=c\"", "must be a level"]),
        ] {
            let text = error(key, value);
            for part in parts {
                assert!(text.contains(part), "{text:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn no_error_and_no_debug_output_shows_a_secret() {
        let settings = with(&[("RECEIVER__DATABASE__URL", "postgres://u:hunter2@h/d")]).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
        for url in ["postgres://u:hunter2@h:port/d", "mysql://u:hunter2@h/d", "hunter2"] {
            let text = error("RECEIVER__DATABASE__URL", url);
            assert!(text.contains("database.url") && !text.contains("hunter2"), "{text}");
        }
        let secrets = [
            ("database", "url"),
            ("admin", "token"),
            ("auth", "webhook_secrets"),
            ("auth", "url_tokens"),
            ("traces", "otlp_headers"),
        ];
        for (section, key) in secrets {
            for value in
                ["{ hunter2 = 1 }", "[[\"hunter2\"]]", "[{ a = \"hunter2\" }]", "{ a = \"hunter2\" }"]
            {
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(&file, format!("[{section}]\n{key} = {value}\n")).unwrap();
                let text = Settings::load(Some(file.path())).unwrap_err().to_string();
                assert!(
                    text.starts_with(&format!("{section}.{key} must be")) && !text.contains("hunter2"),
                    "{text}"
                );
            }
        }
        let text = error("RECEIVER__DATABASE", "postgres://u:hunter2@h/d");
        assert!(text.contains("database") && !text.contains("hunter2"), "{text}");
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(&file, "[database]\nurl = \"postgres://u:hunter2@h/d\n").unwrap();
        let text = Settings::load(Some(file.path())).unwrap_err().to_string();
        assert!(text.contains("line 2") && !text.contains("hunter2"), "{text}");
    }
}
