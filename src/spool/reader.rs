//! The recorder's end of the spool: what comes next, in the order of arrival.

use rusqlite::Connection;

use super::row::{COLUMNS, Stored};
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
        let select = format!("SELECT seq, {COLUMNS} FROM deliveries WHERE seq > ? ORDER BY seq");
        let mut statement = self.connection.prepare_cached(&select)?;
        let mut rows = statement.query([after])?;
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < limits.rows {
            let Some(row) = rows.next()? else { break };
            let stored = Stored::read(row);
            bytes += stored.body.len();
            if bytes > limits.bytes && !batch.is_empty() {
                break;
            }
            let (delivery, intact) = stored.delivery();
            batch.push(Spooled { seq: row.get(0)?, delivery, intact });
        }
        Ok(batch)
    }
}
