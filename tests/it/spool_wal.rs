//! The spool's write-ahead log: its size is limited, and `workflow-receiver spool` does not block it.

use std::fs;

use rusqlite::Connection as Sqlite;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fixtures::{body_of_size, execution, numbered_executions, with};
use crate::support::postgres::{UNREACHABLE, count_executions, new_database, no_database};
use crate::support::process::{program, run_to_end};
use crate::support::receiver::{TestReceiver, fast_retries};
use crate::support::spool::{names, spool_file, spool_holding};
use crate::support::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_long_read_transaction_fills_the_spool_and_not_the_disk() {
    const LIMIT: u64 = 4 << 20;
    let receiver = TestReceiver::start_with(|s| s.spool.max_bytes = LIMIT).await;
    receiver.accept(execution("e", "completed")).await;
    receiver.wait_until_recorded().await;
    let operator = Sqlite::open(receiver.spool_file()).unwrap();
    operator.execute_batch("BEGIN; SELECT count(*) FROM deliveries").unwrap();
    let body = |n: usize| {
        with(execution(&format!("e{n}"), "completed"), json!({ "fill": "x".repeat(100_000) })).to_string()
    };
    let mut accepted = 0;
    while receiver.post(body(accepted)).await.status() == 200 {
        accepted += 1;
        assert!(accepted < 200, "the log is five times as large as the limit");
    }
    receiver.wait_until_recorded().await;
    let size = |name: &str| fs::metadata(receiver.dir.path().join("spool").join(name)).unwrap().len();
    assert!(size("spool.db") + size("spool.db-wal") < 2 * LIMIT);
    assert!(receiver.metric("spool_wal_bytes").await > LIMIT as f64 / 2.0);
    assert_eq!(receiver.ready().await.0, 503);
    operator.execute_batch("COMMIT").unwrap();
    until(async || receiver.ready().await.0 == 200).await;
    receiver.accept(body(accepted)).await;
    assert_eq!(count_executions(&receiver).await, accepted as i64 + 2);
}

/// The output of `spool list --json`.
fn listed(receiver: &TestReceiver, arguments: &[&str]) -> Vec<Value> {
    let spool = receiver.dir.path().join("spool");
    let mut command = program(receiver.dir.path());
    command.env("RECEIVER__SPOOL__DIR", spool).args(["spool", "list", "--json"]).args(arguments);
    let (text, code) = run_to_end(&mut command);
    assert_eq!(code, Some(0), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_can_be_listed_and_shown_with_and_without_a_running_receiver() {
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    for body in numbered_executions(300) {
        receiver.accept(body).await;
    }
    let strange = json!([{ "no": "execution" }]).to_string();
    assert_eq!(receiver.post(strange.clone()).await.status(), 422);
    let check = |receiver: &TestReceiver| {
        let all = listed(receiver, &["--all"]);
        assert_eq!(all.len(), 301);
        assert_eq!(all[0]["execution_id"], "e0");
        assert_eq!((&all[0]["acknowledged"], &all[0]["intact"]), (&json!(true), &json!(true)));
        assert_eq!(all[0]["authenticated_by"], "none");
        assert_eq!(all[0]["body_bytes"], numbered_executions(1).next().unwrap().len());
        assert_eq!((&all[300]["acknowledged"], &all[300]["execution_id"]), (&json!(false), &Value::Null));
        assert_eq!(listed(receiver, &["--limit", "2"]).len(), 2);
        let spool = receiver.dir.path().join("spool");
        let show = |seq: &Value| {
            let mut command = program(receiver.dir.path());
            run_to_end(command.env("RECEIVER__SPOOL__DIR", &spool).args(["spool", "show", &seq.to_string()]))
        };
        assert_eq!(show(&all[300]["seq"]), (strange.clone(), Some(0)));
        let (text, code) = show(&json!(9_999));
        assert_eq!(code, Some(1));
        assert!(text.contains("9999"), "{text}");
    };
    check(&receiver);
    receiver.accept(execution("after", "completed")).await;
    let (dir, _) = receiver.stop().await;
    let mut command = program(dir.path());
    command.env("RECEIVER__SPOOL__DIR", dir.path().join("spool"));
    let (text, code) = run_to_end(command.args(["spool", "list", "--limit", "1"]));
    assert_eq!(code, Some(0));
    assert!(text.contains("e0") && text.contains("execution"), "{text}");
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(count_executions(&receiver).await, 301);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_command_refuses_the_file_of_another_version_or_program_as_a_start_does() {
    let version = "PRAGMA user_version = 99";
    let program_id = "PRAGMA application_id = 7";
    for (change, part) in [(version, "version 99"), (program_id, "is not a spool")] {
        let dir = spool_holding(numbered_executions(1)).await;
        Sqlite::open(spool_file(dir.path())).unwrap().execute_batch(change).unwrap();
        let before = names(&dir.path().join("spool"), "");
        for arguments in [&["spool", "list"][..], &["spool", "show", "1"], &["serve"]] {
            let mut command = program(dir.path());
            command.env("RECEIVER__SPOOL__DIR", dir.path().join("spool")).env("DATABASE_URL", UNREACHABLE);
            let (text, code) = run_to_end(command.args(arguments));
            assert!(code == Some(1) && text.contains(part), "{arguments:?}: {text}");
            assert!(text.contains("Nothing was changed"), "{arguments:?}: {text}");
        }
        assert_eq!(names(&dir.path().join("spool"), ""), before);
    }
}

/// The log's page numbers are larger than what is left of the database.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_large_lost_database_is_saved() {
    let large = (0..400).map(|n| body_of_size(&format!("large{n}"), 20_000));
    let dir = spool_holding(large).await;
    let receiver = TestReceiver::start_in(dir, no_database(), fast_retries).await;
    for body in numbered_executions(60) {
        receiver.accept(body).await;
    }
    for left in [None, Some(4), Some(1)] {
        let lost = TempDir::new().unwrap();
        let spool = lost.path().join("spool");
        fs::create_dir(&spool).unwrap();
        fs::copy(receiver.spool_file().with_extension("db-wal"), spool.join("spool.db-wal")).unwrap();
        if let Some(part) = left {
            let database = fs::read(receiver.spool_file()).unwrap();
            fs::write(spool.join("spool.db"), &database[..database.len() / part / 4 * 3]).unwrap();
        }
        let saved = TestReceiver::start_in(lost, new_database().await, fast_retries).await;
        saved.wait_until_recorded().await;
        let small = "SELECT count(*) FROM executions WHERE execution_id LIKE 'e%'";
        assert_eq!(saved.row(small).await["count"], 60, "left of the database: 3/4 of 1/{left:?}");
        saved.stop().await;
    }
}
