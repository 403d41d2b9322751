//! What the parts of the receiver share about one webhook on its way to PostgreSQL.

pub(crate) mod trace_context;

use bytes::Bytes;
use strum::{IntoStaticStr, VariantArray};
use time::OffsetDateTime;

use crate::auth::AuthMethod;
pub(crate) use trace_context::TraceContext;

/// One webhook as it came.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    /// The exact bytes of the body.
    pub(crate) body: Bytes,
    /// When the body had come in, by this machine's clock.
    pub(crate) received_at: OffsetDateTime,
    /// How it got in; `None` where an older receiver took it, which did not say.
    pub(crate) authenticated_by: Option<AuthMethod>,
    /// Whether the sender is answered 200: then it has to be kept for good.
    pub(crate) acknowledged: bool,
    /// The trace that it belongs to, when that is sampled.
    pub(crate) trace: Option<TraceContext>,
}

/// Why a delivery was not kept. None of it was: the sender has to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RejectReason {
    /// More deliveries wait for the disk than may (`intake.capacity`).
    #[error("too many deliveries are waiting to be written")]
    Overloaded,
    /// The spool has taken all the space that it may (`spool.max_bytes`), or the disk is full.
    #[error("the spool is full")]
    SpoolFull,
    /// The disk did not take it.
    #[error("the spool cannot be written")]
    DiskError,
    /// The receiver is stopping.
    #[error("the receiver is stopping")]
    ShuttingDown,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Disposition {
    /// The first of its execution.
    New,
    /// It took the place of a non-terminal status.
    Replacement,
    /// It said nothing new, and was counted.
    Duplicate,
    /// It contradicts the recorded outcome, and was stored as a conflict.
    Conflict,
    /// It contradicts the recorded outcome, and the execution has as many conflicts as it may have.
    ConflictDropped,
    /// It is no execution, and was kept aside.
    Quarantined,
    /// It is no execution, was answered 422, and the quarantine had no room for it.
    Dropped,
}

impl Disposition {
    /// The name in logs, metrics and events.
    pub(crate) fn as_str(self) -> &'static str {
        self.into()
    }
}
