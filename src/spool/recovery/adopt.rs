//! Puts a rescued file into the place of the spool when a crash or an error ended the rescue before its last step.
//! Otherwise the start would report deliveries as missing that the rescued file holds.

use std::fs::File;
use std::io;
use std::path::Path;

use super::absorb::rescued_files;
use super::replace::replace;
use super::salvage::open_log;
use super::sequence::SequenceTable;
use super::wal::{Findings, Wal};
use crate::spool::files::{self, with_suffix};
use crate::spool::mark::Mark;
use crate::spool::{SpoolError, schema};

/// Gives the name of the spool to a rescued file that holds every delivery of the spool's own files. These are renamed
/// ([`files::set_aside`]). Returns the new database, locked; `None` when there is no such file.
///
/// # Errors
/// [`SpoolError::Directory`]. Then the next start completes the replacement.
pub(in crate::spool) fn adopt(
    path: &Path,
    database: &File,
    mark: Option<Mark>,
) -> Result<Option<File>, SpoolError> {
    let rescued = rescued_files(path).map_err(SpoolError::at(path))?;
    if rescued.is_empty() {
        return Ok(None);
    }
    let Some(own) = content(path, database).map_err(SpoolError::at(path))? else { return Ok(None) };
    for rescued in rescued.iter().rev() {
        match lock_successor(rescued, own, mark) {
            Ok(Some(file)) => {
                replace(path, rescued, || files::set_aside(path, path).map(drop))
                    .map_err(SpoolError::at(path))?;
                tracing::warn!(file = %rescued.display(), "an earlier rescue was interrupted: its file of rescued deliveries is now the spool");
                return Ok(Some(file));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, file = %rescued.display(), "a rescued file cannot become the spool");
            }
        }
    }
    Ok(None)
}

/// The identity and the last number of the spool's own files. Empty when they hold nothing; `None` when they are damaged
/// or of different spools.
pub(super) fn content(path: &Path, database: &File) -> io::Result<Option<SequenceTable>> {
    let log = open_log(path)?;
    let findings = match log.as_ref().map(Wal::open).transpose()?.flatten() {
        Some(wal) => wal.examine()?,
        None => Findings::default(),
    };
    let in_database = SequenceTable::of_database(database);
    Ok(match (in_database, findings.sequence) {
        (Some(in_database), Some(in_log)) if in_database.identity != in_log.identity => None,
        (Some(in_database), Some(in_log)) => {
            Some(SequenceTable { last_seq: in_database.last_seq.max(in_log.last_seq), ..in_log })
        }
        (None, None) if database.metadata()?.len() == 0 && !findings.has_commits() => {
            Some(SequenceTable::default())
        }
        (in_database, in_log) => in_database.or(in_log),
    })
}

/// Locks a rescued file and makes it a single file, if it holds every delivery of the spool `own`.
fn lock_successor(
    rescued: &Path,
    own: SequenceTable,
    mark: Option<Mark>,
) -> Result<Option<File>, SpoolError> {
    let Some(identity) = own.identity.or(mark.map(|mark| mark.identity)) else { return Ok(None) };
    let file = match files::lock_database(rescued) {
        Err(SpoolError::InUse(_)) => return Ok(None),
        locked => locked?,
    };
    // SQLite would delete the log of an empty database.
    if file.metadata().map_err(SpoolError::at(rescued))?.len() == 0 {
        return Ok(None);
    }
    schema::check_header(rescued, &file)?;
    let connection = schema::connect(rescued)?;
    if !schema::has_identity(&connection, identity)? {
        return Ok(None);
    }
    schema::check_structure(&connection)?;
    schema::into_single_file(&connection)?;
    drop(connection);
    let is_older = SequenceTable::of_database(&file).is_none_or(|table| table.last_seq < own.last_seq);
    Ok((!is_older && !with_suffix(rescued, "-wal").exists()).then_some(file))
}
