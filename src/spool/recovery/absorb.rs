//! Adds the deliveries of rescued files, `spool.db.rescued-N`: an earlier process has written them, or they are another spool
//! that appeared in the directory.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::copy::{Copier, CopyResult, Progress};
use super::salvage::{SalvagePlan, copy_readable};
use super::sequence::SequenceTable;
use super::wal::HEADER_BYTES;
use crate::metrics::Metrics;
use crate::spool::files::{self, RESCUED, with_suffix};
use crate::spool::mark::Mark;
use crate::spool::{ReconciledUntil, SpoolError, schema, usage};

/// The result of [`absorb`].
#[derive(Debug, Default)]
pub(in crate::spool) struct Absorbed {
    /// The mark of another spool, if none of the files belongs to it, and all files were added.
    pub(in crate::spool) unclaimed_mark: Option<Mark>,
    /// The disk has too little space for the other files.
    pub(in crate::spool) needs_space: bool,
}

/// Copies the deliveries of all rescued files into the spool. A file that was read to its end is then removed. A damaged one
/// is renamed to `spool.db.damaged-N`, so that no later start reads it again. A start after a crash continues the copy. After an
/// error the file stays for the next start. `mark` is the mark of another spool that appeared in the directory. `after_commit` is
/// called after each transaction.
pub(in crate::spool) fn absorb(
    path: &Path,
    to: &Connection,
    mut mark: Option<Mark>,
    metrics: &Metrics,
    reconciled_until: &ReconciledUntil,
    after_commit: &mut dyn FnMut(),
) -> Result<Absorbed, SpoolError> {
    let oldest_received_at = mark.and_then(|mark| mark.oldest_received_at);
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut after_commit = |large| {
        after_commit();
        usage::check_space_to_add(dir, to, 2 * large as u64)
    };
    for rescued in files::of_kind(path, RESCUED).map_err(SpoolError::at(path))? {
        let set_back = || reconciled_until.set_back(oldest_received_at);
        let added = usage::check_space_to_add(dir, to, 0).map_err(SpoolError::from);
        let added = added
            .and_then(|()| absorb_file(path, &rescued, to, &mut mark, metrics, set_back, &mut after_commit));
        if let Err(error) = added {
            if !to.is_autocommit() {
                to.execute_batch("ROLLBACK")?;
            }
            if error.is_disk_full() {
                return Ok(Absorbed { unclaimed_mark: None, needs_space: true });
            }
            mark = None;
            tracing::error!(%error, file = %rescued.display(), "rescued deliveries cannot be read now: the next start tries again");
        }
    }
    Ok(Absorbed { unclaimed_mark: mark, needs_space: false })
}

fn absorb_file(
    path: &Path,
    rescued: &Path,
    to: &Connection,
    mark: &mut Option<Mark>,
    metrics: &Metrics,
    set_back: impl FnOnce(),
    after_commit: &mut dyn FnMut(usize) -> rusqlite::Result<()>,
) -> Result<(), SpoolError> {
    let file = match files::lock_database(rescued) {
        Err(SpoolError::InUse(_)) => {
            *mark = None;
            tracing::warn!(file = %rescued.display(), "a file of rescued deliveries is still in use: the next start adds them");
            return Ok(());
        }
        locked => locked?,
    };
    let log_bytes = fs::metadata(with_suffix(rescued, "-wal")).map_or(0, |log| log.len());
    // SQLite would delete the log of an empty database, and the part of a log after a damaged frame.
    let plan = match SalvagePlan::examine(rescued, &file).map_err(SpoolError::at(path))? {
        Some(plan) => Some(plan),
        None => match count_tables(rescued) {
            Ok(0) if log_bytes <= HEADER_BYTES => {
                // A crash ended the rescue before the first commit.
                files::remove(rescued);
                return Ok(());
            }
            // For example, the file was not copied completely.
            Err(SpoolError::Damaged(cause)) => Some(SalvagePlan::damaged(cause.to_string())),
            tables => tables.map(|_| None)?,
        },
    };
    let dir = path.parent().unwrap_or(Path::new("."));
    let bytes = file.metadata().map_err(SpoolError::at(path))?.len() + log_bytes;
    let (saved, lost, complete) = if let Some(plan) = plan {
        // A damaged file is not added in parts. It is read from a copy.
        usage::check_space_to_add(dir, to, 2 * bytes)?;
        let (saved, lost) = copy_readable(rescued, &file, &plan, mark, to, true, after_commit)?;
        (saved, lost, false)
    } else {
        let from = schema::connect(rescued)?;
        let mut result = CopyResult::default();
        let is_own = |mark: &mut Mark| schema::has_identity(&from, mark.identity).unwrap_or(true);
        if let Some(mark) = mark.take_if(is_own) {
            result.consider(mark.last_seq, mark.acked_seq);
        }
        let progress = Progress::read(to, SequenceTable::of_database(&file))?;
        let mut copier = Copier::new(to, after_commit)?.append().resume(progress);
        let last = copier.copy_in_order(&from, &mut result)?;
        if !result.complete {
            usage::check_space_to_add(dir, to, bytes)?;
            copier.copy_rest(&from, last, &mut result)?;
        }
        copier.finish()?;
        (result.saved, result.lost(), result.complete)
    };
    let lost = lost.unwrap_or(u64::from(!complete));
    if lost > 0 {
        set_back();
    }
    if complete {
        files::remove(rescued);
        tracing::warn!(saved, lost_at_most = lost, file = %rescued.display(), "deliveries of a rescued file were added");
    } else {
        let aside = files::set_aside(rescued, path).map_err(SpoolError::at(path))?;
        tracing::error!(saved, lost_at_most = lost, aside = %aside.display(), "a file of rescued deliveries is damaged: its readable deliveries were added, and the file is set aside");
    }
    metrics.spool_salvaged(saved, lost);
    Ok(())
}

fn count_tables(rescued: &Path) -> Result<i64, SpoolError> {
    let from = schema::connect(rescued)?;
    Ok(from.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?)
}
