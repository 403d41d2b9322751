//! The background task that removes expired rows (`retention.*`).

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use strum::VariantArray;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{ClockSkew, Clocks, MAX_CLOCK_SKEW, Removal, Step, Walk};
use crate::config;
use crate::db::{Cutoffs, Database, DbConnection, DbError, RetentionTarget};
use crate::metrics::Metrics;
use crate::recorder::RecorderHealth;

/// From the end of a round to the beginning of the next.
const ROUND_INTERVAL: Duration = Duration::from_hours(1);
/// Each round resumes where the last one stopped. Every 24th starts over, to pick up rows that were locked, redelivered
/// or recorded late.
const ROUNDS_PER_SWEEP: u32 = 24;
/// The pause after a batch is this many times as long as the batch took.
const THROTTLE_FACTOR: u32 = 9;
/// The longest pause. A batch that took very long was itself waiting, so a proportional pause would be too long.
const THROTTLE_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Pruner {
    pub(crate) database: Database,
    pub(crate) settings: config::Database,
    pub(crate) retention: config::Retention,
    /// The pause after an error.
    pub(crate) backoff: Duration,
    pub(crate) metrics: Arc<Metrics>,
    /// Nothing is removed while recording fails.
    pub(crate) recording: watch::Receiver<RecorderHealth>,
    pub(crate) state: watch::Sender<RetentionState>,
    pub(crate) stop: CancellationToken,
}

/// The state of retention, for health checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum RetentionState {
    /// No limit is set.
    #[default]
    Off,
    /// A limit is set, and no round has ended yet.
    Starting,
    /// The last round removed all expired rows, or another receiver prunes this database.
    Working {
        /// The time of the latest row, if it is in the future.
        future: Option<OffsetDateTime>,
    },
    /// Nothing is removed, because a clock is wrong.
    Paused(ClockSkew),
    /// The last round failed.
    Failing(DbError),
}

impl RetentionState {
    pub(crate) fn before_first_round(limited: bool) -> Self {
        if limited { Self::Starting } else { Self::Off }
    }
}

/// The result of a round.
#[derive(Default)]
struct Round {
    /// The number of removed rows of each target.
    removed: [usize; RetentionTarget::VARIANTS.len()],
    /// The time of the latest row, if it is in the future.
    future: Option<OffsetDateTime>,
    /// The round ended early, because another receiver prunes this database.
    busy: bool,
}

impl Pruner {
    /// Prunes until `stop`, then ends at once. An error of PostgreSQL never ends it.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.prune_rounds() => {}
        }
    }

    async fn prune_rounds(&mut self) {
        let mut walks = Walk::all();
        let mut rounds = 0;
        let mut failing = None;
        // The channel closes only when the process ends.
        while self.recording.wait_for(|recording| matches!(recording, RecorderHealth::Working)).await.is_ok()
        {
            match self.round(&mut walks).await {
                Ok(Err(skew)) => {
                    failing = None;
                    self.paused(skew);
                    sleep(self.backoff).await;
                }
                Ok(Ok(round)) => {
                    self.on_success(&round, failing.take().is_some());
                    rounds += 1;
                    if rounds % ROUNDS_PER_SWEEP == 0 {
                        walks = Walk::all();
                    }
                    sleep(ROUND_INTERVAL).await;
                }
                Err(error) => {
                    self.on_failure(&error, &mut failing);
                    sleep(self.backoff).await;
                }
            }
        }
        self.stop.cancelled().await;
    }

    /// Removes nothing if a clock is wrong.
    async fn round(&self, walks: &mut [Walk]) -> Result<Result<Round, ClockSkew>, DbError> {
        let limit = self.settings.statement_timeout;
        let mut connection = DbConnection::for_pruning(&self.database, Some(limit)).await?;
        // Before the lock: a receiver with a wrong clock must not block the others.
        let clocks = within(limit, Clocks::read(&mut connection)).await?;
        self.metrics.clock_skew.set(clocks.skew.as_seconds_f64());
        let now = match clocks.agreed() {
            Ok(clocks) => clocks.earlier,
            Err(skew) => return Ok(Err(skew)),
        };
        let mut round = Round::default();
        let newest = within(limit, newest(&mut connection)).await?;
        let Some(newest) = newest else {
            round.busy = true;
            return Ok(Ok(round));
        };
        round.future = newest.filter(|newest| *newest > now + MAX_CLOCK_SKEW);
        let cutoffs = Cutoffs::at(now, self.retention);
        for walk in walks {
            loop {
                match within(limit, walk.step(&mut connection, &cutoffs, Removal::Exclusive)).await {
                    Ok(Step::Walked { expired, took }) => {
                        round.removed[walk.target as usize] += expired.len();
                        self.metrics.pruned(walk.target.as_str(), expired.len());
                        sleep((took * THROTTLE_FACTOR).min(THROTTLE_MAX)).await;
                    }
                    Ok(Step::End) => break,
                    Ok(Step::Busy) => {
                        round.busy = true;
                        return Ok(Ok(round));
                    }
                    Err(error) => {
                        walk.shrink();
                        return Err(error);
                    }
                }
            }
        }
        Ok(Ok(round))
    }

    fn on_success(&self, round: &Round, was_failing: bool) {
        if was_failing {
            tracing::info!("expired rows are removed again");
        }
        let Round { removed, future, busy } = *round;
        let before = self.state.send_replace(RetentionState::Working { future });
        if matches!(before, RetentionState::Paused(_)) {
            tracing::info!(
                "the clocks of the receiver and of PostgreSQL agree again: old rows are removed again"
            );
        }
        match (future, before) {
            (Some(newest), RetentionState::Working { future: Some(_) }) => {
                tracing::debug!(%newest, "rows have a time of receipt in the future");
            }
            (Some(newest), _) => tracing::warn!(
                %newest,
                "rows have a time of receipt in the future, because a clock was ahead; retention.* counts from that time"
            ),
            (None, _) => {}
        }
        self.metrics.prune_failing.set(0);
        if busy {
            tracing::debug!("another receiver removes the expired rows");
        } else {
            self.metrics.prune_success_timestamp.set(OffsetDateTime::now_utc().unix_timestamp());
        }
        let removed_of = |target: RetentionTarget| removed[target as usize];
        if removed.iter().any(|removed| *removed > 0) {
            tracing::info!(
                executions = removed_of(RetentionTarget::Executions),
                payloads = removed_of(RetentionTarget::Payloads),
                predictions = removed_of(RetentionTarget::Predictions),
                prediction_payloads = removed_of(RetentionTarget::PredictionPayloads),
                expected = removed_of(RetentionTarget::Expected),
                bulks = removed_of(RetentionTarget::Bulks),
                conflicts = removed_of(RetentionTarget::Conflicts),
                prediction_conflicts = removed_of(RetentionTarget::PredictionConflicts),
                quarantine = removed_of(RetentionTarget::Quarantine),
                quarantine_retries = removed_of(RetentionTarget::QuarantineRetries),
                changes = removed_of(RetentionTarget::Changes),
                "removed expired rows"
            );
        }
    }

    /// Logs the skew once until the clocks agree again.
    fn paused(&self, skew: ClockSkew) {
        self.metrics.prune_failing.set(1);
        let before = self.state.send_replace(RetentionState::Paused(skew));
        if !matches!(before, RetentionState::Paused(_)) {
            tracing::error!(skew_seconds = skew.0.whole_seconds(), "{skew}");
        }
    }

    /// Logs once, and again for an error of another kind.
    fn on_failure(&self, error: &DbError, failing: &mut Option<Discriminant<DbError>>) {
        self.metrics.prune_failing.set(1);
        self.state.send_replace(RetentionState::Failing(error.clone()));
        if failing.replace(discriminant(error)) != Some(discriminant(error)) {
            tracing::error!("expired rows (retention.*) cannot be removed: {error}");
        }
    }
}

/// The latest `first_received_at`. The outer `None`: another receiver prunes this database.
async fn newest(connection: &mut DbConnection) -> Result<Option<Option<OffsetDateTime>>, DbError> {
    let Some(mut transaction) = connection.begin_pruning(true).await? else { return Ok(None) };
    let newest = transaction.newest().await?;
    transaction.commit().await?;
    Ok(Some(newest))
}

/// Ends a call to a server that does not answer.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, DbError>>) -> Result<T, DbError> {
    timeout(limit, call).await.unwrap_or(Err(DbError::TimedOut))
}
