//! The layout of `spool.db`, and how the file is created, checked and opened.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::recovery::sequence::{IDENTITY, PREDECESSOR, RUN, RUN_RANDOM_BITS};
use super::{Seq, SpoolError, files};

/// Marks the file as a spool: "WFSP".
const APPLICATION_ID: i64 = 0x5746_5350;
/// The version of [`TABLES`] and of the rows' meaning. A change of either needs a new version.
pub(super) const VERSION: i64 = 2;

/// The largest valid sequence number. A larger number in a file is damage.
pub(super) const MAX_SEQ: Seq = 1 << 48;

/// Maximum runs that a spool stores. They must fit in one page with the other rows of `sqlite_sequence`.
const MAX_RUNS: i64 = 64;

/// How long a statement waits for another process that has locked the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE deliveries (
        seq              INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of arrival; never reused
        received_at      INTEGER NOT NULL, -- microseconds since 1970, UTC
        authenticated_by INTEGER NOT NULL, -- 1 signature, 2 secret header, 3 URL token, 4 none,
                                           -- 5 unverified, 6 callback; fetched: 101 delivery log,
                                           -- 102 list, 103 execution
        acknowledged     INTEGER NOT NULL, -- 1 answered 200, 0 answered 422
        checksum         INTEGER NOT NULL, -- CRC-32 (row.rs)
        body             BLOB    NOT NULL, -- decompressed, API keys replaced by null
        trace            BLOB,             -- trace id (16 bytes) and span id of the request (8 bytes)
        reference        BLOB,             -- query parameters of the URL: a JSON object
        is_redelivery    INTEGER NOT NULL  -- 1 with X-Webhook-Redelivery
    ) STRICT;
    -- One row. Used to count losses and to recognize an older copy of the file; the rows of deliveries decide the rest.
    CREATE TABLE acked (
        seq              INTEGER NOT NULL, -- all deliveries up to this one were acked and deleted
        missing          INTEGER NOT NULL  -- the number of later deliveries that are known to be lost
    ) STRICT;
    INSERT INTO acked VALUES (0, 0);
    INSERT INTO sqlite_sequence (name, seq) VALUES ('spool', abs(random() / 2));
";

/// Rejects a database of another program or of another version. Reads the file's header without SQLite, which would
/// apply the write-ahead log to the database on open.
pub(super) fn check_header(path: &Path, database: &File) -> Result<(), SpoolError> {
    let mut header = [0; 100];
    if database.read_exact_at(&mut header, 0).is_err() || !header.starts_with(files::MAGIC) {
        return Ok(());
    }
    let number =
        |at| i64::from(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    let (version, application) = (number(60), number(68));
    // The first page of a new spool is on disk before its tables are.
    let unfinished = application == 0 && database.metadata().is_ok_and(|metadata| metadata.len() <= 4096);
    if unfinished { Ok(()) } else { check_version(path, application, version) }
}

/// Whether the file has the header of a spool, or is an empty or unfinished one.
pub(super) fn is_spool(path: &Path, database: &File) -> bool {
    let mut magic = [0; files::MAGIC.len()];
    let has_other_header = database.read_exact_at(&mut magic, 0).is_ok() && magic != *files::MAGIC;
    !has_other_header && check_header(path, database).is_ok()
}

fn check_version(path: &Path, application: i64, version: i64) -> Result<(), SpoolError> {
    if application != APPLICATION_ID {
        return Err(SpoolError::Foreign(path.to_owned()));
    }
    if version != VERSION {
        return Err(SpoolError::UnknownVersion { path: path.to_owned(), found: version, known: VERSION });
    }
    Ok(())
}

/// Opens or creates a database. Closing the connection leaves the write-ahead log as it is.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    connect_with(path, OpenFlags::default())
}

/// Opens a database without the right to write.
pub(super) fn connect_read_only(path: &Path) -> rusqlite::Result<Connection> {
    connect_with(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn connect_with(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Opens or creates a spool, and checks its structure. From then on, closing the connection empties the write-ahead log.
pub(super) fn prepare(path: &Path) -> Result<Connection, SpoolError> {
    let connection = connect(path)?;
    let number = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0));
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let new = application == 0 && version == 0 && number("SELECT count(*) FROM sqlite_schema")? == 0;
    if !new {
        check_version(path, application, version)?;
    }
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA journal_size_limit = 16777216;
         PRAGMA temp_store = MEMORY;",
    )?;
    if new {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES}
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
        ))?;
    }
    check_structure(&connection)?;
    // Empties the log at every start, so that after a crash all its frames are of one run (`recovery/wal.rs`). This fails
    // on a full disk. Then writes fail, too, and the writer empties the log after a failed write.
    let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(connection)
}

/// Checks the structure of the file, and the last number.
///
/// # Errors
/// [`SpoolError::Damaged`].
pub(super) fn check_structure(connection: &Connection) -> Result<(), SpoolError> {
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    let implausible =
        "SELECT count(*) FROM sqlite_sequence WHERE name = 'deliveries' AND seq NOT BETWEEN 0 AND ?";
    let implausible: i64 = connection.query_row(implausible, [MAX_SEQ], |row| row.get(0))?;
    if check == "ok" && implausible == 0 {
        return Ok(());
    }
    Err(SpoolError::Damaged(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(check),
    )))
}

/// Moves the write-ahead log into the database file, so that the database is a single file.
pub(super) fn into_single_file(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE;")
}

/// The random number that identifies the spool. A spool that has lost it gets a new one.
pub(super) fn identity(connection: &Connection) -> rusqlite::Result<i64> {
    let select = "SELECT seq FROM sqlite_sequence WHERE name = ?";
    let find = || connection.query_row(select, [IDENTITY], |row| row.get(0)).optional();
    if let Some(identity) = find()? {
        return Ok(identity);
    }
    connection
        .execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, abs(random() / 2))", [IDENTITY])?;
    Ok(find()?.unwrap_or_default())
}

/// Identifies this run of the receiver. Only reads, so that a start on a full disk succeeds; [`add_run`] stores it with the first delivery.
pub(super) fn new_run(connection: &Connection) -> rusqlite::Result<i64> {
    let select = "SELECT coalesce(max(seq), 0) << ?1 | (random() & (1 << ?1) - 1)
                  FROM sqlite_sequence WHERE name = 'deliveries'";
    connection.query_row(select, [RUN_RANDOM_BITS], |row| row.get(0))
}

/// Stores a run, and removes the oldest ones above [`MAX_RUNS`].
pub(super) fn add_run(transaction: &Connection, run: i64) -> rusqlite::Result<()> {
    add_runs(transaction, &[run])?;
    let remove = "DELETE FROM sqlite_sequence WHERE name = ?1 AND rowid NOT IN
                      (SELECT rowid FROM sqlite_sequence WHERE name = ?1 ORDER BY rowid DESC LIMIT ?2)";
    transaction.execute(remove, (RUN, MAX_RUNS)).map(drop)
}

/// The stored runs, oldest first.
pub(super) fn runs(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut select = connection.prepare("SELECT seq FROM sqlite_sequence WHERE name = ? ORDER BY rowid")?;
    select.query_map([RUN], |row| row.get(0))?.collect()
}

/// Stores runs, also those of the spools that this one was copied from.
pub(super) fn add_runs(connection: &Connection, runs: &[i64]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)")?;
    runs.iter().try_for_each(|run| insert.execute((RUN, run)).map(drop))
}

/// Stores that this spool holds every delivery of the spool `predecessor`, under the same numbers.
pub(super) fn set_predecessor(connection: &Connection, predecessor: i64) -> rusqlite::Result<()> {
    let insert = "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)";
    connection.execute(insert, (PREDECESSOR, predecessor)).map(drop)
}

/// Whether `identity` is this spool's or its predecessor's.
pub(super) fn has_identity(connection: &Connection, identity: i64) -> rusqlite::Result<bool> {
    let select = "SELECT count(*) FROM sqlite_sequence WHERE name IN (?, ?) AND seq = ?";
    connection.query_row(select, (IDENTITY, PREDECESSOR, identity), |row| Ok(row.get::<_, i64>(0)? > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_tables_needs_a_new_version() {
        let layout = crc32fast::hash(TABLES.as_bytes());
        assert_eq!((VERSION, layout), (2, 0x78de_7a39), "raise VERSION, then update this test");
    }

    #[test]
    fn a_commit_waits_for_fsync() {
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
