//! `POST /webhooks/workflow-completed`: let in, read, check, keep, answer.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::poll;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};

use super::body;
use super::problem::Problem;
use super::slots::Slot;
use super::{Door, WEBHOOK_PATH};
use crate::intake::{Delivery, Refused};
use crate::payload::{Execution, Unusable};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How much of a stranger's body is read before it is told so.
const READ_ON: usize = 1 << 20;

/// The answer to a delivery that is on disk.
const RECEIVED: &[u8] = br#"{"received":true}"#;

pub(super) async fn receive(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let answer = match admit(&door, &head, body).await {
        Ok(()) => ([(CONTENT_TYPE, JSON)], Bytes::from_static(RECEIVED)).into_response(),
        Err(problem) => {
            if let Problem::Unauthenticated(refusal) = &problem {
                door.metrics.unauthenticated(*refusal);
                tracing::debug!(reason = refusal.as_str(), "not authenticated");
            }
            problem.into_response()
        }
    };
    door.metrics.answered(answer.status().as_u16());
    answer
}

/// Takes the request on if there is room.
async fn admit(door: &Door, head: &Parts, mut body: Body) -> Result<(), Problem> {
    let slot = door.requests.take().ok_or(Refused::Busy)?;
    let sender = Sender { slot, deadline: Instant::now() + door.body_timeout };
    let kept = keep(door, head, &mut body, &sender).await;
    let read_on = match kept {
        Err(Problem::Unauthenticated(_)) => READ_ON,
        Err(Problem::TooLarge { max_body_bytes }) => 2 * max_body_bytes,
        _ => return kept,
    };
    let _ = sender.wait_for(body::discard(body, &head.headers, read_on)).await;
    kept
}

/// Who sends the request, for as long as it is waited for.
struct Sender {
    slot: Slot,
    deadline: Instant,
}

impl Sender {
    /// Waits for what it sends, until the deadline, or until its place is needed.
    async fn wait_for<T>(&self, sent: impl Future<Output = T>) -> Result<T, Problem> {
        let mut sent = pin!(sent);
        // Nearly always it is there already.
        if let Poll::Ready(sent) = poll!(&mut sent) {
            return Ok(sent);
        }
        self.slot.waited_for(self.deadline);
        let sent = tokio::select! {
            biased;
            sent = timeout_at(self.deadline, sent) => sent.map_err(|_| Problem::TooSlow),
            () = self.slot.evicted() => Err(Refused::Busy.into()),
        };
        self.slot.waits();
        sent
    }
}

/// The path of a webhook on this side of the spool. The `Content-Type` is not looked at: the
/// body decides.
async fn keep(door: &Door, head: &Parts, body: &mut Body, sender: &Sender) -> Result<(), Problem> {
    let now = OffsetDateTime::now_utc();
    let claim = door.authenticator.look(&head.headers, tokens(&head.uri), now)?;
    if announced(&head.headers).is_some_and(|size| size > door.max_body_bytes as u64) {
        return Err(Problem::TooLarge { max_body_bytes: door.max_body_bytes });
    }
    let reading = body::read(body, door.max_body_bytes, &door.memory);
    let packed = sender.wait_for(reading).await?.inspect_err(|problem| {
        // Whoever holds the memory longest without getting on has to give it back.
        if matches!(problem, Problem::Refused(Refused::Busy)) {
            door.requests.evict_longest();
        }
    })?;
    let authenticated_by = claim.check(&packed.bytes)?;
    let body::Read { bytes: body, share } =
        body::unpack(packed, body::encoding(&head.headers)?, door.max_body_bytes).await?;
    let checked = Execution::parse(&body);
    let delivery = Delivery {
        received_at: OffsetDateTime::now_utc(),
        authenticated_by: Some(authenticated_by),
        acknowledged: checked.is_ok(),
        body: body.clone(),
    };
    match checked {
        Ok(execution) => {
            door.intake.keep(delivery, share).await?;
            tracing::debug!(execution_id = %execution.execution_id, status = %execution.status, "received");
            Ok(())
        }
        // No execution, but the sender's own: kept, and the recorder puts it into quarantine.
        Err(why @ Unusable::Field { .. }) => {
            door.intake.keep(delivery, share).await?;
            Err(Problem::Unusable(why))
        }
        Err(why) => Err(Problem::NotAnObject(why)),
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The tokens that a URL carries: behind the path, and in the query.
fn tokens(uri: &Uri) -> impl Iterator<Item = &str> {
    let behind = uri.path().strip_prefix(WEBHOOK_PATH).and_then(|rest| rest.strip_prefix('/'));
    let query = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("token="));
    behind.filter(|token| !token.is_empty()).into_iter().chain(query)
}
