//! A disk that does not complete a write, and reports no error.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Client, Response};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::fixtures::execution;
use crate::support::hanging_disk::HangingDisk;
use crate::support::http::problem;
use crate::support::postgres::{new_database, until_rows, url};
use crate::support::process::{Process, program};
use crate::support::wait::{pause, until, within};

async fn post(process: &Process, id: &str) -> Response {
    let request = Client::new().post(&process.url).body(execution(id, "completed").to_string());
    within(request.send()).await.unwrap()
}

async fn health(process: &Process) -> (u16, Value) {
    let answer = within(reqwest::get(format!("http://{}/health/ready", process.admin))).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Sends SIGTERM, and waits until the process exits successfully.
async fn terminate(mut process: Process) {
    process.signal(Signal::TERM);
    let ended = async {
        while !process.has_ended() {
            pause().await;
        }
    };
    within(ended).await;
    let (status, log) = process.ended();
    assert!(status.success(), "{log:#?}");
}

fn settings(dir: &Path, database: &str, disk: &HangingDisk) -> std::process::Command {
    let mut command = program(dir);
    command
        .env("RECEIVER__SPOOL__DIR", dir.join("spool"))
        .env("RECEIVER__SHUTDOWN__DRAIN_TIMEOUT", "1s")
        .env("DATABASE_URL", database);
    disk.attach(&mut command);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_completes_no_write_webhooks_are_answered_503_and_later_they_are_accepted_again() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let disk = HangingDisk::new(dir.path());
    let mut process = Process::start(&mut settings(dir.path(), &url(&database), &disk));
    process.accept(execution("before", "completed")).await;

    disk.hang("/spool/");
    // The writer has the first one. The others wait in the channel.
    let ids = ["waiting-1", "waiting-2", "waiting-3"];
    for answer in join_all(ids.map(|id| post(&process, id))).await {
        assert!(answer.headers().contains_key("retry-after"));
        let (kind, detail) = problem(answer, 503).await;
        assert_eq!(kind, "spool-failing");
        assert!(detail.starts_with("Not acknowledged: "), "{detail}");
    }
    process.wait_for("has not completed a write for 10 s: webhooks are answered 503");
    let (status, health_then) = health(&process).await;
    assert_eq!((status, &health_then["status"]), (503, &"unavailable".into()), "{health_then}");
    let expected = "webhooks are answered 503: the disk of spool.dir has not completed a write for 1";
    assert!(health_then["problems"][0].as_str().unwrap().starts_with(expected), "{health_then}");
    let begun = Instant::now();
    assert_eq!(post(&process, "refused").await.status(), 503);
    assert!(begun.elapsed() < Duration::from_secs(5), "answered after {:?}", begun.elapsed());

    disk.recover();
    process.wait_for("the disk of spool.dir completes writes again");
    process.accept(execution("after", "completed")).await;
    assert_eq!(health(&process).await.0, 200);
    until_rows(&database, "SELECT FROM executions WHERE execution_id IN ('before', 'after')", 2).await;
    until_rows(&database, "SELECT FROM executions WHERE execution_id = 'refused'", 0).await;

    disk.hang("/spool/");
    terminate(process).await;
}

/// One thread runs all tasks: if one of them waits for the disk, all wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_while_the_time_of_the_last_comparison_is_stored_stops_no_other_part() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let disk = HangingDisk::new(dir.path());
    let mut command = settings(dir.path(), &url(&database), &disk);
    command
        .env("TOKIO_WORKER_THREADS", "1")
        .env("RECEIVER__EACHLABS__API_KEY", "an-api-key-of-the-test")
        .env("RECEIVER__EACHLABS__BASE_URL", "http://127.0.0.1:1");
    disk.hang("reconciled-until");
    let mut process = Process::start(&mut command);
    let unfinished = dir.path().join("spool/reconciled-until.new");
    until(async || unfinished.exists()).await;
    assert_eq!(health(&process).await.0, 200);
    process.accept(execution("e", "completed")).await;
    process.wait_for("recording to PostgreSQL");
    until_rows(&database, "SELECT FROM executions", 1).await;
    terminate(process).await;
}
