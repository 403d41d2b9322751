//! Damaged spools: nothing is overwritten, and readable deliveries are saved.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use rusqlite::Connection as Sqlite;
use serde_json::json;
use tempfile::TempDir;

use crate::support::fixtures::{execution, numbered_executions, with};
use crate::support::postgres::{count_executions, new_database, no_database};
use crate::support::receiver::{TestReceiver, fast_retries, spool_error};
use crate::support::spool::{names, spool_file, spool_holding};
use crate::support::wait::until;

/// The names of files that a start has set aside.
fn set_aside(dir: &Path) -> Vec<String> {
    names(&dir.join("spool"), "damaged")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_of_an_unknown_version_is_refused_unchanged() {
    let dir = spool_holding(numbered_executions(1)).await;
    let log = spool_file(dir.path()).with_extension("db-wal");
    for version in [0, 1, 99] {
        Sqlite::open(spool_file(dir.path())).unwrap().pragma_update(None, "user_version", version).unwrap();
        let before = fs::read(spool_file(dir.path())).unwrap();
        // SQLite or a salvage would change this log.
        fs::write(&log, "damaged").unwrap();
        let why = spool_error(dir.path()).await;
        assert!(why.contains(&format!("version {version},")) && why.contains("that wrote it"), "{why}");
        assert_eq!(fs::read(spool_file(dir.path())).unwrap(), before);
        assert_eq!(fs::read(&log).unwrap(), b"damaged");
        fs::remove_file(&log).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_of_a_pre_release_is_refused_unchanged() {
    for version in 1..=5 {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("spool")).unwrap();
        let file = Sqlite::open(spool_file(dir.path())).unwrap();
        file.execute_batch(&format!(
            "CREATE TABLE deliveries (seq INTEGER PRIMARY KEY AUTOINCREMENT, received_at INTEGER NOT NULL,
                 checksum INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
             PRAGMA application_id = 0x57465253; PRAGMA user_version = {version}; PRAGMA journal_mode = WAL;"
        ))
        .unwrap();
        drop(file);
        let before = fs::read(spool_file(dir.path())).unwrap();
        let why = spool_error(dir.path()).await;
        assert!(why.contains("pre-release") && why.contains("Nothing was changed"), "{why}");
        assert_eq!(fs::read(spool_file(dir.path())).unwrap(), before);
    }
}

/// Its version was 1, too, until columns were added.
#[tokio::test(flavor = "multi_thread")]
async fn a_spool_without_the_latest_columns_is_refused_unchanged() {
    let dir = spool_holding(numbered_executions(5)).await;
    let file = Sqlite::open(spool_file(dir.path())).unwrap();
    file.execute_batch(
        "ALTER TABLE deliveries DROP COLUMN reference; ALTER TABLE deliveries DROP COLUMN is_redelivery;
         PRAGMA user_version = 1",
    )
    .unwrap();
    drop(file);
    let before = fs::read(spool_file(dir.path())).unwrap();
    let why = spool_error(dir.path()).await;
    assert!(why.contains("version 1,") && why.contains("that wrote it"), "{why}");
    assert_eq!(fs::read(spool_file(dir.path())).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_program_is_refused_unchanged() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("spool")).unwrap();
    Sqlite::open(spool_file(dir.path())).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
    let before = fs::read(spool_file(dir.path())).unwrap();
    let why = spool_error(dir.path()).await;
    assert!(why.contains("is not a spool"), "{why}");
    assert_eq!(fs::read(spool_file(dir.path())).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_garbage_is_set_aside_unchanged() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("spool")).unwrap();
    let garbage = vec![b'?'; 10_000];
    fs::write(spool_file(dir.path()), &garbage).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    receiver.accept(execution("e", "completed")).await;
    assert_eq!(count_executions(&receiver).await, 1);
    let (dir, _) = receiver.stop().await;
    let aside = set_aside(dir.path());
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read(dir.path().join("spool").join(&aside[0])).unwrap(), garbage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_with_a_flipped_byte_goes_to_quarantine_alone() {
    let dir = spool_holding(numbered_executions(50)).await;
    let mut bytes = fs::read(spool_file(dir.path())).unwrap();
    // Unused space of split pages may hold more copies.
    while let Some(at) = bytes.windows(5).position(|w| w == b"\"e33\"") {
        bytes[at + 1] = b'f';
    }
    fs::write(spool_file(dir.path()), bytes).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(count_executions(&receiver).await, 49);
    let row = receiver.row("SELECT reason, convert_from(body, 'UTF8')::json AS body FROM quarantine").await;
    assert_eq!(row["body"]["execution_id"], "f33");
    assert!(row["reason"].as_str().unwrap().starts_with("damaged in the spool"), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_broken_page_readable_deliveries_are_saved_and_the_file_is_set_aside() {
    let fill = "x".repeat(2000);
    let bodies =
        (0..500).map(|n| with(execution(&format!("e{n}"), "completed"), json!({ "fill": fill })).to_string());
    let dir = spool_holding(bodies).await;
    let mut bytes = fs::read(spool_file(dir.path())).unwrap();
    let at = bytes.windows(6).position(|w| w == b"\"e250\"").unwrap() / 4096 * 4096;
    bytes[at..at + 4096].fill(0xa5);
    fs::write(spool_file(dir.path()), &bytes).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    let saved = count_executions(&receiver).await;
    assert!((490..500).contains(&saved), "{saved} of 500");
    assert_eq!(receiver.metric("spool_salvaged_total").await, saved as f64);
    assert!(receiver.metric("spool_unreadable_total").await == (500 - saved) as f64);
    receiver.accept(execution("after", "completed")).await;
    assert_eq!(count_executions(&receiver).await, saved + 1);
    let (dir, _) = receiver.stop().await;
    assert_eq!(set_aside(dir.path()).len(), 1);
    assert_eq!(fs::read(dir.path().join("spool").join(&set_aside(dir.path())[0])).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_deliveries_are_counted_from_the_first_unrecorded_one() {
    // The first 30 are recorded and deleted. Then the oldest of the others are damaged.
    let receiver = TestReceiver::start().await;
    for body in numbered_executions(30) {
        receiver.accept(body).await;
    }
    let (dir, _) = receiver.stop().await;
    let receiver = TestReceiver::start_in(dir, no_database(), fast_retries).await;
    let fill = "x".repeat(1500);
    for n in 30..60 {
        let body = with(execution(&format!("e{n}"), "completed"), json!({ "fill": fill }));
        receiver.accept(body).await;
    }
    let (dir, _) = receiver.stop().await;
    let mut bytes = fs::read(spool_file(dir.path())).unwrap();
    // Leaf pages only: unused space of inner pages may hold old copies.
    for page in bytes.chunks_mut(4096).filter(|page| page[0] == 0x0d) {
        if page.windows(5).any(|w| w == b"\"e30\"") {
            page.fill(0xff);
        }
    }
    fs::write(spool_file(dir.path()), bytes).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    let saved = count_executions(&receiver).await;
    assert!((20..30).contains(&saved), "{saved} of 30");
    assert_eq!(receiver.metric("spool_salvaged_total").await, saved as f64);
    assert_eq!(receiver.metric("spool_unreadable_total").await, (30 - saved) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_found_while_running_ends_the_receiver() {
    let receiver = TestReceiver::start().await;
    let held = receiver.hold_recording().await;
    for body in numbered_executions(50) {
        receiver.accept(body).await;
    }
    // The recorder reads its next deliveries from the log, after the log's header. The writer compares only the log's last
    // frame.
    let log = receiver.spool_file().with_extension("db-wal");
    let size = usize::try_from(fs::metadata(&log).unwrap().len()).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    file.seek(SeekFrom::Start(32)).unwrap();
    file.write_all(&vec![0xa5; size - 32 - (24 + 4096)]).unwrap();
    let database = receiver.database.clone();
    held.release().await;
    let (dir, ended) = receiver.ended().await;
    let why = ended.unwrap_err().to_string();
    assert!(why.contains("the spool is damaged") && why.contains("start the receiver again"), "{why}");

    let receiver = TestReceiver::start_in(dir, database, |_| {}).await;
    receiver.accept(execution("after", "completed")).await;
    assert!(count_executions(&receiver).await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_another_program_deletes_are_counted_once() {
    let delete = |file: &Path, condition: &str| {
        let statement = format!("DELETE FROM deliveries WHERE {condition}");
        Sqlite::open(file).unwrap().execute(&statement, []).unwrap()
    };
    let dir = spool_holding(numbered_executions(10)).await;
    assert_eq!(delete(&spool_file(dir.path()), "seq BETWEEN 3 AND 5"), 3);
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    let held = receiver.hold_recording().await;
    assert_eq!(receiver.metric("spool_unreadable_total").await, 3.0);
    for n in 10..30 {
        receiver.accept(execution(&format!("e{n}"), "completed")).await;
    }
    // In the middle and at the end.
    assert_eq!(delete(&receiver.spool_file(), "seq BETWEEN 15 AND 18 OR seq > 30"), 5);
    held.release().await;
    assert_eq!(count_executions(&receiver).await, 31 - 3 - 5);
    until(async || receiver.metric("spool_unreadable_total").await == 8.0).await;
    receiver.accept(execution("after", "completed")).await;
    assert_eq!(count_executions(&receiver).await, 31 - 3 - 5 + 1);
    let database = receiver.database.clone();
    let (dir, _) = receiver.stop().await;
    let missing = "SELECT missing FROM acked";
    let missing: i64 =
        Sqlite::open(spool_file(dir.path())).unwrap().query_row(missing, [], |row| row.get(0)).unwrap();
    assert_eq!(missing, 0);
    let receiver = TestReceiver::start_in(dir, database, |_| {}).await;
    assert_eq!(receiver.metric("spool_unreadable_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_write_at_the_end_of_the_log_loses_no_acknowledged_delivery() {
    let dir = TempDir::new().unwrap();
    let receiver = TestReceiver::start_in(dir, no_database(), fast_retries).await;
    for body in numbered_executions(20) {
        receiver.accept(body).await;
    }
    // The files after a power cut: the log is not copied into the database, and its last write is incomplete.
    let cut = TempDir::new().unwrap();
    fs::create_dir(cut.path().join("spool")).unwrap();
    fs::copy(receiver.spool_file(), spool_file(cut.path())).unwrap();
    let mut log = fs::read(receiver.spool_file().with_extension("db-wal")).unwrap();
    log.extend_from_within(log.len() - 3000..);
    fs::write(spool_file(cut.path()).with_extension("db-wal"), log).unwrap();
    let receiver = TestReceiver::start_in(cut, new_database().await, |_| {}).await;
    assert_eq!(count_executions(&receiver).await, 20);
    assert!(set_aside(receiver.dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_middle_of_the_log_loses_at_most_one_delivery() {
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    for body in numbered_executions(60) {
        receiver.accept(body).await;
    }
    // The files after SIGKILL, with one flipped bit.
    for place in [10, 24, 40, 2_000, 20_000, 50_000, 100_000] {
        let killed = TempDir::new().unwrap();
        fs::create_dir(killed.path().join("spool")).unwrap();
        fs::copy(receiver.spool_file(), spool_file(killed.path())).unwrap();
        let mut log = fs::read(receiver.spool_file().with_extension("db-wal")).unwrap();
        log[place] ^= 1;
        fs::write(spool_file(killed.path()).with_extension("db-wal"), &log).unwrap();
        let next = TestReceiver::start_in(killed, new_database().await, |_| {}).await;
        assert!(count_executions(&next).await >= 59, "{} of 60, byte {place}", count_executions(&next).await);
        let (dir, _) = next.stop().await;
        let aside = set_aside(dir.path());
        let kept = aside.iter().find(|name| name.ends_with("-wal")).expect("the log is set aside");
        assert_eq!(fs::read(dir.path().join("spool").join(kept)).unwrap(), log);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checksum_detects_damage_to_other_columns_than_the_body() {
    for damage in [
        "received_at = -9223372036854775808",
        "received_at = 9223372036854775807",
        "received_at = received_at + 1",
        "checksum = -checksum",
        "checksum = checksum + 4294967296",
    ] {
        let dir = spool_holding(numbered_executions(5)).await;
        let file = Sqlite::open(spool_file(dir.path())).unwrap();
        file.execute(&format!("UPDATE deliveries SET {damage} WHERE seq = 2"), []).unwrap();
        drop(file);
        let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
        assert_eq!(count_executions(&receiver).await, 4, "{damage}");
        let row = receiver
            .row("SELECT convert_from(body, 'UTF8')::json->>'execution_id' AS id FROM quarantine")
            .await;
        assert_eq!(row["id"], "e1", "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_positions_hide_no_delivery() {
    for damage in [
        "UPDATE acked SET seq = 1000000",
        "UPDATE acked SET seq = -5",
        "DELETE FROM acked",
        "UPDATE acked SET missing = 1000000",
        "UPDATE acked SET missing = -5",
        "UPDATE sqlite_sequence SET seq = 2",
        "UPDATE sqlite_sequence SET seq = 4611686018427387904",
        "UPDATE sqlite_sequence SET seq = -1",
        "DELETE FROM sqlite_sequence",
    ] {
        let dir = spool_holding(numbered_executions(5)).await;
        let file = Sqlite::open(spool_file(dir.path())).unwrap();
        file.execute(damage, []).unwrap();
        drop(file);
        let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
        assert_eq!(count_executions(&receiver).await, 5, "{damage}");
        receiver.accept(execution("after", "completed")).await;
        assert_eq!(count_executions(&receiver).await, 6, "{damage}");
    }
}

/// No checksum covers a row's number. SQLite detects the damage by the order of the tree.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_an_altered_number_is_saved_with_all_others() {
    for (from, to) in [(51, 50), (51, 49), (56, 40), (50, 114), (50, 2)] {
        let dir = spool_holding(numbered_executions(100)).await;
        let mut bytes = fs::read(spool_file(dir.path())).unwrap();
        // A cell: its length, the row's number, the length of its header, the (empty) first column, and later the
        // body.
        let body = format!("\"e{}\"", from - 1).into_bytes();
        let is_cell = |at: &usize| {
            let cell = &bytes[*at..bytes.len().min(at + 70)];
            cell[0] == from
                && (9..=11).contains(&cell[1])
                && cell[2] == 0
                && cell.windows(body.len()).any(|window| window == body)
        };
        let cells: Vec<_> = (0..bytes.len() - 4).filter(is_cell).collect();
        assert!(!cells.is_empty());
        for at in cells {
            bytes[at] = to;
        }
        fs::write(spool_file(dir.path()), bytes).unwrap();
        let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
        assert_eq!(count_executions(&receiver).await, 100, "{from} became {to}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_start_ends_an_interrupted_salvage() {
    for damaged_file_exists in [false, true] {
        let dir = spool_holding(numbered_executions(10)).await;
        let saved = dir.path().join("spool/spool.db.saved");
        fs::rename(spool_file(dir.path()), &saved).unwrap();
        if damaged_file_exists {
            fs::write(spool_file(dir.path()), "damaged").unwrap();
        }
        let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
        assert_eq!(count_executions(&receiver).await, 10);
        let (dir, _) = receiver.stop().await;
        assert!(!dir.path().join("spool/spool.db.saved").exists());
        assert_eq!(set_aside(dir.path()).len(), usize::from(damaged_file_exists));
    }
}
