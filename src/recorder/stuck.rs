//! The stuck deliveries: deliveries that failed alone while PostgreSQL recorded others, and later deliveries that would
//! fail or wait, too: of the same execution, of a bulk that another session locks, or of a kind that cannot be recorded.
//!
//! A stuck delivery occupies no worker. One task retries all of them in turn (`retry.rs`), and reads each body from the spool
//! again. After a success it retries several together. So up to [`MAX_STUCK`] deliveries can wait for a lock, or be rejected
//! in every form, without blocking other deliveries.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::batch_part::BatchPart;
use super::in_flight::hash;
use crate::db::{DbError, ItemKind, RecordItem};
use crate::spool::{AckHandle, Seq};

/// Maximum entries, about 200 bytes each. Recording pauses while the list is full.
const MAX_STUCK: usize = 200_000;
/// Strikes until a delivery is blamed for an error that the server will repeat.
const STRIKES: u32 = 3;
/// Strikes until a delivery is blamed for an error that may go away by itself.
const STRIKES_WITH_PAUSES: u32 = 10;
/// How many times the time limit of a slow delivery is doubled before the delivery is blamed.
const EXTENSIONS: u32 = 3;
/// How many times the time limit is doubled for a delivery that PostgreSQL rejects in every form.
const MAX_EXTENSIONS: u32 = 6;

/// The stuck deliveries, for health checks.
#[derive(Debug, Clone, Default)]
pub(crate) struct StuckStatus {
    pub(crate) deliveries: usize,
    /// When the oldest of them was received.
    pub(crate) oldest: Option<OffsetDateTime>,
    /// The latest error of one of them.
    pub(crate) why: Option<DbError>,
    /// Every delivery up to here is recorded or stuck.
    pub(crate) handled: Seq,
}

pub(super) struct StuckList {
    state: Mutex<State>,
    changed: Notify,
    status: watch::Sender<StuckStatus>,
    /// Acks deliveries to the spool.
    acks: AckHandle,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Seq, StuckEntry>,
    why: Option<DbError>,
    handled: Seq,
    /// The workers have ended: no further entries are added.
    closed: bool,
}

/// Deliveries that would fail or wait like a stuck one. Later ones are stuck at once. They are retried after the stuck one
/// was recorded, or failed for another reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Blocked {
    /// All deliveries of a kind: its canary fails.
    Kind(ItemKind),
    /// All deliveries of a bulk, by the hash of its identifier: another session locks its row in `bulks`.
    Bulk(u32),
}

impl Blocked {
    /// The bulk of the only item, if `error` is a lock on its row in `bulks`.
    pub(super) fn by_lock(items: &[RecordItem<'_>], error: &DbError) -> Option<Self> {
        match items {
            [item] if *error == DbError::BulkLocked => bulk(item).map(Self::Bulk),
            _ => None,
        }
    }
}

/// A stuck delivery without its body.
#[derive(Debug, Clone)]
pub(super) struct StuckEntry {
    /// Hash of the execution's identifier.
    execution: Option<u32>,
    kind: ItemKind,
    /// Hash of the bulk's identifier.
    bulk: Option<u32>,
    /// Which other deliveries wait for this one, according to its last attempt.
    pub(super) blocks: Option<Blocked>,
    received_at: OffsetDateTime,
    due: Instant,
    pub(super) strikes: u32,
    /// How many times the time limit is doubled.
    extensions: u32,
    pub(super) failures_without_strike: u32,
    /// The errors that the delivery was degraded for, one step each.
    pub(super) degraded_for: Vec<DbError>,
}

impl StuckEntry {
    fn new(item: &RecordItem<'_>) -> Self {
        Self {
            execution: item.execution_id().map(hash),
            kind: item.kind(),
            bulk: bulk(item),
            blocks: None,
            received_at: item.delivery().received_at,
            due: Instant::now(),
            strikes: 0,
            extensions: 0,
            failures_without_strike: 0,
            degraded_for: Vec::new(),
        }
    }

    /// Whether the delivery was not retried alone since it became stuck.
    fn is_untried(&self) -> bool {
        let failures = self.strikes + self.extensions + self.failures_without_strike;
        failures == 0 && self.degraded_for.is_empty() && self.blocks.is_none()
    }

    pub(super) fn time_limit(&self, base: Duration) -> Duration {
        base.saturating_mul(1 << self.extensions)
    }

    /// Makes the delivery due again after `pause`.
    pub(super) fn postpone(&mut self, pause: Duration) {
        self.due = Instant::now() + pause;
    }

    /// Doubles the time limit after PostgreSQL rejected every form of the delivery.
    pub(super) fn extend_time_limit(&mut self) {
        self.extensions = (self.extensions + 1).min(MAX_EXTENSIONS);
    }

    /// Resets the strikes after a failure that does not blame the delivery: only strikes in a row count.
    pub(super) fn reset_strikes(&mut self) {
        self.strikes = 0;
        self.failures_without_strike += 1;
    }

    /// Counts a failure of this delivery alone while others can be recorded. Returns whether the delivery is to blame. The
    /// caller does not count contention.
    pub(super) fn strike(&mut self, error: &DbError) -> bool {
        (self.strikes, self.failures_without_strike) = (self.strikes + 1, 0);
        let needed = match error {
            DbError::TimedOut if self.extensions < EXTENSIONS => {
                self.extensions += 1;
                STRIKES_WITH_PAUSES
            }
            DbError::TimedOut => 1,
            error if error.is_repeatable() && !self.degraded_for.is_empty() => 1,
            error if error.is_repeatable() => STRIKES,
            _ => STRIKES_WITH_PAUSES,
        };
        let blamed = self.strikes >= needed;
        if blamed {
            self.strikes = 0;
        }
        blamed
    }
}

impl StuckList {
    pub(super) fn new(status: watch::Sender<StuckStatus>, acks: AckHandle) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), status, acks }
    }

    pub(super) fn status(&self) -> StuckStatus {
        self.status.borrow().clone()
    }

    /// The last delivery that was acked to the spool.
    pub(super) fn acked_seq(&self) -> Seq {
        self.acks.acked_seq()
    }

    /// Waits while the list is full.
    pub(super) async fn wait_for_room(&self) {
        let _ = self.status.subscribe().wait_for(|stuck| stuck.deliveries < MAX_STUCK).await;
    }

    /// Adds the deliveries of `part`, which failed with `why`. The first of them blocks the deliveries of `blocked`.
    pub(super) fn add(&self, part: &BatchPart<'_>, why: Option<&DbError>, mut blocked: Option<Blocked>) {
        let mut state = self.state.lock();
        for (seq, item) in part.iter() {
            // The others wait for the first one, so only the first is retried.
            state.entries.insert(seq, StuckEntry { blocks: blocked.take(), ..StuckEntry::new(item) });
        }
        if let Some(why) = why {
            state.why = Some(why.clone());
        }
        self.publish(&mut state);
        self.changed.notify_one();
    }

    /// Adds to the list the deliveries of `part` that are blocked, or whose execution has a stuck delivery (which preserves
    /// per-execution order). Returns the others.
    pub(super) fn hold_back<'i>(&self, part: BatchPart<'i>) -> BatchPart<'i> {
        let (stuck, blocked): (HashSet<u32>, _) = {
            let state = self.state.lock();
            if state.entries.is_empty() {
                return part;
            }
            (state.entries.values().filter_map(|entry| entry.execution).collect(), state.blocked())
        };
        let (later, free) = part.partition(|item| {
            item.execution_id().is_some_and(|id| stuck.contains(&hash(id)))
                || is_blocked(&blocked, item.kind(), || bulk(item))
        });
        if !later.is_empty() {
            self.add(&later, None, None);
        }
        free
    }

    /// Waits for a due delivery. Of the deliveries of one execution, only the first can be due. Of the deliveries of a
    /// blocked kind or bulk, only the blocking one can be due. `None` once the list is closed and empty.
    pub(super) async fn next(&self) -> Option<(Seq, StuckEntry)> {
        loop {
            let changed = self.changed.notified();
            let due = {
                let state = self.state.lock();
                if state.closed && state.entries.is_empty() {
                    return None;
                }
                let (now, blocked, mut seen) = (Instant::now(), state.blocked(), HashSet::new());
                let firsts: Vec<_> = state
                    .entries
                    .iter()
                    .filter(|(_, entry)| entry.execution.is_none_or(|execution| seen.insert(execution)))
                    .filter(|(_, entry)| {
                        entry.blocks.is_some() || !is_blocked(&blocked, entry.kind, || entry.bulk)
                    })
                    .collect();
                // Slow deliveries last.
                let next = firsts.iter().filter(|(_, entry)| entry.due <= now);
                if let Some((seq, entry)) = next.min_by_key(|(_, entry)| (entry.extensions, entry.due)) {
                    return Some((**seq, (*entry).clone()));
                }
                firsts.iter().map(|(_, entry)| entry.due).min()
            };
            match due {
                None => changed.await,
                Some(due) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(due) => {}
                },
            }
        }
    }

    /// Up to `limit` deliveries that may be recorded together, in their order: those that were not retried alone yet, are not
    /// blocked, and whose execution has no earlier delivery that is left out.
    pub(super) fn untried(&self, limit: usize) -> Vec<Seq> {
        let state = self.state.lock();
        let (blocked, mut passed_over) = (state.blocked(), HashSet::new());
        let mut may_be_recorded = |entry: &StuckEntry| {
            let may = entry.is_untried()
                && !is_blocked(&blocked, entry.kind, || entry.bulk)
                && entry.execution.is_none_or(|execution| !passed_over.contains(&execution));
            if !may {
                passed_over.extend(entry.execution);
            }
            may
        };
        let untried = state.entries.iter().filter(|(_, entry)| may_be_recorded(entry));
        untried.map(|(seq, _)| *seq).take(limit).collect()
    }

    /// Updates the entry of a delivery that failed again.
    pub(super) fn put_back(&self, seq: Seq, entry: StuckEntry, why: &DbError) {
        let mut state = self.state.lock();
        state.entries.insert(seq, entry);
        state.why = Some(why.clone());
        self.publish(&mut state);
    }

    /// Removes deliveries that are recorded or no longer in the spool.
    pub(super) fn remove(&self, seqs: impl IntoIterator<Item = Seq>) {
        let mut state = self.state.lock();
        for seq in seqs {
            state.entries.remove(&seq);
        }
        self.publish(&mut state);
    }

    /// Publishes that every delivery up to `through` is recorded or in this list.
    pub(super) fn set_handled(&self, through: Seq) {
        let mut state = self.state.lock();
        state.handled = through;
        self.publish(&mut state);
    }

    /// Ends [`Self::next`] once the list is empty.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    fn publish(&self, state: &mut State) {
        let oldest = state.entries.first_key_value();
        let through = oldest.map_or(state.handled, |(first, _)| state.handled.min(first - 1));
        if oldest.is_none() {
            state.why = None;
        }
        self.status.send_replace(StuckStatus {
            deliveries: state.entries.len(),
            oldest: oldest.map(|(_, entry)| entry.received_at),
            why: state.why.clone(),
            handled: state.handled,
        });
        self.acks.ack(through);
    }
}

/// Whether `blocked` contains this kind or bulk.
fn is_blocked(blocked: &HashSet<Blocked>, kind: ItemKind, bulk: impl FnOnce() -> Option<u32>) -> bool {
    !blocked.is_empty()
        && (blocked.contains(&Blocked::Kind(kind))
            || bulk().is_some_and(|bulk| blocked.contains(&Blocked::Bulk(bulk))))
}

/// Hash of the identifier of the item's bulk.
fn bulk(item: &RecordItem<'_>) -> Option<u32> {
    item.execution()?.bulk_id.as_deref().map(hash)
}

impl State {
    fn blocked(&self) -> HashSet<Blocked> {
        self.entries.values().filter_map(|entry| entry.blocks).collect()
    }
}
