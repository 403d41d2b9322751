//! The channels to the writer: [`SpoolHandle`] for requests, [`AckHandle`] for the recorder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use super::Seq;
use crate::delivery::{Delivery, RejectReason};
use crate::memory::MemoryPermit;

/// A delivery on its way to the writer.
#[derive(Debug)]
pub(crate) struct PendingDelivery {
    pub(crate) delivery: Delivery,
    /// Sends the result of the write to the request. `None` once answered, and while the [`super::Intake`] holds it.
    pub(crate) result: Option<ResultSender>,
    /// Reserved until the delivery is written, even if the request ends earlier.
    _memory: MemoryPermit,
}

pub(crate) type ResultSender = oneshot::Sender<Result<(), RejectReason>>;

impl PendingDelivery {
    pub(crate) fn answer(&mut self, result: Result<(), RejectReason>) {
        if let Some(request) = self.result.take() {
            let _ = request.send(result);
        }
    }
}

/// Appends deliveries.
#[derive(Debug, Clone)]
pub(crate) struct SpoolHandle {
    pending: mpsc::Sender<PendingDelivery>,
    /// Whether the disk does not complete the current write.
    pub(super) stalled: Arc<AtomicBool>,
}

impl SpoolHandle {
    /// A bounded channel for `capacity` deliveries.
    pub(crate) fn new(capacity: usize) -> (Self, mpsc::Receiver<PendingDelivery>) {
        let (pending, writer) = mpsc::channel(capacity);
        (Self { pending, stalled: Arc::default() }, writer)
    }

    /// Returns once the delivery is on disk: it then survives any crash.
    ///
    /// # Errors
    /// [`RejectReason`], immediately when the channel is full or the current write has stalled. The delivery is not stored,
    /// unless its own write stalls or the files are changed during it: then it may be stored later.
    pub(crate) async fn append(&self, delivery: Delivery, memory: MemoryPermit) -> Result<(), RejectReason> {
        if self.stalled.load(Ordering::Relaxed) {
            return Err(RejectReason::DiskError);
        }
        let (result, written) = oneshot::channel();
        let pending = PendingDelivery { delivery, result: Some(result), _memory: memory };
        let sent = self.pending.try_send(pending);
        sent.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RejectReason::Overloaded,
            mpsc::error::TrySendError::Closed(_) => RejectReason::ShuttingDown,
        })?;
        written.await.unwrap_or(Err(RejectReason::ShuttingDown))
    }

    /// A handle that does not keep the channel open.
    pub(crate) fn downgrade(&self) -> WeakSpoolHandle {
        WeakSpoolHandle { pending: self.pending.downgrade(), stalled: self.stalled.clone() }
    }

    /// A view of the channel that does not keep it open.
    pub(crate) fn depth(&self) -> IntakeDepth {
        IntakeDepth(self.pending.downgrade())
    }
}

/// Appends deliveries while another handle keeps the channel open.
#[derive(Debug, Clone)]
pub(crate) struct WeakSpoolHandle {
    pending: mpsc::WeakSender<PendingDelivery>,
    stalled: Arc<AtomicBool>,
}

impl WeakSpoolHandle {
    /// As [`SpoolHandle::append`].
    ///
    /// # Errors
    /// [`RejectReason`]; [`RejectReason::ShuttingDown`] when no other handle is left.
    pub(crate) async fn append(&self, delivery: Delivery, memory: MemoryPermit) -> Result<(), RejectReason> {
        let pending = self.pending.upgrade().ok_or(RejectReason::ShuttingDown)?;
        SpoolHandle { pending, stalled: self.stalled.clone() }.append(delivery, memory).await
    }
}

/// How full the channel is.
#[derive(Debug, Clone)]
pub(crate) struct IntakeDepth(mpsc::WeakSender<PendingDelivery>);

impl IntakeDepth {
    /// The number of deliveries that wait for the writer.
    pub(crate) fn get(&self) -> usize {
        self.0.upgrade().map_or(0, |pending| pending.max_capacity() - pending.capacity())
    }
}

/// Acks deliveries. The writer stops once this handle is dropped and no more deliveries can be appended.
#[derive(Debug)]
pub(crate) struct AckHandle(watch::Sender<Seq>);

impl AckHandle {
    /// `acked` is the last delivery that was acked before.
    pub(super) fn new(acked: Seq) -> (Self, watch::Receiver<Seq>) {
        let (acks, writer) = watch::channel(acked);
        (Self(acks), writer)
    }

    /// Acks all deliveries up to `seq`: PostgreSQL has committed them. A position before the last acked one has no effect.
    pub(crate) fn ack(&self, seq: Seq) {
        self.0.send_if_modified(|acked| std::mem::replace(acked, seq.max(*acked)) < seq);
    }

    /// The last acked delivery.
    pub(crate) fn acked_seq(&self) -> Seq {
        *self.0.borrow()
    }

    /// Follows the last acked delivery.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Seq> {
        self.0.subscribe()
    }
}
