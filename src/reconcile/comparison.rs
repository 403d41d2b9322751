//! One run: compares executions of the API with PostgreSQL, and appends the missing ones to the spool.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::events::{CheckResult, Counts, Event};
use super::reconciler::{ReconcileError, Reconciler};
use crate::delivery::{Delivery, FetchSource, RejectReason};
use crate::execution::{Execution, Kind, api_key, status};

/// The pause before an append is tried again: the spool is full, or webhooks fill its channel.
const APPEND_RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The longest time that a page waits for the recording of earlier deliveries. A stuck delivery may never be recorded.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a run waits for a client to read an event.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The state of a run.
pub(super) struct Comparison<'r> {
    pub(super) reconciler: &'r Reconciler,
    pub(super) dry_run: bool,
    pub(super) events: Option<mpsc::Sender<Event>>,
    pub(super) counts: Counts,
}

/// An execution that has ended, as the API returned it.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) execution_id: String,
    body: Bytes,
    source: FetchSource,
    reference: Option<String>,
}

/// How an execution of the API can be used.
#[derive(Debug)]
pub(super) enum Fetched {
    Ended(Ended),
    Running,
    Absent,
    Unusable,
}

impl Fetched {
    /// Reads a body in the form of a webhook. `execution_id` is the expected identifier.
    pub(super) fn read(
        execution_id: Option<&str>,
        body: Bytes,
        source: FetchSource,
        reference: Option<String>,
    ) -> Self {
        let body = api_key::remove_at_any_depth(&body).map_or(body, Bytes::from);
        let Ok(execution) = Execution::parse(&body) else { return Self::Unusable };
        // Only executions of workflows are requested by their identifier, so a prediction is not the requested one.
        if execution_id.is_some_and(|id| id != execution.execution_id || execution.kind != Kind::Workflow) {
            return Self::Unusable;
        }
        if !status::is_terminal(&execution.status) {
            return Self::Running;
        }
        let execution_id = execution.execution_id.into_owned();
        Self::Ended(Ended { execution_id, body, source, reference })
    }
}

impl Comparison<'_> {
    /// The `execution_ids` that are not recorded with a terminal status, each once. First waits until the deliveries in the
    /// spool are recorded, for up to [`RECORD_TIMEOUT`]: these are then not fetched, and a run is not faster than recording.
    pub(super) async fn not_ended(
        &mut self,
        execution_ids: impl IntoIterator<Item = String>,
    ) -> Result<HashSet<String>, ReconcileError> {
        let mut missing: HashSet<_> = execution_ids.into_iter().collect();
        let ids: Vec<_> = missing.iter().cloned().collect();
        let mut recorder = self.reconciler.recorder.clone();
        let _ = timeout(RECORD_TIMEOUT, recorder.until_recorded()).await;
        let ended = self.reconciler.pool.run(async |db| db.ended(&ids).await).await?;
        self.counts.checked += ids.len() as u64;
        self.counts.recorded += ended.len() as u64;
        for id in &ended {
            missing.remove(id);
        }
        Ok(missing)
    }

    /// Appends an execution to the spool.
    pub(super) async fn append(&mut self, ended: Ended) -> Result<(), ReconcileError> {
        let Ended { execution_id, body, source, reference } = ended;
        if self.dry_run {
            self.report(execution_id, CheckResult::Missing).await;
            return Ok(());
        }
        let received_at = OffsetDateTime::now_utc();
        let delivery = Delivery { fetched_from: Some(source), reference, ..Delivery::new(body, received_at) };
        loop {
            // The body is in memory already, as a part of a response whose size is limited.
            let memory = self.reconciler.memory.permit(true, &Arc::new(Notify::new()));
            match self.reconciler.spool.append(delivery.clone(), memory).await {
                Ok(()) => break,
                Err(RejectReason::ShuttingDown) => return Err(ReconcileError::Stopping),
                Err(_) => sleep(APPEND_RETRY_PAUSE).await,
            }
        }
        self.reconciler.metrics.fetched(source);
        tracing::debug!(%execution_id, source = source.as_str(), "fetched");
        self.report(execution_id, CheckResult::Fetched).await;
        Ok(())
    }

    /// Reports an execution that cannot be fetched, and stores the time of the check. With `absent`, the execution is marked
    /// as absent at the sender.
    pub(super) async fn checked(
        &mut self,
        execution_id: String,
        result: CheckResult,
        absent: bool,
    ) -> Result<(), ReconcileError> {
        if !self.dry_run {
            self.reconciler.pool.run(async |db| db.store_check(&execution_id, absent).await).await?;
        }
        self.report(execution_id, result).await;
        Ok(())
    }

    pub(super) async fn report(&mut self, execution_id: String, result: CheckResult) {
        self.counts.add(result);
        self.send(Event::Execution { execution_id, result }).await;
    }

    /// Reports the counts after a page.
    pub(super) async fn progress(&mut self) {
        self.send(Event::Progress(self.counts)).await;
    }

    async fn send(&mut self, event: Event) {
        if let Some(events) = &self.events
            && events.send_timeout(event, READ_TIMEOUT).await.is_err()
        {
            // The client does not read. The run continues, because other runs wait for its end.
            self.events = None;
        }
    }
}
