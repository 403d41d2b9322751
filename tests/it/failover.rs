//! A failover to another PostgreSQL: recording and reading follow.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use private_postgres::Postgres;
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use workflow_receiver::db::{Database, create_database, migrate};

use crate::support::fixtures::execution;
use crate::support::postgres::until_rows;
use crate::support::process::{Process, program};
use crate::support::wait::PATIENCE;

/// Two independent servers.
struct Servers {
    old: Postgres,
    new: Postgres,
    dir: TempDir,
}

impl Servers {
    async fn start() -> Self {
        // The user that runs PostgreSQL needs access to this directory.
        let dir = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let start = async |name: &str| {
            let server = tokio::task::block_in_place(|| Postgres::start(&dir.path().join(name))).unwrap();
            let options = server.connect_options();
            create_database(&options).await.unwrap();
            migrate(&Database::new(options.into(), PATIENCE)).await.unwrap();
            server
        };
        let (old, new) = (start("old").await, start("new").await);
        Self { old, new, dir }
    }

    async fn stop(self) {
        tokio::join!(self.old.stop(), self.new.stop());
    }
}

fn socket(server: &Postgres) -> String {
    server.connect_options().get_socket().unwrap().display().to_string()
}

async fn execute(server: &Postgres, statements: &[&'static str]) {
    let mut connection = PgConnection::connect_with(&server.connect_options()).await.unwrap();
    for statement in statements {
        sqlx::raw_sql(*statement).execute(&mut connection).await.unwrap();
    }
}

fn start_receiver(dir: &Path, url: String) -> Process {
    let mut receiver = program(dir);
    // The next webhook notices the lost connection, not a timer.
    receiver.env("RECEIVER__RECORDER__MAX_BACKOFF", "100ms").env("RECEIVER__RECORDER__CONNECTIONS", "1");
    Process::start(receiver.env("DATABASE_URL", url))
}

/// The executions that the API shows now.
async fn shown(process: &Process) -> Vec<String> {
    let url = format!("http://{}/api/v1/executions", process.admin);
    let page: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let id = |item: &Value| item["execution_id"].as_str().unwrap().to_owned();
    page["items"].as_array().unwrap_or_else(|| panic!("{page}")).iter().map(id).collect()
}

async fn recorded_by(server: &Postgres) {
    until_rows(&server.connect_options(), "SELECT * FROM executions", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_follows_the_host_that_accepts_writes() {
    let servers = Servers::start().await;
    let dir = TempDir::new().unwrap();
    let hosts = format!("{},{}", socket(&servers.old), socket(&servers.new));
    let url =
        format!("postgres:///workflow_receiver?host={hosts}&user=postgres&target_session_attrs=read-write");
    let mut process = start_receiver(dir.path(), url);
    process.accept(execution("first", "completed")).await;
    recorded_by(&servers.old).await;
    assert_eq!(shown(&process).await, ["first"]);

    // The sessions stay open, like those of a demoted server behind a proxy.
    let demote = ["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"];
    execute(&servers.old, &demote).await;
    process.accept(execution("second", "completed")).await;
    recorded_by(&servers.new).await;
    assert_eq!(shown(&process).await, ["second"], "reads follow at once");

    // Neither accepts writes.
    execute(&servers.new, &demote).await;
    process.accept(execution("third", "completed")).await;
    let line = process.wait_for("cannot be recorded");
    assert!(line.contains("no host is usable") && line.contains("accepts no writes"), "{line}");
    let promote = ["ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"];
    let options = servers.old.connect_options().options([("default_transaction_read_only", "off")]);
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    for statement in promote {
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    }
    until_rows(&servers.old.connect_options(), "SELECT * FROM executions", 2).await;
    assert_eq!(shown(&process).await, ["third", "first"]);
    process.terminate();
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_follow_recording_to_another_server_at_the_same_address() {
    let servers = Servers::start().await;
    let dir = TempDir::new().unwrap();
    let address = servers.dir.path().join("address");
    symlink(socket(&servers.old), &address).unwrap();
    let url = format!("postgres:///workflow_receiver?host={}&user=postgres", address.display());
    let process = start_receiver(dir.path(), url);
    process.accept(execution("first", "completed")).await;
    recorded_by(&servers.old).await;
    assert_eq!(shown(&process).await, ["first"]);

    std::fs::remove_file(&address).unwrap();
    symlink(socket(&servers.new), &address).unwrap();
    // The connections for reading stay open.
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'workflow-receiver'";
    execute(&servers.old, &[end]).await;
    process.accept(execution("second", "completed")).await;
    recorded_by(&servers.new).await;
    assert_eq!(shown(&process).await, ["second"]);
    process.terminate();
    servers.stop().await;
}

/// A standby may not have the latest numbers of the previous primary. It continues with higher `batch_id`s than those of its
/// batches without a number.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_a_standby_has_without_a_number_are_numbered_after_the_failover() {
    let servers = Servers::start().await;
    let dir = TempDir::new().unwrap();
    let address = servers.dir.path().join("address");
    symlink(socket(&servers.old), &address).unwrap();
    let url = format!("postgres:///workflow_receiver?host={}&user=postgres", address.display());
    let process = start_receiver(dir.path(), url);
    for n in 1..=3 {
        process.accept(execution(&format!("old {n}"), "completed")).await;
        until_rows(&servers.old.connect_options(), &numbered_batches(n), 1).await;
    }
    let standby = "INSERT INTO change_batches (size, types, execution_ids, workflow_ids, bulk_ids, statuses)
                   VALUES (1, '{execution.ended}', '{unnumbered}', '{w}', '{NULL}', '{completed}');
                   SELECT setval(pg_get_serial_sequence('change_batches', 'batch_id'), 100)";
    execute(&servers.new, &[standby]).await;
    std::fs::remove_file(&address).unwrap();
    symlink(socket(&servers.new), &address).unwrap();
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'workflow-receiver'";
    execute(&servers.old, &[end]).await;
    process.accept(execution("new", "completed")).await;
    until_rows(&servers.new.connect_options(), &numbered_batches(2), 1).await;
    process.terminate();
    servers.stop().await;
}

/// Has one row if exactly `count` batches have a number, and all of them.
fn numbered_batches(count: usize) -> String {
    format!(
        "SELECT 1 AS all_numbered FROM change_batches HAVING count(last_change) = {count} AND count(*) = {count}"
    )
}
