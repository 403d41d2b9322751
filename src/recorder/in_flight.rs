//! The batches that are being recorded, and those recorded after one that is not yet.

use std::collections::{HashSet, VecDeque};

use tokio::sync::watch;

use crate::spool::{Recorded, Seq};
use crate::store::Item;

/// Maximum batches in flight. While the oldest is being tried, later ones are recorded but not yet acknowledged; after
/// a crash they are replayed. The limit does not apply after a delivery that fails alone: it may fail for minutes.
const MAX_IN_FLIGHT: usize = 128;

/// In the order of arrival.
#[derive(Clone, Default)]
pub(super) struct InFlight(watch::Sender<VecDeque<Batch>>);

/// A batch that is not acknowledged yet.
pub(super) struct Batch {
    through: Seq,
    /// Hashes of the identifiers of its executions that are not recorded yet.
    executions: HashSet<u32>,
    recorded: bool,
    /// Only deliveries that fail alone are left of it.
    stuck: bool,
}

impl InFlight {
    /// Admits a batch once no in-flight batch contains one of its executions and fewer than `MAX_IN_FLIGHT` are in
    /// flight. This preserves per-execution order and bounds what is replayed after a crash.
    pub(super) async fn admit(&self, items: &[Item<'_>], through: Seq) {
        let executions = hashes(items.iter());
        let admissible = |batches: &VecDeque<Batch>| {
            let in_window = batches.len() < MAX_IN_FLIGHT || batches.front().is_some_and(|first| first.stuck);
            let mut others = batches.iter().filter(|other| !other.recorded);
            in_window && others.all(|other| other.executions.is_disjoint(&executions))
        };
        let _ = self.0.subscribe().wait_for(admissible).await;
        self.0.send_modify(|batches| {
            batches.push_back(Batch { through, executions, recorded: false, stuck: false });
        });
    }

    /// Says that only `items` are left of a batch, and that each of them fails alone.
    pub(super) fn stick<'i>(&self, through: Seq, items: impl Iterator<Item = &'i Item<'i>>) {
        let executions = hashes(items);
        self.0.send_modify(|batches| {
            if let Some(batch) = batches.iter_mut().find(|batch| batch.through == through) {
                (batch.executions, batch.stuck) = (executions, true);
            }
        });
    }

    /// Marks a batch as recorded and acknowledges the longest prefix of recorded batches.
    pub(super) fn complete(&self, through: Seq, recorded: &watch::Sender<Recorded>) {
        self.0.send_modify(|batches| {
            if let Some(batch) = batches.iter_mut().find(|batch| batch.through == through) {
                (batch.recorded, batch.executions) = (true, HashSet::new());
            }
            while let Some(first) = batches.pop_front_if(|first| first.recorded) {
                recorded.send_replace(first.through);
            }
            // After a stuck batch, any number of recorded ones may follow: of neighbours, the last one is enough.
            if batches.len() >= MAX_IN_FLIGHT && batches.front().is_some_and(|first| first.stuck) {
                let mut kept = VecDeque::with_capacity(batches.len());
                for batch in batches.drain(..) {
                    if batch.recorded {
                        let _ = kept.pop_back_if(|last: &mut Batch| last.recorded);
                    }
                    kept.push_back(batch);
                }
                *batches = kept;
            }
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<VecDeque<Batch>> {
        self.0.subscribe()
    }
}

/// Whether a batch is being recorded that is expected to end soon.
pub(super) fn is_busy(batches: &VecDeque<Batch>) -> bool {
    batches.iter().any(|batch| !batch.recorded && !batch.stuck)
}

fn hashes<'i>(items: impl Iterator<Item = &'i Item<'i>>) -> HashSet<u32> {
    items.filter_map(Item::execution_id).map(|id| crc32fast::hash(id.as_bytes())).collect()
}
