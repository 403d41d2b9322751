//! A running receiver: watches its parts, and stops them in the order of a webhook's path.

mod start;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{self, SettingsError};
use crate::credentials::Credentials;
use crate::http;
use crate::http_client::reachable;
use crate::recorder::RecorderView;
use crate::shutdown::Shutdown;
use crate::spool::SpoolError;

/// Time limit for the parts to end by themselves after the drain. Then they are aborted, with the same time limit.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for the export of the last spans.
const LAST_SPANS_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a receiver did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is invalid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The receiver cannot listen on an address.
    #[error("{key} = {address}: {source}")]
    Listen {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A bug.
    #[error("opening the spool panicked (a bug)")]
    Panicked,
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// Why a running receiver ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A part ended by itself. The receiver cannot work without it, so the other parts were stopped.
    #[error("{part} ended: {reason}")]
    PartEnded {
        /// The name of the part.
        part: &'static str,
        /// Why it ended.
        reason: String,
    },
    /// A second signal, or another request to stop immediately.
    #[error("stopped immediately; deliveries that are not recorded stay in the spool for the next start")]
    StoppedImmediately,
}

/// A part's name, and how it ended.
type PartResult = (&'static str, Result<(), Box<dyn Error + Send + Sync>>);

/// A running receiver.
#[derive(Debug)]
pub struct Server {
    webhook_address: SocketAddr,
    admin_address: SocketAddr,
    shutdown: config::Shutdown,
    progress: Progress,
    credentials: Arc<Credentials>,
    /// The admin port is the last one to end.
    parts: JoinSet<PartResult>,
    /// Readiness fails, and responses close their connections. Webhooks are still accepted.
    leaving: CancellationToken,
    /// Ends the webhook port, the pruner, the reconciliation and the verification. The spool's writer ends after the webhook
    /// port, and the recorder once the spool is empty.
    stop: CancellationToken,
    /// Ends the recorder, even if the spool is not empty, and the admin port.
    give_up: CancellationToken,
    /// Ends after the parts, to export their last spans.
    exporter: JoinSet<()>,
    end_export: CancellationToken,
    /// Tasks that measure or follow other parts: health, expected executions, unsigned webhooks, stalled writes of the spool,
    /// the change feed. Dropping the set aborts them.
    _background_tasks: JoinSet<()>,
}

/// Shows which deliveries are in the spool and which are in PostgreSQL.
#[derive(Debug, Clone)]
pub struct Progress(RecorderView);

impl Progress {
    /// Returns once all deliveries that were spooled before the call are in PostgreSQL.
    pub async fn all_recorded(&mut self) {
        self.0.until_recorded().await;
    }

    /// Returns once the receiver has reached PostgreSQL and migrated its schema.
    pub async fn recording(&mut self) {
        self.0.until_working().await;
    }

    /// The number of spooled deliveries that are not known to be in PostgreSQL.
    #[must_use]
    pub fn waiting(&self) -> i64 {
        self.0.spool.borrow().last_seq - *self.0.acked.borrow()
    }
}

impl Server {
    /// The URL for webhooks.
    #[must_use]
    pub fn webhook_url(&self) -> String {
        format!("http://{}{}", self.webhook_address, http::WEBHOOK_PATH)
    }

    /// The address of the admin port.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The URL of the console on this machine.
    #[must_use]
    pub fn console_url(&self) -> String {
        format!("http://{}/", reachable(self.admin_address()))
    }

    /// Shows which deliveries are in the spool and which are in PostgreSQL.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Runs until `shutdown`. Then readiness fails, and webhooks are accepted for `shutdown.grace`. After that the parts
    /// stop in the order of a webhook's path: the webhook port answers the requests in flight, the spool is recorded, and
    /// the admin port closes last.
    ///
    /// # Errors
    /// [`RunError`] if a part ended by itself, or after a request to stop immediately.
    pub async fn run(mut self, shutdown: &Shutdown) -> Result<(), RunError> {
        let credentials = self.credentials.clone();
        let ended = tokio::select! {
            ended = self.run_until_drained(shutdown) => ended,
            never = credentials.follow(&shutdown.reload) => match never {},
        };
        // Ends the recorder, and the admin port with its event streams.
        self.give_up.cancel();
        if ended.is_ok() {
            let _ = timeout(STOP_TIMEOUT, async { while self.parts.join_next().await.is_some() {} }).await;
        }
        let _ = timeout(STOP_TIMEOUT, self.parts.shutdown()).await;
        self.end_export.cancel();
        tokio::select! {
            _ = timeout(LAST_SPANS_TIMEOUT, self.exporter.join_next()) => {}
            () = shutdown.immediate.cancelled() => {}
        }
        ended
    }

    async fn run_until_drained(&mut self, shutdown: &Shutdown) -> Result<(), RunError> {
        tokio::select! {
            () = shutdown.graceful.cancelled() => {}
            Some(ended) = self.parts.join_next() => return Err(part_ended(ended)),
        }
        let config::Shutdown { grace, drain_timeout } = self.shutdown;
        self.leaving.cancel();
        if !grace.is_zero() {
            tracing::info!(?grace, "/health/ready fails; webhooks are still accepted for shutdown.grace");
        }
        tokio::select! {
            () = sleep(grace) => {}
            Some(ended) = self.parts.join_next() => return Err(part_ended(ended)),
            () = shutdown.immediate.cancelled() => return Err(RunError::StoppedImmediately),
        }
        self.stop.cancel();
        let deadline = Instant::now() + drain_timeout;
        tokio::select! {
            drained = self.only_admin_left() => drained,
            () = sleep_until(deadline) => {
                let waiting = self.progress.waiting();
                tracing::warn!(waiting, "shutdown.drain_timeout is over: unrecorded deliveries stay in the spool");
                Ok(())
            }
            () = shutdown.immediate.cancelled() => Err(RunError::StoppedImmediately),
        }
    }

    async fn only_admin_left(&mut self) -> Result<(), RunError> {
        while self.parts.len() > 1 {
            match self.parts.join_next().await {
                Some(Ok((_, Ok(())))) | None => {}
                Some(ended) => return Err(part_ended(ended)),
            }
        }
        Ok(())
    }
}

fn part_ended(ended: Result<PartResult, JoinError>) -> RunError {
    match ended {
        Ok((part, Ok(()))) => RunError::PartEnded { part, reason: "it returned no error (a bug)".to_owned() },
        Ok((part, Err(error))) => RunError::PartEnded { part, reason: error.to_string() },
        // The panic's text may contain a body.
        Err(_) => RunError::PartEnded { part: "a part", reason: "it panicked (a bug)".to_owned() },
    }
}
