//! Fetches executions by their identifier: the webhook's body in the delivery log, otherwise the execution.

use futures_util::{StreamExt, stream};

use super::comparison::{Comparison, Fetched};
use super::events::Result as Outcome;
use super::reconciler::{ReconcileError, Reconciler};
use crate::delivery::FetchSource;

/// Executions that one query compares with PostgreSQL.
const CHUNK: usize = 100;
/// Executions that are requested at the same time. `eachlabs.max_requests` limits the requests.
pub(super) const CONCURRENT: usize = 16;

impl Comparison<'_> {
    /// Checks executions by their identifier.
    pub(super) async fn executions(&mut self, ids: &[String]) -> Result<(), ReconcileError> {
        let (mut requested, mut absent) = (0_usize, Vec::new());
        for ids in ids.chunks(CHUNK) {
            let missing = self.not_ended(ids.iter().cloned()).await?;
            requested += missing.len();
            let reconciler = self.reconciler;
            let mut fetched = stream::iter(missing)
                .map(async |id| (reconciler.fetch(&id).await, id))
                .buffer_unordered(CONCURRENT);
            while let Some((fetched, id)) = fetched.next().await {
                match fetched? {
                    Fetched::Ended(ended) => self.append(ended).await?,
                    Fetched::Running => self.checked(id, false).await?,
                    Fetched::Absent => absent.push(id),
                    Fetched::Unusable => self.report(id, Outcome::Unusable).await,
                }
            }
            self.progress().await;
        }
        // With the key of another organisation, every execution is absent: none is marked.
        if requested > 1 && absent.len() == requested {
            return Err(ReconcileError::NoExecutions);
        }
        for id in absent {
            self.checked(id, true).await?;
        }
        self.progress().await;
        Ok(())
    }
}

impl Reconciler {
    /// Requests an execution: from the delivery log, otherwise by its identifier.
    pub(super) async fn fetch(&self, execution_id: &str) -> Result<Fetched, ReconcileError> {
        if let Some(ended) = self.fetch_logged(execution_id).await? {
            return Ok(ended);
        }
        Ok(match self.client.execution(execution_id).await? {
            Some(body) => Fetched::read(Some(execution_id), body, FetchSource::Execution, None),
            None => Fetched::Absent,
        })
    }

    /// `None` if the delivery log has no usable delivery of the execution to this receiver.
    async fn fetch_logged(&self, execution_id: &str) -> Result<Option<Fetched>, ReconcileError> {
        if self.own_url.is_none() {
            return Ok(None);
        }
        let logged = self.client.usable_delivery(execution_id).await?;
        let fetched = logged.and_then(|logged| self.read_logged(Some(execution_id), logged));
        Ok(fetched.filter(|fetched| matches!(fetched, Fetched::Ended(_))))
    }
}
