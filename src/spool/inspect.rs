//! Reads the spool for `workflow-receiver spool`, while a receiver runs or not.
//!
//! Each page is a read transaction of its own, so that the writer can empty the write-ahead log between two pages. The
//! receiver's locks are not used, and nothing is written.

use std::path::Path;

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use time::OffsetDateTime;

use super::files::DATABASE;
use super::row::{COLUMNS, SpoolRow};
use super::schema::BUSY_TIMEOUT;
use super::{Seq, SpoolError};
use crate::execution::Execution;

/// Maximum bytes of bodies in one page.
const PAGE_BYTES: usize = 16 << 20;

/// A delivery in the spool, without its body.
#[derive(Debug)]
pub(crate) struct ListedDelivery {
    pub(crate) seq: Seq,
    pub(crate) received_at: OffsetDateTime,
    pub(crate) body_bytes: usize,
    /// `None` when the body is not an execution.
    pub(crate) execution_id: Option<String>,
    /// Answered 200; otherwise 422.
    pub(crate) acknowledged: bool,
    pub(crate) authenticated_by: Option<&'static str>,
    /// Whether the checksum matches.
    pub(crate) intact: bool,
}

/// A read-only connection.
pub(crate) struct Inspector {
    connection: Connection,
}

impl Inspector {
    /// Opens the spool in `dir`.
    ///
    /// # Errors
    /// [`SpoolError::Absent`] when there is no spool. An empty file counts as none: opening it would have SQLite delete the
    /// log beside it.
    pub(crate) fn open(dir: &Path) -> Result<Self, SpoolError> {
        let path = dir.join(DATABASE);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > 0 => {}
            Ok(_) => return Err(SpoolError::Absent(path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(SpoolError::Absent(path));
            }
            Err(source) => return Err(SpoolError::Directory { dir: path, source }),
        }
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(Self { connection })
    }

    /// Up to `limit` deliveries after `after`; fewer when their bodies are large. Empty at the end.
    pub(crate) fn page(&self, after: Seq, limit: usize) -> Result<Vec<ListedDelivery>, SpoolError> {
        let select = format!("SELECT seq, {COLUMNS} FROM deliveries WHERE seq > ? ORDER BY seq");
        let mut statement = self.connection.prepare_cached(&select)?;
        let mut rows = statement.query([after])?;
        let mut page = Vec::new();
        let mut bytes = 0;
        while page.len() < limit && bytes < PAGE_BYTES {
            let Some(row) = rows.next()? else { break };
            let (delivery, intact) = SpoolRow::read(row).delivery();
            let execution = Execution::parse(&delivery.body).ok();
            bytes += delivery.body.len();
            page.push(ListedDelivery {
                seq: row.get(0)?,
                received_at: delivery.received_at,
                body_bytes: delivery.body.len(),
                execution_id: execution.map(|execution| execution.execution_id.into_owned()),
                acknowledged: delivery.acknowledged,
                authenticated_by: delivery.authenticated_by.map(crate::auth::AuthMethod::as_str),
                intact,
            });
        }
        Ok(page)
    }

    /// The exact bytes of a body.
    pub(crate) fn body(&self, seq: Seq) -> Result<Option<Bytes>, SpoolError> {
        let mut select = self.connection.prepare("SELECT body FROM deliveries WHERE seq = ?")?;
        let body = select.query_row([seq], |row| row.get::<_, Vec<u8>>(0)).optional()?;
        Ok(body.map(Bytes::from))
    }
}
