//! Waiting for an event: bounded, and without taking the CPU from what is waited for.

use std::time::Duration;

/// Far longer than any event takes. A test whose event never happens fails instead of hanging.
const PATIENCE: Duration = Duration::from_mins(2);
/// The pause between two polls.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits for `event`. Prefer it to [`until`]: it does not poll.
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
