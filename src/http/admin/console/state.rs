//! State that the pages share.

use std::sync::Arc;

use axum::extract::State;
use tokio::time::Instant;

use crate::db::queries::{Query, QueryError};
use crate::http::admin::state::AdminState;

pub(super) struct Console {
    pub(super) admin: AdminState,
}

pub(super) type ConsoleState = State<Arc<Console>>;

impl Console {
    pub(super) fn new(admin: AdminState) -> Arc<Self> {
        Arc::new(Self { admin })
    }

    /// Runs a query and measures its duration.
    pub(super) async fn run<Q: Query>(&self, query: &Q) -> Result<Q::Answer, QueryError> {
        let start = Instant::now();
        let answer = self.admin.pool.run(query).await;
        self.admin.metrics.api_read(start.elapsed());
        answer
    }
}
