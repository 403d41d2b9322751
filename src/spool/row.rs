//! How a delivery stands in the spool's file.

use bytes::Bytes;
use rusqlite::{Row, Statement, ToSql};
use time::OffsetDateTime;

use super::Seq;
use crate::auth::Method;
use crate::intake::Delivery;
use crate::traces::TraceContext;

/// The columns of a delivery, in the order in which [`Stored`] has them.
pub(super) const COLUMNS: &str = "received_at, authenticated_by, acknowledged, checksum, body, trace";

/// Adds one: [`Stored::insert`].
pub(super) const INSERT: &str =
    "INSERT INTO deliveries (seq, received_at, authenticated_by, acknowledged, checksum, body, trace)
     VALUES (?, ?, ?, ?, ?, ?, ?)";

/// A delivery's row, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored<B> {
    /// Microseconds since 1970.
    pub(super) received_at: i64,
    /// 0: not known.
    pub(super) authenticated_by: i64,
    /// 0 or 1.
    pub(super) acknowledged: i64,
    pub(super) checksum: i64,
    pub(super) body: B,
    /// Not under the checksum: a delivery with a damaged trace is whole.
    pub(super) trace: Option<[u8; 24]>,
}

impl<B: ToSql> Stored<B> {
    /// Adds the row at `seq`, or behind all others, with the statement [`INSERT`].
    pub(super) fn insert(&self, insert: &mut Statement, seq: Option<Seq>) -> rusqlite::Result<()> {
        let Self { received_at, authenticated_by, acknowledged, checksum, body, trace } = self;
        insert.execute((seq, received_at, authenticated_by, acknowledged, checksum, body, trace))?;
        Ok(())
    }
}

impl<'a> Stored<&'a [u8]> {
    /// What is kept of a delivery.
    pub(super) fn new(delivery: &'a Delivery) -> Self {
        let mut row = Self {
            received_at: to_micros(delivery.received_at),
            authenticated_by: delivery.authenticated_by.map_or(0, code),
            acknowledged: delivery.acknowledged.into(),
            checksum: 0,
            body: &delivery.body,
            trace: delivery.trace.map(TraceContext::to_bytes),
        };
        row.checksum = row.right_checksum();
        row
    }

    /// Reads the columns behind the first. A value that is damaged is no reason to stop: the
    /// checksum tells.
    pub(super) fn read(row: &'a Row) -> Self {
        let number = |column| row.get(column).unwrap_or_default();
        Self {
            received_at: number(1),
            authenticated_by: number(2),
            acknowledged: number(3),
            checksum: number(4),
            body: row.get_ref(5).ok().and_then(|body| body.as_blob().ok()).unwrap_or_default(),
            trace: row.get(6).unwrap_or_default(),
        }
    }

    /// The delivery, and whether it is the one that was kept, to the bit.
    pub(super) fn delivery(&self) -> (Delivery, bool) {
        let delivery = Delivery {
            body: Bytes::copy_from_slice(self.body),
            received_at: from_micros(self.received_at),
            authenticated_by: method(self.authenticated_by),
            acknowledged: self.acknowledged != 0,
            trace: self.trace.map(TraceContext::from_bytes),
        };
        (delivery, self.checksum == self.right_checksum())
    }

    /// Rows of version 1 of the layout, which knew neither, have both at their defaults: those do
    /// not count.
    fn right_checksum(&self) -> i64 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.received_at.to_le_bytes());
        if (self.authenticated_by, self.acknowledged) != (0, 1) {
            hasher.update(&self.authenticated_by.to_le_bytes());
            hasher.update(&self.acknowledged.to_le_bytes());
        }
        hasher.update(self.body);
        hasher.finalize().into()
    }
}

/// Numbers are for good: a spool may be older than the receiver.
fn code(method: Method) -> i64 {
    match method {
        Method::Signature => 1,
        Method::SecretHeader => 2,
        Method::UrlToken => 3,
        Method::None => 4,
    }
}

fn method(code: i64) -> Option<Method> {
    Some(match code {
        1 => Method::Signature,
        2 => Method::SecretHeader,
        3 => Method::UrlToken,
        4 => Method::None,
        _ => return None,
    })
}

/// A moment as the spool keeps it: microseconds since 1970.
fn to_micros(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// A moment that the spool kept. One that is damaged becomes one that PostgreSQL can hold.
pub(super) fn from_micros(micros: i64) -> OffsetDateTime {
    let micros = micros.clamp(0, to_micros(time::UtcDateTime::MAX.into()));
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_altered_is_told_by_the_checksum() {
        let delivery = Delivery {
            body: Bytes::from_static(b"body"),
            received_at: from_micros(1),
            authenticated_by: Some(Method::Signature),
            acknowledged: true,
            trace: Some(TraceContext::from_bytes([7; 24])),
        };
        let kept = Stored::new(&delivery);
        assert!(kept.delivery().1);
        for altered in [
            Stored { received_at: 2, ..kept.clone() },
            Stored { authenticated_by: 2, ..kept.clone() },
            Stored { authenticated_by: 0, ..kept.clone() },
            Stored { acknowledged: 0, ..kept.clone() },
            Stored { checksum: kept.checksum + 1, ..kept.clone() },
            Stored { body: b"bode", ..kept.clone() },
        ] {
            assert!(!altered.delivery().1, "{altered:?}");
        }
        assert!(Stored { trace: None, ..kept }.delivery().1, "a trace is no reason to doubt a delivery");
    }
}
