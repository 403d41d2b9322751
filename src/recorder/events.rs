//! Publishes committed changes to `/api/v1/events`.
//!
//! Costs nothing without subscribers. Recording never waits for a subscriber: a slow one misses changes, and learns how
//! many.

use std::sync::Arc;

use serde::Serialize;
use time::OffsetDateTime;
use time::serde::rfc3339;
use tokio::sync::broadcast;
use utoipa::ToSchema;

use crate::db::RecordItem;
use crate::delivery::Disposition;

/// How many changes are buffered for a slow subscriber.
const CAPACITY: usize = 8_192;

/// A committed change.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ChangeEvent {
    /// new: the first delivery of its execution; replacement: it replaced a non-terminal status; conflict: it
    /// contradicts the recorded result and is stored as a conflict; quarantined: it is stored in quarantine.
    outcome: &'static str,
    /// Null for a quarantined webhook.
    pub(crate) execution_id: Option<String>,
    /// As the webhook has it.
    pub(crate) workflow_id: Option<String>,
    /// As the webhook has it; null for an execution outside of a bulk.
    pub(crate) bulk_id: Option<String>,
    /// As the webhook has it.
    pub(crate) status: Option<String>,
    /// When the webhook was received, by the receiver's clock.
    #[serde(with = "rfc3339")]
    received_at: OffsetDateTime,
}

impl ChangeEvent {
    /// `None` for duplicates and dropped deliveries.
    fn new(item: &RecordItem<'_>, disposition: Disposition) -> Option<Self> {
        if matches!(disposition, Disposition::Duplicate | Disposition::ConflictDropped | Disposition::Dropped)
        {
            return None;
        }
        let execution = item.execution();
        Some(Self {
            outcome: disposition.as_str(),
            execution_id: execution.map(|execution| execution.execution_id.to_string()),
            workflow_id: execution.map(|execution| execution.workflow_id.to_string()),
            bulk_id: execution.and_then(|execution| Some(execution.bulk_id.as_ref()?.to_string())),
            status: execution.map(|execution| execution.status.to_string()),
            received_at: item.received_at(),
        })
    }
}

/// The channel from the recorder to the subscribers.
#[derive(Debug, Clone)]
pub(crate) struct EventBus(broadcast::Sender<Arc<ChangeEvent>>);

impl EventBus {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }

    /// Publishes the changes of committed `items`.
    pub(crate) fn publish(&self, items: &[RecordItem<'_>], dispositions: &[Disposition]) {
        if self.subscribers() == 0 {
            return;
        }
        for (item, disposition) in items.iter().zip(dispositions) {
            if let Some(change) = ChangeEvent::new(item, *disposition) {
                // Fails when the last subscriber has just left.
                let _ = self.0.send(Arc::new(change));
            }
        }
    }

    /// Receives the changes from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<ChangeEvent>> {
        self.0.subscribe()
    }

    pub(crate) fn subscribers(&self) -> usize {
        self.0.receiver_count()
    }
}
