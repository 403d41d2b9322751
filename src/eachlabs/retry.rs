//! When a failed request is sent again.

use std::time::Duration;

use hyper::header::{HeaderMap, RETRY_AFTER};
use rand::RngExt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// The number of times that a request is sent, unless the client sends each once.
pub(super) const MAX_ATTEMPTS: u32 = 8;
/// After attempt n, the pause is at most this time multiplied by 2^n, and at most [`MAX_PAUSE`].
const BASE_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// A longer `Retry-After` is shortened to this pause.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(2);

/// The pause before attempt `attempt` + 1: random, between half of a limit and the limit, so that receivers do not retry at
/// the same time.
pub(super) fn backoff(attempt: u32) -> Duration {
    let longest = BASE_PAUSE.saturating_mul(1 << attempt.min(10)).min(MAX_PAUSE);
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// The pause that the response requests, in seconds or until a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = OffsetDateTime::parse(&text.replace("GMT", "+0000"), &Rfc2822).ok()?;
        (date - OffsetDateTime::now_utc()).try_into().unwrap_or_default()
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        let pause = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("86400"), Some(MAX_RETRY_AFTER));
        assert_eq!(pause("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(pause("Wed, 21 Oct 2065 07:28:00 GMT"), Some(MAX_RETRY_AFTER));
        assert_eq!(pause("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        for attempt in 0..40 {
            assert!(backoff(attempt) <= MAX_PAUSE);
        }
        assert!(backoff(0) <= BASE_PAUSE && backoff(30) >= MAX_PAUSE / 2);
    }
}
