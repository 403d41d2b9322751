//! Recording one batch, however long PostgreSQL takes: retry, bisect, degrade, back off.
//!
//! # Which delivery is blamed
//!
//! After each failed attempt, a canary runs ([`DbConnection::canary`](crate::db::DbConnection::canary)): the same statements and
//! a commit with a synthetic execution, of which nothing stays. It decides what the failure means, whatever the error:
//!
//! | canary | the attempt held | consequence |
//! |---|---|---|
//! | any | executions and rows for the quarantine | they are tried apart from each other |
//! | fails | anything | PostgreSQL records nothing now: the part waits, and no delivery is blamed |
//! | fails | rows for the quarantine, and executions can be recorded | they are stuck (`stuck.rs`) |
//! | succeeds | several deliveries | the part is halved; after `database.statement_timeout` of that, they are stuck |
//! | succeeds | one delivery | it is stuck |
//!
//! A stuck delivery is retried alone, without a worker, and one more failure while the canary succeeds is one strike
//! against it. [`Entry::strike`](super::stuck::Entry::strike) says how many it takes; then the delivery is degraded by
//! one step ([`RecordItem::degrade`]), and the count starts again. A failed canary sets the strikes back to zero. Contention
//! (`Fault::is_contention`) is no strike: the delivery waits. The kind of error decides only how many strikes it takes:
//! three where the server answered over a connection that still works, since it will answer the same again; ten, with
//! pauses, for lost connections, crashes and lack of resources; and for a delivery that takes too long, as many as there
//! are longer time limits. A wait for a lock does not count as taking long: `lock_timeout` ends it much earlier.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use rand::RngExt;
use tokio::time::{sleep, timeout};

use super::batches::SharedReader;
use super::pool::Session;
use super::stuck::{Entry, Report};
use super::{Recorder, RecorderHealth};
use crate::db::{DbError, Degraded, RecordItem, TimeLimits};
use crate::delivery::Disposition;
use crate::spool::{BatchLimits, Seq, SpoolError, SpooledDelivery};

/// The first wait after a failure; each further one is twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The longest pause between two strikes: PostgreSQL works meanwhile.
const MAX_STRIKE_PAUSE: Duration = Duration::from_secs(1);
/// After a first failure, `lock_timeout` is so many times shorter than `database.statement_timeout`. A transaction has
/// far fewer locks to wait for.
const LOCK_TIMEOUT_DIVISOR: u32 = 32;
/// How often an idle recorder checks that PostgreSQL records, and not only answers.
const CANARY_EVERY: Duration = Duration::from_secs(30);
/// Minimum time between two log lines about stuck deliveries.
const LOG_STUCK_INTERVAL: Duration = Duration::from_mins(1);

/// Deliveries that go into one transaction, each with its place in the spool.
#[derive(Default)]
pub(super) struct Part<'i> {
    seqs: Vec<Seq>,
    items: Vec<RecordItem<'i>>,
}

impl<'i> Part<'i> {
    pub(super) fn read(batch: &'i [SpooledDelivery]) -> Self {
        Self {
            seqs: batch.iter().map(|spooled| spooled.seq).collect(),
            items: batch
                .iter()
                .map(|spooled| RecordItem::from_spooled(&spooled.delivery, spooled.intact))
                .collect(),
        }
    }

    pub(super) fn items(&self) -> &[RecordItem<'i>] {
        &self.items
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, &RecordItem<'i>)> {
        self.seqs.iter().copied().zip(&self.items)
    }

    /// Those that `belongs` says yes to, and the others, each in their order.
    pub(super) fn partition(self, belongs: impl Fn(&RecordItem<'i>) -> bool) -> (Self, Self) {
        let (mut yes, mut no) = (Self::default(), Self::default());
        for (seq, item) in self.seqs.into_iter().zip(self.items) {
            let side = if belongs(&item) { &mut yes } else { &mut no };
            side.seqs.push(seq);
            side.items.push(item);
        }
        (yes, no)
    }

    fn halve(mut self) -> (Self, Self) {
        let middle = self.items.len() / 2;
        let second = Self { seqs: self.seqs.split_off(middle), items: self.items.split_off(middle) };
        (self, second)
    }

    fn has_both_kinds(&self) -> bool {
        let quarantined = self.items.iter().filter(|item| item.is_quarantined()).count();
        quarantined > 0 && quarantined < self.items.len()
    }
}

/// Why an attempt failed.
enum Failed<'s> {
    /// No connection was to be had.
    NotConnected(DbError),
    /// The connection is there if it can still be used.
    Recording(DbError, Option<Session<'s>>),
}

/// A failed attempt, and what PostgreSQL records otherwise.
struct Failure {
    fault: DbError,
    canary: Canary,
}

enum Canary {
    /// Deliveries like these can be recorded.
    Succeeds,
    /// Executions can be recorded, and rows of the quarantine cannot.
    QuarantineFails(DbError),
    /// Nothing can be recorded.
    Fails(DbError),
}

impl Recorder {
    /// Records all of a batch, but for deliveries that are stuck.
    pub(super) async fn record_batch(&self, batch: Part<'_>) {
        let (mut parts, mut limits, mut halving) = (VecDeque::from([batch]), None, None::<Instant>);
        // Failed canaries in a row.
        let mut failures = 0;
        while let Some(part) = parts.pop_front() {
            let part = self.state.stuck.keep_order(part, &self.report());
            if part.is_empty() {
                continue;
            }
            let Err(Failure { fault, canary }) = self.attempt(&part.items, limits, &mut failures).await
            else {
                continue;
            };
            if part.has_both_kinds() {
                // The canary says of neither kind that it fails.
                let (quarantined, executions) = part.partition(RecordItem::is_quarantined);
                parts.push_front(quarantined);
                parts.push_front(executions);
                continue;
            }
            match canary {
                Canary::Fails(fault) => {
                    self.wait(fault, &mut failures).await;
                    parts.push_front(part);
                    continue;
                }
                Canary::QuarantineFails(fault) => {
                    self.recovered(&mut failures);
                    self.state.stuck.add(&part, Some(&fault), &self.report());
                    continue;
                }
                Canary::Succeeds => self.recovered(&mut failures),
            }
            limits = Some(self.limits_alone(self.statement_timeout));
            let begun = *halving.get_or_insert_with(Instant::now);
            if part.items.len() == 1 || begun.elapsed() > self.statement_timeout {
                self.state.stuck.add(&part, Some(&fault), &self.report());
                continue;
            }
            // A row that PostgreSQL refuses is searched for without a pause: that is no retry.
            if !matches!(fault, DbError::InvalidRow { .. }) {
                self.metrics.retried();
            }
            let (first, second) = part.halve();
            parts.push_front(second);
            parts.push_front(first);
        }
        if failures > 0 {
            // The rest became stuck after a failed canary.
            self.state.failing.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Retries stuck deliveries, each alone, until the list is closed and empty.
    ///
    /// # Errors
    /// [`SpoolError`] when the spool cannot be read.
    pub(super) async fn retry_stuck(&self, reader: SharedReader) -> Result<(), SpoolError> {
        let (mut failures, mut logged) = (0, None);
        while let Some((seq, mut entry)) = self.state.stuck.next().await {
            let read = reader.next(seq - 1, BatchLimits { rows: 1, bytes: 0 }).await?;
            let Some(spooled) = read.first().filter(|spooled| spooled.seq == seq) else {
                // The spool reports what it loses.
                self.state.stuck.remove(seq, &self.report());
                continue;
            };
            let mut item = [RecordItem::from_spooled(&spooled.delivery, spooled.intact)];
            for fault in &entry.faults {
                item[0].degrade(fault);
            }
            let limits = self.limits_alone(entry.time_limit(self.statement_timeout));
            let Err(Failure { fault, canary }) = self.attempt(&item, Some(limits), &mut failures).await
            else {
                self.state.stuck.remove(seq, &self.report());
                continue;
            };
            let why = match canary {
                Canary::Fails(why) => {
                    entry.wait();
                    self.state.stuck.put_back(seq, entry, &why, &self.report());
                    self.wait(why, &mut failures).await;
                    continue;
                }
                Canary::QuarantineFails(why) => {
                    entry.wait();
                    entry.pause(self.backoff(entry.waits));
                    why
                }
                Canary::Succeeds if fault.is_contention() => {
                    entry.wait();
                    entry.pause(self.backoff(entry.waits));
                    fault
                }
                Canary::Succeeds => {
                    if !self.blame(&mut item[0], &mut entry, &fault) {
                        self.log_outcomes(&item, &[Disposition::Dropped]);
                        self.state.stuck.remove(seq, &self.report());
                        continue;
                    }
                    fault
                }
            };
            self.recovered(&mut failures);
            if !matches!(why, DbError::InvalidRow { .. }) {
                self.metrics.retried();
            }
            self.state.stuck.put_back(seq, entry, &why, &self.report());
            self.log_stuck(&mut logged);
        }
        Ok(())
    }

    /// A stuck delivery has failed alone while others can be recorded: it gets a strike, or is degraded. False when it is
    /// not to be stored at all.
    fn blame(&self, item: &mut RecordItem<'_>, entry: &mut Entry, fault: &DbError) -> bool {
        if !entry.strike(fault) {
            let pause = self.backoff(entry.strikes()).min(MAX_STRIKE_PAUSE);
            entry.pause(if fault.is_repeatable() { Duration::ZERO } else { pause });
            return true;
        }
        match item.degrade(fault) {
            Some(Degraded::Dropped) => return false,
            Some(Degraded::Columns | Degraded::Quarantined) => {
                entry.faults.push(fault.clone());
                entry.pause(Duration::ZERO);
            }
            // No form of it can be stored.
            None => {
                entry.extend();
                entry.pause(self.max_backoff);
            }
        }
        true
    }

    /// The limits of an attempt after a first failure.
    fn limits_alone(&self, statement: Duration) -> TimeLimits {
        let lock = (self.statement_timeout / LOCK_TIMEOUT_DIVISOR).max(Duration::from_millis(1));
        TimeLimits { statement, lock }
    }

    /// Where the list of stuck deliveries publishes its state.
    pub(super) fn report(&self) -> Report<'_> {
        Report { stuck: &self.stuck, recorded: &self.recorded }
    }

    /// PostgreSQL records nothing now.
    async fn wait(&self, fault: DbError, failures: &mut u32) {
        self.metrics.retried();
        if *failures == 0 {
            self.state.failing.fetch_add(1, Ordering::Relaxed);
        }
        self.on_failure(fault);
        *failures += 1;
        sleep(self.backoff(*failures)).await;
    }

    /// Records `items`, or none of them.
    async fn attempt(
        &self,
        items: &[RecordItem<'_>],
        limits: Option<TimeLimits>,
        failures: &mut u32,
    ) -> Result<(), Failure> {
        let begun = SystemTime::now();
        let attempted = self.try_record(items, limits, *failures == 0).await;
        if let Some(traces) = &self.traces {
            let outcomes = attempted.as_deref().map_err(|failed| match failed {
                Failed::NotConnected(fault) | Failed::Recording(fault, _) => fault,
            });
            traces.attempted(begun, items, outcomes);
        }
        match attempted {
            Ok(outcomes) => {
                self.recovered(failures);
                self.live.publish(items, &outcomes);
                self.log_outcomes(items, &outcomes);
                Ok(())
            }
            Err(Failed::NotConnected(fault)) => {
                Err(Failure { fault: fault.clone(), canary: Canary::Fails(fault) })
            }
            Err(Failed::Recording(fault, session)) => {
                let canary = self.canary(&fault, items, session).await;
                Err(Failure { fault, canary })
            }
        }
    }

    /// Records `items`, or none of them. An idle connection that was lost is replaced once if `forgive`.
    async fn try_record(
        &self,
        items: &[RecordItem<'_>],
        limits: Option<TimeLimits>,
        mut forgive: bool,
    ) -> Result<Vec<Disposition>, Failed<'_>> {
        loop {
            let mut session =
                self.sessions.get().await.map_err(|fault| Failed::NotConnected(fault.without_row_blame()))?;
            let record = AssertUnwindSafe(session.store.record(items, self.bounds, limits)).catch_unwind();
            let within = limits.map_or(self.statement_timeout, |limits| limits.statement);
            let fault = match timeout(within, record).await {
                Ok(Ok(Ok(outcomes))) => {
                    session.give_back();
                    return Ok(outcomes);
                }
                Ok(Ok(Err(fault))) => fault,
                Ok(Err(_)) => {
                    let message = "the receiver panicked: a bug".to_owned();
                    let fault = DbError::InvalidRow { code: "none".to_owned(), message };
                    return Err(Failed::Recording(fault, None));
                }
                Err(_) => {
                    self.sessions.close_idle();
                    return Err(Failed::Recording(DbError::TimedOut, None));
                }
            };
            if forgive && session.was_idle && matches!(fault, DbError::Unreachable(_)) {
                self.sessions.close_idle();
                forgive = false;
                continue;
            }
            let usable = matches!(fault, DbError::Unavailable { .. } | DbError::InvalidRow { .. });
            return Err(Failed::Recording(fault.during_record(), usable.then_some(session)));
        }
    }

    /// What can be recorded after `items` failed with `fault`.
    async fn canary(
        &self,
        fault: &DbError,
        items: &[RecordItem<'_>],
        session: Option<Session<'_>>,
    ) -> Canary {
        // On a full disk, there may be room for a small row and none for a large one.
        let largest = items.iter().map(RecordItem::body_bytes).max().unwrap_or_default();
        let fill = if fault.is_about_disk() { largest } else { 0 };
        let kinds = (items.iter().any(|i| !i.is_quarantined()), items.iter().any(RecordItem::is_quarantined));
        match self.run_canary(kinds, fill, session).await {
            Ok(()) => Canary::Succeeds,
            Err(why) if kinds == (false, true) => match self.run_canary((true, false), fill, None).await {
                Ok(()) => Canary::QuarantineFails(why),
                Err(_) => Canary::Fails(why),
            },
            Err(why) => Canary::Fails(why),
        }
    }

    /// Whether rows of these kinds, executions and rows of the quarantine, can be recorded at all. The error is the
    /// state of PostgreSQL: it is about no delivery.
    async fn run_canary(
        &self,
        kinds: (bool, bool),
        fill: usize,
        session: Option<Session<'_>>,
    ) -> Result<(), DbError> {
        let mut session = match session {
            Some(session) => session,
            None => self.sessions.get().await.map_err(DbError::without_row_blame)?,
        };
        let canary = session.store.canary(kinds, fill, self.bounds);
        match timeout(self.statement_timeout, canary).await.unwrap_or(Err(DbError::TimedOut)) {
            Ok(()) => {
                session.give_back();
                Ok(())
            }
            Err(fault) => {
                self.sessions.close_idle();
                Err(fault.during_record().of_every_row())
            }
        }
    }

    /// Checks that PostgreSQL is there while there is nothing to record. Every [`CANARY_EVERY`], and as long as PostgreSQL
    /// is not known to record, a canary checks that it records.
    pub(super) async fn ping(&self) {
        let due = {
            let mut last = self.state.canary_at.lock().unwrap_or_else(PoisonError::into_inner);
            let failing = matches!(*self.recording.borrow(), RecorderHealth::Failing { .. });
            let due = failing || last.get_or_insert_with(Instant::now).elapsed() >= CANARY_EVERY;
            if due {
                *last = Some(Instant::now());
            }
            due
        };
        let pinged = match self.try_record(&[], None, true).await {
            Ok(_) if !due => Ok(()),
            Ok(_) => self.run_canary((true, false), 0, None).await,
            Err(Failed::NotConnected(fault) | Failed::Recording(fault, _)) => Err(fault.of_every_row()),
        };
        match pinged {
            Ok(()) => self.on_success(),
            Err(fault) => self.on_failure(fault),
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

    /// Logs that deliveries are stuck, at once and then at most every [`LOG_STUCK_INTERVAL`].
    fn log_stuck(&self, logged: &mut Option<Instant>) {
        if logged.is_some_and(|at| at.elapsed() < LOG_STUCK_INTERVAL) {
            return;
        }
        *logged = Some(Instant::now());
        let stuck = self.stuck.borrow().clone();
        if let Some(why) = stuck.why {
            tracing::warn!(
                deliveries = stuck.deliveries,
                "deliveries fail alone while others are recorded: they wait in the spool, and are retried: {why}"
            );
        }
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
