//! Accepts, limits and serves connections: HTTP/1.0, HTTP/1.1, and HTTP/2 without TLS. TLS is the task of a proxy.

pub(super) mod activity;
mod ended;
pub(super) mod limiter;
mod stream;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use futures_util::FutureExt;
use futures_util::future::Map;
use hyper::body::{Body as _, Incoming};
use hyper::service::Service;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use self::ended::{ConnectionResult, Ended, Endings};
use self::limiter::{Limiter, Received, Slot};
use self::stream::{ConnectionStream, LARGE_HEADS};
use crate::metrics::{Metrics, Port};

/// The largest head of a request, in bytes; larger ones are answered 431. Also the largest read buffer of a connection.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// The largest decoded head over HTTP/2.
const MAX_HTTP2_HEAD_BYTES: u32 = 16 << 10;
/// The largest buffer of an HTTP/2 connection for bodies that are not read yet, such as those that wait for memory.
const HTTP2_WINDOW_BYTES: u32 = 64 << 10;
/// Concurrent requests on one HTTP/2 connection.
const MAX_STREAMS: u32 = 32;
/// After `body_timeout`, the time to answer 408 before the connection is closed.
const RESPONSE_GRACE: Duration = Duration::from_secs(2);
/// How long a peer may leave sent data unacknowledged, or keep its receive window closed.
#[cfg(target_os = "linux")]
const UNREAD_MILLIS: u32 = 30_000;
/// How often expired connections are evicted.
const EVICT_INTERVAL: Duration = Duration::from_millis(100);
/// Pause after a failed `accept`, for example because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After the stop, the time for the first request of a connection that has sent nothing yet.
const FIRST_REQUEST: Duration = Duration::from_secs(2);
/// The largest number of connections that are accepted after the stop. The kernel queues fewer.
const MAX_QUEUED: usize = 4096;

/// Limits of a port's connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// Concurrent connections.
    pub(crate) connections: usize,
    /// Time for the head of the first request.
    pub(crate) header_timeout: Duration,
    /// Time from a head to the end of its body.
    pub(crate) body_timeout: Duration,
    /// Time between requests.
    pub(crate) idle_timeout: Duration,
    /// Whether a client that has closed its sending direction still gets its response. Otherwise its requests end at once:
    /// a client that has closed the whole connection looks the same until data is sent to it.
    pub(crate) half_close: bool,
}

/// The two steps in which a port stops.
#[derive(Debug, Clone)]
pub(crate) struct PortShutdown {
    /// After this, each HTTP/1 response closes its connection, so that proxies reuse no connection.
    pub(crate) leaving: CancellationToken,
    /// After this, only the connections in the kernel's queue are accepted. Cancelled together with `leaving` or later.
    pub(crate) stop: CancellationToken,
}

/// Serves `routes` until `shutdown.stop`, then answers the requests in flight, and the first request of each new
/// connection. Dropping the future closes all connections. A failed `accept` is retried.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: ConnectionLimits,
    port: Port,
    metrics: Arc<Metrics>,
    shutdown: PortShutdown,
) {
    let endings = Arc::new(Endings::new(port, metrics.clone()));
    let limiter = Limiter::new(limits.connections);
    let large_heads = Limiter::new(LARGE_HEADS);
    let protocol = protocol(limits.half_close);
    let mut connections = JoinSet::new();
    let open = |stream: TcpStream, connections: &mut JoinSet<()>| {
        let Some(slot) = limiter.acquire() else {
            metrics.connections_rejected.inc();
            return;
        };
        // A response is one small packet: do not delay it.
        let _ = stream.set_nodelay(true);
        limit_unread(&stream);
        let slot = Arc::new(slot);
        let peer = stream.peer_addr().ok().map(|address| address.ip());
        let stream = ConnectionStream::new(stream, &slot, &large_heads, limits.header_timeout);
        let leaving = shutdown.leaving.clone();
        let connection = serve_connection(&protocol, stream, peer, routes.clone(), &slot, limits, leaving);
        let (stop, endings) = (shutdown.stop.clone(), endings.clone());
        connections.spawn(async move {
            let ended = tokio::select! {
                closed = run_connection(connection, &slot, &stop) => Ended::Closed(closed),
                () = slot.evicted() => Ended::Evicted,
            };
            endings.count(&slot, &ended);
        });
    };
    let mut evict = interval(EVICT_INTERVAL);
    evict.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.stop.cancelled() => break,
            _ = evict.tick() => limiter.evict_expired(),
            Some(ended) = connections.join_next() => ended.unwrap_or_else(|_| metrics.panicked()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => open(stream, &mut connections),
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    limiter.evict_oldest();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    for stream in queued(listener) {
        open(stream, &mut connections);
    }
    loop {
        tokio::select! {
            ended = connections.join_next() => match ended {
                Some(ended) => ended.unwrap_or_else(|_| metrics.panicked()),
                None => return,
            },
            _ = evict.tick() => limiter.evict_expired(),
        }
    }
}

/// Makes the kernel end a connection whose peer does not read its response. The rest of the response may fit into the
/// kernel's send buffer, so the receiver itself would not notice.
fn limit_unread(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, UNREAD_MILLIS);
}

/// Closes the listener. Returns the connections in the kernel's queue, which would be reset otherwise.
fn queued(listener: TcpListener) -> Vec<TcpStream> {
    let accept = |listener: &std::net::TcpListener| {
        let (stream, _) = listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        TcpStream::from_std(stream).ok()
    };
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    std::iter::from_fn(|| accept(&listener)).take(MAX_QUEUED).collect()
}

/// Serves a connection until its end. After `stop`, answers the request in flight, if there is one.
async fn run_connection<S>(
    connection: ServedConnection<S>,
    slot: &Slot,
    stop: &CancellationToken,
) -> ConnectionResult
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = pin!(connection);
    let stopped = async {
        stop.cancelled().await;
        // A peer that has just connected sends its request now, and may not send it again. The response closes the
        // connection.
        if slot.received() == Received::Nothing {
            sleep(FIRST_REQUEST).await;
        }
    };
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stopped => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

pub(crate) fn protocol(half_close: bool) -> auto::Builder<TokioExecutor> {
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    protocol
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .half_close(half_close)
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

pub(crate) type ServedConnection<S> = auto::Connection<'static, TokioIo<S>, TrackedService, TokioExecutor>;

pub(crate) fn serve_connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    protocol: &auto::Builder<TokioExecutor>,
    stream: S,
    peer: Option<IpAddr>,
    routes: Router,
    slot: &Arc<Slot>,
    limits: ConnectionLimits,
    leaving: CancellationToken,
) -> ServedConnection<S> {
    slot.set_waiting(Instant::now() + limits.header_timeout);
    let service = TrackedService {
        routes: TowerToHyperService::new(routes),
        connection: Connection {
            slot: slot.clone(),
            idle_timeout: limits.idle_timeout,
            body_timeout: limits.body_timeout + RESPONSE_GRACE,
            peer,
        },
        leaving,
    };
    protocol.serve_connection(TokioIo::new(stream), service).into_owned()
}

/// The connection of a request: an extension of the request.
#[derive(Clone)]
pub(super) struct Connection {
    slot: Arc<Slot>,
    idle_timeout: Duration,
    /// Includes [`RESPONSE_GRACE`].
    body_timeout: Duration,
    peer: Option<IpAddr>,
}

impl Connection {
    /// The address of the peer, which may be a proxy.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// The peer made progress with a body: other connections are evicted before this one. Restarts the time limit of the
    /// connection; the time limit of the request continues.
    pub(super) fn progressed(&self) {
        self.slot.set_waiting(Instant::now() + self.body_timeout);
    }

    /// A body has been received completely.
    pub(super) fn body_complete(&self) {
        self.slot.body_complete();
    }

    /// The peer waits for the receiver: the connection is not evicted while the guard lives.
    pub(super) fn busy(&self) -> BusyGuard {
        self.slot.set_busy();
        BusyGuard(self.clone())
    }
}

/// See [`Connection::busy`].
pub(super) struct BusyGuard(Connection);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let Connection { slot, idle_timeout, .. } = &self.0;
        slot.set_idle(Instant::now() + *idle_timeout);
    }
}

/// The routes for one connection. Tracks what the connection waits for.
#[derive(Clone)]
pub(crate) struct TrackedService {
    routes: TowerToHyperService<Router>,
    connection: Connection,
    /// See [`PortShutdown::leaving`].
    leaving: CancellationToken,
}

type ServiceResult = Result<Response<Body>, Infallible>;

impl Service<Request<Incoming>> for TrackedService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Map<
        <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future,
        fn(ServiceResult) -> ServiceResult,
    >;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        // The head is complete: the receiver now waits for the body.
        let Connection { slot, body_timeout, .. } = &self.connection;
        slot.set_waiting(Instant::now() + *body_timeout);
        slot.head_complete(match request.version() {
            Version::HTTP_2 => Received::Multiplexed,
            _ if request.body().is_end_stream() => Received::Requests,
            _ => Received::Head,
        });
        let announce: fn(ServiceResult) -> ServiceResult = match request.version() {
            // HTTP/2 has no such header: its connections end with GOAWAY at `PortShutdown::stop`.
            Version::HTTP_2 => std::convert::identity,
            _ if self.leaving.is_cancelled() => close_connection,
            _ => close_after_too_large,
        };
        request.extensions_mut().insert(self.connection.clone());
        self.routes.call(request).map(announce)
    }
}

fn close_connection(response: ServiceResult) -> ServiceResult {
    response.map(|mut response| {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    })
}

/// hyper closes a connection whose request has a large unread rest of a body. Without the header `Connection: close`, the
/// client would send its next request on this connection.
fn close_after_too_large(response: ServiceResult) -> ServiceResult {
    let too_large = |response: &Response<Body>| response.status() == StatusCode::PAYLOAD_TOO_LARGE;
    if response.as_ref().is_ok_and(too_large) { close_connection(response) } else { response }
}

/// Whether an error of `accept` concerns one connection and not the listener.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
