//! A note of how far the spool has come, in a file of its own, so that losses are noticed.
//!
//! When files of the spool are missing or older than they should be, the numbers in them are missing or older, too. The
//! mark survives the end of the process, not a power cut: it is not synced, since it only serves to count. It is written
//! after the commit that it is about, so it never promises what is not on disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::Seq;

const NAME: &str = "spool.mark";
const MAGIC: [u8; 4] = *b"WFRM";
/// Magic, identity, last, forgotten, CRC-32.
const SIZE: usize = 4 + 3 * 8 + 4;

/// What the mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Which spool it is about.
    pub(super) identity: i64,
    /// The last delivery that was on disk.
    pub(super) last: Seq,
    /// The last delivery that was recorded and deleted.
    pub(super) forgotten: Seq,
}

impl Mark {
    /// Reads the mark in `dir`; `None` when there is none, or it is damaged.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let bytes = fs::read(dir.join(NAME)).ok().filter(|bytes| bytes.len() == SIZE)?;
        let (content, checksum) = bytes.split_at(SIZE - 4);
        let right = content[..4] == MAGIC && checksum == crc32fast::hash(content).to_le_bytes();
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&content[4 + 8 * at..12 + 8 * at]);
            i64::from_le_bytes(bytes)
        };
        right.then(|| Self { identity: number(0), last: number(1), forgotten: number(2) })
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [self.identity, self.last, self.forgotten] {
            bytes.extend(number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }
}

/// Writes the mark.
#[derive(Debug)]
pub(super) struct Marker(File);

impl Marker {
    /// Opens the file in `dir`, or makes it.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.open(dir.join(NAME)).map(Self)
    }

    /// Writes what the spool holds now. A failure only costs the count of a loss.
    pub(super) fn write(&self, mark: Mark) {
        let _ = self.0.write_all_at(&mark.to_bytes(), 0);
    }
}
