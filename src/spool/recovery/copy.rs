//! Copies readable deliveries from one database into another.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row};

use super::sequence::SequenceTable;
use crate::spool::Seq;
use crate::spool::row::{INSERT, SELECT, SpoolRow};
use crate::spool::schema::MAX_SEQ;

/// Maximum numbers that are tried one by one between two unreadable pages. This takes some seconds.
const MAX_TRIES: usize = 1_000_000;
/// Maximum size of a transaction.
const MAX_TRANSACTION_ROWS: usize = 2_000;
const MAX_TRANSACTION_BYTES: usize = 16 << 20;
/// The same for a spool in use: it has little space on a small disk.
pub(in crate::spool) const MAX_ADDED_BYTES: usize = 2 << 20;

/// The result of copying one spool from one or several sources.
#[derive(Debug, Default)]
pub(in crate::spool) struct CopyResult {
    /// Deliveries written.
    pub(in crate::spool) saved: u64,
    /// How many of these were not known to be acked.
    unacked: u64,
    /// Numbers and checksums of deliveries that were written under a new number: another source may have them, too.
    appended: HashSet<(Seq, i64)>,
    /// The largest number known to have been given to a delivery.
    last_seq: Option<Seq>,
    /// The last delivery known to be acked, and the number of later ones that are known to be lost.
    acked: Option<(Seq, i64)>,
    /// Whether the latest source was read to its end.
    pub(in crate::spool) complete: bool,
}

impl CopyResult {
    /// Maximum number of lost deliveries; `None` when it is unknown.
    pub(in crate::spool) fn lost(&self) -> Option<u64> {
        let (acked, missing) = self.acked.unwrap_or_default();
        let expected = self.last_seq? - acked - missing;
        Some(u64::try_from(expected).unwrap_or(0).saturating_sub(self.unacked))
    }

    /// Adds positions that are known from elsewhere. Call it before the first copy.
    pub(in crate::spool) fn consider(&mut self, last_seq: Seq, acked_seq: Seq) {
        self.last_seq = self.last_seq.max(Some(last_seq));
        self.acked = self.acked.max(Some((acked_seq, 0)));
    }
}

/// Writes deliveries in transactions of bounded size. Read errors are expected; a write error ends the copy.
pub(in crate::spool) struct Copier<'c> {
    to: &'c Connection,
    /// Called between transactions, with the size of the next delivery if it is larger than a transaction should be. An error ends
    /// the copy.
    after_commit: &'c mut dyn FnMut(usize) -> rusqlite::Result<()>,
    rows: usize,
    bytes: usize,
    max_bytes: usize,
    progress: Option<Progress>,
    /// Whether the source is read in the order of its numbers.
    is_ascending: bool,
    /// The last number of the current source: larger numbers are damage.
    end: Option<Seq>,
    /// Deliveries get new numbers.
    append: bool,
}

/// How far a rescued file was copied, so that a start after a crash or a full disk continues there. Stored with each transaction,
/// as rows of `sqlite_sequence`.
#[derive(Debug)]
pub(in crate::spool) struct Progress {
    /// The identity of the file's spool, and its last run.
    source: String,
    seq: Seq,
    /// [`CopyResult::unacked`] so far.
    unacked: u64,
}

impl Progress {
    /// `None` when the source cannot be identified.
    pub(in crate::spool) fn read(
        to: &Connection,
        source: Option<SequenceTable>,
    ) -> rusqlite::Result<Option<Self>> {
        let source =
            source.and_then(|table| Some(format!("{} {}", table.identity?, table.run.unwrap_or_default())));
        let Some(source) = source else { return Ok(None) };
        let mut select = to.prepare("SELECT seq FROM sqlite_sequence WHERE name = ?")?;
        let mut read =
            |what: &str| select.query_row([format!("{what} {source}")], |row| row.get(0)).optional();
        let (seq, unacked) = (read("copied up to")?.unwrap_or(0), read("unacked")?.unwrap_or(0));
        Ok(Some(Self { source, seq, unacked: u64::try_from(unacked).unwrap_or(0) }))
    }

    fn store(&self, to: &Connection) -> rusqlite::Result<()> {
        self.remove(to)?;
        let mut insert = to.prepare_cached("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)")?;
        insert.execute((format!("copied up to {}", self.source), self.seq))?;
        insert.execute((format!("unacked {}", self.source), i64::try_from(self.unacked).unwrap_or(0)))?;
        Ok(())
    }

    pub(in crate::spool) fn remove(&self, to: &Connection) -> rusqlite::Result<()> {
        let mut delete = to.prepare_cached("DELETE FROM sqlite_sequence WHERE name IN (?, ?)")?;
        delete.execute((format!("copied up to {}", self.source), format!("unacked {}", self.source)))?;
        Ok(())
    }
}

type Numbered = (Seq, SpoolRow<Vec<u8>>);

impl<'c> Copier<'c> {
    pub(in crate::spool) fn new(
        to: &'c Connection,
        after_commit: &'c mut dyn FnMut(usize) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<Self> {
        to.execute_batch("BEGIN IMMEDIATE")?;
        let (rows, bytes, max_bytes) = (0, 0, MAX_TRANSACTION_BYTES);
        Ok(Self {
            to,
            after_commit,
            rows,
            bytes,
            max_bytes,
            progress: None,
            is_ascending: true,
            end: None,
            append: false,
        })
    }

    /// For a target that already has deliveries: copied deliveries get new numbers after the existing ones.
    pub(in crate::spool) fn append(self) -> Self {
        Self { append: true, max_bytes: MAX_ADDED_BYTES, ..self }
    }

    /// Continues an earlier copy.
    pub(in crate::spool) fn resume(self, progress: Option<Progress>) -> Self {
        Self { progress, ..self }
    }

    /// Commits the last rows.
    pub(in crate::spool) fn finish(self) -> rusqlite::Result<()> {
        if let Some(progress) = &self.progress {
            progress.remove(self.to)?;
        }
        self.to.execute_batch("COMMIT")
    }

    /// Copies the deliveries of `from` that the target does not have.
    pub(in crate::spool) fn copy(
        &mut self,
        from: &Connection,
        result: &mut CopyResult,
    ) -> rusqlite::Result<()> {
        let last = self.copy_in_order(from, result)?;
        if result.complete { Ok(()) } else { self.copy_rest(from, last, result) }
    }

    /// Copies in the order of the numbers up to the end, or up to the first error. Returns the last number.
    pub(in crate::spool) fn copy_in_order(
        &mut self,
        from: &Connection,
        result: &mut CopyResult,
    ) -> rusqlite::Result<Option<Seq>> {
        let numbers = |query: &str| {
            let numbers = from.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)));
            let plausible = |number: &i64| (0..=MAX_SEQ).contains(number);
            numbers.ok().filter(|(seq, missing): &(Seq, i64)| plausible(seq) && plausible(missing))
        };
        let end = numbers("SELECT seq, 0 FROM sqlite_sequence WHERE name = 'deliveries'");
        self.end = end.map(|(end, _)| end);
        result.last_seq = result.last_seq.max(self.end);
        // If only `missing` is damaged, `seq` is still used.
        let acked = numbers("SELECT seq, missing FROM acked").or_else(|| numbers("SELECT seq, 0 FROM acked"));
        result.acked = result.acked.max(acked);
        let copied = self.progress.as_ref();
        result.unacked += copied.map_or(0, |progress| progress.unacked);
        let copied = copied.map(|progress| progress.seq);
        let (complete, last) = self.walk(from, "ORDER BY seq", result)?;
        result.complete = complete;
        Ok(last.or(copied))
    }

    /// Copies what can be read after an error: from the other end, and then each number in between. `last`: the result of
    /// [`Self::copy_in_order`].
    pub(in crate::spool) fn copy_rest(
        &mut self,
        from: &Connection,
        last: Option<Seq>,
        result: &mut CopyResult,
    ) -> rusqlite::Result<()> {
        self.is_ascending = false;
        let (_, first) = self.walk(from, "ORDER BY seq DESC", result)?;
        let end = first.or(self.end.map(|end| end + 1)).unwrap_or(0);
        let gap = last.unwrap_or(0) + 1..end;
        if let Ok(mut by_number) = from.prepare(&format!("{SELECT} WHERE seq = ?")) {
            for seq in gap.take(MAX_TRIES) {
                if let Ok(Some(delivery)) = by_number.query_row([seq], read).optional() {
                    self.save(delivery, result)?;
                }
            }
        }
        Ok(())
    }

    /// Reads the table up to its end or the first error. Returns whether the end was reached, and the last number.
    fn walk(
        &mut self,
        from: &Connection,
        order: &str,
        result: &mut CopyResult,
    ) -> rusqlite::Result<(bool, Option<Seq>)> {
        let mut last = None;
        let copied = self.progress.as_ref().map_or(0, |progress| progress.seq);
        let copied = if copied > 0 { format!("WHERE seq > {copied}") } else { String::new() };
        let Ok(mut statement) = from.prepare(&format!("{SELECT} {copied} {order}")) else {
            return Ok((false, None));
        };
        let Ok(mut rows) = statement.query([]) else { return Ok((false, None)) };
        loop {
            match rows.next() {
                Err(_) => return Ok((false, last)),
                Ok(None) => return Ok((true, last)),
                Ok(Some(row)) => {
                    if let Ok(delivery) = read(row) {
                        last = Some(delivery.0);
                        self.save(delivery, result)?;
                    }
                }
            }
        }
    }

    /// Writes a delivery under its number. It gets a new number when its own is damaged or in use, or with [`Self::append`].
    fn save(&mut self, delivery: Numbered, result: &mut CopyResult) -> rusqlite::Result<()> {
        let (seq, size) = (delivery.0, delivery.1.body.len());
        if size > self.max_bytes {
            self.commit(size)?;
        }
        self.insert(delivery, result)?;
        if let Some(progress) = self.progress.as_mut().filter(|_| self.is_ascending) {
            (progress.seq, progress.unacked) = (seq, result.unacked);
        }
        if self.rows >= MAX_TRANSACTION_ROWS || self.bytes >= self.max_bytes {
            self.commit(0)?;
        }
        Ok(())
    }

    /// Commits, and begins the next transaction. `large`: for [`Self::after_commit`].
    fn commit(&mut self, large: usize) -> rusqlite::Result<()> {
        if let Some(progress) = &self.progress {
            progress.store(self.to)?;
        }
        self.to.execute_batch("COMMIT")?;
        (self.rows, self.bytes) = (0, 0);
        (self.after_commit)(large)?;
        self.to.execute_batch("BEGIN IMMEDIATE")
    }

    fn insert(&mut self, (seq, row): Numbered, result: &mut CopyResult) -> rusqlite::Result<()> {
        let plausible = (1..=self.end.unwrap_or(MAX_SEQ)).contains(&seq);
        let same = "SELECT checksum = ? AND body = ? FROM deliveries WHERE seq = ?";
        let mut same = self.to.prepare_cached(same)?;
        let present: Option<bool> =
            same.query_row((row.checksum, &row.body, seq), |row| row.get(0)).optional()?;
        let number = (!self.append && plausible && present.is_none()).then_some(seq);
        let is_known = number.is_none() && !result.appended.insert((seq, row.checksum));
        if present == Some(true) || is_known {
            // The target had this delivery before, or another source added it.
            let was_there_before = self.append && !is_known;
            result.unacked += u64::from(was_there_before && seq > result.acked.unwrap_or_default().0);
            return Ok(());
        }
        let mut insert = self.to.prepare_cached(INSERT)?;
        row.insert(&mut insert, number)?;
        result.saved += 1;
        result.unacked += u64::from(!plausible || seq > result.acked.unwrap_or_default().0);
        self.rows += 1;
        self.bytes += row.body.len();
        Ok(())
    }
}

fn read(row: &Row) -> rusqlite::Result<Numbered> {
    let delivery = SpoolRow {
        received_at: row.get(1)?,
        authenticated_by: row.get(2)?,
        acknowledged: row.get(3)?,
        checksum: row.get(4)?,
        body: row.get(5)?,
        trace: row.get(6).unwrap_or_default(),
        reference: row.get(7)?,
        is_redelivery: row.get(8)?,
    };
    Ok((row.get(0)?, delivery))
}
