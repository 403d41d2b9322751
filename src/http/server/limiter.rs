//! Places that are limited in number: for connections, and for requests.
//!
//! When all are taken, the connection or request that has been slow the longest is evicted. So senders that
//! send slowly, or nothing, keep nobody else out, however many they are; those that wait for the
//! receiver are never sent away.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// A number of places.
#[derive(Debug)]
pub(crate) struct Limiter {
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

/// A place; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Limiter>,
    evicted: Arc<Notify>,
    /// Its turn among those waited for, or the last one if it was evicted; 0 while it waits for the
    /// receiver. Written under the lock only, as `busy`.
    turn: AtomicU64,
    /// How many of its requests wait for the receiver: over HTTP/2 there may be several.
    busy: AtomicUsize,
    /// Of a connection: bytes received of a head that is incomplete, or one of the two constants below.
    head_bytes: AtomicUsize,
}

/// A body is received.
const BODY: usize = usize::MAX;
/// Heads and bodies are mixed, and HTTP/2 bounds them itself.
const MULTIPLEXED: usize = usize::MAX - 1;

/// What a connection receives after a head.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) enum AfterHead {
    /// The next one.
    Head,
    /// A body.
    Body,
    /// Either, over HTTP/2.
    Multiplexed,
}

impl Limiter {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if need be that of the one waited for longest. `None` when all are busy.
    pub(crate) fn acquire(self: &Arc<Self>) -> Option<Slot> {
        self.take_with(Arc::default())
    }

    /// A place whose eviction notifies `evicted`, which may be [`Slot::eviction`] of another one.
    pub(in crate::http) fn take_with(self: &Arc<Self>, evicted: Arc<Notify>) -> Option<Slot> {
        let mut state = self.state();
        if state.taken >= self.max && !state.evict_longest() {
            return None;
        }
        state.taken += 1;
        Some(Slot {
            slots: self.clone(),
            evicted,
            turn: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            head_bytes: AtomicUsize::new(0),
        })
    }

    /// How many are taken; those that have been sent away do not count.
    pub(crate) fn in_use(&self) -> usize {
        self.state().taken
    }

    /// How many of them the receiver waits for.
    pub(crate) fn waiting_on_peer(&self) -> usize {
        self.state().waited_for.len()
    }

    /// Sends away the one waited for longest.
    pub(crate) fn evict_oldest(&self) {
        self.state().evict_longest();
    }

    /// Sends away all whose time is up.
    pub(crate) fn evict_expired(&self) {
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
    /// From now on the receiver waits for it, not longer than `until`; unless it waits, too, for
    /// something else.
    pub(crate) fn set_waiting(&self, until: Instant) {
        let mut state = self.slots.state();
        if self.busy.load(Relaxed) == 0 && self.leave(&mut state) {
            self.enter(&mut state, until);
        }
    }

    /// From now on it waits for the receiver, once more.
    pub(crate) fn set_busy(&self) {
        let mut state = self.slots.state();
        self.busy.fetch_add(1, Relaxed);
        if self.leave(&mut state) {
            self.turn.store(0, Relaxed);
        }
    }

    /// One thing that it waited for is done; after the last, the receiver waits for it.
    pub(crate) fn set_idle(&self, until: Instant) {
        let mut state = self.slots.state();
        if self.busy.fetch_sub(1, Relaxed) == 1 && self.turn.load(Relaxed) == 0 {
            self.enter(&mut state, until);
        }
    }

    /// Counts `more` bytes received. Returns the size of the head that is incomplete, 0 for none. Only the connection's
    /// own tasks use the head.
    pub(in crate::http) fn count_head_bytes(&self, more: usize) -> usize {
        let before = self.head_bytes.load(Relaxed);
        if before >= MULTIPLEXED {
            return 0;
        }
        self.head_bytes.store(before + more, Relaxed);
        before + more
    }

    /// A head is complete.
    pub(in crate::http) fn head_complete(&self, next: AfterHead) {
        let bytes = match next {
            AfterHead::Head => 0,
            AfterHead::Body => BODY,
            AfterHead::Multiplexed => MULTIPLEXED,
        };
        self.head_bytes.store(bytes, Relaxed);
    }

    /// A body is complete: a head is received next.
    pub(in crate::http) fn body_complete(&self) {
        let _ = self.head_bytes.compare_exchange(BODY, 0, Relaxed, Relaxed);
    }

    /// Whether a head or a body has been received in part.
    pub(in crate::http) fn is_mid_request(&self) -> bool {
        !matches!(self.head_bytes.load(Relaxed), 0 | MULTIPLEXED)
    }

    /// What is notified when it is evicted.
    pub(in crate::http) fn eviction(&self) -> &Arc<Notify> {
        &self.evicted
    }

    fn enter(&self, state: &mut State, until: Instant) {
        state.turns += 1;
        self.turn.store(state.turns, Relaxed);
        state.waited_for.insert(state.turns, Waited { until, evicted: self.evicted.clone() });
    }

    /// False when it has been evicted.
    fn leave(&self, state: &mut State) -> bool {
        let turn = self.turn.load(Relaxed);
        turn == 0 || state.waited_for.remove(&turn).is_some()
    }

    /// Returns when it has to go.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = self.slots.clone();
        let mut state = slots.state();
        // One that was evicted is counted no more.
        if self.leave(&mut state) {
            state.taken -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_one_waited_for_longest_makes_room_and_the_busy_stay() {
        let slots = Limiter::new(3);
        let (busy, first, second) =
            (slots.acquire().unwrap(), slots.acquire().unwrap(), slots.acquire().unwrap());
        assert!(slots.acquire().is_none(), "all are busy");
        let later = Instant::now() + std::time::Duration::from_mins(1);
        busy.set_waiting(later);
        first.set_waiting(later);
        second.set_waiting(later);
        busy.set_busy();
        let next = slots.acquire().unwrap();
        first.evicted().await;
        assert_eq!(slots.in_use(), 3);
        drop(first);
        assert_eq!(slots.in_use(), 3, "it was counted out already");
        second.set_busy();
        second.set_busy();
        second.set_idle(later);
        assert!(slots.acquire().is_none(), "all are busy again: it waits for one thing more");
        second.set_idle(later);
        let last = slots.acquire().unwrap();
        second.evicted().await;
        // Nothing brings it back.
        second.set_waiting(later);
        second.set_busy();
        second.set_idle(later);
        drop((busy, second, next, last));
        assert_eq!(slots.in_use(), 0);
        assert_eq!(slots.waiting_on_peer(), 0);
    }

    #[tokio::test]
    async fn who_is_late_has_to_go() {
        let slots = Limiter::new(2);
        let (late, early) = (slots.acquire().unwrap(), slots.acquire().unwrap());
        late.set_waiting(Instant::now());
        early.set_waiting(Instant::now() + std::time::Duration::from_mins(1));
        slots.evict_expired();
        late.evicted().await;
        assert_eq!(slots.in_use(), 1);
    }
}
