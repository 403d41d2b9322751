//! When to stop: the first signal asks, the second one insists.

use std::convert::Infallible;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// SIGTERM and Ctrl-C, as two steps.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Stop taking webhooks, record what is in hand, and end.
    pub graceful: CancellationToken,
    /// End now. What is in the spool stays there.
    pub immediate: CancellationToken,
}

impl Shutdown {
    /// Follows SIGTERM and SIGINT. Never ends: to be polled beside what is to be stopped.
    ///
    /// # Errors
    /// When the system does not let us listen.
    pub async fn follow_signals(&self) -> io::Result<Infallible> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("stopping: recording what is in hand; another signal stops at once");
        self.graceful.cancel();
        either(&mut terminate, &mut interrupt).await;
        tracing::warn!("stopping at once");
        self.immediate.cancel();
        std::future::pending().await
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
