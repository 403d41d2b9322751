//! Starts runs in the background: after each gap (a time in which webhooks may have been lost), and for executions that should
//! have ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::events::Counts;
use super::reconciler::{ReconcileError, Reconciler};
use super::run::Scope;
use crate::config;
use crate::health::Monitor;
use crate::spool::{Losses, ReconciledUntil};

/// How often readiness is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often `reconciled-until` is written while webhooks are accepted.
const STORE_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum time between two comparisons.
const MIN_PAUSE: Duration = Duration::from_secs(10);
/// A comparison begins this much before the gap: the sender's clock may differ, and its retries of earlier webhooks may
/// have failed.
const MARGIN: Duration = Duration::from_mins(5);
/// Maximum running executions, and maximum overdue ones, that a round requests.
const ROUND: i64 = 500;

pub(crate) struct Background {
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) settings: config::Reconcile,
    pub(crate) reconciled_until: Arc<ReconciledUntil>,
    /// The latest write of `reconciled_until`.
    pub(crate) storing: Mutex<Option<JoinHandle<()>>>,
    pub(crate) health: Monitor,
    pub(crate) stop: CancellationToken,
    pub(crate) gap: Mutex<Gap>,
}

/// The time in which webhooks may have been lost.
#[derive(Debug, Default)]
pub(crate) struct Gap {
    /// The start of the gap; `None` when there is no gap.
    since: Option<OffsetDateTime>,
    /// The start of the earliest interruption that was found since the latest comparison began.
    interrupted: Option<OffsetDateTime>,
    /// Whether the latest check found that the receiver is not ready, or that webhooks were answered 503.
    is_growing: bool,
}

impl Gap {
    /// Webhooks since this time may be missing: the receiver was last ready then, or its spool has lost later deliveries.
    fn interrupt(&mut self, since: OffsetDateTime) {
        for start in [&mut self.since, &mut self.interrupted] {
            *start = Some(start.map_or(since, |earlier| earlier.min(since)));
        }
    }

    /// A comparison begins. Returns the start of the gap.
    fn begin_comparison(&mut self) -> Option<OffsetDateTime> {
        self.interrupted = None;
        self.since
    }

    /// The comparison, which began at `begun`, has ended without an error. Returns the time until which nothing is missing.
    fn close(&mut self, begun: OffsetDateTime) -> OffsetDateTime {
        self.since = self.interrupted.map(|interrupted| interrupted.min(begun));
        self.since.unwrap_or(begun)
    }
}

impl Background {
    /// Runs until `stop`, then ends at once. An error of the API or of PostgreSQL never ends it.
    pub(crate) async fn run(self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.watch_readiness() => {}
            () = self.reconcile() => {}
        }
    }

    /// Follows readiness. Writes `reconciled-until` while webhooks are accepted and there is no gap.
    async fn watch_readiness(&self) {
        let mut ready_at = self.reconciled_until.read(OffsetDateTime::now_utc());
        // The time before the start is a gap, unless this is the first start.
        self.gap.lock().since = ready_at;
        // A webhook that is answered 503, for any reason, may be lost.
        let metrics = &self.reconciler.metrics;
        let (mut stored_at, mut rejected) = (None, metrics.answered_503());
        loop {
            let now = OffsetDateTime::now_utc();
            let before = std::mem::replace(&mut rejected, metrics.answered_503());
            let accepts_all = self.health.health().is_ready() && rejected == before;
            self.gap.lock().is_growing = !accepts_all;
            let losses = self.take_losses();
            if accepts_all {
                ready_at = Some(now);
                let is_due = stored_at.is_none_or(|at| now - at >= STORE_INTERVAL || now < at);
                if is_due && self.gap.lock().since.is_none() {
                    self.store(now, losses);
                    stored_at = Some(now);
                }
            } else if let Some(ready_at) = ready_at {
                self.gap.lock().interrupt(ready_at);
            }
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// Extends the gap to the time of the deliveries that the spool has lost.
    fn take_losses(&self) -> Losses {
        let losses = self.reconciled_until.take_losses();
        if let Some(since) = losses.since {
            self.gap.lock().interrupt(since);
        }
        losses
    }

    /// Does not wait for the disk. While the disk hangs, no further write begins.
    fn store(&self, time: OffsetDateTime, losses: Losses) {
        let mut storing = self.storing.lock();
        if storing.as_ref().is_some_and(|write| !write.is_finished()) {
            return;
        }
        let file = self.reconciled_until.clone();
        *storing = Some(spawn_blocking(move || {
            if let Err(error) = file.advance(time, losses) {
                tracing::debug!("reconciled-until cannot be written: {error}");
            }
        }));
    }

    async fn reconcile(&self) {
        let mut recorder = self.reconciler.recorder.clone();
        let mut failing = false;
        let mut none_found_at = None;
        // Nothing is requested while recording fails.
        while recorder.until_working().await {
            let result = match self.close_gap().await {
                Ok(()) => self.check_due(&mut none_found_at).await,
                error => error,
            };
            let metrics = &self.reconciler.metrics;
            metrics.reconcile_failing.set(result.is_err().into());
            match &result {
                Ok(()) => {
                    metrics.reconcile_success_timestamp.set(OffsetDateTime::now_utc().unix_timestamp());
                    if failing {
                        tracing::info!("missed webhooks can be fetched again");
                    }
                }
                Err(error) if !failing => tracing::error!("missed webhooks cannot be fetched: {error}"),
                Err(_) => {}
            }
            failing = result.is_err();
            tokio::select! {
                () = sleep(self.settings.interval) => {}
                () = self.until_gap(), if !failing => {}
            }
        }
    }

    /// Returns once webhooks are accepted after a gap, at the earliest after [`MIN_PAUSE`]: anyone can cause a 503.
    async fn until_gap(&self) {
        sleep(MIN_PAUSE).await;
        let is_over = || {
            let gap = self.gap.lock();
            gap.since.is_some() && !gap.is_growing
        };
        while !(is_over() && self.health.health().is_ready()) {
            sleep(CHECK_INTERVAL).await;
        }
    }

    async fn close_gap(&self) -> Result<(), ReconcileError> {
        if !self.health.health().is_ready() {
            return Ok(());
        }
        let begun = OffsetDateTime::now_utc();
        let Some(since) = self.gap.lock().begin_comparison() else { return Ok(()) };
        // The clock may have been set back.
        let since = since.min(begun);
        tracing::info!(%since, "webhooks may have been missed: comparing with each::labs");
        let (counts, result) = self.reconciler.run(&Scope::Since(since - MARGIN), false, None).await;
        result?;
        let losses = self.take_losses();
        let until = self.gap.lock().close(begun);
        self.store(until, losses);
        log(&counts, "the comparison with each::labs is complete");
        Ok(())
    }

    /// Requests executions that should have ended. `none_found_at` is the time of the latest
    /// [`ReconcileError::NoExecutions`]. This error is returned again while nothing is due, for up to `reconcile.running_after`:
    /// then the same executions are due again.
    async fn check_due(&self, none_found_at: &mut Option<Instant>) -> Result<(), ReconcileError> {
        let due = self.due().await?;
        if due.is_empty() {
            let is_recent = none_found_at.is_some_and(|at| at.elapsed() < self.settings.running_after);
            return if is_recent { Err(ReconcileError::NoExecutions) } else { Ok(()) };
        }
        let (counts, result) = self.reconciler.run(&Scope::Executions(due), false, None).await;
        *none_found_at = matches!(result, Err(ReconcileError::NoExecutions)).then(Instant::now);
        result?;
        log(&counts, "executions that should have ended were requested");
        Ok(())
    }

    /// The executions that should have ended, and were not requested recently.
    async fn due(&self) -> Result<Vec<String>, ReconcileError> {
        let before = OffsetDateTime::now_utc() - self.settings.running_after;
        let read = self.reconciler.pool.run(async |db| {
            let (running, overdue) =
                (db.still_running(before, ROUND).await?, db.overdue(before, ROUND).await?);
            db.remove_old_checks().await?;
            Ok((running, overdue))
        });
        let (mut due, overdue) = read.await?;
        // An execution that stays `running` can be in both.
        due.retain(|id| !overdue.contains(id));
        due.extend(overdue);
        Ok(due)
    }
}

fn log(counts: &Counts, message: &str) {
    let Counts { checked, fetched, running, absent, unusable, other_urls, .. } = counts;
    tracing::info!(checked, fetched, running, absent, unusable, other_urls, "{message}");
    if counts.is_for_others() {
        tracing::warn!(
            "all {other_urls} compared webhooks of each::labs were sent to other URLs: check eachlabs.webhook_url if webhooks \
             of this receiver are missing"
        );
    }
    if *unusable > 0 {
        tracing::warn!(
            "{unusable} answers of each::labs are not usable, so these executions were not fetched: their form is not the \
             documented one, or they are too large"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_that_begins_during_a_comparison_stays_open_from_the_earlier_of_both_times() {
        let [first, second, third] = [1, 2, 3].map(|n| OffsetDateTime::UNIX_EPOCH + Duration::from_hours(n));
        let mut gap = Gap { since: Some(first), ..Gap::default() };
        assert_eq!(gap.begin_comparison(), Some(first));
        assert_eq!((gap.close(second), gap.since), (second, None));

        for (begun, ready_at) in [(second, third), (third, second)] {
            let mut gap = Gap { since: Some(first), ..Gap::default() };
            gap.begin_comparison();
            gap.interrupt(ready_at);
            gap.interrupt(third);
            assert_eq!((gap.close(begun), gap.since), (second, Some(second)));
        }
    }

    #[test]
    fn an_interruption_before_the_comparison_does_not_keep_the_gap_open() {
        let [first, second] = [1, 2].map(|n| OffsetDateTime::UNIX_EPOCH + Duration::from_hours(n));
        let mut gap = Gap::default();
        gap.interrupt(first);
        assert_eq!(gap.begin_comparison(), Some(first));
        assert_eq!((gap.close(second), gap.since), (second, None));
    }
}
