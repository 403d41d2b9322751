//! The parts of the receiver that a run uses.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::credentials::Credentials;
use crate::db::{ConnectionPool, DbError};
use crate::eachlabs::{ApiError, Client, OwnUrl};
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::spool::{Seq, SpoolStatus, WeakSpoolHandle};

/// The longest time that a page waits for the recording of earlier deliveries. A stuck delivery may never be recorded.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

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
    #[error(
        "each::labs has none of the recorded workflows: check eachlabs.base_url and the organisation of the key"
    )]
    NoWorkflows,
    #[error(
        "each::labs has none of the requested executions: check eachlabs.base_url and the organisation of the key, or request \
         each with `workflow-receiver reconcile`"
    )]
    NoExecutions,
    #[error("each::labs returned more than {MAX_PAGES} pages: reconcile a shorter period")]
    TooManyPages,
    #[error("the receiver is stopping")]
    Stopping,
}

/// Maximum pages of a list or of the delivery log in a run.
pub(super) const MAX_PAGES: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Reconciler {
    pub(crate) client: Client,
    /// `None` when `eachlabs.webhook_url` is not set: then the delivery log is not read.
    pub(crate) own_url: Option<OwnUrl>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) spool: WeakSpoolHandle,
    pub(crate) spool_status: watch::Receiver<SpoolStatus>,
    pub(crate) acked: watch::Receiver<Seq>,
    pub(crate) memory: MemoryBudget,
    /// The recorder's pool: if PostgreSQL grants few connections, a run and the recorder use them in turn.
    pub(crate) pool: Arc<ConnectionPool>,
    pub(crate) metrics: Arc<Metrics>,
    /// Locked by a run, so that one run at a time is active.
    pub(crate) running: Mutex<()>,
}

impl Reconciler {
    /// Returns once the deliveries that are in the spool now are recorded, or after a time limit.
    pub(super) async fn wait_until_recorded(&self) {
        let last_seq = self.spool_status.borrow().last_seq;
        let mut acked = self.acked.clone();
        let _ = timeout(RECORD_TIMEOUT, acked.wait_for(|acked| *acked >= last_seq)).await;
    }
}
