//! Salvages damaged files, or files of different spools, at the start: everything readable goes into a new file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rusqlite::Connection;

use super::copy::{Copier, CopyResult};
use super::origin::{content, open_log};
use super::replace::replace;
use super::sequence::{SequenceTable, runs_of_database};
use super::wal::Wal;
use crate::metrics::Metrics;
use crate::spool::files::{self, with_suffix};
use crate::spool::mark::Mark;
use crate::spool::{ReconciledUntil, SpoolError, losses, schema};

/// Where deliveries are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::spool) enum Source {
    /// The database without its write-ahead log.
    Database,
    /// The database with the pages of its log.
    Both,
    /// The pages of the log over an empty spool.
    Log,
}

/// Why a spool is salvaged, and how.
#[derive(Debug)]
pub(in crate::spool) struct SalvagePlan {
    cause: String,
    /// The sources of each spool that the files belong to.
    spools: &'static [&'static [Source]],
}

impl SalvagePlan {
    /// For a database that SQLite cannot read.
    pub(in crate::spool) fn damaged(cause: String) -> Self {
        Self { cause, spools: &[&[Source::Both, Source::Database]] }
    }

    /// Examines the files before SQLite opens them. `None` when SQLite reads them correctly.
    pub(in crate::spool) fn examine(path: &Path, database: &File) -> io::Result<Option<Self>> {
        let Some(log) = open_log(path)? else { return Ok(None) };
        let Some(wal) = Wal::open(&log)? else { return Ok(None) };
        let findings = wal.examine()?;
        let plan = |cause: &str, spools| Ok(Some(Self { cause: cause.to_owned(), spools }));
        if database.metadata()?.len() == 0 {
            return if findings.has_commits() {
                plan("spool.db is missing or empty, and its write-ahead log is not", &[&[Source::Log]])
            } else {
                // SQLite would delete the log.
                let base = path.with_file_name(files::DATABASE);
                let aside = with_suffix(&files::free_name(&base, files::DAMAGED), "-wal");
                fs::rename(with_suffix(path, "-wal"), &aside)?;
                tracing::error!(aside = %aside.display(), "a write-ahead log without a database and without deliveries is set aside");
                Ok(None)
            };
        }
        if let (Some(in_database), Some(in_log)) = (SequenceTable::of_database(database), findings.sequence) {
            let is_same_spool = in_log.identity == in_database.identity;
            if is_same_spool && in_log.last_seq < in_database.last_seq {
                let sources = &[&[Source::Database, Source::Both] as &[_]];
                return plan("its write-ahead log is older than the database", sources);
            }
            if !findings.follows(&in_database) {
                return plan(
                    "its write-ahead log belongs to another spool, or to another copy of the spool",
                    &[&[Source::Database], &[Source::Log]],
                );
            }
        }
        if findings.is_damaged() {
            return plan("its write-ahead log is damaged", &[&[Source::Both, Source::Database]]);
        }
        Ok(None)
    }
}

/// Replaces the spool at `path` by a new one with every readable delivery. Returns the new database, locked. The old files
/// are renamed and not changed.
pub(in crate::spool) fn salvage(
    path: &Path,
    database: &File,
    plan: &SalvagePlan,
    mut mark: Option<Mark>,
    metrics: &Metrics,
    reconciled_until: &ReconciledUntil,
) -> Result<File, SpoolError> {
    let saving = with_suffix(path, ".saving");
    files::remove(&saving);
    let new = files::lock_database(&saving)?;
    let to = schema::prepare(&saving)?;
    let oldest_received_at = mark.and_then(|mark| mark.oldest_received_at);
    let (saved, lost) = copy_readable(path, database, plan, &mut mark, &to, false, &mut |_| Ok(()))?;
    losses::store(&to)?;
    // If a crash interrupts the replacement, the next start recognizes the old files.
    let content = content(path, Some(database)).map_err(SpoolError::at(path))?.unwrap_or_default();
    let mut runs = runs_of_database(database);
    runs.extend(content.run.filter(|run| !runs.contains(run)));
    schema::add_runs(&to, &runs)?;
    schema::into_single_file(&to)?;
    drop(to);
    // The mark belongs to none of the sources: its spool has no file any more, and all its unacked deliveries are lost.
    let absent = mark.map_or(0, |mark| u64::try_from(mark.unacked()).unwrap_or(0));
    let lost = lost.map(|lost| lost + absent);
    if lost != Some(0) {
        reconciled_until.set_back(oldest_received_at);
    }
    replace(path, &saving, || files::set_aside(path, path).map(drop)).map_err(SpoolError::at(path))?;
    tracing::error!(
        cause = plan.cause,
        saved,
        lost_at_most = lost.map_or("unknown".to_owned(), |lost| lost.to_string()),
        "the spool was damaged: its readable deliveries are in a new file, the old files are set aside as spool.db.damaged-…"
    );
    metrics.spool_salvaged(saved, lost.unwrap_or(1));
    Ok(new)
}

/// Copies every readable delivery of the files at `path`. Takes the mark if it belongs to them. Returns the number of
/// deliveries written, and the maximum number of lost ones; `None` when it is unknown. `append`: as [`Copier::append`].
pub(super) fn copy_readable(
    path: &Path,
    database: &File,
    plan: &SalvagePlan,
    mark: &mut Option<Mark>,
    to: &Connection,
    append: bool,
    after_commit: &mut dyn FnMut(usize) -> rusqlite::Result<()>,
) -> Result<(u64, Option<u64>), SpoolError> {
    let log = open_log(path).map_err(SpoolError::at(path))?;
    let (mut saved, mut lost) = (0, Some(0_u64));
    for sources in plan.spools {
        let mut result = CopyResult::default();
        let mut copier = Copier::new(to, after_commit)?;
        if append {
            copier = copier.append();
        }
        for source in *sources {
            // Without a log, `Both` is the same as `Database`.
            if log.is_none() && *source == Source::Both && sources.len() > 1 {
                continue;
            }
            read_source(path, *source, database, log.as_ref(), |from, identity| {
                let is_own = |mark: &mut Mark| identity.is_none_or(|identity| identity == mark.identity);
                if let Some(mark) = mark.take_if(is_own) {
                    result.consider(mark.last_seq, mark.acked_seq);
                }
                copier.copy(from, &mut result)
            })?;
        }
        copier.finish()?;
        saved += result.saved;
        lost = lost.zip(result.lost()).map(|(lost, more)| lost + more);
    }
    Ok((saved, lost))
}

/// Calls `read` with a connection to a copy of the source, and the identity of its spool. SQLite does not touch the
/// original files.
pub(super) fn read_source<T>(
    path: &Path,
    source: Source,
    database: &File,
    log: Option<&File>,
    read: impl FnOnce(&Connection, Option<i64>) -> rusqlite::Result<T>,
) -> Result<T, SpoolError> {
    let copy = with_suffix(path, ".copy");
    files::remove(&copy);
    if source == Source::Log {
        schema::into_single_file(&schema::prepare(&copy)?)?;
    }
    let file = copy_source(&copy, source, database, log).map_err(SpoolError::at(&copy))?;
    let identity = SequenceTable::of_database(&file).and_then(|table| table.identity);
    let done = read(&Connection::open(&copy)?, identity)?;
    files::remove(&copy);
    Ok(done)
}

fn copy_source(copy: &Path, source: Source, database: &File, log: Option<&File>) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(copy)?;
    if source != Source::Log {
        let mut original = database;
        original.seek(SeekFrom::Start(0))?;
        io::copy(&mut original, &mut file)?;
    }
    if source != Source::Database
        && let Some(log) = log
        && let Some(wal) = Wal::open(log)?
    {
        wal.apply(&file)?;
    }
    correct_size(&file)?;
    Ok(file)
}

/// Writes the file's real size into its header. SQLite does not open a file that is shorter than the size in the header,
/// and reads no page after that size.
fn correct_size(file: &File) -> io::Result<()> {
    let mut header = [0; 100];
    if file.read_exact_at(&mut header, 0).is_err() || !header.starts_with(files::MAGIC) {
        return Ok(());
    }
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u64::from(size.max(512)),
    };
    let pages = u32::try_from(file.metadata()?.len().div_ceil(page_size)).unwrap_or(u32::MAX);
    file.write_all_at(&pages.to_be_bytes(), 28)?;
    // SQLite uses the size only when these two counters are equal.
    file.write_all_at(&header[24..28], 92)
}
