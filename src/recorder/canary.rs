//! Checks what PostgreSQL can record: after a failed attempt, and while the recorder is idle.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Recorder, RecorderHealth};
use crate::db::{CanaryRows, DbError, ItemKind, PooledConnection, RecordItem};

/// How often an idle recorder runs a canary. An empty transaction shows only that PostgreSQL answers.
const CANARY_INTERVAL: Duration = Duration::from_secs(30);

/// The result of a canary after a failed attempt.
pub(super) enum Canary {
    Succeeds,
    /// The items are not executions, and nothing can be stored in their table. Executions can be recorded.
    OnlyExecutions(DbError),
    /// Nothing can be recorded.
    Fails(DbError),
}

impl Recorder {
    /// Runs the canary of the kind of the first item, after `items` failed with `error`. `connection` is the connection of
    /// the attempt, if it is still usable.
    pub(super) async fn canary(
        &self,
        error: &DbError,
        items: &[RecordItem<'_>],
        connection: Option<PooledConnection<'_>>,
    ) -> Canary {
        // A full disk may have room for a small row and none for a large one.
        let largest = items.iter().map(|item| item.delivery().body.len()).max().unwrap_or_default();
        let kind = items.first().map_or(ItemKind::Execution, RecordItem::kind);
        let rows = CanaryRows { kind, fill: if error.is_about_disk() { largest } else { 0 } };
        match self.run_canary(rows, connection).await {
            Ok(()) => Canary::Succeeds,
            Err(error) if kind != ItemKind::Execution => {
                let executions = CanaryRows { kind: ItemKind::Execution, ..rows };
                match self.run_canary(executions, None).await {
                    Ok(()) => Canary::OnlyExecutions(error),
                    Err(_) => Canary::Fails(error),
                }
            }
            Err(error) => Canary::Fails(error),
        }
    }

    /// # Errors
    /// The error describes PostgreSQL, not a delivery.
    async fn run_canary(
        &self,
        rows: CanaryRows,
        connection: Option<PooledConnection<'_>>,
    ) -> Result<(), DbError> {
        let mut connection = match connection {
            Some(connection) => connection,
            None => self.pool.get().await.map_err(DbError::without_row_blame)?,
        };
        let canary = connection.db.canary(rows, self.bounds);
        match timeout(self.statement_timeout, canary).await.unwrap_or(Err(DbError::TimedOut)) {
            Ok(()) => {
                connection.release();
                Ok(())
            }
            Err(error) => {
                if error.is_lost() || error == DbError::TimedOut {
                    connection.lost();
                }
                Err(error.during_record().of_every_row())
            }
        }
    }

    /// Checks PostgreSQL while nothing is recorded: with an empty transaction, and with a canary every
    /// [`CANARY_INTERVAL`] or while recording fails.
    pub(super) async fn ping(&self) {
        let due = {
            let mut last = self.shared.canary_at.lock();
            let failing = matches!(*self.health.borrow(), RecorderHealth::Failing { .. });
            let due = failing || last.get_or_insert_with(Instant::now).elapsed() >= CANARY_INTERVAL;
            if due {
                *last = Some(Instant::now());
            }
            due
        };
        let pinged = match self.try_record(&[], None, true).await {
            Ok(_) if !due => Ok(()),
            Ok(_) => {
                let rows = CanaryRows { kind: ItemKind::Execution, fill: 0 };
                self.run_canary(rows, None).await
            }
            Err(failed) => Err(failed.into_error().of_every_row()),
        };
        match pinged {
            Ok(()) => self.on_success(),
            Err(error) => self.on_failure(error),
        }
    }
}
