//! Connections: taken, limited, served, closed.
//!
//! HTTP/1.0, HTTP/1.1, and HTTP/2 without TLS for proxies that speak it. TLS is theirs.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::slots::{Slot, Slots};
use crate::metrics::Metrics;

/// The largest head of a request, in bytes; larger ones are answered 431.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
/// How often those that are late are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// When the system has no room for another connection, how long until it is asked again.
const BREATHER: Duration = Duration::from_millis(50);

/// To who comes when every connection waits for the receiver.
const NO_PLACE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What the connections of a port may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// At once.
    pub(crate) connections: usize,
    /// Until the head of the first request is there.
    pub(crate) header_timeout: Duration,
    /// Between requests.
    pub(crate) idle_timeout: Duration,
}

/// Serves `routes` until `stop`, then answers the requests in hand. Dropping it closes all
/// connections.
///
/// # Errors
/// None so far: a listener that fails is tried again.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> io::Result<()> {
    let slots = Slots::new(limits.connections);
    let protocol = protocol();
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => slots.evict_late(),
            Some(ended) = connections.join_next() => ended.unwrap_or_else(|_| metrics.panicked()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Some(slot) = slots.take() else {
                        metrics.connection_refused();
                        // It fits a fresh socket's buffer, so there is nothing to wait for.
                        let _ = stream.try_write(NO_PLACE);
                        continue;
                    };
                    let slot = Arc::new(slot);
                    slot.waited_for(Instant::now() + limits.header_timeout);
                    let service = Tracked {
                        routes: TowerToHyperService::new(routes.clone()),
                        slot: slot.clone(),
                        open: Arc::default(),
                        idle_timeout: limits.idle_timeout,
                    };
                    let connection = graceful.watch(connection(&protocol, stream, service));
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
                    slots.evict_longest();
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
            _ = look.tick() => slots.evict_late(),
        }
    }
}

fn protocol() -> auto::Builder<TokioExecutor> {
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
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
    protocol
}

fn connection(
    protocol: &auto::Builder<TokioExecutor>,
    stream: TcpStream,
    service: Tracked,
) -> auto::Connection<'static, TokioIo<TcpStream>, Tracked, TokioExecutor> {
    // An answer is one small packet, and there is nothing to wait for.
    let _ = stream.set_nodelay(true);
    protocol.serve_connection(TokioIo::new(stream), service).into_owned()
}

/// The routes, for one connection: says whether it waits for the receiver, or the receiver for it.
#[derive(Clone)]
struct Tracked {
    routes: TowerToHyperService<Router>,
    slot: Arc<Slot>,
    /// Requests in hand: over HTTP/2 there may be several.
    open: Arc<AtomicUsize>,
    idle_timeout: Duration,
}

impl Service<Request<Incoming>> for Tracked {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.slot.waits();
        let in_hand = InHand(self.clone());
        let answer = self.routes.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(in_hand);
            answer
        })
    }
}

/// A request in hand; over HTTP/2 it may be dropped before it is answered.
struct InHand(Tracked);

impl Drop for InHand {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.slot.waited_for(Instant::now() + self.0.idle_timeout);
        }
    }
}

/// Errors of `accept` that say nothing about the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
