//! Numbers the committed changes (`migrations/0004_changes.sql`), concurrently with recording.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::RecorderHealth;
use crate::db::{ConnectionPool, DbError, Numbered, Numbering};
use crate::metrics::Metrics;

/// Minimum time between two runs: a run costs PostgreSQL as much for one batch as for many.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum time between two runs. A run also numbers the batches of a receiver that was killed.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// The log reports another session that holds the lock for longer. A receiver holds it for milliseconds.
const MAX_LOCKED: Duration = Duration::from_secs(5);

pub(crate) struct Sequencer {
    /// The recorder's pool: if PostgreSQL grants few connections, the sequencer and the recorder use them in turn.
    pub(crate) pool: Arc<ConnectionPool>,
    /// Notified after a commit with changes.
    pub(crate) committed: Arc<Notify>,
    /// Nothing is numbered while recording fails.
    pub(crate) recording: watch::Receiver<RecorderHealth>,
    /// Marked as changed after each run that may have assigned numbers.
    pub(crate) numbered: watch::Sender<()>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Whether changes are numbered, for the log.
struct Progress {
    failing: bool,
    /// When a run last ended without [`Numbered::Locked`].
    unlocked_at: Instant,
}

/// What is logged after a run.
#[derive(Debug, PartialEq, Eq)]
enum Report {
    Failing(String),
    Recovered,
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self { failing: false, unlocked_at: now }
    }

    /// A lock alone shows nothing before [`MAX_LOCKED`].
    fn after(&mut self, numbered: &Result<Numbered, DbError>, now: Instant) -> Option<Report> {
        let why = match numbered {
            Ok(Numbered::Locked) if now - self.unlocked_at <= MAX_LOCKED => return None,
            Ok(Numbered::Locked) => {
                Some("another session keeps the advisory lock of the numbering (pg_locks)".to_owned())
            }
            Ok(Numbered::All | Numbered::MaybeMore) => None,
            Err(error) => Some(error.to_string()),
        };
        if !matches!(numbered, Ok(Numbered::Locked)) {
            self.unlocked_at = now;
        }
        let was_failing = std::mem::replace(&mut self.failing, why.is_some());
        match why {
            None => was_failing.then_some(Report::Recovered),
            Some(why) => (!was_failing).then_some(Report::Failing(why)),
        }
    }
}

impl Sequencer {
    /// Runs until dropped. An error of PostgreSQL never ends it.
    pub(super) async fn run(&self) -> Infallible {
        let (mut numbering, mut recording) = (Numbering::default(), self.recording.clone());
        let (mut progress, mut check) = (Progress::new(Instant::now()), true);
        loop {
            // The channel closes only when the process ends.
            let _ = recording.wait_for(|recording| matches!(recording, RecorderHealth::Working)).await;
            let numbered = self.number(&mut numbering, check).await;
            match progress.after(&numbered, Instant::now()) {
                Some(Report::Recovered) => tracing::info!("changes are numbered again"),
                Some(Report::Failing(why)) => tracing::warn!(
                    "changes cannot be numbered, so /api/v1/changes and /api/v1/events are late: {why}"
                ),
                None => {}
            }
            if matches!(numbered, Ok(Numbered::All)) {
                self.metrics.changes_numbered_timestamp.set(OffsetDateTime::now_utc().unix_timestamp());
            }
            sleep(MIN_INTERVAL).await;
            let may_be_more =
                matches!(numbered, Ok(Numbered::MaybeMore | Numbered::Locked)) && !progress.failing;
            if !may_be_more {
                check = timeout(MAX_INTERVAL, self.committed.notified()).await.is_err();
            }
        }
    }

    /// Numbers the changes that were committed before the call. After an error, another receiver or the next start numbers
    /// them.
    pub(super) async fn finish(&self) {
        let mut numbering = Numbering::default();
        while let Ok(Numbered::MaybeMore | Numbered::Locked) = self.number(&mut numbering, true).await {
            sleep(MIN_INTERVAL).await;
        }
    }

    /// With `check`, writes nothing if every change has a number.
    async fn number(&self, numbering: &mut Numbering, check: bool) -> Result<Numbered, DbError> {
        let run = self.pool.run(async |db| {
            if check && !numbering.is_due(db).await? {
                return Ok((Numbered::All, false));
            }
            Ok((numbering.run(db).await?, true))
        });
        let (numbered, has_run) = run.await?;
        if has_run {
            self.numbered.send_replace(());
        }
        Ok(numbered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_after_an_error_is_no_recovery() {
        let start = Instant::now();
        let mut progress = Progress::new(start);
        let mut after = |numbered, seconds| progress.after(&numbered, start + Duration::from_secs(seconds));
        let failing = |report: Option<Report>| matches!(report, Some(Report::Failing(_)));
        assert_eq!(after(Ok(Numbered::Locked), 4), None);
        assert!(failing(after(Ok(Numbered::Locked), 6)));
        assert_eq!(after(Ok(Numbered::MaybeMore), 7), Some(Report::Recovered));
        assert!(failing(after(Err(DbError::TimedOut), 8)));
        assert_eq!(after(Ok(Numbered::Locked), 9), None);
        assert_eq!(after(Err(DbError::TimedOut), 10), None);
        assert_eq!(after(Ok(Numbered::Locked), 16), None, "still failing, and already logged");
        assert_eq!(after(Ok(Numbered::All), 17), Some(Report::Recovered));
        assert_eq!(after(Ok(Numbered::All), 18), None);
    }
}
