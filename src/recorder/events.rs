//! What is recorded, told as it happens to those who listen.
//!
//! Nothing is made of it when nobody does. A listener that does not keep up misses what it has no room for and is
//! told so: recording never waits for one.

use std::sync::Arc;

use serde::Serialize;
use time::OffsetDateTime;
use time::serde::rfc3339;
use tokio::sync::broadcast;
use utoipa::ToSchema;

use crate::db::RecordItem;
use crate::delivery::Disposition;

/// How many changes a listener may be behind.
const CAPACITY: usize = 8_192;

/// What became of a delivery, once it is committed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ChangeEvent {
    /// new: its execution was not known; replacement: it took the place of a non-terminal status; conflict: it
    /// contradicts what stands, and was kept aside; quarantined: it is no execution, and was kept aside.
    outcome: &'static str,
    /// The execution; null for what is none.
    pub(crate) execution_id: Option<String>,
    /// The workflow that ran, as the delivery has it.
    pub(crate) workflow_id: Option<String>,
    /// The bulk, as the delivery has it; null when it was triggered alone.
    pub(crate) bulk_id: Option<String>,
    /// The status, as the delivery has it.
    pub(crate) status: Option<String>,
    /// When the delivery came, by the receiver's clock.
    #[serde(with = "rfc3339")]
    received_at: OffsetDateTime,
}

impl ChangeEvent {
    /// `None` for what changes nothing that is shown: duplicates, and what is not kept.
    fn of(item: &RecordItem<'_>, outcome: Disposition) -> Option<Self> {
        if matches!(outcome, Disposition::Duplicate | Disposition::ConflictDropped | Disposition::Dropped) {
            return None;
        }
        let reported = item.execution();
        Some(Self {
            outcome: outcome.as_str(),
            execution_id: reported.map(|execution| execution.execution_id.to_string()),
            workflow_id: reported.map(|execution| execution.workflow_id.to_string()),
            bulk_id: reported.and_then(|execution| Some(execution.bulk_id.as_ref()?.to_string())),
            status: reported.map(|execution| execution.status.to_string()),
            received_at: item.received_at(),
        })
    }
}

/// Where the recorder tells, and where one listens.
#[derive(Debug, Clone)]
pub(crate) struct EventBus(broadcast::Sender<Arc<ChangeEvent>>);

impl EventBus {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }

    /// Tells what became of `items`, which are committed.
    pub(crate) fn publish(&self, items: &[RecordItem<'_>], outcomes: &[Disposition]) {
        if self.subscribers() == 0 {
            return;
        }
        for change in items.iter().zip(outcomes).filter_map(|(item, outcome)| ChangeEvent::of(item, *outcome))
        {
            // The last listener may have gone.
            let _ = self.0.send(Arc::new(change));
        }
    }

    /// What is told from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<ChangeEvent>> {
        self.0.subscribe()
    }

    /// How many listen.
    pub(crate) fn subscribers(&self) -> usize {
        self.0.receiver_count()
    }
}
