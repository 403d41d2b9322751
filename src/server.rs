//! Builds the parts of a receiver, watches them, and stops them in the order of a webhook's path.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use strum::VariantArray;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{self, DatabaseServers, Settings, SettingsError};
use crate::credentials::Credentials;
use crate::db::queries::QueryPool;
use crate::db::{Bounds, ConnectionPool, Database, RetentionTarget, Session};
use crate::eachlabs::{Client, OwnUrl};
use crate::expected::ExpectedWatcher;
use crate::health::{Monitor, Observed};
use crate::http::{self, AdminState, Feed, Limiter, PortShutdown, WebhookState};
use crate::http_client::reachable;
use crate::logging::LineLimit;
use crate::memory::MemoryBudget;
use crate::metrics::{Metrics, Port};
use crate::reconcile::{Background, Gap, ReconciledUntil, Reconciler};
use crate::recorder::{self, Recorder, RecorderHealth, Sequencer, StuckStatus};
use crate::retention::{Pruner, RetentionState};
use crate::shutdown::Shutdown;
use crate::spool::{self, BatchLimits, Seq, Spool, SpoolError, SpoolStatus};
use crate::traces::Traces;
use crate::verification::{
    Checker, PredictionSearch, UnverifiedLimit, UnverifiedMeter, VerificationStatus, Verifier,
};

/// Time limit for the parts to end by themselves after the drain. Then they are aborted, with the same time limit.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for the export of the last spans.
const LAST_SPANS_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections of the admin port, in addition to `http.max_connections`.
const ADMIN_CONNECTIONS: usize = 64;
/// Open files that are not connections: spool, PostgreSQL, log.
const OTHER_FILES: usize = 64;

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
    #[error("opening the spool panicked: a bug")]
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
pub struct Progress {
    spool: watch::Receiver<SpoolStatus>,
    acked: watch::Receiver<Seq>,
    recorder: watch::Receiver<RecorderHealth>,
}

impl Progress {
    /// Returns once all deliveries that were spooled before the call are in PostgreSQL.
    pub async fn all_recorded(&mut self) {
        let last_seq = self.spool.borrow().last_seq;
        let _ = self.acked.wait_for(|acked| *acked >= last_seq).await;
    }

    /// Returns once the receiver has reached PostgreSQL and migrated its schema.
    pub async fn recording(&mut self) {
        let _ = self.recorder.wait_for(|health| matches!(health, RecorderHealth::Working)).await;
    }

    /// The number of spooled deliveries that are not known to be in PostgreSQL.
    #[must_use]
    pub fn waiting(&self) -> i64 {
        self.spool.borrow().last_seq - *self.acked.borrow()
    }
}

impl Server {
    /// Builds and starts the parts. PostgreSQL may be unreachable: deliveries wait in the spool.
    ///
    /// # Errors
    /// [`StartError`].
    #[expect(clippy::too_many_lines, reason = "the list of all parts")]
    pub async fn start(
        settings: &Settings,
        database: impl Into<DatabaseServers>,
    ) -> Result<Self, StartError> {
        settings.require_auth_off_loopback()?;
        let webhook_listener = listen("http.listen", settings.http.listen).await?;
        let admin_listener = listen("admin.listen", settings.admin.listen).await?;
        let (webhook_address, admin_address) = (address_of(&webhook_listener), address_of(&admin_listener));

        // Shared by several parts.
        let metrics = new_metrics(settings);
        let (traces, exporter) = Traces::new(&settings.traces, &metrics)?.unzip();
        let spool = open_spool(settings.spool.clone(), settings.intake.capacity, metrics.clone()).await?;
        let Spool { is_new, handle: spool, reader, acks, status: spool_status, intake, writer } = spool;
        let credentials = Credentials::new(settings, database.into());
        let database = credentials.database.clone();
        let requests = Limiter::new(settings.http.max_requests);
        let memory = MemoryBudget::new(settings.http.max_bytes_in_flight);
        let [leaving, stop, give_up, end_export] = <[CancellationToken; 4]>::default();

        // Channels with the latest state of a part.
        let acked_seq = acks.subscribe();
        let (recorder_health, recorder_health_rx) = watch::channel(RecorderHealth::default());
        let (stuck_status, stuck_rx) = watch::channel(StuckStatus::default());
        let has_retention = settings.retention.removes_something();
        let (retention, retention_rx) = watch::channel(RetentionState::before_first_round(has_retention));
        let weak_spool = spool.downgrade();
        let progress = Progress {
            spool: spool_status.clone(),
            acked: acked_seq.clone(),
            recorder: recorder_health_rx.clone(),
        };

        let recording_pool = Arc::new(recording_pool(&settings.database, database.clone()));
        let (numbered, numbered_rx) = watch::channel(());
        let sequencer = Sequencer {
            pool: recording_pool.clone(),
            statement_timeout: settings.database.statement_timeout,
            committed: Arc::default(),
            recording: recorder_health_rx.clone(),
            numbered,
            metrics: metrics.clone(),
        };
        let unverified_stored = Arc::<Notify>::default();
        let unverified_limit = Arc::new(UnverifiedLimit::new(settings.verification));
        let recorder = Recorder {
            pool: recording_pool.clone(),
            statement_timeout: settings.database.statement_timeout,
            limits: BatchLimits { rows: settings.recorder.batch_rows, bytes: settings.recorder.batch_bytes },
            connections: settings.recorder.connections,
            bounds: Bounds { quarantine: settings.quarantine, conflicts: settings.conflicts },
            max_backoff: settings.recorder.max_backoff,
            metrics: metrics.clone(),
            traces: traces.clone(),
            spool: spool_status.clone(),
            acks,
            health: recorder_health,
            stuck_status,
            sequencer,
            unverified_stored: unverified_stored.clone(),
            give_up: give_up.clone(),
            shared: recorder::SharedState::default(),
        };
        let pruner = has_retention.then(|| Pruner {
            database: database.clone(),
            settings: settings.database.clone(),
            retention: settings.retention,
            backoff: settings.recorder.max_backoff,
            metrics: metrics.clone(),
            recording: recorder_health_rx.clone(),
            state: retention,
            stop: stop.clone(),
        });
        let watcher = ExpectedWatcher {
            pool: recording_pool.clone(),
            metrics: metrics.clone(),
            acked: acked_seq.clone(),
            recording: recorder_health_rx.clone(),
        };
        let client =
            Client::new(&settings.eachlabs, settings.http.max_body_bytes, metrics.clone())?.map(Arc::new);
        let (is_on, has_key) = (settings.auth.verify_unsigned, client.is_some());
        let (verification, verification_rx) =
            watch::channel(VerificationStatus { is_on, has_key, ..VerificationStatus::default() });
        let own_url = settings.eachlabs.public_url()?.as_ref().map(OwnUrl::new);
        let max_per_minute = settings.verification.max_requests_per_minute;
        // A quarter of the requests is for predictions only: outsiders can cause many requests with false predictions.
        let for_predictions = max_per_minute / 4;
        let meter = UnverifiedMeter {
            pool: recording_pool.clone(),
            metrics: metrics.clone(),
            limit: unverified_limit.clone(),
            status: verification.clone(),
            recording: recorder_health_rx.clone(),
            spool: spool_status.clone(),
            acked: acked_seq.clone(),
        };
        let verifier = client.as_ref().map(|client| Verifier {
            checker: Checker {
                client: client.without_retries(max_per_minute - for_predictions),
                predictions: PredictionSearch::new(client.without_retries(for_predictions)),
                own_url: own_url.clone(),
                credentials: credentials.clone(),
            },
            max_requests: settings.eachlabs.max_requests,
            spool: weak_spool.clone(),
            memory: memory.clone(),
            pool: recording_pool.clone(),
            metrics: metrics.clone(),
            grace: settings.verification.grace,
            quarantine: settings.quarantine,
            status: verification,
            stored: unverified_stored,
            recording: recorder_health_rx.clone(),
            stop: stop.clone(),
            receiver_id: rand::random(),
        });
        let reconciler = client.map(|client| {
            Arc::new(Reconciler {
                client,
                own_url,
                credentials: credentials.clone(),
                spool: weak_spool,
                spool_status: spool_status.clone(),
                acked: acked_seq.clone(),
                memory: memory.clone(),
                pool: recording_pool.clone(),
                metrics: metrics.clone(),
                running: Mutex::default(),
            })
        });
        let recording = recorder_health_rx.clone();
        let observed = Observed {
            spool: spool_status.clone(),
            intake: intake.clone(),
            acked: acked_seq,
            recording: recorder_health_rx,
            stuck: stuck_rx,
            retention: retention_rx,
            verification: verification_rx,
        };
        let health_pool = query_pool(settings, database.clone(), "workflow-receiver health", 1);
        let (health, mut background_tasks) =
            Monitor::start(settings, health_pool, metrics.clone(), observed, leaving.clone());
        let read_connections = settings.admin.read_connections;
        let read_pool =
            Arc::new(query_pool(settings, database, "workflow-receiver reading", read_connections));
        background_tasks.spawn(watcher.run());
        background_tasks.spawn(intake.answer_while_stalled().map(|never| match never {}));
        background_tasks.spawn(meter.run());
        let feed = Feed::new(read_pool.clone());
        let admin = AdminState {
            requests: requests.clone(),
            memory: memory.clone(),
            intake: spool.depth(),
            metrics: metrics.clone(),
            spool: spool_status,
            health: health.clone(),
            closing: give_up.clone(),
            heartbeat: settings.admin.heartbeat,
            pool: read_pool,
            registration_pool: recording_pool,
            overdue_after: settings.expected.overdue_after,
            feed: feed.clone(),
            settings: Arc::new(settings.clone()),
            webhook_address,
            credentials: credentials.clone(),
            ended_sessions: Arc::default(),
            reconciler: reconciler.clone(),
        };
        let background = reconciler.filter(|_| settings.reconcile.enabled).map(|reconciler| Background {
            reconciler,
            settings: settings.reconcile,
            reconciled_until: ReconciledUntil::new(&settings.spool.dir, is_new),
            storing: std::sync::Mutex::default(),
            health: health.clone(),
            recording,
            stop: stop.clone(),
            gap: Gap::default(),
        });
        let webhook = WebhookState {
            spool,
            metrics: metrics.clone(),
            credentials: credentials.clone(),
            requests,
            memory,
            unverified: unverified_limit,
            max_body_bytes: settings.http.max_body_bytes,
            body_timeout: settings.http.body_timeout,
            long_references: LineLimit::default(),
            secret_references: LineLimit::default(),
            traces,
        };
        let (webhook_limits, admin_limits) = connection_limits(&settings.http);
        background_tasks.spawn(feed.run(numbered_rx).map(|never| match never {}));
        let public_health = settings.http.health.then_some(health);
        let (webhook, admin) = (http::webhook_router(webhook, public_health), http::admin_router(admin));
        let stops = PortShutdown { leaving: leaving.clone(), stop: stop.clone() };
        let webhook =
            http::serve(webhook_listener, webhook, webhook_limits, Port::Webhooks, metrics.clone(), stops);
        let stops = PortShutdown { leaving: give_up.clone(), stop: give_up.clone() };
        let admin = http::serve(admin_listener, admin, admin_limits, Port::Admin, metrics, stops);

        let mut parts = JoinSet::new();
        parts.spawn_blocking(move || ("the spool's writer", writer.run().map_err(Into::into)));
        parts.spawn(recorder.run(reader).map(|ended| ("the recorder", ended.map_err(Into::into))));
        parts.spawn(webhook.map(|()| ("the webhook port", Ok(()))));
        parts.spawn(admin.map(|()| ("the admin port", Ok(()))));
        if let Some(pruner) = pruner {
            parts.spawn(pruner.run().map(|()| ("the pruner", Ok(()))));
        }
        if let Some(background) = background {
            parts.spawn(background.run().map(|()| ("the reconciliation", Ok(()))));
        }
        if let Some(verifier) = verifier {
            parts.spawn(verifier.run().map(|()| ("the verification", Ok(()))));
        }
        let exporter = exporter.map(|exporter| exporter.run(end_export.clone())).into_iter().collect();
        Ok(Self {
            webhook_address,
            admin_address,
            shutdown: settings.shutdown,
            progress,
            credentials,
            parts,
            leaving,
            stop,
            give_up,
            exporter,
            end_export,
            _background_tasks: background_tasks,
        })
    }

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
        Ok((part, Ok(()))) => RunError::PartEnded { part, reason: "without an error: a bug".to_owned() },
        Ok((part, Err(error))) => RunError::PartEnded { part, reason: error.to_string() },
        // The panic's text may contain a body.
        Err(_) => RunError::PartEnded { part: "a part", reason: "it panicked: a bug".to_owned() },
    }
}

/// The metrics, with a series for each retention target from the start.
fn new_metrics(settings: &Settings) -> Arc<Metrics> {
    let metrics = Metrics::new();
    metrics.spool_max.set(i64::try_from(settings.spool.max_bytes).unwrap_or(i64::MAX));
    for target in RetentionTarget::VARIANTS {
        metrics.pruned(target.as_str(), 0);
    }
    Arc::new(metrics)
}

/// Opens the spool on a blocking thread: checking or repairing a large one takes long.
async fn open_spool(
    settings: config::Spool,
    capacity: usize,
    metrics: Arc<Metrics>,
) -> Result<Spool, StartError> {
    let open = spawn_blocking(move || spool::open(&settings, capacity, &metrics));
    Ok(open.await.map_err(|_| StartError::Panicked)??)
}

fn recording_pool(settings: &config::Database, database: Database) -> ConnectionPool {
    let config::Database { migrate, statement_timeout, .. } = *settings;
    ConnectionPool::new(database, Session::Recording { migrate }, statement_timeout)
}

fn query_pool(settings: &Settings, database: Database, name: &'static str, connections: usize) -> QueryPool {
    QueryPool::new(database, name, connections, settings.admin.statement_timeout)
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { key, address, source })
}

/// The listener's address, with the port that the system chose for port 0.
fn address_of(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
}

/// The limits of the public and the admin port. Each connection is an open file, so the process's limit of open files is
/// raised as far as the system allows.
fn connection_limits(settings: &config::Http) -> (http::ConnectionLimits, http::ConnectionLimits) {
    let config::Http { max_connections, header_timeout, body_timeout, idle_timeout, .. } = *settings;
    let allowed = raise_open_files(max_connections + ADMIN_CONNECTIONS + OTHER_FILES);
    let connections = max_connections.min(allowed.saturating_sub(ADMIN_CONNECTIONS + OTHER_FILES)).max(1);
    if connections < max_connections {
        tracing::warn!(
            allowed,
            connections,
            "the limit of open files (ulimit -n) is too low for http.max_connections: using fewer connections"
        );
    }
    let limits = |connections, half_close| http::ConnectionLimits {
        connections,
        header_timeout,
        body_timeout,
        idle_timeout,
        half_close,
    };
    // Without half-close on the admin port, an event stream ends as soon as its client closes the connection.
    (limits(connections, true), limits(ADMIN_CONNECTIONS, false))
}

/// Raises the limit of open files to `wanted` or to the hard limit. Returns the limit in force.
fn raise_open_files(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let possible = limit.maximum.map_or(wanted, |maximum| wanted.min(maximum));
    let current = limit.current.unwrap_or(u64::MAX);
    let raised = current < possible
        && setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum: limit.maximum }).is_ok();
    usize::try_from(if raised { possible } else { current }).unwrap_or(usize::MAX)
}
