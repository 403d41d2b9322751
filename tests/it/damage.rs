//! A spool that cannot be read: nothing is overwritten, what can be read is saved.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use rusqlite::Connection as Sqlite;
use serde_json::json;
use tempfile::TempDir;
use workflow_receiver::server::{Server, StartError};

use crate::support::fixtures::{execution, numbered_executions, with};
use crate::support::postgres::{count_executions, new_database, no_database};
use crate::support::receiver::{TestReceiver, impatient, settings};
use crate::support::spool::{spool_file, spool_holding};

async fn refusal(dir: &Path) -> String {
    match Server::start(&settings(dir), no_database()).await {
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
async fn a_spool_of_an_unknown_version_is_refused_unchanged() {
    let dir = spool_holding(numbered_executions(1)).await;
    let log = spool_file(dir.path()).with_extension("db-wal");
    for version in [0, 2, 99] {
        Sqlite::open(spool_file(dir.path())).unwrap().pragma_update(None, "user_version", version).unwrap();
        let before = fs::read(spool_file(dir.path())).unwrap();
        // A log that SQLite, or a salvage, would not leave as it is.
        fs::write(&log, "damaged").unwrap();
        let why = refusal(dir.path()).await;
        assert!(why.contains(&format!("version {version},")) && why.contains("newer receiver"), "{why}");
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
        let why = refusal(dir.path()).await;
        assert!(why.contains("pre-release") && why.contains("Nothing was changed"), "{why}");
        assert_eq!(fs::read(spool_file(dir.path())).unwrap(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_no_spool_is_left_alone() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("spool")).unwrap();
    Sqlite::open(spool_file(dir.path())).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
    let before = fs::read(spool_file(dir.path())).unwrap();
    let why = refusal(dir.path()).await;
    assert!(why.contains("is not a spool"), "{why}");
    assert_eq!(fs::read(spool_file(dir.path())).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_place_of_the_spool_is_set_aside_whole() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("spool")).unwrap();
    let garbage = vec![b'?'; 10_000];
    fs::write(spool_file(dir.path()), &garbage).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    receiver.accept(execution("e", "completed")).await;
    assert_eq!(count_executions(&receiver).await, 1);
    let (dir, _) = receiver.stop().await;
    let aside = aside(dir.path());
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read(dir.path().join("spool").join(&aside[0])).unwrap(), garbage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_flipped_in_a_body_puts_that_delivery_into_quarantine_and_no_other() {
    let dir = spool_holding(numbered_executions(50)).await;
    let mut bytes = fs::read(spool_file(dir.path())).unwrap();
    // Pages that were split leave copies behind, in space that is not used.
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
async fn of_a_spool_with_a_broken_page_what_can_be_read_is_saved_and_the_rest_set_aside() {
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
    assert_eq!(aside(dir.path()).len(), 1);
    assert_eq!(fs::read(dir.path().join("spool").join(&aside(dir.path())[0])).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_counted_from_the_first_that_was_not_recorded() {
    // Some are recorded and forgotten; then the oldest that are not are damaged.
    let receiver = TestReceiver::start().await;
    for body in numbered_executions(30) {
        receiver.accept(body).await;
    }
    let (dir, _) = receiver.stop().await;
    let receiver = TestReceiver::start_in(dir, no_database(), impatient).await;
    let fill = "x".repeat(1500);
    for n in 30..60 {
        let body = with(execution(&format!("e{n}"), "completed"), json!({ "fill": fill }));
        receiver.accept(body).await;
    }
    let (dir, _) = receiver.stop().await;
    let mut bytes = fs::read(spool_file(dir.path())).unwrap();
    // Leaves of the tree only: its inner pages may have old copies in space that is not used.
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
async fn a_spool_that_breaks_at_work_ends_the_receiver_instead_of_leaving_it_deaf() {
    let receiver = TestReceiver::start().await;
    let held = receiver.hold_recording().await;
    for body in numbered_executions(50) {
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
    assert!(count_executions(&receiver).await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_write_at_the_end_of_the_log_costs_only_what_was_never_acknowledged() {
    let dir = TempDir::new().unwrap();
    let receiver = TestReceiver::start_in(dir, no_database(), impatient).await;
    for body in numbered_executions(20) {
        receiver.accept(body).await;
    }
    // As a power cut leaves it: the log not yet copied into the file, and its last write half done.
    let cut = TempDir::new().unwrap();
    fs::create_dir(cut.path().join("spool")).unwrap();
    fs::copy(receiver.spool_file(), spool_file(cut.path())).unwrap();
    let mut log = fs::read(receiver.spool_file().with_extension("db-wal")).unwrap();
    log.extend_from_within(log.len() - 3000..);
    fs::write(spool_file(cut.path()).with_extension("db-wal"), log).unwrap();
    let receiver = TestReceiver::start_in(cut, new_database().await, |_| {}).await;
    assert_eq!(count_executions(&receiver).await, 20);
    assert!(aside(receiver.dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_in_the_middle_of_the_log_costs_at_most_the_delivery_it_is_in() {
    let receiver = TestReceiver::start_on(no_database(), impatient).await;
    for body in numbered_executions(60) {
        receiver.accept(body).await;
    }
    // As SIGKILL leaves it, and then the disk.
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
        let aside = aside(dir.path());
        let kept = aside.iter().find(|name| name.ends_with("-wal")).expect("the log is set aside");
        assert_eq!(fs::read(dir.path().join("spool").join(kept)).unwrap(), log);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_beside_the_body_is_told_by_the_checksum_too() {
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
async fn damage_to_what_is_counted_hides_no_delivery() {
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

/// A row's number is in no checksum; SQLite finds such damage by the order of its tree.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_number_is_altered_is_saved_and_so_are_all_others() {
    for (from, to) in [(51, 50), (51, 49), (56, 40), (50, 114), (50, 2)] {
        let dir = spool_holding(numbered_executions(100)).await;
        let mut bytes = fs::read(spool_file(dir.path())).unwrap();
        // A cell: its length, the row's number, the length of its header, the (empty) first column; its
        // body is near.
        let body = format!("\"e{}\"", from - 1).into_bytes();
        let is_cell = |at: &usize| {
            let cell = &bytes[*at..bytes.len().min(at + 70)];
            cell[0] == from
                && (7..=9).contains(&cell[1])
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
async fn a_salvage_that_was_cut_short_is_brought_to_its_end() {
    for damaged_one_is_still_there in [false, true] {
        let dir = spool_holding(numbered_executions(10)).await;
        let saved = dir.path().join("spool/spool.db.saved");
        fs::rename(spool_file(dir.path()), &saved).unwrap();
        if damaged_one_is_still_there {
            fs::write(spool_file(dir.path()), "damaged").unwrap();
        }
        let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
        assert_eq!(count_executions(&receiver).await, 10);
        let (dir, _) = receiver.stop().await;
        assert!(!dir.path().join("spool/spool.db.saved").exists());
        assert_eq!(aside(dir.path()).len(), usize::from(damaged_one_is_still_there));
    }
}
