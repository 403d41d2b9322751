//! What the spool's files hold, before SQLite opens them.

use std::fs::File;
use std::io;
use std::path::Path;

use super::sequence::SequenceTable;
use super::wal::{Findings, Wal};
use crate::spool::files::with_suffix;
use crate::spool::schema;

/// The identity, the last number and the last run of the files at `path`. `SequenceTable::default()` when they
/// hold nothing; `None` when neither file has the table, or when they are of different spools.
pub(super) fn content(path: &Path, database: Option<&File>) -> io::Result<Option<SequenceTable>> {
    let log = open_log(path)?;
    let findings = match log.as_ref().map(Wal::open).transpose()?.flatten() {
        Some(wal) => wal.examine()?,
        None => Findings::default(),
    };
    let in_database = database.and_then(SequenceTable::of_database);
    let is_empty = database.map_or(Ok(true), |database| database.metadata().map(|file| file.len() == 0))?;
    Ok(match (in_database, findings.sequence) {
        (Some(in_database), Some(_)) if !findings.follows(&in_database) => None,
        (Some(in_database), Some(in_log)) => {
            Some(SequenceTable { last_seq: in_database.last_seq.max(in_log.last_seq), ..in_log })
        }
        (None, None) if is_empty && !findings.has_commits() => Some(SequenceTable::default()),
        (in_database, in_log) => in_database.or(in_log),
    })
}

/// Whether the files at `path` have deliveries that a spool with these runs never had ([`SequenceTable::is_known_to`]).
/// `None` when the content of the files cannot be read.
pub(super) fn has_other_deliveries(path: &Path, runs: &[i64]) -> Option<bool> {
    let database = File::open(path).ok();
    if database.as_ref().is_some_and(|database| !schema::is_spool(path, database)) {
        return Some(false);
    }
    let has_pages = |database: &&File| database.metadata().is_ok_and(|metadata| metadata.len() > 0);
    let in_database = match database.as_ref().filter(has_pages) {
        Some(database) => Some(SequenceTable::of_database(database)?),
        None => None,
    };
    // The log may belong to earlier files.
    let content = content(path, database.as_ref()).ok().flatten().or(in_database)?;
    Some(content.identity.is_some() && !content.is_known_to(runs))
}

/// The write-ahead log; `None` without one.
pub(super) fn open_log(path: &Path) -> io::Result<Option<File>> {
    match File::open(with_suffix(path, "-wal")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}
