//! Deliveries that an earlier process rescued into files of their own, `spool.db.rescued-N`: a start takes them in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::copy::{Copier, Spool};
use crate::metrics::Metrics;
use crate::spool::SpoolError;
use crate::spool::files::{self, SUFFIXES, beside};
use crate::spool::open;

/// What the names of such files have after the spool's.
pub(super) const RESCUED: &str = "rescued";

/// Copies the deliveries of all such files into the spool. A file that was read to its end is removed then, any other is
/// set aside. A crash on the way has some deliveries recorded twice, which is harmless.
pub(in crate::spool) fn absorb(path: &Path, to: &Connection, metrics: &Metrics) -> Result<(), SpoolError> {
    let unusable = |source| SpoolError::Directory { dir: path.to_owned(), source };
    for rescued in rescued(path).map_err(unusable)? {
        // The process that is writing it has it.
        let file = match files::lock_database(&rescued) {
            Err(SpoolError::InUse(_)) => {
                tracing::warn!(file = %rescued.display(), "another process is still writing rescued deliveries: the next start takes them in");
                continue;
            }
            locked => locked?,
        };
        if file.metadata().map_err(unusable)?.len() == 0 {
            // A crash left it before anything was written, or it lost its content: SQLite would delete its log.
            let aside = files::set_aside(&rescued, "damaged").map_err(unusable)?;
            tracing::warn!(aside = %aside.display(), "an empty file of rescued deliveries is set aside");
            continue;
        }
        let mut spool = Spool::default();
        let from = open::connect(&rescued)?;
        let mut nothing = || ();
        let mut copier = Copier::new(to, &mut nothing)?.behind();
        copier.copy(&from, &mut spool)?;
        copier.finish()?;
        drop(from);
        let saved = spool.saved;
        if spool.whole {
            files::remove(&rescued);
            tracing::warn!(saved, file = %rescued.display(), "deliveries that an earlier process rescued go on");
        } else {
            let aside = files::set_aside(&rescued, "damaged").map_err(unusable)?;
            tracing::error!(saved, aside = %aside.display(), "a file of rescued deliveries cannot be read to its end: what can be read goes on");
        }
        metrics.spool_salvaged(saved, u64::from(!spool.whole));
    }
    Ok(())
}

fn rescued(path: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let prefix = format!("{}.{RESCUED}-", files::DATABASE);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        if let Some(number) = number {
            let number = SUFFIXES
                .iter()
                .find_map(|suffix| number.strip_suffix(suffix).filter(|_| !suffix.is_empty()))
                .unwrap_or(number);
            // One that was set aside has more in its name.
            if number.bytes().all(|byte| byte.is_ascii_digit()) {
                names.push(beside(path, &format!(".{RESCUED}-{number}")));
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}
