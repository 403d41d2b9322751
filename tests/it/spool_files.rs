//! The spool's files are removed, moved, truncated or replaced while a receiver has them open, or a second receiver
//! opens them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use reqwest::Client;
use rusqlite::Connection as Sqlite;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use workflow_receiver::server::{Server, StartError};

use crate::support::fixtures::{execution, numbered_executions, with};
use crate::support::postgres::{
    UNREACHABLE, count_executions, new_database, no_database, rows, until_rows, url,
};
use crate::support::process::{Process, program};
use crate::support::receiver::{TestReceiver, fast_retries, settings};
use crate::support::small_disk::SmallDisk;
use crate::support::spool::{names, spool_file};
use crate::support::wait::until;

/// A receiver process with its spool in `dir/spool` and without PostgreSQL.
fn start(dir: &Path) -> Process {
    Process::start(
        program(dir)
            .env("RECEIVER__SPOOL__DIR", dir.join("spool"))
            .env("RECEIVER__SHUTDOWN__DRAIN_TIMEOUT", "0s")
            .env("DATABASE_URL", UNREACHABLE),
    )
}

/// Posts an execution until it is answered 200.
async fn post_until_accepted(process: &Process, id: &str) {
    post_until_accepted_with_size(process, id, 300).await;
}

/// The same, with a body of about `size` bytes.
async fn post_until_accepted_with_size(process: &Process, id: &str, size: usize) {
    let body = with(execution(id, "completed"), json!({ "fill": "x".repeat(size) })).to_string();
    let client = Client::new();
    until(async || {
        let answer = client.post(&process.url).body(body.clone()).send().await.unwrap();
        assert!([200, 503].contains(&answer.status().as_u16()), "{answer:?}");
        answer.status() == 200
    })
    .await;
}

/// A receiver process with its spool in `dir/spool` that records to `database`.
fn start_recording(dir: &Path, database: &PgConnectOptions) -> Process {
    Process::start(
        program(dir).env("RECEIVER__SPOOL__DIR", dir.join("spool")).env("DATABASE_URL", url(database)),
    )
}

/// Waits until the spool is empty.
async fn until_drained(process: &Process) {
    until(async || process.counter("spool_depth").await == 0).await;
}

/// Writes `contents` over an open file, as a program does that restores a backup in place.
fn overwrite(file: &Path, contents: &[u8]) {
    OpenOptions::new().write(true).open(file).unwrap().write_all(contents).unwrap();
}

/// The contents of the spool's files with these suffixes.
fn contents(dir: &Path, suffixes: &[&'static str]) -> Vec<(PathBuf, Vec<u8>)> {
    let file = |suffix: &&str| dir.join(format!("spool/spool.db{suffix}"));
    suffixes.iter().map(file).map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

fn truncate(file: &Path, size: u64) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(size).unwrap();
}

/// A name, the change of the directory, and a text that is then in the log.
type Accident = (&'static str, fn(&Path), &'static str);

const ACCIDENTS: &[Accident] = &[
    ("the directory is removed", |spool| fs::remove_dir_all(spool).unwrap(), "was removed"),
    (
        "the directory is moved",
        |spool| fs::rename(spool, spool.with_extension("old")).unwrap(),
        "was removed",
    ),
    (
        "the directory is replaced by an empty one",
        |spool| {
            fs::remove_dir_all(spool).unwrap();
            fs::create_dir(spool).unwrap();
        },
        "was removed",
    ),
    (
        "the database is removed",
        |spool| fs::remove_file(spool.join("spool.db")).unwrap(),
        "spool.db was removed",
    ),
    (
        "the database is moved",
        |spool| fs::rename(spool.join("spool.db"), spool.join("moved.db")).unwrap(),
        "spool.db was removed",
    ),
    (
        "the log is removed",
        |spool| fs::remove_file(spool.join("spool.db-wal")).unwrap(),
        "spool.db-wal was removed",
    ),
    (
        "the log is moved",
        |spool| fs::rename(spool.join("spool.db-wal"), spool.join("moved")).unwrap(),
        "spool.db-wal was removed",
    ),
    (
        "the index is removed",
        |spool| fs::remove_file(spool.join("spool.db-shm")).unwrap(),
        "spool.db-shm was removed",
    ),
    (
        "the database is replaced by garbage",
        |spool| {
            fs::write(spool.join("other"), vec![b'?'; 10_000]).unwrap();
            fs::rename(spool.join("other"), spool.join("spool.db")).unwrap();
        },
        "spool.db was replaced",
    ),
    (
        "the database is replaced by a copy of itself",
        |spool| {
            fs::copy(spool.join("spool.db"), spool.join("copy")).unwrap();
            fs::rename(spool.join("copy"), spool.join("spool.db")).unwrap();
        },
        "spool.db was replaced",
    ),
    (
        "the log is replaced",
        |spool| {
            fs::write(spool.join("other"), "other").unwrap();
            fs::rename(spool.join("other"), spool.join("spool.db-wal")).unwrap();
        },
        "spool.db-wal was replaced",
    ),
    (
        "the index is truncated",
        |spool| truncate(&spool.join("spool.db-shm"), 0),
        "spool.db-shm was truncated",
    ),
    ("the database is truncated", |spool| truncate(&spool.join("spool.db"), 0), "spool.db was truncated"),
    ("the log is truncated", |spool| truncate(&spool.join("spool.db-wal"), 0), "spool.db-wal was truncated"),
    (
        "half of the log is cut off",
        |spool| {
            let log = spool.join("spool.db-wal");
            truncate(&log, fs::metadata(&log).unwrap().len() / 2);
        },
        "spool.db-wal was truncated",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn files_removed_moved_truncated_or_replaced_while_running_lose_no_readable_delivery() {
    for (accident, damage, logged) in ACCIDENTS {
        let dir = TempDir::new().unwrap();
        let spool = dir.path().join("spool");
        // Some deliveries are in the database, some in its log.
        let first = start(dir.path());
        for n in 0..20 {
            post_until_accepted(&first, &format!("before-{n}")).await;
        }
        first.terminate();
        let mut process = start(dir.path());
        for n in 20..40 {
            post_until_accepted(&process, &format!("before-{n}")).await;
        }
        damage(&spool);
        for n in 0..20 {
            post_until_accepted(&process, &format!("after-{n}")).await;
        }
        process.wait_for(logged);
        let unreadable = process.counter("spool_unreadable_total").await;
        process.kill();

        let database = new_database().await;
        let receiver = TestReceiver::start_in(dir, database.clone(), |_| {}).await;
        receiver.wait_until_recorded().await;
        let count = async |prefix: &str| {
            let query = format!("SELECT count(*) FROM executions WHERE execution_id LIKE '{prefix}-%'");
            rows(&database, &query).await[0]["count"].as_i64().unwrap()
        };
        assert_eq!(count("after").await, 20, "{accident}");
        let before = count("before").await;
        assert!(before + unreadable >= 40, "{accident}: {before} of 40, {unreadable} unreadable");
        if !accident.contains("log is truncated") && !accident.contains("cut off") {
            assert_eq!(before, 40, "{accident}");
        }
        assert!(before >= 20, "{accident}: {before} of 40");
        receiver.stop().await;
    }
}

/// Without a check, the new deliveries get numbers that were acked before, and are deleted before they are recorded.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_written_over_the_open_files_loses_no_delivery() {
    for suffixes in [&["-wal", "-shm"][..], &["", "-wal", "-shm"], &["-shm"]] {
        let (dir, database) = (TempDir::new().unwrap(), new_database().await);
        let mut process = start_recording(dir.path(), &database);
        for n in 0..60 {
            post_until_accepted(&process, &format!("before-{n}")).await;
        }
        until_drained(&process).await;
        let copy = contents(dir.path(), suffixes);
        for n in 0..20 {
            post_until_accepted(&process, &format!("later-{n}")).await;
        }
        until_drained(&process).await;
        for (file, contents) in &copy {
            overwrite(file, contents);
        }
        for n in 0..60 {
            post_until_accepted(&process, &format!("after-{n}")).await;
        }
        process.wait_for("overwritten");
        until_rows(&database, "SELECT FROM executions", 140).await;
        until_drained(&process).await;
        process.terminate();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_log_written_over_the_open_log_loses_no_later_delivery() {
    let dir = TempDir::new().unwrap();
    let process = start(dir.path());
    for n in 0..60 {
        post_until_accepted(&process, &format!("before-{n}")).await;
    }
    let older = contents(dir.path(), &["-wal"]);
    process.terminate();
    // Its log is shorter.
    let mut process = start(dir.path());
    for n in 0..20 {
        post_until_accepted(&process, &format!("later-{n}")).await;
    }
    overwrite(&older[0].0, &older[0].1);
    for n in 0..20 {
        post_until_accepted(&process, &format!("after-{n}")).await;
    }
    process.wait_for("spool.db-wal was truncated or overwritten");
    let unreadable = process.counter("spool_unreadable_total").await;
    process.kill();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    let recorded = count_executions(&receiver).await;
    assert!(recorded + unreadable >= 100, "{recorded} of 100, {unreadable} unreadable");
    let others = "SELECT count(*) FROM executions WHERE execution_id NOT LIKE 'later%'";
    assert_eq!(receiver.row(others).await["count"], 80);
}

/// A spool with the acknowledged deliveries `volume-0` to `volume-9`. Returns its directory, which is not mounted.
async fn volume_with_ten_deliveries(dir: &Path) -> PathBuf {
    volume_with_deliveries(dir, 10).await
}

async fn volume_with_deliveries(dir: &Path, count: usize) -> PathBuf {
    let process = start(dir);
    for n in 0..count {
        post_until_accepted(&process, &format!("volume-{n}")).await;
    }
    process.kill();
    let volume = dir.join("volume");
    fs::rename(dir.join("spool"), &volume).unwrap();
    volume
}

/// A receiver that records `before`, whose directory is then replaced by `volume`, and that acknowledges `after`.
async fn start_before_the_volume_is_mounted(
    dir: &Path,
    database: &PgConnectOptions,
    volume: &Path,
) -> Process {
    let process = start_recording(dir, database);
    post_until_accepted(&process, "before").await;
    until_drained(&process).await;
    let spool = dir.join("spool");
    fs::rename(&spool, spool.with_extension("underneath")).unwrap();
    fs::rename(volume, &spool).unwrap();
    post_until_accepted(&process, "after").await;
    process
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_of_a_spool_that_appears_in_the_directory_are_recorded_without_a_restart() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let spool = dir.path().join("spool");
    let volume = volume_with_ten_deliveries(dir.path()).await;
    let process = start_before_the_volume_is_mounted(dir.path(), &database, &volume).await;
    until_rows(&database, "SELECT FROM executions", 12).await;
    assert_eq!(names(&spool, "foreign"), [""; 0]);
    assert_eq!(names(&spool, "rescued"), [""; 0]);
    process.terminate();
}

/// As when the directory was copied to the volume, and the receiver then starts before the volume is mounted.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_of_a_continued_copy_of_the_spool_that_appears_in_the_directory_are_recorded() {
    // With one delivery, the last number of the volume is that of the running spool.
    for count in [1, 10] {
        let (dir, database) = (TempDir::new().unwrap(), new_database().await);
        let (spool, copy) = (dir.path().join("spool"), dir.path().join("copy"));
        let process = start(dir.path());
        post_until_accepted(&process, "old").await;
        process.terminate();
        let copied = Command::new("cp").arg("-a").arg(&spool).arg(&copy).status().unwrap();
        assert!(copied.success());
        let volume = volume_with_deliveries(dir.path(), count).await;
        fs::rename(&copy, &spool).unwrap();
        let process = start_before_the_volume_is_mounted(dir.path(), &database, &volume).await;
        until_rows(&database, "SELECT FROM executions", 3 + count).await;
        assert_eq!(names(&spool, "foreign"), [""; 0]);
        assert_eq!(names(&spool, "rescued"), [""; 0]);
        process.terminate();
    }
}

/// As when a backup is made while the receiver runs, and another receiver uses the backup until the volume is mounted.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_after_a_backup_of_the_running_spool_are_recorded_when_the_spool_appears() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let (spool, copy) = (dir.path().join("spool"), dir.path().join("copy"));
    let process = start(dir.path());
    post_until_accepted(&process, "old").await;
    let copied = Command::new("cp").arg("-a").arg(&spool).arg(&copy).status().unwrap();
    assert!(copied.success());
    for n in 0..10 {
        post_until_accepted(&process, &format!("later-{n}")).await;
    }
    process.kill();
    let volume = dir.path().join("volume");
    fs::rename(&spool, &volume).unwrap();
    fs::rename(&copy, &spool).unwrap();
    let process = start_before_the_volume_is_mounted(dir.path(), &database, &volume).await;
    until_rows(&database, "SELECT FROM executions", 13).await;
    assert_eq!(names(&spool, "foreign"), [""; 0]);
    process.terminate();
}

/// As when a program restores a backup of the directory again and again.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_spool_that_appears_repeatedly_is_kept_once_and_not_recorded_again() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let (spool, copy) = (dir.path().join("spool"), dir.path().join("copy"));
    let process = start(dir.path());
    for n in 0..10 {
        post_until_accepted(&process, &format!("before-{n}")).await;
    }
    process.terminate();
    fs::copy(spool.join("spool.db"), &copy).unwrap();
    let process = start_recording(dir.path(), &database);
    until_drained(&process).await;
    for n in 0..4 {
        fs::copy(&copy, spool.join("other")).unwrap();
        fs::rename(spool.join("other"), spool.join("spool.db")).unwrap();
        post_until_accepted(&process, &format!("after-{n}")).await;
        until_drained(&process).await;
    }
    let counted = "SELECT count(*), sum(deliveries)::bigint FROM executions";
    assert_eq!(rows(&database, counted).await, [json!({ "count": 14, "sum": 14 })]);
    let [aside] = &names(&spool, "foreign")[..] else { panic!("{:?}", names(&spool, "")) };
    let size = i64::try_from(fs::metadata(spool.join(aside)).unwrap().len()).unwrap();
    assert_eq!(process.counter("spool_set_aside_bytes").await, size);
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_appears_in_the_middle_of_a_replacement_is_recorded() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let spool = dir.path().join("spool");
    let volume = volume_with_ten_deliveries(dir.path()).await;
    let file = Sqlite::open(volume.join("spool.db")).unwrap();
    file.pragma_update(None, "journal_mode", "delete").unwrap();
    drop(file);
    fs::rename(volume.join("spool.db"), volume.join("spool.db.saved")).unwrap();
    let process = start_before_the_volume_is_mounted(dir.path(), &database, &volume).await;
    until_rows(&database, "SELECT FROM executions", 12).await;
    assert_eq!(names(&spool, "saved"), [""; 0]);
    assert_eq!(names(&spool, "rescued"), [""; 0]);
    process.terminate();
}

/// A start on these files would count the same losses.
#[tokio::test(flavor = "multi_thread")]
async fn losses_of_a_spool_that_appears_in_the_directory_are_counted() {
    type Loss = (&'static str, fn(&Path));
    let losses: [Loss; 4] = [
        ("without its log", |volume| fs::remove_file(volume.join("spool.db-wal")).unwrap()),
        ("with half of its log", |volume| {
            let log = volume.join("spool.db-wal");
            truncate(&log, fs::metadata(&log).unwrap().len() / 2);
        }),
        ("without its database", |volume| fs::remove_file(volume.join("spool.db")).unwrap()),
        ("without rows", |volume| {
            let file = Sqlite::open(volume.join("spool.db")).unwrap();
            file.execute("DELETE FROM deliveries WHERE seq BETWEEN 5 AND 8", []).unwrap();
        }),
    ];
    for (state, lose) in losses {
        let (dir, database) = (TempDir::new().unwrap(), new_database().await);
        let process = start(dir.path());
        for n in 0..10 {
            post_until_accepted(&process, &format!("in-database-{n}")).await;
        }
        process.terminate();
        let volume = volume_with_ten_deliveries(dir.path()).await;
        lose(&volume);
        let process = start_before_the_volume_is_mounted(dir.path(), &database, &volume).await;
        until_drained(&process).await;
        let of_volume = "SELECT FROM executions WHERE execution_id NOT IN ('before', 'after')";
        let recorded = i64::try_from(rows(&database, of_volume).await.len()).unwrap();
        let unreadable = process.counter("spool_unreadable_total").await;
        assert!(recorded + unreadable >= 20, "{state}: {recorded} of 20, {unreadable} unreadable");
        assert!(recorded < 20, "{state}: {recorded} of 20");
        process.terminate();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readable_deliveries_of_a_damaged_spool_that_appears_are_recorded_and_it_is_set_aside_whole() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let spool = dir.path().join("spool");
    let volume = volume_with_ten_deliveries(dir.path()).await;
    let log = volume.join("spool.db-wal");
    let mut damaged = fs::read(&log).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    fs::write(&log, &damaged).unwrap();

    let process = start_before_the_volume_is_mounted(dir.path(), &database, &volume).await;
    until(async || names(&spool, "damaged").len() == 2).await;
    // The damaged frame can contain the newest version of one delivery.
    let recorded = "SELECT execution_id FROM executions WHERE execution_id LIKE 'volume-%'";
    until(async || rows(&database, recorded).await.len() >= 9).await;
    process.terminate();

    let database = new_database().await;
    let other = dir.path().join("other/spool");
    fs::create_dir_all(&other).unwrap();
    for (name, new_name) in names(&spool, "damaged").iter().zip(["spool.db", "spool.db-wal"]) {
        fs::rename(spool.join(name), other.join(new_name)).unwrap();
    }
    assert!(fs::read(other.join("spool.db-wal")).unwrap() == damaged, "the log is unchanged");
    let mut process = start_recording(other.parent().unwrap(), &database);
    process.wait_for("recording to PostgreSQL");
    until(async || rows(&database, recorded).await.len() >= 9).await;
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_directory_cannot_be_created_webhooks_are_answered_503_and_then_rescued() {
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    for body in numbered_executions(10) {
        receiver.accept(body).await;
    }
    let spool = receiver.dir.path().join("spool");
    fs::remove_dir_all(&spool).unwrap();
    fs::write(&spool, "not a directory").unwrap();
    assert_eq!(receiver.post(execution("refused", "completed").to_string()).await.status(), 503);
    until(async || {
        let (code, health) = receiver.ready().await;
        code == 503 && health["problems"].to_string().contains("spool")
    })
    .await;
    assert_eq!(receiver.post(execution("refused", "completed").to_string()).await.status(), 503);
    fs::remove_file(&spool).unwrap();
    until(async || receiver.post(execution("after", "completed").to_string()).await.status() == 200).await;
    until(async || receiver.ready().await.0 == 200).await;
    assert_eq!(receiver.metric("spool_salvaged_total").await, 10.0);
    let (dir, _) = receiver.stop().await;
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(count_executions(&receiver).await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorder_continues_with_the_new_files_after_a_rescue() {
    let receiver = TestReceiver::start_with(|_| {}).await;
    let held = receiver.hold_recording().await;
    for body in numbered_executions(10) {
        receiver.accept(body).await;
    }
    fs::remove_dir_all(receiver.dir.path().join("spool")).unwrap();
    let late = execution("late", "completed").to_string();
    until(async || receiver.post(late.clone()).await.status() == 200).await;
    held.release().await;
    assert_eq!(count_executions(&receiver).await, 12);
    for body in numbered_executions(20) {
        receiver.accept(body).await;
    }
    assert_eq!(count_executions(&receiver).await, 22);
    assert_eq!(receiver.ready().await.1["status"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_receiver_notices_removed_files() {
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    for body in numbered_executions(10) {
        receiver.accept(body).await;
    }
    fs::remove_dir_all(receiver.dir.path().join("spool")).unwrap();
    until(async || receiver.metric("spool_salvaged_total").await == 10.0).await;
    assert!(receiver.spool_file().exists());
    let (dir, _) = receiver.stop().await;
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(count_executions(&receiver).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_reads_truncated_files_waits_for_the_rescue_and_continues() {
    let receiver = TestReceiver::start_with(|_| {}).await;
    let held = receiver.hold_recording().await;
    for n in 0..60 {
        let fill = "x".repeat(2_000);
        receiver.accept(with(execution(&format!("e{n}"), "completed"), json!({ "fill": fill }))).await;
    }
    let log = receiver.spool_file().with_extension("db-wal");
    truncate(&log, fs::metadata(&log).unwrap().len() / 2);
    held.release().await;
    let recorded_before = count_executions(&receiver).await;
    let unreadable = receiver.metric("spool_unreadable_total").await;
    assert!(recorded_before as f64 + unreadable >= 61.0, "{recorded_before} of 61, {unreadable} unreadable");
    let after = execution("after", "completed").to_string();
    until(async || receiver.post(after.clone()).await.status() == 200).await;
    assert_eq!(count_executions(&receiver).await, recorded_before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_does_not_read_with_a_truncated_index() {
    let receiver = TestReceiver::start_with(|_| {}).await;
    let held = receiver.hold_recording().await;
    for body in numbered_executions(20) {
        receiver.accept(body).await;
    }
    truncate(&receiver.spool_file().with_extension("db-shm"), 0);
    held.release().await;
    assert_eq!(count_executions(&receiver).await, 21);
    assert_eq!(receiver.metric("spool_unreadable_total").await, 0.0);
}

/// The receiver is a process of its own: SQLite's page cache is shared by all connections of a process, and with the
/// connections of other tests it would contain everything that is cut off here.
#[tokio::test(flavor = "multi_thread")]
async fn each_loss_is_counted_once() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = 0;
    let mut post_large = async |process: &Process, count: usize| {
        for _ in 0..count {
            post_until_accepted_with_size(process, &format!("e{acknowledged}"), 50_000).await;
            acknowledged += 1;
        }
    };
    let database = spool_file(dir.path());
    // SQLite caches the last two megabytes in memory.
    let cut = || {
        let log = database.with_extension("db-wal");
        truncate(&log, fs::metadata(&log).unwrap().len() / 10);
    };
    let unreadable = async |process: &Process| process.counter("spool_unreadable_total").await;
    let process = start(dir.path());
    post_large(&process, 48).await;
    cut();
    post_large(&process, 1).await;
    let lost = unreadable(&process).await;
    assert!(lost > 0);
    for n in 0..2 {
        fs::rename(&database, dir.path().join(format!("moved-{n}"))).unwrap();
        post_large(&process, 1).await;
        assert_eq!(unreadable(&process).await, lost, "rescue {n}");
    }
    process.terminate();
    let mut process = start(dir.path());
    assert_eq!(unreadable(&process).await, 0, "the next start");
    post_large(&process, 48).await;
    cut();
    post_large(&process, 1).await;
    let lost_later = unreadable(&process).await;
    assert!(lost_later > 0);
    for _ in 0..2 {
        process.terminate();
        process = start(dir.path());
        assert_eq!(unreadable(&process).await, 0, "a later start");
    }
    process.terminate();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    let recorded = count_executions(&receiver).await;
    assert!(recorded < 100, "nothing was lost");
    assert!(recorded + lost + lost_later >= 100, "{recorded} of 100, {lost} and {lost_later} lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_whose_last_step_fails_keeps_one_copy_and_is_repeated() {
    let dir = TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    let mut process = start(dir.path());
    for n in 0..10 {
        post_until_accepted(&process, &format!("before-{n}")).await;
    }
    // A mount point cannot be renamed.
    let (other, place) = (dir.path().join("other"), spool.join("spool.db"));
    fs::write(&other, "").unwrap();
    let mounted = Command::new("mount").arg("--bind").arg(&other).arg(&place).status();
    if !mounted.is_ok_and(|mounted| mounted.success()) {
        return;
    }
    let failures =
        |process: &Process| process.log.iter().filter(|line| line.contains("cannot be rescued yet")).count();
    for _ in 0..600 {
        if failures(&process) < 4 {
            process.wait_at_most(Duration::from_millis(100));
        }
    }
    assert!(failures(&process) >= 4, "{:#?}", process.log);
    let copies = names(&spool, "rescued");
    assert!(Command::new("umount").arg(&place).status().unwrap().success());
    assert_eq!(copies.len(), 1, "{copies:?}");
    post_until_accepted(&process, "after").await;
    assert_eq!(names(&spool, "rescued"), [""; 0]);
    assert_eq!(process.counter("spool_unreadable_total").await, 0);
    process.kill();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    let counted = receiver.row("SELECT count(*), sum(deliveries)::bigint FROM executions").await;
    assert_eq!(counted, json!({ "count": 11, "sum": 11 }));
}

/// The copy needs as much space as the spool.
#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_on_a_full_disk_waits_for_space_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk")) else { return };
    let mut process = start(&disk.0);
    // More than the file `reserve` has room for.
    for n in 0..20 {
        post_until_accepted_with_size(&process, &format!("before-{n}"), 1 << 20).await;
    }
    let filler = disk.fill();
    fs::remove_file(disk.0.join("spool/spool.db-shm")).unwrap();
    let line = process.wait_for("cannot be rescued yet");
    assert!(line.contains("spool.db-shm was removed") && line.contains("disk is full"), "{line}");
    let answer = Client::new().post(&process.url).body(execution("refused", "completed").to_string());
    assert_eq!(answer.send().await.unwrap().status(), 503);
    let health = reqwest::get(format!("http://{}/health/ready", process.admin)).await.unwrap();
    assert_eq!(health.status(), 503);
    let problems = health.json::<serde_json::Value>().await.unwrap()["problems"].to_string();
    assert!(problems.contains("need as much free disk space"), "{problems}");

    fs::remove_file(filler).unwrap();
    post_until_accepted(&process, "after").await;
    assert_eq!(process.counter("spool_unreadable_total").await, 0);
    process.kill();
    let mut command = program(&disk.0);
    let database = new_database().await;
    command.env("RECEIVER__SPOOL__DIR", disk.0.join("spool")).env("DATABASE_URL", url(&database));
    let mut process = Process::start(&mut command);
    process.wait_for("recording to PostgreSQL");
    let recorded = "SELECT FROM executions WHERE execution_id <> 'refused'";
    until_rows(&database, recorded, 21).await;
    process.terminate();
}

/// A file of rescued deliveries that does not fit on the disk a second time.
#[tokio::test(flavor = "multi_thread")]
async fn rescued_deliveries_are_added_in_parts_on_a_small_disk() {
    let dir = TempDir::new().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk")) else { return };
    let spool = disk.0.join("spool");
    let process = start(&disk.0);
    for n in 0..40 {
        post_until_accepted_with_size(&process, &format!("rescued-{n}"), 1 << 20).await;
    }
    process.terminate();
    fs::rename(spool.join("spool.db"), spool.join("spool.db.rescued-1")).unwrap();
    fs::remove_file(spool.join("spool.mark")).unwrap();
    let process = start(&disk.0);
    let health = reqwest::get(format!("http://{}/health/ready", process.admin)).await.unwrap();
    let health = health.json::<serde_json::Value>().await.unwrap();
    assert!(health["problems"].to_string().contains("too little space"), "{health}");
    process.kill();
    let database = new_database().await;
    let mut command = program(&disk.0);
    command.env("RECEIVER__SPOOL__DIR", &spool).env("DATABASE_URL", url(&database));
    let mut process = Process::start(&mut command);
    process.wait_for("recording to PostgreSQL");
    post_until_accepted(&process, "meanwhile").await;
    until_rows(&database, "SELECT FROM executions", 41).await;
    until(async || !spool.join("spool.db.rescued-1").exists()).await;
    let duplicates = rows(&database, "SELECT execution_id FROM executions WHERE deliveries > 1").await;
    assert_eq!(duplicates, Vec::<serde_json::Value>::new());
    assert_eq!(process.counter("spool_unreadable_total").await, 0);
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_and_a_rescue_on_a_full_disk_use_the_space_of_the_reserve_file() {
    let dir = TempDir::new().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk")) else { return };
    let spool = disk.0.join("spool");
    let process = start(&disk.0);
    for body in numbered_executions(50) {
        process.accept(body).await;
    }
    process.kill();
    // The log has all deliveries.
    fs::remove_file(spool.join("spool.db")).unwrap();
    let filler = disk.fill();
    let mut process = start(&disk.0);
    process.wait_for("its readable deliveries are in a new file");
    assert!(!spool.join("reserve").exists(), "the new file uses a part of the space");
    fs::remove_file(filler).unwrap();
    post_until_accepted(&process, "after the start").await;
    assert!(spool.join("reserve").exists());

    let filler = disk.fill();
    fs::remove_file(spool.join("spool.db-shm")).unwrap();
    process.wait_for("were rescued into a new file");
    fs::remove_file(filler).unwrap();
    post_until_accepted(&process, "after the rescue").await;
    assert!(spool.join("reserve").exists());
    assert_eq!(process.counter("spool_unreadable_total").await, 0);
    process.kill();
    let database = new_database().await;
    let mut command = program(&disk.0);
    command.env("RECEIVER__SPOOL__DIR", &spool).env("DATABASE_URL", url(&database));
    let mut process = Process::start(&mut command);
    process.wait_for("recording to PostgreSQL");
    until_rows(&database, "SELECT FROM executions", 52).await;
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_moved_away_and_back_is_not_mistaken_for_that_of_another_receiver() {
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    for body in numbered_executions(10) {
        receiver.accept(body).await;
    }
    let spool = receiver.dir.path().join("spool");
    let accept_eventually = async |id: &str| {
        let body = execution(id, "completed").to_string();
        until(async || receiver.post(body.clone()).await.status() == 200).await;
    };
    fs::rename(&spool, spool.with_extension("away")).unwrap();
    accept_eventually("while it is away").await;
    fs::rename(&spool, spool.with_extension("new")).unwrap();
    fs::rename(spool.with_extension("away"), &spool).unwrap();
    accept_eventually("once it is back").await;
    // The same with `spool.db` alone.
    fs::rename(receiver.spool_file(), spool.with_extension("file")).unwrap();
    accept_eventually("while the file is away").await;
    fs::rename(spool.with_extension("file"), receiver.spool_file()).unwrap();
    accept_eventually("once the file is back").await;
    let refused = second_start_error(receiver.dir.path()).await.expect("a second receiver is refused");
    assert!(refused.contains("in use"), "{refused}");
    let (dir, _) = receiver.stop().await;
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(count_executions(&receiver).await, 14);
}

async fn second_start_error(dir: &Path) -> Option<String> {
    match Server::start(&settings(dir), no_database()).await {
        Err(StartError::Spool(error)) => Some(error.to_string()),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_receivers_cannot_use_the_same_spool() {
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    receiver.accept(execution("e", "completed")).await;
    let spool = receiver.dir.path().join("spool");
    let refused = second_start_error(receiver.dir.path()).await.expect("a second receiver is refused");
    assert!(refused.contains("in use"), "{refused}");
    // Only the database and its log are needed for the lock.
    for name in names(&spool, "").iter().filter(|name| !name.starts_with("spool.db")) {
        fs::remove_file(spool.join(name)).unwrap();
    }
    assert!(
        second_start_error(receiver.dir.path()).await.is_some(),
        "the lock does not depend on a lock file"
    );
    // The same file under another name.
    let elsewhere = TempDir::new_in(receiver.dir.path()).unwrap();
    fs::create_dir(elsewhere.path().join("spool")).unwrap();
    fs::hard_link(spool.join("spool.db"), spool_file(elsewhere.path())).unwrap();
    assert!(second_start_error(elsewhere.path()).await.is_some(), "the file itself is locked");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_another_receiver_uses_the_directory_deliveries_are_rescued_for_its_next_start() {
    let first = TestReceiver::start_on(no_database(), fast_retries).await;
    for body in numbered_executions(10) {
        first.accept(body).await;
    }
    let dir = first.dir.path().to_owned();
    fs::remove_dir_all(dir.join("spool")).unwrap();
    let process = start(&dir);
    post_until_accepted(&process, "other").await;
    assert_ne!(first.post(execution("late", "completed").to_string()).await.status(), 200);
    let (dir, ended) = first.ended().await;
    let why = ended.unwrap_err().to_string();
    assert!(why.contains("in use by another receiver"), "{why}");
    post_until_accepted(&process, "another").await;
    process.kill();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    let ids = "SELECT count(*) FROM executions WHERE execution_id <> 'late'";
    assert_eq!(receiver.row(ids).await["count"], 12);
    let (dir, _) = receiver.stop().await;
    assert_eq!(names(&dir.path().join("spool"), "rescued"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_cannot_read_the_files() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("spool")).unwrap();
    fs::set_permissions(dir.path().join("spool"), fs::Permissions::from_mode(0o700)).unwrap();
    // Created by another program, readable for all users.
    let old = File::create(spool_file(dir.path())).unwrap();
    old.set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
    drop(old);
    let receiver = TestReceiver::start_in(dir, no_database(), fast_retries).await;
    receiver.accept(execution("e", "completed")).await;
    let others = |receiver: &TestReceiver| {
        let spool = receiver.dir.path().join("spool");
        let readable = |name: &String| spool.join(name).metadata().unwrap().permissions().mode() & 0o077 != 0;
        names(&spool, "").into_iter().filter(readable).collect::<Vec<_>>()
    };
    assert_eq!(others(&receiver), [""; 0]);
    fs::remove_file(receiver.spool_file()).unwrap();
    let after = execution("after", "completed").to_string();
    until(async || receiver.post(after.clone()).await.status() == 200).await;
    assert_eq!(others(&receiver), [""; 0]);
}
