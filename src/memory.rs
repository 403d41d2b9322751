//! The memory that request bodies reserve (`http.max_bytes_in_flight`).
//!
//! The first [`FREE_BYTES_PER_BODY`] of each body are not counted: large bodies never block small ones, and small
//! bodies need no lock. A larger body reserves memory before it is stored. A body of a verified sender reserves its whole
//! size. Other bodies reserve in steps as their bytes arrive (a signature covers the body, so it is checked last). So an
//! unverified sender reserves much memory only if it sends much. Unverified bodies can reserve only half of the budget.
//! The rest is left for senders that are verified by the request's head. (Exception: of a body larger than a quarter of the
//! budget, only a quarter counts as unverified.)
//!
//! When the budget is used up, a body waits in a queue. Meanwhile bodies without progress are evicted: the longest stalled
//! one first, unverified ones before verified ones. Each step has a queue of its own, and queues of later steps are served
//! first. Within a queue of unverified bodies, the latest body is served first. So a new body does not wait for the backlog
//! of a sender that sends without pause; it competes only with bodies that arrive at the same time.
//!
//! Bodies that hold memory and wait for more cannot block each other forever: later steps can use more of the budget than
//! earlier ones ([`LIMITS`]), and a body needs no more after the last step.

use std::collections::{BTreeMap, VecDeque};
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::delivery::RejectReason;

/// Bytes of each body that are not counted.
pub(crate) const FREE_BYTES_PER_BODY: usize = 64 << 10;
/// How much an unverified body reserves in each step: the unverified part of the budget divided by this. In one more step
/// it reserves the rest.
const STEPS: [usize; 3] = [2048, 256, 32];
/// A reservation in a step succeeds if at most this many eighths of the unverified part are then in use. Each limit exceeds
/// the previous one by at least one body's reservation in the step.
const LIMITS: [usize; 4] = [2, 3, 4, 8];
/// The queue of verified bodies, after the queues of the steps.
const VERIFIED: usize = LIMITS.len();
/// A body makes progress each time this many more bytes of it have been received.
const PROGRESS: usize = 16 << 10;
/// A body without progress for this time can be evicted when others wait for memory. The time is divided by the number of
/// waiting bodies, down to the minimum: many stalled bodies must not delay the queue one after the other.
const STALLED_AFTER: Duration = Duration::from_secs(1);
const STALLED_AFTER_MIN: Duration = Duration::from_millis(250);
/// How often a waiting body looks for stalled ones.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a body waits for memory.
const MAX_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(crate) struct MemoryBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_key: u64,
    /// Reserved bytes, and how many of them count as unverified.
    used: usize,
    unverified: usize,
    /// Bodies being received that hold memory, in the order of their latest progress.
    evictable: BTreeMap<u64, EvictableBody>,
    /// Waiting bodies of each step, and verified ones.
    queues: [VecDeque<Waiter>; VERIFIED + 1],
    /// Bytes that bodies wait for, and the number of these bodies.
    wanted: usize,
    waiting: u32,
    /// Bytes that evicted bodies have not given back yet.
    evicted_bytes: usize,
}

#[derive(Debug)]
struct EvictableBody {
    bytes: usize,
    verified: bool,
    progress_at: Instant,
    evicted: Arc<Notify>,
}

#[derive(Debug)]
struct Waiter {
    bytes: usize,
    unverified: usize,
    granted: oneshot::Sender<Reservation>,
}

impl MemoryBudget {
    /// `bytes` in total.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Budget { bytes, state: Mutex::default() }))
    }

    /// The number of reserved bytes.
    pub(crate) fn reserved(&self) -> usize {
        self.0.state.lock().used
    }

    /// A permit for one body. It reserves nothing yet. `evicted` is notified when the body is evicted.
    pub(crate) fn permit(&self, verified: bool, evicted: &Arc<Notify>) -> MemoryPermit {
        MemoryPermit {
            reservation: Reservation { budget: self.clone(), bytes: 0, unverified: 0 },
            evicted: evicted.clone(),
            verified,
            key: 0,
            since_progress: 0,
        }
    }

    /// The part of the budget that unverified bodies can reserve, apart from the exception for large ones.
    fn unverified_bytes(&self) -> usize {
        self.0.bytes / 2
    }

    /// Waits in `queue` for a reservation. `unverified` of its `bytes` count as unverified.
    async fn acquire(
        &self,
        queue: usize,
        bytes: usize,
        unverified: usize,
    ) -> Result<Reservation, RejectReason> {
        let (granted, mut reservation) = oneshot::channel();
        {
            let mut state = self.0.state.lock();
            state.queues[queue].push_back(Waiter { bytes, unverified, granted });
            self.grant(&mut state);
        }
        if let Ok(reservation) = reservation.try_recv() {
            return Ok(reservation);
        }
        let _guard = self.count_waiting(bytes);
        let mut check = interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let waiting = async {
            loop {
                tokio::select! {
                    reservation = &mut reservation => return reservation.map_err(|_| RejectReason::Overloaded),
                    _ = check.tick() => {
                        let mut state = self.0.state.lock();
                        let also_verified = queue == VERIFIED || state.used + bytes > self.0.bytes;
                        state.evict_stalled(also_verified);
                        // A body that waited before this one may have given up.
                        self.grant(&mut state);
                    }
                }
            }
        };
        timeout(MAX_WAIT, waiting).await.unwrap_or(Err(RejectReason::Overloaded))
    }

    fn count_waiting(&self, bytes: usize) -> WaitGuard<'_> {
        let mut state = self.0.state.lock();
        state.wanted += bytes;
        state.waiting += 1;
        WaitGuard { budget: self, bytes }
    }

    /// Grants free memory to waiting bodies.
    fn grant(&self, state: &mut State) {
        for queue in (0..=VERIFIED).rev() {
            loop {
                let waiting = &mut state.queues[queue];
                // Bodies that have given up.
                while waiting.pop_front_if(|first| first.granted.is_closed()).is_some() {}
                while waiting.pop_back_if(|last| last.granted.is_closed()).is_some() {}
                let limit = LIMITS.get(queue).map(|eighths| self.unverified_bytes() * eighths / 8);
                let (used, counted) = (state.used, state.unverified);
                let fits = |next: &mut Waiter| {
                    used + next.bytes <= self.0.bytes
                        && limit.is_none_or(|limit| counted + next.unverified <= limit)
                };
                let next =
                    if queue == VERIFIED { waiting.pop_front_if(fits) } else { waiting.pop_back_if(fits) };
                let Some(Waiter { bytes, unverified, granted }) = next else { break };
                state.used += bytes;
                state.unverified += unverified;
                if let Err(mut reservation) =
                    granted.send(Reservation { budget: self.clone(), bytes, unverified })
                {
                    state.used -= take(&mut reservation.bytes);
                    state.unverified -= take(&mut reservation.unverified);
                }
            }
        }
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
struct Reservation {
    budget: MemoryBudget,
    bytes: usize,
    /// How many of the bytes count as unverified.
    unverified: usize,
}

impl Reservation {
    fn give_back(&mut self, bytes: usize, unverified: usize) {
        if bytes + unverified > 0 {
            self.bytes -= bytes;
            self.unverified -= unverified;
            let mut state = self.budget.0.state.lock();
            state.used -= bytes;
            state.unverified -= unverified;
            self.budget.grant(&mut state);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.bytes, self.unverified);
    }
}

/// Counts a waiting body.
struct WaitGuard<'b> {
    budget: &'b MemoryBudget,
    bytes: usize,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.0.state.lock();
        state.wanted -= self.bytes;
        state.waiting -= 1;
    }
}

impl State {
    /// Adds a body with the latest progress. Returns its key.
    fn add_evictable(&mut self, body: EvictableBody) -> u64 {
        self.next_key += 1;
        self.evictable.insert(self.next_key, body);
        self.next_key
    }

    /// Evicts stalled bodies until the waiting ones have enough memory.
    fn evict_stalled(&mut self, also_verified: bool) {
        let now = Instant::now();
        let stalled_after = (STALLED_AFTER / self.waiting.max(1)).max(STALLED_AFTER_MIN);
        while self.evicted_bytes < self.wanted {
            let longest = |verified: bool| {
                let (key, body) = self.evictable.iter().find(|(_, body)| body.verified == verified)?;
                (now - body.progress_at >= stalled_after).then_some(*key)
            };
            let key = longest(false).or_else(|| also_verified.then(|| longest(true))?);
            let Some(evicted) = key.and_then(|key| self.evictable.remove(&key)) else { return };
            self.evicted_bytes += evicted.bytes;
            evicted.evicted.notify_one();
        }
    }
}

/// The memory of one body, given back when dropped.
#[derive(Debug)]
pub(crate) struct MemoryPermit {
    /// The reserved bytes, without the free ones.
    reservation: Reservation,
    evicted: Arc<Notify>,
    verified: bool,
    /// The key in [`State::evictable`]; 0 when the body is not there.
    key: u64,
    since_progress: usize,
}

impl MemoryPermit {
    /// A permit of the same budget for a copy of a received body. The copy counts as verified if the body does.
    pub(crate) fn for_copy(&self) -> Self {
        self.reservation.budget.permit(self.verified, &self.evicted)
    }

    /// Reserves memory for at least the first `received` bytes of a body, which is expected to have `size`. From the
    /// first reservation the body can be evicted until [`Self::received`], except while it waits here.
    ///
    /// # Errors
    /// [`RejectReason::Overloaded`] when there is no memory within [`MAX_WAIT`], or the body is larger than the budget.
    pub(crate) async fn reserve(&mut self, received: usize, size: usize) -> Result<(), RejectReason> {
        let beyond = received.saturating_sub(FREE_BYTES_PER_BODY);
        if beyond <= self.reservation.bytes {
            return Ok(());
        }
        if size.saturating_sub(FREE_BYTES_PER_BODY) > self.reservation.budget.0.bytes {
            return Err(RejectReason::Overloaded);
        }
        self.end_eviction(self.reservation.bytes);
        let step = |divisor: &usize| self.reservation.budget.unverified_bytes() / divisor;
        match STEPS.iter().position(|divisor| beyond <= step(divisor)) {
            Some(queue) if !self.verified => {
                let size = size.min(step(&STEPS[queue]) + FREE_BYTES_PER_BODY);
                self.grow(queue, size).await?;
            }
            _ => self.grow(STEPS.len(), size).await?,
        }
        let (bytes, verified, evicted) = (self.reservation.bytes, self.verified, self.evicted.clone());
        let body = EvictableBody { bytes, verified, progress_at: Instant::now(), evicted };
        self.key = self.reservation.budget.0.state.lock().add_evictable(body);
        Ok(())
    }

    /// Reserves all memory for a copy of `size` bytes. It cannot be evicted, because no sender can stall it.
    ///
    /// # Errors
    /// As [`Self::reserve`].
    pub(crate) async fn reserve_uninterrupted(&mut self, size: usize) -> Result<(), RejectReason> {
        self.grow(STEPS.len(), size).await
    }

    /// Extends the reservation to a body of `size` bytes. `step` is the queue of an unverified one.
    async fn grow(&mut self, step: usize, size: usize) -> Result<(), RejectReason> {
        let Reservation { budget, bytes, unverified } = &self.reservation;
        let beyond = size.saturating_sub(FREE_BYTES_PER_BODY);
        if beyond > budget.0.bytes {
            return Err(RejectReason::Overloaded);
        }
        // A body larger than half of the unverified part counts as that half: the last step leaves that much (LIMITS).
        let counted = beyond.min(budget.unverified_bytes() / 2).saturating_sub(*unverified);
        let (queue, counted) = if self.verified { (VERIFIED, 0) } else { (step, counted) };
        let mut more = budget.acquire(queue, beyond.saturating_sub(*bytes), counted).await?;
        self.reservation.bytes += take(&mut more.bytes);
        self.reservation.unverified += take(&mut more.unverified);
        Ok(())
    }

    /// Counts `more` received bytes. Returns whether the body has made progress ([`PROGRESS`]).
    pub(crate) fn progress(&mut self, more: usize) -> bool {
        self.since_progress += more;
        if self.since_progress < PROGRESS {
            return false;
        }
        self.since_progress = 0;
        // A body that has reserved nothing needs no lock.
        if self.key > 0 {
            let mut state = self.reservation.budget.0.state.lock();
            // Without an entry, the body was evicted.
            if let Some(mut body) = state.evictable.remove(&self.key) {
                body.progress_at = Instant::now();
                self.key = state.add_evictable(body);
            }
        }
        true
    }

    /// The whole body of `size` bytes has been received. It can no longer be evicted, and gives unused memory back.
    pub(crate) fn received(&mut self, size: usize) {
        self.end_eviction(self.reservation.bytes);
        let unused = self.reservation.bytes.saturating_sub(size.saturating_sub(FREE_BYTES_PER_BODY));
        self.reservation.give_back(unused, 0);
    }

    /// The sender is verified: the body no longer counts as unverified.
    pub(crate) fn verified(&mut self) {
        self.verified = true;
        self.reservation.give_back(0, self.reservation.unverified);
    }

    /// The body can no longer be evicted. If it was evicted before, its `bytes` no longer count as evicted.
    fn end_eviction(&mut self, bytes: usize) {
        let key = take(&mut self.key);
        if key > 0 {
            let mut state = self.reservation.budget.0.state.lock();
            if state.evictable.remove(&key).is_none() {
                state.evicted_bytes = state.evicted_bytes.saturating_sub(bytes);
            }
        }
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        // In this order: the bytes must be free before they no longer count as evicted.
        let bytes = self.reservation.bytes;
        self.reservation.give_back(bytes, self.reservation.unverified);
        self.end_eviction(bytes);
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
            permit.reserve(MIB, MIB).await.unwrap();
            permit.received(MIB);
        }
        assert!(futures_util::poll!(std::pin::pin!(unverified[2].0.reserve(MIB, MIB))).is_pending());
        let mut verified: Vec<_> = (0..2).map(|_| permit(&budget, true)).collect();
        for (permit, _) in &mut verified {
            permit.reserve(MIB, MIB).await.unwrap();
        }
        // A body that is verified at its end makes room for the next one.
        unverified[0].0.verified();
        drop(verified);
        unverified[2].0.reserve(MIB, MIB).await.unwrap();
        drop(unverified);
        assert_eq!(budget.reserved(), 0);
    }

    #[tokio::test]
    async fn decompressed_copies_of_unverified_bodies_leave_half_of_the_budget_to_verified_ones() {
        let budget = MemoryBudget::new(4 * MIB);
        let (unverified, _) = permit(&budget, false);
        let mut copies = [(); 3].map(|()| unverified.for_copy());
        for copy in &mut copies[..2] {
            copy.reserve_uninterrupted(MIB).await.unwrap();
        }
        assert!(futures_util::poll!(std::pin::pin!(copies[2].reserve_uninterrupted(MIB))).is_pending());
        let (verified, _) = permit(&budget, true);
        verified.for_copy().reserve_uninterrupted(2 * MIB).await.unwrap();
    }

    #[tokio::test]
    async fn the_longest_stalled_body_is_evicted_for_a_waiting_one() {
        let budget = MemoryBudget::new(4 * MIB);
        let (mut first, first_evicted) = permit(&budget, true);
        let (mut second, second_evicted) = permit(&budget, true);
        first.reserve(MIB, 2 * MIB).await.unwrap();
        second.reserve(MIB, 2 * MIB).await.unwrap();
        assert!(!first.progress(PROGRESS - 1) && first.progress(1));
        let (mut third, _) = permit(&budget, true);
        let third_waits = async {
            third.reserve(MIB, MIB).await.unwrap();
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
        let state = budget.0.state.lock();
        assert_eq!((state.wanted, state.evicted_bytes, state.evictable.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn an_unverified_body_reserves_little_more_than_was_received() {
        let budget = MemoryBudget::new(256 * MIB);
        let (mut body, _) = permit(&budget, false);
        for (received, reserved) in [
            (FREE_BYTES_PER_BODY, 0),
            (FREE_BYTES_PER_BODY + 1, MIB / 16),
            (MIB / 4, MIB / 2),
            (MIB, 4 * MIB),
            (5 * MIB, 16 * MIB - FREE_BYTES_PER_BODY),
            (16 * MIB, 16 * MIB - FREE_BYTES_PER_BODY),
        ] {
            body.reserve(received, 16 * MIB).await.unwrap();
            assert_eq!(budget.reserved(), reserved, "{received} received");
        }
    }

    #[tokio::test]
    async fn unverified_bodies_that_grow_together_do_not_block_each_other() {
        let budget = MemoryBudget::new(4 * MIB);
        let grow = async |_| {
            let (mut body, _) = permit(&budget, false);
            for received in (0..=MIB).step_by(MIB / 16) {
                body.reserve(received, MIB).await.unwrap();
                body.progress(MIB / 16);
                tokio::task::yield_now().await;
            }
            body.received(MIB);
            assert!(budget.reserved() <= 2 * MIB);
        };
        futures_util::future::join_all((0..200).map(grow)).await;
        assert_eq!(budget.reserved(), 0);
    }

    #[tokio::test]
    async fn the_latest_unverified_body_is_served_first() {
        let budget = MemoryBudget::new(4 * MIB);
        let mut holders: Vec<_> = (0..2).map(|_| permit(&budget, false)).collect();
        for (holder, _) in &mut holders {
            holder.reserve(MIB, MIB).await.unwrap();
            holder.received(MIB);
        }
        let (mut first, _) = permit(&budget, false);
        let (mut second, _) = permit(&budget, false);
        let mut first = std::pin::pin!(first.reserve(MIB, MIB));
        let mut second = std::pin::pin!(second.reserve(MIB, MIB));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(holders.pop());
        assert_eq!(futures_util::poll!(&mut second), Poll::Ready(Ok(())));
        assert!(futures_util::poll!(&mut first).is_pending());
    }

    #[tokio::test]
    async fn a_body_larger_than_the_budget_is_rejected_at_once_and_a_small_one_always_fits() {
        let budget = MemoryBudget::new(0);
        let (mut permit, _) = permit(&budget, false);
        permit.reserve(FREE_BYTES_PER_BODY, FREE_BYTES_PER_BODY).await.unwrap();
        let mut too_large = std::pin::pin!(permit.reserve(FREE_BYTES_PER_BODY + 1, MIB));
        assert_eq!(futures_util::poll!(&mut too_large), Poll::Ready(Err(RejectReason::Overloaded)));
    }
}
