//! `POST /webhooks/workflow-completed`: let in, read, check, keep, answer.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::poll;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};
use tracing::field::display;
use utoipa::ToSchema;

use super::api::DoorRefusals;
use super::body::{self, Encoding};
use super::problem::Problem;
use super::server::Connection;
use super::slots::Slot;
use super::{Door, WEBHOOK_PATH, WITH_TOKEN};
use crate::auth::{Claim, Refusal};
use crate::credentials::Current;
use crate::intake::{Delivery, Refused, Share};
use crate::payload::{Execution, Unusable};
use crate::traces;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How much of a stranger's body is read before it is told so.
const READ_ON: usize = 1 << 20;

/// What a body may hold: with usable identifiers and status, it is recorded, whatever else it holds.
#[derive(ToSchema)]
#[expect(dead_code, reason = "its description; payload::Execution reads it")]
struct Webhook {
    /// Identifies the execution: at most 255 bytes.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00]+$")]
    execution_id: String,
    /// Identifies the workflow: at most 255 bytes.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00]+$")]
    workflow_id: String,
    /// completed, failed and cancelled end an execution; anything else, such as running, does not.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00]+$", example = "completed")]
    status: String,
    /// The bulk that it was triggered in: a text.
    #[schema(required = false)]
    bulk_id: serde_json::Value,
    /// When it started: an RFC 3339 time.
    #[schema(required = false)]
    started_at: serde_json::Value,
    /// When it ended: an RFC 3339 time.
    #[schema(required = false)]
    completed_at: serde_json::Value,
    /// What it made.
    #[schema(required = false)]
    output: serde_json::Value,
    /// The kind of failure: a text.
    #[schema(required = false)]
    error: serde_json::Value,
    /// Why it failed: a text.
    #[schema(required = false)]
    error_cause: serde_json::Value,
    /// What it cost: a number.
    #[schema(required = false)]
    total_cost: serde_json::Value,
    /// Its steps, each with what it made: an object.
    #[schema(required = false)]
    step_outputs: serde_json::Value,
}

/// The delivery is on disk.
#[derive(ToSchema)]
#[expect(dead_code, reason = "its description; RECEIVED is what is answered")]
struct Received {
    /// Always true.
    received: bool,
}

/// The answer to a delivery that is on disk.
const RECEIVED: &[u8] = br#"{"received":true}"#;

/// The request's trace; `None` when traces are off.
type Trace = Option<Box<traces::Request>>;

/// An execution has ended
///
/// The 200 leaves once the delivery is on disk: from then on it survives any crash. The body decides, whatever its
/// Content-Type; fields that are not named here are kept, too. It may be compressed with gzip.
#[utoipa::path(
    post, path = super::WEBHOOK_PATH, tag = "Webhooks",
    request_body(content = Webhook, content_type = "application/json"),
    responses((status = 200, body = Received), DoorRefusals),
    security((), ("signature" = []), ("secret" = []), ("url_token" = []))
)]
pub(super) async fn receive(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let mut trace: Trace = door.traces.as_ref().map(|traces| traces.request(&head, route(&head.uri)));
    // Whoever sends slowly shall not keep the memory of a large head.
    let slot = door.requests.take();
    let head = Head::of(&door, &head).await;
    let answer = match admit(&door, head, slot, body, &mut trace).await {
        Ok(()) => ([(CONTENT_TYPE, JSON)], Bytes::from_static(RECEIVED)).into_response(),
        Err(problem) => {
            if let Problem::Unauthenticated(refusal) = &problem {
                door.metrics.unauthenticated(*refusal);
                tracing::debug!(reason = refusal.as_str(), "not authenticated");
            } else {
                tracing::debug!(problem = problem.kind(), "refused");
            }
            problem.into_response()
        }
    };
    door.metrics.answered(answer.status().as_u16());
    if let Some(trace) = trace {
        trace.answered(answer.status());
    }
    answer
}

/// What a request's head says.
struct Head {
    /// The secrets that `claim` was looked at with.
    secrets: Arc<Current>,
    claim: Result<Claim, Refusal>,
    /// The size that the body is said to have.
    announced: Option<u64>,
    encoding: Result<Encoding, Problem>,
    /// The sender waits to be told to send the body.
    expects: bool,
    connection: Option<Connection>,
}

impl Head {
    async fn of(door: &Door, head: &Parts) -> Self {
        let headers = &head.headers;
        let announced = headers.get(CONTENT_LENGTH).and_then(|size| size.to_str().ok()?.parse().ok());
        let look = |secrets: &Current| {
            secrets.authenticator.look(headers, tokens(&head.uri), OffsetDateTime::now_utc())
        };
        let mut secrets = door.credentials.current();
        let mut claim = look(&secrets);
        if claim.is_err() && door.credentials.refreshed(&secrets).await {
            secrets = door.credentials.current();
            claim = look(&secrets);
        }
        Self {
            secrets,
            claim,
            announced,
            encoding: body::encoding(headers),
            expects: headers.contains_key(EXPECT),
            connection: head.extensions.get().cloned(),
        }
    }
}

/// The tokens that a URL carries: behind the path, and in the query.
fn tokens(uri: &Uri) -> impl Iterator<Item = &str> {
    let query = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("token="));
    behind(uri).into_iter().chain(query)
}

/// What stands behind the path.
fn behind(uri: &Uri) -> Option<&str> {
    let rest = uri.path().strip_prefix(WEBHOOK_PATH)?.strip_prefix('/')?;
    Some(rest).filter(|rest| !rest.is_empty())
}

/// The path as it may be shown.
fn route(uri: &Uri) -> &'static str {
    if behind(uri).is_some() { WITH_TOKEN } else { WEBHOOK_PATH }
}

/// Takes the request on if there is room.
async fn admit(
    door: &Door,
    head: Head,
    slot: Option<Slot>,
    mut body: Body,
    trace: &mut Trace,
) -> Result<(), Problem> {
    let slot = slot.ok_or(Refused::Busy)?;
    let mut sender = Sender { slot, deadline: Instant::now() + door.body_timeout, waits: false };
    let expects = head.expects;
    let kept = keep(door, head, &mut body, &mut sender, trace).await;
    let read_on = match kept {
        Err(Problem::Unauthenticated(_)) => READ_ON,
        Err(Problem::TooLarge { max_body_bytes }) => 2 * max_body_bytes,
        _ => 0,
    };
    if read_on > 0 && !expects {
        let _ = sender.wait_for(body::discard(body, read_on)).await;
    }
    kept
}

/// Who sends the request.
struct Sender {
    slot: Slot,
    deadline: Instant,
    /// Whether it waits for the receiver, and not the receiver for it.
    waits: bool,
}

impl Sender {
    /// Waits for what it sends, until the deadline, or until its place is needed.
    async fn wait_for<T>(&mut self, sent: impl Future<Output = T>) -> Result<T, Problem> {
        let mut sent = pin!(sent);
        // Nearly always it is there already.
        if let Poll::Ready(sent) = poll!(&mut sent) {
            return Ok(sent);
        }
        if std::mem::take(&mut self.waits) {
            self.slot.served(self.deadline);
        } else {
            self.slot.waited_for(self.deadline);
        }
        let sent = tokio::select! {
            biased;
            sent = timeout_at(self.deadline, sent) => sent.map_err(|_| Problem::TooSlow),
            () = self.slot.evicted() => return Err(Refused::Busy.into()),
        };
        self.slot.waits();
        self.waits = true;
        sent
    }
}

/// The path of a webhook on this side of the spool. The `Content-Type` is not looked at: the
/// body decides.
async fn keep(
    door: &Door,
    head: Head,
    body: &mut Body,
    sender: &mut Sender,
    trace: &mut Trace,
) -> Result<(), Problem> {
    let claim = head.claim?;
    let max_body_bytes = door.max_body_bytes;
    if head.announced.is_some_and(|size| size > max_body_bytes as u64) {
        return Err(Problem::TooLarge { max_body_bytes });
    }
    let reading = body::read(body, max_body_bytes, &door.memory);
    let packed = sender.wait_for(reading).await?.inspect_err(|problem| {
        // Whoever holds the memory longest without getting on has to give it back.
        if matches!(problem, Problem::Refused(Refused::Busy)) {
            door.requests.evict_longest();
        }
    })?;
    let _waits = head.connection.as_ref().map(Connection::waits);
    let authenticated_by = door.credentials.check(&head.secrets, &claim, &packed.bytes).await?;
    if let Some(trace) = trace {
        trace.admitted();
    }
    let body::Read { bytes: body, share } = body::unpack(packed, head.encoding?, max_body_bytes).await?;
    let checked = Execution::parse(&body);
    let delivery = Delivery {
        received_at: OffsetDateTime::now_utc(),
        authenticated_by: Some(authenticated_by),
        acknowledged: checked.is_ok(),
        body: body.clone(),
        trace: trace.as_ref().and_then(|trace| trace.context()),
    };
    match checked {
        Ok(execution) => {
            let Execution { execution_id, status, .. } = &execution;
            if let Some(trace) = trace {
                trace.about(execution_id);
            }
            let trace_id = delivery.trace.map(|trace| display(trace.trace_id));
            spool(door, delivery, share, trace).await?;
            tracing::debug!(%execution_id, %status, trace_id, "received");
            Ok(())
        }
        // No execution, but the sender's own: kept, and the recorder puts it into quarantine.
        Err(why @ Unusable::Field { .. }) => {
            spool(door, delivery, share, trace).await?;
            Err(Problem::Unusable(why))
        }
        Err(why) => Err(Problem::NotAnObject(why)),
    }
}

/// Returns once the delivery is on disk.
async fn spool(door: &Door, delivery: Delivery, share: Share, trace: &mut Trace) -> Result<(), Refused> {
    if let Some(trace) = trace {
        trace.spooling();
    }
    let kept = door.intake.keep(delivery, share).await;
    if let Some(trace) = trace {
        trace.spooled(kept);
    }
    kept
}
