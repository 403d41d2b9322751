//! Builds and starts the parts of a receiver.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use strum::VariantArray;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{Progress, Server, StartError};
use crate::config::{self, DatabaseServers, Settings};
use crate::credentials::Credentials;
use crate::db::queries::QueryPool;
use crate::db::{Bounds, ConnectionPool, Database, RetentionTarget, Session};
use crate::eachlabs::{Client, OwnUrl};
use crate::expected::follow_expected;
use crate::health::{Monitor, Observed};
use crate::http::{self, AdminState, Feed, Limiter, PortShutdown, WebhookState};
use crate::logging::LineLimit;
use crate::memory::MemoryBudget;
use crate::metrics::{Metrics, Port};
use crate::reconcile::{Background, Reconciler};
use crate::recorder::{self, Recorder, RecorderHealth, RecorderView, Sequencer, StuckStatus};
use crate::retention::{Pruner, RetentionState};
use crate::spool::{
    self, AckHandle, BatchLimits, IntakeDepth, ReconciledUntil, Spool, SpoolHandle, UnverifiedSize,
    WeakSpoolHandle,
};
use crate::traces::Traces;
use crate::verification::{
    Checker, PredictionSearch, UnverifiedLimit, UnverifiedMeter, VerificationStatus, Verifier,
};

/// Connections of the admin port, in addition to `http.max_connections`.
const ADMIN_CONNECTIONS: usize = 64;
/// Open files that are not connections: spool, PostgreSQL, log.
const OTHER_FILES: usize = 64;

impl Server {
    /// Builds and starts the parts. PostgreSQL may be unreachable: deliveries wait in the spool.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        settings: &Settings,
        database: impl Into<DatabaseServers>,
    ) -> Result<Self, StartError> {
        settings.require_auth_off_loopback()?;
        let webhook_listener = listen("http.listen", settings.http.listen).await?;
        let admin_listener = listen("admin.listen", settings.admin.listen).await?;
        let (webhook_address, admin_address) = (address_of(&webhook_listener), address_of(&admin_listener));
        let metrics = new_metrics(settings);
        let (traces, exporter) = Traces::new(&settings.traces, &metrics)?.unzip();
        let client = Client::new(&settings.eachlabs, settings.http.max_body_bytes, metrics.clone())?;
        let own_url = settings.eachlabs.public_url()?.as_ref().map(OwnUrl::new);
        let opened = open_spool(settings.spool.clone(), settings.intake.capacity, metrics.clone()).await?;
        let Spool { handle: spool, reader, acks, status: spool_status, intake, writer, .. } = opened;
        // From here on, nothing fails.
        let [leaving, stop, give_up, end_export] = <[CancellationToken; 4]>::default();
        let credentials = Credentials::new(settings, database.into());
        let database = credentials.database.clone();
        let read_connections = settings.admin.read_connections;
        let read_pool = query_pool(settings, database.clone(), "workflow-receiver reading", read_connections);
        let (recorder_view, recorder_health, unverified) = RecorderView::new(spool_status, acks.subscribe());
        let shared = Shared {
            settings,
            metrics: metrics.clone(),
            traces,
            recording_pool: Arc::new(recording_pool(&settings.database, database.clone())),
            recorder: recorder_view,
            read_pool: Arc::new(read_pool),
            credentials: credentials.clone(),
            requests: Limiter::new(settings.http.max_requests),
            memory: MemoryBudget::new(settings.http.max_bytes_in_flight),
            unverified: Arc::new(unverified_limit(settings, opened.unverified, client.is_some())),
            spool: spool.downgrade(),
            stop: stop.clone(),
            give_up: give_up.clone(),
        };
        let progress = Progress(shared.recorder.clone());

        // The parts, and the tasks that measure or follow them.
        let (recorder, stuck, numbered) = shared.recorder(acks, recorder_health, unverified);
        let (pruner, retention) = shared.pruner();
        let (verifier, meter) = shared.verification(client.as_ref(), own_url.clone());
        let reconciler = client.map(|client| shared.reconciler(client, own_url));
        let observed = Observed {
            recorder: shared.recorder.clone(),
            intake: intake.clone(),
            stuck,
            retention,
            verification: shared.unverified.status.subscribe(),
        };
        let pool = query_pool(settings, database, "workflow-receiver health", 1);
        let (health, mut background_tasks) =
            Monitor::start(settings, pool, metrics.clone(), observed, leaving.clone());
        let background = reconciler.clone().filter(|_| settings.reconcile.enabled);
        let background = background
            .map(|reconciler| shared.background(reconciler, opened.reconciled_until, health.clone()));
        let feed = Feed::new(shared.read_pool.clone());
        let admin = shared.admin(webhook_address, spool.depth(), health.clone(), feed.clone(), reconciler);
        let public_health = settings.http.health.then_some(health);
        let webhook = http::webhook_router(shared.webhook(spool), public_health);
        let (webhook_limits, admin_limits) = connection_limits(&settings.http);
        let stops = PortShutdown { leaving: leaving.clone(), stop: stop.clone() };
        let webhook =
            http::serve(webhook_listener, webhook, webhook_limits, Port::Webhooks, metrics.clone(), stops);
        let stops = PortShutdown { leaving: give_up.clone(), stop: give_up.clone() };
        let admin = http::admin_router(admin);
        let admin = http::serve(admin_listener, admin, admin_limits, Port::Admin, metrics, stops);

        background_tasks.spawn(intake.answer_while_stalled().map(|never| match never {}));
        background_tasks.spawn(follow_expected(
            shared.recording_pool.clone(),
            shared.recorder.clone(),
            shared.metrics.clone(),
        ));
        background_tasks.spawn(meter.run());
        background_tasks.spawn(feed.run(numbered).map(|never| match never {}));
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
}

/// What several parts use.
struct Shared<'s> {
    settings: &'s Settings,
    metrics: Arc<Metrics>,
    traces: Option<Traces>,
    recording_pool: Arc<ConnectionPool>,
    recorder: RecorderView,
    read_pool: Arc<QueryPool>,
    credentials: Arc<Credentials>,
    requests: Arc<Limiter>,
    memory: MemoryBudget,
    unverified: Arc<UnverifiedLimit>,
    spool: WeakSpoolHandle,
    stop: CancellationToken,
    give_up: CancellationToken,
}

impl Shared<'_> {
    fn webhook(&self, spool: SpoolHandle) -> WebhookState {
        WebhookState {
            spool,
            metrics: self.metrics.clone(),
            credentials: self.credentials.clone(),
            requests: self.requests.clone(),
            memory: self.memory.clone(),
            unverified: self.unverified.clone(),
            max_body_bytes: self.settings.http.max_body_bytes,
            body_timeout: self.settings.http.body_timeout,
            long_references: LineLimit::default(),
            secret_references: LineLimit::default(),
            traces: self.traces.clone(),
        }
    }

    fn admin(
        &self,
        webhook_address: SocketAddr,
        intake: IntakeDepth,
        health: Monitor,
        feed: Feed,
        reconciler: Option<Arc<Reconciler>>,
    ) -> AdminState {
        AdminState {
            requests: self.requests.clone(),
            memory: self.memory.clone(),
            intake,
            metrics: self.metrics.clone(),
            recorder: self.recorder.clone(),
            health,
            closing: self.give_up.clone(),
            pool: self.read_pool.clone(),
            registration_pool: self.recording_pool.clone(),
            feed,
            settings: Arc::new(self.settings.clone()),
            webhook_address,
            credentials: self.credentials.clone(),
            ended_sessions: Arc::default(),
            reconciler,
        }
    }

    /// The recorder, its stuck deliveries, and a signal after changes were numbered.
    fn recorder(
        &self,
        acks: AckHandle,
        health: watch::Sender<RecorderHealth>,
        unverified: watch::Sender<UnverifiedSize>,
    ) -> (Recorder, watch::Receiver<StuckStatus>, watch::Receiver<()>) {
        let settings = self.settings;
        let (stuck, stuck_rx) = watch::channel(StuckStatus::default());
        let (numbered, numbered_rx) = watch::channel(());
        let sequencer = Sequencer {
            pool: self.recording_pool.clone(),
            committed: Arc::default(),
            recording: self.recorder.health.clone(),
            numbered,
            metrics: self.metrics.clone(),
        };
        let recorder = Recorder {
            pool: self.recording_pool.clone(),
            statement_timeout: settings.database.statement_timeout,
            limits: BatchLimits { rows: settings.recorder.batch_rows, bytes: settings.recorder.batch_bytes },
            connections: settings.recorder.connections,
            bounds: Bounds { quarantine: settings.quarantine, conflicts: settings.conflicts },
            max_backoff: settings.recorder.max_backoff,
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
            spool: self.recorder.spool.clone(),
            health,
            sequencer,
            unverified,
            give_up: self.give_up.clone(),
            shared: recorder::SharedState::new(stuck, acks),
        };
        (recorder, stuck_rx, numbered_rx)
    }

    /// The pruner if `retention.*` is set, and its state.
    fn pruner(&self) -> (Option<Pruner>, watch::Receiver<RetentionState>) {
        let has_retention = self.settings.retention.removes_something();
        let (state, state_rx) = watch::channel(RetentionState::before_first_round(has_retention));
        let pruner = has_retention.then(|| Pruner {
            database: self.credentials.database.clone(),
            settings: self.settings.database.clone(),
            retention: self.settings.retention,
            backoff: self.settings.recorder.max_backoff,
            metrics: self.metrics.clone(),
            recording: self.recorder.health.clone(),
            state,
            stop: self.stop.clone(),
        });
        (pruner, state_rx)
    }

    /// The verifier if the API can be used, and the meter of the waiting deliveries.
    fn verification(
        &self,
        client: Option<&Client>,
        own_url: Option<OwnUrl>,
    ) -> (Option<Verifier>, UnverifiedMeter) {
        let (settings, status) = (self.settings, self.unverified.status.clone());
        let meter = UnverifiedMeter {
            pool: self.recording_pool.clone(),
            recorder: self.recorder.clone(),
            metrics: self.metrics.clone(),
            limit: self.unverified.clone(),
            status: status.clone(),
        };
        let max_per_minute = settings.verification.max_requests_per_minute;
        // A quarter of the requests is for predictions only: outsiders can cause many requests with false predictions.
        let for_predictions = max_per_minute / 4;
        let verifier = client.map(|client| Verifier {
            checker: Checker {
                client: client.without_retries(max_per_minute - for_predictions),
                predictions: PredictionSearch::new(client.without_retries(for_predictions)),
                own_url,
                credentials: self.credentials.clone(),
            },
            max_requests: settings.eachlabs.max_requests,
            spool: self.spool.clone(),
            memory: self.memory.clone(),
            pool: self.recording_pool.clone(),
            recorder: self.recorder.clone(),
            metrics: self.metrics.clone(),
            grace: settings.verification.grace,
            quarantine: settings.quarantine,
            status,
            stop: self.stop.clone(),
            receiver_id: rand::random(),
        });
        (verifier, meter)
    }

    fn reconciler(&self, client: Client, own_url: Option<OwnUrl>) -> Arc<Reconciler> {
        Arc::new(Reconciler {
            client,
            own_url,
            credentials: self.credentials.clone(),
            spool: self.spool.clone(),
            memory: self.memory.clone(),
            pool: self.recording_pool.clone(),
            recorder: self.recorder.clone(),
            metrics: self.metrics.clone(),
            running: Mutex::default(),
        })
    }

    fn background(
        &self,
        reconciler: Arc<Reconciler>,
        reconciled_until: Arc<ReconciledUntil>,
        health: Monitor,
    ) -> Background {
        Background {
            reconciler,
            settings: self.settings.reconcile,
            reconciled_until,
            storing: parking_lot::Mutex::default(),
            health,
            stop: self.stop.clone(),
            gap: parking_lot::Mutex::default(),
        }
    }
}

/// `has_key`: the API can be used.
fn unverified_limit(settings: &Settings, spooled: UnverifiedSize, has_key: bool) -> UnverifiedLimit {
    let is_on = settings.auth.verify_unsigned;
    let status = VerificationStatus { is_on, has_key, ..VerificationStatus::default() };
    UnverifiedLimit::new(settings.verification, spooled, watch::Sender::new(status))
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
