//! Faults in the receiver's environment while it runs: the spool's files, standard error, memory.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reqwest::Client;
use rusqlite::config::DbConfig;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::harness::{execution, new_database, until, url, with};
use crate::load::{Load, SETTINGS, now};
use crate::oracle::{Verdict, compare};
use crate::process::{Process, program};
use crate::spool::spooled;

const SENDERS: usize = 4;
const WORK: u64 = 150;

/// Blocks recording until the connection is dropped.
async fn hold(database: &PgConnectOptions) -> PgConnection {
    let mut connection = PgConnection::connect_with(database).await.unwrap();
    let lock = "BEGIN; LOCK TABLE executions, quarantine IN SHARE MODE";
    sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
    connection
}

async fn release(mut held: PgConnection) {
    sqlx::raw_sql("COMMIT").execute(&mut held).await.unwrap();
}

/// The body of `/health/ready`; null when the process does not answer.
async fn health(admin: String) -> Value {
    match reqwest::get(format!("http://{admin}/health/ready")).await {
        Ok(answer) => answer.json().await.unwrap_or_default(),
        Err(_) => Value::Null,
    }
}

/// The number of deliveries that the process reports as lost.
async fn reported(admin: String) -> usize {
    let Ok(answer) = reqwest::get(format!("http://{admin}/metrics")).await else { return 0 };
    let page = answer.text().await.unwrap_or_default();
    let line = page.lines().find_map(|line| line.strip_prefix("workflow_receiver_spool_unreadable_total "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// The result of [`strike`].
struct Survived {
    verdict: Verdict,
    /// When the fault happened.
    struck: i64,
    /// The number of deliveries that the receiver reported as lost.
    reported: usize,
}

/// Causes a fault while acknowledged deliveries wait in the spool. Then they are recorded, or the receiver ends and is
/// restarted. Then more are sent, and the receiver is killed before they are recorded.
async fn strike(blow: impl FnOnce(&Path)) -> Survived {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let command = || {
        let mut command = program(dir.path());
        command
            .envs(SETTINGS)
            .env("DATABASE_URL", url(&database))
            .env("RECEIVER__SPOOL__DIR", dir.path().join("spool"));
        command.env("RECEIVER__RECORDER__MAX_BACKOFF", "100ms");
        command
    };
    let mut process = Process::start(&mut command());
    process.wait_for("recording to PostgreSQL");
    let held = hold(&database).await;
    let mut before = Load::start_named("before-", SENDERS);
    before.point_to(&process.url);
    before.work(WORK).await;
    let mut sent = before.stop().await;

    blow(&dir.path().join("spool"));
    let struck = now();
    release(held).await;
    let mut lost = 0;
    let process = std::cell::RefCell::new(process);
    let admin = || process.borrow().admin.clone();
    until(async || {
        let ended = process.borrow_mut().has_ended();
        ended || health(admin()).await["spooled"] == 0
    })
    .await;
    if process.borrow_mut().has_ended() {
        process.replace(Process::start(&mut command()));
        until(async || health(admin()).await["spooled"] == 0).await;
    }

    let held = hold(&database).await;
    let mut after = Load::start_named("after-", SENDERS);
    after.point_to(&process.borrow().url);
    until(async || {
        let counts = after.counts();
        counts.acknowledged + counts.refused + counts.unclear > WORK || process.borrow_mut().has_ended()
    })
    .await;
    sent.extend(after.stop().await);
    lost += reported(admin()).await;
    process.into_inner().kill();
    release(held).await;
    let process = Process::start(&mut command());
    until(async || health(process.admin.clone()).await["spooled"] == 0).await;
    lost += reported(process.admin.clone()).await;
    process.terminate();
    // Two crashes: after each, deliveries may be counted again.
    Survived { verdict: compare(&database, &sent, 2).await, struck, reported: lost }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fault_nothing_is_lost() {
    strike(|_| {}).await.verdict.is_good();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_spool_directory_removed_nothing_acknowledged_is_lost() {
    strike(|spool| fs::remove_dir_all(spool).unwrap()).await.verdict.is_good();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_spool_file_removed_nothing_acknowledged_is_lost() {
    strike(|spool| fs::remove_file(spool.join("spool.db")).unwrap()).await.verdict.is_good();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_spool_file_replaced_nothing_acknowledged_is_lost() {
    let other = spooled([]).await;
    let replace = |spool: &Path| {
        fs::copy(other.path().join("spool/spool.db"), spool.join("new")).unwrap();
        fs::rename(spool.join("new"), spool.join("spool.db")).unwrap();
        // Like a restored backup: the log belonged to the old file.
        fs::remove_file(spool.join("spool.db-wal")).unwrap();
    };
    strike(replace).await.verdict.is_good();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_write_ahead_log_removed_nothing_acknowledged_is_lost() {
    strike(|spool| fs::remove_file(spool.join("spool.db-wal")).unwrap()).await.verdict.is_good();
}

/// Deliveries that were acknowledged before the truncation may be lost, but no more than the metric reports.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_spool_file_truncated_the_loss_is_reported_and_no_later_delivery_is_lost() {
    for (file, bytes) in [("spool.db", 0), ("spool.db", 4_096), ("spool.db-wal", 0)] {
        let truncate = |spool: &Path| {
            File::options().write(true).open(spool.join(file)).unwrap().set_len(bytes).unwrap();
        };
        let Survived { verdict, struck, reported } = strike(truncate).await;
        let Verdict { lost, different, unexplained, .. } = &verdict;
        let after = |finding: &&crate::oracle::Finding| finding.answered > struck;
        let lost_after: Vec<_> = lost.iter().chain(different).filter(after).take(5).collect();
        assert!(
            lost_after.is_empty(),
            "{file}, {bytes} bytes: acknowledged after it, and lost: {lost_after:#?}"
        );
        assert!(unexplained.is_empty(), "{file}, {bytes} bytes: {unexplained:#?}");
        let before = lost.len() + different.len();
        assert!(before <= reported, "{file}, {bytes} bytes: {before} lost, and {reported} reported");
    }
}

/// A receiver whose standard error the test does not read.
struct Quiet {
    child: Child,
    url: String,
    admin: String,
}

impl Quiet {
    async fn start(mut command: Command) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (listen, admin) = (free(), free());
        command
            .env("RECEIVER__HTTP__LISTEN", &listen)
            .env("RECEIVER__ADMIN__LISTEN", &admin)
            .stdout(Stdio::null());
        let quiet = Self {
            child: command.spawn().unwrap(),
            url: format!("http://{listen}/webhooks/workflow-completed"),
            admin: format!("http://{admin}/health/live"),
        };
        until(async || Client::new().get(&quiet.admin).send().await.is_ok()).await;
        quiet
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks that webhooks are accepted, and recorded before the stop.
async fn works_with(stderr: impl FnOnce(&mut Command) -> Option<Command>) {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let mut command = program(dir.path());
    let wrapped = stderr(&mut command);
    let mut command = wrapped.unwrap_or(command);
    command.current_dir(dir.path()).envs(SETTINGS).env("DATABASE_URL", url(&database));
    command.env("RECEIVER__LOG__FILTER", "info,sqlx=warn,workflow_receiver=debug");
    let mut quiet = Quiet::start(command).await;
    let mut load = Load::start(SENDERS);
    load.point_to(&quiet.url);
    // Each writes some hundred bytes of log: more than a pipe holds.
    load.work(8 * WORK).await;
    let sent = load.stop().await;
    kill_process(Pid::from_child(&quiet.child), Signal::TERM).unwrap();
    let ended = std::cell::RefCell::new(None);
    let child = std::cell::RefCell::new(&mut quiet.child);
    until(async || {
        *ended.borrow_mut() = child.borrow_mut().try_wait().unwrap();
        ended.borrow().is_some()
    })
    .await;
    assert_eq!(ended.take().unwrap().code(), Some(0));
    compare(&database, &sent, 0).await.is_good();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_standard_error_full_webhooks_are_accepted_and_recorded() {
    works_with(|command| {
        command.stderr(File::options().write(true).open("/dev/full").unwrap());
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_standard_error_closed_webhooks_are_accepted_and_recorded() {
    works_with(|_| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "exec \"$0\" 2>&-", env!("CARGO_BIN_EXE_workflow-receiver")])
            .env_remove("DATABASE_URL");
        Some(shell)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_broken_pipe_on_standard_error_webhooks_are_accepted_and_recorded() {
    works_with(|command| {
        let (reader, writer) = std::io::pipe().unwrap();
        command.stderr(writer);
        drop(reader);
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_standard_error_stalled_webhooks_are_accepted_and_recorded() {
    let (reader, writer) = std::io::pipe().unwrap();
    works_with(|command| {
        command.stderr(writer);
        None
    })
    .await;
    drop(reader);
}

/// The maximum of resident memory in KiB, which a container's limit applies to. (The address space would include unused
/// thread stacks and arenas.)
fn peak_kib(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_large_write_ahead_log_needs_less_than_256_mib() {
    let dir = TempDir::new().unwrap();
    let mut command = program(dir.path());
    command.env("RECEIVER__SPOOL__DIR", dir.path().join("spool"));
    command.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    let process = Process::start(&mut command);
    // While this transaction reads, SQLite does not restart the log.
    let file = rusqlite::Connection::open(dir.path().join("spool/spool.db")).unwrap();
    // The last connection to close would copy the log into the database.
    file.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    file.execute_batch("BEGIN; SELECT count(*) FROM deliveries").unwrap();
    let client = Client::new();
    for n in 0..30 {
        let body = with(
            execution(&format!("e{n}"), "completed"),
            serde_json::json!({ "fill": "x".repeat(10 << 20) }),
        );
        let answer = client.post(&process.url).body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    process.kill();
    drop(file);
    let log = fs::metadata(dir.path().join("spool/spool.db-wal")).map_or(0, |log| log.len());
    assert!(log > 300 << 20, "{log} bytes of log");
    let process = Process::start(&mut command);
    let peak = peak_kib(&process);
    assert_eq!(health(process.admin.clone()).await["spooled"], 30);
    assert!(peak < 256 << 10, "{peak} KiB");
}
