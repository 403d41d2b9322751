//! Follows expected executions: copies the caller's references, marks arrived executions as settled, and counts overdue ones
//! (`db/expected.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::db::{ConnectionPool, DbError};
use crate::metrics::Metrics;
use crate::recorder::RecorderHealth;
use crate::spool::Seq;

/// Time between two runs while nothing is recorded.
const RUN_INTERVAL: Duration = Duration::from_secs(15);
/// Minimum time between two runs.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after a run is this many times as long as the run took.
const PAUSE_FACTOR: u32 = 20;
/// The number of consecutive failures after which one is logged. The recorder reports short outages of PostgreSQL.
const REPORTED_FAILURE: u32 = 2;

pub(crate) struct ExpectedWatcher {
    pub(crate) pool: Arc<ConnectionPool>,
    /// Time limit of a run.
    pub(crate) statement_timeout: Duration,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) acked: watch::Receiver<Seq>,
    /// Nothing is done while recording fails.
    pub(crate) recording: watch::Receiver<RecorderHealth>,
}

impl ExpectedWatcher {
    /// Runs until the recorder ends. An error of PostgreSQL never ends the watcher; the metric keeps its last value meanwhile.
    pub(crate) async fn run(mut self) {
        let mut failures: u32 = 0;
        while self.recording.wait_for(|recording| matches!(recording, RecorderHealth::Working)).await.is_ok()
        {
            let begun = Instant::now();
            let _ = self.acked.borrow_and_update();
            let result = self.settle_and_count().await;
            match &result {
                Ok(_) => {
                    if failures >= REPORTED_FAILURE {
                        tracing::info!("expected executions are counted again");
                    }
                    failures = 0;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures == REPORTED_FAILURE {
                        tracing::warn!(
                            "expected executions cannot be counted, so executions_overdue is out of date: {error}"
                        );
                    }
                }
            }
            sleep((begun.elapsed() * PAUSE_FACTOR).max(MIN_INTERVAL)).await;
            if !matches!(result, Ok(true))
                && let Ok(Err(_)) = timeout(RUN_INTERVAL, self.acked.changed()).await
            {
                // The recorder has ended.
                return;
            }
        }
    }

    /// Returns true if there may be more to settle.
    async fn settle_and_count(&self) -> Result<bool, DbError> {
        let mut connection = self.pool.get().await?;
        let run = timeout(self.statement_timeout, async {
            // The statements that write would wait for locks of the whole table, even without a row to write.
            if !connection.db.has_unsettled().await? {
                return Ok((false, 0));
            }
            let more = connection.db.settle_expected().await?;
            Ok((more, connection.db.count_overdue().await?))
        });
        // After an error, the connection is closed.
        let (more, overdue) =
            run.await.unwrap_or(Err(DbError::TimedOut)).map_err(DbError::without_row_blame)?;
        connection.release();
        self.metrics.executions_overdue.set(overdue);
        Ok(more)
    }
}
