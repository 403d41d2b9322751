//! State of the admin port.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::feed::Feed;
use super::sessions::EndedSessions;
use crate::config::Settings;
use crate::credentials::Credentials;
use crate::db::ConnectionPool;
use crate::db::queries::{ListQuery, Page, Query, QueryError, QueryPool};
use crate::export::Source;
use crate::health::Monitor;
use crate::http::server::limiter::Limiter;
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::reconcile::Reconciler;
use crate::recorder::RecorderView;
use crate::spool::IntakeDepth;

#[derive(Clone)]
pub(crate) struct AdminState {
    /// The webhook requests in flight.
    pub(crate) requests: Arc<Limiter>,
    pub(crate) memory: MemoryBudget,
    pub(crate) intake: IntakeDepth,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorder: RecorderView,
    pub(crate) health: Monitor,
    /// Cancelled when the receiver has finished draining: ends event streams.
    pub(crate) closing: CancellationToken,
    /// Connections for the read API.
    pub(crate) pool: Arc<QueryPool>,
    /// The recorder's pool, for `POST /api/v1/expected`.
    pub(crate) registration_pool: Arc<ConnectionPool>,
    pub(crate) feed: Feed,
    /// The settings at the start. Secrets that were read again later are in `credentials`.
    pub(crate) settings: Arc<Settings>,
    /// The address of the public port.
    pub(crate) webhook_address: SocketAddr,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) ended_sessions: Arc<EndedSessions>,
    /// `None` without `eachlabs.api_key`.
    pub(crate) reconciler: Option<Arc<Reconciler>>,
}

impl AdminState {
    /// Runs a query and measures its duration.
    pub(crate) async fn run<Q: Query>(&self, query: &Q) -> Result<Q::Answer, QueryError> {
        let start = Instant::now();
        let answer = self.pool.run(query).await;
        self.metrics.api_read.observe(start.elapsed().as_secs_f64());
        answer
    }
}

impl Source for AdminState {
    async fn page<L: ListQuery<Row: Send>>(&self, query: &L) -> Result<Page<L::Row>, QueryError> {
        self.run(query).await
    }
}
