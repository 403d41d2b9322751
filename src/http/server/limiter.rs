//! Limits the number of connections and of requests.
//!
//! When the limit is reached, the connection or request that has waited for its peer the longest is evicted. Slow peers
//! therefore cannot lock others out, and a peer that waits for the receiver is never evicted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Limiter {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_use: usize,
    last_turn: u64,
    /// The slots that wait for their peer, longest first.
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    deadline: Instant,
    evicted: Arc<Notify>,
}

/// One of the `max` slots, free again when dropped. A new slot cannot be evicted before [`Slot::set_waiting`].
#[derive(Debug)]
pub(crate) struct Slot {
    limiter: Arc<Limiter>,
    evicted: Arc<Notify>,
    /// The key in [`State::waiting`], unchanged by an eviction. 0 while the slot does not wait. `turn` and `busy` are written
    /// under the lock only.
    turn: AtomicU64,
    /// The number of requests that wait for the receiver: several over HTTP/2.
    busy: AtomicUsize,
    /// What the connection has received. Not used for a request.
    received: Mutex<Received>,
}

/// What a connection has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Received {
    Nothing,
    /// This many bytes of an incomplete head.
    PartOfHead(usize),
    /// A complete head. Its body is being received.
    Head,
    /// Complete requests only.
    Requests,
    /// At least one complete head over HTTP/2, which interleaves heads and bodies. The HTTP library limits its heads.
    Multiplexed,
}

impl Limiter {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, state: Mutex::default() })
    }

    /// Evicts the slot that has waited longest if the limit is reached. `None` if all slots are busy.
    pub(crate) fn acquire(self: &Arc<Self>) -> Option<Slot> {
        self.acquire_with(Arc::default())
    }

    /// A slot whose eviction notifies `evicted`, which may be the [`Slot::eviction`] of another slot.
    pub(in crate::http) fn acquire_with(self: &Arc<Self>, evicted: Arc<Notify>) -> Option<Slot> {
        let mut state = self.state.lock();
        if state.in_use >= self.max && !state.evict_oldest() {
            return None;
        }
        state.in_use += 1;
        Some(Slot {
            limiter: self.clone(),
            evicted,
            turn: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            received: Mutex::new(Received::Nothing),
        })
    }

    /// The number of slots in use, without evicted ones.
    pub(crate) fn in_use(&self) -> usize {
        self.state.lock().in_use
    }

    pub(crate) fn waiting_on_peer(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Evicts the slot that has waited longest.
    pub(crate) fn evict_oldest(&self) {
        self.state.lock().evict_oldest();
    }

    /// Evicts all slots whose deadline has passed.
    pub(crate) fn evict_expired(&self) {
        let now = Instant::now();
        let State { in_use, waiting, .. } = &mut *self.state.lock();
        for (_, expired) in waiting.extract_if(.., |_, waiting| waiting.deadline <= now) {
            *in_use -= 1;
            expired.evicted.notify_one();
        }
    }
}

impl State {
    fn evict_oldest(&mut self) -> bool {
        let Some((_, oldest)) = self.waiting.pop_first() else { return false };
        self.in_use -= 1;
        oldest.evicted.notify_one();
        true
    }
}

impl Slot {
    /// The receiver waits for the peer until `deadline`. No effect on a busy slot.
    pub(crate) fn set_waiting(&self, deadline: Instant) {
        let mut state = self.limiter.state.lock();
        if self.busy.load(Relaxed) == 0 && self.leave(&mut state) {
            self.enter(&mut state, deadline);
        }
    }

    /// One more request waits for the receiver.
    pub(crate) fn set_busy(&self) {
        let mut state = self.limiter.state.lock();
        self.busy.fetch_add(1, Relaxed);
        if self.leave(&mut state) {
            self.turn.store(0, Relaxed);
        }
    }

    /// Ends one [`Self::set_busy`]. After the last one, the receiver waits for the peer until `deadline`.
    pub(crate) fn set_idle(&self, deadline: Instant) {
        let mut state = self.limiter.state.lock();
        if self.busy.fetch_sub(1, Relaxed) == 1 && self.turn.load(Relaxed) == 0 {
            self.enter(&mut state, deadline);
        }
    }

    /// Counts `more` received bytes. Returns the size of the incomplete head, or 0 if no head is being received.
    pub(in crate::http) fn count_head_bytes(&self, more: usize) -> usize {
        let mut received = self.received.lock();
        let bytes = match *received {
            Received::Head | Received::Multiplexed => return 0,
            Received::PartOfHead(before) => before + more,
            Received::Nothing | Received::Requests => more,
        };
        *received = Received::PartOfHead(bytes);
        bytes
    }

    /// A head is complete. `received` is what the connection has now received.
    pub(in crate::http) fn head_complete(&self, received: Received) {
        *self.received.lock() = received;
    }

    /// A body is complete: the next head follows.
    pub(in crate::http) fn body_complete(&self) {
        let mut received = self.received.lock();
        if *received == Received::Head {
            *received = Received::Requests;
        }
    }

    /// Whether part of a head or of a body has been received.
    pub(in crate::http) fn is_mid_request(&self) -> bool {
        matches!(self.received(), Received::PartOfHead(_) | Received::Head)
    }

    /// Notified when the slot is evicted.
    pub(in crate::http) fn eviction(&self) -> &Arc<Notify> {
        &self.evicted
    }

    fn enter(&self, state: &mut State, deadline: Instant) {
        state.last_turn += 1;
        self.turn.store(state.last_turn, Relaxed);
        state.waiting.insert(state.last_turn, Waiting { deadline, evicted: self.evicted.clone() });
    }

    /// False if the slot was evicted.
    fn leave(&self, state: &mut State) -> bool {
        let turn = self.turn.load(Relaxed);
        turn == 0 || state.waiting.remove(&turn).is_some()
    }

    pub(super) fn received(&self) -> Received {
        *self.received.lock()
    }

    /// Returns when the slot is evicted.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let limiter = self.limiter.clone();
        let mut state = limiter.state.lock();
        // Evicting a slot has already decreased the count.
        if self.leave(&mut state) {
            state.in_use -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_slot_that_waited_longest_is_evicted_and_busy_ones_stay() {
        let limiter = Limiter::new(3);
        let (busy, first, second) =
            (limiter.acquire().unwrap(), limiter.acquire().unwrap(), limiter.acquire().unwrap());
        assert!(limiter.acquire().is_none(), "all are busy");
        let later = Instant::now() + std::time::Duration::from_mins(1);
        busy.set_waiting(later);
        first.set_waiting(later);
        second.set_waiting(later);
        busy.set_busy();
        let next = limiter.acquire().unwrap();
        first.evicted().await;
        assert_eq!(limiter.in_use(), 3);
        drop(first);
        assert_eq!(limiter.in_use(), 3, "the eviction has freed it");
        second.set_busy();
        second.set_busy();
        second.set_idle(later);
        assert!(limiter.acquire().is_none(), "all are busy: one request is still waiting");
        second.set_idle(later);
        let last = limiter.acquire().unwrap();
        second.evicted().await;
        // An evicted slot stays evicted.
        second.set_waiting(later);
        second.set_busy();
        second.set_idle(later);
        drop((busy, second, next, last));
        assert_eq!(limiter.in_use(), 0);
        assert_eq!(limiter.waiting_on_peer(), 0);
    }

    #[tokio::test]
    async fn a_slot_past_its_deadline_is_evicted() {
        let limiter = Limiter::new(2);
        let (expired, other) = (limiter.acquire().unwrap(), limiter.acquire().unwrap());
        expired.set_waiting(Instant::now());
        other.set_waiting(Instant::now() + std::time::Duration::from_mins(1));
        limiter.evict_expired();
        expired.evicted().await;
        assert_eq!(limiter.in_use(), 1);
    }
}
