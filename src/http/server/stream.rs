//! A connection's stream: limits the memory of incomplete heads and closes without a reset.
//!
//! A connection buffers a head until it is complete. At most [`LARGE_HEADS`] connections may buffer more than
//! [`SMALL_HEAD`] bytes of an incomplete head. Beyond that, the connection whose large head has been incomplete the longest
//! is closed.
//!
//! If a response is sent before its request was received completely, closing the connection would reset it, and the peer
//! could lose the response. So the stream lingers: it closes its sending direction and discards further input.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::ended::OtherProtocol;
use super::limiter::{Limiter, Received, Slot};

/// Bytes of an incomplete head that every connection may buffer.
const SMALL_HEAD: usize = 4 << 10;
/// The number of connections that may buffer more than [`SMALL_HEAD`] bytes.
pub(super) const LARGE_HEADS: usize = 512;
/// Limits of the input that a closing stream discards: total time, time without input, and bytes.
const LINGER_FOR: Duration = Duration::from_secs(30);
const LINGER_IDLE: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 << 20;

pub(super) struct ConnectionStream<S> {
    io: S,
    connection: Arc<Slot>,
    large_heads: Arc<Limiter>,
    header_timeout: Duration,
    /// Held while the head is large and incomplete.
    large: Option<Slot>,
    lingering: Option<Lingering>,
}

/// The sending direction is closed.
struct Lingering {
    since: Instant,
    idle: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<S> ConnectionStream<S> {
    pub(super) fn new(
        io: S,
        connection: &Arc<Slot>,
        large_heads: &Arc<Limiter>,
        header_timeout: Duration,
    ) -> Self {
        let (connection, large_heads) = (connection.clone(), large_heads.clone());
        Self { io, connection, large_heads, header_timeout, large: None, lingering: None }
    }

    fn count(&mut self, bytes: usize) {
        if self.connection.count_head_bytes(bytes) <= SMALL_HEAD {
            self.large = None;
        } else if self.large.is_none() {
            self.large = self.large_heads.acquire_with(self.connection.eviction().clone());
            if let Some(large) = &self.large {
                large.set_waiting(Instant::now() + self.header_timeout);
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ConnectionStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let read = &buffer.filled()[before..];
        let is_first = self.connection.received() == Received::Nothing;
        // An empty read is the end of the input.
        if !read.is_empty() {
            self.count(read.len());
        }
        match OtherProtocol::of(read).filter(|_| is_first) {
            Some(protocol) => Poll::Ready(Err(protocol.into())),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ConnectionStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, connection, lingering, .. } = &mut *self;
        let Some(Lingering { since, idle, bytes }) = lingering else {
            ready!(Pin::new(&mut *io).poll_shutdown(context))?;
            if !connection.is_mid_request() {
                return Poll::Ready(Ok(()));
            }
            let idle = Box::pin(sleep(LINGER_IDLE));
            *lingering = Some(Lingering { since: Instant::now(), idle, bytes: 0 });
            context.waker().wake_by_ref();
            return Poll::Pending;
        };
        let mut scratch = [0; 8 << 10];
        while *bytes < LINGER_BYTES
            && since.elapsed() < LINGER_FOR
            && idle.as_mut().poll(context).is_pending()
        {
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut *io).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
            *bytes += buffer.filled().len();
            idle.as_mut().reset(Instant::now() + LINGER_IDLE);
        }
        Poll::Ready(Ok(()))
    }
}
