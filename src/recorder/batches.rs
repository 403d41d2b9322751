//! Reads the next batch from the spool.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::in_flight::{InFlight, InFlightBatch, is_busy};
use crate::spool::{BatchLimits, Reader, Seq, SpoolError, SpoolStatus, SpooledDelivery};

/// How often PostgreSQL is pinged while no delivery waits.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Minimum time between batches that are not full: a transaction costs PostgreSQL as much for one delivery as for
/// fifty.
const MIN_BATCH_INTERVAL: Duration = Duration::from_millis(5);
/// Minimum time while another batch is being recorded. It is longer, so that the next batch becomes larger.
const MIN_BATCH_INTERVAL_BUSY: Duration = Duration::from_secs(1);

/// The pause between reads while the spool's files are changed and not replaced.
const FILES_CHANGED_PAUSE: Duration = Duration::from_secs(1);

/// The spool's reader, shared by the workers and the retries of stuck deliveries.
#[derive(Clone)]
pub(super) struct SharedReader(Arc<Mutex<Option<Reader>>>);

impl SharedReader {
    pub(super) fn new(reader: Reader) -> Self {
        Self(Arc::new(Mutex::new(Some(reader))))
    }

    /// Reads deliveries after `after`, as many as `limits` allow. Waits while the spool's files are changed and not replaced.
    pub(super) async fn next(
        &self,
        after: Seq,
        limits: BatchLimits,
    ) -> Result<Vec<SpooledDelivery>, SpoolError> {
        loop {
            match self.read(after, limits).await {
                Err(SpoolError::FilesChanged(_)) => sleep(FILES_CHANGED_PAUSE).await,
                read => return read,
            }
        }
    }

    async fn read(&self, after: Seq, limits: BatchLimits) -> Result<Vec<SpooledDelivery>, SpoolError> {
        let reader = self.0.clone();
        let read = spawn_blocking(move || {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.as_mut().ok_or(SpoolError::ReaderLost)?.next(after, limits)
        });
        read.await.map_err(|_| SpoolError::ReaderLost)?
    }

    /// Waits for a cancelled read to end, and closes the spool: then another process may open it.
    pub(super) async fn close(self) {
        let close = move || drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = spawn_blocking(close).await;
    }
}

/// The deliveries in the spool, a batch at a time, in the order of arrival.
pub(super) struct BatchSource {
    reader: SharedReader,
    limits: BatchLimits,
    spool: watch::Receiver<SpoolStatus>,
    /// The last delivery that was read.
    read_through: Seq,
    read_at: Instant,
    /// Size of a full batch: the row limit, or the size of the last batch that the byte limit cut short.
    full_batch: i64,
    in_flight: watch::Receiver<VecDeque<InFlightBatch>>,
}

/// The result of [`BatchSource::next`].
pub(super) enum Poll {
    /// The next deliveries, up to this position; empty if another program deleted the rows.
    Batch(Vec<SpooledDelivery>, Seq),
    /// Nothing arrived for [`KEEPALIVE_INTERVAL`].
    Idle,
    /// The spool is closed and empty.
    Closed,
}

impl BatchSource {
    pub(super) fn new(
        reader: SharedReader,
        limits: BatchLimits,
        spool: watch::Receiver<SpoolStatus>,
        in_flight: &InFlight,
    ) -> Self {
        let read_through = spool.borrow().acked_seq;
        let full_batch = i64::try_from(limits.rows).unwrap_or(i64::MAX);
        Self {
            reader,
            limits,
            spool,
            read_through,
            read_at: Instant::now(),
            full_batch,
            in_flight: in_flight.subscribe(),
        }
    }

    /// Waits for a batch: a full one, or a smaller one after [`MIN_BATCH_INTERVAL`].
    pub(super) async fn next(&mut self) -> Result<Poll, SpoolError> {
        loop {
            let spool = *self.spool.borrow_and_update();
            let waiting = spool.last_seq - self.read_through;
            let busy = is_busy(&self.in_flight.borrow_and_update());
            let full = waiting >= self.full_batch;
            let due = self.read_at + if busy { MIN_BATCH_INTERVAL_BUSY } else { MIN_BATCH_INTERVAL };
            if full || waiting > 0 && (due <= Instant::now() || spool.closed) {
                let batch = self.reader.next(self.read_through, self.limits).await?;
                self.read_at = Instant::now();
                self.read_through = batch.last().map_or(spool.last_seq, |last| last.seq);
                let full_batch =
                    if self.read_through < spool.last_seq { batch.len() } else { self.limits.rows };
                self.full_batch = i64::try_from(full_batch).unwrap_or(i64::MAX);
                return Ok(Poll::Batch(batch, self.read_through));
            }
            if waiting == 0 && spool.closed {
                return Ok(Poll::Closed);
            }
            tokio::select! {
                changed = self.spool.changed() => if changed.is_err() { return Ok(Poll::Closed) },
                changed = self.in_flight.changed() => if changed.is_err() { return Ok(Poll::Closed) },
                () = sleep_until(due), if waiting > 0 => {}
                () = sleep(KEEPALIVE_INTERVAL), if waiting == 0 && !busy => return Ok(Poll::Idle),
            }
        }
    }
}
