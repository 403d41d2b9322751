//! Settings: `config/default.toml` (compiled in), then a file, then the environment.
//!
//! To add a setting, add a field here, a line in `config/default.toml` and its limits in `check.rs`. A test fails if the
//! field or the line is missing. Then pass the value to the part that uses it, in `server/start.rs`.

#![expect(missing_docs, reason = "config/default.toml documents every key")]

mod admin;
mod auth;
mod check;
mod console;
mod database;
mod database_url;
mod eachlabs;
mod error;
mod list;
mod load;
mod retention;
mod secrets;
mod shown;
mod traces;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use strum::{EnumString, VariantNames};

pub(crate) use admin::NamedToken;
pub use admin::Role;
pub use console::{Console, Hosts};
pub use database_url::DatabaseServers;
pub(crate) use database_url::ServerRole;
pub(crate) use eachlabs::ApiAccess;
pub use eachlabs::{ApiPaths, Eachlabs, KeyHeader};
pub use error::SettingsError;
pub use retention::Retention;
pub use secrets::{Secret, Secrets};
pub(crate) use secrets::{Sources, random_token};
pub(crate) use shown::Shown;
pub(crate) use traces::Collector;
pub use traces::Traces;

/// `config/default.toml`: every setting with its default and documentation.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// All settings. `config/default.toml` documents keys and limits.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub http: Http,
    pub admin: Admin,
    pub console: Console,
    pub auth: Auth,
    pub eachlabs: Eachlabs,
    pub intake: Intake,
    pub spool: Spool,
    pub database: Database,
    pub recorder: Recorder,
    pub reconcile: Reconcile,
    pub verification: Verification,
    pub quarantine: Quarantine,
    pub conflicts: Conflicts,
    pub expected: Expected,
    pub retention: Retention,
    pub shutdown: Shutdown,
    pub log: Log,
    pub traces: Traces,
    #[serde(skip)]
    pub(crate) sources: Sources,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    pub health: bool,
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

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    pub token: Secret,
    pub token_file: PathBuf,
    pub tokens: Secrets,
    pub tokens_file: PathBuf,
    /// Whether [`Settings::load_to_serve`] has created `token_file`.
    #[serde(skip)]
    pub token_created: bool,
    pub read_connections: usize,
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub stalled_after: Duration,
    /// Interval between the comments that an event stream sends while it has no events. Only tests change it.
    #[serde(skip, default = "heartbeat")]
    pub heartbeat: Duration,
}

/// Shorter than the time after which proxies close a silent connection.
fn heartbeat() -> Duration {
    Duration::from_secs(10)
}

#[derive(Debug, Clone, Deserialize, Serialize)]
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
    pub verify_unsigned: bool,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Intake {
    pub capacity: usize,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Spool {
    pub dir: PathBuf,
    pub max_bytes: u64,
    /// How long a write waits while another process has locked `spool.db`. Not a setting: only tests change it.
    #[serde(skip, default = "spool_lock_timeout")]
    pub lock_timeout: Duration,
}

fn spool_lock_timeout() -> Duration {
    Duration::from_secs(5)
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    pub url: Secret,
    pub url_file: PathBuf,
    pub private_dir: PathBuf,
    pub migrate: bool,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Recorder {
    pub connections: usize,
    pub batch_rows: usize,
    pub batch_bytes: usize,
    #[serde(with = "humantime_serde")]
    pub max_backoff: Duration,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    pub enabled: bool,
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    #[serde(with = "humantime_serde")]
    pub running_after: Duration,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    pub max_rows: i64,
    pub max_bytes: i64,
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    pub max_requests_per_minute: u32,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    pub max_rows: i64,
    pub max_bytes: i64,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Conflicts {
    pub max_per_execution: i64,
    pub max_bytes_per_execution: i64,
}

impl Conflicts {
    pub const UNLIMITED: Self = Self { max_per_execution: i64::MAX, max_bytes_per_execution: i64::MAX };
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    #[serde(with = "humantime_serde")]
    pub overdue_after: Duration,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    #[serde(deserialize_with = "variant")]
    pub format: LogFormat,
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames, Serialize)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    Pretty,
    /// One JSON object per line.
    Json,
}

/// Reads the name of a variant. The error lists all names.
fn variant<'de, D: Deserializer<'de>, T: FromStr + VariantNames>(deserializer: D) -> Result<T, D::Error> {
    let name = String::deserialize(deserializer)?;
    let (last, others) = T::VARIANTS.split_last().expect("an enum with variants");
    name.parse().map_err(|_| D::Error::custom(format!("must be {} or {last}", others.join(", "))))
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom("must be an IP address and a port, like 127.0.0.1:8080"))
}
