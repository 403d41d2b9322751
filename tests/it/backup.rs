//! Backup and restore: runs the commands of `docs/deployment.md`.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::support::fixtures::execution;
use crate::support::postgres::{UNREACHABLE, new_database, programs, rows, until_rows, url};
use crate::support::process::{Process, program, run_to_end};

/// The shell commands of the section, one string for each code block. Those of Compose are left out: they need Docker.
fn documented_commands() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deployment.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split("\n## Backup and restore\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    blocks.filter(|block| !block.contains("docker compose")).collect()
}

fn shell(dir: &Path, commands: &str, database: &str) {
    let receiver = Path::new(env!("CARGO_BIN_EXE_workflow-receiver")).parent().unwrap();
    let path = format!("{}:{}:{}", programs().display(), receiver.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-ec", commands]).current_dir(dir).env("PATH", path).env("DATABASE_URL", database);
    let (text, code) = run_to_end(&mut shell);
    assert_eq!(code, Some(0), "{commands}: {text}");
}

fn migrate(dir: &Path, database: &str) {
    let (text, code) = run_to_end(program(dir).arg("migrate").env("DATABASE_URL", database));
    assert_eq!(code, Some(0), "{text}");
}

async fn post(process: &Process, ids: std::ops::Range<usize>) {
    for n in ids {
        process.accept(execution(&format!("e{n}"), "completed")).await;
    }
}

/// Executions with their number of deliveries.
async fn recorded(database: &PgConnectOptions) -> Vec<serde_json::Value> {
    rows(database, "SELECT execution_id, deliveries FROM executions ORDER BY first_received_at").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_contains_every_webhook_that_was_acknowledged_before_it() {
    let [copy_spool, dump, restore, check] = documented_commands().try_into().unwrap();
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let receiver = |database: &str| {
        let mut command = program(dir.path());
        command.env("DATABASE_URL", database).env("RECEIVER__SHUTDOWN__DRAIN_TIMEOUT", "0s");
        command
    };
    migrate(dir.path(), &url(&database));
    // Ten executions are recorded, and ten deliveries are in the spool.
    let process = Process::start(&mut receiver(&url(&database)));
    post(&process, 0..10).await;
    until_rows(&database, "SELECT 1 AS x FROM executions", 10).await;
    process.terminate();
    let process = Process::start(&mut receiver(UNREACHABLE));
    post(&process, 10..20).await;
    process.terminate();
    shell(dir.path(), &copy_spool, "");
    // Between the two steps, the receiver records the deliveries of the copied spool, and one more.
    let process = Process::start(&mut receiver(&url(&database)));
    post(&process, 20..21).await;
    until_rows(&database, "SELECT 1 AS x FROM executions", 21).await;
    shell(dir.path(), &dump, &url(&database));
    process.kill();

    // Everything is lost.
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    let empty = "DROP SCHEMA public CASCADE; CREATE SCHEMA public";
    sqlx::raw_sql(empty).execute(&mut connection).await.unwrap();

    shell(dir.path(), &restore, &url(&database));
    let process = Process::start(&mut receiver(&url(&database)));
    let duplicates = "SELECT 1 AS x FROM executions WHERE deliveries = 2";
    until_rows(&database, duplicates, 10).await;
    assert_eq!(process.counter("spool_unreadable_total").await, 0);
    let admin = format!("export RECEIVER__ADMIN__LISTEN={}; {check}", process.admin);
    shell(dir.path(), &admin, &url(&database));
    let expected: Vec<_> = (0..21)
        .map(|n| json!({ "execution_id": format!("e{n}"), "deliveries": if (10..20).contains(&n) { 2 } else { 1 } }))
        .collect();
    assert_eq!(recorded(&database).await, expected);
    // The receiver works with the restored schema.
    post(&process, 21..22).await;
    until_rows(&database, "SELECT 1 AS x FROM executions", 22).await;
    process.terminate();
}

/// The receiver stops while PostgreSQL is down, so the copied spool holds deliveries that the dump does not contain.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_are_only_in_the_copied_spool_are_recorded_after_the_restore() {
    let [copy_spool, dump, restore, _] = documented_commands().try_into().unwrap();
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    migrate(dir.path(), &url(&database));
    let process = Process::start(program(dir.path()).env("DATABASE_URL", UNREACHABLE));
    post(&process, 0..10).await;
    // As a power failure leaves it.
    process.kill();
    shell(dir.path(), &copy_spool, "");
    shell(dir.path(), &dump, &url(&database));
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    let restored = new_database().await;
    shell(dir.path(), &restore, &url(&restored));
    let process = Process::start(program(dir.path()).env("DATABASE_URL", url(&restored)));
    until_rows(&restored, "SELECT 1 AS x FROM executions WHERE deliveries = 1", 10).await;
    assert_eq!(process.counter("spool_unreadable_total").await, 0);
    process.terminate();
}
