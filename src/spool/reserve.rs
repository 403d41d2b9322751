//! Room to delete: a full disk must not keep the spool from getting smaller.
//!
//! Even deleting takes some space, for SQLite's log. So a file of some size is held in reserve. When the disk is full it
//! is removed, and until it can be made again no delivery is accepted.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// More, in bytes, than the log and what it adds to the spool's file can take at a time, bodies of unusual size apart.
const SIZE: u64 = 32 << 20;

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    pub(super) fn new(dir: &Path) -> Self {
        let mut reserve = Self { path: dir.join("reserve"), held: false };
        reserve.hold();
        reserve
    }

    /// Whether it is there, after having tried to make it.
    pub(super) fn hold(&mut self) -> bool {
        // It may have been removed from outside.
        if !self.held || !self.path.exists() {
            self.held = allocate(&self.path).is_ok();
            if !self.held {
                let _ = fs::remove_file(&self.path);
            }
        }
        self.held
    }

    /// Gives its space to the disk. False when there was none to give.
    pub(super) fn give_up(&mut self) -> bool {
        std::mem::take(&mut self.held) && fs::remove_file(&self.path).is_ok()
    }
}

fn allocate(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, SIZE) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let some = vec![0; 1 << 20];
            (0..SIZE >> 20).try_for_each(|_| file.write_all(&some))
        }
        other => Ok(other?),
    }
}
