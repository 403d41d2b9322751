//! The background worker: records deliveries from the spool in PostgreSQL, in the order of arrival.
//!
//! Workers take batches in turns (`batches.rs`) and record them concurrently, as long as the batches share no execution
//! (`in_flight.rs`). A batch is acked to the spool once it and all earlier batches are recorded. After a crash the
//! recorder continues with the deliveries that the spool still holds; recording one twice is harmless, because the
//! database deduplicates. `attempt.rs` handles failures, and `stuck.rs` holds the deliveries that fail while others are
//! recorded.

mod attempt;
mod batch_part;
mod batches;
mod canary;
mod in_flight;
mod log;
mod retry;
mod sequencer;
mod stuck;
mod throttle;
mod trace;
mod view;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::batch_part::BatchPart;
use self::batches::{BatchSource, Poll, SharedReader};
use self::in_flight::InFlight;
pub(crate) use self::sequencer::Sequencer;
use self::stuck::StuckList;
pub(crate) use self::stuck::StuckStatus;
use self::throttle::should_throttle;
pub(crate) use self::view::RecorderView;
use crate::db::{Bounds, ConnectionPool, DbError};
use crate::logging::LineLimit;
use crate::metrics::Metrics;
use crate::spool::{AckHandle, BatchLimits, Reader, Seq, SpoolError, SpoolStatus, UnverifiedSize};
use crate::traces::Traces;

/// The state of recording, for health checks.
#[derive(Debug, Clone, Default)]
pub(crate) enum RecorderHealth {
    /// No connection to PostgreSQL was tried yet.
    #[default]
    Starting,
    /// The last transaction succeeded.
    Working,
    /// PostgreSQL records nothing now.
    Failing { since: OffsetDateTime, why: DbError },
}

pub(crate) struct Recorder {
    pub(crate) pool: Arc<ConnectionPool>,
    /// Time limit of an attempt, once it has a connection.
    pub(crate) statement_timeout: Duration,
    pub(crate) limits: BatchLimits,
    /// How many batches are recorded concurrently.
    pub(crate) connections: usize,
    pub(crate) bounds: Bounds,
    pub(crate) max_backoff: Duration,
    pub(crate) metrics: Arc<Metrics>,
    /// `None` when traces are off.
    pub(crate) traces: Option<Traces>,
    pub(crate) spool: watch::Receiver<SpoolStatus>,
    pub(crate) health: watch::Sender<RecorderHealth>,
    pub(crate) sequencer: Sequencer,
    /// The unsigned deliveries that were recorded since the start, whatever their disposition.
    pub(crate) unverified: watch::Sender<UnverifiedSize>,
    /// Cancelled when the time to drain the spool is over.
    pub(crate) give_up: CancellationToken,
    pub(crate) shared: SharedState,
}

/// Minimum time between two log lines about dropped deliveries.
const LOG_DROPPED_INTERVAL: Duration = Duration::from_secs(10);

/// The state that the workers share.
pub(crate) struct SharedState {
    /// The number of tasks that wait because PostgreSQL records nothing: workers, and the task that retries stuck
    /// deliveries.
    failing: AtomicUsize,
    /// Limits the log lines about deliveries that are not stored in quarantine.
    quarantine_dropped: LineLimit,
    /// Limits the log lines about conflicts that are not stored.
    conflicts_dropped: LineLimit,
    stuck: StuckList,
    /// When an idle recorder last ran a canary.
    canary_at: parking_lot::Mutex<Option<Instant>>,
}

impl SharedState {
    pub(crate) fn new(stuck: watch::Sender<StuckStatus>, acks: AckHandle) -> Self {
        Self {
            failing: AtomicUsize::new(0),
            quarantine_dropped: LineLimit::every(LOG_DROPPED_INTERVAL),
            conflicts_dropped: LineLimit::every(LOG_DROPPED_INTERVAL),
            stuck: StuckList::new(stuck, acks),
            canary_at: parking_lot::Mutex::default(),
        }
    }
}

impl Recorder {
    /// Records until the spool is closed and empty, or until `give_up`.
    ///
    /// # Errors
    /// [`SpoolError`] when the spool cannot be read. An error of PostgreSQL never ends the recorder.
    pub(crate) async fn run(self, reader: Reader) -> Result<(), SpoolError> {
        let in_flight = InFlight::default();
        let reader = SharedReader::new(reader)?;
        let source = BatchSource::new(reader.clone(), self.limits, self.spool.clone(), &in_flight);
        let source = Mutex::new(source);
        let record = async {
            // Before the first delivery: creates the schema, and reports to health checks whether PostgreSQL answers.
            self.ping().await;
            self.shared.stuck.set_handled(self.spool.borrow().acked_seq);
            tokio::try_join!(self.run_workers(&source, &in_flight), self.retry_stuck(reader.clone()))
        };
        let result = tokio::select! {
            result = record => result.map(|_| ()),
            () = self.give_up.cancelled() => Ok(()),
            never = self.sequencer.run() => match never {},
        };
        tokio::select! {
            () = self.sequencer.finish() => {}
            () = self.give_up.cancelled() => {}
        }
        self.log_dropped(LineLimit::rest);
        reader.close().await;
        result
    }

    async fn run_workers(&self, source: &Mutex<BatchSource>, in_flight: &InFlight) -> Result<(), SpoolError> {
        try_join_all((0..self.connections).map(|_| self.worker(source, in_flight))).await?;
        self.shared.stuck.close();
        Ok(())
    }

    /// Records batches until the spool is closed and all its deliveries were read. A worker locks `source` until its batch is
    /// admitted.
    async fn worker(&self, source: &Mutex<BatchSource>, in_flight: &InFlight) -> Result<(), SpoolError> {
        loop {
            let mut source_guard = source.lock().await;
            let (batch, through) = match source_guard.next().await? {
                Poll::Batch(batch, through) => (batch, through),
                Poll::Idle => {
                    drop(source_guard);
                    self.log_dropped(LineLimit::due);
                    self.ping().await;
                    continue;
                }
                Poll::Closed => return Ok(()),
            };
            let part = BatchPart::from_spooled(&batch);
            in_flight.admit(part.items(), through).await;
            drop(source_guard);
            let (begun, before) =
                (Instant::now(), (self.spool.borrow().last_seq, self.shared.stuck.acked_seq()));
            self.record_batch(part).await;
            in_flight.complete(through, |through| self.shared.stuck.set_handled(through));
            let (took, status) = (begun.elapsed(), *self.spool.borrow());
            let (arrived, recorded) = (status.last_seq - before.0, self.shared.stuck.acked_seq() - before.1);
            let recorded = recorded.max(Seq::try_from(batch.len()).unwrap_or(Seq::MAX));
            if status.rejecting.is_none() && should_throttle(&batch, arrived, recorded) {
                // Holding the source pauses the other workers, too.
                let _guard = source.lock().await;
                let mut spool = self.spool.clone();
                let urgent = spool.wait_for(|spool| spool.closed || spool.rejecting.is_some());
                let _ = timeout(throttle::pause(took), urgent).await;
            }
        }
    }
}
