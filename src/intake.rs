//! The way in: a bounded channel from the requests to the spool's writer, and bounded memory.
//!
//! A request hands its delivery over and waits for the receipt, which the writer gives once the
//! delivery is on disk. A full channel is an answer, not a wait.

use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::auth::Method;
use crate::traces::TraceContext;

/// One webhook as it came.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    /// The exact bytes of the body.
    pub(crate) body: Bytes,
    /// When the body had come in, by this machine's clock.
    pub(crate) received_at: OffsetDateTime,
    /// How it got in; `None` where an older receiver took it, which did not say.
    pub(crate) authenticated_by: Option<Method>,
    /// Whether the sender is answered 200: then it has to be kept for good.
    pub(crate) acknowledged: bool,
    /// The trace that it belongs to, when that is sampled.
    pub(crate) trace: Option<TraceContext>,
}

/// Why a delivery was not kept. None of it was: the sender has to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// More deliveries wait for the disk than may (`intake.capacity`).
    #[error("too many deliveries are waiting to be written")]
    Busy,
    /// The spool has taken all the space that it may (`spool.max_bytes`), or the disk is full.
    #[error("the spool is full")]
    Full,
    /// The disk did not take it.
    #[error("the spool cannot be written")]
    Failing,
    /// The receiver is stopping.
    #[error("the receiver is stopping")]
    Stopping,
}

/// A delivery on its way to the spool, with the way back for its receipt.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) delivery: Delivery,
    pub(crate) receipt: oneshot::Sender<Result<(), Refused>>,
    /// Given back once it is written, even when its request has gone.
    _share: Share,
}

/// The requests' end of the channel.
#[derive(Debug, Clone)]
pub(crate) struct Intake {
    arrivals: mpsc::Sender<Arrival>,
}

impl Intake {
    /// A channel in which `capacity` deliveries may wait.
    pub(crate) fn new(capacity: usize) -> (Self, mpsc::Receiver<Arrival>) {
        let (arrivals, spool) = mpsc::channel(capacity);
        (Self { arrivals }, spool)
    }

    /// Returns once the delivery is on disk: from here on it survives any crash.
    ///
    /// # Errors
    /// [`Refused`], at once when the channel is full; then nothing of the delivery is kept.
    pub(crate) async fn keep(&self, delivery: Delivery, share: Share) -> Result<(), Refused> {
        let (receipt, kept) = oneshot::channel();
        self.arrivals.try_send(Arrival { delivery, receipt, _share: share }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Refused::Busy,
            mpsc::error::TrySendError::Closed(_) => Refused::Stopping,
        })?;
        kept.await.unwrap_or(Err(Refused::Stopping))
    }

    /// A view of the channel that does not keep it open.
    pub(crate) fn depth(&self) -> IntakeDepth {
        IntakeDepth(self.arrivals.downgrade())
    }
}

/// How full the channel is.
#[derive(Debug, Clone)]
pub(crate) struct IntakeDepth(mpsc::WeakSender<Arrival>);

impl IntakeDepth {
    /// How many deliveries wait for the disk.
    pub(crate) fn get(&self) -> usize {
        self.0.upgrade().map_or(0, |arrivals| arrivals.max_capacity() - arrivals.capacity())
    }
}

/// What each body may take without asking, so that large ones never keep out small ones.
const FREE: usize = 64 << 10;
/// The memory that bodies may take together (`http.max_bytes_in_flight`).
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    bytes: usize,
    left: Arc<Semaphore>,
}

/// One body's share of it, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Memory,
    size: usize,
    beyond_free: Option<OwnedSemaphorePermit>,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { bytes, left: Arc::new(Semaphore::new(bytes)) }
    }

    /// How many bytes are taken.
    pub(crate) fn taken(&self) -> usize {
        self.bytes - self.left.available_permits()
    }

    /// A share for one body, empty yet.
    pub(crate) fn share(&self) -> Share {
        Share { memory: self.clone(), size: 0, beyond_free: None }
    }
}

impl Share {
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// How many bytes it has taken.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Takes `more` bytes.
    ///
    /// # Errors
    /// [`Refused::Busy`] when there are not so many left.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Refused> {
        let before = self.size.max(FREE);
        self.size += more;
        let beyond = self.size.saturating_sub(before);
        if beyond > 0 {
            let beyond = u32::try_from(beyond).map_err(|_| Refused::Busy)?;
            let permit =
                self.memory.left.clone().try_acquire_many_owned(beyond).map_err(|_| Refused::Busy)?;
            match &mut self.beyond_free {
                Some(held) => held.merge(permit),
                none => *none = Some(permit),
            }
        }
        Ok(())
    }
}
