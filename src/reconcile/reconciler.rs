//! The parts of the receiver that a run uses.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::credentials::Credentials;
use crate::db::{ConnectionPool, DbError};
use crate::eachlabs::{ApiError, Client, OwnUrl};
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::recorder::RecorderView;
use crate::spool::WeakSpoolHandle;

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
    pub(crate) memory: MemoryBudget,
    /// The recorder's pool: if PostgreSQL grants few connections, a run and the recorder use them in turn.
    pub(crate) pool: Arc<ConnectionPool>,
    pub(crate) recorder: RecorderView,
    pub(crate) metrics: Arc<Metrics>,
    /// Locked by a run, so that one run at a time is active.
    pub(crate) running: Mutex<()>,
}
