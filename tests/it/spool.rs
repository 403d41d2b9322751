//! What a 200 promises while PostgreSQL is away, slow or refuses, and when the disk is full or damaged.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use rusqlite::Connection as Sqlite;
use serde_json::{Value, json};
use sqlx::Connection;
use tempfile::TempDir;
use workflow_receiver::app::{Receiver, StartError};
use workflow_receiver::config::Settings;

use crate::harness::{TestReceiver, execution, new_database, no_database, settings, with};

fn impatient(settings: &mut Settings) {
    settings.shutdown.drain_timeout = std::time::Duration::ZERO;
    settings.recorder.max_backoff = std::time::Duration::from_millis(100);
}

/// A receiver whose PostgreSQL is away takes `bodies`, and stops. Its directory.
async fn spooled(bodies: impl IntoIterator<Item = String>) -> TempDir {
    let receiver = TestReceiver::start_on(no_database(), impatient).await;
    for body in bodies {
        receiver.accept(body).await;
    }
    receiver.stop().await.0
}

fn ids(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| execution(&format!("e{n}"), "completed").to_string())
}

async fn recorded(receiver: &TestReceiver) -> i64 {
    receiver.row("SELECT count(*) FROM executions").await["count"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_away_webhooks_are_taken_and_recorded_once_it_is_back() {
    let dir = spooled(ids(20)).await;
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(recorded(&receiver).await, 20);
    let (dir, _) = receiver.stop().await;
    let file = Sqlite::open(dir.path().join("spool/spool.db")).unwrap();
    let left: i64 = file.query_row("SELECT count(*) FROM deliveries", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0, "the spool forgets what is recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_away_it_is_ready_and_says_what_is_wrong() {
    let receiver = TestReceiver::start_on(no_database(), impatient).await;
    receiver.accept(execution("e", "completed")).await;
    let (code, health) = loop {
        let (code, health) = receiver.ready().await;
        if health["problems"][0].as_str().is_some_and(|why| why.contains("not recording since")) {
            break (code, health);
        }
    };
    assert_eq!(code, 200);
    assert_eq!((&health["status"], &health["spooled"]), (&json!("degraded"), &json!(1)));
    assert_eq!(receiver.metric("spool_depth").await, 1.0);
    assert_eq!(receiver.metric("database_up").await, 0.0);
    assert!(receiver.metric("spool_oldest_age_seconds").await > 0.0);
    assert_eq!(receiver.get("/health/live").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_unacceptable_row_among_two_thousand_is_quarantined_and_the_others_recorded() {
    let database = new_database().await;
    // Bad in a way that only this database knows.
    TestReceiver::start_on(database.clone(), |_| {}).await.stop().await;
    let mut connection = sqlx::PgConnection::connect_with(&database).await.unwrap();
    let refuse = "ALTER TABLE executions ADD CONSTRAINT not_this CHECK (execution_id <> 'e1234')";
    sqlx::raw_sql(refuse).execute(&mut connection).await.unwrap();

    let receiver = TestReceiver::start_in(spooled(ids(2000)).await, database, |_| {}).await;
    assert_eq!(recorded(&receiver).await, 1999);
    let row = receiver.row("SELECT reason, convert_from(body, 'UTF8')::json AS body FROM quarantine").await;
    assert_eq!(row["body"], execution("e1234", "completed"));
    assert!(row["reason"].as_str().unwrap().contains("not_this"), "{row}");
    assert_eq!(receiver.metric("record_retries_total").await, 0.0, "a row is no reason to wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_waited_for_and_nothing_is_lost() {
    let receiver = TestReceiver::start_with(impatient).await;
    let mut connection = receiver.connection().await;
    sqlx::raw_sql("ALTER TABLE executions RENAME TO elsewhere").execute(&mut connection).await.unwrap();
    receiver.accept(execution("e", "completed")).await;
    while !receiver.ready().await.1["problems"].to_string().contains("Is the schema there?") {}
    sqlx::raw_sql("ALTER TABLE elsewhere RENAME TO executions").execute(&mut connection).await.unwrap();
    assert_eq!(recorded(&receiver).await, 1);
    assert_eq!(receiver.ready().await.1["status"], "ok");
    assert!(receiver.rows("SELECT * FROM quarantine").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_hangs_is_given_up_and_tried_again() {
    let receiver = TestReceiver::start_with(|s| {
        impatient(s);
        s.database.statement_timeout = std::time::Duration::from_millis(100);
    })
    .await;
    let held = receiver.hold_recording().await;
    while receiver.metric("record_retries_total").await < 2.0 {}
    held.release().await;
    assert_eq!(recorded(&receiver).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_cost_nothing() {
    let receiver = TestReceiver::start_with(impatient).await;
    let mut connection = receiver.connection().await;
    for n in 0..200 {
        receiver.accept(with(execution(&format!("e{n}"), "completed"), json!({ "bulk_id": "b" }))).await;
        if n % 20 == 0 {
            let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name = 'workflow-receiver'";
            sqlx::query(cut).execute(&mut connection).await.unwrap();
        }
    }
    assert_eq!(recorded(&receiver).await, 200);
    assert_eq!(receiver.row("SELECT received FROM bulks").await["received"], 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_answers_503_and_takes_deliveries_again_once_there_is_room() {
    let database = new_database().await;
    let receiver = TestReceiver::start_on(no_database(), |s| {
        impatient(s);
        s.spool.max_bytes = 1 << 20;
    })
    .await;
    let large = |n: usize| {
        with(execution(&format!("e{n}"), "completed"), json!({ "fill": "x".repeat(100_000) })).to_string()
    };
    let mut kept = 0;
    let refused = loop {
        let answer = receiver.post(large(kept)).await;
        if answer.status() != 200 {
            break answer;
        }
        kept += 1;
    };
    assert!((8..=10).contains(&kept), "{kept} bodies of 100 kB in 1 MiB");
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.json::<Value>().await.unwrap()["type"], "urn:workflow-receiver:problem:spool-full");
    let (code, health) = receiver.ready().await;
    assert_eq!((code, &health["status"]), (503, &json!("unavailable")));
    let file = fs::metadata(receiver.spool_file()).unwrap().len();
    assert!(file <= 1 << 20, "{file} bytes");

    let (dir, _) = receiver.stop().await;
    let receiver = TestReceiver::start_in(dir, database, |s| s.spool.max_bytes = 1 << 20).await;
    assert_eq!(recorded(&receiver).await, kept as i64);
    receiver.accept(large(kept)).await;
    assert_eq!(receiver.ready().await.0, 200);
    assert_eq!(recorded(&receiver).await, kept as i64 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_was_full_is_ready_again_without_any_webhook() {
    let receiver = TestReceiver::start_with(|s| s.spool.max_bytes = 1 << 20).await;
    let held = receiver.hold_recording().await;
    let large = with(execution("e", "completed"), json!({ "fill": "x".repeat(100_000) })).to_string();
    while receiver.post(large.clone()).await.status() == 200 {}
    assert_eq!(receiver.ready().await.0, 503);
    held.release().await;
    receiver.recorded().await;
    while receiver.ready().await.0 != 200 {}
    receiver.accept(&large).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_space_of_a_long_backlog_is_given_back() {
    let fill = "x".repeat(4 << 20);
    let dir = spooled(
        (0..20).map(|n| with(execution(&n.to_string(), "completed"), json!({ "fill": fill })).to_string()),
    )
    .await;
    let size = |dir: &TempDir| fs::metadata(spool(dir.path())).unwrap().len();
    assert!(size(&dir) > 80 << 20, "{} bytes", size(&dir));
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(recorded(&receiver).await, 20);
    let (dir, _) = receiver.stop().await;
    assert!(size(&dir) < 1 << 20, "{} bytes", size(&dir));
}

// --- A spool that cannot be read ---------------------------------------------------------------

fn spool(dir: &Path) -> std::path::PathBuf {
    dir.join("spool/spool.db")
}

async fn refusal(dir: &Path) -> String {
    match Receiver::start(&settings(dir), no_database()).await {
        Err(StartError::Spool(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The files that were set aside.
fn aside(dir: &Path) -> Vec<String> {
    let names =
        fs::read_dir(dir.join("spool")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("damaged")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_of_a_newer_version_is_left_alone() {
    let dir = spooled(ids(1)).await;
    Sqlite::open(spool(dir.path())).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(spool(dir.path())).unwrap();
    let why = refusal(dir.path()).await;
    assert!(why.contains("version 99") && why.contains("newer receiver"), "{why}");
    assert_eq!(fs::read(spool(dir.path())).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_no_spool_is_left_alone() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("spool")).unwrap();
    Sqlite::open(spool(dir.path())).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
    let before = fs::read(spool(dir.path())).unwrap();
    let why = refusal(dir.path()).await;
    assert!(why.contains("is not a spool"), "{why}");
    assert_eq!(fs::read(spool(dir.path())).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_place_of_the_spool_is_set_aside_whole() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("spool")).unwrap();
    let garbage = vec![b'?'; 10_000];
    fs::write(spool(dir.path()), &garbage).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    receiver.accept(execution("e", "completed")).await;
    assert_eq!(recorded(&receiver).await, 1);
    let (dir, _) = receiver.stop().await;
    let aside = aside(dir.path());
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read(dir.path().join("spool").join(&aside[0])).unwrap(), garbage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_flipped_in_a_body_puts_that_delivery_into_quarantine_and_no_other() {
    let dir = spooled(ids(50)).await;
    let mut bytes = fs::read(spool(dir.path())).unwrap();
    // Pages that were split leave copies behind, in space that is not used.
    while let Some(at) = bytes.windows(5).position(|w| w == b"\"e33\"") {
        bytes[at + 1] = b'f';
    }
    fs::write(spool(dir.path()), bytes).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(recorded(&receiver).await, 49);
    let row = receiver.row("SELECT reason, convert_from(body, 'UTF8')::json AS body FROM quarantine").await;
    assert_eq!(row["body"]["execution_id"], "f33");
    assert!(row["reason"].as_str().unwrap().starts_with("damaged in the spool"), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_spool_with_a_broken_page_what_can_be_read_is_saved_and_the_rest_set_aside() {
    let fill = "x".repeat(2000);
    let bodies =
        (0..500).map(|n| with(execution(&format!("e{n}"), "completed"), json!({ "fill": fill })).to_string());
    let dir = spooled(bodies).await;
    let mut bytes = fs::read(spool(dir.path())).unwrap();
    let at = bytes.windows(6).position(|w| w == b"\"e250\"").unwrap() / 4096 * 4096;
    bytes[at..at + 4096].fill(0xa5);
    fs::write(spool(dir.path()), &bytes).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    let saved = recorded(&receiver).await;
    assert!((490..500).contains(&saved), "{saved} of 500");
    assert_eq!(receiver.metric("spool_salvaged_total").await, saved as f64);
    assert!(receiver.metric("spool_unreadable_total").await >= (500 - saved) as f64);
    receiver.accept(execution("after", "completed")).await;
    assert_eq!(recorded(&receiver).await, saved + 1);
    let (dir, _) = receiver.stop().await;
    assert_eq!(aside(dir.path()).len(), 1);
    assert_eq!(fs::read(dir.path().join("spool").join(&aside(dir.path())[0])).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_breaks_at_work_ends_the_receiver_instead_of_leaving_it_deaf() {
    let receiver = TestReceiver::start().await;
    let held = receiver.hold_recording().await;
    for body in ids(50) {
        receiver.accept(body).await;
    }
    // What the recorder reads next is in the log, behind its header.
    let log = receiver.spool_file().with_extension("db-wal");
    let size = usize::try_from(fs::metadata(&log).unwrap().len()).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    file.seek(SeekFrom::Start(32)).unwrap();
    file.write_all(&vec![0xa5; size - 32]).unwrap();
    let database = receiver.database.clone();
    held.release().await;
    let (dir, ended) = receiver.ended().await;
    let why = ended.unwrap_err().to_string();
    assert!(why.contains("the spool is damaged") && why.contains("start the receiver again"), "{why}");

    let receiver = TestReceiver::start_in(dir, database, |_| {}).await;
    receiver.accept(execution("after", "completed")).await;
    assert!(recorded(&receiver).await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_write_at_the_end_of_the_log_costs_only_what_was_never_acknowledged() {
    let dir = TempDir::new().unwrap();
    let receiver = TestReceiver::start_in(dir, no_database(), impatient).await;
    for body in ids(20) {
        receiver.accept(body).await;
    }
    // As a power cut leaves it: the log not yet copied into the file, and its last write half done.
    let cut = TempDir::new().unwrap();
    fs::create_dir(cut.path().join("spool")).unwrap();
    fs::copy(receiver.spool_file(), spool(cut.path())).unwrap();
    let mut log = fs::read(receiver.spool_file().with_extension("db-wal")).unwrap();
    log.extend_from_within(log.len() - 3000..);
    fs::write(spool(cut.path()).with_extension("db-wal"), log).unwrap();
    let receiver = TestReceiver::start_in(cut, new_database().await, |_| {}).await;
    assert_eq!(recorded(&receiver).await, 20);
    assert!(aside(receiver.dir.path()).is_empty());
}
