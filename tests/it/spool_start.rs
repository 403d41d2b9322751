//! Starts with combinations of spool files that accidents, backups and operators can cause.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use rusqlite::Connection as Sqlite;
use serde_json::json;
use tempfile::TempDir;

use crate::support::fixtures::{execution, numbered_executions, with};
use crate::support::postgres::{UNREACHABLE, count_executions, new_database, no_database, rows};
use crate::support::process::{program, run_to_end};
use crate::support::receiver::{TestReceiver, fast_retries, spool_error};
use crate::support::spool::{names, spool_file, spool_holding};
use crate::support::wait::within;

/// A spool with 40 deliveries: `database` has the first 20, `log` the others. `oldest` is a copy of the database when
/// it had ten.
struct Files {
    oldest: Vec<u8>,
    oldest_log: Vec<u8>,
    database: Vec<u8>,
    log: Vec<u8>,
    mark: Vec<u8>,
}

fn read(dir: &Path, name: &str) -> Vec<u8> {
    fs::read(dir.join("spool").join(name)).unwrap_or_default()
}

async fn files(prefix: &str) -> Files {
    let body =
        |n: usize| with(execution(&format!("{prefix}{n}"), "completed"), json!({ "fill": "x".repeat(500) }));
    let run = async |dir: TempDir, numbers: std::ops::Range<usize>| {
        let receiver = TestReceiver::start_in(dir, no_database(), fast_retries).await;
        for n in numbers {
            receiver.accept(body(n)).await;
        }
        receiver
    };
    let receiver = run(TempDir::new().unwrap(), 0..10).await;
    let oldest_log = read(receiver.dir.path(), "spool.db-wal");
    let (dir, _) = receiver.stop().await;
    let oldest = read(dir.path(), "spool.db");
    let (dir, _) = run(dir, 10..20).await.stop().await;
    let receiver = run(dir, 20..40).await;
    // The files as SIGKILL leaves them.
    let (database, log) = (read(receiver.dir.path(), "spool.db"), read(receiver.dir.path(), "spool.db-wal"));
    Files { oldest, oldest_log, database, log, mark: read(receiver.dir.path(), "spool.mark") }
}

#[derive(Debug, Clone, Copy)]
enum Found {
    Whole,
    Missing,
    Empty,
    /// This many quarters of the file.
    Truncated(usize),
    Older,
    OfAnotherSpool,
}

impl Found {
    /// Writes a file in this state, from its three possible contents.
    fn write(self, file: &Path, whole: &[u8], older: &[u8], of_another: &[u8]) {
        let bytes = match self {
            Self::Missing => return,
            Self::Whole => whole,
            Self::Empty => &[],
            Self::Truncated(quarters) => &whole[..whole.len() / 4 * quarters],
            Self::Older => older,
            Self::OfAnotherSpool => of_another,
        };
        fs::write(file, bytes).unwrap();
    }
}

/// For each combination, the minimum of recorded deliveries of this spool (of 40) and of the other spool. The rest of
/// this spool's deliveries must be counted as unreadable.
const COMBINATIONS: &[(Found, Found, i64, i64)] = &[
    (Found::Whole, Found::Whole, 40, 0),
    (Found::Whole, Found::Missing, 20, 0),
    (Found::Whole, Found::Empty, 20, 0),
    (Found::Whole, Found::Truncated(2), 21, 0),
    (Found::Whole, Found::Older, 20, 0),
    (Found::Whole, Found::OfAnotherSpool, 20, 20),
    (Found::Missing, Found::Whole, 20, 0),
    (Found::Missing, Found::Missing, 0, 0),
    (Found::Missing, Found::Empty, 0, 0),
    (Found::Missing, Found::Truncated(2), 1, 0),
    (Found::Missing, Found::Older, 10, 0),
    (Found::Missing, Found::OfAnotherSpool, 0, 20),
    (Found::Empty, Found::Whole, 20, 0),
    (Found::Empty, Found::Missing, 0, 0),
    (Found::Empty, Found::Empty, 0, 0),
    (Found::Empty, Found::Truncated(2), 1, 0),
    (Found::Empty, Found::Older, 10, 0),
    (Found::Empty, Found::OfAnotherSpool, 0, 20),
    (Found::Truncated(3), Found::Whole, 20, 0),
    (Found::Truncated(3), Found::Missing, 1, 0),
    (Found::Truncated(3), Found::Empty, 1, 0),
    (Found::Truncated(3), Found::Truncated(2), 1, 0),
    (Found::Truncated(3), Found::Older, 1, 0),
    (Found::Truncated(3), Found::OfAnotherSpool, 1, 20),
    (Found::Older, Found::Whole, 30, 0),
    (Found::Older, Found::Missing, 10, 0),
    (Found::Older, Found::Empty, 10, 0),
    (Found::Older, Found::Truncated(2), 10, 0),
    (Found::Older, Found::Older, 10, 0),
    (Found::Older, Found::OfAnotherSpool, 10, 20),
    (Found::OfAnotherSpool, Found::Whole, 20, 20),
    (Found::OfAnotherSpool, Found::Missing, 0, 20),
    (Found::OfAnotherSpool, Found::Empty, 0, 20),
    (Found::OfAnotherSpool, Found::Truncated(2), 1, 20),
    (Found::OfAnotherSpool, Found::Older, 10, 20),
    (Found::OfAnotherSpool, Found::OfAnotherSpool, 0, 40),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_start_saves_or_counts_every_delivery_for_each_combination_of_files() {
    let (ours, other) = (files("a").await, files("b").await);
    for &(database, log, of_ours, of_the_other) in COMBINATIONS {
        let combination = format!("database {database:?}, log {log:?}");
        let dir = TempDir::new().unwrap();
        let spool = dir.path().join("spool");
        fs::create_dir(&spool).unwrap();
        database.write(&spool.join("spool.db"), &ours.database, &ours.oldest, &other.database);
        log.write(&spool.join("spool.db-wal"), &ours.log, &ours.oldest_log, &other.log);
        if !ours.mark.is_empty() {
            fs::write(spool.join("spool.mark"), &ours.mark).unwrap();
        }

        let target = new_database().await;
        let receiver = TestReceiver::start_in(dir, target.clone(), |_| {}).await;
        receiver.accept(execution("after", "completed")).await;
        receiver.wait_until_recorded().await;
        let count = async |prefix: &str| {
            let query = format!("SELECT count(*) FROM executions WHERE execution_id ~ '^{prefix}[0-9]+$'");
            rows(&target, &query).await[0]["count"].as_i64().unwrap()
        };
        let (ours, other) = (count("a").await, count("b").await);
        assert!(rows(&target, "SELECT 1 FROM quarantine").await.is_empty(), "{combination}");
        let unreadable = receiver.metric("spool_unreadable_total").await;
        assert!(ours >= of_ours, "{combination}: {ours} of ours");
        assert!(other >= of_the_other, "{combination}: {other} of the other");
        assert!(
            ours as f64 + unreadable >= 40.0,
            "{combination}: {ours} of ours, and {unreadable} unreadable"
        );
        assert!(ours < 40 || other > 0 || unreadable == 0.0, "{combination}: {unreadable} unreadable");
        receiver.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_absorbs_rescued_files_and_ignores_files_set_aside() {
    let (ours, other) = (files("a").await, files("b").await);
    let dir = TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    fs::create_dir(&spool).unwrap();
    fs::write(spool.join("spool.db"), &ours.database).unwrap();
    fs::write(spool.join("spool.db-wal"), &ours.log).unwrap();
    // A complete file, and one that a crash interrupted.
    fs::write(spool.join("spool.db.rescued-1"), &other.oldest).unwrap();
    fs::write(spool.join("spool.db.rescued-2"), &other.database).unwrap();
    fs::write(spool.join("spool.db.rescued-2-wal"), &other.log).unwrap();
    for leftover in ["spool.db.damaged-1", "spool.db.copy", "spool.db.saving"] {
        fs::write(spool.join(leftover), "leftover").unwrap();
    }
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(receiver.row("SELECT count(*) FROM executions").await["count"], 80);
    let (dir, _) = receiver.stop().await;
    let spool = dir.path().join("spool");
    assert_eq!(
        (names(&spool, "damaged"), names(&spool, "rescued")),
        (vec!["spool.db.damaged-1".into()], vec![])
    );
}

/// A rescue had copied everything when it was interrupted.
#[tokio::test(flavor = "multi_thread")]
async fn a_complete_rescued_file_becomes_the_spool_and_no_loss_is_reported() {
    let ours = files("a").await;
    let whole = TempDir::new().unwrap();
    let rescued = whole.path().join("rescued");
    fs::write(&rescued, &ours.database).unwrap();
    fs::write(whole.path().join("rescued-wal"), &ours.log).unwrap();
    let file = Sqlite::open(&rescued).unwrap();
    file.execute_batch(
        "INSERT INTO sqlite_sequence SELECT 'predecessor', seq FROM sqlite_sequence WHERE name = 'spool';
         UPDATE sqlite_sequence SET seq = 7 WHERE name = 'spool';
         PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE",
    )
    .unwrap();
    drop(file);
    let whole = fs::read(rescued).unwrap();
    for (database, log) in [
        (Found::Missing, Found::Missing),
        (Found::Missing, Found::Whole),
        (Found::Empty, Found::Empty),
        (Found::Whole, Found::Missing),
        (Found::Older, Found::Missing),
        (Found::Whole, Found::Whole),
    ] {
        let case = format!("database {database:?}, log {log:?}");
        let dir = TempDir::new().unwrap();
        let spool = dir.path().join("spool");
        fs::create_dir(&spool).unwrap();
        database.write(&spool.join("spool.db"), &ours.database, &ours.oldest, &[]);
        log.write(&spool.join("spool.db-wal"), &ours.log, &ours.oldest_log, &[]);
        fs::write(spool.join("spool.mark"), &ours.mark).unwrap();
        fs::write(spool.join("spool.db.rescued-1"), &whole).unwrap();
        let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
        let counted = receiver.row("SELECT count(*), sum(deliveries)::bigint FROM executions").await;
        assert_eq!(counted, json!({ "count": 40, "sum": 40 }), "{case}");
        assert_eq!(receiver.metric("spool_unreadable_total").await, 0.0, "{case}");
        let (dir, _) = receiver.stop().await;
        assert_eq!(names(&dir.path().join("spool"), "rescued"), [""; 0], "{case}");
    }
}

/// An operator has renamed the spool's own files.
#[tokio::test(flavor = "multi_thread")]
async fn the_spool_under_the_name_of_a_rescued_file_becomes_the_spool_again() {
    let ours = files("a").await;
    let dir = TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    fs::create_dir(&spool).unwrap();
    fs::write(spool.join("spool.db.rescued-77"), &ours.database).unwrap();
    fs::write(spool.join("spool.db.rescued-77-wal"), &ours.log).unwrap();
    fs::write(spool.join("spool.mark"), &ours.mark).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    let counted = receiver.row("SELECT count(*), sum(deliveries)::bigint FROM executions").await;
    assert_eq!(counted, json!({ "count": 40, "sum": 40 }));
    assert_eq!(receiver.metric("spool_unreadable_total").await, 0.0);
}

/// The spool was used again after the rescue.
#[tokio::test(flavor = "multi_thread")]
async fn a_rescued_file_that_is_older_than_the_spool_is_absorbed() {
    let ours = files("a").await;
    let dir = TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    fs::create_dir(&spool).unwrap();
    fs::write(spool.join("spool.db"), &ours.database).unwrap();
    fs::write(spool.join("spool.db-wal"), &ours.log).unwrap();
    fs::write(spool.join("spool.mark"), &ours.mark).unwrap();
    fs::write(spool.join("spool.db.rescued-1"), &ours.oldest).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(receiver.row("SELECT count(*) FROM executions").await["count"], 40);
    assert_eq!(receiver.metric("spool_unreadable_total").await, 0.0);
}

/// A crash interrupted the replacement of another spool that had appeared in the directory. Or an operator has copied a file
/// with this name into the directory.
#[tokio::test(flavor = "multi_thread")]
async fn a_saved_file_becomes_the_spool_and_deliveries_of_another_spool_in_its_place_are_added() {
    let (ours, other) = (files("a").await, files("b").await);
    let dir = TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    fs::create_dir(&spool).unwrap();
    fs::write(spool.join("spool.db.saved"), &other.database).unwrap();
    fs::write(spool.join("spool.db"), &ours.database).unwrap();
    fs::write(spool.join("spool.db-wal"), &ours.log).unwrap();
    fs::write(spool.join("spool.mark"), &ours.mark).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    let counted = receiver.row("SELECT count(*), sum(deliveries)::bigint FROM executions").await;
    assert_eq!(counted, json!({ "count": 60, "sum": 60 }));
    let (dir, _) = receiver.stop().await;
    assert_eq!(names(&dir.path().join("spool"), "spool.db."), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_file_of_another_program_is_refused_unchanged() {
    let dir = spool_holding(numbered_executions(5)).await;
    let saved = dir.path().join("spool/spool.db.saved");
    Sqlite::open(&saved).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
    let error = spool_error(dir.path()).await;
    assert!(
        error.contains("spool.db.saved is not a spool") && error.contains("Nothing was changed"),
        "{error}"
    );
    fs::remove_file(saved).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    assert_eq!(count_executions(&receiver).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_rescued_files_are_read_once_and_do_not_prevent_a_start() {
    let other = files("b").await;
    let dir = TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    fs::create_dir(&spool).unwrap();
    // An empty file, one without tables, a truncated one, and an empty one with a write-ahead log.
    fs::write(spool.join("spool.db.rescued-1"), "").unwrap();
    fs::write(spool.join("spool.db.rescued-2"), "SQLite format 3\0 and nothing else").unwrap();
    fs::write(spool.join("spool.db.rescued-3"), &other.database[..other.database.len() / 2]).unwrap();
    fs::write(spool.join("spool.db.rescued-4"), "").unwrap();
    fs::write(spool.join("spool.db.rescued-4-wal"), &other.log).unwrap();
    fs::write(spool.join("spool.mark"), &other.mark).unwrap();
    let database = new_database().await;
    let (mut dir, mut first) = (dir, None);
    for _ in 0..3 {
        let receiver = TestReceiver::start_in(dir, database.clone(), |_| {}).await;
        within(receiver.progress.clone().recording()).await;
        let sum = "SELECT coalesce(sum(deliveries), 0) AS sum FROM executions";
        let counted = receiver.row(sum).await["sum"].clone();
        assert_eq!(*first.get_or_insert(counted.clone()), counted, "no start records them again");
        dir = receiver.stop().await.0;
        let names = names(&dir.path().join("spool"), "");
        assert!(!names.iter().any(|name| name.contains("rescued")), "{names:?}");
        assert!(names.iter().all(|name| name.matches("damaged").count() < 2), "{names:?}");
        let kept = |name: &String| fs::read(dir.path().join("spool").join(name)).unwrap() == other.log;
        assert!(names.iter().filter(|name| name.ends_with("-wal")).any(kept), "{names:?}");
    }
}

/// The files of a rescue that was killed before its first commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_without_a_commit_is_removed_and_is_not_a_loss() {
    let dir = TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    fs::create_dir(&spool).unwrap();
    let rescued = spool.join("spool.db.rescued-1");
    let file = rusqlite::Connection::open(&rescued).unwrap();
    // Writes the header in write-ahead mode, and no table.
    file.execute_batch("PRAGMA page_size = 4096; PRAGMA journal_mode = WAL").unwrap();
    assert_eq!(fs::metadata(&rescued).unwrap().len(), 4096);
    fs::copy(&rescued, spool.join("copy")).unwrap();
    drop(file);
    fs::rename(spool.join("copy"), &rescued).unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, |_| {}).await;
    receiver.accept(execution("e", "completed")).await;
    receiver.wait_until_recorded().await;
    assert_eq!(receiver.metric("spool_unreadable_total").await, 0.0);
    let (dir, _) = receiver.stop().await;
    let names = fs::read_dir(dir.path().join("spool")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains("rescued") || name.contains("damaged")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn absorbed_deliveries_do_not_look_like_a_loss() {
    let receiver = TestReceiver::start_with(fast_retries).await;
    for body in numbered_executions(40) {
        receiver.accept(body).await;
    }
    receiver.wait_until_recorded().await;
    let (dir, database) = receiver.stop().await;
    let rescued = dir.path().join("spool/spool.db.rescued-1");
    fs::copy(spool_file(spool_holding(numbered_executions(10)).await.path()), rescued).unwrap();
    let receiver = TestReceiver::start_in(dir, database.clone(), fast_retries).await;
    let held = receiver.hold_recording().await;
    for n in 0..5 {
        receiver.accept(execution(&format!("late-{n}"), "completed")).await;
    }
    let (dir, _) = receiver.stop().await;
    drop(held);
    let receiver = TestReceiver::start_in(dir, no_database(), fast_retries).await;
    assert_eq!(receiver.metric("spool_unreadable_total").await, 0.0);
    let (dir, _) = receiver.stop().await;
    let receiver = TestReceiver::start_in(dir, database, |_| {}).await;
    assert_eq!(count_executions(&receiver).await, 46);
}

#[tokio::test(flavor = "multi_thread")]
async fn rescued_files_set_aside_are_not_absorbed_again() {
    let mut dir = spool_holding(numbered_executions(5)).await;
    fs::write(dir.path().join("spool/spool.db.rescued-1"), "").unwrap();
    let mut left = Vec::new();
    for _ in 0..3 {
        let receiver = TestReceiver::start_in(dir, no_database(), fast_retries).await;
        dir = receiver.stop().await.0;
        left.push(names(&dir.path().join("spool"), "rescued"));
    }
    assert!(left.iter().all(|names| *names == left[0]), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_counts_the_rows_of_an_emptied_table_once() {
    let mut dir = spool_holding(numbered_executions(5)).await;
    let file = Sqlite::open(spool_file(dir.path())).unwrap();
    file.execute("DELETE FROM deliveries", []).unwrap();
    drop(file);
    fs::remove_file(dir.path().join("spool/spool.mark")).unwrap();
    for lost in [5.0, 0.0] {
        let receiver = TestReceiver::start_in(dir, no_database(), fast_retries).await;
        assert_eq!(receiver.metric("spool_unreadable_total").await, lost);
        dir = receiver.stop().await.0;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_program_with_the_spools_log_is_refused_unchanged() {
    let ours = files("a").await;
    let dir = TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    fs::create_dir(&spool).unwrap();
    Sqlite::open(spool.join("spool.db")).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
    let before = fs::read(spool.join("spool.db")).unwrap();
    fs::write(spool.join("spool.db-wal"), &ours.log).unwrap();
    let error = spool_error(dir.path()).await;
    assert!(error.contains("Nothing was changed"), "{error}");
    assert_eq!(fs::read(spool.join("spool.db")).unwrap(), before);
    assert_eq!(fs::read(spool.join("spool.db-wal")).unwrap(), ours.log);
}

/// A volume that belongs to root, in the container.
#[test]
fn a_spool_directory_without_permission_is_an_error_that_names_the_user_and_the_remedy() {
    let dir = TempDir::new().unwrap();
    // The program must reach the directory, but not write to it.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let mut command = program(dir.path());
    command.env("DATABASE_URL", UNREACHABLE);
    let user = if rustix::process::geteuid().is_root() {
        command.uid(65532).gid(65532);
        (65532, 65532)
    } else {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    };
    let (text, code) = run_to_end(&mut command);
    assert_eq!(code, Some(1), "{text}");
    for part in [
        "data/spool cannot be used: Permission denied".to_owned(),
        format!("runs as user {}", user.0),
        format!("`chown -R {}:{}`", user.0, user.1),
        format!("fsGroup: {}", user.1),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
}
