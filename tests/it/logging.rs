//! Log lines: the receiver does not wait for them, write errors do not end it, and each event is one escaped line.

use std::io::{BufRead, BufReader, PipeReader, Read};
use std::process::{Command, Stdio};

use futures_util::future::join_all;
use reqwest::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fixtures::{example, execution};
use crate::support::postgres::{UNREACHABLE, new_database, rows, until_rows, url};
use crate::support::process::{Process, Unobserved, closed_pipe, full_device, program, run_to_end};
use crate::support::wait::{pause, until, within};

/// Concurrent webhooks.
const WAVE: usize = 64;

/// Posts until the pipe and the queue are full and lines are dropped. Returns the number of webhooks.
async fn drop_lines(receiver: &Unobserved) -> usize {
    for wave in 1..1000 {
        let posts = (0..WAVE).map(|n| async move { receiver.accept(&format!("{wave}-{n}")).await });
        join_all(posts).await;
        if receiver.dropped_lines().await > 0.0 {
            return wave * WAVE;
        }
    }
    panic!("no line was dropped");
}

fn traced(dir: &TempDir, database: &str) -> Command {
    let mut command = program(dir.path());
    command.env("DATABASE_URL", database).env("RECEIVER__LOG__FILTER", "trace").stdout(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_or_full_stderr_neither_ends_nor_slows_the_receiver() {
    for (name, stderr) in [("closed", Stdio::from(closed_pipe())), ("full", Stdio::from(full_device()))] {
        let (dir, database) = (TempDir::new().unwrap(), new_database().await);
        let receiver = Unobserved::start(&mut traced(&dir, &url(&database)), stderr).await;
        for n in 0..3 {
            receiver.accept(&format!("{name}-{n}")).await;
        }
        assert!(receiver.dropped_lines().await > 0.0, "{name}");
        assert_eq!(receiver.health().await, "ok");
        receiver.signal(Signal::TERM);
        assert_eq!(receiver.ended().await.code(), Some(0), "{name}");
        assert_eq!(rows(&database, "SELECT 1 AS x FROM executions").await.len(), 3, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stderr_pipe_that_is_closed_later_does_not_end_the_receiver() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let (reader, writer) = std::io::pipe().unwrap();
    let receiver = Unobserved::start(&mut traced(&dir, &url(&database)), writer).await;
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    while !line.contains("\"receiving\"") {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    drop(reader);
    until(async || {
        receiver.accept("e").await;
        receiver.dropped_lines().await > 0.0
    })
    .await;
    receiver.signal(Signal::TERM);
    assert_eq!(receiver.ended().await.code(), Some(0));
    assert_eq!(rows(&database, "SELECT 1 AS x FROM executions").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_stderr_pipe_blocks_neither_receiving_nor_recording_nor_the_stop() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let receiver = Unobserved::start(&mut traced(&dir, &url(&database)), writer).await;
    let posted = drop_lines(&receiver).await;
    assert_eq!(receiver.health().await, "ok");
    receiver.signal(Signal::TERM);
    assert_eq!(receiver.ended().await.code(), Some(0));
    assert_eq!(rows(&database, "SELECT 1 AS x FROM executions").await.len(), posted);
    let mut log = Vec::new();
    reader.read_to_end(&mut log).unwrap();
    let log = String::from_utf8(log).unwrap();
    let (whole, _cut) = log.rsplit_once('\n').unwrap();
    for line in whole.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    }
}

/// Reads all lines in the background.
fn read_all(reader: PipeReader) -> std::thread::JoinHandle<Vec<String>> {
    std::thread::spawn(move || BufReader::new(reader).lines().map(Result::unwrap).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_log_is_read_again_it_has_the_number_of_dropped_lines_and_the_last_lines() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let (reader, writer) = std::io::pipe().unwrap();
    let receiver = Unobserved::start(&mut traced(&dir, &url(&database)), writer).await;
    drop_lines(&receiver).await;
    let log = read_all(reader);
    receiver.signal(Signal::TERM);
    assert_eq!(receiver.ended().await.code(), Some(0));
    let log = log.join().unwrap();
    let dropped: Vec<Value> = log
        .iter()
        .filter(|line| line.contains("log lines were dropped"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(!dropped.is_empty() && dropped.iter().all(|line| line["level"] == "WARN"), "{dropped:#?}");
    let last = log.last().unwrap();
    assert!(last.contains("\"stopped\"") || last.contains("log lines were dropped"), "{last}");
    assert!(log.iter().any(|line| line.contains("\"message\":\"stopped\"")));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_signals_end_a_receiver_with_a_stalled_log_and_without_postgresql() {
    let (dir, nowhere) = (TempDir::new().unwrap(), UNREACHABLE);
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut receiver = Unobserved::spawn(&mut traced(&dir, nowhere), writer);
    within(async {
        while receiver.health().await != "degraded" {
            assert!(!receiver.has_ended(), "the receiver ended");
            pause().await;
        }
    })
    .await;
    drop_lines(&receiver).await;
    receiver.signal(Signal::TERM);
    until(async || receiver.health().await == "unavailable").await;
    receiver.signal(Signal::TERM);
    assert_eq!(receiver.ended().await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_error_is_the_last_line_and_the_exit_code_does_not_depend_on_stderr() {
    let dir = TempDir::new().unwrap();
    let failing = || {
        let mut command = program(dir.path());
        command.env("RECEIVER__SPOOL__MAX_BYTES", "5").stdout(Stdio::null());
        command
    };
    let (text, code) = run_to_end(&mut failing());
    assert!(code == Some(1) && text.ends_with("from 35651584 to 9223372036854775807\n"), "{text:?}");
    for stderr in [Stdio::from(closed_pipe()), Stdio::from(full_device())] {
        assert_eq!(failing().stderr(stderr).status().unwrap().code(), Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_or_full_stdout_does_not_stop_the_receiver() {
    for stdout in [Stdio::from(closed_pipe()), Stdio::from(full_device())] {
        let dir = TempDir::new().unwrap();
        // With the private PostgreSQL, because only then the receiver writes to standard output.
        let receiver = Unobserved::start(program(dir.path()).stdout(stdout), Stdio::null()).await;
        receiver.accept("e").await;
        receiver.signal(Signal::TERM);
        assert_eq!(receiver.ended().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_end_quietly_on_a_closed_stdout_and_do_not_panic_on_a_full_one() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let mut process = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
    process.wait_for("recording to PostgreSQL");
    let bodies = [
        execution("e", "failed").to_string(),
        example("bulk-completed.json"),
        r#"{"status":"x"}"#.to_owned(),
    ];
    for body in bodies {
        Client::new().post(&process.url).body(body).send().await.unwrap();
    }
    let recorded = "SELECT 1 AS x FROM executions UNION ALL SELECT 1 FROM quarantine";
    until_rows(&database, recorded, 3).await;
    let run = |arguments: &[&str], stdout: Stdio| {
        let mut command = program(dir.path());
        command.args(arguments).env("DATABASE_URL", url(&database));
        command.env("RECEIVER__ADMIN__LISTEN", &process.admin).env("RECEIVER__RETENTION__PAYLOADS", "90d");
        let output = command.stdout(stdout).stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["executions", "--help"],
        &["new-token"],
        &["migrate"],
        &["healthcheck"],
        &["status"],
        &["status", "--json"],
        &["executions"],
        &["bulks"],
        &["failures"],
        &["workflows"],
        &["quarantine", "list"],
        &["prune", "--dry-run"],
        &["completions", "bash"],
    ] {
        let (code, stderr) = run(arguments, closed_pipe().into());
        let loud = stderr.contains("workflow-receiver: ") || stderr.contains("panicked");
        assert!(code == Some(0) && !loud, "{arguments:?}: {code:?} {stderr}");
        let (code, stderr) = run(arguments, full_device().into());
        assert!(code == Some(0) || code == Some(1), "{arguments:?}: {code:?} {stderr}");
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
    for arguments in [&["migrate"][..], &["healthcheck"]] {
        assert_eq!(
            run(arguments, full_device().into()).0,
            Some(0),
            "the result does not depend on standard output"
        );
    }
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn control_characters_of_senders_are_escaped_and_one_event_is_one_line() {
    let is_control = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let hostile = "a\u{1b}[31m\u{1b}]0;owned\u{7}\r\n\t\u{b}\u{9b}31m\u{7f}\u{85}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}b";
    for format in ["pretty", "json"] {
        let (dir, database) = (TempDir::new().unwrap(), new_database().await);
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = program(dir.path());
        command.env("DATABASE_URL", url(&database)).env("RECEIVER__LOG__FORMAT", format);
        command.env("RECEIVER__LOG__FILTER", "info,sqlx=warn,workflow_receiver=debug");
        let receiver = Unobserved::start(command.stdout(Stdio::null()), writer).await;
        let log = read_all(reader);
        receiver.accept(hostile).await;
        receiver.signal(Signal::TERM);
        assert_eq!(receiver.ended().await.code(), Some(0));
        let log = log.join().unwrap();
        for line in &log {
            assert!(!line.contains(is_control), "{line:?}");
        }
        let events: Vec<_> = log.iter().filter(|line| line.contains("received")).collect();
        assert!(events.len() == 1 && events[0].contains("31m"), "{format}: {log:#?}");
        if format == "json" {
            let event: Value = serde_json::from_str(events[0]).unwrap();
            assert_eq!(event["execution_id"], hostile, "JSON keeps the value");
        }
        let recorded = rows(&database, "SELECT execution_id FROM executions").await;
        assert_eq!(recorded, [json!({ "execution_id": hostile })]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_a_quarantined_webhook_has_the_reason_and_the_number_of_the_entry() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = program(dir.path());
    command.env("DATABASE_URL", url(&database)).env("RECEIVER__LOG__FORMAT", "json");
    let receiver = Unobserved::start(command.stdout(Stdio::null()), writer).await;
    let log = read_all(reader);
    let refused = Client::new().post(&receiver.url).body(r#"{"execution_id":"e"}"#).send().await.unwrap();
    assert_eq!(refused.status(), 422);
    until_rows(&database, "SELECT FROM quarantine", 1).await;
    receiver.signal(Signal::TERM);
    assert_eq!(receiver.ended().await.code(), Some(0));
    let log = log.join().unwrap();
    let line = log.iter().find(|line| line.contains("is stored in quarantine")).unwrap();
    let event: Value = serde_json::from_str(line).unwrap();
    let id = &rows(&database, "SELECT quarantine_id FROM quarantine").await[0]["quarantine_id"];
    assert_eq!((&event["quarantine_id"], &event["reason"]), (id, &json!("`workflow_id` is missing or null")));
}
