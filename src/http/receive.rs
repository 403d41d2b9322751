//! `POST /webhooks/workflow-completed`: read, check, keep, answer.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
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

pub(super) async fn receive(State(door): State<Arc<Door>>, body: Body) -> Response {
    let answer = match keep(&door, body).await {
        Ok(()) => Json(Received { received: true }).into_response(),
        Err(problem) => problem.into_response(),
    };
    door.metrics.answered(answer.status().as_u16());
    answer
}

/// The path of a webhook on this side of the spool. The `Content-Type` is not looked at: the
/// body decides.
async fn keep(door: &Door, body: Body) -> Result<(), Problem> {
    let body = read(body, door.max_body_bytes).await?;
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

/// Reads a body to its end. One that is too large is read on for a while, without being kept: a
/// sender that is cut off while it still sends may never see the answer.
async fn read(mut body: Body, max_body_bytes: usize) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Problem::Interrupted)?.into_data() else { continue };
        size += data.len();
        if size <= max_body_bytes {
            whole.extend_from_slice(&data);
        } else if size > 2 * max_body_bytes {
            break;
        }
    }
    if size > max_body_bytes { Err(Problem::TooLarge { max_body_bytes }) } else { Ok(whole.freeze()) }
}
