//! The parts of a running receiver: built, watched, and stopped in the order of a webhook's path.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sqlx::postgres::PgConnectOptions;
use strum::VariantArray;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Settings, SettingsError};
use crate::credentials::Credentials;
use crate::db::{ConnectionPool, Database, RetentionTarget, Session};
use crate::health::{Monitor, Observed};
use crate::http::{self, AdminState, Limiter, WebhookState};
use crate::spool::SpoolHandle;

use crate::db::Bounds;
use crate::db::queries::QueryPool;
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::recorder::events::EventBus;
use crate::recorder::{self, Recorder, RecorderHealth};
use crate::retention::{Pruner, RetentionState};
use crate::shutdown::Shutdown;
use crate::spool::{self, BatchLimits, Reader, Recorded, SpoolError, SpoolStatus, Writer};
use crate::traces::Traces;

/// Why a receiver did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is not allowed.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An address cannot be listened on.
    #[error("{key} = {address}: {source}")]
    Listen {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A bug.
    #[error("opening the spool panicked: a bug")]
    Panicked,
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// Why a receiver that had started did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A part ended by itself. The rest was stopped: better no answer than a deaf receiver.
    #[error("{part} ended: {why}")]
    PartEnded {
        /// Which one.
        part: &'static str,
        /// Why.
        why: String,
    },
    /// It was told to stop at once.
    #[error("stopped at once; what was acknowledged is in the spool, for the next start")]
    StoppedAtOnce,
}

type PartResult = (&'static str, Result<(), Box<dyn Error + Send + Sync>>);

/// A receiver that has started.
#[derive(Debug)]
pub struct Server {
    webhook_address: SocketAddr,
    admin_address: SocketAddr,
    drain_timeout: Duration,
    progress: Progress,
    credentials: Arc<Credentials>,
    parts: JoinSet<PartResult>,
    stop: CancellationToken,
    give_up: CancellationToken,
    /// What sends traces, when there are any: it outlives the parts, whose last spans it sends.
    sending: JoinSet<()>,
    all_traced: CancellationToken,
    /// What measures for health checks: it ends with the receiver.
    _watchers: JoinSet<()>,
}

/// How far the webhooks have come.
#[derive(Debug, Clone)]
pub struct Progress {
    kept: watch::Receiver<SpoolStatus>,
    recorded: watch::Receiver<Recorded>,
    recording: watch::Receiver<RecorderHealth>,
}

impl Progress {
    /// Returns once everything that was acknowledged before the call is in PostgreSQL.
    pub async fn all_recorded(&mut self) {
        let through = self.kept.borrow().last_seq;
        let _ = self.recorded.wait_for(|recorded| *recorded >= through).await;
    }

    /// Returns once PostgreSQL has been reached and its schema is up to date.
    pub async fn recording(&mut self) {
        let _ = self.recording.wait_for(|recording| matches!(recording, RecorderHealth::Working)).await;
    }

    /// How many acknowledged deliveries are not known to be in PostgreSQL.
    #[must_use]
    pub fn waiting(&self) -> i64 {
        self.kept.borrow().last_seq - *self.recorded.borrow()
    }
}

impl Server {
    /// Builds the parts and starts them. `database` need not be reachable: what comes in waits in
    /// the spool.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(settings: &Settings, database: PgConnectOptions) -> Result<Self, StartError> {
        settings.require_auth_off_loopback()?;
        let public = listen("http.listen", settings.http.listen).await?;
        let admin = listen("admin.listen", settings.admin.listen).await?;
        let metrics = Arc::new(Metrics::new());
        let (traces, sending) = Traces::new(&settings.traces, &metrics)?.unzip();
        let (writer, reader) = open_spool(settings.spool.clone(), metrics.clone()).await?;

        let (intake, arrivals) = SpoolHandle::new(settings.intake.capacity);
        let (keeping, kept) = watch::channel(writer.kept());
        let (recording, recorded) = watch::channel(writer.kept().acked_seq);
        let (reporting, reports) = watch::channel(RecorderHealth::default());
        let [stop, give_up, all_traced] = <[CancellationToken; 3]>::default();
        let (live, credentials) = (EventBus::new(), Credentials::new(settings, database));

        let (pruner, retention) =
            pruner(settings, credentials.database.clone(), metrics.clone(), reports.clone(), stop.clone());
        let worker = Recorder {
            pool: recording_pool(settings, credentials.database.clone()),
            statement_timeout: settings.database.statement_timeout,
            limits: BatchLimits { rows: settings.recorder.batch_rows, bytes: settings.recorder.batch_bytes },
            connections: settings.recorder.connections,
            bounds: Bounds { quarantine: settings.quarantine, conflicts: settings.conflicts },
            max_backoff: settings.recorder.max_backoff,
            metrics: metrics.clone(),
            traces: traces.clone(),
            spool: kept.clone(),
            acked: recording,
            health: reporting,
            stuck: watch::Sender::default(),
            events: live.clone(),
            give_up: give_up.clone(),
            shared: recorder::SharedState::default(),
        };
        let pool = health_pool(settings, credentials.database.clone());
        let parts = Observed {
            spool: kept.clone(),
            acked: recorded.clone(),
            recording: reports.clone(),
            stuck: worker.stuck.subscribe(),
            retention,
        };
        let (health, watchers) = Monitor::start(settings, pool, metrics.clone(), parts, stop.clone());
        let requests = Limiter::new(settings.http.max_requests);
        let memory = MemoryBudget::new(settings.http.max_bytes_in_flight);
        let admin_door = AdminState {
            requests: requests.clone(),
            memory: memory.clone(),
            intake: intake.depth(),
            metrics: metrics.clone(),
            kept: kept.clone(),
            health,
            closing: give_up.clone(),
            pool: Arc::new(reading(settings, credentials.database.clone())),
            live,
            webhook_port: local(&public).port(),
            credentials: credentials.clone(),
        };
        let door = WebhookState {
            intake,
            metrics: metrics.clone(),
            credentials: credentials.clone(),
            requests,
            memory,
            max_body_bytes: settings.http.max_body_bytes,
            body_timeout: settings.http.body_timeout,
            traces,
        };
        let (webhook_limits, admin_limits) = limits(&settings.http);

        let progress = Progress { kept, recorded: recorded.clone(), recording: reports };
        let (webhook_address, admin_address) = (local(&public), local(&admin));
        let mut parts = JoinSet::new();
        let (spool_metrics, runtime) = (metrics.clone(), tokio::runtime::Handle::current());
        parts.spawn_blocking(move || {
            let ended = writer.run(&runtime, arrivals, recorded, &keeping, &spool_metrics);
            ("the spool", ended.map_err(Into::into))
        });
        parts.spawn(record(worker, reader));
        if let Some(pruner) = pruner {
            parts.spawn(pruner.run().map(|()| ("the pruner", Ok(()))));
        }
        let webhooks =
            http::serve(public, http::webhook_router(door), webhook_limits, metrics.clone(), stop.clone());
        parts.spawn(webhooks.map(|served| ("the webhook port", served.map_err(Into::into))));
        let operators =
            http::serve(admin, http::admin_router(admin_door), admin_limits, metrics, give_up.clone());
        parts.spawn(operators.map(|served| ("the admin port", served.map_err(Into::into))));
        let sending = sending.map(|sending| sending.run(all_traced.clone())).into_iter().collect();
        Ok(Self {
            webhook_address,
            admin_address,
            drain_timeout: settings.shutdown.drain_timeout,
            progress,
            credentials,
            parts,
            stop,
            give_up,
            sending,
            all_traced,
            _watchers: watchers,
        })
    }

    /// Where webhooks come in.
    #[must_use]
    pub fn webhook_url(&self) -> String {
        format!("http://{}{}", self.webhook_address, http::WEBHOOK_PATH)
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// To wait for what has been acknowledged to be recorded.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Runs until `shutdown`, then stops in the order of a webhook's path: no new requests, those
    /// in flight are answered, the spool is recorded, and last the admin port closes.
    ///
    /// # Errors
    /// [`RunError`] when a part ended by itself, or when it was told to stop at once.
    pub async fn run(mut self, shutdown: &Shutdown) -> Result<(), RunError> {
        let credentials = self.credentials.clone();
        let ended = tokio::select! {
            ended = self.until_drained(shutdown) => ended,
            never = credentials.follow(&shutdown.reload) => match never {},
        };
        // Last the admin port, which says good-bye to those who listen, and then whatever still hangs, such as a
        // request whose sender has stopped.
        self.give_up.cancel();
        if ended.is_ok() {
            let _ = timeout(GRACE, async { while self.parts.join_next().await.is_some() {} }).await;
        }
        let _ = timeout(GRACE, self.parts.shutdown()).await;
        self.all_traced.cancel();
        tokio::select! {
            _ = timeout(LAST_SPANS, self.sending.join_next()) => {}
            () = shutdown.immediate.cancelled() => {}
        }
        ended
    }

    async fn until_drained(&mut self, shutdown: &Shutdown) -> Result<(), RunError> {
        tokio::select! {
            () = shutdown.graceful.cancelled() => {}
            Some(ended) = self.parts.join_next() => return Err(died(ended)),
        }
        self.stop.cancel();
        let deadline = Instant::now() + self.drain_timeout;
        tokio::select! {
            drained = self.only_admin_left() => drained,
            () = sleep_until(deadline) => {
                tracing::warn!(left = self.progress.waiting(), "time is up: the rest stays in the spool");
                Ok(())
            }
            () = shutdown.immediate.cancelled() => Err(RunError::StoppedAtOnce),
        }
    }

    async fn only_admin_left(&mut self) -> Result<(), RunError> {
        while self.parts.len() > 1 {
            match self.parts.join_next().await {
                Some(Ok((_, Ok(())))) | None => {}
                Some(ended) => return Err(died(ended)),
            }
        }
        Ok(())
    }
}

/// How long parts may take to end once told to.
const GRACE: Duration = Duration::from_secs(2);

/// How long the collector may take for the last spans.
const LAST_SPANS: Duration = Duration::from_secs(1);

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { key, address, source })
}

/// The address listened on, with the port that the system chose for port 0.
fn local(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
}

/// A large or damaged spool takes its time.
async fn open_spool(settings: config::Spool, metrics: Arc<Metrics>) -> Result<(Writer, Reader), StartError> {
    metrics.spool_limit(settings.max_bytes);
    let open = tokio::task::spawn_blocking(move || spool::open(&settings, &metrics));
    Ok(open.await.map_err(|_| StartError::Panicked)??)
}

/// The connections of those who ask, apart from the recorder's.
fn reading(settings: &Settings, database: Database) -> QueryPool {
    QueryPool::new(
        database,
        "workflow-receiver reading",
        settings.admin.read_connections,
        settings.database.connect_timeout,
        settings.admin.statement_timeout,
    )
}

/// The pruner, when anything is ever to be removed, and what it reports.
fn pruner(
    settings: &Settings,
    database: Database,
    metrics: Arc<Metrics>,
    recording: watch::Receiver<RecorderHealth>,
    stop: CancellationToken,
) -> (Option<Pruner>, watch::Receiver<RetentionState>) {
    // Series exist from the start.
    for target in RetentionTarget::VARIANTS {
        metrics.pruned(target.as_str(), 0);
    }
    let limited = settings.retention.removes_something();
    let (state, reports) = watch::channel(RetentionState::before_first_round(limited));
    let pruner = limited.then(|| Pruner {
        database,
        settings: settings.database.clone(),
        retention: settings.retention,
        backoff: settings.recorder.max_backoff,
        metrics,
        recording,
        state,
        stop,
    });
    (pruner, reports)
}

fn recording_pool(settings: &Settings, database: Database) -> ConnectionPool {
    let config::Database { migrate, connect_timeout, statement_timeout, .. } = settings.database;
    ConnectionPool::new(database, Session::Recording { migrate }, connect_timeout, statement_timeout)
}

/// One connection for health checks.
fn health_pool(settings: &Settings, database: Database) -> QueryPool {
    QueryPool::new(
        database,
        "workflow-receiver health",
        1,
        settings.database.connect_timeout,
        settings.admin.statement_timeout,
    )
}

async fn record(recorder: Recorder, reader: Reader) -> PartResult {
    ("the recorder", recorder.run(reader).await.map_err(Into::into))
}

/// How many connections operators may have: apart, so that the public port cannot take them.
const ADMIN_CONNECTIONS: usize = 64;
/// Files open for other things than connections: the spool, PostgreSQL, the log.
const OTHER_FILES: usize = 64;

/// Makes the most of what the system allows: each connection is an open file.
fn limits(settings: &config::Http) -> (http::ConnectionLimits, http::ConnectionLimits) {
    let config::Http { max_connections, header_timeout, body_timeout, idle_timeout, .. } = *settings;
    let wanted = max_connections + ADMIN_CONNECTIONS + OTHER_FILES;
    let allowed = open_files(wanted);
    let connections = max_connections.min(allowed.saturating_sub(ADMIN_CONNECTIONS + OTHER_FILES)).max(1);
    if connections < max_connections {
        tracing::warn!(
            allowed,
            connections,
            "the system allows fewer open files than http.max_connections needs: fewer connections are taken"
        );
    }
    let limits =
        |connections| http::ConnectionLimits { connections, header_timeout, body_timeout, idle_timeout };
    (limits(connections), limits(ADMIN_CONNECTIONS))
}

/// Raises the limit on open files to `wanted`, or as far as it may, and says how far that is.
fn open_files(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let may = limit.maximum.map_or(wanted, |maximum| wanted.min(maximum));
    let current = limit.current.unwrap_or(u64::MAX);
    let raised = current < may
        && setrlimit(Resource::Nofile, Rlimit { current: Some(may), maximum: limit.maximum }).is_ok();
    usize::try_from(if raised { may } else { current }).unwrap_or(usize::MAX)
}

fn died(ended: Result<PartResult, tokio::task::JoinError>) -> RunError {
    match ended {
        Ok((part, Ok(()))) => RunError::PartEnded { part, why: "nobody asked it to".to_owned() },
        Ok((part, Err(why))) => RunError::PartEnded { part, why: why.to_string() },
        // What it said may quote a body.
        Err(_) => RunError::PartEnded { part: "a part", why: "it panicked: a bug".to_owned() },
    }
}
