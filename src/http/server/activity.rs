//! Answers that take long: as long as one who asked waits for the receiver, the connection is not sent away; once
//! the receiver waits for it to read on, it is, like any that keeps the receiver waiting.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::{BusyGuard, Connection};

/// Holds a connection's place for as long as its request is being answered.
pub(in crate::http) async fn pace(request: Request, next: Next) -> Response {
    let Some(connection) = request.extensions().get::<Connection>().cloned() else {
        return next.run(request).await;
    };
    let waits = Some(connection.waits());
    let answer = next.run(request).await;
    answer.map(|body| Body::new(TrackedBody { body, connection, waits }))
}

/// A body that knows who waits for whom.
struct TrackedBody {
    body: Body,
    connection: Connection,
    /// There while the one who asked waits.
    waits: Option<BusyGuard>,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Asked for more: what there was has been taken.
        if self.waits.is_none() {
            self.waits = Some(self.connection.waits());
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.waits = None;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
