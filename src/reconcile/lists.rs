//! The lists of executions by workflow. They have no webhook URLs, so they also contain executions that were triggered
//! without a webhook to this receiver.

use futures_util::{StreamExt, stream};
use time::{Duration, OffsetDateTime};

use super::comparison::{Comparison, Fetched};
use super::delivery_log::{PAGE, is_older_than};
use super::events::CheckResult;
use super::reconciler::{MAX_PAGES, ReconcileError};
use super::single::CONCURRENT;
use crate::db::DbConnection;
use crate::delivery::FetchSource;
use crate::eachlabs::{ApiError, ExecutionRow, Page, Pager};

/// A workflow is known if one of its executions was recorded in the compared period, or in this time before the period.
const KNOWN_BEFORE: Duration = Duration::days(30);

impl Comparison<'_> {
    /// Checks the lists of the workflows that PostgreSQL knows.
    pub(super) async fn known_workflows(&mut self, since: OffsetDateTime) -> Result<(), ReconcileError> {
        let known_since = since.saturating_sub(KNOWN_BEFORE);
        let workflows = self.reconciler.pool.run(async |db| db.workflows_since(known_since).await).await?;
        let (count, mut absent) = (workflows.len(), Vec::new());
        for workflow in workflows {
            match self.list(&workflow, None, Some(since)).await {
                Err(ReconcileError::NoWorkflow) => absent.push(workflow),
                result => result?,
            }
        }
        // With the key of another organisation, every workflow is absent: none is marked.
        if count > 0 && absent.len() == count {
            return Err(ReconcileError::NoWorkflows);
        }
        // The absent workflows are not requested for seven days.
        if !self.dry_run && !absent.is_empty() {
            self.reconciler.pool.run(async |db| db.store_absent_workflows(&absent).await).await?;
        }
        Ok(())
    }

    /// Checks the executions of a bulk: the registered ones, otherwise those in the list of its workflow.
    pub(super) async fn bulk(&mut self, bulk: &str, workflow: Option<&str>) -> Result<(), ReconcileError> {
        let read = async |db: &mut DbConnection| {
            Ok((db.registered_of_bulk(bulk).await?, db.workflow_of_bulk(bulk).await?))
        };
        let (registered, known) = self.reconciler.pool.run(read).await?;
        if !registered.is_empty() {
            return self.executions(&registered).await;
        }
        let workflow = workflow.or(known.as_deref()).ok_or(ReconcileError::UnknownWorkflow)?;
        self.list(workflow, Some(bulk), None).await
    }

    /// Checks the executions of a workflow, or of one of its bulks.
    pub(super) async fn list(
        &mut self,
        workflow: &str,
        bulk: Option<&str>,
        since: Option<OffsetDateTime>,
    ) -> Result<(), ReconcileError> {
        let since = since.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (client, mut filter) = (&self.reconciler.client, bulk);
        let mut pager = Pager::new(PAGE, MAX_PAGES);
        loop {
            let request = |offset, limit| client.executions(workflow, filter, offset, limit);
            let page = match pager.next(request).await {
                // The API accepts only a UUID as the filter. Without a filter, the rows are filtered here.
                Err(ApiError::Status { status: 400, .. }) if filter.is_some() => {
                    filter = None;
                    continue;
                }
                Err(error) if error.is_not_found() => return Err(ReconcileError::NoWorkflow),
                page => page?.ok_or(ReconcileError::TooManyPages)?,
            };
            self.counts.unusable += page.unusable();
            let Page { rows, is_last, .. } = page;
            let is_older = is_older_than(since, rows.iter().map(|row| row.time));
            let rows = rows.into_iter().filter(|row| {
                row.has_ended
                    && row.time.is_none_or(|time| time >= since)
                    && (filter.is_some() || bulk.is_none_or(|bulk| row.bulk_id.as_deref() == Some(bulk)))
            });
            self.append_missing(rows.collect()).await?;
            self.progress().await;
            if is_last || is_older {
                return Ok(());
            }
        }
    }

    /// Requests each missing execution, because a row lacks fields of the webhook.
    async fn append_missing(&mut self, rows: Vec<ExecutionRow>) -> Result<(), ReconcileError> {
        let mut missing = self.not_ended(rows.iter().map(|row| row.execution_id.clone())).await?;
        let reconciler = self.reconciler;
        let mut fetched = stream::iter(rows)
            .filter(|row| std::future::ready(missing.remove(&row.execution_id)))
            .map(async |row| (reconciler.fetch(&row.execution_id).await, row))
            .buffer_unordered(CONCURRENT);
        while let Some((fetched, row)) = fetched.next().await {
            let ExecutionRow { execution_id, body, .. } = row;
            let fetched = match fetched? {
                Fetched::Absent | Fetched::Unusable => {
                    Fetched::read(Some(&execution_id), body, FetchSource::List, None)
                }
                fetched => fetched,
            };
            match fetched {
                Fetched::Ended(ended) => self.append(ended).await?,
                Fetched::Running => self.report(execution_id, CheckResult::Running).await,
                Fetched::Absent | Fetched::Unusable => {
                    self.report(execution_id, CheckResult::Unusable).await;
                }
            }
        }
        Ok(())
    }
}
