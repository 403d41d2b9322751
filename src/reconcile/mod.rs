//! Fetches executions whose webhook did not arrive from the sender's API.
//!
//! A run finds candidates in one of the sources: the delivery log ([`delivery_log`]), the lists by workflow ([`lists`]) or
//! single executions ([`single`]). It skips those that PostgreSQL has with a terminal status, and appends the others to the
//! spool, where they continue like webhooks. A run stores no position: after a crash, the next run skips what is recorded.
//!
//! [`background`] decides when the receiver starts a run by itself.

mod background;
mod complete_until;
mod delivery_log;
mod events;
mod lists;
mod own_url;
mod repair;
mod single;

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

use crate::db::{ConnectionPool, DbError, PooledConnection};
use crate::delivery::RejectReason;
use crate::eachlabs::{ApiError, Client};
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::spool::{Seq, SpoolStatus, WeakSpoolHandle};

pub(crate) use background::{Background, Gap};
pub(crate) use complete_until::CompleteUntil;
pub(crate) use events::{Counts, Event};
pub(crate) use own_url::OwnUrl;
use repair::Repair;

/// How long a page waits until earlier deliveries are recorded. While a delivery is stuck, this never happens.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

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

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("PostgreSQL: {0}")]
    Database(#[from] DbError),
    #[error(
        "the workflow of the bulk is not known, because none of its executions is recorded: add the workflow"
    )]
    UnknownWorkflow,
    #[error("each::labs has no workflow with this identifier")]
    NoWorkflow,
    #[error("the receiver is stopping")]
    Stopping,
}

/// Runs reconciliations, one at a time.
#[derive(Debug)]
pub(crate) struct Reconciler {
    pub(crate) client: Client,
    /// `None` when `eachlabs.webhook_url` is not set: then the delivery log is not read.
    pub(crate) own_url: Option<OwnUrl>,
    pub(crate) spool: WeakSpoolHandle,
    pub(crate) spool_status: watch::Receiver<SpoolStatus>,
    pub(crate) acked: watch::Receiver<Seq>,
    pub(crate) memory: MemoryBudget,
    /// The recorder's pool: if PostgreSQL grants few connections, each waits for the other.
    pub(crate) pool: Arc<ConnectionPool>,
    pub(crate) statement_timeout: Duration,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) running: Mutex<()>,
}

impl Reconciler {
    /// Runs a reconciliation, after the one that is running. It can be cancelled at any time and repeated. `events` gets
    /// each execution that is missing, and the counts after each page. With `dry_run`, nothing is appended.
    pub(crate) async fn run(
        &self,
        scope: &Scope,
        dry_run: bool,
        events: Option<mpsc::Sender<Event>>,
    ) -> (Counts, Result<(), ReconcileError>) {
        let _running = self.running.lock().await;
        let mut repair = Repair::new(self, dry_run, events);
        let result = match scope {
            Scope::Executions(ids) => repair.executions(ids).await,
            Scope::Bulk { bulk, workflow } => repair.bulk(bulk, workflow.as_deref()).await,
            Scope::Workflow(workflow) => repair.list(workflow, None, None).await,
            Scope::Since(since) => repair.everything_since(*since).await,
        };
        (repair.counts, result)
    }

    /// Returns once the deliveries that are in the spool now are recorded, or after a time limit.
    async fn wait_until_recorded(&self) {
        let last_seq = self.spool_status.borrow().last_seq;
        let mut acked = self.acked.clone();
        let _ = timeout(RECORD_TIMEOUT, acked.wait_for(|acked| *acked >= last_seq)).await;
    }

    async fn connection(&self) -> Result<PooledConnection<'_>, DbError> {
        self.pool.get().await
    }

    /// Ends a statement on a server that does not answer.
    async fn within<T>(&self, call: impl Future<Output = Result<T, DbError>>) -> Result<T, DbError> {
        let result = timeout(self.statement_timeout, call).await.unwrap_or(Err(DbError::TimedOut));
        result.map_err(DbError::without_row_blame)
    }
}

impl From<RejectReason> for ReconcileError {
    /// Other reasons pass: the append is tried again.
    fn from(_: RejectReason) -> Self {
        Self::Stopping
    }
}
