//! The positions stored in the database. Only the writer changes them. If they differ from those of its latest write, an
//! older copy has overwritten the files: new deliveries would get numbers that were used before, and the ack of an earlier
//! delivery would delete them.

use rusqlite::Connection;

use super::Seq;
use super::recovery::sequence::IDENTITY;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredPositions {
    identity: Option<i64>,
    last_seq: Option<Seq>,
    acked_seq: Option<Seq>,
}

impl StoredPositions {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut select = connection.prepare_cached(
            "SELECT (SELECT seq FROM sqlite_sequence WHERE name = ?),
                    (SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'),
                    (SELECT seq FROM acked)",
        )?;
        select.query_row([IDENTITY], |row| {
            Ok(Self { identity: row.get(0)?, last_seq: row.get(1)?, acked_seq: row.get(2)? })
        })
    }
}
