//! `/api/v1/events`: the change feed as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Sse;
use axum::response::sse::Event;
use futures_util::{Stream, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::query::{ChangePosition, Parameters};
use super::state::{Api, ApiState};
use crate::db::queries::changes::{Change, ChangeFilter, ChangesAfter, LastChange};
use crate::db::queries::page::MAX_LIMIT;
use crate::execution::identifier::Identifier;
use crate::http::admin::feed::Subscriber;
use crate::http::problem::{FeedProblems, Problem};

/// Sent by browsers and other clients when they reconnect: the `id` of the last event.
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// The beginning of a stream, for `/openapi.json`.
const EXAMPLE: &str = r#"id: 4711
data: {"change":4711,"type":"execution.ended","execution_id":"exec-104","workflow_id":"product-photos","bulk_id":null,"status":"completed","recorded_at":"2026-03-02T09:58:02Z"}
"#;

/// Follow changes of executions and bulks as server-sent events
///
/// The data of an event is a `Change`, its `id` is the number of the change. Changes of all receivers of the database are
/// sent. After a reconnect with the header `Last-Event-ID`, to any receiver, the stream continues after that event. A
/// client that reads slowly misses nothing. Heartbeats have an `id`, too. The stream ends when the receiver stops, or when
/// retention has removed the next change.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "Changes and exports",
    params(
        ("after" = inline(Option<String>), Query, description = "Only changes with a higher number. The default is `latest`: only changes after this request. `Last-Event-ID` overrides it.", pattern = "^([0-9]{1,18}|latest)$"),
        ("status" = inline(Option<Identifier>), Query, description = "Only changes with this status."),
        ("workflow" = inline(Option<Identifier>), Query, description = "Only changes of this workflow."),
        ("bulk" = inline(Option<Identifier>), Query, description = "Only changes of this bulk."),
    ),
    responses(
        (
            status = 200, body = String, content_type = "text/event-stream",
            description = "Events, until the receiver stops.", example = json!(EXAMPLE)
        ),
        FeedProblems,
    )
)]
pub(super) async fn follow_events(
    State(api): ApiState,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let mut p = Parameters::of(&uri);
    let after = p.position("after")?;
    let filter = ChangeFilter { status: p.text("status")?, scope: p.scope()? };
    p.finish()?;
    let position = match last_event_id(&headers)?.or(after).unwrap_or(ChangePosition::Latest) {
        ChangePosition::Latest => api.run(&LastChange).await?,
        ChangePosition::Number(number) => {
            let known = api.run(&ChangesAfter { after: number, limit: 1 }).await?;
            known.map(|_| number).ok_or(Problem::ChangesRemoved)?
        }
    };
    let permit = api.event_stream_permit()?;
    let subscriber = api.admin.feed.subscribe();
    let (waiting, greeted, closing) = (VecDeque::new(), false, false);
    let subscription =
        Subscription { api, filter, subscriber, position, waiting, greeted, closing, _permit: permit };
    let events = stream::unfold(subscription, |mut subscription| async {
        let event = subscription.next().await?;
        Some((Ok(event), subscription))
    });
    Ok(Sse::new(events))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<ChangePosition>, Problem> {
    let Some(id) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let position = id.to_str().ok().and_then(ChangePosition::parse);
    let problem =
        || Problem::Parameter { name: LAST_EVENT_ID.into(), allowed: "must be the id of an event".into() };
    position.map(Some).ok_or_else(problem)
}

struct Subscription {
    api: Arc<Api>,
    filter: ChangeFilter,
    subscriber: Subscriber,
    /// The number of the last change that was sent or filtered out.
    position: i64,
    /// The changes after `position`.
    waiting: VecDeque<Arc<Change>>,
    greeted: bool,
    /// The receiver stops.
    closing: bool,
    _permit: OwnedSemaphorePermit,
}

impl Subscription {
    /// `None` when the receiver stops and all changes were sent, or when the next change was removed.
    async fn next(&mut self) -> Option<Event> {
        if !std::mem::replace(&mut self.greeted, true) {
            // Sent at once, so that a client that reconnects before the first change misses nothing.
            return Some(self.comment("subscribed"));
        }
        // Only events restart the interval: a stream whose filter drops all changes still gets heartbeats.
        let mut heartbeat = std::pin::pin!(sleep(self.api.admin.settings.admin.heartbeat));
        loop {
            while let Some(change) = self.waiting.pop_front() {
                self.position = change.change;
                if self.filter.matches(&change) {
                    let data = serde_json::to_string(&*change).unwrap_or_default();
                    return Some(Event::default().id(self.position.to_string()).data(data));
                }
            }
            if self.closing {
                let rest = ChangesAfter { after: self.position, limit: MAX_LIMIT };
                let rest = self.api.run(&rest).await.ok()??;
                if rest.is_empty() {
                    return None;
                }
                self.waiting = rest.into_iter().map(Arc::new).collect();
                continue;
            }
            tokio::select! {
                biased;
                changes = self.subscriber.after(self.position) => self.waiting = changes?.into(),
                () = self.api.admin.closing.cancelled() => self.closing = true,
                () = &mut heartbeat => return Some(self.comment("heartbeat")),
            }
        }
    }

    /// A comment with the position. Browsers store the `id`, and pass no event to the page.
    fn comment(&self, text: &str) -> Event {
        Event::default().id(self.position.to_string()).comment(text)
    }
}
