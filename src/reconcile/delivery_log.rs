//! The sender's delivery log: every body that it tried to deliver, for all webhooks of the organisation.

use time::{Duration, OffsetDateTime};

use super::comparison::{Comparison, Fetched};
use super::reconciler::{MAX_PAGES, ReconcileError, Reconciler};
use crate::delivery::FetchSource;
use crate::eachlabs::{ApiError, LoggedDelivery, Page, Pager};

/// Rows of the largest page of the API.
pub(super) const PAGE: usize = 100;
/// A list may be ordered by another time than the compared one, such as the start. The two times differ by less than this:
/// an execution takes up to 15 minutes.
const SLACK: Duration = Duration::HOUR;

impl Comparison<'_> {
    /// Checks everything that ended at `since` or later: in the delivery log or, if that cannot be used, in the lists of the
    /// workflows that this receiver knows.
    pub(super) async fn everything_since(&mut self, since: OffsetDateTime) -> Result<(), ReconcileError> {
        if self.reconciler.own_url.is_some() {
            match self.delivery_log(since).await {
                Err(ReconcileError::Api(error @ ApiError::Unsupported(_))) => {
                    tracing::debug!("the lists of workflows are read instead of the delivery log: {error}");
                }
                result => return result,
            }
        }
        self.known_workflows(since).await
    }

    async fn delivery_log(&mut self, since: OffsetDateTime) -> Result<(), ReconcileError> {
        let (client, mut pager) = (&self.reconciler.client, Pager::new(PAGE, MAX_PAGES));
        loop {
            let page = pager.next(|offset, limit| client.deliveries(offset, limit)).await?;
            let page = page.ok_or(ReconcileError::TooManyPages)?;
            self.counts.unusable += page.unusable();
            let Page { rows, is_last, .. } = page;
            let is_older = is_older_than(since, rows.iter().map(|row| row.created_at));
            let rows = rows.into_iter().filter(|row| row.created_at.is_none_or(|at| at >= since));
            let mut ended = Vec::new();
            for row in rows {
                match self.reconciler.read_logged(None, row) {
                    // Sent to another receiver.
                    None => self.counts.other_urls += 1,
                    Some(Fetched::Ended(execution)) => ended.push(execution),
                    Some(Fetched::Running | Fetched::Absent) => {}
                    Some(Fetched::Unusable) => self.counts.unusable += 1,
                }
            }
            let mut missing = self.not_ended(ended.iter().map(|ended| ended.execution_id.clone())).await?;
            for ended in ended {
                // The log can have several deliveries of an execution.
                if missing.remove(&ended.execution_id) {
                    self.append(ended).await?;
                }
            }
            self.progress().await;
            if is_last || is_older {
                return Ok(());
            }
        }
    }
}

impl Reconciler {
    /// `None` for a delivery to another URL.
    pub(super) fn read_logged(&self, execution_id: Option<&str>, logged: LoggedDelivery) -> Option<Fetched> {
        let secrets = self.credentials.current();
        let own = self.own_url.as_ref()?.matched(&logged.url, secrets.webhook_secrets())?;
        Some(Fetched::read(execution_id, logged.body, FetchSource::DeliveryLog, own.reference))
    }
}

/// Whether a page and all later ones are before `since`. False if the rows are not in descending order: then the API does
/// not return the latest first.
pub(super) fn is_older_than(
    since: OffsetDateTime,
    times: impl DoubleEndedIterator<Item = Option<OffsetDateTime>> + Clone,
) -> bool {
    let (first, last) = (times.clone().flatten().next(), times.rev().flatten().next());
    match (first, last) {
        (Some(first), Some(last)) => first >= last && last < since - SLACK,
        _ => false,
    }
}
