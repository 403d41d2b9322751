//! The way in: a bounded channel from the requests to the spool's writer.
//!
//! A request hands its delivery over and waits for the receipt, which the writer gives once the
//! delivery is on disk. A full channel is an answer, not a wait.

use tokio::sync::{mpsc, oneshot};

use crate::delivery::{Delivery, RejectReason};
use crate::memory::MemoryPermit;

/// A delivery on its way to the spool, with the way back for its receipt.
#[derive(Debug)]
pub(crate) struct PendingDelivery {
    pub(crate) delivery: Delivery,
    pub(crate) ack: oneshot::Sender<Result<(), RejectReason>>,
    /// Given back once it is written, even when its request has gone.
    _memory: MemoryPermit,
}

/// The requests' end of the channel.
#[derive(Debug, Clone)]
pub(crate) struct SpoolHandle {
    arrivals: mpsc::Sender<PendingDelivery>,
}

impl SpoolHandle {
    /// A channel in which `capacity` deliveries may wait.
    pub(crate) fn new(capacity: usize) -> (Self, mpsc::Receiver<PendingDelivery>) {
        let (arrivals, spool) = mpsc::channel(capacity);
        (Self { arrivals }, spool)
    }

    /// Returns once the delivery is on disk: from here on it survives any crash.
    ///
    /// # Errors
    /// [`RejectReason`], at once when the channel is full; then nothing of the delivery is kept.
    pub(crate) async fn append(&self, delivery: Delivery, memory: MemoryPermit) -> Result<(), RejectReason> {
        let (receipt, kept) = oneshot::channel();
        self.arrivals.try_send(PendingDelivery { delivery, ack: receipt, _memory: memory }).map_err(|e| {
            match e {
                mpsc::error::TrySendError::Full(_) => RejectReason::Overloaded,
                mpsc::error::TrySendError::Closed(_) => RejectReason::ShuttingDown,
            }
        })?;
        kept.await.unwrap_or(Err(RejectReason::ShuttingDown))
    }

    /// A view of the channel that does not keep it open.
    pub(crate) fn depth(&self) -> IntakeDepth {
        IntakeDepth(self.arrivals.downgrade())
    }
}

/// How full the channel is.
#[derive(Debug, Clone)]
pub(crate) struct IntakeDepth(mpsc::WeakSender<PendingDelivery>);

impl IntakeDepth {
    /// How many deliveries wait for the disk.
    pub(crate) fn get(&self) -> usize {
        self.0.upgrade().map_or(0, |arrivals| arrivals.max_capacity() - arrivals.capacity())
    }
}
