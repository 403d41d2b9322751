//! The background task that removes what has been kept long enough (`retention.*`).

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{ClockSkew, Clocks, MAX_CLOCK_SKEW, Walk};
use crate::config;
use crate::db::Database;
use crate::db::{Cutoffs, DbConnection, DbError, RetentionTarget};
use crate::metrics::Metrics;
use crate::recorder::RecorderHealth;

/// From the end of a round to the beginning of the next.
const ROUND_EVERY: Duration = Duration::from_hours(1);
/// A round goes on where the one before ended; one of so many begins at the beginning, for what was
/// passed by: rows that somebody wrote to, that were delivered again, or recorded late.
const ROUNDS_A_SWEEP: u32 = 24;
/// After a batch it rests so many times as long: PostgreSQL is the recorder's for nine tenths of the
/// time at least.
const THROTTLE_FACTOR: u32 = 9;
/// But not longer than this: a batch that took so much longer than it should was itself kept waiting.
const THROTTLE_MAX: Duration = Duration::from_secs(5);

/// What a pruner needs.
pub(crate) struct Pruner {
    pub(crate) database: Database,
    pub(crate) settings: config::Database,
    pub(crate) retention: config::Retention,
    /// From a failure to the next try.
    pub(crate) backoff: Duration,
    pub(crate) metrics: Arc<Metrics>,
    /// How recording goes: nothing is removed while it does not.
    pub(crate) recording: watch::Receiver<RecorderHealth>,
    /// Where it reports how removing goes, for health checks.
    pub(crate) report: watch::Sender<RetentionState>,
    pub(crate) stop: CancellationToken,
}

/// How removing goes, for health checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum RetentionState {
    /// No limit is set.
    #[default]
    Off,
    /// A limit is set, and no round has ended yet.
    Starting,
    /// The last round removed all that was due, or another receiver does it.
    Working {
        /// When the latest row was received, if that lies in the future.
        future: Option<OffsetDateTime>,
    },
    /// Nothing is removed: a clock is wrong.
    Paused(ClockSkew),
    /// The last round failed.
    Failing(DbError),
}

impl RetentionState {
    /// Before the first round, when a limit is set, or not.
    pub(crate) fn before(limited: bool) -> Self {
        if limited { Self::Starting } else { Self::Off }
    }
}

/// The result of a round.
enum Round {
    Done {
        /// Removed rows of each kind.
        removed: [usize; RetentionTarget::ALL.len()],
        /// When the latest row was received, if that lies in the future.
        future: Option<OffsetDateTime>,
    },
    /// Another receiver removes in this database.
    NotOurs,
    /// Nothing was removed: a clock is wrong.
    ClockSkew(ClockSkew),
}

impl Pruner {
    /// Removes until `stop`, then ends at once. PostgreSQL is never a reason to end.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        let mut walks = Walk::through_all();
        let mut rounds = 0;
        let mut failing = None;
        // The recorder ends only with the process.
        while self.recording.wait_for(|recording| matches!(recording, RecorderHealth::Working)).await.is_ok()
        {
            match self.round(&mut walks).await {
                Ok(Round::ClockSkew(skew)) => {
                    failing = None;
                    self.paused(skew);
                    sleep(self.backoff).await;
                }
                Ok(round) => {
                    self.on_success(&round, failing.take().is_some());
                    rounds += 1;
                    if rounds % ROUNDS_A_SWEEP == 0 {
                        walks = Walk::through_all();
                    }
                    sleep(ROUND_EVERY).await;
                }
                Err(fault) => {
                    self.failed(&fault, &mut failing);
                    sleep(self.backoff).await;
                }
            }
        }
        self.stop.cancelled().await;
    }

    async fn round(&self, walks: &mut [Walk]) -> Result<Round, DbError> {
        let config::Database { connect_timeout, statement_timeout, .. } = self.settings;
        let connect = async {
            let mut store = DbConnection::connect(&self.database.options()).await?;
            store.prepare_to_prune(Some(statement_timeout)).await?;
            // Before the lock: a receiver with a wrong clock must not keep the others from removing.
            let clocks = Clocks::read(&mut store).await?;
            self.metrics.clock_skew(clocks.skew);
            let ours = clocks.agreed().is_ok() && store.may_prune().await?;
            Ok((store, clocks, ours))
        };
        let (mut store, clocks, ours) =
            timeout(connect_timeout, connect).await.unwrap_or(Err(DbError::TimedOut))?;
        let now = match clocks.agreed() {
            Ok(clocks) => clocks.earlier,
            Err(skew) => return Ok(Round::ClockSkew(skew)),
        };
        if !ours {
            return Ok(Round::NotOurs);
        }
        let newest = timeout(statement_timeout, store.newest()).await.unwrap_or(Err(DbError::TimedOut))?;
        let future = newest.filter(|newest| *newest > now + MAX_CLOCK_SKEW);
        let cutoffs = Cutoffs::at(now, &self.retention);
        let mut removed = [0; RetentionTarget::ALL.len()];
        for walk in walks {
            loop {
                let step = walk.step(&mut store, &cutoffs, false);
                match timeout(statement_timeout, step).await.unwrap_or(Err(DbError::TimedOut)) {
                    Ok(Some((gone, took))) => {
                        removed[walk.kind as usize] += gone.len();
                        self.metrics.pruned(walk.kind.as_str(), gone.len());
                        sleep((took * THROTTLE_FACTOR).min(THROTTLE_MAX)).await;
                    }
                    Ok(None) => break,
                    Err(fault) => {
                        walk.shrink();
                        return Err(fault);
                    }
                }
            }
        }
        Ok(Round::Done { removed, future })
    }

    fn on_success(&self, round: &Round, again: bool) {
        if again {
            tracing::info!("removing what was kept long enough works again");
        }
        let future = match round {
            Round::Done { future, .. } => *future,
            _ => None,
        };
        let before = self.report.send_replace(RetentionState::Working { future });
        if matches!(before, RetentionState::Paused(_)) {
            tracing::info!(
                "the clocks of the receiver and of PostgreSQL agree again: old rows are removed again"
            );
        }
        match (future, before) {
            (Some(newest), RetentionState::Working { future: Some(_) }) => {
                tracing::debug!(%newest, "rows were received in the future");
            }
            (Some(newest), _) => tracing::warn!(
                %newest,
                "rows were received in the future, by a clock that was ahead: they are kept until retention.* after that"
            ),
            (None, _) => {}
        }
        match round {
            Round::NotOurs | Round::ClockSkew(_) => {
                self.metrics.prune_failing(false);
                tracing::debug!("another receiver removes what was kept long enough");
            }
            Round::Done { removed, .. } => {
                self.metrics.prune_finished(OffsetDateTime::now_utc());
                let [executions, payloads, bulks, conflicts, quarantine] = *removed;
                if removed.iter().any(|removed| *removed > 0) {
                    tracing::info!(
                        executions,
                        payloads,
                        bulks,
                        conflicts,
                        quarantine,
                        "removed what was kept long enough"
                    );
                }
            }
        }
    }

    /// Logs the skew once, until the clocks agree again.
    fn paused(&self, skew: ClockSkew) {
        self.metrics.prune_failing(true);
        let before = self.report.send_replace(RetentionState::Paused(skew));
        if !matches!(before, RetentionState::Paused(_)) {
            tracing::error!(skew_seconds = skew.0.whole_seconds(), "{skew}");
        }
    }

    /// Says so once, and again only when something of another kind is wrong.
    fn failed(&self, fault: &DbError, failing: &mut Option<Discriminant<DbError>>) {
        self.metrics.prune_failing(true);
        self.report.send_replace(RetentionState::Failing(fault.clone()));
        if failing.replace(discriminant(fault)) != Some(discriminant(fault)) {
            tracing::error!("what was kept long enough (retention.*) is not removed: {fault}");
        }
    }
}
