//! A start that finds a damaged spool, or files that do not belong together: everything readable goes on in a new file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rusqlite::Connection;

use super::copy::{Copier, Spool};
use super::sequence::Sequence;
use super::wal::Wal;
use crate::metrics::Metrics;
use crate::spool::files::{self, beside};
use crate::spool::mark::Mark;
use crate::spool::{SpoolError, open};

/// What deliveries are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::spool) enum Source {
    /// The database, as if it had no log.
    Database,
    /// The database with the pages of its log.
    Both,
    /// The log alone, over an empty spool.
    Log,
}

/// Why a spool is salvaged, and from what: for each spool that the files are of, the sources of its deliveries.
#[derive(Debug)]
pub(in crate::spool) struct Plan {
    pub(in crate::spool) why: String,
    pub(in crate::spool) spools: &'static [&'static [Source]],
}

impl Plan {
    /// For a database that SQLite cannot read.
    pub(in crate::spool) fn damaged(why: String) -> Self {
        Self { why, spools: &[&[Source::Both, Source::Database]] }
    }

    /// Looks at the files before SQLite does. `None` when SQLite reads them right.
    pub(in crate::spool) fn examine(path: &Path, database: &File) -> io::Result<Option<Self>> {
        let Some(log) = open_log(path)? else { return Ok(None) };
        let Some(wal) = Wal::read(&log)? else { return Ok(None) };
        let findings = wal.examine()?;
        let plan = |why: &str, spools| Ok(Some(Self { why: why.to_owned(), spools }));
        if database.metadata()?.len() == 0 {
            return if findings.has_commits() {
                plan("spool.db is missing or empty, and its write-ahead log is not", &[&[Source::Log]])
            } else {
                // SQLite would delete it.
                let aside = beside(&files::free_name(path, "damaged"), "-wal");
                fs::rename(beside(path, "-wal"), &aside)?;
                tracing::error!(aside = %aside.display(), "a write-ahead log without spool and without deliveries is set aside");
                Ok(None)
            };
        }
        if let (Some(in_database), Some(in_log)) = (Sequence::of_database(database), findings.sequence) {
            let identities = in_database.identity.zip(in_log.identity);
            if identities.is_some_and(|(database, log)| database != log) {
                return plan(
                    "its write-ahead log is of another spool",
                    &[&[Source::Database], &[Source::Log]],
                );
            }
            if in_log.last < in_database.last {
                let sources = &[&[Source::Database, Source::Both] as &[_]];
                return plan("its write-ahead log is older than the database", sources);
            }
        }
        if findings.is_damaged() {
            return plan("its write-ahead log is damaged", &[&[Source::Both, Source::Database]]);
        }
        Ok(None)
    }
}

/// Puts a new spool in the place of `path`, with every delivery that can still be read. Returns the new database, locked.
///
/// The old files stay as they are, under another name. A crash on the way costs nothing: either all begins anew, or
/// [`finish`] ends it.
pub(in crate::spool) fn salvage(
    path: &Path,
    database: &File,
    plan: &Plan,
    mark: Option<Mark>,
    metrics: &Metrics,
) -> Result<File, SpoolError> {
    let unusable = |source| SpoolError::Directory { dir: path.to_owned(), source };
    let (copy, saving) = (beside(path, ".copy"), beside(path, ".saving"));
    files::remove(&copy);
    files::remove(&saving);
    let log = open_log(path).map_err(unusable)?;
    let new = files::lock_database(&saving)?;
    let to = open::prepare(&saving)?;
    let (mut saved, mut lost) = (0, Some(0_u64));
    let mut marked = mark;
    for sources in plan.spools {
        let mut spool = Spool::default();
        let mut nothing = || ();
        let mut copier = Copier::new(&to, &mut nothing)?;
        // Without a log both are the same.
        let sources =
            sources.iter().filter(|source| log.is_some() || **source != Source::Both || sources.len() == 1);
        for source in sources {
            build(&copy, *source, database, log.as_ref()).map_err(unusable)?;
            let identity = File::open(&copy).ok().and_then(|copy| Sequence::of_database(&copy)?.identity);
            let its_own = |mark: &mut Mark| identity.is_none_or(|identity| identity == mark.identity);
            if let Some(mark) = marked.take_if(its_own) {
                spool.consider(mark.last, mark.forgotten);
            }
            copier.copy(&Connection::open(&copy)?, &mut spool)?;
            files::remove(&copy);
        }
        copier.finish()?;
        saved += spool.saved;
        lost = lost.zip(spool.lost()).map(|(lost, more)| lost + more);
    }
    // A spool that no file is of.
    let absent = marked.map_or(0, |mark| u64::try_from(mark.last - mark.forgotten).unwrap_or(0));
    open::note_losses(&to)?;
    to.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE;")?;
    drop(to);
    // From here on the saved file is whole, and its name says so.
    fs::rename(&saving, beside(path, SAVED)).map_err(unusable)?;
    finish(path)?;
    let lost = lost.map(|lost| lost + absent);
    tracing::error!(
        cause = plan.why,
        saved,
        lost_at_most = lost.map_or("unknown".to_owned(), |lost| lost.to_string()),
        "the spool was damaged: what could be read goes on, the old files are set aside as spool.db.damaged-…"
    );
    metrics.spool_salvaged(saved, lost.unwrap_or(1));
    Ok(new)
}

/// The name of what was saved, until it takes the place of the old file.
const SAVED: &str = ".saved";

/// Puts what was saved in its place, if there is any: also after a crash in the middle of doing so.
pub(in crate::spool) fn finish(path: &Path) -> Result<(), SpoolError> {
    let saved = beside(path, SAVED);
    if !saved.exists() {
        return Ok(());
    }
    let swap = || {
        let dir = path.parent().unwrap_or(Path::new("."));
        files::sync(dir)?;
        files::set_aside(path, "damaged")?;
        files::sync(dir)?;
        fs::rename(&saved, path)?;
        files::sync(dir)
    };
    swap().map_err(|source| SpoolError::Directory { dir: path.to_owned(), source })
}

fn open_log(path: &Path) -> io::Result<Option<File>> {
    match File::open(beside(path, "-wal")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Writes a source to a database of its own, which SQLite then reads without touching the original.
pub(super) fn build(copy: &Path, source: Source, database: &File, log: Option<&File>) -> io::Result<()> {
    if source == Source::Log {
        open::template(copy).map_err(io::Error::other)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(copy)?;
    if source != Source::Log {
        let mut original = database;
        original.seek(SeekFrom::Start(0))?;
        io::copy(&mut original, &mut file)?;
    }
    if source != Source::Database
        && let Some(log) = log
        && let Some(wal) = Wal::read(log)?
    {
        wal.apply(&file)?;
    }
    correct_size(&file)
}

/// Writes the size that the file has into its header: SQLite reads nothing of a file that is shorter than its header says,
/// and no page beyond.
fn correct_size(file: &File) -> io::Result<()> {
    let mut header = [0; 100];
    if file.read_exact_at(&mut header, 0).is_err() || !header.starts_with(b"SQLite format 3\0") {
        return Ok(());
    }
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u64::from(size.max(512)),
    };
    let pages = u32::try_from(file.metadata()?.len().div_ceil(page_size)).unwrap_or(u32::MAX);
    file.write_all_at(&pages.to_be_bytes(), 28)?;
    // The size counts when these two numbers are the same.
    file.write_all_at(&header[24..28], 92)
}
