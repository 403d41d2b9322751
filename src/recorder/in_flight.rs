//! The batches that are being recorded, and those recorded after one that is not yet.

use std::collections::{HashSet, VecDeque};

use tokio::sync::watch;

use crate::db::RecordItem;
use crate::spool::Seq;

/// Maximum batches in flight. While the oldest is being tried, later ones are recorded but not yet acknowledged; after
/// a crash they are replayed.
const MAX_IN_FLIGHT: usize = 128;

/// In the order of arrival.
#[derive(Clone, Default)]
pub(super) struct InFlight(watch::Sender<VecDeque<Batch>>);

/// A batch that is not acknowledged yet.
pub(super) struct Batch {
    through: Seq,
    /// Hashes of the identifiers of its executions.
    executions: HashSet<u32>,
    /// Its deliveries are recorded or stuck.
    handled: bool,
}

impl InFlight {
    /// Admits a batch once no in-flight batch contains one of its executions and fewer than `MAX_IN_FLIGHT` are in
    /// flight. This preserves per-execution order and bounds what is replayed after a crash.
    pub(super) async fn admit<'i>(&self, items: impl Iterator<Item = &'i RecordItem<'i>>, through: Seq) {
        let executions: HashSet<u32> = items.filter_map(RecordItem::execution_id).map(hash).collect();
        let admissible = |batches: &VecDeque<Batch>| {
            let mut others = batches.iter().filter(|other| !other.handled);
            batches.len() < MAX_IN_FLIGHT && others.all(|other| other.executions.is_disjoint(&executions))
        };
        let _ = self.0.subscribe().wait_for(admissible).await;
        self.0.send_modify(|batches| batches.push_back(Batch { through, executions, handled: false }));
    }

    /// Marks a batch as handled. `handled` learns the end of the longest prefix of such batches.
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

    pub(super) fn subscribe(&self) -> watch::Receiver<VecDeque<Batch>> {
        self.0.subscribe()
    }
}

/// Whether a batch is being recorded.
pub(super) fn is_busy(batches: &VecDeque<Batch>) -> bool {
    batches.iter().any(|batch| !batch.handled)
}

pub(super) fn hash(execution_id: &str) -> u32 {
    crc32fast::hash(execution_id.as_bytes())
}
