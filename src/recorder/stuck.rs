//! The stuck deliveries: those that failed alone while PostgreSQL recorded others, and later ones of their executions.
//!
//! A stuck delivery occupies no worker. One task retries all of them in turn, one at a time, over a connection of its
//! own; their bodies stay in the spool until then. So any number of deliveries that wait for a lock, or that PostgreSQL
//! stores nowhere, blocks no other delivery.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::attempt::Part;
use super::in_flight::hash;
use crate::db::{DbError, RecordItem};
use crate::spool::{AckHandle, Seq};

/// Strikes before a delivery is blamed for an error that the server will repeat.
const STRIKES: u32 = 3;
/// Strikes before a delivery is blamed for an error that may go away by itself.
const STRIKES_WITH_PAUSES: u32 = 10;
/// How often the time limit of a delivery that takes too long is doubled.
const EXTENSIONS: u32 = 3;
/// The same for a delivery that can be stored nowhere.
const MAX_EXTENSIONS: u32 = 6;

/// The stuck deliveries, for health checks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stuck {
    /// How many there are.
    pub(crate) deliveries: usize,
    /// When the oldest of them was received.
    pub(crate) oldest: Option<OffsetDateTime>,
    /// Why one of them waits, for the latest that failed.
    pub(crate) why: Option<DbError>,
    /// Every delivery up to here is recorded or stuck.
    pub(crate) handled: Seq,
}

#[derive(Default)]
pub(super) struct StuckList {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Seq, Entry>,
    why: Option<DbError>,
    handled: Seq,
    /// No worker adds any more.
    closed: bool,
}

/// A stuck delivery without its body.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Hash of the execution's identifier.
    execution: Option<u32>,
    received_at: OffsetDateTime,
    due: Instant,
    strikes: u32,
    /// The time limit is doubled this often.
    extensions: u32,
    /// Failures in a row that blame nothing.
    pub(super) waits: u32,
    /// The delivery was degraded for these, one step each.
    pub(super) faults: Vec<DbError>,
}

impl Entry {
    fn new(item: &RecordItem<'_>) -> Self {
        Self {
            execution: item.execution_id().map(hash),
            received_at: item.received_at(),
            due: Instant::now(),
            strikes: 0,
            extensions: 0,
            waits: 0,
            faults: Vec::new(),
        }
    }

    pub(super) fn time_limit(&self, usual: Duration) -> Duration {
        usual.saturating_mul(1 << self.extensions)
    }

    /// The delivery is due again after `pause`.
    pub(super) fn pause(&mut self, pause: Duration) {
        self.due = Instant::now() + pause;
    }

    /// PostgreSQL stores it nowhere: the next attempt gets more time.
    pub(super) fn extend(&mut self) {
        self.extensions = (self.extensions + 1).min(MAX_EXTENSIONS);
    }

    /// The failure says nothing about the delivery: strikes count in a row only.
    pub(super) fn wait(&mut self) {
        self.strikes = 0;
        self.waits += 1;
    }

    pub(super) fn strikes(&self) -> u32 {
        self.strikes
    }

    /// Counts a failure of this delivery while others can be recorded. True when it is to blame. Contention never is a
    /// strike.
    pub(super) fn strike(&mut self, fault: &DbError) -> bool {
        (self.strikes, self.waits) = (self.strikes + 1, 0);
        let needed = match fault {
            DbError::TimedOut if self.extensions < EXTENSIONS => {
                self.extensions += 1;
                STRIKES_WITH_PAUSES
            }
            DbError::TimedOut => 1,
            fault if fault.is_repeatable() && !self.faults.is_empty() => 1,
            fault if fault.is_repeatable() => STRIKES,
            _ => STRIKES_WITH_PAUSES,
        };
        let blamed = self.strikes >= needed;
        if blamed {
            self.strikes = 0;
        }
        blamed
    }
}

/// Where the list publishes its state and acknowledges deliveries to the spool.
pub(super) struct Report<'r> {
    pub(super) stuck: &'r watch::Sender<Stuck>,
    pub(super) recorded: &'r AckHandle,
}

impl StuckList {
    /// Adds the deliveries of `part`.
    pub(super) fn add(&self, part: &Part<'_>, why: Option<&DbError>, report: &Report<'_>) {
        let mut state = self.state();
        for (seq, item) in part.iter() {
            state.entries.insert(seq, Entry::new(item));
        }
        if let Some(why) = why {
            state.why = Some(why.clone());
        }
        state.publish(report);
        self.changed.notify_one();
    }

    /// Takes the deliveries out of `part` whose execution is stuck, and adds them: they wait after the earlier one.
    pub(super) fn keep_order<'i>(&self, part: Part<'i>, report: &Report<'_>) -> Part<'i> {
        let stuck: HashSet<u32> = {
            let state = self.state();
            if state.entries.is_empty() {
                return part;
            }
            state.entries.values().filter_map(|entry| entry.execution).collect()
        };
        let (later, free) =
            part.partition(|item| item.execution_id().is_some_and(|id| stuck.contains(&hash(id))));
        if !later.is_empty() {
            self.add(&later, None, report);
        }
        free
    }

    /// The next delivery to retry, once it is due. Of an execution, only the first. `None` once the list is closed and
    /// empty.
    pub(super) async fn next(&self) -> Option<(Seq, Entry)> {
        loop {
            let changed = self.changed.notified();
            let due = {
                let state = self.state();
                if state.closed && state.entries.is_empty() {
                    return None;
                }
                let (now, mut seen) = (Instant::now(), HashSet::new());
                let firsts: Vec<_> = state
                    .entries
                    .iter()
                    .filter(|(_, entry)| entry.execution.is_none_or(|execution| seen.insert(execution)))
                    .collect();
                // Those that take long last.
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

    /// Puts back what is known of a delivery that failed again.
    pub(super) fn put_back(&self, seq: Seq, entry: Entry, why: &DbError, report: &Report<'_>) {
        let mut state = self.state();
        state.entries.insert(seq, entry);
        state.why = Some(why.clone());
        state.publish(report);
    }

    /// A delivery is recorded, or its row is not in the spool any more.
    pub(super) fn remove(&self, seq: Seq, report: &Report<'_>) {
        let mut state = self.state();
        state.entries.remove(&seq);
        state.publish(report);
    }

    /// Every delivery up to `through` is recorded or in this list.
    pub(super) fn handled(&self, through: Seq, report: &Report<'_>) {
        let mut state = self.state();
        state.handled = through;
        state.publish(report);
    }

    /// No delivery is added any more.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn publish(&mut self, report: &Report<'_>) {
        let oldest = self.entries.first_key_value();
        let through = oldest.map_or(self.handled, |(first, _)| self.handled.min(first - 1));
        if oldest.is_none() {
            self.why = None;
        }
        report.stuck.send_replace(Stuck {
            deliveries: self.entries.len(),
            oldest: oldest.map(|(_, entry)| entry.received_at),
            why: self.why.clone(),
            handled: self.handled,
        });
        report.recorded.ack(through);
    }
}
