//! What the fuzz targets (`fuzz/`) need of what is private. Built with `--cfg fuzzing` only.

use std::sync::Arc;

use axum::Router;
use bytes::Bytes;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::interval;

use crate::auth::Method;
use crate::config::Settings;
use crate::credentials::Credentials;
use crate::db::{self, Fit};
use crate::http::{self, Limits, Slots};
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::spool::{PendingDelivery, SpoolHandle};

/// Whether jsonb holds all of a JSON text; `None` when it would not take it, or would write it much longer.
#[must_use]
pub fn fit(text: &str) -> Option<bool> {
    match store::fit(text) {
        Fit::Whole => Some(true),
        Fit::Partly => Some(false),
        Fit::Not => None,
    }
}

/// Whether jsonb would write a JSON text much longer.
#[must_use]
pub fn expands(text: &str) -> bool {
    store::expands(text)
}

/// The public port without a socket, before a spool that keeps everything at once.
#[derive(Debug)]
pub struct Door {
    routes: Router,
    protocol: auto::Builder<TokioExecutor>,
    limits: Limits,
    connections: Arc<Slots>,
    requests: Arc<Slots>,
    memory: MemoryBudget,
    arrivals: mpsc::Receiver<Arrival>,
}

/// A delivery that the spool has acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    /// As it is recorded.
    pub body: Bytes,
    /// How it got in.
    pub authenticated_by: Option<Method>,
    /// Whether the answer is 200; otherwise it is 422.
    pub acknowledged: bool,
}

impl Door {
    /// As the receiver builds it.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let (intake, arrivals) = Intake::new(settings.intake.capacity);
        let requests = Slots::new(settings.http.max_requests);
        let memory = MemoryBudget::new(settings.http.max_bytes_in_flight);
        let routes = http::public(http::Door {
            intake,
            metrics: Arc::new(Metrics::new()),
            credentials: Credentials::new(settings, PgConnectOptions::new_without_pgpass()),
            requests: requests.clone(),
            memory: memory.clone(),
            max_body_bytes: settings.http.max_body_bytes,
            body_timeout: settings.http.body_timeout,
            traces: None,
        });
        let limits = Limits {
            connections: settings.http.max_connections,
            header_timeout: settings.http.header_timeout,
            body_timeout: settings.http.body_timeout,
            idle_timeout: settings.http.idle_timeout,
        };
        let connections = Slots::new(limits.connections);
        Self { routes, protocol: http::protocol(), limits, connections, requests, memory, arrivals }
    }

    /// Serves one connection, until all that it took is given back, and says what was kept.
    ///
    /// # Panics
    /// When a connection before has not given back its place.
    pub async fn serve<S>(&mut self, stream: S) -> Vec<Kept>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let slot = Arc::new(self.connections.take().expect("a place for one connection"));
        let routes = self.routes.clone();
        let connection = http::connection(&self.protocol, stream, routes, &slot, self.limits);
        tokio::spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = slot.evicted() => {}
            }
        });
        let mut kept = Vec::new();
        let mut look = interval(self.limits.idle_timeout / 4);
        while !(self.at_rest() && self.arrivals.is_empty()) {
            tokio::select! {
                Some(Arrival { delivery, receipt, .. }) = self.arrivals.recv() => {
                    kept.push(Kept {
                        body: delivery.body,
                        authenticated_by: delivery.authenticated_by,
                        acknowledged: delivery.acknowledged,
                    });
                    // The request may have gone.
                    let _ = receipt.send(Ok(()));
                }
                _ = look.tick() => self.connections.evict_late(),
            }
        }
        kept
    }

    /// Whether nothing is taken: no connection, no request, no memory.
    fn at_rest(&self) -> bool {
        self.connections.taken() + self.requests.taken() + self.memory.reserved() == 0
    }
}
