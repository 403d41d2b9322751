//! Connects to PostgreSQL. Address and credentials can change while the receiver runs, and so can the server.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, Row};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::DbError;
use crate::config::{DatabaseServers, ServerRole};

/// The connection settings that all parts share.
#[derive(Debug, Clone)]
pub struct Database {
    current: Arc<RwLock<Current>>,
    /// For each server.
    connect_timeout: Duration,
    /// Notified when PostgreSQL rejects user or password.
    pub(crate) login_rejected: Arc<Notify>,
}

#[derive(Debug, Clone)]
struct Current {
    /// Connections of an earlier generation are closed.
    generation: u64,
    servers: DatabaseServers,
    /// Index of the server that was connected last. It is tried first.
    preferred: usize,
}

impl Database {
    /// `connect_timeout` applies to each server.
    #[must_use]
    pub fn new(servers: DatabaseServers, connect_timeout: Duration) -> Self {
        let current = Current { generation: 0, servers, preferred: 0 };
        Self { current: Arc::new(RwLock::new(current)), connect_timeout, login_rejected: Arc::default() }
    }

    /// Increases when the address changes, when a connection is lost, and when a connection to another server succeeds. All
    /// parts then connect again, so that none of them stays at a server that others have left.
    pub(crate) fn generation(&self) -> u64 {
        self.current.read().generation
    }

    pub(crate) fn set(&self, servers: DatabaseServers) {
        let mut current = self.current.write();
        *current = Current { generation: current.generation + 1, servers, preferred: 0 };
    }

    /// A connection of this generation was lost, so the others may be, too.
    pub(crate) fn lost(&self, generation: u64) {
        let mut current = self.current.write();
        if current.generation == generation {
            current.generation += 1;
        }
    }

    /// Connects to the first usable server, beginning with the last one that was usable. Also returns the generation.
    pub(super) async fn connect(&self, application_name: &str) -> Result<(PgConnection, u64), DbError> {
        let Current { generation, servers, preferred } = self.current.read().clone();
        let (hosts, mut errors) = (&servers.hosts, Vec::new());
        for n in (preferred..hosts.len()).chain(0..preferred.min(hosts.len())) {
            let connect = connect(&hosts[n], servers.role, application_name);
            let late = || DbError::Unreachable("no connection within database.connect_timeout".to_owned());
            match timeout(self.connect_timeout, connect).await.unwrap_or_else(|_| Err(late())) {
                Ok(connection) => return Ok((connection, self.prefer(n, generation))),
                Err(error) => {
                    // Class 28: user or password rejected. `credentials` then reads `database.url_file` again.
                    if error.code().is_some_and(|code| code.starts_with("28")) {
                        self.login_rejected.notify_one();
                    }
                    errors.push((&hosts[n], error));
                }
            }
        }
        if errors.len() == 1 {
            return Err(errors.remove(0).1);
        }
        let errors = errors.iter().map(|(host, error)| format!("{}: {error}", name(host)));
        Err(DbError::Unreachable(format!("no host is usable: {}", errors.collect::<Vec<_>>().join("; "))))
    }

    /// Returns the generation of a connection to the server `n` that was opened in `generation`.
    fn prefer(&self, n: usize, generation: u64) -> u64 {
        let mut current = self.current.write();
        if current.generation == generation && current.preferred != n {
            current.preferred = n;
            current.generation += 1;
            return current.generation;
        }
        generation
    }
}

/// The host and port, or the directory of the socket.
fn name(host: &PgConnectOptions) -> String {
    match host.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", host.get_host(), host.get_port()),
    }
}

/// Connects. Rejects a database that is not in UTF8, because it cannot store every webhook, and a server without the `role`.
async fn connect(
    options: &PgConnectOptions,
    role: Option<ServerRole>,
    application_name: &str,
) -> Result<PgConnection, DbError> {
    // PgBouncer rejects the parameter.
    let mut options = options.clone().extra_float_digits(None).disable_statement_logging();
    if options.get_application_name().is_none() {
        options = options.application_name(application_name);
    }
    let mut connection = PgConnection::connect_with(&options).await?;
    // One statement without parameters needs no transaction.
    let server = sqlx::raw_sql(
        "SELECT current_setting('server_encoding') AS encoding, current_database() AS name,
             pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only') = 'on' AS is_read_only",
    );
    let server = server.fetch_one(&mut connection).await?;
    let (encoding, name): (String, String) = (server.try_get("encoding")?, server.try_get("name")?);
    if encoding != "UTF8" {
        let name = name.replace('"', "\"\"");
        let message = format!(
            "the database {name} has the encoding {encoding}, but must have UTF8. An encoding cannot be changed: \
             create another database and set database.url to it, or drop this one first. CREATE DATABASE \
             \"{name}\" ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"
        );
        return Err(DbError::Unavailable { code: None, message });
    }
    let unusable = match role {
        Some(ServerRole::Primary) if server.try_get("is_standby")? => "is a standby",
        Some(ServerRole::ReadWrite) if server.try_get("is_read_only")? => "accepts no writes",
        _ => return Ok(connection),
    };
    // Lets the server end the session at once.
    let _ = connection.close().await;
    Err(DbError::Unreachable(format!("the server {unusable}")))
}
