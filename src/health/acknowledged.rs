//! Counts quarantined webhooks that were answered 200, except unsigned ones that `each::labs` did not confirm.
//!
//! The command line removes entries in another process, so the count is repeated: soon after a webhook was quarantined, and
//! otherwise every 15 s. Each count reads the whole table, so a slow count is repeated less often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::db::queries::QueryPool;
use crate::db::queries::quarantine::CountAcknowledged;
use crate::metrics::Metrics;
use crate::recorder::RecorderView;

/// Time between counts while nothing is quarantined.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);
/// Minimum time between counts.
const MIN_INTERVAL: Duration = Duration::from_millis(200);
/// The pause after a count is this many times as long as the count took.
const PAUSE_FACTOR: u32 = 100;

/// The number of these webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    Counted(i64),
    /// The latest count failed with this error. `None` before the first count.
    Unknown(Option<String>),
}

/// Counts until the recorder ends. `pool` is not that of the API: operators' queries may use all connections of the API.
pub(super) async fn count_acknowledged(
    pool: QueryPool,
    metrics: Arc<Metrics>,
    mut recorder: RecorderView,
    count: watch::Sender<Acknowledged>,
) {
    while recorder.until_working().await {
        let (begun, seen) = (Instant::now(), metrics.quarantined());
        match pool.run(&CountAcknowledged).await {
            Ok(webhooks) => {
                metrics.quarantine_acknowledged.set(webhooks);
                count.send_replace(Acknowledged::Counted(webhooks));
            }
            Err(why) => drop(count.send_replace(Acknowledged::Unknown(Some(why.to_string())))),
        }
        sleep((begun.elapsed() * PAUSE_FACTOR).max(MIN_INTERVAL)).await;
        let quarantined = recorder.acked.wait_for(|_| metrics.quarantined() > seen);
        if let Ok(Err(_)) = timeout(COUNT_INTERVAL, quarantined).await {
            // The recorder has ended.
            return;
        }
    }
}
