//! The recorder's end of the spool: what comes next, in the order of arrival.

use bytes::Bytes;
use rusqlite::Connection;
use time::OffsetDateTime;

use super::{Seq, SpoolError};
use crate::intake::Delivery;

/// Reads the spool while the writer writes it.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: Connection,
}

/// A delivery and its place in the spool.
#[derive(Debug)]
pub(crate) struct Spooled {
    pub(crate) seq: Seq,
    pub(crate) delivery: Delivery,
    /// Whether it is the one that was kept, to the bit.
    pub(crate) intact: bool,
}

/// How much one batch may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) rows: usize,
    /// Of bodies; the first delivery comes whatever its size.
    pub(crate) bytes: usize,
}

impl Reader {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The deliveries behind `after`, as many as `limits` allow. Empty when there are none.
    ///
    /// # Errors
    /// [`SpoolError`] when the file cannot be read.
    pub(crate) fn next(&mut self, after: Seq, limits: Limits) -> Result<Vec<Spooled>, SpoolError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, received_at, checksum, body FROM deliveries WHERE seq > ? ORDER BY seq",
        )?;
        let mut rows = statement.query([after])?;
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < limits.rows {
            let Some(row) = rows.next()? else { break };
            // A value that is damaged is no reason to stop: the checksum tells, and the row is kept aside.
            let body = row.get_ref(3)?.as_blob().unwrap_or_default();
            let micros = row.get(1).unwrap_or_default();
            bytes += body.len();
            if bytes > limits.bytes && !batch.is_empty() {
                break;
            }
            batch.push(Spooled {
                seq: row.get(0)?,
                intact: row.get(2).ok() == Some(i64::from(checksum(micros, body))),
                delivery: Delivery { body: Bytes::copy_from_slice(body), received_at: from_micros(micros) },
            });
        }
        Ok(batch)
    }
}

/// Tells whether a delivery is the one that was kept.
pub(super) fn checksum(micros: i64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&micros.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// A moment as the spool keeps it: microseconds since 1970.
pub(super) fn to_micros(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// A moment that the spool kept. One that is damaged becomes one that PostgreSQL can hold.
pub(super) fn from_micros(micros: i64) -> OffsetDateTime {
    let micros = micros.clamp(0, to_micros(time::UtcDateTime::MAX.into()));
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
