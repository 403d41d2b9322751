//! Access to private parts for the fuzz targets (`fuzz/`). Built with `--cfg fuzzing` only.

use std::sync::Arc;

use axum::Router;
use bytes::Bytes;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::auth::AuthMethod;
use crate::config::Settings;
use crate::credentials::Credentials;
use crate::execution::jsonb::{self, Fit};
use crate::http::{self, ConnectionLimits, Limiter, WebhookState};
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::spool::{PendingDelivery, SpoolHandle};
use crate::verification::UnverifiedLimit;

/// Whether jsonb stores all of a JSON text. `None` if jsonb refuses it or would expand it.
#[must_use]
pub fn fit(text: &str) -> Option<bool> {
    match jsonb::fit(text) {
        Fit::Whole => Some(true),
        Fit::Partly => Some(false),
        Fit::Not => None,
    }
}

/// Whether jsonb would write a JSON text much longer.
#[must_use]
pub fn expands(text: &str) -> bool {
    jsonb::expands(text)
}

/// The public port without a socket. Its spool accepts each delivery at once and stores nothing.
#[derive(Debug)]
pub struct FuzzServer {
    routes: Router,
    protocol: auto::Builder<TokioExecutor>,
    limits: ConnectionLimits,
    connections: Arc<Limiter>,
    requests: Arc<Limiter>,
    memory: MemoryBudget,
    pending: mpsc::Receiver<PendingDelivery>,
}

/// A delivery that the spool has accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// The body, decompressed.
    pub body: Bytes,
    /// How the sender was authenticated.
    pub authenticated_by: Option<AuthMethod>,
    /// Whether the response is 200; otherwise it is 422.
    pub acknowledged: bool,
}

impl FuzzServer {
    /// Built like the server's public port.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let (spool, pending) = SpoolHandle::new(settings.intake.capacity);
        let requests = Limiter::new(settings.http.max_requests);
        let memory = MemoryBudget::new(settings.http.max_bytes_in_flight);
        let state = WebhookState {
            spool,
            metrics: Arc::new(Metrics::new()),
            credentials: Credentials::new(settings, PgConnectOptions::new_without_pgpass().into()),
            requests: requests.clone(),
            memory: memory.clone(),
            max_body_bytes: settings.http.max_body_bytes,
            body_timeout: settings.http.body_timeout,
            long_references: crate::logging::LineLimit::default(),
            secret_references: crate::logging::LineLimit::default(),
            traces: None,
            unverified: Arc::new(UnverifiedLimit::new(
                settings.verification,
                crate::spool::UnverifiedSize::default(),
                tokio::sync::watch::Sender::default(),
            )),
        };
        let routes = http::webhook_router(state, None);
        let limits = ConnectionLimits {
            connections: settings.http.max_connections,
            header_timeout: settings.http.header_timeout,
            body_timeout: settings.http.body_timeout,
            idle_timeout: settings.http.idle_timeout,
            half_close: true,
        };
        let connections = Limiter::new(limits.connections);
        Self {
            routes,
            protocol: http::protocol(limits.half_close),
            limits,
            connections,
            requests,
            memory,
            pending,
        }
    }

    /// Serves one connection until it has released all resources. Returns the stored deliveries.
    ///
    /// # Panics
    /// If an earlier connection has not released its slot.
    pub async fn serve<S>(&mut self, stream: S) -> Vec<Stored>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let slot = Arc::new(self.connections.acquire().expect("a slot for one connection"));
        let routes = self.routes.clone();
        let connection = http::serve_connection(
            &self.protocol,
            stream,
            None,
            routes,
            &slot,
            self.limits,
            CancellationToken::new(),
        );
        tokio::spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = slot.evicted() => {}
            }
        });
        let mut stored = Vec::new();
        let mut evict = interval(self.limits.idle_timeout / 4);
        while !(self.is_idle() && self.pending.is_empty()) {
            tokio::select! {
                Some(mut pending) = self.pending.recv() => {
                    // The request may have been dropped.
                    pending.answer(Ok(()));
                    stored.push(Stored {
                        body: pending.delivery.body,
                        authenticated_by: pending.delivery.authenticated_by,
                        acknowledged: pending.delivery.acknowledged,
                    });
                }
                _ = evict.tick() => self.connections.evict_expired(),
            }
        }
        stored
    }

    /// Whether no connection, request or memory is in use.
    fn is_idle(&self) -> bool {
        self.connections.in_use() + self.requests.in_use() + self.memory.reserved() == 0
    }
}
