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
    /// Whether the body is the one that was kept, to the bit.
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
            let body = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
            bytes += body.len();
            if bytes > limits.bytes && !batch.is_empty() {
                break;
            }
            batch.push(Spooled {
                seq: row.get(0)?,
                intact: crc32fast::hash(body) == row.get::<_, u32>(2)?,
                delivery: Delivery {
                    body: Bytes::copy_from_slice(body),
                    received_at: from_micros(row.get(1)?),
                },
            });
        }
        Ok(batch)
    }
}

/// A moment as the spool keeps it.
pub(super) fn to_micros(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// A moment that the spool kept; a damaged one becomes the nearest that there is.
pub(super) fn from_micros(micros: i64) -> OffsetDateTime {
    let (least, most) = (to_micros(time::UtcDateTime::MIN.into()), to_micros(time::UtcDateTime::MAX.into()));
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros.clamp(least, most)) * 1_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
