//! The spool's files: their locks, and whether the open files are still the files in the directory.
//!
//! Two locks (`flock`) exclude a second receiver while the process lives. The lock on the directory also covers the
//! replacement of files. The lock on `spool.db` still works after the directory was removed or moved. On Linux they do not
//! interfere with SQLite's own locks; on other systems only the directory is locked.

#[cfg(test)]
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SpoolError;
use super::log_end::LogEnd;
use super::recovery::sequence::SequenceTable;

/// The database. SQLite puts the write-ahead log and its index (`-shm`) beside it.
pub(super) const DATABASE: &str = "spool.db";
// The kinds of files beside the spool, in their names: `spool.db.KIND-N`.
/// The deliveries of this file are added to the spool.
pub(super) const RESCUED: &str = "rescued";
/// This file is damaged, or a copy of its deliveries has replaced it.
pub(super) const DAMAGED: &str = "damaged";
/// This file is of another origin, and had the name of a file of the spool.
pub(super) const FOREIGN: &str = "foreign";
/// The first bytes of every database.
pub(super) const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const NAMES: [&str; 3] = [DATABASE, "spool.db-wal", "spool.db-shm"];

/// Device and inode: they identify a file independently of its name.
type FileId = (u64, u64);

fn id(metadata: &fs::Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// How the files in the directory differ from the open files.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileFault {
    #[error("{0} was removed or moved")]
    Removed(&'static str),
    #[error("{0} was replaced by another file")]
    Replaced(&'static str),
    #[error("{name} was truncated: it has {found} bytes instead of {expected}")]
    Truncated { name: &'static str, expected: u64, found: u64 },
    #[error("{0} was truncated or overwritten: earlier contents are missing")]
    Overwritten(&'static str),
    #[error("an older copy has overwritten the files: they do not have the positions of the latest write")]
    RolledBack,
    #[error("{name} cannot be examined: {source}")]
    Unexaminable { name: &'static str, source: io::Error },
}

/// Sizes in bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct FileSizes {
    pub(super) database: u64,
    pub(super) wal: u64,
}

/// The files of an open spool. The value outlives all SQLite connections to them: when a process closes any descriptor of
/// a file, it loses all locks that SQLite has on this file.
#[derive(Debug)]
pub(super) struct OpenFiles {
    pub(super) dir: PathBuf,
    pub(super) database: Arc<File>,
    pub(super) wal: File,
    index: File,
    /// The largest size of the index so far.
    index_bytes: AtomicU64,
    ids: [FileId; 3],
    directory: Arc<File>,
}

impl OpenFiles {
    /// Opens the files that SQLite has just opened in `dir`. `database` is the locked `spool.db`.
    pub(super) fn new(dir: &Path, directory: Arc<File>, database: Arc<File>) -> io::Result<Self> {
        let (wal, index) = (File::open(dir.join(NAMES[1]))?, File::open(dir.join(NAMES[2]))?);
        let ids = [id(&database.metadata()?), id(&wal.metadata()?), id(&index.metadata()?)];
        let index_bytes = AtomicU64::default();
        let files = Self { dir: dir.to_owned(), database, wal, index, index_bytes, ids, directory };
        files.check(FileSizes::default()).map_err(io::Error::other)?;
        Ok(files)
    }

    /// Compares the files in the directory with the open files, and their sizes with `min_sizes`. Returns the
    /// sizes.
    pub(super) fn check(&self, min_sizes: FileSizes) -> Result<FileSizes, FileFault> {
        let mut sizes = [0; 3];
        for (at, name) in NAMES.into_iter().enumerate() {
            let metadata = fs::metadata(self.dir.join(name)).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FileFault::Removed(name),
                _ => FileFault::Unexaminable { name, source },
            })?;
            if id(&metadata) != self.ids[at] {
                return Err(FileFault::Replaced(name));
            }
            sizes[at] = metadata.len();
        }
        self.check_index()?;
        for (name, expected, found) in
            [(NAMES[0], min_sizes.database, sizes[0]), (NAMES[1], min_sizes.wal, sizes[1])]
        {
            if found < expected {
                return Err(FileFault::Truncated { name, expected, found });
            }
        }
        Ok(FileSizes { database: sizes[0], wal: sizes[1] })
    }

    /// Checks that the index was not truncated. SQLite maps it into memory: a read after its end kills the process (SIGBUS).
    pub(super) fn check_index(&self) -> Result<(), FileFault> {
        let name = NAMES[2];
        let metadata = self.index.metadata();
        let found = metadata.map_err(|source| FileFault::Unexaminable { name, source })?.len();
        let expected = self.index_bytes.fetch_max(found, Ordering::Relaxed);
        if found < expected { Err(FileFault::Truncated { name, expected, found }) } else { Ok(()) }
    }

    /// Checks that the log and its index still have the `earlier` last frame, or later ones. Returns the last frame now;
    /// `None` when the index cannot be read.
    pub(super) fn check_log(&self, earlier: Option<LogEnd>) -> Result<Option<LogEnd>, FileFault> {
        loop {
            let Some(end) = LogEnd::read(&self.index) else { return Ok(None) };
            let in_log = end.is_in(&self.wal);
            let follows = earlier.is_none_or(|earlier| end.follows(&earlier, &self.wal));
            if in_log && follows {
                return Ok(Some(end));
            }
            // Another process may have emptied the log meanwhile, which SQLite allows.
            if LogEnd::read(&self.index) == Some(end) {
                let log_is_good = in_log && earlier.is_none_or(|earlier| earlier.is_in(&self.wal));
                return Err(FileFault::Overwritten(NAMES[if log_is_good { 2 } else { 1 }]));
            }
        }
    }

    /// Checks that the database, without its log, is of the same spool as `earlier` and not older, and that one of the
    /// runs `runs` has written it. Returns its numbers.
    pub(super) fn check_database(
        &self,
        earlier: Option<SequenceTable>,
        runs: &[i64],
    ) -> Result<Option<SequenceTable>, FileFault> {
        let mut previous = None;
        loop {
            let table = SequenceTable::of_database(&self.database);
            let follows = earlier.is_none_or(|earlier| table.is_some_and(|table| table.follows(&earlier)));
            let is_own = table.and_then(|table| table.run).is_none_or(|run| runs.contains(&run));
            if follows && is_own {
                return Ok(table);
            }
            // Another process may be writing this page.
            if previous.replace(table) == Some(table) {
                return Err(FileFault::Overwritten(DATABASE));
            }
        }
    }

    pub(super) fn check_database_header(&self) -> Result<(), FileFault> {
        let mut header = [0; 16];
        let read = self.database.read_exact_at(&mut header, 0);
        if read.is_ok() && &header == MAGIC { Ok(()) } else { Err(FileFault::Overwritten(DATABASE)) }
    }

    /// The locked directory: the open one, or the one that has replaced it.
    pub(super) fn lock_directory_again(&self) -> Result<Arc<File>, SpoolError> {
        if is_at(&self.directory, &self.dir) {
            return Ok(self.directory.clone());
        }
        lock_directory(&self.dir).map(Arc::new)
    }

    /// Releases the locks, except a lock that `next` shares. The reader may keep these files open for a long time. If the
    /// files were moved back meanwhile, their locks would look like those of another receiver.
    pub(super) fn unlock_for(&self, next: &Self) {
        let _ = self.database.unlock();
        if !Arc::ptr_eq(&self.directory, &next.directory) {
            let _ = self.directory.unlock();
        }
    }

    /// Whether the file with this suffix in the directory is the open file.
    pub(super) fn is_own(&self, suffix: &str) -> bool {
        let name = format!("{DATABASE}{suffix}");
        let own = NAMES.iter().position(|known| **known == name).map(|at| self.ids[at]);
        own.is_some() && fs::metadata(self.dir.join(name)).ok().as_ref().map(id) == own
    }
}

/// Maximum attempts to open and lock a file or directory that is replaced between the two steps.
const ATTEMPTS: usize = 100;

/// Creates the directory if it is missing, and locks it.
///
/// # Errors
/// [`SpoolError::InUse`] while another receiver holds the lock.
pub(super) fn lock_directory(dir: &Path) -> Result<File, SpoolError> {
    let open = || {
        create_directory(dir, 0o700)?;
        File::open(dir)
    };
    // Some file systems cannot lock directories. Then the lock on the database is the only one.
    let lock = |directory: &File| match directory.try_lock() {
        Err(TryLockError::Error(_)) => Ok(()),
        locked => locked,
    };
    open_locked(dir, dir, open, lock)
}

/// Opens or creates a database file that only its owner can read, and locks it.
///
/// # Errors
/// [`SpoolError::InUse`] while another receiver holds the lock.
pub(super) fn lock_database(path: &Path) -> Result<File, SpoolError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let lock = |database: &File| if cfg!(target_os = "linux") { database.try_lock() } else { Ok(()) };
    open_locked(path, path.parent().unwrap_or(path), || options.open(path), lock)
}

fn open_locked(
    path: &Path,
    dir: &Path,
    open: impl Fn() -> io::Result<File>,
    lock: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<File, SpoolError> {
    for _ in 0..ATTEMPTS {
        let file = open().map_err(SpoolError::at(path))?;
        lock(&file).map_err(|error| match error {
            TryLockError::WouldBlock => SpoolError::InUse(dir.to_owned()),
            TryLockError::Error(source) => SpoolError::at(path)(source),
        })?;
        if is_at(&file, path) {
            return Ok(file);
        }
    }
    Err(SpoolError::at(path)(io::Error::other("another program replaces it repeatedly")))
}

/// Removes the permissions of other users from the spool's files: they hold whole bodies.
pub(super) fn restrict(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let own =
            ["spool.", "reserve"].iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        let metadata = entry.metadata()?;
        if own
            && metadata.is_file()
            && metadata.permissions().mode() & 0o077 != 0
            && let Err(error) = fs::set_permissions(entry.path(), Permissions::from_mode(0o600))
        {
            tracing::warn!(%error, file = %entry.path().display(), "the permissions of a spool file cannot be changed: other users can read it");
        }
    }
    Ok(())
}

/// Whether `path` is the path of this file now.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    file.metadata().ok().as_ref().map(id) == fs::metadata(path).ok().as_ref().map(id)
}

/// Creates a directory and its parents, and makes their entries durable.
fn create_directory(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_directory(parent, 0o755)?;
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        created => created?,
    }
    sync(parent)
}

/// Makes the entries of the directory of `path` durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    sync(path.parent().unwrap_or(Path::new(".")))
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The path with a suffix, as SQLite names the files of a database.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The suffixes of the write-ahead log, its index, the rollback journal, and the database itself. The database is renamed or
/// removed last, so that a crash in between leaves no log without its database.
const SUFFIXES: [&str; 4] = ["-wal", "-shm", "-journal", ""];

/// The name of a database without the suffix of one of its files.
fn without_suffix(name: &str) -> &str {
    SUFFIXES[..3].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

/// Removes the files of a database. Errors are ignored.
pub(super) fn remove(path: &Path) {
    for suffix in SUFFIXES {
        let _ = fs::remove_file(with_suffix(path, suffix));
    }
}

/// Renames the files of a database to the name that `new_name` returns for a suffix, and removes those for which it
/// returns `None`.
pub(super) fn rename(path: &Path, new_name: impl Fn(&str) -> Option<PathBuf>) -> io::Result<()> {
    for suffix in SUFFIXES {
        let old = with_suffix(path, suffix);
        let done = step(|| match new_name(suffix) {
            Some(name) => fs::rename(&old, with_suffix(&name, suffix)),
            None => fs::remove_file(&old),
        });
        match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

#[cfg(test)]
thread_local!(pub(super) static CRASH_AFTER: Cell<usize> = const { Cell::new(usize::MAX) });

/// A step of the replacement of files. A test can stop the replacement after any step, as a crash would.
pub(super) fn step(action: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    #[cfg(test)]
    CRASH_AFTER.set(CRASH_AFTER.get().checked_sub(1).ok_or_else(|| io::Error::other("a simulated crash"))?);
    action()
}

/// A name `spool.db.KIND-N` that no file has, with or without a suffix.
pub(super) fn free_name(path: &Path, kind: &str) -> PathBuf {
    let mut n = time::OffsetDateTime::now_utc().unix_timestamp();
    loop {
        let name = with_suffix(path, &format!(".{kind}-{n}"));
        if SUFFIXES.iter().all(|suffix| !with_suffix(&name, suffix).exists()) {
            return name;
        }
        n += 1;
    }
}

/// Renames the database `path` to `BASE.damaged-N`, so that nothing overwrites or deletes it. Removes empty files, and the
/// index, which SQLite can rebuild. Returns the new name.
pub(super) fn set_aside(path: &Path, base: &Path) -> io::Result<PathBuf> {
    let aside = free_name(base, DAMAGED);
    rename(path, |suffix| {
        let empty = fs::metadata(with_suffix(path, suffix)).is_ok_and(|file| file.len() == 0);
        (suffix != "-shm" && !empty).then(|| aside.clone())
    })?;
    Ok(keep_once(aside, base))
}

/// Removes the files that were just set aside as `aside` if equal ones were set aside before. Returns the name of the
/// files that remain.
pub(super) fn keep_once(aside: PathBuf, base: &Path) -> PathBuf {
    let kinds = [DAMAGED, FOREIGN].into_iter().filter_map(|kind| of_kind(base, kind).ok());
    let equal = kinds.flatten().find(|earlier| {
        let is_equal = |suffix: &&str| is_equal(&with_suffix(&aside, suffix), &with_suffix(earlier, suffix));
        *earlier != aside && SUFFIXES.iter().all(|suffix| is_equal(suffix).unwrap_or(false))
    });
    let Some(earlier) = equal else { return aside };
    tracing::warn!(aside = %earlier.display(), "an equal file was set aside before: only the earlier one is kept");
    remove(&aside);
    earlier
}

/// Whether both files are missing, or have the same contents.
fn is_equal(one: &Path, other: &Path) -> io::Result<bool> {
    let open = |path: &Path| match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    };
    let (Some(one), Some(other)) = (open(one)?, open(other)?) else {
        return Ok(!one.exists() && !other.exists());
    };
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let bytes = left.len().min(right.len());
        if bytes == 0 || left[..bytes] != right[..bytes] {
            return Ok(left.is_empty() && right.is_empty());
        }
        one.consume(bytes);
        other.consume(bytes);
    }
}

/// The databases beside the spool at `path` whose names are of this kind, oldest first.
pub(super) fn of_kind(path: &Path, kind: &str) -> io::Result<BTreeSet<PathBuf>> {
    let prefix = format!("{DATABASE}.{kind}-");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new(".")))? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| without_suffix(name).strip_prefix(&prefix));
        if let Some(number) = number.filter(|number| number.parse::<u64>().is_ok()) {
            found.insert(with_suffix(path, &format!(".{kind}-{number}")));
        }
    }
    Ok(found)
}

/// The size of the files in `dir` that are beside the spool: damaged, foreign, and rescued ones.
pub(crate) fn set_aside_bytes(dir: &Path) -> u64 {
    let prefix = format!("{DATABASE}.");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let beside = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()));
    beside.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}
