//! Replaces the spool by a new file. After a crash in between, the next start completes the replacement before it reads
//! the spool: the spool is either the old or the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::spool::files::{self, RESCUED, step, with_suffix};

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

/// Completes an interrupted replacement. Files that still have the spool's name are renamed ([`files::set_aside`]).
pub(in crate::spool) fn finish(path: &Path) -> io::Result<()> {
    if !with_suffix(path, SAVED).exists() {
        return Ok(());
    }
    swap(path, || files::set_aside(path, path).map(drop))
}

fn swap(path: &Path, clear: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    files::sync_parent(path)?;
    clear()?;
    files::sync_parent(path)?;
    step(|| fs::rename(with_suffix(path, SAVED), path))?;
    files::sync_parent(path)
}
