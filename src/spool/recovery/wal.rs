//! SQLite's write-ahead log, examined before SQLite opens it.
//!
//! On open, SQLite stops at the first frame whose checksum is wrong and discards the rest. After a power cut at most
//! the last transaction is affected, because each one is on disk before the next begins. If two or more commits follow
//! the wrong frame, the log is corrupt in its middle and holds acknowledged deliveries. (Failed and killed writes also
//! leave such frames. Therefore the log is emptied at every start and after every failed write.)
//!
//! Frames are read one by one: memory does not grow with the log. Format:
//! <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use super::sequence::{self, SequenceTable};

/// Size of the log's header in bytes.
const HEADER: usize = 32;
pub(in crate::spool) const HEADER_BYTES: u64 = HEADER as u64;
/// Size of a frame's header in bytes. The page follows it.
const FRAME_HEADER: usize = 24;
/// Size of a frame of the spool's log: its header and a page.
pub(in crate::spool) const FRAME_BYTES: u64 = FRAME_HEADER as u64 + 4096;
/// Bytes of the read buffer.
const BUFFER: usize = 1 << 20;

/// A log with at least one frame.
pub(in crate::spool) struct Wal<'f> {
    file: &'f File,
    header: [u8; HEADER],
    page_size: usize,
    /// SQLite writes the log in rounds: frames of an earlier round have another salt.
    salt: [u8; 8],
}

/// The result of [`Wal::examine`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::spool) struct Findings {
    /// The number of frames of this round up to the last commit, with right or wrong checksums.
    frames: u64,
    /// The number of commits at or after the first frame with a wrong checksum.
    lost_commits: u64,
    /// The largest size of the database after a commit with right checksums, in pages.
    database_pages: u64,
    /// The last committed content of `sqlite_sequence`, when the log has its page.
    pub(in crate::spool) sequence: Option<SequenceTable>,
    /// The runs in this content, oldest first.
    runs: Vec<i64>,
}

impl Findings {
    /// Whether the log may have been written after this content of the database, by the same receiver.
    pub(in crate::spool) fn follows(&self, database: &SequenceTable) -> bool {
        let Some(in_log) = self.sequence else { return true };
        let has_same_identity = in_log.identity.zip(database.identity).is_none_or(|(log, own)| log == own);
        has_same_identity && (database.run.is_none() || database.is_known_to(&self.runs))
    }

    /// Whether SQLite would discard acknowledged deliveries.
    pub(in crate::spool) fn is_damaged(&self) -> bool {
        self.lost_commits >= 2
    }

    /// Whether the log holds a committed transaction.
    pub(in crate::spool) fn has_commits(&self) -> bool {
        self.frames > 0
    }
}

impl<'f> Wal<'f> {
    /// `None` when the file has no frame.
    pub(in crate::spool) fn open(file: &'f File) -> io::Result<Option<Self>> {
        if file.metadata()?.len() <= HEADER_BYTES + FRAME_HEADER as u64 {
            return Ok(None);
        }
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let page_size = number(&header[8..]) as usize;
        let plausible = page_size.is_power_of_two() && (512..=65_536).contains(&page_size);
        let page_size = if plausible { page_size } else { 4096 };
        let mut wal = Self { file, header, page_size, salt: [0; 8] };
        if wal.header_checksum().is_some() {
            wal.salt.copy_from_slice(&header[16..24]);
        } else {
            file.read_exact_at(&mut wal.salt, HEADER_BYTES + 8)?;
        }
        Ok(Some(wal))
    }

    pub(in crate::spool) fn examine(&self) -> io::Result<Findings> {
        let mut findings = Findings::default();
        let mut sum = self.header_checksum();
        let (mut latest, mut committed) = (Vec::new(), Vec::new());
        let mut frames = 0;
        self.for_each(|header, page| {
            frames += 1;
            sum = sum.map(|sum| self.checksum(self.checksum(sum, &header[..8]), page));
            sum = sum.filter(|sum| *sum == (number(&header[16..]), number(&header[20..])));
            if number(header) == sequence::PAGE && SequenceTable::parse(page).is_some() {
                page.clone_into(&mut latest);
            }
            if commit_size(header) != 0 {
                findings.frames = frames;
                committed.clone_from(&latest);
                findings.lost_commits += u64::from(sum.is_none());
                if sum.is_some() {
                    findings.database_pages = findings.database_pages.max(u64::from(commit_size(header)));
                }
            }
            Ok(())
        })?;
        findings.sequence = SequenceTable::parse(&committed);
        findings.runs = sequence::runs(&committed);
        Ok(findings)
    }

    /// Writes the pages of all committed frames to `database`, with right or wrong checksums: damage in them is found by
    /// the checksums of the deliveries.
    pub(in crate::spool) fn apply(&self, database: &File) -> io::Result<()> {
        let Findings { frames: committed, database_pages, .. } = self.examine()?;
        let page_size = self.page_size as u64;
        // A damaged page number must not make the file huge. `database` may be smaller than when the log was written.
        let max_page = database_pages.max(database.metadata()?.len() / page_size + committed);
        let mut frames = 0;
        self.for_each(|header, page| {
            frames += 1;
            let number = u64::from(number(header));
            if frames <= committed && (1..=max_page).contains(&number) {
                database.write_all_at(page, (number - 1) * page_size)?;
            }
            Ok(())
        })
    }

    /// Calls `frame` with the header and the page of each frame of this round.
    fn for_each(&self, mut frame: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut file = self.file;
        file.seek(SeekFrom::Start(HEADER_BYTES))?;
        let mut reader = BufReader::with_capacity(BUFFER, file);
        let mut bytes = vec![0; FRAME_HEADER + self.page_size];
        while !reader.fill_buf()?.is_empty() {
            match reader.read_exact(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                read => read?,
            }
            let (header, page) = bytes.split_at(FRAME_HEADER);
            if header[8..16] == self.salt {
                frame(header, page)?;
            }
        }
        Ok(())
    }

    /// The checksum of the header; `None` if it is wrong, or the header has another format.
    fn header_checksum(&self) -> Option<(u32, u32)> {
        let magic = number(&self.header) & !1;
        let sum = (magic == 0x377f_0682).then(|| self.checksum((0, 0), &self.header[..24]));
        sum.filter(|sum| *sum == (number(&self.header[24..]), number(&self.header[28..])))
    }

    fn checksum(&self, (mut a, mut b): (u32, u32), bytes: &[u8]) -> (u32, u32) {
        let big_endian = self.header[3] & 1 == 1;
        for pair in bytes.chunks_exact(8) {
            let word = |bytes: &[u8]| if big_endian { number(bytes) } else { number(bytes).swap_bytes() };
            a = a.wrapping_add(word(pair)).wrapping_add(b);
            b = b.wrapping_add(word(&pair[4..])).wrapping_add(a);
        }
        (a, b)
    }
}

/// The size of the database in pages, in the last frame of a transaction; 0 in the others.
fn commit_size(frame_header: &[u8]) -> u32 {
    number(&frame_header[4..])
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
