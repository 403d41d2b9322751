//! Starts a run.

use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::comparison::Comparison;
use super::events::{Counts, Event};
use super::reconciler::{ReconcileError, Reconciler};

/// The executions that a run checks.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    Executions(Vec<String>),
    /// `workflow` is required if no execution of the bulk is recorded.
    Bulk {
        bulk: String,
        workflow: Option<String>,
    },
    Workflow(String),
    /// Everything that ended at this time or later.
    Since(OffsetDateTime),
}

impl Reconciler {
    /// Runs a reconciliation once the running one has ended. A run can be cancelled at any time, and repeated. `events`
    /// receives [`Event::Waiting`] while another run is active, each execution that is missing, and the counts after each
    /// page. With `dry_run`, nothing is appended.
    pub(crate) async fn run(
        &self,
        scope: &Scope,
        dry_run: bool,
        events: Option<mpsc::Sender<Event>>,
    ) -> (Counts, Result<(), ReconcileError>) {
        let _running = if let Ok(running) = self.running.try_lock() {
            running
        } else {
            if let Some(events) = &events {
                let _ = events.try_send(Event::Waiting);
            }
            self.running.lock().await
        };
        let mut comparison = Comparison { reconciler: self, dry_run, events, counts: Counts::default() };
        let result = match scope {
            Scope::Executions(ids) => comparison.executions(ids).await,
            Scope::Bulk { bulk, workflow } => comparison.bulk(bulk, workflow.as_deref()).await,
            Scope::Workflow(workflow) => comparison.list(workflow, None, None).await,
            Scope::Since(since) => comparison.everything_since(*since).await,
        };
        (comparison.counts, result)
    }
}
