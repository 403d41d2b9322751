//! Limits requests per minute.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// After a minute without requests, `per_minute` requests can be sent at once. Further requests are spaced evenly, in the
/// order of their arrival.
#[derive(Debug)]
pub(super) struct RateLimit {
    per_minute: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The requests that can be sent at once. Negative while requests wait.
    available: f64,
    /// When `available` was computed.
    at: Instant,
    /// The latest end of a `Retry-After`.
    paused_until: Option<Instant>,
}

impl RateLimit {
    pub(super) fn new(per_minute: u32) -> Self {
        let state =
            Mutex::new(State { available: per_minute.into(), at: Instant::now(), paused_until: None });
        Self { per_minute, state }
    }

    /// Returns once a request may be sent.
    pub(super) async fn wait(&self) {
        sleep(self.pause(Instant::now())).await;
    }

    /// Delays the next requests by `Retry-After`. Requests that already wait are not delayed.
    pub(super) fn pause_for(&self, retry_after: Duration) {
        let until = Instant::now() + retry_after;
        let mut state = self.state.lock();
        state.paused_until = state.paused_until.max(Some(until));
    }

    /// Reserves a request. Returns the time until it may be sent.
    fn pause(&self, now: Instant) -> Duration {
        let per_minute = f64::from(self.per_minute);
        let per_second = per_minute / 60.0;
        let mut state = self.state.lock();
        let refilled = now.saturating_duration_since(state.at).as_secs_f64() * per_second;
        state.available = (state.available + refilled).min(per_minute) - 1.0;
        state.at = now;
        let pause = Duration::from_secs_f64((-state.available / per_second).max(0.0));
        pause.max(state.paused_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_requests_are_spaced_evenly() {
        let (limit, now) = (RateLimit::new(60), Instant::now());
        assert!((0..60).all(|_| limit.pause(now).is_zero()));
        assert_eq!(limit.pause(now), Duration::from_secs(1));
        assert_eq!(limit.pause(now), Duration::from_secs(2));
        assert_eq!(limit.pause(now + Duration::from_secs(3)), Duration::ZERO);
        assert!((0..60).all(|_| limit.pause(now + Duration::from_mins(9)).is_zero()), "one minute at most");
        assert_eq!(limit.pause(now + Duration::from_mins(9)), Duration::from_secs(1));
    }

    #[test]
    fn requests_wait_for_the_end_of_retry_after() {
        let (limit, now) = (RateLimit::new(60), Instant::now());
        limit.pause_for(Duration::from_secs(30));
        limit.pause_for(Duration::ZERO);
        assert!(limit.pause(now) >= Duration::from_secs(30), "a shorter Retry-After ends no longer one");
        assert!(limit.pause(now + Duration::from_secs(31)).is_zero());
    }
}
