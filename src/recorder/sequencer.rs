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

impl Sequencer {
    /// Runs until dropped. An error of PostgreSQL never ends it.
    pub(super) async fn run(&self) -> Infallible {
        let (mut numbering, mut recording) = (Numbering::default(), self.recording.clone());
        let (mut failing, mut check, mut unlocked_at) = (false, true, Instant::now());
        loop {
            // The channel closes only when the process ends.
            let _ = recording.wait_for(|recording| matches!(recording, RecorderHealth::Working)).await;
            let numbered = self.number(&mut numbering, check).await;
            if !matches!(numbered, Ok(Numbered::Locked)) {
                unlocked_at = Instant::now();
            }
            let why = match &numbered {
                Err(error) => Some(error.to_string()),
                Ok(Numbered::Locked) if unlocked_at.elapsed() > MAX_LOCKED => {
                    Some("another session keeps the advisory lock of the numbering (pg_locks)".to_owned())
                }
                Ok(_) => None,
            };
            match &why {
                None if failing => tracing::info!("changes are numbered again"),
                Some(why) if !failing => tracing::warn!(
                    "changes cannot be numbered, so /api/v1/changes and /api/v1/events are late: {why}"
                ),
                _ => {}
            }
            failing = why.is_some();
            if matches!(numbered, Ok(Numbered::All)) {
                self.metrics.changes_numbered_timestamp.set(OffsetDateTime::now_utc().unix_timestamp());
            }
            sleep(MIN_INTERVAL).await;
            let may_be_more = matches!(numbered, Ok(Numbered::MaybeMore | Numbered::Locked)) && !failing;
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
            if !db.was_idle {
                // A new connection may lead to another server.
                *numbering = Numbering::default();
            }
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
