//! Settings: `config/default.toml` (compiled in), then a file, then the environment.
//!
//! Everything is checked before anything starts. A complaint names the key, the value and what
//! is allowed, but never a secret's value.

#![expect(missing_docs, reason = "config/default.toml documents every key, once")]

mod auth;
mod error;
mod retention;
mod secrets;
mod traces;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ::config::builder::DefaultState;
use ::config::{Config, ConfigBuilder, Environment, File, FileFormat};
use secrecy::{ExposeSecret, SecretString};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use sqlx::postgres::PgConnectOptions;

pub use error::SettingsError;
use error::{check_duration, check_range, explain, not_allowed, unreadable};
pub use retention::Retention;
pub use secrets::Secrets;
pub(crate) use secrets::Sources;
use secrets::{QUOTED, is_quoted, one_of_file, read_list};
pub(crate) use traces::Collector;
pub use traces::Traces;

/// `config/default.toml`: every setting with its default and what it means.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Everything that can be set. The keys' meanings and limits stand in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub http: Http,
    pub admin: Admin,
    pub auth: Auth,
    pub intake: Intake,
    pub spool: Spool,
    pub database: Database,
    pub recorder: Recorder,
    pub quarantine: Quarantine,
    pub conflicts: Conflicts,
    pub retention: Retention,
    pub shutdown: Shutdown,
    pub log: Log,
    pub traces: Traces,
    /// Where the secrets come from.
    #[serde(skip)]
    pub(crate) sources: Sources,
}

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    pub max_body_bytes: usize,
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    pub max_connections: usize,
    pub max_requests: usize,
    pub max_bytes_in_flight: usize,
}

/// `[admin]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    pub token: SecretString,
    pub token_file: PathBuf,
    pub read_connections: usize,
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub stalled_after: Duration,
    /// Interval between comments on an event stream without events. Only tests change it.
    #[serde(skip, default = "heartbeat")]
    pub heartbeat: Duration,
}

/// Shorter than the time after which proxies close a silent connection.
fn heartbeat() -> Duration {
    Duration::from_secs(10)
}

/// `[auth]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub webhook_secrets: Secrets,
    pub webhook_secrets_file: PathBuf,
    #[serde(with = "humantime_serde")]
    pub timestamp_tolerance: Duration,
    pub secret_header: bool,
    pub url_tokens: Secrets,
    pub url_tokens_file: PathBuf,
    pub allow_unauthenticated: bool,
}

/// `[intake]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intake {
    pub capacity: usize,
}

/// `[spool]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spool {
    pub dir: PathBuf,
    pub max_bytes: u64,
}

/// `[database]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    pub url: SecretString,
    pub url_file: PathBuf,
    pub embedded_dir: PathBuf,
    pub migrate: bool,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
}

/// `[recorder]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorder {
    pub connections: usize,
    pub batch_rows: usize,
    pub batch_bytes: usize,
    #[serde(with = "humantime_serde")]
    pub max_backoff: Duration,
}

/// `[quarantine]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    pub max_rows: i64,
    pub max_bytes: i64,
}

/// `[conflicts]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conflicts {
    pub max_per_execution: i64,
    pub max_bytes_per_execution: i64,
}

impl Conflicts {
    /// All are stored.
    pub const UNLIMITED: Self = Self { max_per_execution: i64::MAX, max_bytes_per_execution: i64::MAX };
}

/// `[shutdown]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Pretty,
    /// For machines: one JSON object a line.
    Json,
}

impl TryFrom<String> for LogFormat {
    type Error = &'static str;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        match &*name {
            "auto" => Ok(Self::Auto),
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err("must be auto, pretty or json"),
        }
    }
}

/// Refuses variables that would be settings but for an underscore: a secret that is overlooked
/// leaves the door open.
fn misspelt(names: impl Iterator<Item = String>) -> Result<(), SettingsError> {
    const SECTIONS: [&str; 13] = [
        "HTTP",
        "ADMIN",
        "AUTH",
        "INTAKE",
        "SPOOL",
        "DATABASE",
        "RECORDER",
        "QUARANTINE",
        "CONFLICTS",
        "RETENTION",
        "SHUTDOWN",
        "LOG",
        "TRACES",
    ];
    for name in names {
        let rest = name.strip_prefix("RECEIVER_").filter(|rest| !rest.starts_with('_'));
        let section = rest.and_then(|rest| rest.split('_').next());
        if section.is_some_and(|section| SECTIONS.contains(&section)) {
            let why = "settings begin with RECEIVER__SECTION__, with two underscores each".to_owned();
            return not_allowed(&name, NOT_SHOWN, why);
        }
    }
    Ok(())
}

/// The text of the file that `--config` names.
fn text_of(file: &Path) -> Result<String, SettingsError> {
    let unreadable = |why: &dyn Display| {
        SettingsError::Unreadable(format!("{}: the file cannot be read: {why}", file.display()))
    };
    let bytes = secrets::bytes(file).map_err(|error| unreadable(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(&"it is not UTF-8"))?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

/// In place of a secret.
const NOT_SHOWN: &str = "(not shown)";

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom("must be an IP address and a port, like 127.0.0.1:8080"))
}

impl Settings {
    /// Reads the defaults, then `file` if one is named, then the environment, and checks them.
    ///
    /// # Errors
    /// [`SettingsError`] for a file that cannot be read, an unknown key, a value of the wrong
    /// kind, or one outside its limits.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        misspelt(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        Self::layered(file, Environment::default(), std::env::var("DATABASE_URL").ok())
    }

    /// The defaults. Neither a file nor the environment is read.
    ///
    /// # Panics
    /// When `config/default.toml` holds a value that is not allowed: a bug.
    #[must_use]
    pub fn defaults() -> Self {
        let nothing = Environment::default().source(Some(std::collections::HashMap::default()));
        Self::layered(None, nothing, None).expect("the defaults are allowed")
    }

    fn layered(
        file: Option<&Path>,
        environment: Environment,
        database_url: Option<String>,
    ) -> Result<Self, SettingsError> {
        let mut layers = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(path) = file {
            layers = layers.add_source(File::from_str(&text_of(path)?, FileFormat::Toml));
        }
        let layers = layers
            .add_source(
                environment.prefix("RECEIVER").prefix_separator("__").separator("__").ignore_empty(true),
            )
            .set_override_option("database.url", database_url.filter(|url| !url.is_empty()))
            .and_then(ConfigBuilder::<DefaultState>::build)
            .map_err(|error| unreadable(error, file))?;
        let mut settings: Self = layers.clone().try_deserialize().map_err(|error| explain(error, &layers))?;
        settings.read_files(file)?;
        settings.check()?;
        Ok(settings)
    }

    /// Reads everything again, from where these settings came from.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub(crate) fn load_again(&self) -> Result<Self, SettingsError> {
        Self::load(self.sources.config.as_deref())
    }

    /// What stands in files of its own, as container engines hand out secrets.
    fn read_files(&mut self, config: Option<&Path>) -> Result<(), SettingsError> {
        let Self { auth, admin, database, traces, sources, .. } = self;
        let files =
            [&auth.webhook_secrets_file, &auth.url_tokens_file, &admin.token_file, &database.url_file];
        *sources = Sources::of(config, files.map(PathBuf::as_path));
        read_list("auth.webhook_secrets_file", &auth.webhook_secrets_file, &mut auth.webhook_secrets)?;
        read_list("auth.url_tokens_file", &auth.url_tokens_file, &mut auth.url_tokens)?;
        read_list("traces.otlp_headers_file", &traces.otlp_headers_file, &mut traces.otlp_headers)?;
        one_of_file("admin.token_file", &admin.token_file, &mut admin.token)?;
        one_of_file("database.url_file", &database.url_file, &mut database.url)
    }

    fn check(&self) -> Result<(), SettingsError> {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let (shortest, longest) = (Duration::from_millis(100), Duration::from_mins(10));
        check_range("http.max_body_bytes", self.http.max_body_bytes as u64, KIB, 256 * MIB)?;
        let in_flight = self.http.max_bytes_in_flight as u64;
        check_range(
            "http.max_bytes_in_flight",
            in_flight,
            self.http.max_body_bytes as u64,
            u64::from(u32::MAX),
        )?;
        check_range("http.max_connections", self.http.max_connections as u64, 16, 1_000_000)?;
        check_range("http.max_requests", self.http.max_requests as u64, 1, 65_536)?;
        check_duration("http.header_timeout", self.http.header_timeout, shortest, longest)?;
        check_duration("http.idle_timeout", self.http.idle_timeout, shortest, longest)?;
        check_duration("http.body_timeout", self.http.body_timeout, shortest, longest)?;
        self.auth.check()?;
        self.admin.check()?;
        let (rows, bytes) = (self.quarantine.max_rows, self.quarantine.max_bytes);
        check_range("quarantine.max_rows", u64::try_from(rows).unwrap_or(u64::MAX), 0, 1_000_000)?;
        check_range("quarantine.max_bytes", u64::try_from(bytes).unwrap_or(u64::MAX), 0, 1 << 40)?;
        let Conflicts { max_per_execution, max_bytes_per_execution } = self.conflicts;
        let (rows, bytes) = (u64::try_from(max_per_execution), u64::try_from(max_bytes_per_execution));
        check_range("conflicts.max_per_execution", rows.unwrap_or(u64::MAX), 0, 1_000_000)?;
        check_range("conflicts.max_bytes_per_execution", bytes.unwrap_or(u64::MAX), 0, 1 << 40)?;
        self.retention.check()?;
        check_range("intake.capacity", self.intake.capacity as u64, 1, 65_536)?;
        // A body has to fit, with what SQLite adds to it.
        let largest = 2 * self.http.max_body_bytes as u64;
        check_range("spool.max_bytes", self.spool.max_bytes, largest.max(MIB), i64::MAX as u64)?;
        check_range("recorder.connections", self.recorder.connections as u64, 1, 64)?;
        check_range("recorder.batch_rows", self.recorder.batch_rows as u64, 1, 100_000)?;
        check_range("recorder.batch_bytes", self.recorder.batch_bytes as u64, 64 * KIB, 256 * MIB)?;
        check_duration("recorder.max_backoff", self.recorder.max_backoff, shortest, longest)?;
        check_duration("database.connect_timeout", self.database.connect_timeout, shortest, longest)?;
        check_duration("database.statement_timeout", self.database.statement_timeout, shortest, longest)?;
        check_duration("shutdown.drain_timeout", self.shutdown.drain_timeout, Duration::ZERO, 6 * longest)?;
        if let Err(e) = self.log.filter.parse::<tracing_subscriber::EnvFilter>() {
            return not_allowed(
                "log.filter",
                &format!("{:?}", self.log.filter),
                format!("{e}; must be a level such as \"info\", or levels by module"),
            );
        }
        self.database.connect_options()?;
        self.traces.collector()?;
        Ok(())
    }
}

impl Database {
    /// Where the database is; `None` when no URL is set.
    ///
    /// # Errors
    /// [`SettingsError::NotAllowed`] when the URL cannot be read. The URL is not quoted: it may
    /// hold a password.
    pub fn connect_options(&self) -> Result<Option<PgConnectOptions>, SettingsError> {
        let url = self.url.expose_secret().trim();
        if url.is_empty() {
            return Ok(None);
        }
        if is_quoted(url) {
            return not_allowed("database.url", NOT_SHOWN, QUOTED.to_owned());
        }
        let postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        match PgConnectOptions::from_str(url) {
            Ok(options) if postgres => Ok(Some(options)),
            _ => not_allowed(
                "database.url",
                NOT_SHOWN,
                "must be like postgres://user:password@host:5432/name; percent-encode special \
                 characters in the password"
                    .to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let variables = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::layered(None, Environment::default().source(Some(variables)), None)
    }

    fn complaint(key: &str, value: &str) -> String {
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
    fn the_environment_wins_over_the_defaults() {
        let settings = with(&[
            ("RECEIVER__HTTP__LISTEN", "127.0.0.1:1"),
            ("RECEIVER__RECORDER__BATCH_ROWS", "7"),
            ("RECEIVER__DATABASE__MIGRATE", "false"),
            ("RECEIVER__SHUTDOWN__DRAIN_TIMEOUT", "2m"),
            ("RECEIVER__RETENTION__PAYLOADS", "90d"),
            ("RECEIVER__RETENTION__CONFLICTS", "forever"),
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
    fn a_complaint_names_the_key_the_value_and_what_is_allowed() {
        assert_eq!(
            complaint("RECEIVER__HTTP__MAX_BODY_BYTES", "3"),
            "http.max_body_bytes = 3: must be from 1024 to 268435456"
        );
        assert_eq!(
            complaint("RECEIVER__HTTP__LISTEN", "nowhere"),
            "http.listen = nowhere: must be an IP address and a port, like 127.0.0.1:8080"
        );
        assert_eq!(
            complaint("RECEIVER__LOG__FORMAT", "xml"),
            "log.format = xml: must be auto, pretty or json"
        );
        assert_eq!(
            complaint("RECEIVER__INTAKE__CAPACITY", "many"),
            "intake.capacity = many: must be an integer"
        );
        for (key, value, parts) in [
            ("RECEIVER__HTTP__LISTENS", "x", ["http: unknown field `listens`", "`max_body_bytes`"]),
            ("RECEIVER__HTPP__LISTEN", "x", ["unknown field `htpp`", "`http`"]),
            ("RECEIVER__HTTP", "x", ["http", "a plain value cannot stand here"]),
            (
                "RECEIVER__SHUTDOWN__DRAIN_TIMEOUT",
                "soon",
                ["shutdown.drain_timeout = soon", "must be a duration, like 10s"],
            ),
            (
                "RECEIVER__RETENTION__PAYLOADS",
                "90",
                ["retention.payloads = 90", "must be \"forever\", or a duration in days, like 90d"],
            ),
            ("RECEIVER__RETENTION__PAYLOADS", "90m", ["retention.payloads = 1h 30m: ", "from 1d to 100y"]),
            ("RECEIVER__RETENTION__QUARANTINE", "900y", ["retention.quarantine = 900years: ", "to 100y"]),
            (
                "RECEIVER__RETENTION__EXECUTIONS",
                "23h",
                ["retention.executions = 23h: must be from 1d", "would be recorded as new"],
            ),
            ("RECEIVER__LOG__FILTER", "a=b=c", ["log.filter = \"a=b=c\"", "must be a level"]),
        ] {
            let text = complaint(key, value);
            for part in parts {
                assert!(text.contains(part), "{text:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn the_password_of_the_database_never_shows() {
        let settings = with(&[("RECEIVER__DATABASE__URL", "postgres://u:hunter2@h/d")]).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
        for url in ["postgres://u:hunter2@h:port/d", "mysql://u:hunter2@h/d", "hunter2"] {
            let text = complaint("RECEIVER__DATABASE__URL", url);
            assert!(text.contains("database.url") && !text.contains("hunter2"), "{text}");
        }
        let text = complaint("RECEIVER__DATABASE", "postgres://u:hunter2@h/d");
        assert!(text.contains("database") && !text.contains("hunter2"), "{text}");
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(&file, "[database]\nurl = \"postgres://u:hunter2@h/d\n").unwrap();
        let text = Settings::load(Some(file.path())).unwrap_err().to_string();
        assert!(text.contains("line 2") && !text.contains("hunter2"), "{text}");
    }
}
