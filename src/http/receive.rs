//! `POST /webhooks/workflow-completed`: read, check, keep, answer.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use time::OffsetDateTime;

use super::Door;
use super::problem::Problem;
use crate::intake::Delivery;
use crate::payload::{Execution, Unusable};

/// The answer to a delivery that is on disk.
#[derive(Debug, Serialize)]
struct Received {
    received: bool,
}

pub(super) async fn receive(State(door): State<Arc<Door>>, body: Result<Bytes, BytesRejection>) -> Response {
    let answer = match keep(&door, body).await {
        Ok(()) => Json(Received { received: true }).into_response(),
        Err(problem) => problem.into_response(),
    };
    door.metrics.answered(answer.status().as_u16());
    answer
}

/// The path of a webhook on this side of the spool. The `Content-Type` is not looked at: the
/// body decides.
async fn keep(door: &Door, body: Result<Bytes, BytesRejection>) -> Result<(), Problem> {
    let body = body.map_err(|rejection| unreadable(&rejection, door.max_body_bytes))?;
    let delivery = Delivery { body, received_at: OffsetDateTime::now_utc() };
    let body = delivery.body.clone();
    match Execution::parse(&body) {
        Ok(execution) => {
            door.intake.keep(delivery).await?;
            tracing::debug!(execution_id = %execution.execution_id, status = %execution.status, "received");
            Ok(())
        }
        // No execution, but the sender's own: kept, and the recorder puts it into quarantine.
        Err(why @ Unusable::Field { .. }) => {
            door.intake.keep(delivery).await?;
            Err(Problem::Unusable(why))
        }
        Err(why) => Err(Problem::NotAnObject(why)),
    }
}

fn unreadable(rejection: &BytesRejection, max_body_bytes: usize) -> Problem {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            Problem::TooLarge { max_body_bytes }
        }
        other if other.status() == StatusCode::PAYLOAD_TOO_LARGE => Problem::TooLarge { max_body_bytes },
        _ => Problem::Interrupted,
    }
}
