//! What is recorded next, and what beside it.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use crate::spool::{Kept, Limits, Reader, Recorded, Seq, SpoolError, Spooled};
use crate::store::Item;

/// With nothing to record, how often PostgreSQL is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How far apart batches are at least that are not whole: a transaction costs PostgreSQL as much for one delivery as
/// for fifty.
const APART: Duration = Duration::from_millis(5);
/// The same while others are being recorded: what is not whole will be more by the time they are done, but it does not
/// wait for ever for one that is held up.
const APART_BEHIND_OTHERS: Duration = Duration::from_secs(1);
/// How many batches may be in hand: behind one that is held up, so many are recorded and still in the spool. After a
/// crash they are recorded again.
const WINDOW: usize = 128;

/// The deliveries in the spool, a batch at a time, in the order of arrival.
pub(super) struct Feed {
    /// Here, or on a thread where it may wait for the disk.
    reader: Option<Reader>,
    reading: Option<JoinHandle<Read>>,
    limits: Limits,
    kept: watch::Receiver<Kept>,
    /// The last delivery that was read, and when.
    at: Seq,
    read_at: Instant,
    /// So many deliveries are a whole batch: as many as may be, or as the last one held that left some behind.
    whole_batch: i64,
    in_hand: watch::Receiver<VecDeque<Batch>>,
}

/// What a thread gives back.
type Read = (Reader, Result<Vec<Spooled>, SpoolError>);

/// What [`Feed::next`] comes to.
pub(super) enum Next {
    /// All deliveries up to this one, which may be none: somebody has deleted what the spool held.
    Batch(Vec<Spooled>, Seq),
    /// Nothing for a while.
    Nothing,
    /// Nothing any more.
    Ended,
}

impl Feed {
    pub(super) fn new(reader: Reader, limits: Limits, kept: watch::Receiver<Kept>, in_hand: &InHand) -> Self {
        let at = kept.borrow().forgotten;
        let whole_batch = i64::try_from(limits.rows).unwrap_or(i64::MAX);
        Self {
            reader: Some(reader),
            reading: None,
            limits,
            kept,
            at,
            read_at: Instant::now(),
            whole_batch,
            in_hand: in_hand.0.subscribe(),
        }
    }

    /// Waits for a batch: a whole one, or less than that after a moment.
    pub(super) async fn next(&mut self) -> Result<Next, SpoolError> {
        loop {
            let kept = *self.kept.borrow_and_update();
            let (waiting, alone) = (kept.through - self.at, self.in_hand.borrow_and_update().is_empty());
            let whole = waiting >= self.whole_batch;
            let due = self.read_at + if alone { APART } else { APART_BEHIND_OTHERS };
            if whole || waiting > 0 && (due <= Instant::now() || kept.closed) {
                let batch = self.read().await?;
                self.read_at = Instant::now();
                self.at = batch.last().map_or(kept.through, |last| last.seq);
                let whole = if self.at < kept.through { batch.len() } else { self.limits.rows };
                self.whole_batch = i64::try_from(whole).unwrap_or(i64::MAX);
                return Ok(Next::Batch(batch, self.at));
            }
            if waiting == 0 && kept.closed {
                return Ok(Next::Ended);
            }
            tokio::select! {
                changed = self.kept.changed() => if changed.is_err() { return Ok(Next::Ended) },
                changed = self.in_hand.changed() => if changed.is_err() { return Ok(Next::Ended) },
                () = sleep_until(due), if waiting > 0 => {}
                () = sleep(PING_EVERY), if waiting == 0 && alone => return Ok(Next::Nothing),
            }
        }
    }

    async fn read(&mut self) -> Result<Vec<Spooled>, SpoolError> {
        let (after, limits) = (self.at, self.limits);
        let mut reader = self.reader.take().ok_or(SpoolError::ReaderLost)?;
        let read = spawn_blocking(move || {
            let batch = reader.next(after, limits);
            (reader, batch)
        });
        let read = self.reading.insert(read).await;
        self.reading = None;
        let (reader, batch) = read.map_err(|_| SpoolError::ReaderLost)?;
        self.reader = Some(reader);
        batch
    }

    /// Closes the spool, once a read that was given up is over, too: only then may others have it.
    pub(super) async fn close(self) {
        if let Some(reading) = self.reading {
            let _ = reading.await;
        }
    }
}

/// The batches that are being recorded, and those recorded behind one that is not yet, in the order of arrival.
#[derive(Clone, Default)]
pub(super) struct InHand(watch::Sender<VecDeque<Batch>>);

struct Batch {
    through: Seq,
    /// Which executions it is about: hashes of their identifiers.
    executions: HashSet<u32>,
    recorded: bool,
}

impl InHand {
    /// Takes a batch in hand, as soon as none of its executions is in another, and no more than a window of them are: so
    /// an execution's deliveries are recorded in the order in which they came, and few are recorded again after a crash.
    pub(super) async fn take(&self, items: &[Item<'_>], through: Seq) {
        let hashes = items.iter().filter_map(Item::execution_id).map(|id| crc32fast::hash(id.as_bytes()));
        let executions: HashSet<u32> = hashes.collect();
        let apart = |batches: &VecDeque<Batch>| {
            let mut others = batches.iter().filter(|other| !other.recorded);
            batches.len() < WINDOW && others.all(|other| other.executions.is_disjoint(&executions))
        };
        let _ = self.0.subscribe().wait_for(apart).await;
        self.0.send_modify(|batches| batches.push_back(Batch { through, executions, recorded: false }));
    }

    /// A batch is recorded. What all before it are, too, is told to `recorded`.
    pub(super) fn done(&self, through: Seq, recorded: &watch::Sender<Recorded>) {
        self.0.send_modify(|batches| {
            for batch in batches.iter_mut().filter(|batch| batch.through == through) {
                batch.recorded = true;
            }
            while let Some(first) = batches.pop_front_if(|first| first.recorded) {
                recorded.send_replace(first.through);
            }
        });
    }
}
