//! The memory that request bodies share (`http.max_bytes_in_flight`).
//!
//! Each body may take [`FREE_BYTES_PER_BODY`] without asking, so large bodies never keep out small ones, and small
//! bodies take no lock. A larger body reserves memory before it is stored: that of a verified sender its whole size,
//! any other one in steps as its bytes arrive, so that a sender has to send much to take much (a signature is over
//! the body, so it is checked last). Unverified bodies may use a part of the budget only: the rest is left to senders
//! that the request's head verifies.
//!
//! When the budget is used up, a body waits in line. Meanwhile bodies that make no progress are evicted, the one
//! stalled longest first, those of unverified senders before others. Each step has a line of its own, and those of
//! higher steps are served first. Of unverified bodies the latest is served first: however many wait, a sender that
//! sends without pause competes only with those that arrive at the same time.
//!
//! Bodies that have memory and wait for more cannot block each other for good: higher steps may use more of the budget
//! than lower ones ([`LIMITS`]), and the last step needs no more.

use std::collections::{BTreeMap, VecDeque};
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::delivery::RejectReason;

/// Bytes of each body that are not counted.
pub(crate) const FREE_BYTES_PER_BODY: usize = 64 << 10;
/// What an unverified body reserves in each step but the last, in which it reserves the rest: the part of unverified
/// bodies divided by this.
const STEPS: [usize; 3] = [2048, 256, 32];
/// How many eighths of the part of unverified bodies are used at most after each step. The difference to the step
/// before is more than one body takes in the step.
const LIMITS: [usize; 4] = [2, 3, 4, 8];
/// The line of verified bodies, after those of the steps.
const VERIFIED: usize = LIMITS.len();
/// A body has made progress when so many more bytes of it have been received.
const PROGRESS: usize = 16 << 10;
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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    turns: u64,
    /// Bytes reserved, and those of them that count as unverified.
    used: usize,
    unverified: usize,
    /// Bodies being received that hold memory, by their latest progress, the oldest first.
    receiving: BTreeMap<u64, Receiving>,
    /// Bodies that wait, by step.
    lines: [VecDeque<Waiting>; VERIFIED + 1],
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

#[derive(Debug)]
struct Waiting {
    bytes: usize,
    unverified: usize,
    granted: oneshot::Sender<Share>,
}

impl MemoryBudget {
    /// `bytes` in total; half of them for bodies whose sender is not verified.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Budget { bytes, state: Mutex::default() }))
    }

    /// Bytes reserved at present.
    pub(crate) fn reserved(&self) -> usize {
        self.state().used
    }

    /// A permit for one body, which holds nothing yet. `evicted` is notified when the body has to go.
    pub(crate) fn permit(&self, verified: bool, evicted: &Arc<Notify>) -> MemoryPermit {
        MemoryPermit {
            share: Share { budget: self.clone(), bytes: 0, unverified: 0 },
            evicted: evicted.clone(),
            verified,
            turn: 0,
            since_progress: 0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of unverified bodies.
    fn unverified_bytes(&self) -> usize {
        self.0.bytes / 2
    }

    /// Reserves `bytes`, of which `unverified` count as unverified, in line with others.
    async fn acquire(&self, line: usize, bytes: usize, unverified: usize) -> Result<Share, RejectReason> {
        let (granted, mut share) = oneshot::channel();
        {
            let mut state = self.state();
            state.lines[line].push_back(Waiting { bytes, unverified, granted });
            self.grant(&mut state);
        }
        if let Ok(share) = share.try_recv() {
            return Ok(share);
        }
        let _wanted = Wanted::new(self, bytes);
        let mut check = interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let waiting = async {
            loop {
                tokio::select! {
                    share = &mut share => return share.map_err(|_| RejectReason::Overloaded),
                    _ = check.tick() => {
                        let mut state = self.state();
                        let also_verified = line == VERIFIED || state.used + bytes > self.0.bytes;
                        state.evict_stalled(also_verified);
                        // One that waited before this one may have gone.
                        self.grant(&mut state);
                    }
                }
            }
        };
        timeout(MAX_WAIT, waiting).await.unwrap_or(Err(RejectReason::Overloaded))
    }

    /// Gives those that wait what there is.
    fn grant(&self, state: &mut State) {
        for line in (0..=VERIFIED).rev() {
            loop {
                let waiting = &mut state.lines[line];
                // Those that no longer wait.
                while waiting.pop_front_if(|first| first.granted.is_closed()).is_some() {}
                while waiting.pop_back_if(|last| last.granted.is_closed()).is_some() {}
                let limit = LIMITS.get(line).map(|eighths| self.unverified_bytes() * eighths / 8);
                let (used, counted) = (state.used, state.unverified);
                let fits = |next: &mut Waiting| {
                    used + next.bytes <= self.0.bytes
                        && limit.is_none_or(|limit| counted + next.unverified <= limit)
                };
                let next =
                    if line == VERIFIED { waiting.pop_front_if(fits) } else { waiting.pop_back_if(fits) };
                let Some(Waiting { bytes, unverified, granted }) = next else { break };
                state.used += bytes;
                state.unverified += unverified;
                if let Err(mut share) = granted.send(Share { budget: self.clone(), bytes, unverified }) {
                    state.used -= take(&mut share.bytes);
                    state.unverified -= take(&mut share.unverified);
                }
            }
        }
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
struct Share {
    budget: MemoryBudget,
    bytes: usize,
    /// How much of it counts as unverified.
    unverified: usize,
}

impl Share {
    fn add(&mut self, mut more: Self) {
        self.bytes += take(&mut more.bytes);
        self.unverified += take(&mut more.unverified);
    }

    fn give_back(&mut self, bytes: usize, unverified: usize) {
        if bytes + unverified > 0 {
            self.bytes -= bytes;
            self.unverified -= unverified;
            let mut state = self.budget.state();
            state.used -= bytes;
            state.unverified -= unverified;
            self.budget.grant(&mut state);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.bytes, self.unverified);
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
            let turn = longest(false).or_else(|| also_verified.then(|| longest(true))?);
            let Some(evicted) = turn.and_then(|turn| self.receiving.remove(&turn)) else { return };
            self.leaving += evicted.bytes;
            evicted.evicted.notify_one();
        }
    }
}

/// The memory of one body, given back when dropped.
#[derive(Debug)]
pub(crate) struct MemoryPermit {
    /// What is reserved beyond the free bytes.
    share: Share,
    evicted: Arc<Notify>,
    verified: bool,
    /// Its key in [`State::receiving`]; 0 while it is not there.
    turn: u64,
    since_progress: usize,
}

impl MemoryPermit {
    /// Another permit of the same budget, for a verified sender's body whose bytes are all there.
    pub(crate) fn for_copy(&self) -> Self {
        self.share.budget.permit(true, &self.evicted)
    }

    /// Reserves memory for the `received` bytes of a body that is expected to have `size`, and for more of them. From
    /// the first time on, the body can be evicted until [`Self::received`], except while it waits here.
    ///
    /// # Errors
    /// [`RejectReason::Overloaded`] when the memory was not there within [`MAX_WAIT`], or never can be.
    pub(crate) async fn reserve(&mut self, received: usize, size: usize) -> Result<(), RejectReason> {
        let beyond = received.saturating_sub(FREE_BYTES_PER_BODY);
        if beyond <= self.share.bytes {
            return Ok(());
        }
        if size.saturating_sub(FREE_BYTES_PER_BODY) > self.share.budget.0.bytes {
            return Err(RejectReason::Overloaded);
        }
        self.leave(self.share.bytes);
        let step = |divisor: &usize| self.share.budget.unverified_bytes() / divisor;
        match STEPS.iter().position(|divisor| beyond <= step(divisor)) {
            Some(line) if !self.verified => {
                let size = size.min(step(&STEPS[line]) + FREE_BYTES_PER_BODY);
                self.grow(line, size).await?;
            }
            _ => self.grow(STEPS.len(), size).await?,
        }
        let (bytes, verified, evicted) = (self.share.bytes, self.verified, self.evicted.clone());
        let entry = Receiving { bytes, verified, progress_at: Instant::now(), evicted };
        self.turn = self.share.budget.state().enter(entry);
        Ok(())
    }

    /// Reserves all memory for a copy of `size` bytes that is made here, without a sender that could stall.
    ///
    /// # Errors
    /// As [`Self::reserve`].
    pub(crate) async fn reserve_uninterrupted(&mut self, size: usize) -> Result<(), RejectReason> {
        self.grow(VERIFIED, size).await
    }

    /// Reserves as much as a body of `size` bytes needs; `step` is that of an unverified one.
    async fn grow(&mut self, step: usize, size: usize) -> Result<(), RejectReason> {
        let Share { budget, bytes, unverified } = &self.share;
        let beyond = size.saturating_sub(FREE_BYTES_PER_BODY);
        if beyond > budget.0.bytes {
            return Err(RejectReason::Overloaded);
        }
        // A body that is larger than what the last step has for itself counts as that.
        let counted = beyond.min(budget.unverified_bytes() / 2).saturating_sub(*unverified);
        let (line, counted) = if self.verified { (VERIFIED, 0) } else { (step, counted) };
        let more = budget.acquire(line, beyond.saturating_sub(*bytes), counted).await?;
        self.share.add(more);
        Ok(())
    }

    /// Notes that `more` bytes have been received. True once a while: the sender makes progress.
    pub(crate) fn progress(&mut self, more: usize) -> bool {
        self.since_progress += more;
        if self.since_progress < PROGRESS {
            return false;
        }
        self.since_progress = 0;
        let mut state = self.share.budget.state();
        // One that is not there has been evicted.
        if let Some(mut entry) = state.receiving.remove(&self.turn) {
            entry.progress_at = Instant::now();
            self.turn = state.enter(entry);
        }
        true
    }

    /// All of the body is there, `size` bytes: it is not evicted any more, and what it did not need is given back.
    pub(crate) fn received(&mut self, size: usize) {
        self.leave(self.share.bytes);
        let unused = self.share.bytes.saturating_sub(size.saturating_sub(FREE_BYTES_PER_BODY));
        self.share.give_back(unused, 0);
    }

    /// The sender is verified: the body no longer counts among those of unverified ones.
    pub(crate) fn verified(&mut self) {
        self.verified = true;
        self.share.give_back(0, self.share.unverified);
    }

    /// It is not evicted any more; it had `bytes`.
    fn leave(&mut self, bytes: usize) {
        let turn = take(&mut self.turn);
        if turn > 0 {
            let mut state = self.share.budget.state();
            if state.receiving.remove(&turn).is_none() {
                state.leaving = state.leaving.saturating_sub(bytes);
            }
        }
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        // Before others see what was evicted as leaving no longer, it is given back.
        let bytes = self.share.bytes;
        self.share.give_back(bytes, self.share.unverified);
        self.leave(bytes);
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
        // Those that turn out to be genuine make room for the next.
        unverified[0].0.verified();
        drop(verified);
        unverified[2].0.reserve(MIB, MIB).await.unwrap();
        drop(unverified);
        assert_eq!(budget.reserved(), 0);
    }

    #[tokio::test]
    async fn a_waiting_body_gets_the_memory_of_the_one_stalled_longest() {
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
        let state = budget.state();
        assert_eq!((state.wanted, state.leaving, state.receiving.len()), (0, 0, 0));
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
    async fn the_unverified_body_that_waits_shortest_is_served_first() {
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
    async fn a_body_that_never_fits_is_refused_at_once_and_a_small_one_always_fits() {
        let budget = MemoryBudget::new(0);
        let (mut permit, _) = permit(&budget, false);
        permit.reserve(FREE_BYTES_PER_BODY, FREE_BYTES_PER_BODY).await.unwrap();
        let mut too_large = std::pin::pin!(permit.reserve(FREE_BYTES_PER_BODY + 1, MIB));
        assert_eq!(futures_util::poll!(&mut too_large), Poll::Ready(Err(RejectReason::Overloaded)));
    }
}
