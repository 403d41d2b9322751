//! Runs the receiver with a private PostgreSQL, for `make run`. PostgreSQL is started again whenever it ends, and webhooks
//! are accepted meanwhile.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use private_postgres::{Cluster, Postgres};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::CommandError;
use crate::config::Settings;
use crate::db;
use crate::receive::receive;
use crate::shutdown::Shutdown;

/// The receiver waits this long for PostgreSQL, and then starts without PostgreSQL.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// PostgreSQL may take this long to stop. After that, the receiver signals it once more and ends without waiting.
const STOP_TIMEOUT: Duration = Duration::from_mins(1);
/// The first and the longest pause before another start. Each pause is twice as long as the one before.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// After this time without a failure, the next pause is the shortest again.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

/// Receives until shutdown. PostgreSQL stops after the receiver.
pub(crate) async fn serve(settings: &Settings, shutdown: &Shutdown) -> Result<(), CommandError> {
    let opened = async {
        let dir = settings.database.private_dir.clone();
        let cluster = spawn_blocking(move || Cluster::open(&dir)).await??;
        // The first start of a new cluster must succeed: an error means that the installation does not work. Later
        // starts are retried.
        let running = if cluster.is_new() { Some(start(&cluster).await?) } else { None };
        Ok::<_, CommandError>((cluster, running))
    };
    let (cluster, mut running) = tokio::select! {
        opened = opened => opened?,
        () = shutdown.graceful.cancelled() => return Ok(()),
    };
    let started = Notify::new();
    let receive = async {
        tokio::select! {
            () = started.notified() => {}
            () = sleep(START_TIMEOUT) => {}
            () = shutdown.graceful.cancelled() => {}
        }
        receive(settings, cluster.connect_options(), Some(cluster.psql_line()), shutdown).await
    };
    let result = tokio::select! {
        result = receive => result,
        never = keep_running(&cluster, &mut running, &started) => match never {},
    };
    if let Some(postgres) = running {
        tokio::select! {
            _ = timeout(STOP_TIMEOUT, postgres.stop()) => {}
            () = shutdown.immediate.cancelled() => {}
        }
    }
    result
}

/// Starts the server and creates its database if there is none.
async fn start(cluster: &Arc<Cluster>) -> Result<Postgres, CommandError> {
    let cluster = cluster.clone();
    let postgres = spawn_blocking(move || cluster.start()).await??;
    db::create_database(&postgres.connect_options()).await?;
    Ok(postgres)
}

/// Starts PostgreSQL again whenever it ends. Its address stays the same, so that the receiver reconnects.
async fn keep_running(
    cluster: &Arc<Cluster>,
    running: &mut Option<Postgres>,
    started: &Notify,
) -> Infallible {
    let mut pause = MIN_PAUSE;
    let mut failed = false;
    loop {
        if running.is_none() {
            match start(cluster).await {
                Ok(postgres) => *running = Some(postgres),
                Err(error) => tracing::error!(
                    retry_in = ?pause,
                    "the private PostgreSQL cannot be started, webhooks are accepted without it: {error}"
                ),
            }
        }
        if let Some(postgres) = running {
            if failed {
                tracing::info!("the private PostgreSQL was restarted");
            }
            started.notify_one();
            let since = Instant::now();
            postgres.ended().await;
            if since.elapsed() >= HEALTHY_AFTER {
                pause = MIN_PAUSE;
            }
            *running = None;
            tracing::error!(
                retry_in = ?pause,
                "the private PostgreSQL ended (see its log in database.private_dir) and is restarted: webhooks are \
                 accepted meanwhile"
            );
        }
        failed = true;
        sleep(pause).await;
        pause = (2 * pause).min(MAX_PAUSE);
    }
}
