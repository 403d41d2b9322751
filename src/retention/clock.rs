//! The current time for retention: the earlier of the receiver's clock and PostgreSQL's.
//!
//! With a clock that is ahead, every row would look old. Nothing is removed while the two clocks differ by more than
//! [`MAX_CLOCK_SKEW`]. A receiver and a PostgreSQL on one machine share a clock, so the comparison cannot find an error
//! there.

use std::fmt;
use std::time::Duration;

use humantime::format_duration;
use time::OffsetDateTime;

use crate::db::{DbConnection, DbError};

/// The largest difference at which rows are removed. Synchronised clocks differ by milliseconds.
pub(crate) const MAX_CLOCK_SKEW: Duration = Duration::from_mins(5);

/// The comparison of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clocks {
    pub(crate) earlier: OffsetDateTime,
    /// The receiver's clock minus PostgreSQL's, without the time that the comparison took.
    pub(crate) skew: time::Duration,
}

impl Clocks {
    pub(crate) async fn read(connection: &mut DbConnection) -> Result<Self, DbError> {
        let before = OffsetDateTime::now_utc();
        let database = connection.clock().await?;
        Ok(Self::compare(before, database, OffsetDateTime::now_utc()))
    }

    /// PostgreSQL's `database` was read between the receiver's `before` and `after`.
    fn compare(before: OffsetDateTime, database: OffsetDateTime, after: OffsetDateTime) -> Self {
        // The receiver's clock may be set back meanwhile.
        let (first, last) = (before.min(after), before.max(after));
        let skew = if database < first {
            first - database
        } else if database > last {
            last - database
        } else {
            time::Duration::ZERO
        };
        Self { earlier: first.min(database), skew }
    }

    /// Fails if the clocks differ by more than [`MAX_CLOCK_SKEW`].
    pub(crate) fn agreed(self) -> Result<Self, ClockSkew> {
        if self.skew.unsigned_abs() > MAX_CLOCK_SKEW { Err(ClockSkew(self.skew)) } else { Ok(self) }
    }
}

/// The receiver's clock minus PostgreSQL's. The difference is larger than [`MAX_CLOCK_SKEW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ClockSkew(pub(crate) time::Duration);

impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(skew) = self;
        let direction = if skew.is_negative() { "behind" } else { "ahead of" };
        // Whole seconds: fractions are noise here.
        let seconds = format_duration(Duration::from_secs(skew.unsigned_abs().as_secs()));
        let limit = format_duration(MAX_CLOCK_SKEW);
        write!(
            f,
            "the receiver's clock is {seconds} {direction} PostgreSQL's: nothing is removed (retention.*) while they \
             differ by more than {limit}; correct the wrong clock"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_clock_counts_and_only_a_large_difference_is_skew() {
        let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap();
        for (before, database, after, earlier, skew) in [
            (0, 1, 2, 0, 0),
            (10, 4, 12, 4, 6),
            (10, 20, 12, 10, -8),
            (0, 0, 3_600, 0, 0),
            // Set back by an hour between the readings.
            (3_600, 1_800, 0, 0, 0),
        ] {
            let clocks = Clocks::compare(at(before), at(database), at(after));
            assert_eq!(clocks, Clocks { earlier: at(earlier), skew: time::Duration::seconds(skew) });
            assert!(clocks.agreed().is_ok());
        }
        let year = Clocks::compare(at(0), at(-400 * 86_400), at(1));
        let message = year.agreed().unwrap_err().to_string();
        assert!(message.starts_with("the receiver's clock is 1year 1month 4days"), "{message}");
        assert!(message.contains("ahead of PostgreSQL's"), "{message}");
        let behind = Clocks::compare(at(0), at(301), at(0)).agreed().unwrap_err().to_string();
        assert!(behind.starts_with("the receiver's clock is 5m 1s behind PostgreSQL's"), "{behind}");
        assert!(Clocks::compare(at(0), at(300), at(0)).agreed().is_ok(), "exactly the limit");
    }
}
