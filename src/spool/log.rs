//! SQLite's write-ahead log, looked at before SQLite does.
//!
//! SQLite reads its log up to the first frame that does not fit, takes that for the end of a write
//! that was cut off, and forgets what follows. That is right after a power cut, where at most the
//! last transaction can be incomplete: each one is on disk before the next begins. If more than one
//! commit follows the misfit, the log is damaged in its middle, and acknowledged deliveries stand
//! behind. (Writes that failed or were killed leave such traces, too; so the log is begun anew at
//! every start and after every failure.) Format: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// The log of a spool's file.
pub(super) struct Log {
    bytes: Vec<u8>,
    page_size: usize,
}

/// The image of a page.
struct Frame<'l> {
    header: &'l [u8],
    page: &'l [u8],
}

impl Log {
    /// `None` when there is none.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        if bytes.len() <= HEADER {
            return Ok(None);
        }
        let page_size = number(&bytes[8..]) as usize;
        let plausible = page_size.is_power_of_two() && (512..=65_536).contains(&page_size);
        Ok(Some(Self { bytes, page_size: if plausible { page_size } else { 4096 } }))
    }

    /// Whether acknowledged deliveries may stand behind a place that SQLite would stop at.
    pub(super) fn is_damaged(&self) -> bool {
        let (header, checksum) = self.bytes[..HEADER].split_at(HEADER - 8);
        let mut sum = self.checksum((0, 0), header);
        let header_fits = sum == (number(checksum), number(&checksum[4..]));
        let fitting = self.frames().take_while(|frame| {
            sum = self.checksum(self.checksum(sum, &frame.header[..8]), frame.page);
            header_fits && sum == (number(&frame.header[16..]), number(&frame.header[20..]))
        });
        let fitting = fitting.count();
        self.frames().skip(fitting).filter(Frame::is_commit).count() >= 2
    }

    /// Writes the pages of all frames into `file`, whether their checksums fit or not: what is wrong
    /// in them is found out by the rows' own checksums.
    pub(super) fn apply(&self, file: &File) -> io::Result<()> {
        let frames: Vec<_> = self.frames().collect();
        let Some(last) = frames.iter().rposition(Frame::is_commit) else { return Ok(()) };
        let page_size = self.page_size as u64;
        let most = file.metadata()?.len() / page_size + frames.len() as u64;
        for frame in &frames[..=last] {
            let number = u64::from(number(frame.header));
            if (1..=most).contains(&number) {
                file.write_all_at(frame.page, (number - 1) * page_size)?;
            }
        }
        Ok(())
    }

    /// The frames of this round of the log: those of an earlier one, behind them, have another salt.
    fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        let size = FRAME_HEADER + self.page_size;
        let salt = &self.bytes[16..24];
        let all = self.bytes[HEADER..].chunks_exact(size).map(|frame| {
            let (header, page) = frame.split_at(FRAME_HEADER);
            Frame { header, page }
        });
        all.filter(move |frame| &frame.header[8..16] == salt)
    }

    fn checksum(&self, (mut a, mut b): (u32, u32), bytes: &[u8]) -> (u32, u32) {
        let big_endian = self.bytes[3] & 1 == 1;
        for pair in bytes.chunks_exact(8) {
            let word = |bytes: &[u8]| if big_endian { number(bytes) } else { number(bytes).swap_bytes() };
            a = a.wrapping_add(word(pair)).wrapping_add(b);
            b = b.wrapping_add(word(&pair[4..])).wrapping_add(a);
        }
        (a, b)
    }
}

impl Frame<'_> {
    /// The last of a transaction tells the size of the file; the others have 0 there.
    fn is_commit(&self) -> bool {
        number(&self.header[4..]) != 0
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
