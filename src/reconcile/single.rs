//! Fetches executions by their identifier: the webhook's body in the delivery log, otherwise the execution.

use futures_util::{StreamExt, stream};

use super::comparison::{Comparison, Fetched};
use super::events::CheckResult;
use super::reconciler::{ReconcileError, Reconciler};
use crate::delivery::FetchSource;
use crate::eachlabs::ApiError;

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
                    Fetched::Running => self.checked(id, CheckResult::Running, false).await?,
                    Fetched::Absent => absent.push(id),
                    Fetched::Unusable => self.checked(id, CheckResult::Unusable, false).await?,
                }
            }
            self.progress().await;
        }
        // With the key of another organisation, every execution is absent: none is marked. The time of the check is stored,
        // so that the next interval requests other executions.
        let is_doubtful = requested > 1 && absent.len() == requested;
        for id in absent {
            self.checked(id, CheckResult::Absent, !is_doubtful).await?;
        }
        self.progress().await;
        if is_doubtful { Err(ReconcileError::NoExecutions) } else { Ok(()) }
    }
}

impl Reconciler {
    /// Requests an execution: from the delivery log, otherwise by its identifier. An error that is about this execution
    /// does not end the run: the execution is then absent or unusable.
    pub(super) async fn fetch(&self, execution_id: &str) -> Result<Fetched, ReconcileError> {
        let logged = match &self.own_url {
            Some(_) => self.client.usable_delivery(execution_id).await,
            None => Ok(None),
        };
        match logged {
            Ok(Some(logged)) => {
                if let Some(ended @ Fetched::Ended(_)) = self.read_logged(Some(execution_id), logged) {
                    return Ok(ended);
                }
            }
            Ok(None) => {}
            Err(error) if error.is_about_the_request() || matches!(error, ApiError::TooLarge { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(match self.client.execution(execution_id).await {
            Ok(Some(body)) => Fetched::read(Some(execution_id), body, FetchSource::Execution, None),
            Ok(None) => Fetched::Absent,
            Err(error) if error.is_about_the_request() => {
                tracing::debug!(%execution_id, "counts as absent: {error}");
                Fetched::Absent
            }
            Err(error @ ApiError::TooLarge { .. }) => {
                tracing::warn!(%execution_id, "the execution cannot be fetched: {error}");
                Fetched::Unusable
            }
            Err(error) => return Err(error.into()),
        })
    }
}
