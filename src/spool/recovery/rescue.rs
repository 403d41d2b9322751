//! Rescues the deliveries when the files in the directory are no longer the files that the writer has open. Everything that
//! the writer's connection can still read goes into a new file in the directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use time::OffsetDateTime;

use super::copy::{Copier, CopyResult};
use super::origin::has_other_deliveries;
use super::replace::{keep_other, replace, withdraw};
use super::salvage::{Source, read_source};
use super::sequence::SequenceTable;
use super::wal::Wal;
use crate::spool::files::{self, DAMAGED, FOREIGN, OpenFiles, RESCUED, with_suffix};
use crate::spool::{ReconciledUntil, Seq, SpoolError, losses, reader, schema};

/// The spool that was opened in the place of the lost one.
pub(in crate::spool) struct RescuedSpool {
    pub(in crate::spool) writer: Connection,
    pub(in crate::spool) reader: Connection,
    pub(in crate::spool) files: OpenFiles,
    pub(in crate::spool) saved: u64,
    /// Upper bound.
    pub(in crate::spool) lost: u64,
}

/// A complete copy of the deliveries that does not have the spool's name yet.
#[derive(Debug)]
pub(in crate::spool) struct RescueCopy {
    path: PathBuf,
    file: Arc<File>,
    saved: u64,
    /// Upper bound.
    lost: u64,
}

impl RescueCopy {
    pub(in crate::spool) fn remove(self) {
        if files::is_at(&self.file, &self.path) {
            files::remove(&self.path);
        }
    }
}

/// The spool whose files were changed.
pub(in crate::spool) struct LostSpool<'w> {
    /// `None` when SQLite must not read the files.
    pub(in crate::spool) connection: Option<&'w Connection>,
    pub(in crate::spool) files: &'w OpenFiles,
    pub(in crate::spool) identity: i64,
    pub(in crate::spool) runs: &'w [i64],
    pub(in crate::spool) last_seq: Seq,
    pub(in crate::spool) acked_seq: Seq,
    pub(in crate::spool) oldest_received_at: Option<OffsetDateTime>,
    pub(in crate::spool) reconciled_until: &'w ReconciledUntil,
}

/// Which of the lost spool's open files have the contents of another spool now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overwritten {
    None,
    Database,
    Log,
    DatabaseAndLog,
}

impl LostSpool<'_> {
    /// Copies the deliveries to a new file and gives it the name `path`. A file of another origin with this name is set
    /// aside. `after_commit` is called after each transaction. When a later step fails, the copy stays in `rescue_copy` for
    /// the next attempt. The copy stays complete, because the lost spool accepts no deliveries.
    ///
    /// # Errors
    /// [`SpoolError::InUse`] when another receiver uses the directory: the next start there absorbs the copy. After other
    /// errors the old connection still reads what it could read before.
    pub(in crate::spool) fn rescue(
        &self,
        path: &Path,
        rescue_copy: &mut Option<RescueCopy>,
        after_commit: &mut dyn FnMut(),
    ) -> Result<RescuedSpool, SpoolError> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let directory = match self.files.lock_directory_again() {
            Ok(directory) => Some(directory),
            Err(SpoolError::InUse(_)) => None,
            Err(error) => return Err(error),
        };
        // The copy was removed or replaced meanwhile.
        rescue_copy.take_if(|copy| !files::is_at(&copy.file, path) && !files::is_at(&copy.file, &copy.path));
        let in_place = rescue_copy.as_ref().is_some_and(|copy| files::is_at(&copy.file, path));
        let locked_by_other = !in_place && is_locked(path, self.files).map_err(SpoolError::at(dir))?;
        let overwritten = self.overwritten().map_err(SpoolError::at(dir))?;
        let copied = match rescue_copy {
            Some(copied) => copied,
            None => rescue_copy.insert(self.copy(path, overwritten, after_commit)?),
        };
        let RescueCopy { saved, lost, .. } = *copied;
        let Some(directory) = directory.filter(|_| !locked_by_other) else {
            tracing::error!(
                saved,
                lost_at_most = lost,
                file = %copied.path.display(),
                "another receiver uses the spool directory: the deliveries of this receiver are in a separate file, which \
                 the next start in this directory adds to its spool"
            );
            return Err(SpoolError::InUse(dir.to_owned()));
        };
        if lost > 0 {
            self.reconciled_until.set_back(self.oldest_received_at);
        }
        keep_other(path, &copied.path).map_err(SpoolError::at(dir))?;
        // The deliveries of another spool are added, for example after a volume was mounted late.
        let is_other = if self.files.is_own("") {
            overwritten != Overwritten::None
        } else {
            has_other_deliveries(path, self.runs).unwrap_or(true)
        };
        let kind = if is_other { RESCUED } else { FOREIGN };
        // Chosen before the copy is renamed: otherwise it could be the copy's name, which is then free.
        let foreign = files::free_name(path, kind);
        if !in_place
            && let Err(error) =
                replace(path, &copied.path, || self.clear(path, lost == 0, overwritten, &foreign))
        {
            copied.path = withdraw(path, &copied.path);
            return Err(SpoolError::at(dir)(error));
        }
        if !is_other {
            files::keep_once(foreign, path);
        }
        let writer = schema::prepare(path)?;
        let reader = reader::connect(path)?;
        let files = OpenFiles::new(dir, directory, copied.file.clone()).map_err(SpoolError::at(dir))?;
        *rescue_copy = None;
        Ok(RescuedSpool { writer, reader, files, saved, lost })
    }

    fn overwritten(&self) -> io::Result<Overwritten> {
        let is_other = |table: SequenceTable| {
            let has_other_identity = table.identity.is_some_and(|identity| identity != self.identity);
            has_other_identity || table.run.is_some() && !table.is_known_to(self.runs)
        };
        let in_database = SequenceTable::of_database(&self.files.database);
        let in_log = match Wal::open(&self.files.wal)? {
            Some(wal) => wal.examine()?.sequence,
            None => None,
        };
        Ok(match (in_database.is_some_and(is_other), in_log.is_some_and(is_other)) {
            (false, false) => Overwritten::None,
            (true, false) => Overwritten::Database,
            (false, true) => Overwritten::Log,
            (true, true) => Overwritten::DatabaseAndLog,
        })
    }

    fn copy(
        &self,
        path: &Path,
        overwritten: Overwritten,
        after_commit: &mut dyn FnMut(),
    ) -> Result<RescueCopy, SpoolError> {
        let to = files::free_name(path, RESCUED);
        let copied = self.copy_to(&to, path, overwritten, after_commit).inspect_err(|_| files::remove(&to));
        let (file, result) = copied?;
        let lost = result.lost().unwrap_or(0);
        Ok(RescueCopy { path: to, file: Arc::new(file), saved: result.saved, lost })
    }

    /// Copies from the connection and, if that does not read everything, from the pages in the files. Reads no file that has the
    /// contents of another spool: its numbers would look like those of this spool.
    fn copy_to(
        &self,
        to: &Path,
        path: &Path,
        overwritten: Overwritten,
        after_commit: &mut dyn FnMut(),
    ) -> Result<(File, CopyResult), SpoolError> {
        let file = files::lock_database(to)?;
        let target = schema::prepare(to)?;
        // Before the copy: a delivery that gets a new number must get one that the recorder has not read yet.
        losses::begin_copy(&target, self.last_seq, self.acked_seq)?;
        schema::add_runs(&target, self.runs)?;
        let mut after_commit = |_| {
            after_commit();
            Ok(())
        };
        let mut copier = Copier::new(&target, &mut after_commit)?;
        let mut result = CopyResult::default();
        result.consider(self.last_seq, self.acked_seq);
        if overwritten == Overwritten::None
            && let Some(connection) = self.connection
        {
            copier.copy(connection, &mut result)?;
        }
        if result.lost() != Some(0) {
            let sources: &[_] = match overwritten {
                Overwritten::None => &[Source::Both, Source::Database],
                Overwritten::Database => &[Source::Log],
                Overwritten::Log => &[Source::Database],
                Overwritten::DatabaseAndLog => &[],
            };
            for &source in sources {
                read_source(path, source, &self.files.database, Some(&self.files.wal), |from, _| {
                    copier.copy(from, &mut result)
                })?;
            }
        }
        copier.finish()?;
        // An older state of the files may hold acked deliveries.
        target.execute("DELETE FROM deliveries WHERE seq <= ?", [self.acked_seq])?;
        losses::store(&target)?;
        if result.lost() == Some(0) {
            // After a crash, the mark still has the lost spool's identity. Without this entry, the next start would
            // report a loss.
            schema::set_predecessor(&target, self.identity)?;
        }
        schema::into_single_file(&target)?;
        Ok((file, result))
    }

    /// Removes the lost spool's own files, or sets them aside when the copy is not `complete`. Renames the files of another spool,
    /// and other files, to `foreign`.
    fn clear(&self, path: &Path, complete: bool, overwritten: Overwritten, foreign: &Path) -> io::Result<()> {
        let damaged = files::free_name(path, DAMAGED);
        files::rename(path, |suffix| {
            let is_overwritten = match overwritten {
                Overwritten::None => false,
                Overwritten::Database => suffix.is_empty(),
                // The database is the one that the log continues.
                Overwritten::Log | Overwritten::DatabaseAndLog => true,
            };
            if self.files.is_own(suffix) && !is_overwritten {
                return (!complete).then(|| damaged.clone());
            }
            if with_suffix(path, suffix).exists() {
                tracing::error!(aside = %with_suffix(foreign, suffix).display(), "a file of another origin had the name of a spool file: it is set aside");
            }
            // SQLite can rebuild the index.
            (suffix != "-shm").then(|| foreign.to_owned())
        })?;
        files::keep_once(damaged, path);
        Ok(())
    }
}

/// Whether another receiver has locked the file at `path`.
fn is_locked(path: &Path, own: &OpenFiles) -> io::Result<bool> {
    if own.is_own("") || !cfg!(target_os = "linux") {
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
