//! Adds the deliveries that an earlier process rescued into separate files, `spool.db.rescued-N`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::copy::{Copier, CopyResult};
use super::salvage::SalvagePlan;
use super::wal::HEADER_BYTES;
use crate::metrics::Metrics;
use crate::spool::files::{self, RESCUED, with_suffix};
use crate::spool::schema;
use crate::spool::{ReconciledUntil, SpoolError};

/// Copies the deliveries of all rescued files into the spool. Then a file that was read to its end is removed. A damaged one
/// is renamed to `spool.db.damaged-N`, so that no later start reads it again. After a crash in between, some deliveries
/// are recorded twice, which is harmless. After an error the start continues, and the file stays for the next start.
pub(in crate::spool) fn absorb(
    path: &Path,
    to: &Connection,
    metrics: &Metrics,
    reconciled_until: &ReconciledUntil,
) -> Result<(), SpoolError> {
    for rescued in rescued_files(path).map_err(SpoolError::at(path))? {
        if let Err(error) = absorb_file(path, &rescued, to, metrics, reconciled_until) {
            if !to.is_autocommit() {
                to.execute_batch("ROLLBACK")?;
            }
            tracing::error!(%error, file = %rescued.display(), "rescued deliveries cannot be read now: the next start tries again");
        }
    }
    Ok(())
}

fn absorb_file(
    path: &Path,
    rescued: &Path,
    to: &Connection,
    metrics: &Metrics,
    reconciled_until: &ReconciledUntil,
) -> Result<(), SpoolError> {
    let set_aside = || {
        reconciled_until.set_back(None);
        files::set_aside(rescued, path).map_err(SpoolError::at(path))
    };
    let file = match files::lock_database(rescued) {
        Err(SpoolError::InUse(_)) => {
            tracing::warn!(file = %rescued.display(), "another process is still writing rescued deliveries: the next start adds them");
            return Ok(());
        }
        locked => locked?,
    };
    let log_bytes = fs::metadata(with_suffix(rescued, "-wal")).map_or(0, |log| log.len());
    if log_bytes > 0 && file.metadata().map_err(SpoolError::at(path))?.len() == 0 {
        // SQLite would delete the log of an empty database.
        let aside = set_aside()?;
        metrics.spool_salvaged(0, 1);
        tracing::error!(aside = %aside.display(), "a file of rescued deliveries is empty, and its write-ahead log is not: the log is set aside");
        return Ok(());
    }
    // SQLite would delete the part of a log after a damaged frame.
    if let Some(plan) = SalvagePlan::examine(rescued, &file).map_err(SpoolError::at(path))? {
        let aside = set_aside()?;
        metrics.spool_salvaged(0, 1);
        tracing::error!(
            aside = %aside.display(),
            "a spool to be added is damaged and is set aside: {}. To record its deliveries, start a receiver whose spool.dir contains it as spool.db",
            plan.cause()
        );
        return Ok(());
    }
    let from = schema::connect(rescued)?;
    let tables: rusqlite::Result<i64> =
        from.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0));
    if tables == Ok(0) && log_bytes <= HEADER_BYTES {
        // A crash ended the rescue before the first commit.
        drop(from);
        files::remove(rescued);
        return Ok(());
    }
    let mut result = CopyResult::default();
    let mut no_action = || ();
    let mut copier = Copier::new(to, &mut no_action)?.append();
    copier.copy(&from, &mut result)?;
    copier.finish()?;
    drop(from);
    let CopyResult { saved, complete, .. } = result;
    if complete {
        files::remove(rescued);
        tracing::warn!(saved, file = %rescued.display(), "added deliveries that an earlier process rescued");
    } else {
        let aside = set_aside()?;
        tracing::error!(saved, aside = %aside.display(), "a file of rescued deliveries is damaged: its readable deliveries were added, and the file is set aside");
    }
    metrics.spool_salvaged(saved, u64::from(!complete));
    Ok(())
}

/// The rescued files, oldest first.
pub(super) fn rescued_files(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let prefix = format!("{}.{RESCUED}-", files::DATABASE);
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new(".")))? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| files::without_suffix(name).strip_prefix(&prefix));
        // Files with other names, such as those that were set aside, are not rescued files.
        if let Some(number) = number.filter(|number| number.parse::<u64>().is_ok()) {
            found.insert(with_suffix(path, &format!(".{RESCUED}-{number}")));
        }
    }
    Ok(found)
}
