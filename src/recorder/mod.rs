//! The background worker: from the spool to PostgreSQL, in the order of arrival.
//!
//! It reads a batch (`feed.rs`), records it over some connection (`sessions.rs`), and only then lets the spool forget
//! it; what waits behind it is recorded meanwhile. After a crash it goes on with what the spool still holds; recording
//! twice is harmless, since the database dedupes. While PostgreSQL is away it tries again, ever less often, for ever; a
//! row that PostgreSQL does not accept is found by halving its batch, so it holds up nobody. While more comes in than
//! can be taken in fast and recorded at once, recording gives way for some seconds.

mod feed;
mod sessions;

use std::mem::discriminant;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::try_join_all;
use rand::RngExt;
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::field::display;

use self::feed::{Feed, InHand, Next};
pub(crate) use self::sessions::Sessions;
use crate::config;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::spool::{Kept, Limits, Reader, Recorded, Seq, SpoolError, Spooled};
use crate::store::{Fault, Item, Outcome};
use crate::traces::Traces;

/// The first wait after a failure; each further one is twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// A batch of fewer deliveries holds up nobody.
const SMALL: usize = 200;
/// How often PostgreSQL may fail over a single delivery before it is weakened.
const BREAKS: u32 = 10;
/// How old what waits may be for recording to give way to what comes in, and how long it rests at most: a PostgreSQL
/// that takes longer for a batch is not in the way.
const GIVES_WAY_UP_TO: Duration = Duration::from_secs(10);
/// How many times as long as it has worked.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_millis(100);
/// How often the log says that the quarantine is full.
const TELL_DROPPED_EVERY: Duration = Duration::from_secs(10);

/// How recording goes, for health checks.
#[derive(Debug, Clone, Default)]
pub(crate) enum Recording {
    /// PostgreSQL has not been spoken to yet.
    #[default]
    Starting,
    /// The last thing said to PostgreSQL worked.
    Working,
    /// It did not.
    Failing {
        /// Since when.
        since: OffsetDateTime,
        /// Why.
        why: Fault,
    },
}

/// Whether recording rests after a batch, so that a burst is taken in fast and recorded a little later: at least
/// half as many deliveries `came` meanwhile as were `recorded`. A small batch holds up nobody. What is old is recorded
/// as fast as can be, or a burst that does not end would grow the backlog until the spool is full.
fn gives_way(batch: &[Spooled], came: Seq, recorded: Seq) -> bool {
    let fresh = |first: &Spooled| {
        let age = OffsetDateTime::now_utc() - first.delivery.received_at;
        // What came in the future came before the clock was put back.
        !age.is_negative() && age < GIVES_WAY_UP_TO
    };
    batch.len() >= SMALL && came >= recorded / 2 && batch.first().is_some_and(fresh)
}

/// What a recorder needs.
pub(crate) struct Recorder {
    pub(crate) sessions: Sessions,
    /// How long an attempt may take, once it has a connection.
    pub(crate) statement_timeout: Duration,
    pub(crate) limits: Limits,
    /// How many batches are recorded at once.
    pub(crate) connections: usize,
    pub(crate) quarantine: config::Quarantine,
    pub(crate) max_backoff: Duration,
    pub(crate) metrics: Arc<Metrics>,
    /// `None` when traces are off.
    pub(crate) traces: Option<Traces>,
    /// What the spool holds.
    pub(crate) kept: watch::Receiver<Kept>,
    /// Where it says what the spool may forget.
    pub(crate) recorded: watch::Sender<Recorded>,
    /// Where it says how it goes.
    pub(crate) recording: watch::Sender<Recording>,
    /// Where it tells what it has recorded.
    pub(crate) live: Live,
    /// The time to drain the spool is over.
    pub(crate) give_up: CancellationToken,
    pub(crate) state: State,
}

/// What those who record have in common.
#[derive(Default)]
pub(crate) struct State {
    /// How many batches in hand failed when last tried.
    failing: AtomicUsize,
    /// Deliveries that were dropped since the log said so, and when it did.
    dropped: std::sync::Mutex<(usize, Option<Instant>)>,
}

impl Recorder {
    /// Records until the spool is closed and empty, or until `give_up`.
    ///
    /// # Errors
    /// [`SpoolError`] when the spool cannot be read. PostgreSQL is never a reason to end.
    pub(crate) async fn run(self, reader: Reader) -> Result<(), SpoolError> {
        let in_hand = InHand::default();
        let feed = Mutex::new(Feed::new(reader, self.limits, self.kept.clone(), &in_hand));
        let ended = tokio::select! {
            ended = self.work(&feed, &in_hand) => ended,
            () = self.give_up.cancelled() => Ok(()),
        };
        feed.into_inner().close().await;
        ended
    }

    async fn work(&self, feed: &Mutex<Feed>, in_hand: &InHand) -> Result<(), SpoolError> {
        // With nothing to record yet: the schema is made, and health checks know.
        self.ping().await;
        try_join_all((0..self.connections).map(|_| self.follow(feed, in_hand))).await?;
        Ok(())
    }

    /// Records a batch after the other, in turns with others that do so.
    async fn follow(&self, feed: &Mutex<Feed>, in_hand: &InHand) -> Result<(), SpoolError> {
        loop {
            let mut turn = feed.lock().await;
            let (batch, through) = match turn.next().await? {
                Next::Batch(batch, through) => (batch, through),
                Next::Nothing => {
                    drop(turn);
                    self.ping().await;
                    continue;
                }
                Next::Ended => return Ok(()),
            };
            let items: Vec<Item<'_>> = batch.iter().map(Item::read).collect();
            in_hand.take(&items, through).await;
            drop(turn);
            let (begun, before) = (Instant::now(), (self.kept.borrow().through, *self.recorded.borrow()));
            self.record(items).await;
            in_hand.done(through, &self.recorded);
            let (took, now) = (begun.elapsed(), *self.kept.borrow());
            let (came, recorded) = (now.through - before.0, *self.recorded.borrow() - before.1);
            let recorded = recorded.max(Seq::try_from(batch.len()).unwrap_or(Seq::MAX));
            if now.refusing.is_none() && gives_way(&batch, came, recorded) {
                let _turn = feed.lock().await;
                let mut kept = self.kept.clone();
                let in_need = kept.wait_for(|kept| kept.closed || kept.refusing.is_some());
                let _ = timeout((took * REST).min(LONGEST_REST), in_need).await;
            }
        }
    }

    /// Records all of a batch, however long that takes.
    async fn record(&self, mut items: Vec<Item<'_>>) {
        let all = 0..items.len();
        let mut parts: Vec<Range<usize>> = vec![all];
        // In a row: failures of any kind, and failures over a delivery.
        let (mut failures, mut breaks) = (0, 0);
        while let Some(part) = parts.pop() {
            let begun = SystemTime::now();
            let attempted = self.attempt(&items[part.clone()], failures == 0).await;
            if let Some(traces) = &self.traces {
                traces.attempted(begun, &items[part.clone()], attempted.as_deref());
            }
            let fault = match attempted {
                Ok(outcomes) => {
                    if failures > 0 {
                        self.state.failing.fetch_sub(1, Ordering::Relaxed);
                    }
                    (failures, breaks) = (0, 0);
                    self.worked();
                    self.live.tell(&items[part.clone()], &outcomes);
                    self.report(&items[part], &outcomes);
                    continue;
                }
                Err(fault) => fault,
            };
            let with_less = matches!(fault, Fault::Unacceptable { .. } | Fault::Slow | Fault::Broke(_));
            breaks += u32::from(matches!(fault, Fault::Broke(_)));
            let changed = if part.len() > 1 && with_less {
                let middle = part.start + part.len() / 2;
                parts.extend([middle..part.end, part.start..middle]);
                true
            } else {
                let to_blame = match fault {
                    Fault::Unacceptable { .. } => true,
                    Fault::Broke(_) => breaks > BREAKS,
                    _ => false,
                };
                let weakened = to_blame && items[part.start].weaken(&fault);
                if weakened {
                    breaks = 0;
                    let execution_id = items[part.start].execution_id();
                    tracing::warn!(execution_id, "{fault}: it is kept as bytes");
                }
                parts.push(part);
                weakened
            };
            if changed && matches!(fault, Fault::Unacceptable { .. }) {
                continue;
            }
            self.metrics.retried();
            if !fault.is_contention() {
                if failures == 0 {
                    self.state.failing.fetch_add(1, Ordering::Relaxed);
                }
                self.failed(fault);
                failures += 1;
            }
            sleep(self.backoff(failures)).await;
        }
    }

    /// Records `items`, or not. A connection that was lost while it lay idle may be forgiven, once.
    async fn attempt(&self, items: &[Item<'_>], mut forgive: bool) -> Result<Vec<Outcome>, Fault> {
        loop {
            // What is said here is said to no row.
            let mut session = self.sessions.get().await.map_err(Fault::not_of_a_row)?;
            let record = AssertUnwindSafe(session.store.record(items, self.quarantine)).catch_unwind();
            let fault = match timeout(self.statement_timeout, record).await {
                Ok(Ok(Ok(outcomes))) => {
                    session.give_back();
                    return Ok(outcomes);
                }
                Ok(Ok(Err(fault))) => fault,
                Ok(Err(_)) => {
                    return Err(Fault::Unacceptable {
                        code: "none".to_owned(),
                        message: "the receiver panicked: a bug".to_owned(),
                    });
                }
                Err(_) => {
                    self.sessions.close_idle();
                    return Err(Fault::Slow);
                }
            };
            if forgive && session.was_idle && matches!(fault, Fault::Away(_)) {
                self.sessions.close_idle();
                forgive = false;
                continue;
            }
            let fault = fault.while_recording();
            if fault.is_contention() || matches!(fault, Fault::Unacceptable { .. }) {
                session.give_back();
            }
            return Err(fault);
        }
    }

    async fn ping(&self) {
        match self.attempt(&[], true).await {
            Ok(_) => self.worked(),
            Err(fault) => self.failed(fault),
        }
    }

    /// Half of it is chance, so that several receivers do not come back all at once.
    fn backoff(&self, failures: u32) -> Duration {
        let longest = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(failures)).min(self.max_backoff);
        longest.mul_f64(rand::rng().random_range(0.5..1.0))
    }

    /// A batch is recorded. While another one fails, that is what is said.
    fn worked(&self) {
        if self.state.failing.load(Ordering::Relaxed) > 0 {
            return;
        }
        self.metrics.database_up(true);
        let before = self.recording.send_replace(Recording::Working);
        if !matches!(before, Recording::Working) {
            tracing::info!("recording to PostgreSQL");
        }
    }

    /// Says so once, and again only when something of another kind is wrong.
    fn failed(&self, fault: Fault) {
        self.metrics.database_up(false);
        self.recording.send_modify(|recording| {
            let (since, news) = match recording {
                Recording::Failing { since, why } => (*since, discriminant(why) != discriminant(&fault)),
                _ => (OffsetDateTime::now_utc(), true),
            };
            if news {
                tracing::error!("deliveries cannot be recorded yet, they wait in the spool: {fault}");
            }
            *recording = Recording::Failing { since, why: fault };
        });
    }

    fn report(&self, items: &[Item<'_>], outcomes: &[Outcome]) {
        for (item, outcome) in items.iter().zip(outcomes) {
            self.metrics.recorded(*outcome);
            let execution_id = item.execution_id();
            let trace_id = item.trace().map(|trace| display(trace.trace_id));
            match outcome {
                Outcome::Conflict => tracing::warn!(
                    execution_id,
                    trace_id,
                    "a delivery contradicts the recorded outcome: kept in execution_conflicts"
                ),
                Outcome::Quarantined => {
                    tracing::warn!(trace_id, "a delivery that is no execution is kept in quarantine");
                }
                // Many may follow: said for all, below.
                Outcome::Dropped => {}
                _ => tracing::debug!(execution_id, outcome = outcome.as_str(), trace_id, "recorded"),
            }
        }
        let dropped = outcomes.iter().filter(|outcome| **outcome == Outcome::Dropped).count();
        if dropped > 0 {
            self.metrics.quarantine_dropped(dropped);
            self.tell_dropped(dropped);
        }
        if let Some(oldest) = items.iter().map(Item::received_at).min() {
            self.metrics.batch_recorded(items.len(), oldest);
        }
    }
}

impl Recorder {
    /// At once, and then for all that follow in a while.
    fn tell_dropped(&self, dropped: usize) {
        let mut untold = self.state.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        untold.0 += dropped;
        if untold.1.is_none_or(|told| told.elapsed() >= TELL_DROPPED_EVERY) {
            tracing::error!(
                dropped = untold.0,
                "the quarantine is full: deliveries that are no execution, and were answered 422, are not kept"
            );
            *untold = (0, Some(Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::intake::Delivery;

    #[test]
    fn recording_gives_way_to_a_burst_until_what_waits_is_old() {
        let batch = |len, age: time::Duration| {
            let received_at = OffsetDateTime::now_utc() - age;
            let body = Bytes::from_static(b"{}");
            let delivery =
                Delivery { body, received_at, authenticated_by: None, acknowledged: true, trace: None };
            (1..)
                .map(|seq| Spooled { seq, delivery: delivery.clone(), intact: true })
                .take(len)
                .collect::<Vec<_>>()
        };
        let old = time::Duration::try_from(GIVES_WAY_UP_TO).unwrap();
        let young = old / 2;
        assert!(gives_way(&batch(SMALL, young), 200, 400), "half as many came as were recorded");
        assert!(!gives_way(&batch(SMALL, young), 199, 400), "recording keeps up");
        assert!(!gives_way(&batch(SMALL - 1, young), 1000, 400), "a small batch");
        assert!(!gives_way(&batch(SMALL, old), 1000, 400), "a backlog");
        let future = time::Duration::hours(-2);
        assert!(!gives_way(&batch(SMALL, future), 1000, 400), "a backlog from before the clock was put back");
        assert!(!gives_way(&[], 1000, 0));
    }
}
