//! Leaves the CPU to intake during a burst.

use std::time::Duration;

use time::OffsetDateTime;

use crate::spool::{Seq, SpooledDelivery};

/// No pause follows a batch of fewer deliveries.
const THROTTLE_MIN_BATCH: usize = 200;
/// Recording pauses only while the oldest waiting delivery is younger than this.
const THROTTLE_MAX_AGE: Duration = Duration::from_secs(10);
/// The pause is this many times as long as the batch took.
const THROTTLE_FACTOR: u32 = 3;
const THROTTLE_MAX: Duration = Duration::from_millis(100);

/// Whether to pause after a batch so that intake gets the CPU during a burst: when at least half as many deliveries
/// `arrived` during the batch as were `recorded`. There is no pause once the backlog is old. Otherwise a sustained load
/// would fill the spool.
pub(super) fn should_throttle(batch: &[SpooledDelivery], arrived: Seq, recorded: Seq) -> bool {
    let fresh = |first: &SpooledDelivery| {
        let age = OffsetDateTime::now_utc() - first.delivery.received_at;
        // The age is negative if the clock was set back.
        !age.is_negative() && age < THROTTLE_MAX_AGE
    };
    batch.len() >= THROTTLE_MIN_BATCH && arrived >= recorded / 2 && batch.first().is_some_and(fresh)
}

/// How long to pause after a batch that took `took`.
pub(super) fn pause(took: Duration) -> Duration {
    (took * THROTTLE_FACTOR).min(THROTTLE_MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::delivery::Delivery;

    #[test]
    fn recording_is_throttled_during_a_burst_until_the_backlog_is_old() {
        let batch = |len, age: time::Duration| {
            let received_at = OffsetDateTime::now_utc() - age;
            let delivery = Delivery::new(Bytes::from_static(b"{}"), received_at);
            (1..)
                .map(|seq| SpooledDelivery { seq, delivery: delivery.clone(), intact: true })
                .take(len)
                .collect::<Vec<_>>()
        };
        let old = time::Duration::try_from(THROTTLE_MAX_AGE).unwrap();
        let young = old / 2;
        assert!(should_throttle(&batch(THROTTLE_MIN_BATCH, young), 200, 400), "half as many arrived");
        assert!(!should_throttle(&batch(THROTTLE_MIN_BATCH, young), 199, 400), "recording keeps up");
        assert!(!should_throttle(&batch(THROTTLE_MIN_BATCH - 1, young), 1000, 400), "a small batch");
        assert!(!should_throttle(&batch(THROTTLE_MIN_BATCH, old), 1000, 400), "an old backlog");
        let future = time::Duration::hours(-2);
        assert!(!should_throttle(&batch(THROTTLE_MIN_BATCH, future), 1000, 400), "the clock was set back");
        assert!(!should_throttle(&[], 1000, 0));
    }
}
