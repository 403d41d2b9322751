//! Recording one batch, however long that takes: retry, bisect, degrade, back off.
//!
//! # Which delivery is blamed
//!
//! After each failed attempt, a canary runs ([`Store::canary`](crate::store::Store::canary)): the same statements and
//! a commit with a synthetic execution, of which nothing stays. It decides what the failure means, whatever the error:
//!
//! | canary | the attempt held | consequence |
//! |---|---|---|
//! | any | executions and rows for the quarantine | they are tried apart from each other |
//! | fails | anything | PostgreSQL records nothing now: the part waits, and no delivery is blamed |
//! | succeeds | several deliveries | the part is halved |
//! | succeeds | one delivery | one strike against it. [`Part::strike`] says how many it takes; then it is degraded by one step ([`Item::degrade`]), and the count starts again |
//!
//! A success or a failed canary sets the strikes back to zero. The kind of error decides only how many strikes it
//! takes: three where the server answered over a connection that still works, since it will answer the same again;
//! ten, with pauses, for lost connections, crashes and lack of resources; and for a delivery that takes too long, as
//! many as there are longer time limits.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use rand::RngExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::in_flight::InFlight;
use super::sessions::Session;
use super::{Recorder, State};
use crate::spool::Seq;
use crate::store::{Degraded, Fault, Item, Outcome};

/// The first wait after a failure; each further one is twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The longest pause between two strikes: PostgreSQL works meanwhile.
const MAX_STRIKE_PAUSE: Duration = Duration::from_secs(1);

/// Strikes before a delivery is blamed for an error that the server will repeat.
const STRIKES: u32 = 3;
/// Strikes before a delivery is blamed for an error that may go away by itself.
const STRIKES_WITH_PAUSES: u32 = 10;
/// How often the time limit of a delivery that takes too long is doubled.
const EXTENSIONS: u32 = 3;

/// How many deliveries may be tried alone without a worker's place. More keep the places of their workers.
pub(super) const MAX_DETOURS: usize = 16;

/// Deliveries of a batch that go into one transaction.
struct Part {
    range: Range<usize>,
    strikes: u32,
    /// The time limit is doubled this often.
    extensions: u32,
    /// Some step of degrading is done: the delivery is known to be at fault.
    degraded: bool,
    /// The log says that the delivery can be stored nowhere.
    reported: bool,
}

impl Part {
    fn new(range: Range<usize>) -> Self {
        Self { range, strikes: 0, extensions: 0, degraded: false, reported: false }
    }

    /// `None`: the usual limit, `database.statement_timeout`.
    fn time_limit(&self, usual: Duration) -> Option<Duration> {
        (self.extensions > 0).then(|| usual.saturating_mul(1 << self.extensions))
    }

    /// Counts a failure of this single delivery while others can be recorded. True when it is to blame.
    fn strike(&mut self, fault: &Fault) -> bool {
        self.strikes += 1;
        let needed = match fault {
            Fault::Slow if self.extensions < EXTENSIONS => {
                self.extensions += 1;
                STRIKES_WITH_PAUSES
            }
            Fault::Slow => 1,
            fault if fault.is_repeatable() && self.degraded => 1,
            fault if fault.is_repeatable() => STRIKES,
            _ => STRIKES_WITH_PAUSES,
        };
        let blamed = self.strikes >= needed;
        if blamed {
            self.strikes = 0;
            self.degraded = true;
        }
        blamed
    }
}

/// Why an attempt failed.
enum Failed<'s> {
    /// No connection was to be had.
    NotConnected(Fault),
    /// The connection is there if it can still be used.
    Recording(Fault, Option<Session<'s>>),
}

/// A worker's place among those that record at the same time. A batch of which only deliveries that fail alone are left
/// gives it up: they are tried beside the others, over one more connection, one delivery at a time.
pub(super) struct Place<'r> {
    state: &'r State,
    in_flight: &'r InFlight,
    through: Seq,
    permit: Option<SemaphorePermit<'r>>,
    detour: Option<SemaphorePermit<'r>>,
}

impl<'r> Place<'r> {
    pub(super) fn new(
        state: &'r State,
        in_flight: &'r InFlight,
        through: Seq,
        permit: SemaphorePermit<'r>,
    ) -> Self {
        Self { state, in_flight, through, permit: Some(permit), detour: None }
    }

    /// `left`: what is not recorded yet of the batch.
    fn leave<'i>(&mut self, left: impl Iterator<Item = &'i Item<'i>>) {
        if self.detour.is_none() {
            let Ok(detour) = self.state.detours.try_acquire() else { return };
            self.detour = Some(detour);
        }
        self.in_flight.stick(self.through, left);
        self.permit = None;
    }

    /// What has to be held during an attempt.
    async fn turn(&self) -> Option<SemaphorePermit<'r>> {
        let one_by_one: &'r Semaphore = &self.state.one_by_one;
        if self.permit.is_some() { None } else { one_by_one.acquire().await.ok() }
    }
}

impl Recorder {
    /// Records all of a batch, however long that takes.
    pub(super) async fn record_batch(&self, mut items: Vec<Item<'_>>, mut place: Place<'_>) {
        // A row of the quarantine and one of executions may be recorded in any order.
        items.sort_by_key(Item::is_quarantined);
        let mut parts = VecDeque::from([Part::new(0..items.len())]);
        // Failed canaries in a row.
        let mut failures = 0;
        while let Some(mut part) = parts.pop_front() {
            let turn = place.turn().await;
            let (begun, members) = (SystemTime::now(), &items[part.range.clone()]);
            let limit = part.time_limit(self.statement_timeout);
            let attempted = self.try_record(members, limit, failures == 0).await;
            if let Some(traces) = &self.traces {
                let outcomes = attempted.as_deref().map_err(|failed| match failed {
                    Failed::NotConnected(fault) | Failed::Recording(fault, _) => fault,
                });
                traces.attempted(begun, members, outcomes);
            }
            let (fault, canary) = match attempted {
                Ok(outcomes) => {
                    self.recovered(&mut failures);
                    self.live.tell(members, &outcomes);
                    self.log_outcomes(members, &outcomes);
                    continue;
                }
                Err(Failed::NotConnected(fault)) => (fault.clone(), Err(fault)),
                Err(Failed::Recording(fault, session)) => {
                    let canary = self.canary(&fault, members, session).await;
                    (fault, canary)
                }
            };
            drop(turn);
            if let Some(kinds) = between_kinds(&items, &part.range) {
                // The canary says of neither kind that it fails.
                parts.push_front(Part::new(kinds..part.range.end));
                parts.push_front(Part::new(part.range.start..kinds));
                continue;
            }
            if let Err(fault) = canary {
                part.strikes = 0;
                self.metrics.retried();
                if failures == 0 {
                    self.state.failing.fetch_add(1, Ordering::Relaxed);
                }
                self.on_failure(fault);
                failures += 1;
                put_back(part, &mut parts, &items);
                sleep(self.backoff(failures)).await;
                continue;
            }
            self.recovered(&mut failures);
            if part.range.len() > 1 {
                let middle = part.range.start + part.range.len() / 2;
                parts.push_front(Part::new(middle..part.range.end));
                parts.push_front(Part::new(part.range.start..middle));
                continue;
            }
            let at = part.range.start;
            let pause = if part.strike(&fault) {
                match items[at].degrade(&fault) {
                    Some(Degraded::Columns | Degraded::Quarantined) => None,
                    Some(Degraded::Dropped) => {
                        self.log_outcomes(&items[at..=at], &[Outcome::Dropped]);
                        continue;
                    }
                    None => {
                        if !std::mem::replace(&mut part.reported, true) {
                            tracing::error!(
                                "an acknowledged delivery can be stored neither in executions nor in quarantine, it \
                                 waits in the spool: {fault}"
                            );
                        }
                        part.extensions = (part.extensions + 1).min(2 * EXTENSIONS);
                        Some(self.max_backoff)
                    }
                }
            } else {
                (!fault.is_repeatable()).then(|| self.backoff(part.strikes).min(MAX_STRIKE_PAUSE))
            };
            let Some(pause) = pause else {
                parts.push_front(part);
                continue;
            };
            self.metrics.retried();
            let only_such = parts.iter().all(|other| other.strikes > 0 || other.degraded);
            let is_last = put_back(part, &mut parts, &items);
            if only_such || !is_last {
                let left = parts.iter().flat_map(|part| part.range.clone());
                place.leave(left.map(|at| &items[at]));
                sleep(pause).await;
            }
        }
    }

    /// Records `items`, or none of them. An idle connection that was lost is replaced once if `forgive`.
    async fn try_record(
        &self,
        items: &[Item<'_>],
        limit: Option<Duration>,
        mut forgive: bool,
    ) -> Result<Vec<Outcome>, Failed<'_>> {
        loop {
            let mut session =
                self.sessions.get().await.map_err(|fault| Failed::NotConnected(fault.not_of_a_row()))?;
            let record = AssertUnwindSafe(session.store.record(items, self.bounds, limit)).catch_unwind();
            let fault = match timeout(limit.unwrap_or(self.statement_timeout), record).await {
                Ok(Ok(Ok(outcomes))) => {
                    session.give_back();
                    return Ok(outcomes);
                }
                Ok(Ok(Err(fault))) => fault,
                Ok(Err(_)) => {
                    let message = "the receiver panicked: a bug".to_owned();
                    let fault = Fault::Unacceptable { code: "none".to_owned(), message };
                    return Err(Failed::Recording(fault, None));
                }
                Err(_) => {
                    self.sessions.close_idle();
                    return Err(Failed::Recording(Fault::Slow, None));
                }
            };
            if forgive && session.was_idle && matches!(fault, Fault::Away(_)) {
                self.sessions.close_idle();
                forgive = false;
                continue;
            }
            let usable = matches!(fault, Fault::Refused { .. } | Fault::Unacceptable { .. });
            return Err(Failed::Recording(fault.while_recording(), usable.then_some(session)));
        }
    }

    /// Whether rows like those of `items` can be recorded at all. The error is the state of PostgreSQL: it is about no
    /// delivery.
    async fn canary(
        &self,
        fault: &Fault,
        items: &[Item<'_>],
        session: Option<Session<'_>>,
    ) -> Result<(), Fault> {
        let mut session = match session {
            Some(session) => session,
            None => self.sessions.get().await.map_err(Fault::not_of_a_row)?,
        };
        // On a full disk, there may be room for a small row and none for a large one.
        let largest = items.iter().map(Item::body_bytes).max().unwrap_or_default();
        let fill = if fault.is_about_disk() { largest } else { 0 };
        let kinds = (items.iter().any(|i| !i.is_quarantined()), items.iter().any(Item::is_quarantined));
        let canary = session.store.canary(kinds, fill, self.bounds);
        match timeout(self.statement_timeout, canary).await.unwrap_or(Err(Fault::Slow)) {
            Ok(()) => {
                session.give_back();
                Ok(())
            }
            Err(fault) => {
                self.sessions.close_idle();
                Err(fault.while_recording().of_every_row())
            }
        }
    }

    /// Checks that PostgreSQL is there while there is nothing to record.
    pub(super) async fn ping(&self) {
        match self.try_record(&[], None, true).await {
            Ok(_) => self.on_success(),
            Err(Failed::NotConnected(fault) | Failed::Recording(fault, _)) => {
                self.on_failure(fault.of_every_row());
            }
        }
    }

    /// PostgreSQL records after `failures` failures of this batch.
    fn recovered(&self, failures: &mut u32) {
        if std::mem::take(failures) > 0 {
            self.state.failing.fetch_sub(1, Ordering::Relaxed);
        }
        self.on_success();
    }

    /// Half of it is random, so that several receivers do not reconnect at the same time.
    fn backoff(&self, failures: u32) -> Duration {
        let longest = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(failures)).min(self.max_backoff);
        longest.mul_f64(rand::rng().random_range(0.5..1.0))
    }

    /// Logs dropped deliveries at once, and then together, at most every [`LOG_DROPPED_INTERVAL`].
    pub(super) fn log_dropped(&self, dropped: usize, conflicts: usize) {
        let mut unlogged = self.state.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        unlogged.0 += dropped;
        unlogged.1 += conflicts;
        if unlogged.2.is_some_and(|logged| logged.elapsed() < LOG_DROPPED_INTERVAL) {
            return;
        }
        if unlogged.0 > 0 {
            tracing::error!(
                dropped = unlogged.0,
                "the quarantine is full: deliveries that are no execution, and were answered 422, are not kept"
            );
        }
        if unlogged.1 > 0 {
            tracing::error!(
                dropped = unlogged.1,
                "an execution has as many conflicts as conflicts.* allows: further ones are counted, but not stored"
            );
        }
        *unlogged = (0, 0, Some(Instant::now()));
    }
}

/// Minimum time between two log lines about dropped deliveries.
const LOG_DROPPED_INTERVAL: Duration = Duration::from_secs(10);

/// Where the rows of the quarantine begin, after executions.
fn between_kinds(items: &[Item<'_>], range: &Range<usize>) -> Option<usize> {
    range.clone().find(|at| items[*at].is_quarantined()).filter(|first| *first > range.start)
}

/// Puts a part after all others, so that they are tried first; before them when they are about one of its executions.
/// True when it is the last one now.
fn put_back(part: Part, parts: &mut VecDeque<Part>, items: &[Item<'_>]) -> bool {
    let ids = |range: &Range<usize>| items[range.clone()].iter().filter_map(Item::execution_id);
    let of_part: HashSet<&str> = ids(&part.range).collect();
    let shared = parts.iter().flat_map(|other| ids(&other.range)).any(|id| of_part.contains(id));
    if shared {
        parts.push_front(part);
    } else {
        parts.push_back(part);
    }
    !shared
}
