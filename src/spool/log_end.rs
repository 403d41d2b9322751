//! The end of the write-ahead log, from the header of its index (`-shm`). SQLite trusts the index. So if an older copy
//! overwrites the log or the index, SQLite reads and writes at a wrong position, without an error.
//!
//! Formats: <https://www.sqlite.org/walformat.html#the_wal_index_file_format>,
//! <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::recovery::wal;

/// Size of one of the two copies of the index's header.
const HEADER: usize = 48;

/// The last committed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogEnd {
    /// The number of frames. 0: the log is empty.
    frames: u32,
    /// As in the header of the last frame.
    checksum: [u8; 8],
    /// As in the header of each frame since the log was emptied. Then SQLite increases the first half by one, and the
    /// second half gets a random value.
    salt: [u8; 8],
}

impl LogEnd {
    /// `None` when the header is damaged, or is being written. SQLite then reads it again, or rebuilds it from the log.
    pub(super) fn read(index: &File) -> Option<Self> {
        let mut bytes = [0; 2 * HEADER];
        index.read_exact_at(&mut bytes, 0).ok()?;
        let (header, copy) = bytes.split_at(HEADER);
        let is_initialized = header[12] != 0;
        if header != copy || !is_initialized {
            return None;
        }
        let number =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut end = Self { frames: number(16), checksum: [0; 8], salt: [0; 8] };
        end.checksum[..4].copy_from_slice(&number(24).to_be_bytes());
        end.checksum[4..].copy_from_slice(&number(28).to_be_bytes());
        end.salt.copy_from_slice(&header[32..40]);
        Some(end)
    }

    /// Whether the log still has this frame.
    pub(super) fn is_in(&self, log: &File) -> bool {
        let Some(before) = self.frames.checked_sub(1) else { return true };
        let mut header = [0; 24];
        let at = wal::HEADER_BYTES + u64::from(before) * wal::FRAME_BYTES;
        log.read_exact_at(&mut header, at).is_ok()
            && header[8..16] == self.salt
            && header[16..] == self.checksum
    }

    /// Whether this end can follow `earlier`: frames were added, or the log was emptied into the database.
    pub(super) fn follows(&self, earlier: &Self, log: &File) -> bool {
        let no_log_yet = earlier.frames == 0 && earlier.salt == [0; 8];
        if no_log_yet || self.frames == 0 && earlier.frames == 0 {
            return true;
        }
        if self.salt == earlier.salt {
            return self.frames >= earlier.frames && earlier.is_in(log);
        }
        let round = |end: &Self| u32::from_be_bytes([end.salt[0], end.salt[1], end.salt[2], end.salt[3]]);
        // The number wraps around.
        (1..1 << 31).contains(&round(self).wrapping_sub(round(earlier)))
    }
}
