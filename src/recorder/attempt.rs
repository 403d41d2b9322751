//! Records one batch, however long PostgreSQL takes: retry, bisect, back off.
//!
//! # Which delivery is blamed
//!
//! After each failed attempt, a canary runs ([`DbConnection::canary`](crate::db::DbConnection::canary)): the same
//! statements and a commit with synthetic deliveries of the same kind, which are rolled back. Its result decides what the
//! failure means, whatever the error was. The kinds of deliveries are executions, predictions, rows for the quarantine and
//! unverified deliveries.
//!
//! | the attempt held | canary | consequence |
//! |---|---|---|
//! | several kinds | any | each kind is tried on its own |
//! | one kind | fails, and a canary of executions fails, too | PostgreSQL records nothing now: the part waits, and no delivery is blamed |
//! | one kind | fails, and a canary of executions succeeds | the attempt's deliveries, and later ones of their kind, are stuck (`stuck.rs`) |
//! | several deliveries of one kind | succeeds | the part is halved; after `database.statement_timeout` of halving, they are stuck |
//! | one delivery | succeeds | it is stuck |
//!
//! A stuck delivery is retried alone or, once another one has succeeded, in a group (`retry.rs`), and occupies no worker.
//! Each failure alone while the canary succeeds is one strike against the delivery.
//! [`StuckEntry::strike`](super::stuck::StuckEntry::strike) defines how many strikes it takes until the delivery is
//! degraded by one step ([`RecordItem::degrade`]); then the count starts again. A failed canary and contention
//! ([`DbError::is_contention`]) reset the strikes: the delivery waits. The kind of error decides only the number of
//! strikes:
//!
//! - an error that the server will repeat ([`DbError::is_repeatable`]): three, and one after the first degradation;
//! - a lost connection, a crash, a lack of resources: ten, with pauses;
//! - a timeout: each of the first three doubles the time limit, the next one degrades. A wait for a lock is not a timeout,
//!   because `lock_timeout` ends it much earlier.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use rand::RngExt;
use tokio::time::{sleep, timeout};

use super::Recorder;
use super::batch_part::BatchPart;
use super::canary::Canary;
use super::stuck::Blocked;
use crate::db::{DbError, PooledConnection, RecordItem, TimeLimits};
use crate::delivery::Disposition;

/// The minimum wait after the first failure. It doubles with each further failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// After a first failure, `lock_timeout` is this many times shorter than `database.statement_timeout`. A transaction
/// waits for fewer locks than this, so waits for locks alone do not reach the statement timeout.
const RETRY_LOCK_TIMEOUT_DIVISOR: u32 = 32;

/// Why an attempt failed.
pub(super) enum FailedAttempt<'p> {
    NotConnected(DbError),
    /// With the connection, if it is still usable.
    NotRecorded(DbError, Option<PooledConnection<'p>>),
}

impl FailedAttempt<'_> {
    fn error(&self) -> &DbError {
        let (Self::NotConnected(error) | Self::NotRecorded(error, _)) = self;
        error
    }

    pub(super) fn into_error(self) -> DbError {
        let (Self::NotConnected(error) | Self::NotRecorded(error, _)) = self;
        error
    }
}

impl Recorder {
    /// Records all deliveries of a batch, except those that become stuck.
    pub(super) async fn record_batch(&self, batch: BatchPart<'_>) {
        // Bounds the memory of the list.
        self.shared.stuck.wait_for_room().await;
        let (mut parts, mut limits, mut halving_since) = (VecDeque::from([batch]), None, None::<Instant>);
        let mut failed_canaries = 0;
        while let Some(part) = parts.pop_front() {
            let part = self.shared.stuck.hold_back(part);
            if part.is_empty() {
                continue;
            }
            let Err((error, canary)) = self.attempt(part.items(), limits, &mut failed_canaries).await else {
                continue;
            };
            if part.is_mixed() {
                // The canary has one kind only. Executions are first.
                let kind = part.first_kind();
                let (first, others) = part.partition(|item| item.kind() == kind);
                parts.push_front(others);
                parts.push_front(first);
                continue;
            }
            match canary {
                Canary::Fails(error) => {
                    self.wait(error, &mut failed_canaries).await;
                    parts.push_front(part);
                    continue;
                }
                Canary::OnlyExecutions(error) => {
                    self.recovered(&mut failed_canaries);
                    let blocked = Some(Blocked::Kind(part.first_kind()));
                    self.shared.stuck.add(&part, Some(&error), blocked);
                    continue;
                }
                Canary::Succeeds => self.recovered(&mut failed_canaries),
            }
            limits = Some(self.retry_limits(self.statement_timeout));
            let since = *halving_since.get_or_insert_with(Instant::now);
            if part.items().len() == 1 || since.elapsed() > self.statement_timeout {
                let blocked = Blocked::by_lock(part.items(), &error);
                self.shared.stuck.add(&part, Some(&error), blocked);
                continue;
            }
            // The search for a row that PostgreSQL rejects does not count as a retry.
            if !matches!(error, DbError::InvalidRow { .. }) {
                self.metrics.record_retries.inc();
            }
            let (first, second) = part.halve();
            parts.push_front(second);
            parts.push_front(first);
        }
        if failed_canaries > 0 {
            // After a failed canary, the remaining deliveries became stuck, so no attempt has reset the count.
            self.shared.failing.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The time limits of an attempt after a first failure.
    pub(super) fn retry_limits(&self, statement: Duration) -> TimeLimits {
        TimeLimits { statement, lock: self.statement_timeout / RETRY_LOCK_TIMEOUT_DIVISOR }
    }

    /// Waits after a failed canary: PostgreSQL records nothing now.
    pub(super) async fn wait(&self, error: DbError, failed_canaries: &mut u32) {
        self.metrics.record_retries.inc();
        if *failed_canaries == 0 {
            self.shared.failing.fetch_add(1, Ordering::Relaxed);
        }
        self.on_failure(error);
        *failed_canaries += 1;
        sleep(self.backoff(*failed_canaries)).await;
    }

    /// Reports that PostgreSQL records, and resets `failed_canaries`.
    pub(super) fn recovered(&self, failed_canaries: &mut u32) {
        if std::mem::take(failed_canaries) > 0 {
            self.shared.failing.fetch_sub(1, Ordering::Relaxed);
        }
        self.on_success();
    }

    /// Records all `items` or none, and runs a canary after a failure.
    pub(super) async fn attempt(
        &self,
        items: &[RecordItem<'_>],
        limits: Option<TimeLimits>,
        failed_canaries: &mut u32,
    ) -> Result<(), (DbError, Canary)> {
        let begun = SystemTime::now();
        let recorded = self.try_record(items, limits, *failed_canaries == 0).await;
        if let Some(traces) = &self.traces {
            traces.attempted(begun, items, recorded.as_deref().map_err(FailedAttempt::error));
        }
        match recorded {
            Ok(dispositions) => {
                self.recovered(failed_canaries);
                if dispositions.iter().any(|disposition| disposition.is_change()) {
                    self.sequencer.committed.notify_one();
                }
                self.log_dispositions(items, &dispositions);
                Ok(())
            }
            Err(FailedAttempt::NotConnected(error)) => Err((error.clone(), Canary::Fails(error))),
            Err(FailedAttempt::NotRecorded(error, connection)) => {
                let canary = self.canary(&error, items, connection).await;
                Err((error, canary))
            }
        }
    }

    /// Records all `items` or none. With `replace_lost`, an idle connection that turns out to be lost is replaced once.
    pub(super) async fn try_record(
        &self,
        items: &[RecordItem<'_>],
        limits: Option<TimeLimits>,
        mut replace_lost: bool,
    ) -> Result<Vec<Disposition>, FailedAttempt<'_>> {
        loop {
            let connection = self.pool.get().await;
            let mut connection =
                connection.map_err(|error| FailedAttempt::NotConnected(error.without_row_blame()))?;
            let record = AssertUnwindSafe(connection.db.record(items, self.bounds, limits)).catch_unwind();
            let within = limits.map_or(self.statement_timeout, |limits| limits.statement);
            let error = match timeout(within, record).await {
                Ok(Ok(Ok(dispositions))) => {
                    connection.release();
                    return Ok(dispositions);
                }
                Ok(Ok(Err(error))) => error,
                Ok(Err(_)) => {
                    let message = "the receiver panicked: a bug".to_owned();
                    let error = DbError::InvalidRow { code: "none".to_owned(), message };
                    return Err(FailedAttempt::NotRecorded(error, None));
                }
                Err(_) => {
                    connection.lost();
                    return Err(FailedAttempt::NotRecorded(DbError::TimedOut, None));
                }
            };
            if error.is_lost() {
                let replace = replace_lost && connection.db.was_idle;
                connection.lost();
                if replace {
                    replace_lost = false;
                    continue;
                }
                return Err(FailedAttempt::NotRecorded(error.during_record(), None));
            }
            let usable = matches!(
                error,
                DbError::Unavailable { .. } | DbError::BulkLocked | DbError::InvalidRow { .. }
            );
            return Err(FailedAttempt::NotRecorded(error, usable.then_some(connection)));
        }
    }

    /// Half of the backoff is random, so that several receivers do not reconnect at the same time.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let longest = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(failures)).min(self.max_backoff);
        longest.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}
