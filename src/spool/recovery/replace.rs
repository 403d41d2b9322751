//! Replaces the spool by a new file. After a crash in between, the next start completes the replacement before it reads
//! the spool: the spool is either the old or the new one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::origin::has_other_deliveries;
use super::sequence::runs_of_database;
use crate::spool::files::{self, RESCUED, step, with_suffix};
use crate::spool::{SpoolError, schema};

/// The suffix of the new file during the replacement. A file with this suffix is the spool: [`finish`] gives it the spool's
/// name.
const SAVED: &str = ".saved";

/// Gives the complete file `new` the name of the spool. `clear` renames or removes the files that have this name.
///
/// # Errors
/// After an error, the next [`finish`] completes the replacement, unless [`withdraw`] is called before.
pub(super) fn replace(path: &Path, new: &Path, clear: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    step(|| fs::rename(new, with_suffix(path, SAVED)))?;
    swap(path, clear)
}

/// Renames the file of another, interrupted replacement to a rescued file, so that [`replace`] does not overwrite it and
/// [`super::absorb`] adds its deliveries. It was on a volume that was mounted late.
pub(super) fn keep_other(path: &Path, new: &Path) -> io::Result<()> {
    let saved = with_suffix(path, SAVED);
    if saved == new || !saved.exists() {
        return Ok(());
    }
    fs::rename(saved, files::free_name(path, RESCUED))
}

/// Undoes a failed [`replace`]: renames the file back to `new`. Returns its current name.
pub(super) fn withdraw(path: &Path, new: &Path) -> PathBuf {
    let saved = with_suffix(path, SAVED);
    match step(|| fs::rename(&saved, new)) {
        Err(_) if saved.exists() => saved,
        _ => new.to_owned(),
    }
}

/// Completes an interrupted replacement. Files that still have the spool's name are renamed: those of another spool to a
/// rescued file, which [`super::absorb`] adds, and others with [`files::set_aside`].
///
/// # Errors
/// [`SpoolError::Foreign`] and [`SpoolError::UnknownVersion`]: then nothing was changed.
pub(in crate::spool) fn finish(path: &Path) -> Result<(), SpoolError> {
    let saved = with_suffix(path, SAVED);
    let new = match File::open(&saved) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(SpoolError::at(&saved))?,
    };
    schema::check_header(&saved, &new)?;
    let clear = || {
        if has_other_deliveries(path, &runs_of_database(&new)).unwrap_or(true) {
            let rescued = files::free_name(path, RESCUED);
            return files::rename(path, |_| Some(rescued.clone()));
        }
        files::set_aside(path, path).map(drop)
    };
    swap(path, clear).map_err(SpoolError::at(path))
}

fn swap(path: &Path, clear: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    files::sync_parent(path)?;
    clear()?;
    files::sync_parent(path)?;
    step(|| fs::rename(with_suffix(path, SAVED), path))?;
    files::sync_parent(path)
}
