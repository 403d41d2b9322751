//! Opening the spool's file: who may, what it must be, and what happens when it is damaged.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::log::Log;
use super::{Reader, Seq, SpoolError, Writer, salvage};
use crate::config;
use crate::metrics::Metrics;

/// Marks the file as ours: "WFRS".
const APPLICATION_ID: i64 = 0x5746_5253;
/// The version of the layout below. A change comes with the step from the version before it.
pub(super) const VERSION: i64 = 3;

/// No spool comes so far: a number beyond is damage.
pub(super) const LAST_SEQ: Seq = 1 << 48;

const LAYOUT: &str = "
    CREATE TABLE deliveries (
        seq              INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of arrival; never reused
        received_at      INTEGER NOT NULL,           -- microseconds since 1970, UTC
        authenticated_by INTEGER NOT NULL DEFAULT 0, -- 1 signature, 2 secret header, 3 URL token, 4 none; 0 not known
        acknowledged     INTEGER NOT NULL DEFAULT 1, -- 1 answered 200, 0 answered 422
        checksum         INTEGER NOT NULL,           -- CRC-32 (row.rs)
        body             BLOB    NOT NULL,           -- the exact bytes of the webhook
        trace            BLOB                        -- the ids of its trace (16 bytes) and of its request's span (8)
    ) STRICT;
    -- All up to here was recorded and forgotten: one row, which only serves to count losses.
    CREATE TABLE forgotten (through INTEGER NOT NULL) STRICT;
    INSERT INTO forgotten VALUES (0);
";

/// From each version to the next: 1 did not keep how a delivery got in, 2 not its trace.
const STEPS: [&str; 2] = [
    "ALTER TABLE deliveries ADD COLUMN authenticated_by INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE deliveries ADD COLUMN acknowledged INTEGER NOT NULL DEFAULT 1;",
    "ALTER TABLE deliveries ADD COLUMN trace BLOB;",
];

/// Opens the spool in `settings.dir`, making it if there is none. The lock on the directory is
/// held for as long as the writer lives.
///
/// # Errors
/// [`SpoolError`]; nothing is ever overwritten. A damaged file is set aside under another name,
/// and what can be read of it is carried over.
pub(crate) fn open(settings: &config::Spool, metrics: &Metrics) -> Result<(Writer, Reader), SpoolError> {
    let dir = &settings.dir;
    let lock = lock(dir)?;
    let path = dir.join("spool.db");
    salvage::finish(&path)?;
    let log = Log::read(&dir.join("spool.db-wal"))
        .map_err(|source| SpoolError::Directory { dir: dir.to_owned(), source })?;
    if log.is_some_and(|log| log.is_damaged()) {
        salvage::salvage(&path, "its write-ahead log is damaged", metrics)?;
    }
    let connection = match prepare(&path) {
        Err(SpoolError::Damaged(why)) => {
            salvage::salvage(&path, &why.to_string(), metrics)?;
            prepare(&path)?
        }
        other => other?,
    };
    let reader = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    reader.busy_timeout(BUSY)?;
    Ok((Writer::new(connection, lock, settings)?, Reader::new(reader)))
}

/// How long to wait for an operator who looks at the file with SQLite's own tools.
const BUSY: Duration = Duration::from_secs(5);

fn lock(dir: &Path) -> Result<File, SpoolError> {
    let unusable = |source| SpoolError::Directory { dir: dir.to_owned(), source };
    make(dir, 0o700).map_err(unusable)?;
    let lock = File::create(dir.join("lock")).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(SpoolError::InUse(dir.to_owned())),
        Err(fs::TryLockError::Error(e)) => Err(unusable(e)),
    }
}

/// Makes a directory with those above it. Their entries have to survive a power cut, too. The
/// spool itself is for its user only: it holds whole bodies.
fn make(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make(parent, 0o755)?;
    DirBuilder::new().mode(mode).create(dir)?;
    sync(parent)
}

/// Makes the entries of a directory durable.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Opens or makes the file, and checks that all of its structure can be read.
pub(super) fn prepare(path: &Path) -> Result<Connection, SpoolError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    let application: i64 = connection.query_row("PRAGMA application_id", [], |r| r.get(0))?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    let new = application == 0 && version == 0 && tables == 0;
    if !new && application != APPLICATION_ID {
        return Err(SpoolError::Foreign(path.to_owned()));
    }
    if version > VERSION {
        return Err(SpoolError::TooNew { path: path.to_owned(), found: version, known: VERSION });
    }
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA journal_size_limit = 16777216;
         PRAGMA temp_store = MEMORY;",
    )?;
    if new {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {LAYOUT}
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
        ))?;
    }
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
    let beyond = "SELECT count(*) FROM sqlite_sequence WHERE seq NOT BETWEEN 0 AND ?";
    let beyond: i64 = connection.query_row(beyond, [LAST_SEQ], |r| r.get(0))?;
    if check == "ok" && beyond == 0 {
        let steps = usize::try_from(version - 1).ok().and_then(|done| STEPS.get(done..)).unwrap_or_default();
        if !steps.is_empty() {
            let steps = steps.concat();
            connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;"
            ))?;
        }
        // The log begins anew: what it holds after a crash is then all of one life (`log.rs`). On a
        // full disk that has to wait.
        let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        return Ok(connection);
    }
    Err(SpoolError::Damaged(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(check),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_to_the_spool_waits_for_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let connection = prepare(&dir.path().join("spool.db")).unwrap();
        let pragma = |name: &str| -> String {
            connection
                .query_row(&format!("SELECT {name} FROM pragma_{name}"), [], |row| {
                    row.get::<_, rusqlite::types::Value>(0)
                })
                .map(|v| format!("{v:?}"))
                .unwrap()
        };
        assert_eq!(pragma("synchronous"), "Integer(2)", "FULL");
        assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
    }
}
