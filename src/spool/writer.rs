//! The only one who writes the spool: on a thread of its own, since it waits for the disk.
//!
//! Whatever waits when it looks becomes one transaction and one fsync: the more load, the larger
//! the groups. What the recorder is done with is deleted in the same transaction.

use std::fs::File;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::reserve::Reserve;
use super::row::{INSERT, Stored, from_micros};
use super::{Kept, Recorded, Seq, SpoolError, file};
use crate::config;
use crate::intake::{Arrival, Refused};
use crate::metrics::Metrics;

/// The most deliveries in one transaction, and the most bytes of bodies, or a single delivery.
const GROUP: usize = 512;
const GROUP_BYTES: usize = 16 << 20;
/// With so many in a group, the next one waits for as many, but not longer than this; how often it looks.
const SOME: usize = 4;
const GATHER_WITHIN: Duration = Duration::from_micros(200);
const GATHER_STEP: Duration = Duration::from_micros(50);
/// The most deliveries forgotten in one transaction: that takes space, too.
const FORGET: Recorded = 2_000;
/// And for each delivery that comes along in it: more would hold up their answers.
const FORGET_WITH_EACH: Recorded = 4;
/// How long what is recorded may stay, when nothing arrives to be written along with.
const FORGET_WITHIN: Duration = Duration::from_millis(200);
/// After a failure, how often the disk is tried.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// With so much of the file unused, and so little used, the space is given back.
const SHRINK_ABOVE: u64 = 64 << 20;
const SHRINK_BELOW: u64 = 8 << 20;

/// Adds deliveries to the spool and forgets them.
#[derive(Debug)]
pub(crate) struct Writer {
    connection: Connection,
    reserve: Reserve,
    max_bytes: u64,
    kept: Kept,
    /// The part of the file that holds nothing, in bytes.
    unused: u64,
    _lock: File,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        lock: File,
        settings: &config::Spool,
    ) -> Result<Self, SpoolError> {
        // What there is, is there: the rows decide, and no mark that could be damaged on its own.
        let (first, last, sequence): (Option<Seq>, Option<Seq>, Option<Seq>) = connection.query_row(
            "SELECT (SELECT min(seq) FROM deliveries), (SELECT max(seq) FROM deliveries),
                    (SELECT seq FROM sqlite_sequence WHERE name = 'deliveries')",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let through = last.or(sequence).unwrap_or(0);
        let forgotten = first.map_or(through, |first| first - 1);
        let kept = Kept { through, forgotten, ..Kept::default() };
        let measures = measure(&connection)?;
        let mut writer = Self {
            connection,
            reserve: Reserve::new(&settings.dir),
            max_bytes: settings.max_bytes,
            kept,
            unused: 0,
            _lock: lock,
        };
        writer.measured(measures);
        Ok(writer)
    }

    /// What the spool holds.
    pub(crate) fn kept(&self) -> Kept {
        self.kept
    }

    /// Works until no more deliveries can come and the recorder has stopped. Blocks: for a thread
    /// of its own.
    ///
    /// # Errors
    /// [`SpoolError::Damaged`]. A disk that is full or fails is no reason to end: deliveries are
    /// refused until it takes them again.
    pub(crate) fn run(
        mut self,
        runtime: &Handle,
        mut arrivals: mpsc::Receiver<Arrival>,
        mut recorded: watch::Receiver<Recorded>,
        kept: &watch::Sender<Kept>,
        metrics: &Metrics,
    ) -> Result<(), SpoolError> {
        let mut waiting = Vec::with_capacity(GROUP);
        // When something has to be done, even if nothing arrives.
        let mut due: Option<Instant> = None;
        loop {
            let event = runtime.block_on(async {
                tokio::select! {
                    count = arrivals.recv_many(&mut waiting, GROUP), if !self.kept.closed => Event::Arrived(count),
                    changed = recorded.changed() => if changed.is_ok() { Event::Recorded } else { Event::RecorderEnded },
                    () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::Due,
                }
            });
            match event {
                Event::Arrived(count) => self.kept.closed = count == 0,
                Event::Recorded => {}
                // Nobody will record any more: what arrives now is for the next start.
                Event::RecorderEnded => arrivals.close(),
                Event::Due => self.probe(),
            }
            let done = *recorded.borrow_and_update();
            let mut written = 0;
            while !waiting.is_empty() {
                let group = fitting(&waiting);
                let receipts = self.commit(&waiting[..group], done, metrics)?;
                kept.send_replace(self.kept);
                for (arrival, receipt) in waiting.drain(..group).zip(receipts) {
                    let _ = arrival.receipt.send(receipt);
                }
                written = group;
            }
            gather(&arrivals, written);
            // What is recorded is forgotten along with what arrives, or else before long.
            let urgent = self.kept.closed || self.kept.refusing.is_some();
            if urgent || matches!(event, Event::Due | Event::RecorderEnded) {
                self.forget(done);
                kept.send_replace(self.kept);
            }
            due = match (self.kept.refusing, self.kept.forgotten < done) {
                (None, false) => None,
                (refusing, _) if due.is_none_or(|due| due <= Instant::now()) => {
                    Some(Instant::now() + if refusing.is_some() { RETRY_EVERY } else { FORGET_WITHIN })
                }
                _ => due,
            };
            if self.kept.closed && matches!(event, Event::RecorderEnded) {
                return Ok(());
            }
        }
    }
}

/// What the writer wakes up for.
enum Event {
    /// So many deliveries; none when no more can come.
    Arrived(usize),
    Recorded,
    RecorderEnded,
    /// Time to forget what is recorded, or to try again what did not work.
    Due,
}

/// Lets as many come as were just written, so that they share the next write, too: without it, whoever comes first
/// after a write begins another one, which costs as much for one as for a hundred. A few are not made to wait.
fn gather(arrivals: &mpsc::Receiver<Arrival>, as_many: usize) {
    let until = Instant::now() + GATHER_WITHIN;
    while as_many >= SOME && arrivals.len() < as_many && Instant::now() < until {
        std::thread::sleep(GATHER_STEP);
    }
}

/// How many of those waiting go into one transaction.
fn fitting(waiting: &[Arrival]) -> usize {
    let mut bytes = 0;
    let fits = |arrival: &&Arrival| {
        bytes += arrival.delivery.body.len();
        bytes <= GROUP_BYTES
    };
    waiting.iter().take_while(fits).count().max(1).min(waiting.len())
}

impl Writer {
    /// Makes `group` durable, and forgets along with it. A receipt per arrival.
    fn commit(
        &mut self,
        group: &[Arrival],
        done: Recorded,
        metrics: &Metrics,
    ) -> Result<Vec<Result<(), Refused>>, SpoolError> {
        let begun = Instant::now();
        let size = group.iter().map(|arrival| arrival.delivery.body.len() as u64).sum();
        if self.room() < size {
            self.forget(done);
        }
        let receipts = match self.write(group, done).map_err(SpoolError::from) {
            Ok(receipts) => {
                self.refusing(receipts.iter().find_map(|receipt| receipt.err()), None);
                receipts
            }
            Err(damaged @ SpoolError::Damaged(_)) => return Err(damaged),
            Err(error) => {
                let refused = if disk_full(&error) { Refused::Full } else { Refused::Failing };
                self.refusing(Some(refused), Some(&error));
                // What a failed write left in the log must not be taken for a commit one day (`log.rs`).
                let _ = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
                vec![Err(refused); group.len()]
            }
        };
        metrics.spool_committed(begun.elapsed(), group.len());
        Ok(receipts)
    }

    /// Forgets what went along with no group. On a full disk, with the space of the reserve.
    fn forget(&mut self, done: Recorded) {
        while self.kept.forgotten < done {
            if let Err(error) = self.write(&[], done)
                && !self.reserve.give_up()
            {
                tracing::debug!(%error, "the spool cannot forget yet");
                return;
            }
        }
        self.shrink();
    }

    /// Without webhooks, too, a spool that refused has to find out that it can take them again.
    fn probe(&mut self) {
        if self.kept.refusing.is_some()
            && self.room() > self.max_bytes / 10
            && self.connection.pragma_update(None, "user_version", file::VERSION).is_ok()
        {
            self.refusing(None, None);
        }
    }

    /// One transaction.
    fn write(&mut self, group: &[Arrival], done: Recorded) -> rusqlite::Result<Vec<Result<(), Refused>>> {
        let mut room = if group.is_empty() { 0 } else { self.room() };
        let mut through = self.kept.through;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let outcome = {
            let mut insert = transaction.prepare_cached(INSERT)?;
            group
                .iter()
                .map(|Arrival { delivery, .. }| {
                    let size = delivery.body.len() as u64;
                    if size > room {
                        return Ok(Err(Refused::Full));
                    }
                    room -= size;
                    // Always behind what this process has seen, so that the reader comes to it.
                    Stored::new(delivery).insert(&mut insert, Some(through + 1))?;
                    through += 1;
                    Ok(Ok(()))
                })
                .collect::<rusqlite::Result<Vec<_>>>()?
        };
        let at_most = match Recorded::try_from(group.len()) {
            Ok(0) | Err(_) => FORGET,
            Ok(with) => FORGET_WITH_EACH * with,
        };
        let forgotten = done.min(self.kept.forgotten + at_most).max(self.kept.forgotten);
        if forgotten > self.kept.forgotten {
            transaction.prepare_cached("DELETE FROM deliveries WHERE seq <= ?")?.execute([forgotten])?;
            transaction.prepare_cached("UPDATE forgotten SET through = ?")?.execute([forgotten])?;
        }
        // Within the transaction, which has the locks already.
        let measures = measure(&transaction)?;
        transaction.commit()?;
        self.kept.through = through;
        self.kept.forgotten = forgotten;
        self.measured(measures);
        Ok(outcome)
    }

    /// How many bytes of bodies still fit.
    fn room(&mut self) -> u64 {
        if self.reserve.hold() { self.max_bytes.saturating_sub(self.kept.bytes) } else { 0 }
    }

    fn measured(&mut self, Measures { bytes, unused, oldest }: Measures) {
        (self.kept.bytes, self.kept.oldest, self.unused) = (bytes, oldest, unused);
    }

    /// Gives the disk back what a long backlog took, or what the reserve needs. Cheap by then: what
    /// is left is small.
    fn shrink(&mut self) {
        let enough = if self.reserve.hold() { SHRINK_ABOVE } else { 0 };
        if self.unused > enough && self.kept.bytes < SHRINK_BELOW {
            let shrunk = self.connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(PASSIVE)");
            match shrunk.and_then(|()| measure(&self.connection)) {
                Ok(measures) => {
                    self.measured(measures);
                    tracing::info!("the spool gave its space back after a backlog");
                }
                Err(error) => tracing::debug!(%error, "the spool could not give its space back yet"),
            }
        }
    }

    /// Says so when the spool begins or ends to refuse deliveries.
    fn refusing(&mut self, refused: Option<Refused>, cause: Option<&SpoolError>) {
        let before = std::mem::replace(&mut self.kept.refusing, refused);
        match refused {
            _ if refused == before => {}
            None => tracing::info!("the spool takes deliveries again"),
            Some(why) => {
                let cause = cause.map(tracing::field::display);
                tracing::error!(cause, "{why}: deliveries are answered 503");
            }
        }
    }
}

/// What the file holds.
struct Measures {
    /// In use, in bytes.
    bytes: u64,
    /// The part of it that holds nothing, in bytes.
    unused: u64,
    oldest: Option<OffsetDateTime>,
}

fn measure(connection: &Connection) -> rusqlite::Result<Measures> {
    let pragma = |name: &str| -> rusqlite::Result<u64> {
        let value: i64 =
            connection.prepare_cached(&format!("PRAGMA {name}"))?.query_row([], |row| row.get(0))?;
        Ok(value.unsigned_abs())
    };
    let (free, page_size) = (pragma("freelist_count")?, pragma("page_size")?);
    let oldest = connection
        .prepare_cached("SELECT received_at FROM deliveries ORDER BY seq LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(Measures {
        bytes: (pragma("page_count")? - free) * page_size,
        unused: free * page_size,
        oldest: oldest.map(from_micros),
    })
}

fn disk_full(error: &SpoolError) -> bool {
    matches!(error, SpoolError::Disk(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
}
