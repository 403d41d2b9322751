//! Reads the spool for `workflow-receiver spool`, with or without a running receiver.
//!
//! Each page is a read transaction of its own, so that the writer can empty the write-ahead log between two pages. The
//! receiver's locks are not used, and no content is changed. If the receiver is stopped, SQLite creates an empty log and an
//! index.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use time::OffsetDateTime;
use time::serde::rfc3339;

use super::files::DATABASE;
use super::row::{SELECT_AFTER, SpoolRow};
use super::{Seq, SpoolError, schema};
use crate::auth::AuthMethod;
use crate::execution::Execution;

/// Maximum bytes of bodies in one page.
const PAGE_BYTES: usize = 16 << 20;

/// A delivery in the spool, without its body.
#[derive(Debug, Serialize)]
pub(crate) struct ListedDelivery {
    pub(crate) seq: Seq,
    #[serde(with = "rfc3339")]
    pub(crate) received_at: OffsetDateTime,
    /// `None` when the body is not an execution.
    pub(crate) execution_id: Option<String>,
    pub(crate) body_bytes: usize,
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
    /// [`SpoolError::Absent`] when there is no spool, or the file is empty: SQLite would delete the log of an empty file.
    /// [`SpoolError::Foreign`] and [`SpoolError::UnknownVersion`] as at a start.
    pub(crate) fn open(dir: &Path) -> Result<Self, SpoolError> {
        let path = dir.join(DATABASE);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(SpoolError::Absent(path)),
            opened => opened.map_err(SpoolError::at(&path))?,
        };
        if file.metadata().map_err(SpoolError::at(&path))?.len() == 0 {
            return Err(SpoolError::Absent(path));
        }
        schema::check_header(&path, &file)?;
        Ok(Self { connection: schema::connect_read_only(&path)? })
    }

    /// Up to `limit` deliveries after `after`; fewer when their bodies are large. Empty at the end.
    pub(crate) fn page(&self, after: Seq, limit: usize) -> Result<Vec<ListedDelivery>, SpoolError> {
        let mut statement = self.connection.prepare_cached(SELECT_AFTER)?;
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
                authenticated_by: delivery.authenticated_by.map(AuthMethod::as_str),
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
