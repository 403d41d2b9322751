//! Long responses. A connection is not evicted while the receiver produces its response; it can be evicted while the
//! receiver waits for the client to read it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::{BusyGuard, Connection};

/// Keeps a connection busy while the receiver produces the response.
pub(in crate::http) async fn track_response(request: Request, next: Next) -> Response {
    let Some(connection) = request.extensions().get::<Connection>().cloned() else {
        return next.run(request).await;
    };
    let busy = Some(connection.busy());
    let response = next.run(request).await;
    response.map(|body| Body::new(TrackedBody { body, connection, busy }))
}

struct TrackedBody {
    body: Body,
    connection: Connection,
    /// `None` while the client has a frame to read.
    busy: Option<BusyGuard>,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // The client has read the previous frame.
        if self.busy.is_none() {
            self.busy = Some(self.connection.busy());
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.busy = None;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
