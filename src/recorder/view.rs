//! What other parts see of the recorder.

use tokio::sync::watch;

use super::RecorderHealth;
use crate::spool::{Seq, SpoolStatus, UnverifiedSize};

/// The state and the progress of recording.
#[derive(Debug, Clone)]
pub(crate) struct RecorderView {
    pub(crate) health: watch::Receiver<RecorderHealth>,
    pub(crate) spool: watch::Receiver<SpoolStatus>,
    pub(crate) acked: watch::Receiver<Seq>,
    /// The unsigned deliveries that were recorded since the start. Those after a stuck delivery count, too, although they are
    /// not acked.
    pub(crate) unverified: watch::Receiver<UnverifiedSize>,
}

impl RecorderView {
    /// The view, and what the recorder sends to it.
    pub(crate) fn new(
        spool: watch::Receiver<SpoolStatus>,
        acked: watch::Receiver<Seq>,
    ) -> (Self, watch::Sender<RecorderHealth>, watch::Sender<UnverifiedSize>) {
        let (health_tx, health) = watch::channel(RecorderHealth::default());
        let (unverified_tx, unverified) = watch::channel(UnverifiedSize::default());
        (Self { health, spool, acked, unverified }, health_tx, unverified_tx)
    }

    /// Returns once the recorder works. False if it has ended.
    pub(crate) async fn until_working(&mut self) -> bool {
        self.health.wait_for(|health| matches!(health, RecorderHealth::Working)).await.is_ok()
    }

    /// Returns once the deliveries that are in the spool now are recorded.
    pub(crate) async fn until_recorded(&mut self) {
        let last_seq = self.spool.borrow().last_seq;
        let _ = self.acked.wait_for(|acked| *acked >= last_seq).await;
    }
}
