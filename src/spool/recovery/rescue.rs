//! The files in the directory are not the ones that the writer holds open any more: what its connection can still read
//! goes into a new file there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use super::absorb::RESCUED;
use super::copy::{Copier, Spool};
use super::salvage::{self, Source};
use crate::spool::files::{self, HeldFiles, SUFFIXES, beside};
use crate::spool::{Seq, SpoolError, open};

/// A spool in the place of the one that was lost.
pub(in crate::spool) struct Rescued {
    pub(in crate::spool) writer: Connection,
    pub(in crate::spool) reader: Connection,
    pub(in crate::spool) held: HeldFiles,
    pub(in crate::spool) saved: u64,
    /// At most.
    pub(in crate::spool) lost: u64,
}

/// A whole copy of the deliveries, which is not in the spool's place yet.
#[derive(Debug)]
pub(in crate::spool) struct Copied {
    path: PathBuf,
    file: Arc<File>,
    saved: u64,
    /// At most.
    lost: u64,
}

impl Copied {
    /// Removes it: the lost spool is back.
    pub(in crate::spool) fn remove(self) {
        if files::is_at(&self.file, &self.path) {
            files::remove(&self.path);
        }
    }
}

/// The spool that was lost.
pub(in crate::spool) struct Displaced<'w> {
    /// `None` when SQLite must not read the files any more.
    pub(in crate::spool) connection: Option<&'w Connection>,
    pub(in crate::spool) held: &'w HeldFiles,
    pub(in crate::spool) through: Seq,
    pub(in crate::spool) forgotten: Seq,
}

impl Displaced<'_> {
    /// Writes the deliveries to a new file and puts it at `path`. A file of another origin that is there is set aside.
    /// `between` is called every now and then. What is copied when a later step fails stays in `copied`, and the next try
    /// goes on with it: the lost spool takes no deliveries meanwhile.
    ///
    /// # Errors
    /// [`SpoolError::InUse`] when another receiver has the place: then the deliveries are in a file of their own, which
    /// the next start there absorbs. Otherwise the old connection still has all that it had.
    pub(in crate::spool) fn rescue(
        &self,
        path: &Path,
        copied: &mut Option<Copied>,
        between: &mut dyn FnMut(),
    ) -> Result<Rescued, SpoolError> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let unusable = |source| SpoolError::Directory { dir: dir.to_owned(), source };
        let directory = match self.held.lock_directory_again() {
            Ok(directory) => Some(directory),
            Err(SpoolError::InUse(_)) => None,
            Err(error) => return Err(error),
        };
        copied.take_if(|copy| !files::is_at(&copy.file, path) && !files::is_at(&copy.file, &copy.path));
        let in_place = copied.as_ref().is_some_and(|copy| files::is_at(&copy.file, path));
        let taken = !in_place && is_locked(path, self.held).map_err(unusable)?;
        let copy = match copied {
            Some(copy) => copy,
            None => copied.insert(self.copy(path, between)?),
        };
        let Copied { saved, lost, .. } = *copy;
        let Some(directory) = directory.filter(|_| !taken) else {
            tracing::error!(
                saved,
                lost_at_most = lost,
                file = %copy.path.display(),
                "another receiver has taken the spool's place: the deliveries of this one are in a file of their own, \
                 which the next start in this directory takes in"
            );
            return Err(SpoolError::InUse(dir.to_owned()));
        };
        if !in_place {
            self.make_room(path, lost == 0).map_err(unusable)?;
            fs::rename(&copy.path, path).and_then(|()| files::sync(dir)).map_err(unusable)?;
        }
        let writer = open::prepare(path)?;
        let reader = open::open_reader(path)?;
        let held = HeldFiles::new(dir, directory, copy.file.clone()).map_err(unusable)?;
        *copied = None;
        Ok(Rescued { writer, reader, held, saved, lost })
    }

    /// Copies from the connection and, where that does not read everything, from the pages that the files still have.
    fn copy(&self, path: &Path, between: &mut dyn FnMut()) -> Result<Copied, SpoolError> {
        let to = files::free_name(path, RESCUED);
        let copied = self.copy_to(&to, path, between).inspect_err(|_| files::remove(&to));
        let (file, spool) = copied?;
        Ok(Copied { path: to, file: Arc::new(file), saved: spool.saved, lost: spool.lost().unwrap_or(0) })
    }

    fn copy_to(
        &self,
        to: &Path,
        path: &Path,
        between: &mut dyn FnMut(),
    ) -> Result<(File, Spool), SpoolError> {
        let unusable = |source| SpoolError::Directory { dir: path.to_owned(), source };
        let file = files::lock_database(to)?;
        let target = open::prepare(to)?;
        let mut copier = Copier::new(&target, between)?;
        let mut spool = Spool::default();
        spool.consider(self.through, self.forgotten);
        if let Some(connection) = self.connection {
            copier.copy(connection, &mut spool)?;
        }
        if spool.lost() != Some(0) {
            let copy = beside(path, ".copy");
            for source in [Source::Both, Source::Database] {
                files::remove(&copy);
                salvage::build(&copy, source, &self.held.database, Some(&self.held.wal)).map_err(unusable)?;
                copier.copy(&Connection::open(&copy)?, &mut spool)?;
                files::remove(&copy);
            }
        }
        copier.finish()?;
        // An older state of the files has them again.
        target.execute("DELETE FROM deliveries WHERE seq <= ?", [self.forgotten])?;
        open::advance(&target, self.through)?;
        open::note_losses(&target)?;
        target.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE;")?;
        Ok((file, spool))
    }

    /// Sets aside what is at the place of the spool, or removes its own old files once everything in them is copied.
    fn make_room(&self, path: &Path, complete: bool) -> io::Result<()> {
        let (damaged, foreign) = (files::free_name(path, "damaged"), files::free_name(path, "foreign"));
        for suffix in SUFFIXES {
            let old = beside(path, suffix);
            let own = self.held.is_own(suffix);
            let done = match (own, complete) {
                (true, true) => fs::remove_file(&old),
                (true, false) => fs::rename(&old, beside(&damaged, suffix)),
                (false, _) => fs::rename(&old, beside(&foreign, suffix)).inspect(|()| {
                    tracing::error!(aside = %beside(&foreign, suffix).display(), "a file of another origin was in the spool's place: it is set aside");
                }),
            };
            match done {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        files::sync(path.parent().unwrap_or(Path::new(".")))
    }
}

/// Whether another receiver holds the file that is in the spool's place.
fn is_locked(path: &Path, held: &HeldFiles) -> io::Result<bool> {
    if held.is_own("") || !cfg!(target_os = "linux") {
        return Ok(false);
    }
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(error),
        Ok(file) => Ok(matches!(file.try_lock(), Err(TryLockError::WouldBlock))),
    }
}
