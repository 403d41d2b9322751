//! The memory that request bodies share (`http.max_bytes_in_flight`).
//!
//! Each body may take [`FREE_BYTES_PER_BODY`] without asking, so large bodies never keep out small ones, and small
//! bodies take no lock. A larger body reserves its whole size before its buffer is allocated. A body whose sender is
//! not verified yet (a signature is over the body, so it is checked last) may use a part of the budget only: the rest
//! is left to senders that the request's head verifies.
//!
//! When the budget is used up, a body waits in line. Meanwhile bodies that make no progress are evicted, the one
//! stalled longest first, those of unverified senders before others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::intake::Refused;

/// Bytes of each body that are not counted.
pub(crate) const FREE_BYTES_PER_BODY: usize = 64 << 10;
/// A body has made progress when so many more bytes of it have been received.
const PROGRESS: usize = 64 << 10;
/// A body without progress for so long may be evicted when another one waits for its memory. The more wait, the
/// shorter: each of many stalled bodies would otherwise hold up the line for the whole time.
const STALLED_AFTER: Duration = Duration::from_secs(1);
const STALLED_AFTER_MIN: Duration = Duration::from_millis(250);
/// While a body waits for memory, how often stalled bodies are looked for.
const CHECK_EVERY: Duration = Duration::from_millis(50);
/// How long a body waits for memory.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The memory that bodies may take together.
#[derive(Debug, Clone)]
pub(crate) struct MemoryBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    bytes: usize,
    left: Arc<Semaphore>,
    unverified_bytes: usize,
    unverified_left: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    turns: u64,
    /// Bodies being received that hold memory, by their latest progress, the oldest first.
    receiving: BTreeMap<u64, Receiving>,
    /// Bytes that bodies wait for, and how many bodies do.
    wanted: usize,
    waiting: u32,
    /// Bytes of evicted bodies that are not given back yet.
    leaving: usize,
}

#[derive(Debug)]
struct Receiving {
    bytes: usize,
    verified: bool,
    progress_at: Instant,
    evicted: Arc<Notify>,
}

impl MemoryBudget {
    /// `bytes` in total; half of them for bodies whose sender is not verified.
    pub(crate) fn new(bytes: usize) -> Self {
        let unverified_bytes = bytes / 2;
        Self(Arc::new(Budget {
            bytes,
            left: Arc::new(Semaphore::new(bytes)),
            unverified_bytes,
            unverified_left: Arc::new(Semaphore::new(unverified_bytes)),
            state: Mutex::default(),
        }))
    }

    /// Bytes reserved at present.
    pub(crate) fn reserved(&self) -> usize {
        self.0.bytes - self.0.left.available_permits()
    }

    /// A permit for one body, which holds nothing yet. `evicted` is notified when the body has to go.
    pub(crate) fn permit(&self, verified: bool, evicted: &Arc<Notify>) -> MemoryPermit {
        MemoryPermit {
            budget: self.clone(),
            evicted: evicted.clone(),
            verified,
            turn: 0,
            size: 0,
            since_progress: 0,
            counted: None,
            unverified: None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `bytes` of `semaphore`, in line with others.
    async fn acquire(
        &self,
        semaphore: &Arc<Semaphore>,
        bytes: usize,
        also_verified: bool,
    ) -> Result<OwnedSemaphorePermit, Refused> {
        let permits = u32::try_from(bytes).map_err(|_| Refused::Busy)?;
        if let Ok(permit) = semaphore.clone().try_acquire_many_owned(permits) {
            return Ok(permit);
        }
        let _wanted = Wanted::new(self, bytes);
        let mut check = interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut acquired = std::pin::pin!(semaphore.clone().acquire_many_owned(permits));
        let waiting = async {
            loop {
                tokio::select! {
                    permit = &mut acquired => return permit.map_err(|_| Refused::Busy),
                    _ = check.tick() => self.state().evict_stalled(also_verified),
                }
            }
        };
        timeout(MAX_WAIT, waiting).await.unwrap_or(Err(Refused::Busy))
    }
}

/// Bytes that a body waits for.
struct Wanted<'b> {
    budget: &'b MemoryBudget,
    bytes: usize,
}

impl<'b> Wanted<'b> {
    fn new(budget: &'b MemoryBudget, bytes: usize) -> Self {
        let mut state = budget.state();
        state.wanted += bytes;
        state.waiting += 1;
        drop(state);
        Self { budget, bytes }
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        state.wanted -= self.bytes;
        state.waiting -= 1;
    }
}

impl State {
    fn enter(&mut self, receiving: Receiving) -> u64 {
        self.turns += 1;
        self.receiving.insert(self.turns, receiving);
        self.turns
    }

    /// Evicts as many stalled bodies as waiting ones need.
    fn evict_stalled(&mut self, also_verified: bool) {
        let now = Instant::now();
        let stalled_after = (STALLED_AFTER / self.waiting.max(1)).max(STALLED_AFTER_MIN);
        while self.leaving < self.wanted {
            let stalled = |receiving: &Receiving| now - receiving.progress_at >= stalled_after;
            let longest = |verified: bool| {
                let mut of_kind = self.receiving.iter().filter(|(_, other)| other.verified == verified);
                of_kind.next().filter(|(_, other)| stalled(other)).map(|(turn, _)| *turn)
            };
            let turn = longest(false).or_else(|| longest(true).filter(|_| also_verified));
            let Some(evicted) = turn.and_then(|turn| self.receiving.remove(&turn)) else { return };
            self.leaving += evicted.bytes;
            evicted.evicted.notify_one();
        }
    }
}

/// The memory of one body, given back when dropped.
#[derive(Debug)]
pub(crate) struct MemoryPermit {
    budget: MemoryBudget,
    evicted: Arc<Notify>,
    verified: bool,
    /// Its key in [`State::receiving`]; 0 while it is not there.
    turn: u64,
    /// Bytes reserved beyond the free ones.
    size: usize,
    since_progress: usize,
    counted: Option<OwnedSemaphorePermit>,
    unverified: Option<OwnedSemaphorePermit>,
}

impl MemoryPermit {
    /// Another permit of the same budget, for a verified sender's body whose bytes are all there.
    pub(crate) fn for_copy(&self) -> Self {
        self.budget.permit(true, &self.evicted)
    }

    /// Reserves memory for a body of `size` bytes. From then on, the body can be evicted until
    /// [`Self::received`].
    ///
    /// # Errors
    /// [`Refused::Busy`] when the memory was not there within [`MAX_WAIT`], or never can be.
    pub(crate) async fn reserve(&mut self, size: usize) -> Result<(), Refused> {
        self.reserve_uninterrupted(size).await?;
        if self.size > 0 {
            let (verified, evicted) = (self.verified, self.evicted.clone());
            let entry = Receiving { bytes: self.size, verified, progress_at: Instant::now(), evicted };
            self.turn = self.budget.state().enter(entry);
        }
        Ok(())
    }

    /// The same for a copy that is made here, without a sender that could stall.
    ///
    /// # Errors
    /// As [`Self::reserve`].
    pub(crate) async fn reserve_uninterrupted(&mut self, size: usize) -> Result<(), Refused> {
        let beyond = size.saturating_sub(FREE_BYTES_PER_BODY);
        let Budget { bytes, left, unverified_bytes, unverified_left, .. } = &*self.budget.0;
        if beyond == 0 {
            return Ok(());
        }
        if beyond > *bytes {
            return Err(Refused::Busy);
        }
        if !self.verified {
            // A body larger than the whole part takes all of it.
            let part = beyond.min(*unverified_bytes);
            self.unverified = Some(self.budget.acquire(unverified_left, part, false).await?);
        }
        self.counted = Some(self.budget.acquire(left, beyond, true).await?);
        self.size = beyond;
        Ok(())
    }

    /// Notes that `more` bytes have been received. True once a while: the sender makes progress.
    pub(crate) fn progress(&mut self, more: usize) -> bool {
        self.since_progress += more;
        if self.since_progress < PROGRESS {
            return false;
        }
        self.since_progress = 0;
        let mut state = self.budget.state();
        // One that is not there has been evicted.
        if let Some(mut entry) = state.receiving.remove(&self.turn) {
            entry.progress_at = Instant::now();
            self.turn = state.enter(entry);
        }
        true
    }

    /// All of the body is there, `size` bytes: it is not evicted any more, and what it did not need is given back.
    pub(crate) fn received(&mut self, size: usize) {
        if self.counted.is_none() {
            return;
        }
        self.leave();
        let unused = self.size.saturating_sub(size.saturating_sub(FREE_BYTES_PER_BODY));
        if let Some(counted) = &mut self.counted {
            drop(counted.split(unused));
        }
        self.size -= unused;
    }

    /// The sender is verified: the body no longer counts among those of unverified ones.
    pub(crate) fn verified(&mut self) {
        self.verified = true;
        self.unverified = None;
    }

    /// It is not evicted any more.
    fn leave(&mut self) {
        let turn = std::mem::take(&mut self.turn);
        if turn > 0 {
            let mut state = self.budget.state();
            if state.receiving.remove(&turn).is_none() {
                state.leaving = state.leaving.saturating_sub(self.size);
            }
        }
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        // Before others see what was evicted as leaving no longer, it is given back.
        self.unverified = None;
        self.counted = None;
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    const MIB: usize = 1 << 20;

    fn permit(budget: &MemoryBudget, verified: bool) -> (MemoryPermit, Arc<Notify>) {
        let evicted = Arc::default();
        (budget.permit(verified, &evicted), evicted)
    }

    #[tokio::test]
    async fn unverified_bodies_leave_half_of_the_budget_to_verified_ones() {
        let budget = MemoryBudget::new(4 * MIB);
        let mut unverified: Vec<_> = (0..3).map(|_| permit(&budget, false)).collect();
        for (permit, _) in &mut unverified[..2] {
            permit.reserve(MIB).await.unwrap();
            permit.received(MIB);
        }
        assert!(futures_util::poll!(std::pin::pin!(unverified[2].0.reserve(MIB))).is_pending());
        let mut verified: Vec<_> = (0..2).map(|_| permit(&budget, true)).collect();
        for (permit, _) in &mut verified {
            permit.reserve(MIB).await.unwrap();
        }
        // Those that turn out to be genuine make room for the next.
        unverified[0].0.verified();
        drop(verified);
        unverified[2].0.reserve(MIB).await.unwrap();
        drop(unverified);
        assert_eq!(budget.reserved(), 0);
    }

    #[tokio::test]
    async fn a_waiting_body_gets_the_memory_of_the_one_stalled_longest() {
        let budget = MemoryBudget::new(4 * MIB);
        let (mut first, first_evicted) = permit(&budget, true);
        let (mut second, second_evicted) = permit(&budget, true);
        first.reserve(2 * MIB).await.unwrap();
        second.reserve(2 * MIB).await.unwrap();
        assert!(!first.progress(PROGRESS - 1) && first.progress(1));
        let (mut third, _) = permit(&budget, true);
        let third_waits = async {
            third.reserve(MIB).await.unwrap();
            third
        };
        let second_goes = async {
            second_evicted.notified().await;
            drop(second);
        };
        let (third, ()) = tokio::join!(third_waits, second_goes);
        first.received(MIB);
        assert!(futures_util::poll!(std::pin::pin!(first_evicted.notified())).is_pending());
        assert_eq!(budget.reserved(), 2 * (MIB - FREE_BYTES_PER_BODY));
        drop((first, third));
        assert_eq!(budget.reserved(), 0);
        let state = budget.state();
        assert_eq!((state.wanted, state.leaving, state.receiving.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_body_that_never_fits_is_refused_at_once_and_a_small_one_always_fits() {
        let budget = MemoryBudget::new(0);
        let (mut permit, _) = permit(&budget, false);
        permit.reserve(FREE_BYTES_PER_BODY).await.unwrap();
        let mut too_large = std::pin::pin!(permit.reserve(FREE_BYTES_PER_BODY + 1));
        assert_eq!(futures_util::poll!(&mut too_large), Poll::Ready(Err(Refused::Busy)));
    }
}
