//! The background worker: from the spool to PostgreSQL, in the order of arrival.
//!
//! Workers take batches in turns (`batches.rs`) and record them at the same time, as long as they share no execution
//! (`in_flight.rs`). A batch is acknowledged to the spool once it and all before it are recorded. After a crash the
//! recorder continues with what the spool still holds; recording twice is harmless, since the database deduplicates.
//! `attempt.rs` says what happens when recording fails, and `stuck.rs` what becomes of deliveries that fail alone.

mod attempt;
mod batches;
pub(crate) mod events;
mod in_flight;
mod pool;
mod stuck;
mod throttle;
mod trace;

use std::mem::discriminant;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::field::display;

use self::attempt::Part;
use self::batches::{BatchSource, Poll, SharedReader};
use self::in_flight::InFlight;
pub(crate) use self::pool::ConnectionPool;
pub(crate) use self::stuck::Stuck;
use self::stuck::StuckList;
use self::throttle::should_throttle;
use crate::db::{Bounds, DbError, RecordItem};
use crate::delivery::Disposition;
use crate::metrics::Metrics;
use crate::recorder::events::EventBus;
use crate::spool::{AckHandle, BatchLimits, Reader, Seq, SpoolError, SpoolStatus};
use crate::traces::Traces;

/// How recording goes, for health checks.
#[derive(Debug, Clone, Default)]
pub(crate) enum RecorderHealth {
    /// No connection to PostgreSQL was tried yet.
    #[default]
    Starting,
    /// The last transaction succeeded.
    Working,
    /// PostgreSQL records nothing now.
    Failing {
        /// Since when.
        since: OffsetDateTime,
        /// Why.
        why: DbError,
    },
}

/// What a recorder needs.
pub(crate) struct Recorder {
    pub(crate) sessions: ConnectionPool,
    /// How long an attempt may take, once it has a connection.
    pub(crate) statement_timeout: Duration,
    pub(crate) limits: BatchLimits,
    /// How many batches are recorded at the same time.
    pub(crate) connections: usize,
    pub(crate) bounds: Bounds,
    pub(crate) max_backoff: Duration,
    pub(crate) metrics: Arc<Metrics>,
    /// `None` when traces are off.
    pub(crate) traces: Option<Traces>,
    /// What the spool holds.
    pub(crate) kept: watch::Receiver<SpoolStatus>,
    /// Acknowledges deliveries to the spool.
    pub(crate) recorded: AckHandle,
    /// Publishes how recording goes.
    pub(crate) recording: watch::Sender<RecorderHealth>,
    /// Publishes which deliveries are stuck.
    pub(crate) stuck: watch::Sender<Stuck>,
    /// Publishes committed changes.
    pub(crate) live: EventBus,
    /// The time to drain the spool is over.
    pub(crate) give_up: CancellationToken,
    pub(crate) state: State,
}

/// What the workers share.
#[derive(Default)]
pub(crate) struct State {
    /// Workers, and the task of the stuck deliveries, whose last attempt failed since PostgreSQL records nothing.
    failing: AtomicUsize,
    /// Dropped deliveries and conflicts that the log does not say yet, and when it last did.
    dropped: std::sync::Mutex<(usize, usize, Option<Instant>)>,
    stuck: StuckList,
    /// When an idle recorder last checked that PostgreSQL records.
    canary_at: std::sync::Mutex<Option<Instant>>,
}

impl Recorder {
    /// Records until the spool is closed and empty, or until `give_up`.
    ///
    /// # Errors
    /// [`SpoolError`] when the spool cannot be read. PostgreSQL is never a reason to end.
    pub(crate) async fn run(self, reader: Reader) -> Result<(), SpoolError> {
        let in_flight = InFlight::default();
        let reader = SharedReader::new(reader);
        let source = BatchSource::new(reader.clone(), self.limits, self.kept.clone(), &in_flight);
        let source = Mutex::new(source);
        let record = async {
            // Before the first delivery: the schema is made, and health checks know.
            self.ping().await;
            self.state.stuck.handled(self.kept.borrow().acked_seq, &self.report());
            let workers = async {
                try_join_all((0..self.connections).map(|_| self.worker(&source, &in_flight))).await?;
                self.state.stuck.close();
                Ok(())
            };
            tokio::try_join!(workers, self.retry_stuck(reader.clone()))
        };
        let ended = tokio::select! {
            ended = record => ended.map(|_| ()),
            () = self.give_up.cancelled() => Ok(()),
        };
        reader.close().await;
        ended
    }

    /// Records one batch after the other.
    async fn worker(&self, source: &Mutex<BatchSource>, in_flight: &InFlight) -> Result<(), SpoolError> {
        loop {
            let mut turn = source.lock().await;
            let (batch, through) = match turn.next().await? {
                Poll::Batch(batch, through) => (batch, through),
                Poll::Idle => {
                    drop(turn);
                    self.ping().await;
                    continue;
                }
                Poll::Closed => return Ok(()),
            };
            let part = Part::read(&batch);
            in_flight.admit(part.items().iter(), through).await;
            drop(turn);
            let (begun, before) = (Instant::now(), (self.kept.borrow().last_seq, self.recorded.acked_seq()));
            self.record_batch(part).await;
            in_flight.complete(through, |through| self.state.stuck.handled(through, &self.report()));
            let (took, now) = (begun.elapsed(), *self.kept.borrow());
            let (arrived, recorded) = (now.last_seq - before.0, self.recorded.acked_seq() - before.1);
            let recorded = recorded.max(Seq::try_from(batch.len()).unwrap_or(Seq::MAX));
            if now.rejecting.is_none() && should_throttle(&batch, arrived, recorded) {
                let _turn = source.lock().await;
                let mut kept = self.kept.clone();
                let urgent = kept.wait_for(|kept| kept.closed || kept.rejecting.is_some());
                let _ = timeout(throttle::pause(took), urgent).await;
            }
        }
    }

    /// A transaction succeeded. While another batch fails, health checks show that.
    fn on_success(&self) {
        if self.state.failing.load(Ordering::Relaxed) > 0 {
            return;
        }
        self.metrics.database_up(true);
        let before = self.recording.send_replace(RecorderHealth::Working);
        if !matches!(before, RecorderHealth::Working) {
            tracing::info!("recording to PostgreSQL");
        }
    }

    /// PostgreSQL records nothing now. The log says so once, and again for a fault of another kind.
    fn on_failure(&self, fault: DbError) {
        self.metrics.database_up(false);
        self.recording.send_modify(|recording| {
            let (since, news) = match recording {
                RecorderHealth::Failing { since, why } => (*since, discriminant(why) != discriminant(&fault)),
                _ => (OffsetDateTime::now_utc(), true),
            };
            if news {
                tracing::error!("deliveries cannot be recorded yet, they wait in the spool: {fault}");
            }
            *recording = RecorderHealth::Failing { since, why: fault };
        });
    }

    fn log_outcomes(&self, items: &[RecordItem<'_>], outcomes: &[Disposition]) {
        let (mut dropped, mut conflicts) = (0, 0);
        for (item, outcome) in items.iter().zip(outcomes) {
            self.metrics.recorded(*outcome);
            let execution_id = item.execution_id();
            let trace_id = item.trace().map(|trace| display(trace.trace_id));
            match outcome {
                Disposition::Conflict => tracing::warn!(
                    execution_id,
                    trace_id,
                    "a delivery contradicts the recorded outcome: it is stored in execution_conflicts"
                ),
                Disposition::Quarantined => {
                    tracing::warn!(trace_id, "a delivery that cannot be recorded is stored in quarantine");
                }
                // There may be many: logged together, below.
                Disposition::Dropped => dropped += 1,
                Disposition::ConflictDropped => conflicts += 1,
                _ => tracing::debug!(execution_id, outcome = outcome.as_str(), trace_id, "recorded"),
            }
            if let Some(fault) = item.degraded_by()
                && matches!(outcome, Disposition::New | Disposition::Replacement | Disposition::Conflict)
            {
                self.metrics.degraded();
                tracing::warn!(
                    execution_id,
                    trace_id,
                    "parts of an execution are stored as bytes only (`workflow-receiver repair` tries again): {fault}"
                );
            }
        }
        if dropped > 0 {
            self.metrics.quarantine_dropped(dropped);
        }
        if dropped + conflicts > 0 {
            self.log_dropped(dropped, conflicts);
        }
        if let Some(oldest) = items.iter().map(RecordItem::received_at).min() {
            self.metrics.batch_recorded(items.len(), oldest);
        }
    }
}
