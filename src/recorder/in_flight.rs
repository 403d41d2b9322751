//! The batches that are being recorded, and the handled batches after the first of them. A batch is handled once each of its
//! deliveries is recorded or stuck.

use std::collections::{HashSet, VecDeque};

use tokio::sync::watch;

use crate::db::RecordItem;
use crate::spool::Seq;

/// Maximum batches in flight. While the oldest is being recorded, later ones can be recorded but not acked. After a crash
/// they are recorded again.
const MAX_IN_FLIGHT: usize = 128;

/// Batches in the order of arrival.
#[derive(Clone, Default)]
pub(super) struct InFlight(watch::Sender<VecDeque<InFlightBatch>>);

pub(super) struct InFlightBatch {
    through: Seq,
    /// Hashes of the identifiers of its executions.
    executions: HashSet<u32>,
    handled: bool,
}

impl InFlight {
    /// Admits a batch once fewer than `MAX_IN_FLIGHT` batches are in flight, and no batch that is being recorded contains
    /// one of its executions. This preserves per-execution order and bounds the replay after a crash.
    pub(super) async fn admit(&self, items: &[RecordItem<'_>], through: Seq) {
        let executions: HashSet<u32> = items.iter().filter_map(RecordItem::execution_id).map(hash).collect();
        let admissible = |batches: &VecDeque<InFlightBatch>| {
            let mut others = batches.iter().filter(|other| !other.handled);
            batches.len() < MAX_IN_FLIGHT && others.all(|other| other.executions.is_disjoint(&executions))
        };
        let _ = self.0.subscribe().wait_for(admissible).await;
        let batch = InFlightBatch { through, executions, handled: false };
        self.0.send_modify(|batches| batches.push_back(batch));
    }

    /// Marks a batch as handled, and calls `handled` with the end of the longest prefix of handled batches.
    pub(super) fn complete(&self, through: Seq, handled: impl Fn(Seq)) {
        self.0.send_modify(|batches| {
            if let Some(batch) = batches.iter_mut().find(|batch| batch.through == through) {
                (batch.handled, batch.executions) = (true, HashSet::new());
            }
            while let Some(first) = batches.pop_front_if(|first| first.handled) {
                handled(first.through);
            }
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<VecDeque<InFlightBatch>> {
        self.0.subscribe()
    }
}

/// Whether a batch is being recorded.
pub(super) fn is_busy(batches: &VecDeque<InFlightBatch>) -> bool {
    batches.iter().any(|batch| !batch.handled)
}

/// Hash of the identifier of an execution or bulk.
pub(super) fn hash(id: &str) -> u32 {
    crc32fast::hash(id.as_bytes())
}
