//! Opens the spool: locks, layout, checks, and repairs before SQLite sees the files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::files::{self, DATABASE, HeldFiles};
use super::mark::Mark;
use super::reader::Handover;
use super::recovery::absorb;
use super::recovery::salvage::{self, Plan};
use super::recovery::sequence::IDENTITY;
use super::{Reader, Seq, SpoolError, Writer};
use crate::config;
use crate::metrics::Metrics;

/// Marks the file as a spool: "WFRS".
const APPLICATION_ID: i64 = 0x5746_5253;
/// The version of the layout below. A change adds the step from the version before it.
pub(super) const VERSION: i64 = 5;

/// No spool comes so far: a greater number is damage.
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
    -- One row, which only serves to count losses.
    CREATE TABLE forgotten (
        through          INTEGER NOT NULL,           -- all up to here was recorded and deleted
        missing          INTEGER NOT NULL DEFAULT 0  -- so many after it are known to be lost
    ) STRICT;
    INSERT INTO forgotten (through) VALUES (0);
    INSERT INTO sqlite_sequence (name, seq) VALUES ('spool', abs(random() / 2));
";

/// From each version to the next: 1 had no way of authentication, 2 no trace, 3 no identity (`recovery/sequence.rs`),
/// 4 no count of known losses.
const STEPS: [&str; 4] = [
    "ALTER TABLE deliveries ADD COLUMN authenticated_by INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE deliveries ADD COLUMN acknowledged INTEGER NOT NULL DEFAULT 1;",
    "ALTER TABLE deliveries ADD COLUMN trace BLOB;",
    "INSERT INTO sqlite_sequence (name, seq) VALUES ('spool', abs(random() / 2));",
    "ALTER TABLE forgotten ADD COLUMN missing INTEGER NOT NULL DEFAULT 0;",
];

/// After the `DELETE` of all up to ?1: the numbers without a row among them were known losses.
pub(super) const FORGET: &str =
    "UPDATE forgotten SET through = ?1, missing = missing - (?1 - through - changes())";

/// Opens the spool in `settings.dir`, or makes one. Its locks are held for as long as the writer or the reader lives.
///
/// # Errors
/// [`SpoolError`]; nothing is ever overwritten. A damaged file is set aside under another name, and its readable
/// deliveries go on in a new one.
pub(crate) fn open(settings: &config::Spool, metrics: &Metrics) -> Result<(Writer, Reader), SpoolError> {
    let dir = &settings.dir;
    let unusable = |source| SpoolError::Directory { dir: dir.to_owned(), source };
    let directory = files::lock_directory(dir)?;
    let path = dir.join(DATABASE);
    salvage::finish(&path)?;
    let mut database = files::lock_database(&path)?;
    files::restrict(dir).map_err(unusable)?;
    refuse_foreign(&path, &database)?;
    let mark = Mark::read(dir);
    let mut salvaged = false;
    if let Some(plan) = Plan::examine(&path, &database).map_err(unusable)? {
        database = salvage::salvage(&path, &database, &plan, mark, metrics)?;
        salvaged = true;
    }
    let connection = match prepare(&path) {
        Err(SpoolError::Damaged(why)) => {
            let plan = Plan::damaged(why.to_string());
            database = salvage::salvage(&path, &database, &plan, mark, metrics)?;
            salvaged = true;
            prepare(&path)?
        }
        other => other?,
    };
    if !salvaged {
        report_losses(&connection, mark, metrics)?;
    }
    // On a full disk, they are reported again.
    let _ = note_losses(&connection);
    absorb::absorb(&path, &connection, metrics)?;
    let reader = open_reader(&path)?;
    let held = Arc::new(HeldFiles::new(dir, Arc::new(directory), Arc::new(database)).map_err(unusable)?);
    let handover = Arc::new(Handover::default());
    let reader = Reader::new(reader, held.clone(), handover.clone());
    Ok((Writer::new(connection, held, handover, settings)?, reader))
}

/// The recorder's connection.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    reader.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    reader.busy_timeout(BUSY)?;
    // It opens the log now, and not at its first read: the files are compared next.
    reader.query_row("SELECT count(*) FROM forgotten", [], |_| Ok(()))?;
    Ok(reader)
}

/// How long to wait for another process that reads the file.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// Leaves a database of another program alone, before SQLite could apply the spool's log to it.
fn refuse_foreign(path: &Path, database: &File) -> Result<(), SpoolError> {
    let mut header = [0; 100];
    if database.read_exact_at(&mut header, 0).is_err() || !header.starts_with(b"SQLite format 3\0") {
        return Ok(());
    }
    let application = i64::from(u32::from_be_bytes([header[68], header[69], header[70], header[71]]));
    // The first page of a spool is on disk before its layout is.
    let begun = application == 0 && database.metadata().is_ok_and(|metadata| metadata.len() <= 4096);
    if application == APPLICATION_ID || begun { Ok(()) } else { Err(SpoolError::Foreign(path.to_owned())) }
}

/// Opens a database. Until it proves to be a whole spool, closing it leaves the log as it is.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Opens or makes the file, and checks that all of its structure can be read.
pub(super) fn prepare(path: &Path) -> Result<Connection, SpoolError> {
    let connection = connect(path)?;
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
    let beyond = "SELECT count(*) FROM sqlite_sequence WHERE name = 'deliveries' AND seq NOT BETWEEN 0 AND ?";
    let beyond: i64 = connection.query_row(beyond, [LAST_SEQ], |r| r.get(0))?;
    if check != "ok" || beyond != 0 {
        return Err(SpoolError::Damaged(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
            Some(check),
        )));
    }
    let steps = usize::try_from(version - 1).ok().and_then(|done| STEPS.get(done..)).unwrap_or_default();
    if !steps.is_empty() {
        let steps = steps.concat();
        connection
            .execute_batch(&format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;"))?;
    }
    // The log begins anew: what it holds after a crash is then all of one life (`recovery/wal.rs`). On a full disk that
    // has to wait.
    let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(connection)
}

/// Makes an empty spool of one file, without a log.
pub(super) fn template(path: &Path) -> Result<(), SpoolError> {
    let connection = prepare(path)?;
    Ok(connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE;")?)
}

/// The spool's identity. A spool that lost it gets a new one.
pub(super) fn identity(connection: &Connection) -> rusqlite::Result<i64> {
    let select = "SELECT seq FROM sqlite_sequence WHERE name = ?";
    let known = || connection.query_row(select, [IDENTITY], |row| row.get(0)).optional();
    if let Some(identity) = known()? {
        return Ok(identity);
    }
    connection
        .execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, abs(random() / 2))", [IDENTITY])?;
    Ok(known()?.unwrap_or_default())
}

/// The last number given to a delivery. `max` of two is `NULL` when one of them is.
const LAST: &str = "max(coalesce((SELECT max(seq) FROM deliveries), 0),
                        coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'), 0))";

/// Has numbers go on after `last`.
pub(super) fn advance(connection: &Connection, last: Seq) -> rusqlite::Result<()> {
    let name = "INSERT INTO sqlite_sequence (name, seq) SELECT 'deliveries', 0
                WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'deliveries')";
    connection.execute(name, [])?;
    let advance = "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'deliveries'";
    connection.execute(advance, [last])?;
    Ok(())
}

/// Notes that all deliveries that are not there are known to be recorded or lost, for no loss to be counted twice. Writes
/// nothing when that is noted already.
pub(super) fn note_losses(connection: &Connection) -> rusqlite::Result<()> {
    let select = format!(
        "SELECT coalesce((SELECT min(seq) FROM deliveries) - 1, {LAST}), {LAST}, (SELECT count(*) FROM deliveries)"
    );
    let (through, missing): (Seq, i64) = connection.query_row(&select, [], |row| {
        let (through, last, there): (Seq, Seq, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((through, last - through - there))
    })?;
    connection
        .execute("INSERT INTO forgotten (through) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM forgotten)", [])?;
    let note = "UPDATE forgotten SET through = ?1, missing = ?2 WHERE (through, missing) IS NOT (?1, ?2)";
    connection.execute(note, (through, missing))?;
    Ok(())
}

/// Deliveries have contiguous numbers: those that are missing after the last recorded one are lost, except the ones that
/// are known to be.
fn report_losses(connection: &Connection, mark: Option<Mark>, metrics: &Metrics) -> Result<(), SpoolError> {
    let last: Seq = connection.query_row(&format!("SELECT {LAST}"), [], |row| row.get(0))?;
    let forgotten = connection
        .query_row("SELECT through, missing FROM forgotten", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let identity = identity(connection)?;
    let (of_this, of_another) = match mark {
        Some(mark) if mark.identity == identity => (Some(mark), None),
        other => (None, other),
    };
    let last = last.max(of_this.map_or(0, |mark| mark.last));
    // A number that cannot be is damaged, and counts nothing.
    let forgotten = forgotten.filter(|(forgotten, known): &(Seq, i64)| {
        (0..=last).contains(forgotten) && (0..=last - forgotten).contains(known)
    });
    let mut missing = of_another.map_or(0, |mark| (mark.last - mark.forgotten).max(0));
    if let Some((forgotten, known)) = forgotten.max(of_this.map(|mark| (mark.forgotten, 0))) {
        let there = "SELECT count(*) FROM deliveries WHERE seq > ?";
        let there: i64 = connection.query_row(there, [forgotten], |row| row.get(0))?;
        missing += (last - forgotten - known - there).max(0);
    }
    if let Ok(missing @ 1..) = u64::try_from(missing) {
        tracing::error!(
            lost_at_most = missing,
            "deliveries that were acknowledged are missing in the spool: its files are not those of the last run, \
             or parts of them were removed. Look for the missing files or a backup, and see docs/runbooks.md"
        );
        metrics.spool_salvaged(0, missing);
    }
    Ok(())
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
