//! The time limit for receiving a body.

use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use tokio::time::{Instant, timeout_at};

use crate::delivery::RejectReason;
use crate::http::problem::Problem;
use crate::http::server::Connection;
use crate::http::server::limiter::Slot;

/// Limits the time for a body. While the request waits for the peer, it can be evicted. A wait for memory counts as a wait
/// for the peer.
pub(super) struct PeerDeadline {
    pub(super) slot: Slot,
    connection: Option<Connection>,
    deadline: Instant,
    waiting: AtomicBool,
}

impl PeerDeadline {
    pub(super) fn new(body_timeout: Duration, slot: Slot, connection: Option<Connection>) -> Self {
        Self { slot, connection, deadline: Instant::now() + body_timeout, waiting: false.into() }
    }

    /// Waits for `body` until the deadline or the eviction of the request. Called once.
    ///
    /// # Errors
    /// [`Problem::TooSlow`], or [`Problem::Rejected`] after an eviction.
    pub(super) async fn recv<T>(&self, body: impl Future<Output = T>) -> Result<T, Problem> {
        let mut body = pin!(body);
        // Most bodies have arrived with their head: no timer is needed.
        if let Poll::Ready(received) = poll!(&mut body) {
            return Ok(received);
        }
        self.slot.set_waiting(self.deadline);
        self.waiting.store(true, Relaxed);
        let received = tokio::select! {
            biased;
            received = timeout_at(self.deadline, body) => received.map_err(|_| Problem::TooSlow),
            () = self.slot.evicted() => return Err(RejectReason::Overloaded.into()),
        };
        self.waiting.store(false, Relaxed);
        self.slot.set_busy();
        received
    }

    /// The peer made progress: other requests are evicted before this one.
    pub(super) fn progressed(&self) {
        if self.waiting.load(Relaxed) {
            self.slot.set_waiting(self.deadline);
            if let Some(connection) = &self.connection {
                connection.progressed();
            }
        }
    }
}
