//! Connections: taken, limited, served, closed.
//!
//! HTTP/1.0, HTTP/1.1, and HTTP/2 without TLS for proxies that speak it. TLS is theirs.

pub(super) mod activity;
pub(super) mod limiter;
mod stream;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::{Body as _, Incoming};
use hyper::service::Service;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use self::limiter::{AfterHead, Limiter, Slot};
use self::stream::{ConnectionStream, LARGE_HEADS};
use crate::metrics::Metrics;

/// The largest head of a request, in bytes; larger ones are answered 431. It also is what a connection buffers at most
/// of what its peer has sent.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// The same over HTTP/2, of the decoded head.
const MAX_HTTP2_HEAD_BYTES: u32 = 16 << 10;
/// What an HTTP/2 connection buffers at most of bodies that are not read yet: those that wait for memory, for example.
const HTTP2_WINDOW_BYTES: u32 = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 32;
/// How long a body that did not come in time may still be answered, before its connection is closed.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often those that are late are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// When the system has no room for another connection, how long until it is asked again.
const BREATHER: Duration = Duration::from_millis(50);

/// What the connections of a port may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// At once.
    pub(crate) connections: usize,
    /// Until the head of the first request is there.
    pub(crate) header_timeout: Duration,
    /// From there until its body is.
    pub(crate) body_timeout: Duration,
    /// Between requests.
    pub(crate) idle_timeout: Duration,
}

/// Serves `routes` until `stop`, then answers the requests in flight. Dropping it closes all
/// connections.
///
/// # Errors
/// None so far: a listener that fails is tried again.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> io::Result<()> {
    let slots = Limiter::new(limits.connections);
    let large_heads = Limiter::new(LARGE_HEADS);
    let protocol = protocol();
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => slots.evict_expired(),
            Some(ended) = connections.join_next() => ended.unwrap_or_else(|_| metrics.panicked()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Some(slot) = slots.acquire() else {
                        metrics.connection_rejected();
                        continue;
                    };
                    // An answer is one small packet, and there is nothing to wait for.
                    let _ = stream.set_nodelay(true);
                    let slot = Arc::new(slot);
                    let stream = ConnectionStream::new(stream, &slot, &large_heads, limits.header_timeout);
                    let connection = connection(&protocol, stream, routes.clone(), &slot, limits);
                    let connection = graceful.watch(connection);
                    connections.spawn(async move {
                        tokio::select! {
                            // What goes wrong here, the sender did, and it has been told.
                            _ = connection => {}
                            () = slot.evicted() => {}
                        }
                    });
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection can be taken");
                    slots.evict_oldest();
                    sleep(BREATHER).await;
                }
            }
        }
    }
    drop(listener);
    let mut done = std::pin::pin!(graceful.shutdown());
    loop {
        tokio::select! {
            () = &mut done => return Ok(()),
            _ = look.tick() => slots.evict_expired(),
        }
    }
}

pub(crate) fn protocol() -> auto::Builder<TokioExecutor> {
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    // Who has said all that it will say may still wait for the answer: `half_close`.
    protocol
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .half_close(true)
        .max_buf_size(MAX_HEAD_BYTES);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .max_header_list_size(MAX_HTTP2_HEAD_BYTES);
    protocol
}

pub(crate) fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    protocol: &auto::Builder<TokioExecutor>,
    stream: S,
    routes: Router,
    slot: &Arc<Slot>,
    limits: ConnectionLimits,
) -> auto::Connection<'static, TokioIo<S>, TrackedService, TokioExecutor> {
    slot.set_waiting(Instant::now() + limits.header_timeout);
    let service = TrackedService {
        routes: TowerToHyperService::new(routes),
        connection: Connection {
            slot: slot.clone(),
            idle_timeout: limits.idle_timeout,
            body_timeout: limits.body_timeout + ANSWER_WITHIN,
        },
    };
    protocol.serve_connection(TokioIo::new(stream), service).into_owned()
}

/// The connection of a request, among the request's extensions.
#[derive(Clone)]
pub(super) struct Connection {
    slot: Arc<Slot>,
    idle_timeout: Duration,
    /// Longer than a request waits for its body, so that it can be answered.
    body_timeout: Duration,
}

impl Connection {
    /// The peer makes progress with a body: other connections are evicted before this one. The time that the body may
    /// take begins anew; that of its request does not.
    pub(super) fn progressed(&self) {
        self.slot.set_waiting(Instant::now() + self.body_timeout);
    }

    /// All of a body has been received.
    pub(super) fn body_complete(&self) {
        self.slot.body_complete();
    }

    /// All of a request has come: as long as this lives, the connection is not sent away.
    pub(super) fn waits(&self) -> BusyGuard {
        self.slot.set_busy();
        BusyGuard(self.clone())
    }
}

/// A request waits for the receiver.
pub(super) struct BusyGuard(Connection);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let Connection { slot, idle_timeout, .. } = &self.0;
        slot.set_idle(Instant::now() + *idle_timeout);
    }
}

/// The routes, for one connection.
#[derive(Clone)]
pub(crate) struct TrackedService {
    routes: TowerToHyperService<Router>,
    connection: Connection,
}

impl Service<Request<Incoming>> for TrackedService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        // A head has come: from here on it is the body that is waited for.
        let Connection { slot, body_timeout, .. } = &self.connection;
        slot.set_waiting(Instant::now() + *body_timeout);
        let after = match request.version() {
            Version::HTTP_2 => AfterHead::Multiplexed,
            _ if request.body().is_end_stream() => AfterHead::Head,
            _ => AfterHead::Body,
        };
        slot.head_complete(after);
        request.extensions_mut().insert(self.connection.clone());
        self.routes.call(request)
    }
}

/// Errors of `accept` that say nothing about the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
