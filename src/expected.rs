//! Follows expected executions: copies the caller's references, marks arrived executions as settled, and counts overdue ones
//! (`db/expected.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use crate::db::{ConnectionPool, DbError};
use crate::metrics::Metrics;
use crate::recorder::RecorderView;

/// Time between two runs while nothing is recorded.
const RUN_INTERVAL: Duration = Duration::from_secs(15);
/// Minimum time between two runs.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after a run is this many times as long as the run took.
const PAUSE_FACTOR: u32 = 20;
/// Consecutive failures before a warning is logged. The recorder logs outages of PostgreSQL, also shorter ones.
const LOGGED_AFTER_FAILURES: u32 = 2;

/// Runs until the recorder ends. Nothing is done while recording fails. After an error of PostgreSQL, the metric keeps its
/// last value and the next run follows.
pub(crate) async fn follow_expected(
    pool: Arc<ConnectionPool>,
    mut recorder: RecorderView,
    metrics: Arc<Metrics>,
) {
    let mut failures: u32 = 0;
    while recorder.until_working().await {
        let begun = Instant::now();
        let _ = recorder.acked.borrow_and_update();
        let result = settle_and_count(&pool, &metrics).await;
        match &result {
            Ok(_) => {
                if failures >= LOGGED_AFTER_FAILURES {
                    tracing::info!("expected executions are counted again");
                }
                failures = 0;
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                if failures == LOGGED_AFTER_FAILURES {
                    tracing::warn!(
                        "expected executions cannot be counted, so executions_overdue is out of date: {error}"
                    );
                }
            }
        }
        sleep((begun.elapsed() * PAUSE_FACTOR).max(MIN_INTERVAL)).await;
        if !matches!(result, Ok(true))
            && let Ok(Err(_)) = timeout(RUN_INTERVAL, recorder.acked.changed()).await
        {
            // The recorder has ended.
            return;
        }
    }
}

/// Returns true if there may be more to settle.
async fn settle_and_count(pool: &ConnectionPool, metrics: &Metrics) -> Result<bool, DbError> {
    let run = pool.run(async |db| {
        // Skips the statements that write: even without a row to write, they wait for a lock of the whole table.
        if !db.has_unsettled().await? {
            return Ok((false, 0));
        }
        let more = db.settle_expected().await?;
        Ok((more, db.count_overdue().await?))
    });
    let (more, overdue) = run.await?;
    metrics.executions_overdue.set(overdue);
    Ok(more)
}
