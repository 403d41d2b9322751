//! Reads the table `sqlite_sequence` from the bytes of its page: the spool's identity and its last number.
//!
//! Every insert writes this page. So the page shows whether a write-ahead log belongs to a database before SQLite opens
//! them. SQLite itself applies any log that has the right name.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The page number of the table in every spool: SQLite creates it after `deliveries`, which has page 2.
pub(super) const PAGE: u32 = 3;
const PAGE_SIZE: usize = 4096;
/// The name of the row with the spool's identity.
pub(in crate::spool) const IDENTITY: &str = "spool";
/// The name of the row with the identity of the spool that a rescue copied this one from.
pub(in crate::spool) const PREDECESSOR: &str = "predecessor";

/// The name of the rows that identify the runs of receivers on this spool, oldest first: the last number of a delivery before the run,
/// shifted by [`RUN_RANDOM_BITS`], plus a random number.
pub(in crate::spool) const RUN: &str = "run";
pub(in crate::spool) const RUN_RANDOM_BITS: u32 = 15;

/// The content of the table.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::spool) struct SequenceTable {
    /// A random number that identifies the spool.
    pub(in crate::spool) identity: Option<i64>,
    /// The last number given to a delivery.
    pub(in crate::spool) last_seq: Option<i64>,
    /// The last run of a receiver.
    pub(in crate::spool) run: Option<i64>,
}

impl SequenceTable {
    /// Whether this content can follow `earlier`.
    pub(in crate::spool) fn follows(&self, earlier: &Self) -> bool {
        (earlier.identity.is_none() || self.identity == earlier.identity) && self.last_seq >= earlier.last_seq
    }

    /// `None` when the file is too short or the page has another format.
    pub(in crate::spool) fn of_database(file: &File) -> Option<Self> {
        Self::parse(&page_of(file)?)
    }

    /// Whether a spool with these runs had every delivery of this content. Otherwise it is another spool, or a copy of
    /// the spool that continued after the copy was made: it may have other deliveries under the same numbers.
    pub(in crate::spool) fn is_known_to(&self, runs: &[i64]) -> bool {
        let Some(at) = runs.iter().position(|run| Some(*run) == self.run) else { return false };
        runs.get(at + 1).is_none_or(|next| self.last_seq.unwrap_or(0) <= next >> RUN_RANDOM_BITS)
    }

    pub(super) fn parse(page: &[u8]) -> Option<Self> {
        let mut sequence = Self::default();
        for (name, number) in rows(page)? {
            match name {
                b"deliveries" => sequence.last_seq = Some(number),
                name if name == IDENTITY.as_bytes() => sequence.identity = Some(number),
                name if name == RUN.as_bytes() => sequence.run = Some(number),
                _ => {}
            }
        }
        Some(sequence)
    }
}

/// The runs on the spool in a database without its log. Empty when they cannot be read.
pub(super) fn runs_of_database(file: &File) -> Vec<i64> {
    page_of(file).map(|page| runs(&page)).unwrap_or_default()
}

pub(super) fn runs(page: &[u8]) -> Vec<i64> {
    let runs = rows(page).unwrap_or_default().into_iter().filter(|(name, _)| *name == RUN.as_bytes());
    runs.map(|(_, number)| number).collect()
}

fn page_of(file: &File) -> Option<Vec<u8>> {
    let mut page = vec![0; PAGE_SIZE];
    file.read_exact_at(&mut page, u64::from(PAGE - 1) * PAGE_SIZE as u64).ok()?;
    Some(page)
}

/// The rows of a leaf page. Format: <https://www.sqlite.org/fileformat2.html#b_tree_pages>
fn rows(page: &[u8]) -> Option<Vec<(&[u8], i64)>> {
    if page.first() != Some(&0x0d) {
        return None;
    }
    let short = |at: usize| Some(usize::from(u16::from_be_bytes([*page.get(at)?, *page.get(at + 1)?])));
    (0..short(3)?).map(|cell| row(page.get(short(8 + 2 * cell)?..)?)).collect()
}

/// The name and the number in a cell: the size of the record, the row's id, the record.
fn row(cell: &[u8]) -> Option<(&[u8], i64)> {
    let (_, cell) = varint(cell)?;
    let (_, record) = varint(cell)?;
    let (header_size, types) = varint(record)?;
    let (name_type, types) = varint(types)?;
    let (number_type, _) = varint(types)?;
    let name_size = usize::try_from(name_type.checked_sub(13)? / 2).ok()?;
    let values = record.get(usize::try_from(header_size).ok()?..)?;
    let (name, rest) = values.split_at_checked(name_size)?;
    let size = match number_type {
        0 | 8 => return Some((name, 0)),
        9 => return Some((name, 1)),
        1..=4 => usize::try_from(number_type).ok()?,
        5 => 6,
        6 => 8,
        _ => return None,
    };
    let bytes = rest.get(..size)?;
    let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
    Some((name, bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte))))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(8) {
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_knows_the_deliveries_up_to_its_next_start() {
        let run = |from: i64, random: i64| from << RUN_RANDOM_BITS | random;
        let [first, second] = [run(0, 7), run(100, 7)];
        let at =
            |run, last_seq| SequenceTable { identity: Some(1), last_seq: Some(last_seq), run: Some(run) };
        assert!(at(first, 100).is_known_to(&[first, second]));
        assert!(at(second, 500).is_known_to(&[first, second]));
        assert!(
            !at(first, 101).is_known_to(&[first, second]),
            "the first run went on after the copy was made"
        );
        assert!(!at(run(100, 8), 100).is_known_to(&[first, second]), "another receiver has used a copy");
    }
}
