//! Logs, metrics and health of recording.

use std::mem::discriminant;
use std::sync::atomic::Ordering;

use time::OffsetDateTime;
use tracing::field::display;

use super::{Recorder, RecorderHealth};
use crate::auth::AuthMethod;
use crate::db::{DbError, RecordItem};
use crate::delivery::Disposition;
use crate::logging::LineLimit;

impl Recorder {
    /// Reports that a transaction succeeded. Health stays `Failing` while another worker fails.
    pub(super) fn on_success(&self) {
        if self.shared.failing.load(Ordering::Relaxed) > 0 {
            return;
        }
        self.metrics.database_up.set(1);
        let before = self.health.send_replace(RecorderHealth::Working);
        if !matches!(before, RecorderHealth::Working) {
            tracing::info!("recording to PostgreSQL");
        }
    }

    /// Reports that PostgreSQL records nothing. Logs once, and again for an error of another kind.
    pub(super) fn on_failure(&self, error: DbError) {
        self.metrics.database_up.set(0);
        self.health.send_modify(|health| {
            let (since, is_new) = match health {
                RecorderHealth::Failing { since, why } => (*since, discriminant(why) != discriminant(&error)),
                _ => (OffsetDateTime::now_utc(), true),
            };
            if is_new {
                tracing::error!("deliveries cannot be recorded yet and wait in the spool: {error}");
            }
            *health = RecorderHealth::Failing { since, why: error };
        });
    }

    /// Logs and counts a recorded transaction.
    pub(super) fn log_dispositions(&self, items: &[RecordItem<'_>], dispositions: &[Disposition]) {
        let (mut dropped, mut conflicts_dropped) = (0, 0);
        for (item, disposition) in items.iter().zip(dispositions) {
            self.metrics.recorded(*disposition);
            if let Some(execution) = item.execution()
                && matches!(disposition, Disposition::New | Disposition::Replacement)
            {
                self.metrics.execution_recorded(execution.kind, &execution.status);
            }
            let execution_id = item.execution_id();
            let trace_id = item.delivery().trace.map(|trace| display(trace.trace_id));
            match disposition {
                Disposition::Conflict => tracing::warn!(
                    execution_id,
                    trace_id,
                    "a delivery contradicts the recorded result; it is stored in execution_conflicts, or for a prediction in \
                     prediction_conflicts"
                ),
                Disposition::Quarantined { quarantine_id } => tracing::warn!(
                    quarantine_id,
                    reason = item.quarantine_reason(),
                    trace_id,
                    "a webhook that cannot be recorded is stored in quarantine"
                ),
                Disposition::Unverified => {
                    tracing::debug!(trace_id, "an unsigned delivery waits for its verification");
                }
                // There may be many, so they are logged together.
                Disposition::Dropped => dropped += 1,
                Disposition::ConflictDropped => conflicts_dropped += 1,
                _ => tracing::debug!(execution_id, outcome = disposition.as_str(), trace_id, "recorded"),
            }
            if let Some(error) = item.degraded_by()
                && matches!(disposition, Disposition::New | Disposition::Replacement | Disposition::Conflict)
            {
                self.metrics.executions_degraded.inc();
                tracing::warn!(
                    execution_id,
                    trace_id,
                    "columns that PostgreSQL rejects are stored as bytes only; fill them in later with \
                     `workflow-receiver repair`: {error}"
                );
            }
        }
        self.count_unverified(items);
        self.metrics.quarantine_dropped.inc_by(dropped);
        self.shared.quarantine_dropped.add(dropped);
        self.shared.conflicts_dropped.add(conflicts_dropped);
        self.log_dropped(LineLimit::due);
        if let Some(oldest) = items.iter().map(|item| item.delivery().received_at).min() {
            self.metrics.batch_recorded(items.len(), oldest);
        }
    }

    fn count_unverified(&self, items: &[RecordItem<'_>]) {
        self.unverified.send_if_modified(|recorded| {
            let before = recorded.rows;
            for delivery in items.iter().map(RecordItem::delivery) {
                if delivery.authenticated_by == Some(AuthMethod::Unverified) {
                    recorded.add(delivery.body.len());
                }
            }
            recorded.rows > before
        });
    }

    /// Logs the numbers of dropped deliveries that `number` returns: [`LineLimit::due`], or [`LineLimit::rest`] at the end.
    pub(super) fn log_dropped(&self, number: impl Fn(&LineLimit) -> Option<u64>) {
        if let Some(dropped) = number(&self.shared.quarantine_dropped) {
            tracing::error!(
                dropped,
                "the quarantine is full, or PostgreSQL refuses the rows: webhooks answered 422 are counted, but not stored"
            );
        }
        if let Some(dropped) = number(&self.shared.conflicts_dropped) {
            tracing::error!(
                dropped,
                "an execution has reached a limit of conflicts.*: its further conflicts are counted, but not stored"
            );
        }
    }
}
