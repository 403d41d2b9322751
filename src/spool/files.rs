//! The spool's files: their locks, and whether the files held open are still the ones in the directory.
//!
//! Two locks (`flock`) keep a second receiver away for as long as the process lives: one on the directory, which also
//! covers the exchange of files, and one on `spool.db`, which holds where the directory was removed or moved. They do not
//! interfere with SQLite's own locks on Linux; elsewhere only the directory is locked.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SpoolError;
use super::recovery::wal;

/// The database. SQLite puts its log and the log's index beside it.
pub(super) const DATABASE: &str = "spool.db";
const NAMES: [&str; 3] = [DATABASE, "spool.db-wal", "spool.db-shm"];

/// Tells files apart, whatever their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Why the files held open are not the spool any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileFault {
    #[error("{0} was removed or moved")]
    Removed(&'static str),
    #[error("{0} was replaced by another file")]
    Replaced(&'static str),
    #[error("{name} was truncated: it has {found} bytes instead of {expected}")]
    Truncated { name: &'static str, expected: u64, found: u64 },
    #[error("{name} cannot be examined: {source}")]
    Unexaminable { name: &'static str, source: io::Error },
}

/// The least sizes, in bytes, that the files must have.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) database: u64,
    pub(super) wal: u64,
}

/// The files of an open spool. The value outlives all SQLite connections to them: when a process closes any descriptor of
/// a file, it loses all locks that SQLite has on it.
#[derive(Debug)]
pub(super) struct HeldFiles {
    pub(super) dir: PathBuf,
    pub(super) database: Arc<File>,
    pub(super) wal: File,
    index: File,
    /// The most that the index had.
    index_bytes: AtomicU64,
    identities: [Identity; 3],
    directory: Arc<File>,
}

impl HeldFiles {
    /// Takes hold of the files that SQLite has just opened in `dir`. `database` is the locked `spool.db`.
    pub(super) fn new(dir: &Path, directory: Arc<File>, database: Arc<File>) -> io::Result<Self> {
        let (wal, index) = (File::open(dir.join(NAMES[1]))?, File::open(dir.join(NAMES[2]))?);
        let identities = [
            Identity::of(&database.metadata()?),
            Identity::of(&wal.metadata()?),
            Identity::of(&index.metadata()?),
        ];
        let index_bytes = AtomicU64::default();
        let held = Self { dir: dir.to_owned(), database, wal, index, index_bytes, identities, directory };
        held.check(Sizes::default()).map_err(io::Error::other)?;
        Ok(held)
    }

    /// Compares the files in the directory with those held open. Returns their sizes.
    pub(super) fn check(&self, least: Sizes) -> Result<Sizes, FileFault> {
        let mut sizes = [0; 3];
        for (at, name) in NAMES.into_iter().enumerate() {
            let metadata = fs::metadata(self.dir.join(name)).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FileFault::Removed(name),
                _ => FileFault::Unexaminable { name, source },
            })?;
            if Identity::of(&metadata) != self.identities[at] {
                return Err(FileFault::Replaced(name));
            }
            sizes[at] = metadata.len();
        }
        self.check_index()?;
        for (name, expected, found) in [(NAMES[0], least.database, sizes[0]), (NAMES[1], least.wal, sizes[1])]
        {
            if found < expected {
                return Err(FileFault::Truncated { name, expected, found });
            }
        }
        Ok(Sizes { database: sizes[0], wal: sizes[1] })
    }

    /// Whether the log's index has all that it had. SQLite maps it into memory: reading where the file has ended ends the
    /// process.
    pub(super) fn check_index(&self) -> Result<(), FileFault> {
        let name = NAMES[2];
        let metadata = self.index.metadata();
        let found = metadata.map_err(|source| FileFault::Unexaminable { name, source })?.len();
        let expected = self.index_bytes.fetch_max(found, Ordering::Relaxed);
        if found < expected { Err(FileFault::Truncated { name, expected, found }) } else { Ok(()) }
    }

    /// Whether bytes of the log that were durable before a write are still there after it. SQLite writes at the end that
    /// it remembers: that fills the gap which a truncation left, and the size is right again.
    pub(super) fn is_wal_intact_before(&self, end: u64, frame: u64) -> bool {
        if end < wal::HEADER_BYTES + frame {
            return true;
        }
        let mut header = [0; 16];
        // The number of a page is never 0, and a salt is random.
        self.wal.read_exact_at(&mut header, end - frame).is_ok() && header.iter().any(|byte| *byte != 0)
    }

    /// Whether the database begins as every database does.
    pub(super) fn has_database_header(&self) -> bool {
        let mut magic = [0; 16];
        self.database.read_exact_at(&mut magic, 0).is_ok() && &magic == b"SQLite format 3\0"
    }

    /// The locked directory: the one held, or another one that is in its place now.
    pub(super) fn lock_directory_again(&self) -> Result<Arc<File>, SpoolError> {
        if is_at(&self.directory, &self.dir) {
            return Ok(self.directory.clone());
        }
        lock_directory(&self.dir).map(Arc::new)
    }

    /// Gives up the locks, except the one that `next` has, too. The reader may keep these files open for long: if they came
    /// back, their locks would look like another receiver's.
    pub(super) fn unlock_for(&self, next: &Self) {
        let _ = self.database.unlock();
        if !Arc::ptr_eq(&self.directory, &next.directory) {
            let _ = self.directory.unlock();
        }
    }

    /// Whether the file of this name in the directory is the one held open.
    pub(super) fn is_own(&self, suffix: &str) -> bool {
        let name = format!("{DATABASE}{suffix}");
        let held = NAMES.iter().position(|known| **known == name).map(|at| self.identities[at]);
        held.is_some()
            && fs::metadata(self.dir.join(name)).ok().map(|metadata| Identity::of(&metadata)) == held
    }
}

/// How often a file that is replaced between opening and locking it is tried again.
const ATTEMPTS: usize = 100;

/// Makes the directory if there is none, and locks it.
///
/// # Errors
/// [`SpoolError::InUse`] while another receiver has it.
pub(super) fn lock_directory(dir: &Path) -> Result<File, SpoolError> {
    let unusable = |source| SpoolError::Directory { dir: dir.to_owned(), source };
    for _ in 0..ATTEMPTS {
        make_directory(dir, 0o700).map_err(unusable)?;
        let directory = File::open(dir).map_err(unusable)?;
        match directory.try_lock() {
            Err(fs::TryLockError::WouldBlock) => return Err(SpoolError::InUse(dir.to_owned())),
            // Some file systems lock no directories; there the lock on the database is the only one.
            Ok(()) | Err(fs::TryLockError::Error(_)) => {}
        }
        if is_at(&directory, dir) {
            return Ok(directory);
        }
    }
    Err(unusable(io::Error::other("it is replaced again and again")))
}

/// Opens or makes a database file for its user only, and locks it.
///
/// # Errors
/// [`SpoolError::InUse`] while another receiver has it.
pub(super) fn lock_database(path: &Path) -> Result<File, SpoolError> {
    let unusable = |source| SpoolError::Directory { dir: path.to_owned(), source };
    for _ in 0..ATTEMPTS {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let database = options.open(path).map_err(unusable)?;
        if cfg!(target_os = "linux") {
            match database.try_lock() {
                Err(fs::TryLockError::WouldBlock) => {
                    let dir = path.parent().unwrap_or(path);
                    return Err(SpoolError::InUse(dir.to_owned()));
                }
                Err(fs::TryLockError::Error(source)) => return Err(unusable(source)),
                Ok(()) => {}
            }
        }
        if is_at(&database, path) {
            return Ok(database);
        }
    }
    Err(unusable(io::Error::other("it is replaced again and again")))
}

/// Takes the files of earlier builds, which all could read, away from other users.
pub(super) fn restrict(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours =
            ["spool.", "reserve"].iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        let metadata = entry.metadata()?;
        if ours && metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
            let restricted = fs::set_permissions(entry.path(), Permissions::from_mode(0o600));
            if let Err(error) = restricted {
                tracing::warn!(%error, file = %entry.path().display(), "other users can read a file of the spool");
            }
        }
    }
    Ok(())
}

/// Whether the file at `path` is this one.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: io::Result<fs::Metadata>| metadata.ok().map(|metadata| Identity::of(&metadata));
    identity(file.metadata()) == identity(fs::metadata(path))
}

/// Makes a directory with those above it, and makes their entries durable. The spool holds whole bodies: its directory is
/// for its user only.
fn make_directory(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_directory(parent, 0o755)?;
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        created => created?,
    }
    sync(parent)
}

/// Makes the entries of a directory durable.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The path with a suffix, as SQLite names what belongs to a database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The suffixes of a database's log, the log's index, its rollback journal, and of itself: in the order in which they go,
/// since a log without its database can be told apart, and a new database beside an old log cannot.
pub(super) const SUFFIXES: [&str; 4] = ["-wal", "-shm", "-journal", ""];

/// Removes a database with what belongs to it, as far as it is there.
pub(super) fn remove(path: &Path) {
    for suffix in SUFFIXES {
        let _ = fs::remove_file(beside(path, suffix));
    }
}

/// A name that no file has, with no file of its suffixes either: `spool.db.KIND-N`.
pub(super) fn free_name(path: &Path, kind: &str) -> PathBuf {
    let mut n = time::OffsetDateTime::now_utc().unix_timestamp();
    loop {
        let name = beside(path, &format!(".{kind}-{n}"));
        if SUFFIXES.iter().all(|suffix| !beside(&name, suffix).exists()) {
            return name;
        }
        n += 1;
    }
}

/// Gives a database, or what is left of it, another name: nothing overwrites or deletes it then. An empty log goes, and the
/// log's index, which SQLite makes from the log.
pub(super) fn set_aside(path: &Path, kind: &str) -> io::Result<PathBuf> {
    set_aside_as(path, path, kind)
}

/// As [`set_aside`], under a name that begins with that of `base`.
pub(super) fn set_aside_as(path: &Path, base: &Path, kind: &str) -> io::Result<PathBuf> {
    let aside = free_name(base, kind);
    for suffix in SUFFIXES {
        let old = beside(path, suffix);
        let worthless =
            suffix == "-shm" || suffix == "-wal" && fs::metadata(&old).is_ok_and(|log| log.len() == 0);
        let done = if worthless { fs::remove_file(&old) } else { fs::rename(&old, beside(&aside, suffix)) };
        match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(aside)
}
