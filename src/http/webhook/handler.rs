//! `POST /webhooks/workflow-completed`: authenticate, read, parse, store, acknowledge.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use time::OffsetDateTime;
use tracing::field::display;

use super::body::{self, CollectedBody};
use super::deadline::PeerDeadline;
use super::head::Head;
use super::path::{WEBHOOK_PATH, route};
use super::schema::{Received, Webhook};
use super::state::WebhookState;
use super::trace::RequestTrace;
use crate::auth::AuthMethod;
use crate::credentials::Current;
use crate::delivery::{Delivery, RejectReason};
use crate::execution::{Execution, InvalidPayload, api_key};
use crate::http::problem::{Problem, WebhookProblems};
use crate::memory::MemoryPermit;
use crate::metrics::{Metrics, Port, Unanswered};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// [`Received`] as JSON.
const RECEIVED: &[u8] = br#"{"received":true}"#;

/// `None` when traces are off.
type Trace = Option<Box<RequestTrace>>;

/// Receive a webhook
///
/// Answers 200 when the webhook is on disk: a later crash cannot lose it. Content-Type is ignored. Fields that are
/// not listed here are stored, too. The body may be compressed with gzip.
///
/// Predictions and legacy flows are accepted, too: a prediction has `exec_id` and `status`, a legacy flow has `flow_id`
/// instead of `workflow_id`.
#[utoipa::path(
    post, path = WEBHOOK_PATH, operation_id = "receive_webhook", tag = "Webhooks",
    request_body(
        content = Webhook, content_type = "application/json",
        example = json!({ "execution_id": "hello-1", "workflow_id": "demo", "status": "completed" })
    ),
    responses((status = 200, body = Received, description = "The webhook is on disk."), WebhookProblems),
    security((), ("signature" = []), ("secret" = []), ("url_token" = []))
)]
pub(in crate::http) async fn handle(State(state): State<Arc<WebhookState>>, request: Request) -> Response {
    let unanswered = UnansweredRequest(&state.metrics);
    let (head, body) = request.into_parts();
    let mut trace: Trace = state.traces.as_ref().map(|traces| traces.request(&head, route(&head.uri)));
    let response = match accept(&state, head, body, &mut trace).await {
        Ok(()) => ([(CONTENT_TYPE, JSON)], Bytes::from_static(RECEIVED)).into_response(),
        Err(problem) => {
            if let Problem::Unauthenticated(error) = &problem {
                state.metrics.unauthenticated(*error);
                tracing::debug!(reason = error.as_str(), "webhook rejected: not authenticated");
            } else {
                tracing::debug!(problem = problem.kind(), "webhook rejected");
            }
            problem.into_response()
        }
    };
    unanswered.answered(response.status().as_u16());
    if let Some(trace) = trace {
        trace.finish(response.status());
    }
    response
}

/// Counts a request that is dropped before its response.
struct UnansweredRequest<'a>(&'a Metrics);

impl UnansweredRequest<'_> {
    fn answered(self, status: u16) {
        self.0.answered(status);
        std::mem::forget(self);
    }
}

impl Drop for UnansweredRequest<'_> {
    fn drop(&mut self) {
        // A panic is answered 500.
        if !std::thread::panicking() {
            self.0.unanswered(Port::Webhooks, Unanswered::RequestDropped);
        }
    }
}

/// Authenticates, receives, parses and spools a webhook.
async fn accept(state: &WebhookState, head: Parts, mut body: Body, trace: &mut Trace) -> Result<(), Problem> {
    let slot = state.requests.acquire().ok_or(RejectReason::Overloaded)?;
    let head = Head::of(state, head).await;
    let peer = PeerDeadline::new(state.body_timeout, slot, head.connection.clone());
    let auth = head.auth?;
    if head.may_be_from_a_web_page {
        return Err(Problem::FromWebPage);
    }
    let max_body_bytes = state.max_body_bytes;
    if head.content_length.is_some_and(|size| size > max_body_bytes as u64) {
        return Err(Problem::TooLarge { max_body_bytes });
    }
    let memory = state.memory.permit(auth.is_verified(), peer.slot.eviction());
    let collecting =
        body::collect(&mut body, head.content_length, max_body_bytes, memory, || peer.progressed());
    let mut collected = peer.recv(collecting).await??;
    let _busy = head.connection.as_ref().map(|connection| {
        connection.body_complete();
        connection.busy()
    });
    // Before decompression: signatures cover the bytes as sent, and only accepted bodies are decompressed.
    let check = |secrets: &Current| auth.check_body(&secrets.authenticator, &collected.bytes);
    let (_, authenticated_by) = state.credentials.check(head.secrets, check).await;
    let authenticated_by = authenticated_by?;
    let is_unverified = authenticated_by == AuthMethod::Unverified;
    if !is_unverified {
        collected.memory.verified();
    }
    if let Some(trace) = trace {
        trace.authenticated();
    }
    let CollectedBody { bytes: body, memory } =
        body::decompress(collected, head.encoding?, max_body_bytes).await?;
    let body = api_key::remove(&body).map_or(body, Bytes::from);
    let parsed = Execution::parse(&body);
    let delivery = Delivery {
        received_at: OffsetDateTime::now_utc(),
        authenticated_by: Some(authenticated_by),
        fetched_from: None,
        acknowledged: parsed.is_ok(),
        reference: head.reference,
        is_redelivery: head.is_redelivery,
        body: body.clone(),
        trace: trace.as_ref().and_then(|trace| trace.context()),
    };
    match parsed {
        Ok(execution) => {
            if is_unverified && !state.unverified.admit(delivery.body.len()) {
                return Err(RejectReason::VerificationFull.into());
            }
            let Execution { execution_id, status, .. } = &execution;
            if let Some(trace) = trace {
                trace.set_execution_id(execution_id);
            }
            let trace_id = delivery.trace.map(|trace| display(trace.trace_id));
            let bytes = delivery.body.len();
            let stored = enqueue(state, delivery, memory, trace).await;
            stored.inspect_err(|_| {
                if is_unverified {
                    state.unverified.withdraw(bytes);
                }
            })?;
            tracing::debug!(%execution_id, %status, trace_id, "received");
            Ok(())
        }
        // Not stored, because the sender's API cannot confirm a body without a valid execution.
        Err(error @ InvalidPayload::Field { .. }) if is_unverified => {
            Err(Problem::NotAnExecution { error, is_stored: false })
        }
        // The recorder puts the delivery into quarantine. In a body of another form, a key can be at any depth.
        Err(error @ InvalidPayload::Field { .. }) => {
            let body = api_key::remove_at_any_depth(&body).map_or_else(|| body.clone(), Bytes::from);
            enqueue(state, Delivery { body, ..delivery }, memory, trace).await?;
            Err(Problem::NotAnExecution { error, is_stored: true })
        }
        Err(error) => Err(Problem::NotAnObject(error)),
    }
}

/// Returns once the delivery is on disk.
async fn enqueue(
    state: &WebhookState,
    delivery: Delivery,
    memory: MemoryPermit,
    trace: &mut Trace,
) -> Result<(), RejectReason> {
    if let Some(trace) = trace {
        trace.start_enqueue();
    }
    let result = state.spool.append(delivery, memory).await;
    if let Some(trace) = trace {
        trace.end_enqueue(result);
    }
    result
}
