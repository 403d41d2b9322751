//! Counts bodies in quarantine whose sender was answered 200.
//!
//! Operators take them out with another process, so PostgreSQL is asked again and again: soon after a delivery went to
//! quarantine, and otherwise every 15 s. The table is read as a whole, so a count that takes long is repeated less often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::db::queries::Pool;
use crate::db::queries::quarantine::CountAcknowledged;
use crate::metrics::Metrics;
use crate::recorder::RecorderHealth;
use crate::spool::Seq;

/// From one count to the next, when nothing goes to quarantine.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// From one count to the next, at least.
const MIN_INTERVAL: Duration = Duration::from_millis(200);
/// A count takes at most one part in so many of the time.
const REST_FACTOR: u32 = 100;

/// How many bodies in quarantine were answered 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// As last counted.
    Counted(i64),
    /// PostgreSQL was not asked yet, or did not answer, for this reason.
    Unknown(Option<String>),
}

/// Counts as long as the recorder runs.
pub(crate) struct AcknowledgedCounter {
    /// One connection of its own: operators' queries may take all of theirs.
    pub(crate) pool: Pool,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorded: watch::Receiver<Seq>,
    pub(crate) recording: watch::Receiver<RecorderHealth>,
    pub(crate) report: watch::Sender<Acknowledged>,
}

impl AcknowledgedCounter {
    pub(crate) async fn run(mut self) {
        while self.recording.wait_for(|recording| matches!(recording, RecorderHealth::Working)).await.is_ok()
        {
            let (begun, seen) = (Instant::now(), self.metrics.quarantined());
            match self.pool.ask(&CountAcknowledged).await {
                Ok(bodies) => {
                    self.metrics.quarantine_acknowledged(bodies);
                    self.report.send_replace(Acknowledged::Counted(bodies));
                }
                Err(why) => drop(self.report.send_replace(Acknowledged::Unknown(Some(why.to_string())))),
            }
            sleep((begun.elapsed() * REST_FACTOR).max(MIN_INTERVAL)).await;
            let metrics = &self.metrics;
            let quarantined = self.recorded.wait_for(|_| metrics.quarantined() > seen);
            if let Ok(Err(_)) = timeout(COUNT_EVERY, quarantined).await {
                // The recorder has ended.
                return;
            }
        }
    }
}
