//! A damaged spool: saving what can be read, setting the rest aside.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use time::OffsetDateTime;

use super::{Seq, SpoolError, file};
use crate::metrics::Metrics;

/// Moves the damaged file away under a new name and puts a new spool in its place, with every
/// delivery that can still be read, each at its old place in the order.
///
/// The file that was set aside stays for people to look at: nothing deletes it.
pub(super) fn set_aside(path: &Path, why: &rusqlite::Error, metrics: &Metrics) -> Result<(), SpoolError> {
    let aside = free_name(path);
    let fresh = path.with_extension("db.salvage");
    for leftover in with_companions(&fresh) {
        let _ = fs::remove_file(leftover);
    }
    let mut to = file::prepare(&fresh)?;
    let counts = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|from| copy(&from, &mut to))
        .unwrap_or_default();
    to.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE;")?;
    drop(to);

    // Last the one that puts the new file in place: a crash in between salvages again.
    let unusable = |source| SpoolError::Directory { dir: path.to_owned(), source };
    for (old, new) in with_companions(path).into_iter().zip(with_companions(&aside)).rev() {
        if old.exists() {
            fs::rename(old, new).map_err(unusable)?;
        }
    }
    fs::rename(&fresh, path).map_err(unusable)?;
    tracing::error!(
        cause = %why,
        saved = counts.saved,
        lost_at_most = counts.lost,
        set_aside = %aside.display(),
        "the spool was damaged: what could be read goes on, the file is set aside"
    );
    metrics.spool_salvaged(counts.saved, counts.lost);
    Ok(())
}

/// The file with SQLite's write-ahead log and index beside it.
fn with_companions(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| PathBuf::from(format!("{}{suffix}", path.display())))
}

fn free_name(path: &Path) -> PathBuf {
    let mut n = OffsetDateTime::now_utc().unix_timestamp();
    loop {
        let name = path.with_extension(format!("db.damaged-{n}"));
        if !name.exists() {
            return name;
        }
        n += 1;
    }
}

#[derive(Default)]
struct Counts {
    saved: u64,
    /// At most: a place that cannot be read may have been forgotten long ago.
    lost: u64,
}

/// Tries after which what follows is taken to be unreadable to its end.
const HOPELESS: u64 = 1_000_000;

/// Copies delivery by delivery, and steps over those that cannot be read.
fn copy(from: &Connection, to: &mut Connection) -> rusqlite::Result<Counts> {
    let end: Seq = from
        .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'", [], |row| row.get(0))
        .unwrap_or(Seq::MAX);
    let mut next =
        from.prepare("SELECT seq, received_at, checksum, body FROM deliveries WHERE seq > ? ORDER BY seq")?;
    let transaction = to.transaction()?;
    let mut insert = transaction
        .prepare("INSERT INTO deliveries (seq, received_at, checksum, body) VALUES (?, ?, ?, ?)")?;
    let mut counts = Counts::default();
    let (mut at, mut misses) = (0, 0);
    while at < end && misses < HOPELESS {
        let row = next
            .query_row([at], |row| {
                Ok((
                    row.get::<_, Seq>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, Vec<u8>>(3)?,
                ))
            })
            .optional();
        match row {
            Ok(Some(row)) => {
                at = row.0;
                insert.execute(row)?;
                counts.saved += 1;
                misses = 0;
            }
            Ok(None) => break,
            Err(_) => {
                at += 1;
                counts.lost += 1;
                misses += 1;
            }
        }
    }
    drop(insert);
    transaction.commit()?;
    Ok(counts)
}
