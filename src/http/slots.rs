//! Places that are limited in number: for connections, and for requests.
//!
//! When all are taken, whoever has kept the receiver waiting longest has to go. So senders that
//! send slowly, or nothing, keep nobody else out, however many they are; those that wait for the
//! receiver are never sent away.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// A number of places.
#[derive(Debug)]
pub(crate) struct Slots {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    turns: u64,
    /// Those that the receiver waits for, longest first.
    waited_for: BTreeMap<u64, Waited>,
}

#[derive(Debug)]
struct Waited {
    until: Instant,
    evicted: Arc<Notify>,
}

/// A place taken; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    evicted: Arc<Notify>,
    /// Its turn among those waited for; 0 while it waits for the receiver. Written under the lock only.
    turn: AtomicU64,
}

impl Slots {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if need be that of the one waited for longest. `None` when all are busy.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.state();
        if state.taken >= self.max && !state.evict_longest() {
            return None;
        }
        state.taken += 1;
        Some(Slot { slots: self.clone(), evicted: Arc::default(), turn: AtomicU64::new(0) })
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.state().taken
    }

    /// How many of them the receiver waits for.
    pub(crate) fn waited_for(&self) -> usize {
        self.state().waited_for.len()
    }

    /// Sends away the one waited for longest.
    pub(crate) fn evict_longest(&self) {
        self.state().evict_longest();
    }

    /// Sends away all whose time is up.
    pub(crate) fn evict_late(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let late: Vec<u64> = state
            .waited_for
            .iter()
            .filter(|(_, waited)| waited.until <= now)
            .map(|(turn, _)| *turn)
            .collect();
        for turn in late {
            state.evict(turn);
        }
    }
}

impl State {
    fn evict_longest(&mut self) -> bool {
        let longest = self.waited_for.keys().next().copied();
        longest.is_some_and(|turn| self.evict(turn))
    }

    fn evict(&mut self, turn: u64) -> bool {
        let Some(waited) = self.waited_for.remove(&turn) else { return false };
        self.taken -= 1;
        waited.evicted.notify_one();
        true
    }
}

impl Slot {
    /// From now on the receiver waits for it, not longer than `until`.
    pub(crate) fn waited_for(&self, until: Instant) {
        let mut state = self.slots.state();
        if self.turn.load(Relaxed) == 0 {
            state.turns += 1;
            self.turn.store(state.turns, Relaxed);
            let turn = state.turns;
            state.waited_for.insert(turn, Waited { until, evicted: self.evicted.clone() });
        }
    }

    /// From now on it waits for the receiver.
    pub(crate) fn waits(&self) {
        let mut state = self.slots.state();
        if state.waited_for.remove(&self.turn.load(Relaxed)).is_some() {
            self.turn.store(0, Relaxed);
        }
    }

    /// Returns when it has to go.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let turn = *self.turn.get_mut();
        let mut state = self.slots.state();
        // One that was evicted is counted no more.
        if turn == 0 || state.waited_for.remove(&turn).is_some() {
            state.taken -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_one_waited_for_longest_makes_room_and_the_busy_stay() {
        let slots = Slots::new(3);
        let (busy, first, second) = (slots.take().unwrap(), slots.take().unwrap(), slots.take().unwrap());
        assert!(slots.take().is_none(), "all are busy");
        let later = Instant::now() + std::time::Duration::from_mins(1);
        busy.waited_for(later);
        first.waited_for(later);
        second.waited_for(later);
        busy.waits();
        let next = slots.take().unwrap();
        first.evicted().await;
        assert_eq!(slots.taken(), 3);
        drop(first);
        assert_eq!(slots.taken(), 3, "it was counted out already");
        second.waited_for(later);
        second.waits();
        assert!(slots.take().is_none(), "all are busy again");
        drop((busy, second, next));
        assert_eq!(slots.taken(), 0);
    }

    #[tokio::test]
    async fn who_is_late_has_to_go() {
        let slots = Slots::new(2);
        let (late, early) = (slots.take().unwrap(), slots.take().unwrap());
        late.waited_for(Instant::now());
        early.waited_for(Instant::now() + std::time::Duration::from_mins(1));
        slots.evict_late();
        late.evicted().await;
        assert_eq!(slots.taken(), 1);
    }
}
