//! Copies deliveries from one database into another, as far as they can be read.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row};

use crate::spool::Seq;
use crate::spool::open::LAST_SEQ;
use crate::spool::row::{COLUMNS, INSERT, SpoolRow};

/// Numbers tried one by one in a hole before the rest of it is given up: some seconds.
const TRIES: usize = 1_000_000;
/// The most rows and bytes in one transaction.
const ROWS: usize = 2_000;
const BYTES: usize = 16 << 20;

/// What was found of one spool, in one source or several.
#[derive(Debug, Default)]
pub(in crate::spool) struct Spool {
    /// Deliveries written.
    pub(in crate::spool) saved: u64,
    /// Those of them that were not known to be recorded.
    waiting: u64,
    /// Numbers and checksums of deliveries that were written after all others: another source may have them, too.
    appended: HashSet<(Seq, i64)>,
    /// The last number known to have been given to a delivery.
    pub(in crate::spool) last: Option<Seq>,
    /// The last delivery known to be recorded, and how many after it were known to be lost.
    forgotten: Option<(Seq, i64)>,
    /// Whether the latest source was read to its end.
    pub(in crate::spool) whole: bool,
}

impl Spool {
    /// How many deliveries are lost, at most; `None` when their number is unknown.
    pub(in crate::spool) fn lost(&self) -> Option<u64> {
        let (forgotten, missing) = self.forgotten.unwrap_or_default();
        let there_were = self.last? - forgotten - missing;
        Some(u64::try_from(there_were).unwrap_or(0).saturating_sub(self.waiting))
    }

    /// Takes into account, before anything is copied, what is known from elsewhere.
    pub(in crate::spool) fn consider(&mut self, last: Seq, forgotten: Seq) {
        self.last = self.last.max(Some(last));
        self.forgotten = self.forgotten.max(Some((forgotten, 0)));
    }
}

/// Writes deliveries, in transactions of bounded size. Errors of reading are what it is for; those of writing end it.
pub(in crate::spool) struct Copier<'c> {
    to: &'c Connection,
    /// Called after each transaction.
    between: &'c mut dyn FnMut(),
    rows: usize,
    bytes: usize,
    /// The statement that reads deliveries from the current source.
    select: String,
    /// Numbers beyond are damage.
    end: Option<Seq>,
    /// Whether deliveries keep their numbers.
    keeps_numbers: bool,
}

type Numbered = (Seq, SpoolRow<Vec<u8>>);

impl<'c> Copier<'c> {
    pub(in crate::spool) fn new(to: &'c Connection, between: &'c mut dyn FnMut()) -> rusqlite::Result<Self> {
        to.execute_batch("BEGIN IMMEDIATE")?;
        Ok(Self { to, between, rows: 0, bytes: 0, select: String::new(), end: None, keeps_numbers: true })
    }

    /// For a target that has deliveries of its own: those that come are written after them, so that numbers stay contiguous.
    pub(in crate::spool) fn behind(self) -> Self {
        Self { keeps_numbers: false, ..self }
    }

    /// Makes the last rows durable.
    pub(in crate::spool) fn finish(self) -> rusqlite::Result<()> {
        self.to.execute_batch("COMMIT")
    }

    /// Copies all that `from` has and the target does not.
    pub(in crate::spool) fn copy(&mut self, from: &Connection, spool: &mut Spool) -> rusqlite::Result<()> {
        let numbers = |query: &str| {
            let numbers = from.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)));
            let can_be = |number: &i64| (0..=LAST_SEQ).contains(number);
            numbers.ok().filter(|(place, missing): &(Seq, i64)| can_be(place) && can_be(missing))
        };
        let end = numbers("SELECT seq, 0 FROM sqlite_sequence WHERE name = 'deliveries'");
        self.end = end.map(|(end, _)| end);
        spool.last = spool.last.max(self.end);
        let forgotten = numbers("SELECT through, missing FROM forgotten");
        spool.forgotten =
            spool.forgotten.max(forgotten.or_else(|| numbers("SELECT through, 0 FROM forgotten")));
        // Earlier versions of the layout have fewer columns.
        let there_is = |columns: &&str| from.prepare(&format!("SELECT {columns} FROM deliveries")).is_ok();
        let of_version_2 = "received_at, authenticated_by, acknowledged, checksum, body, NULL";
        let of_version_1 = "received_at, 0, 1, checksum, body, NULL";
        let columns = [COLUMNS, of_version_2].into_iter().find(there_is).unwrap_or(of_version_1);
        self.select = format!("SELECT seq, {columns} FROM deliveries");
        let (whole, last) = self.walk(from, "ORDER BY seq", spool)?;
        spool.whole = whole;
        if !whole {
            // From the other end, and then the numbers between.
            let (_, first) = self.walk(from, "ORDER BY seq DESC", spool)?;
            let end = first.or(self.end.map(|end| end + 1)).unwrap_or(0);
            let hole = last.unwrap_or(0) + 1..end;
            if let Ok(mut one) = from.prepare(&format!("{} WHERE seq = ?", self.select)) {
                for seq in hole.take(TRIES) {
                    if let Ok(Some(delivery)) = one.query_row([seq], read).optional() {
                        self.save(delivery, spool)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Walks the table until its end, or until it cannot be read on. Returns whether it came to the end, and the last
    /// number.
    fn walk(
        &mut self,
        from: &Connection,
        order: &str,
        spool: &mut Spool,
    ) -> rusqlite::Result<(bool, Option<Seq>)> {
        let mut last = None;
        let Ok(mut statement) = from.prepare(&format!("{} {order}", self.select)) else {
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
                        self.save(delivery, spool)?;
                    }
                }
            }
        }
    }

    /// Writes a delivery at its number, or after all others: when its number is damaged or taken, or numbers are not kept.
    fn save(&mut self, (seq, row): Numbered, spool: &mut Spool) -> rusqlite::Result<()> {
        let plausible = (1..=self.end.unwrap_or(LAST_SEQ)).contains(&seq);
        let same = "SELECT checksum = ? AND body = ? FROM deliveries WHERE seq = ?";
        let mut same = self.to.prepare_cached(same)?;
        let there: Option<bool> =
            same.query_row((row.checksum, &row.body, seq), |row| row.get(0)).optional()?;
        if there == Some(true) {
            return Ok(());
        }
        let place = (self.keeps_numbers && plausible && there.is_none()).then_some(seq);
        if place.is_none() && !spool.appended.insert((seq, row.checksum)) {
            return Ok(());
        }
        let mut insert = self.to.prepare_cached(INSERT)?;
        row.insert(&mut insert, place)?;
        spool.saved += 1;
        spool.waiting += u64::from(!plausible || seq > spool.forgotten.unwrap_or_default().0);
        self.rows += 1;
        self.bytes += row.body.len();
        if self.rows >= ROWS || self.bytes >= BYTES {
            self.to.execute_batch("COMMIT")?;
            (self.rows, self.bytes) = (0, 0);
            (self.between)();
            self.to.execute_batch("BEGIN IMMEDIATE")?;
        }
        Ok(())
    }
}

fn read(row: &Row) -> rusqlite::Result<Numbered> {
    let stored = SpoolRow {
        received_at: row.get(1)?,
        authenticated_by: row.get(2)?,
        acknowledged: row.get(3)?,
        checksum: row.get(4)?,
        body: row.get(5)?,
        trace: row.get(6).unwrap_or_default(),
    };
    Ok((row.get(0)?, stored))
}
