//! A delivery on its way through spool and recorder, and what happens to it.

pub(crate) mod reference;
pub(crate) mod trace_context;

use bytes::Bytes;
use strum::{EnumIter, IntoStaticStr, VariantArray};
use time::OffsetDateTime;

use crate::auth::AuthMethod;
pub(crate) use trace_context::TraceContext;

/// A webhook, or the body of an execution or prediction that was read from the sender's API: because its webhook did not
/// arrive, or to verify an unsigned one.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    /// The body: decompressed, and with `null` for each API key (`execution/api_key.rs`).
    pub(crate) body: Bytes,
    /// When the whole body had been received, by this machine's clock.
    pub(crate) received_at: OffsetDateTime,
    /// `None` when the spool's row is damaged, and for a fetched execution.
    pub(crate) authenticated_by: Option<AuthMethod>,
    /// The part of the sender's API that the body was read from, because its webhook did not arrive; `None` for a webhook,
    /// including an unsigned one that the API has confirmed.
    pub(crate) fetched_from: Option<FetchSource>,
    /// Answered 200: the delivery must not be lost. Otherwise it was answered 422.
    pub(crate) acknowledged: bool,
    /// The query parameters of the URL, as a JSON object of strings (`reference.rs`); `None` without any.
    pub(crate) reference: Option<String>,
    /// The webhook has the header `X-Webhook-Redelivery`: an operator of the sender sent it again. Not signed.
    pub(crate) is_redelivery: bool,
    /// `None` when the trace is not sampled.
    pub(crate) trace: Option<TraceContext>,
}

impl Delivery {
    /// An acknowledged delivery without anything else.
    pub(crate) fn new(body: Bytes, received_at: OffsetDateTime) -> Self {
        Self {
            body,
            received_at,
            authenticated_by: None,
            fetched_from: None,
            acknowledged: true,
            reference: None,
            is_redelivery: false,
            trace: None,
        }
    }
}

/// The part of the sender's API that an execution was fetched from. The spool stores the position in this list, so variants
/// are only added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum FetchSource {
    /// The sender's log of deliveries, which has the body of the webhook.
    DeliveryLog,
    /// The list of a workflow's executions. Its rows lack fields of the webhook.
    List,
    /// The execution by its identifier, in the form of the webhook.
    Execution,
}

impl FetchSource {
    /// The name in PostgreSQL, in metrics and in the API.
    pub(crate) fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why a webhook was answered 503. The sender has to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RejectReason {
    /// The channel to the writer is full (`intake.capacity`), or there is no memory for the body.
    #[error("too many deliveries are waiting to be written")]
    Overloaded,
    /// The spool has reached `spool.max_bytes`, or the disk is full.
    #[error("the spool is full")]
    SpoolFull,
    /// The write failed or has stalled, or the spool's files were changed. A delivery whose write has stalled may be stored
    /// later.
    #[error("the spool cannot be written")]
    DiskError,
    #[error("the receiver is stopping")]
    ShuttingDown,
    /// Unsigned, and `verification.max_rows` or `verification.max_bytes` is reached.
    #[error("too many unsigned webhooks wait for their verification")]
    VerificationFull,
}

/// What recording did with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Disposition {
    /// Created the row of the execution or prediction.
    New,
    /// Replaced a non-terminal status.
    Replacement,
    /// Repeats the recorded result, and was counted.
    Duplicate,
    /// Contradicts the recorded result, and was stored as a conflict.
    Conflict,
    /// Contradicts the recorded result, and was dropped: the execution has reached a limit of `conflicts.*`.
    ConflictDropped,
    /// Is neither an execution nor a prediction, or was refused by PostgreSQL, and was stored in quarantine.
    Quarantined {
        /// The number of the entry.
        quarantine_id: i64,
    },
    /// Unsigned: stored until the sender's API confirms it. Not recorded yet.
    Unverified,
    /// Is neither an execution nor a prediction, was answered 422, and was dropped: the quarantine is full, or PostgreSQL
    /// refused the row.
    Dropped,
}

impl Disposition {
    /// Whether the delivery is a change in the change feed, if it reports an execution of a workflow.
    pub(crate) fn is_change(self) -> bool {
        matches!(self, Self::New | Self::Replacement | Self::Conflict)
    }

    /// The name in logs, metrics and events.
    pub(crate) fn as_str(self) -> &'static str {
        self.into()
    }
}
