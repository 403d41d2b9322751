//! Puts a rescued file into the place of the spool when a crash or an error ended the rescue before its last step.
//! Otherwise the start would report deliveries as missing that the rescued file holds.

use std::fs::File;
use std::path::Path;

use super::origin::content;
use super::replace::replace;
use super::salvage::SalvagePlan;
use super::sequence::SequenceTable;
use crate::spool::files::{self, RESCUED, with_suffix};
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
    let rescued = files::of_kind(path, RESCUED).map_err(SpoolError::at(path))?;
    if rescued.is_empty() {
        return Ok(None);
    }
    let Some(own) = content(path, Some(database)).map_err(SpoolError::at(path))? else { return Ok(None) };
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
    // SQLite would delete the part of a log after a damaged frame.
    if SalvagePlan::examine(rescued, &file).map_err(SpoolError::at(rescued))?.is_some() {
        return Ok(None);
    }
    let connection = schema::connect(rescued)?;
    let runs = schema::runs(&connection)?;
    if !schema::has_identity(&connection, identity)? || own.run.is_some() && !own.is_known_to(&runs) {
        return Ok(None);
    }
    schema::check_structure(&connection)?;
    schema::into_single_file(&connection)?;
    drop(connection);
    let is_older = SequenceTable::of_database(&file).is_none_or(|table| table.last_seq < own.last_seq);
    Ok((!is_older && !with_suffix(rescued, "-wal").exists()).then_some(file))
}
