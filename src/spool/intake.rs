//! The writer's end of the channel for deliveries, and the requests that wait for the current write.
//!
//! While the disk does not complete a write, the writer's thread is blocked. A task then answers the waiting requests in its
//! place. A timer for each request would cost more than the rest of [`super::SpoolHandle::append`].

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::handle::{PendingDelivery, ResultSender};
use crate::delivery::RejectReason;

/// A write that takes longer has stalled. This time is longer than a write waits for another process (`lock_timeout`).
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// How often the task checks the current write.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Shared by the writer and by the task that answers in its place.
#[derive(Debug, Clone)]
pub(crate) struct Intake(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pending: tokio::sync::Mutex<mpsc::Receiver<PendingDelivery>>,
    current_write: Mutex<CurrentWrite>,
    /// Read by [`super::SpoolHandle::append`], without a lock.
    stalled: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct CurrentWrite {
    /// When the writer last made progress. `None` while it waits for deliveries.
    since: Option<Instant>,
    /// The requests that wait for the write.
    results: Vec<Option<ResultSender>>,
}

impl CurrentWrite {
    fn stalled_for(&self) -> Option<Duration> {
        self.since.map(|since| since.elapsed()).filter(|time| *time >= STALLED_AFTER)
    }
}

impl Intake {
    pub(super) fn new(pending: mpsc::Receiver<PendingDelivery>, stalled: Arc<AtomicBool>) -> Self {
        Self(Arc::new(Shared { pending: pending.into(), current_write: Mutex::default(), stalled }))
    }

    /// As [`mpsc::Receiver::recv_many`].
    pub(super) async fn recv_many(&self, waiting: &mut Vec<PendingDelivery>, limit: usize) -> usize {
        self.0.pending.lock().await.recv_many(waiting, limit).await
    }

    /// The number of deliveries in the channel.
    pub(super) fn len(&self) -> usize {
        self.0.pending.try_lock().map_or(0, |pending| pending.len())
    }

    /// Rejects further deliveries as [`RejectReason::ShuttingDown`].
    pub(super) fn close(&self) {
        self.0.pending.blocking_lock().close();
    }

    /// Rejects the deliveries in the channel.
    pub(super) fn reject_pending(&self) {
        let Ok(mut pending) = self.0.pending.try_lock() else { return };
        while let Ok(mut delivery) = pending.try_recv() {
            delivery.answer(Err(RejectReason::DiskError));
        }
    }

    /// The writer begins a write, or has made progress.
    pub(super) fn writing(&self) {
        self.set_since(Some(Instant::now()));
    }

    /// The writer waits for deliveries.
    pub(super) fn idle(&self) {
        self.set_since(None);
    }

    fn set_since(&self, since: Option<Instant>) {
        self.0.current_write.lock().since = since;
        self.0.stalled.store(false, Ordering::Relaxed);
    }

    /// Lets the task answer `waiting` until [`Self::release`].
    pub(super) fn hold(&self, waiting: &mut [PendingDelivery]) {
        let mut write = self.0.current_write.lock();
        write.since = Some(Instant::now());
        write.results.extend(waiting.iter_mut().map(|pending| pending.result.take()));
    }

    /// Gives the results back to `waiting`, unless the task has answered.
    pub(super) fn release(&self, waiting: &mut [PendingDelivery]) {
        for (pending, result) in waiting.iter_mut().zip(self.0.current_write.lock().results.drain(..)) {
            pending.result = result;
        }
    }

    /// How long the current write has lasted, if it has stalled.
    pub(crate) fn stalled_for(&self) -> Option<Duration> {
        self.0.current_write.lock().stalled_for()
    }

    /// Answers all requests while a write has stalled. The writer may store their deliveries later.
    pub(crate) async fn answer_while_stalled(self) -> Infallible {
        let mut logged = false;
        loop {
            sleep(CHECK_INTERVAL).await;
            let stalled = self.reject_stalled();
            if stalled && !logged {
                tracing::error!(
                    "the disk of spool.dir has not completed a write for {} s: webhooks are answered 503",
                    STALLED_AFTER.as_secs()
                );
            } else if logged && !stalled {
                tracing::info!("the disk of spool.dir completes writes again");
            }
            logged = stalled;
        }
    }

    /// Returns whether the current write has stalled.
    fn reject_stalled(&self) -> bool {
        let results = {
            let mut write = self.0.current_write.lock();
            if write.stalled_for().is_none() {
                return false;
            }
            self.0.stalled.store(true, Ordering::Relaxed);
            std::mem::take(&mut write.results)
        };
        for result in results.into_iter().flatten() {
            let _ = result.send(Err(RejectReason::DiskError));
        }
        self.reject_pending();
        true
    }
}
