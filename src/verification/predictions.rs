//! Searches predictions in the delivery log of the sender, page by page.
//!
//! Outsiders control the number of searches: each forged prediction needs one. So a search is reused for other predictions,
//! and the requests have a limit of their own.

use std::collections::HashSet;

use time::{Duration, OffsetDateTime};
use tokio::sync::Mutex;

use crate::eachlabs::{ApiError, Client, LoggedDelivery, Page, Pager};
use crate::execution::{Execution, Kind};

/// Rows of a page of the delivery log, and the number of pages in which a prediction is searched.
const PAGE: usize = 50;
const MAX_PAGES: usize = 20;
/// An entry of the log that is older than the webhook by more than this belongs to another webhook. The clocks of the sender
/// and of the receiver may differ by less.
const LOG_MARGIN: Duration = Duration::minutes(5);
/// How long a search without a result is reused.
const REUSE_TIME: Duration = Duration::seconds(10);

#[derive(Debug)]
pub(crate) struct PredictionSearch {
    /// Only for pages of the log.
    client: Client,
    latest: Mutex<Option<Search>>,
}

/// The predictions in the pages that a search has read.
#[derive(Debug)]
struct Search {
    begun_at: OffsetDateTime,
    ended_at: OffsetDateTime,
    prediction_ids: HashSet<String>,
    /// Entries that were created later were read. The epoch if a search reads no further entries.
    read_until: OffsetDateTime,
}

impl Search {
    /// Whether another search would not find the prediction either.
    fn lacks(&self, prediction_id: &str, received_at: OffsetDateTime) -> bool {
        self.begun_at > received_at
            && self.ended_at > OffsetDateTime::now_utc() - REUSE_TIME
            && self.read_until < received_at - LOG_MARGIN
            && !self.prediction_ids.contains(prediction_id)
    }
}

impl PredictionSearch {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, latest: Mutex::default() }
    }

    /// Searches a prediction whose webhook was received at `received_at`. One search runs at a time.
    ///
    /// # Errors
    /// [`ApiError`]
    pub(super) async fn find(
        &self,
        prediction_id: &str,
        received_at: OffsetDateTime,
    ) -> Result<Option<LoggedDelivery>, ApiError> {
        let mut latest = self.latest.lock().await;
        if latest.as_ref().is_some_and(|search| search.lacks(prediction_id, received_at)) {
            return Ok(None);
        }
        let begun_at = OffsetDateTime::now_utc();
        let mut prediction_ids = HashSet::new();
        let (mut found, mut read_until) = (None, OffsetDateTime::UNIX_EPOCH);
        let mut pager = Pager::new(PAGE, MAX_PAGES);
        let request = |offset, limit| self.client.deliveries(offset, limit);
        while let Some(Page { rows, is_last, .. }) = pager.next(request).await? {
            let last_at = rows.iter().rev().find_map(|row| row.created_at);
            for row in rows {
                let Some(id) = prediction_in(&row.body) else { continue };
                if found.is_none() && id == prediction_id {
                    found = Some(row);
                }
                prediction_ids.insert(id);
            }
            if is_last {
                break;
            }
            if found.is_some() || last_at.is_some_and(|at| at < received_at - LOG_MARGIN) {
                read_until = last_at.unwrap_or(begun_at);
                break;
            }
        }
        let ended_at = OffsetDateTime::now_utc();
        *latest = Some(Search { begun_at, ended_at, prediction_ids, read_until });
        Ok(found)
    }
}

fn prediction_in(body: &[u8]) -> Option<String> {
    let execution = Execution::parse(body).ok().filter(|execution| execution.kind == Kind::Prediction);
    execution.map(|prediction| prediction.execution_id.into_owned())
}
