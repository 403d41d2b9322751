//! Disk space for deleting: on a full disk the spool must still be able to shrink.
//!
//! Deleting also needs some space, for SQLite's write-ahead log. So a file of fixed size is held in reserve. When the disk
//! is full, the file is removed; until it can be created again, no delivery is accepted. The file is also removed while the
//! spool is opened or rescued, because that creates files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

const NAME: &str = "reserve";
/// In bytes. Larger than what one transaction adds to the log and to `spool.db`, unless bodies are very large.
pub(super) const SIZE: u64 = 32 << 20;

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    pub(super) fn new(dir: &Path) -> Self {
        let mut reserve = Self { path: dir.join(NAME), held: false };
        reserve.hold();
        reserve
    }

    /// Creates the file if it is missing. Returns whether the space is reserved.
    pub(super) fn hold(&mut self) -> bool {
        // Another program may have removed the file.
        if !self.held || !self.path.exists() {
            self.held = allocate(&self.path).is_ok();
            if !self.held {
                let _ = fs::remove_file(&self.path);
            }
        }
        self.held
    }

    /// Removes the file. Returns whether that freed space.
    pub(super) fn release(&mut self) -> bool {
        std::mem::take(&mut self.held) && fs::remove_file(&self.path).is_ok()
    }
}

pub(super) fn exists(dir: &Path) -> bool {
    dir.join(NAME).exists()
}

/// Removes the file of an earlier run.
pub(super) fn remove(dir: &Path) {
    let _ = fs::remove_file(dir.join(NAME));
}

fn allocate(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, SIZE) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let block = vec![0; 1 << 20];
            (0..SIZE >> 20).try_for_each(|_| file.write_all(&block))
        }
        other => Ok(other?),
    }
}
