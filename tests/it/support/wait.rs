//! Waits for events, with a time limit, and with pauses that leave the CPU to the receiver.

use std::time::Duration;

/// Longer than any event takes. A test fails instead of hanging if its event does not happen.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
/// The pause between two polls.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits for `event`, without polling. Prefer this function to [`until`].
pub(crate) async fn within<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.expect("the event did not happen in time")
}

/// Polls `condition` until it is true.
pub(crate) async fn until(condition: impl AsyncFn() -> bool) {
    within(async {
        while !condition().await {
            pause().await;
        }
    })
    .await;
}

/// The pause between two polls, for a loop that [`until`] cannot express.
pub(crate) async fn pause() {
    tokio::time::sleep(PAUSE).await;
}
