//! The mark: a small file with the positions of the last run, from which the next start detects losses.
//!
//! The spool's own files also hold the positions, but another program may have removed or replaced these files. The mark
//! survives the end of the process, but not a power cut: it is written without fsync, because it is only used to count
//! losses. It is written after the commit that it describes, so it never counts a delivery that was not on disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use time::OffsetDateTime;

use super::Seq;
use super::recovery::sequence::RUN_RANDOM_BITS;
use super::row::{from_micros, to_micros};

const NAME: &str = "spool.mark";
const MAGIC: [u8; 4] = *b"WFRM";
/// Magic, the five fields of [`Mark`], CRC-32.
const SIZE: usize = 4 + 5 * 8 + 4;

/// The content of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The spool that the positions belong to.
    pub(super) identity: i64,
    /// The last run of a receiver on this spool ([`super::schema::new_run`]).
    pub(super) run: i64,
    /// The last delivery on disk.
    pub(super) last_seq: Seq,
    /// The last delivery that was acked and deleted.
    pub(super) acked_seq: Seq,
    /// When the oldest delivery after `acked_seq` was received.
    pub(super) oldest_received_at: Option<OffsetDateTime>,
}

impl Mark {
    /// Reads the mark in `dir`; `None` when it is missing or damaged.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let bytes = fs::read(dir.join(NAME)).ok()?;
        let (content, checksum) = bytes.get(..SIZE)?.split_at(SIZE - 4);
        let valid = content[..4] == MAGIC && checksum == crc32fast::hash(content).to_le_bytes();
        let mut numbers = content[4..].chunks_exact(8).map(|bytes| bytes.try_into().map(i64::from_le_bytes));
        let mut next = || numbers.next()?.ok();
        if !valid {
            return None;
        }
        Some(Self {
            identity: next()?,
            run: next()?,
            last_seq: next()?,
            acked_seq: next()?,
            oldest_received_at: next().filter(|micros| *micros != 0).map(from_micros),
        })
    }

    /// The number of deliveries that were not acked.
    pub(super) fn unacked(&self) -> i64 {
        (self.last_seq - self.acked_seq).max(0)
    }

    /// Splits the mark at the begin of its run: into a mark with the positions before the run, and the number of deliveries of
    /// the run that were not acked.
    pub(super) fn before_run(self) -> (Self, i64) {
        let begin = self.run >> RUN_RANDOM_BITS;
        let unacked = (self.last_seq - self.acked_seq.max(begin)).max(0);
        (Self { last_seq: self.last_seq.min(begin), acked_seq: self.acked_seq.min(begin), ..self }, unacked)
    }

    /// Whether there is a mark, readable or not.
    pub(super) fn exists(dir: &Path) -> bool {
        dir.join(NAME).exists()
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let oldest = self.oldest_received_at.map_or(0, to_micros);
        for number in [self.identity, self.run, self.last_seq, self.acked_seq, oldest] {
            bytes.extend(number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct MarkFile(File);

impl MarkFile {
    /// Opens or creates the file in `dir`.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.open(dir.join(NAME)).map(Self)
    }

    /// Replaces the mark. An error is ignored: it only makes a later loss harder to count.
    pub(super) fn write(&self, mark: Mark) {
        let _ = self.0.write_all_at(&mark.to_bytes(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_from_a_file_that_was_longer() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), [7; 100]).unwrap();
        let mark = Mark { identity: 1, run: 2, last_seq: 5, acked_seq: 3, oldest_received_at: None };
        MarkFile::open(dir.path()).unwrap().write(mark);
        assert_eq!(Mark::read(dir.path()), Some(mark));
    }
}
