//! Puts a new file into the place of the spool. After a crash in between, the next start ends the replacement before it
//! reads the spool: the spool is either the old or the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::spool::files::{self, beside, step};

/// The new file has this suffix from the moment on when it is the spool, until it has the spool's name.
const SAVED: &str = ".saved";

/// Gives the complete file `new` the name of the spool. `clear` renames or removes the files that have this name.
///
/// # Errors
/// Then the next [`finish`] ends the replacement, unless [`withdraw`] is called before.
pub(super) fn replace(path: &Path, new: &Path, clear: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    step(|| fs::rename(new, beside(path, SAVED)))?;
    swap(path, clear)
}

/// Undoes a failed [`replace`]: `new` gets its old name. Returns the name that it has now.
pub(super) fn withdraw(path: &Path, new: &Path) -> PathBuf {
    let saved = beside(path, SAVED);
    match step(|| fs::rename(&saved, new)) {
        Err(_) if saved.exists() => saved,
        _ => new.to_owned(),
    }
}

/// Ends a replacement that was interrupted. Files that still have the spool's name are set aside.
pub(in crate::spool) fn finish(path: &Path) -> io::Result<()> {
    if !beside(path, SAVED).exists() {
        return Ok(());
    }
    swap(path, || files::set_aside(path, path).map(drop))
}

fn swap(path: &Path, clear: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    files::sync_parent(path)?;
    clear()?;
    files::sync_parent(path)?;
    step(|| fs::rename(beside(path, SAVED), path))?;
    files::sync_parent(path)
}
