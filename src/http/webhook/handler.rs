//! `POST /webhooks/workflow-completed`: let in, read, check, keep, answer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::poll;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};
use tracing::field::display;
use utoipa::ToSchema;

use super::body::{self, CollectedBody, Encoding};
use super::trace::RequestTrace;
use super::{WEBHOOK_PATH, WITH_TOKEN, WebhookState};
use crate::auth::{AuthError, AuthMethod, PendingAuth};
use crate::credentials::Current;
use crate::delivery::{Delivery, RejectReason};
use crate::execution::{Execution, InvalidPayload};
use crate::http::origin::{is_by_a_foreign_name, is_from_a_web_page};
use crate::http::problem::Problem;
use crate::http::responses::WebhookProblems;
use crate::http::server::Connection;
use crate::http::server::limiter::Slot;
use crate::memory::MemoryPermit;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

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
type Trace = Option<Box<RequestTrace>>;

/// An execution has ended
///
/// The 200 leaves once the delivery is on disk: from then on it survives any crash. The body decides, whatever its
/// Content-Type; fields that are not named here are kept, too. It may be compressed with gzip.
#[utoipa::path(
    post, path = super::WEBHOOK_PATH, tag = "Webhooks",
    request_body(content = Webhook, content_type = "application/json"),
    responses((status = 200, body = Received), WebhookProblems),
    security((), ("signature" = []), ("secret" = []), ("url_token" = []))
)]
pub(super) async fn handle(State(door): State<Arc<WebhookState>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let mut trace: Trace = door.traces.as_ref().map(|traces| traces.request(&head, route(&head.uri)));
    // What the head says is extracted and the head dropped: a slow body does not hold the memory of a large head.
    let slot = door.requests.acquire();
    let head = Head::of(&door, &head).await;
    let answer = match with_slot(&door, head, slot, body, &mut trace).await {
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
        trace.finish(answer.status());
    }
    answer
}

/// What a request's head says.
struct Head {
    /// The secrets that `claim` was looked at with.
    secrets: Arc<Current>,
    claim: Result<PendingAuth, AuthError>,
    /// Nothing but its signature could tell it from a request that a web page sends.
    may_be_from_a_web_page: bool,
    /// The size that the body is said to have.
    announced: Option<u64>,
    encoding: Result<Encoding, Problem>,
    connection: Option<Connection>,
}

impl Head {
    async fn of(door: &WebhookState, head: &Parts) -> Self {
        let headers = &head.headers;
        let announced = headers.get(CONTENT_LENGTH).and_then(|size| size.to_str().ok()?.parse().ok());
        let look = |secrets: &Current| {
            secrets.authenticator.check_head(headers, tokens(&head.uri), OffsetDateTime::now_utc())
        };
        let mut secrets = door.credentials.current();
        let mut claim = look(&secrets);
        if claim.is_err() && door.credentials.refreshed(&secrets).await {
            secrets = door.credentials.current();
            claim = look(&secrets);
        }
        let anonymous = claim.as_ref().is_ok_and(PendingAuth::is_anonymous);
        let local_only = secrets.authenticator.is_local_only();
        Self {
            secrets,
            claim,
            may_be_from_a_web_page: anonymous
                && (is_from_a_web_page(headers) || local_only && is_by_a_foreign_name(headers, &head.uri)),
            announced,
            encoding: body::encoding(headers),
            connection: head.extensions.get().cloned(),
        }
    }
}

/// The tokens that a URL carries: behind the path, and in the query.
fn tokens(uri: &Uri) -> impl Iterator<Item = &str> {
    let query = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("token="));
    path_token(uri).into_iter().chain(query)
}

/// What stands behind the path.
fn path_token(uri: &Uri) -> Option<&str> {
    let rest = uri.path().strip_prefix(WEBHOOK_PATH)?.strip_prefix('/')?;
    Some(rest).filter(|rest| !rest.is_empty())
}

/// The path as it may be shown.
fn route(uri: &Uri) -> &'static str {
    if path_token(uri).is_some() { WITH_TOKEN } else { WEBHOOK_PATH }
}

/// Accepts the request if there is a slot.
async fn with_slot(
    door: &WebhookState,
    head: Head,
    slot: Option<Slot>,
    mut body: Body,
    trace: &mut Trace,
) -> Result<(), Problem> {
    let slot = slot.ok_or(RejectReason::Overloaded)?;
    let sender = PeerDeadline::new(door, slot, head.connection.clone());
    accept(door, head, &mut body, &sender, trace).await
}

/// The peer that sends a request's body.
struct PeerDeadline {
    slot: Slot,
    connection: Option<Connection>,
    deadline: Instant,
    /// The request is blocked on the peer, and may be evicted.
    waiting: AtomicBool,
}

impl PeerDeadline {
    fn new(door: &WebhookState, slot: Slot, connection: Option<Connection>) -> Self {
        let deadline = Instant::now() + door.body_timeout;
        Self { slot, connection, deadline, waiting: false.into() }
    }

    /// Waits for what the peer sends, until the deadline, or until the request is evicted. Called once.
    async fn recv<T>(&self, sent: impl Future<Output = T>) -> Result<T, Problem> {
        let mut sent = pin!(sent);
        // Nearly always it is there already.
        if let Poll::Ready(sent) = poll!(&mut sent) {
            return Ok(sent);
        }
        self.slot.set_waiting(self.deadline);
        self.waiting.store(true, Relaxed);
        let sent = tokio::select! {
            biased;
            sent = timeout_at(self.deadline, sent) => sent.map_err(|_| Problem::TooSlow),
            () = self.slot.evicted() => return Err(RejectReason::Overloaded.into()),
        };
        self.waiting.store(false, Relaxed);
        self.slot.set_busy();
        sent
    }

    /// The peer makes progress: others are evicted before it.
    fn progressed(&self) {
        if self.waiting.load(Relaxed) {
            self.slot.set_waiting(self.deadline);
            if let Some(connection) = &self.connection {
                connection.progressed();
            }
        }
    }
}

/// The path of a webhook on this side of the spool. The `Content-Type` is not looked at: the
/// body decides.
async fn accept(
    door: &WebhookState,
    head: Head,
    body: &mut Body,
    sender: &PeerDeadline,
    trace: &mut Trace,
) -> Result<(), Problem> {
    let claim = head.claim?;
    let max_body_bytes = door.max_body_bytes;
    if head.announced.is_some_and(|size| size > max_body_bytes as u64) {
        return Err(Problem::TooLarge { max_body_bytes });
    }
    let memory = door.memory.permit(claim.is_verified(), sender.slot.eviction());
    let progressed = || sender.progressed();
    let collecting = body::collect(body, head.announced, max_body_bytes, memory, progressed);
    let mut packed = sender.recv(collecting).await??;
    let _waits = head.connection.as_ref().map(|connection| {
        connection.body_complete();
        connection.waits()
    });
    let authenticated_by = door.credentials.check(&head.secrets, &claim, &packed.bytes).await?;
    if authenticated_by == AuthMethod::None && head.may_be_from_a_web_page {
        return Err(Problem::FromWebPage);
    }
    packed.memory.verified();
    if let Some(trace) = trace {
        trace.authenticated();
    }
    let CollectedBody { bytes: body, memory } =
        body::decompress(packed, head.encoding?, max_body_bytes).await?;
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
                trace.set_execution_id(execution_id);
            }
            let trace_id = delivery.trace.map(|trace| display(trace.trace_id));
            enqueue(door, delivery, memory, trace).await?;
            tracing::debug!(%execution_id, %status, trace_id, "received");
            Ok(())
        }
        // No execution, but the sender's own: kept, and the recorder puts it into quarantine.
        Err(why @ InvalidPayload::Field { .. }) => {
            enqueue(door, delivery, memory, trace).await?;
            Err(Problem::Unusable(why))
        }
        Err(why) => Err(Problem::NotAnObject(why)),
    }
}

/// Returns once the delivery is on disk.
async fn enqueue(
    door: &WebhookState,
    delivery: Delivery,
    memory: MemoryPermit,
    trace: &mut Trace,
) -> Result<(), RejectReason> {
    if let Some(trace) = trace {
        trace.start_enqueue();
    }
    let kept = door.intake.append(delivery, memory).await;
    if let Some(trace) = trace {
        trace.end_enqueue(kept);
    }
    kept
}
