//! Signals: each signal that ends a process by default stops the receiver gracefully; SIGHUP re-reads secrets.

use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fixtures::execution;
use crate::support::postgres::{UNREACHABLE, new_database, rows, url};
use crate::support::process::{Process, program, running_postgres};
use crate::support::terminal::Terminal;

/// For signals without a name in `rustix`.
fn kill(process: &Process, signal: &str) {
    let command = format!("kill -{signal} {}", process.id());
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{signal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_that_ends_a_process_by_default_stops_the_receiver_gracefully() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let named = ["QUIT", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "XCPU"];
    let linux = ["IO", "PWR", "16", "34", "37", "64"];
    let more: &[&str] = if cfg!(target_os = "linux") { &linux } else { &[] };
    for signal in named.iter().chain(more) {
        let mut process = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
        process.accept(execution(signal, "completed")).await;
        kill(&process, signal);
        process.wait_for("\"stopped\"");
        let (status, log) = process.ended();
        assert_eq!(status.code(), Some(0), "{signal}: {log:#?}");
        let recorded = format!("SELECT status FROM executions WHERE execution_id = '{signal}'");
        assert_eq!(rows(&database, &recorded).await, [json!({ "status": "completed" })], "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_file_sizes_and_a_closed_pipe_do_not_end_the_receiver() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let mut process = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
    process.signal(Signal::PIPE);
    process.signal(Signal::XFSZ);
    process.wait_for("ulimit -f");
    process.accept(execution("e", "completed")).await;
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_private_postgres_survives_sighup_and_stops_cleanly_after_sigquit() {
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(&mut program(dir.path()));
    process.signal(Signal::HUP);
    process.wait_for("secrets re-read");
    process.accept(execution("e", "completed")).await;
    process.wait_for("recording to PostgreSQL");
    assert!(running_postgres(dir.path()).is_some());
    process.signal(Signal::QUIT);
    let (status, log) = process.ended();
    assert!(status.success(), "{log:#?}");
    let log = std::fs::read_to_string(dir.path().join("data/postgres/log")).unwrap_or_default();
    // As root, the data directory is another one.
    assert!(log.is_empty() || log.contains("database system is shut down"), "{log}");
    assert!(running_postgres(dir.path()).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_different_signals_end_the_receiver_at_once() {
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(program(dir.path()).env("DATABASE_URL", UNREACHABLE));
    process.accept(execution("e", "completed")).await;
    process.signal(Signal::QUIT);
    process.wait_for("another signal stops at once");
    process.signal(Signal::USR1);
    assert_eq!(process.ended().0.code(), Some(1));
}

/// When a terminal is closed, its programs get SIGHUP and standard input is no longer a terminal.
#[test]
fn closing_the_terminal_stops_the_receiver() {
    let dir = TempDir::new().unwrap();
    let terminal = Terminal::open();
    let mut command = program(dir.path());
    command.env("DATABASE_URL", UNREACHABLE).stdin(terminal.program_end());
    let mut process = Process::start(command.env("RECEIVER__SHUTDOWN__DRAIN_TIMEOUT", "0s"));
    drop((terminal, command));
    process.signal(Signal::HUP);
    process.wait_for("stopping");
    let (status, log) = process.ended();
    assert!(status.success(), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_url_from_a_file_is_re_read_at_sighup() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let file = dir.path().join("url");
    std::fs::write(&file, UNREACHABLE).unwrap();
    let mut process = Process::start(program(dir.path()).env("RECEIVER__DATABASE__URL_FILE", &file));
    process.accept(execution("e", "completed")).await;
    process.wait_for("cannot be recorded yet");
    std::fs::write(&file, url(&database)).unwrap();
    process.signal(Signal::HUP);
    let line: Value = serde_json::from_str(&process.wait_for("secrets re-read")).unwrap();
    assert_eq!(line["database_changed"], true);
    process.wait_for("recording to PostgreSQL");
    process.terminate();
    assert_eq!(
        rows(&database, "SELECT execution_id FROM executions").await,
        [json!({ "execution_id": "e" })]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_url_file_is_re_read_when_postgresql_refuses_the_login() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let file = dir.path().join("url");
    let right = url(&database);
    std::fs::write(&file, right.replace("user=postgres", "user=absent_role")).unwrap();
    let mut process = Process::start(program(dir.path()).env("RECEIVER__DATABASE__URL_FILE", &file));
    process.accept(execution("e", "completed")).await;
    assert!(process.wait_for("cannot be recorded yet").contains("absent_role"));
    std::fs::write(&file, right).unwrap();
    process.wait_for("recording to PostgreSQL");
    process.terminate();
    assert_eq!(
        rows(&database, "SELECT execution_id FROM executions").await,
        [json!({ "execution_id": "e" })]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sighup_changes_the_database_recording_uses_no_old_connection() {
    let (dir, first, second) = (TempDir::new().unwrap(), new_database().await, new_database().await);
    let file = dir.path().join("url");
    std::fs::write(&file, url(&first)).unwrap();
    let mut process = Process::start(program(dir.path()).env("RECEIVER__DATABASE__URL_FILE", &file));
    process.wait_for("recording to PostgreSQL");
    std::fs::write(&file, url(&second)).unwrap();
    process.signal(Signal::HUP);
    process.wait_for("\"database_changed\":true");
    process.accept(execution("e", "completed")).await;
    process.terminate();
    assert_eq!(rows(&first, "SELECT execution_id FROM executions").await, Vec::<Value>::new());
    assert_eq!(rows(&second, "SELECT execution_id FROM executions").await, [json!({ "execution_id": "e" })]);
}
