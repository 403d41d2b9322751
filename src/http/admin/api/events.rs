//! `/api/v1/events`: recorded changes as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::query::Parameters;
use super::state::{Api, ApiState};
use crate::execution::identifier::Identifier;
use crate::http::problem::{ApiProblems, Problem};
use crate::recorder::events::ChangeEvent;

/// The beginning of a stream, for `/openapi.json`.
const EXAMPLE: &str = r#": subscribed

event: recorded
data: {"outcome":"new","execution_id":"exec-104","workflow_id":"product-photos","bulk_id":null,"status":"completed","received_at":"2026-03-02T09:58:02Z"}
"#;

struct Filter {
    status: Option<String>,
    workflow: Option<String>,
    bulk: Option<String>,
}

impl Filter {
    fn matches(&self, change: &ChangeEvent) -> bool {
        let matches = |wanted: &Option<String>, actual: &Option<String>| wanted.is_none() || wanted == actual;
        matches(&self.status, &change.status)
            && matches(&self.workflow, &change.workflow_id)
            && matches(&self.bulk, &change.bulk_id)
    }
}

/// Follow recorded changes as server-sent events
///
/// `recorded`: a delivery that changed something, sent after the commit; its data is a `ChangeEvent`. `missed`: the
/// client read too slowly and this many changes were dropped. Events are not replayed: after `missed` or a reconnect,
/// reload the lists. Each receiver publishes its own changes only. The stream ends when the receiver stops.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "Events and exports",
    params(
        ("status" = inline(Option<Identifier>), Query, description = "Only deliveries with this status, also one that no execution has yet."),
        ("workflow" = inline(Option<Identifier>), Query, description = "Only deliveries of this workflow."),
        ("bulk" = inline(Option<Identifier>), Query, description = "Only deliveries of this bulk."),
    ),
    responses(
        (
            status = 200, body = String, content_type = "text/event-stream",
            description = "Events, until the receiver stops.", example = json!(EXAMPLE)
        ),
        ApiProblems,
    )
)]
pub(super) async fn follow_events(
    State(api): ApiState,
    uri: Uri,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let mut p = Parameters::of(&uri);
    let filter = Filter { status: p.text("status")?, workflow: p.text("workflow")?, bulk: p.text("bulk")? };
    p.finish()?;
    let (permit, heartbeat) = (api.event_stream_permit()?, api.admin.heartbeat);
    let changes = api.admin.events.subscribe();
    let subscription = Subscription { api, filter, changes, greeted: false, _permit: permit };
    let events = stream::unfold(subscription, |mut subscription| async {
        let event = subscription.next().await?;
        Some((Ok(event), subscription))
    });
    // Only events restart the interval: a stream whose filter drops all changes still gets heartbeats.
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(heartbeat).text("heartbeat")))
}

struct Subscription {
    api: Arc<Api>,
    filter: Filter,
    changes: Receiver<Arc<ChangeEvent>>,
    greeted: bool,
    _permit: OwnedSemaphorePermit,
}

impl Subscription {
    /// `None` when the receiver stops and all changes were sent.
    async fn next(&mut self) -> Option<Event> {
        if !std::mem::replace(&mut self.greeted, true) {
            // Sent at once, so that the client knows when its subscription begins.
            return Some(Event::default().comment("subscribed"));
        }
        loop {
            let change = tokio::select! {
                biased;
                change = self.changes.recv() => change,
                () = self.api.admin.closing.cancelled() => return None,
            };
            match change {
                Ok(change) if self.filter.matches(&change) => {
                    let data = serde_json::to_string(&*change).unwrap_or_default();
                    return Some(Event::default().event("recorded").data(data));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    self.api.admin.metrics.events_missed(missed);
                    return Some(Event::default().event("missed").data(format!("{{\"missed\":{missed}}}")));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
