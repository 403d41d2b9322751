//! `/api/v1/events`: what is recorded, as it happens, as server-sent events.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, timeout_at};

use super::Api;
use super::parameters::Parameters;
use crate::http::problem::Problem;
use crate::http::responses::ApiProblems;
use crate::recorder::events::ChangeEvent;

/// How much is said at once.
const AT_ONCE: usize = 64 << 10;

/// Whose changes are told.
struct Wanted {
    status: Option<String>,
    workflow: Option<String>,
    bulk: Option<String>,
}

impl Wanted {
    fn is(&self, change: &ChangeEvent) -> bool {
        let as_wanted = |wanted: &Option<String>, is: &Option<String>| wanted.is_none() || wanted == is;
        as_wanted(&self.status, &change.status)
            && as_wanted(&self.workflow, &change.workflow_id)
            && as_wanted(&self.bulk, &change.bulk_id)
    }
}

/// What is recorded, as it happens
///
/// Server-sent events: `recorded` for each delivery that changes something, once it is committed; `missed` with how
/// many changes were not told, since the listener did not read on. Each receiver tells of what it records itself.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "Live and whole",
    params(
        ("status" = Option<String>, Query, description = "Only deliveries with this status.", min_length = 1, max_length = 255, pattern = r"^[^\x00]+$"),
        ("workflow" = Option<String>, Query, description = "Only those of this workflow.", min_length = 1, max_length = 255, pattern = r"^[^\x00]+$"),
        ("bulk" = Option<String>, Query, description = "Only those of this bulk.", min_length = 1, max_length = 255, pattern = r"^[^\x00]+$"),
    ),
    responses((status = 200, body = String, content_type = "text/event-stream", description = "The data of each `recorded` is a Change. It ends when the receiver does."), ApiProblems)
)]
pub(super) async fn events(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let mut p = Parameters::of(&uri);
    let wanted = Wanted { status: p.text("status")?, workflow: p.text("workflow")?, bulk: p.text("bulk")? };
    p.end()?;
    let place = api.listeners.clone().try_acquire_owned();
    let place = place.map_err(|_| Problem::TooMany { what: "listeners" })?;
    let changes = api.admin.live.subscribe();
    let listener = Listener { api, wanted, changes, greeted: false, _place: place };
    let told = stream::unfold(listener, |mut listener| async {
        let text = listener.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), listener))
    });
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(told)).into_response())
}

struct Listener {
    api: Arc<Api>,
    wanted: Wanted,
    changes: Receiver<Arc<ChangeEvent>>,
    greeted: bool,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// What to say next; `None` when the receiver ends.
    async fn next(&mut self) -> Option<String> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(": listening\n\n".to_owned());
        }
        let mut text = String::new();
        // Counted from the last thing said: what is recorded and not wanted is no sign of life.
        let silent_until = Instant::now() + self.api.admin.heartbeat;
        let closing = self.api.admin.closing.clone();
        while text.is_empty() {
            tokio::select! {
                () = closing.cancelled() => return None,
                change = timeout_at(silent_until, self.changes.recv()) => match change {
                    Err(_) => text += ": still here\n\n",
                    Ok(Ok(change)) => self.tell(&change, &mut text),
                    Ok(Err(RecvError::Lagged(missed))) => self.miss(missed, &mut text),
                    Ok(Err(RecvError::Closed)) => return None,
                },
            }
        }
        // What else is there already.
        while text.len() < AT_ONCE {
            match self.changes.try_recv() {
                Ok(change) => self.tell(&change, &mut text),
                Err(TryRecvError::Lagged(missed)) => self.miss(missed, &mut text),
                Err(_) => break,
            }
        }
        Some(text)
    }

    fn tell(&self, change: &ChangeEvent, text: &mut String) {
        if self.wanted.is(change) {
            let data = serde_json::to_string(change).unwrap_or_default();
            let _ = write!(text, "event: recorded\ndata: {data}\n\n");
        }
    }

    fn miss(&self, missed: u64, text: &mut String) {
        self.api.admin.metrics.events_missed(missed);
        let _ = write!(text, "event: missed\ndata: {{\"missed\":{missed}}}\n\n");
    }
}
