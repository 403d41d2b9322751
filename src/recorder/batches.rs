//! Reads the next batch from the spool.

use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
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

/// The spool's reader on a thread of its own, shared by the workers and the retries of stuck deliveries. Not on a thread of
/// the runtime: while the system allows no further thread, the runtime queues the read, and may never run it.
#[derive(Clone)]
pub(super) struct SharedReader(mpsc::Sender<Request>);

enum Request {
    Read {
        after: Seq,
        limits: BatchLimits,
        result: oneshot::Sender<Result<Vec<SpooledDelivery>, SpoolError>>,
    },
    Close {
        closed: oneshot::Sender<()>,
    },
}

impl SharedReader {
    pub(super) fn new(reader: Reader) -> Result<Self, SpoolError> {
        let (requests, mut waiting) = mpsc::channel(1);
        let serve = move || {
            let mut reader = reader;
            while let Some(request) = waiting.blocking_recv() {
                match request {
                    Request::Read { after, limits, result } => _ = result.send(reader.next(after, limits)),
                    Request::Close { closed } => {
                        drop(reader);
                        let _ = closed.send(());
                        return;
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("spool reader".to_owned()).spawn(serve);
        thread.map_err(SpoolError::ReaderNotStarted)?;
        Ok(Self(requests))
    }

    /// Reads deliveries after `after`, as many as `limits` allow. Waits while the spool's files are changed and not replaced.
    pub(super) async fn next(
        &self,
        after: Seq,
        limits: BatchLimits,
    ) -> Result<Vec<SpooledDelivery>, SpoolError> {
        loop {
            let (result, read) = oneshot::channel();
            let request = Request::Read { after, limits, result };
            self.0.send(request).await.map_err(|_| SpoolError::ReaderLost)?;
            match read.await.map_err(|_| SpoolError::ReaderLost)? {
                Err(SpoolError::FilesChanged(_)) => sleep(FILES_CHANGED_PAUSE).await,
                read => return read,
            }
        }
    }

    /// Waits for a cancelled read to end, and closes the spool: then another process may open it.
    pub(super) async fn close(self) {
        let (closed, done) = oneshot::channel();
        if self.0.send(Request::Close { closed }).await.is_ok() {
            let _ = done.await;
        }
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
    /// The spool is closed, and all its deliveries were read.
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
        let idle_at = Instant::now() + KEEPALIVE_INTERVAL;
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
                () = sleep_until(idle_at), if waiting == 0 && !busy => return Ok(Poll::Idle),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use tokio::runtime;
    use tokio::task::spawn_blocking;
    use tokio::time::timeout;

    use super::*;
    use crate::config;
    use crate::metrics::Metrics;
    use crate::spool::{Spool, open};

    fn open_spool(dir: &Path) -> Spool {
        let settings =
            config::Spool { dir: dir.to_owned(), max_bytes: 1 << 30, lock_timeout: Duration::ZERO };
        open(&settings, 1, &Arc::new(Metrics::new())).unwrap()
    }

    #[tokio::test]
    async fn an_empty_spool_whose_status_changes_all_the_time_is_idle() {
        let dir = tempfile::tempdir().unwrap();
        let (status, status_rx) = watch::channel(SpoolStatus::default());
        let reader = SharedReader::new(open_spool(dir.path()).reader).unwrap();
        let limits = BatchLimits { rows: 1, bytes: 1 };
        let in_flight = InFlight::default();
        let mut source = BatchSource::new(reader, limits, status_rx, &in_flight);
        let changes = async {
            loop {
                status.send_replace(SpoolStatus::default());
                sleep(KEEPALIVE_INTERVAL / 50).await;
            }
        };
        tokio::select! {
            () = changes => {}
            poll = timeout(KEEPALIVE_INTERVAL * 6, source.next()) => assert!(matches!(poll, Ok(Ok(Poll::Idle)))),
        }
    }

    /// A runtime without a free thread behaves as one that cannot start a thread.
    #[test]
    fn a_read_needs_no_further_thread_of_the_runtime() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open_spool(dir.path());
        let reader = spool.reader;
        // Without its writer, the reader checks nothing.
        drop(spool.writer);
        let runtime =
            runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
        let (release, released) = std::sync::mpsc::channel::<()>();
        runtime.block_on(async {
            let occupied = spawn_blocking(move || released.recv());
            let reader = SharedReader::new(reader).unwrap();
            let read = reader.next(0, BatchLimits { rows: 1, bytes: 1 });
            let batch = timeout(Duration::from_secs(30), read).await.expect("the read ends").unwrap();
            assert!(batch.is_empty());
            timeout(Duration::from_secs(30), reader.close()).await.expect("the reader is closed");
            drop(release);
            let _ = occupied.await;
        });
    }
}
