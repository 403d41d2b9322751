//! Room to forget: a full disk must not keep the spool from getting smaller.
//!
//! Even deleting takes some space, for SQLite's log. So a file of some size is held in reserve. When
//! the disk is full it is given up, and until it can be made again nothing is taken in.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// More than the log and what it adds to the spool's file can take at a time, bodies of unusual
/// size apart.
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
        if !self.held {
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
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, SIZE) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let some = vec![0; 1 << 20];
            (0..SIZE >> 20).try_for_each(|_| file.write_all(&some))
        }
        other => Ok(other?),
    }
}
