//! State of the public port.

use std::sync::Arc;
use std::time::Duration;

use crate::credentials::Credentials;
use crate::http::server::limiter::Limiter;
use crate::logging::LineLimit;
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::spool::SpoolHandle;
use crate::traces::Traces;
use crate::verification::UnverifiedLimit;

pub(crate) struct WebhookState {
    pub(crate) spool: SpoolHandle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) requests: Arc<Limiter>,
    pub(crate) memory: MemoryBudget,
    pub(crate) unverified: Arc<UnverifiedLimit>,
    pub(crate) max_body_bytes: usize,
    pub(crate) body_timeout: Duration,
    /// Limits the warning about query parameters that are too long.
    pub(crate) long_references: LineLimit,
    /// Limits the warning about query parameters that are or may be secrets.
    pub(crate) secret_references: LineLimit,
    /// `None` when traces are off.
    pub(crate) traces: Option<Traces>,
}
