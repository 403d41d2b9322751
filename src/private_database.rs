//! Runs the receiver on a private PostgreSQL, for `make run`. The receiver restarts it if it ends.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use private_postgres::Postgres;
use tokio::time::{Instant, sleep};
use workflow_receiver::cli::CommandError;
use workflow_receiver::config::Settings;
use workflow_receiver::db;
use workflow_receiver::shutdown::Shutdown;

use super::receive;

/// The first and the longest pause before a restart. Each restart doubles the pause.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// A server that ran this long is healthy: the next pause is the shortest again.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

/// Receives until shutdown. PostgreSQL stops after the receiver.
pub(crate) async fn serve(settings: &Settings, shutdown: &Shutdown) -> Result<(), CommandError> {
    let dir = &settings.database.embedded_dir;
    let postgres = tokio::select! {
        started = start(dir) => started?,
        () = shutdown.graceful.cancelled() => return Ok(()),
    };
    let (database, psql_line) = (postgres.connect_options(), postgres.psql_line());
    db::create_database(&database).await?;
    let mut running = Some(postgres);
    let result = tokio::select! {
        result = receive(settings, database, Some(psql_line), shutdown) => result,
        never = keep_running(dir, &mut running) => match never {},
    };
    if let Some(postgres) = running {
        tokio::select! {
            () = postgres.stop() => {}
            () = shutdown.immediate.cancelled() => {}
        }
    }
    result
}

async fn start(dir: &Path) -> Result<Postgres, CommandError> {
    let dir = dir.to_owned();
    Ok(tokio::task::spawn_blocking(move || Postgres::start(&dir)).await??)
}

/// Restarts PostgreSQL whenever it ends. Its address stays the same, so that the receiver reconnects.
async fn keep_running(dir: &Path, running: &mut Option<Postgres>) -> Infallible {
    let mut pause = MIN_PAUSE;
    loop {
        if let Some(postgres) = running {
            let started = Instant::now();
            postgres.ended().await;
            if started.elapsed() >= HEALTHY_AFTER {
                pause = MIN_PAUSE;
            }
            // Release the lock of the directory.
            *running = None;
            tracing::error!(
                "the private PostgreSQL ended: see its log in database.embedded_dir. It is restarted; webhooks are still \
                 accepted"
            );
        }
        sleep(pause).await;
        pause = (2 * pause).min(MAX_PAUSE);
        match start(dir).await {
            Ok(postgres) => {
                tracing::info!("the private PostgreSQL was restarted");
                *running = Some(postgres);
            }
            Err(error) => {
                tracing::error!(retry_in = ?pause, "the private PostgreSQL cannot be restarted: {error}");
            }
        }
    }
}
