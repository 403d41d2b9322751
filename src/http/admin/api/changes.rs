//! `/api/v1/changes`: the change feed, page by page.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use tokio::time::sleep;
use utoipa::ToSchema;

use super::query::{ChangePosition, Parameters};
use super::state::{Api, ApiState, JsonResult};
use crate::db::queries::changes::{Change, ChangesAfter, LastChange};
use crate::db::queries::page::{DEFAULT_LIMIT, MAX_LIMIT};
use crate::http::problem::{FeedProblems, Problem};

/// Maximum of `wait`, in seconds. Shorter than the time after which proxies close a silent connection.
const MAX_WAIT: i64 = 30;

/// A page of changes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangePage {
    /// In the order of their numbers.
    items: Vec<Change>,
    /// The `after` for the next request: the number of the last item, or `after` if there is none.
    next_after: i64,
}

/// List changes of executions and bulks, oldest first
///
/// To follow the changes, start with `after=latest` and use `next_after` as the next `after`.
#[utoipa::path(
    get, path = "/api/v1/changes", tag = "Changes and exports",
    params(
        ("after" = inline(Option<String>), Query, description = "Only changes with a higher number. `latest`: only changes after this request. The default is 0.", pattern = "^([0-9]{1,18}|latest)$"),
        ("limit" = inline(Option<i64>), Query, description = "Maximum number of items.", minimum = 1, maximum = 1000),
        ("wait" = inline(Option<i64>), Query, description = "If there is no item, wait up to this many seconds for one. Such a request counts as an event stream; 16 are open at most.", minimum = 1, maximum = 30),
    ),
    responses(
        (status = 200, body = ChangePage, description = "The changes."),
        FeedProblems,
    )
)]
pub(super) async fn list_changes(State(api): ApiState, uri: Uri) -> JsonResult<ChangePage> {
    let mut p = Parameters::of(&uri);
    let after = p.position("after")?;
    let limit = p.number("limit", DEFAULT_LIMIT, MAX_LIMIT)?;
    let wait = p.optional_number("wait", MAX_WAIT)?;
    p.finish()?;
    let after = match after.unwrap_or(ChangePosition::Number(0)) {
        ChangePosition::Number(after) => after,
        ChangePosition::Latest => api.run(&LastChange).await?,
    };
    let mut items = api.run(&ChangesAfter { after, limit }).await?.ok_or(Problem::ChangesRemoved)?;
    if let Some(wait) = wait.and_then(|wait| u64::try_from(wait).ok()).filter(|_| items.is_empty()) {
        items = next(&api, after, Duration::from_secs(wait)).await?;
        items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    let next_after = items.last().map_or(after, |last| last.change);
    Ok(Json(ChangePage { items, next_after }))
}

/// Waits for the next changes. Returns none after `wait`, or when the receiver stops.
async fn next(api: &Api, after: i64, wait: Duration) -> Result<Vec<Change>, Problem> {
    let _permit = api.event_stream_permit()?;
    let mut subscriber = api.admin.feed.subscribe();
    tokio::select! {
        biased;
        changes = subscriber.after(after) => {
            let changes = changes.ok_or(Problem::ChangesRemoved)?;
            Ok(changes.into_iter().map(|change| (*change).clone()).collect())
        }
        () = api.admin.closing.cancelled() => Ok(Vec::new()),
        () = sleep(wait) => Ok(Vec::new()),
    }
}
