//! Reads the next deliveries for the recorder, in the order of arrival.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::files::OpenFiles;
use super::row::{SELECT_AFTER, SpoolRow};
use super::schema::connect_read_only;
use super::{ReconciledUntil, Seq, SpoolError};
use crate::delivery::Delivery;

#[derive(Debug)]
pub(crate) struct Reader {
    connection: Connection,
    /// Dropped after the connection.
    files: Arc<OpenFiles>,
    channels: ReaderChannels,
    /// The last delivery with a wrong checksum: `reconciled_until` was set back for it.
    last_damaged: Seq,
    reconciled_until: Arc<ReconciledUntil>,
}

/// A delivery and its position in the spool.
#[derive(Debug)]
pub(crate) struct SpooledDelivery {
    pub(crate) seq: Seq,
    pub(crate) delivery: Delivery,
    /// Whether the checksum matches.
    pub(crate) intact: bool,
}

/// The maximum size of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    pub(crate) rows: usize,
    /// Bytes of bodies. The first delivery of a batch may be larger.
    pub(crate) bytes: usize,
}

impl Reader {
    pub(super) fn new(
        connection: Connection,
        files: Arc<OpenFiles>,
        channels: ReaderChannels,
        reconciled_until: Arc<ReconciledUntil>,
    ) -> Self {
        Self { connection, files, channels, last_damaged: 0, reconciled_until }
    }

    /// The deliveries after `after`, as many as `limits` allow. Empty when there are none.
    ///
    /// # Errors
    /// [`SpoolError::FilesChanged`] while the writer cannot replace changed files; other errors when the read fails.
    pub(crate) fn next(
        &mut self,
        after: Seq,
        limits: BatchLimits,
    ) -> Result<Vec<SpooledDelivery>, SpoolError> {
        self.switch_connection();
        let read = self.read(after, limits);
        // Numbers are contiguous. If one is missing, the delivery is lost, or the files were overwritten. The writer counts
        // lost deliveries ([`super::losses`]).
        if read.as_ref().is_ok_and(|batch| is_contiguous(after, batch)) {
            return read;
        }
        let lost = self.files_are_lost();
        if self.switch_connection() {
            return self.read(after, limits);
        }
        if lost { Err(SpoolError::FilesChanged(self.files.dir.clone())) } else { read }
    }

    /// Uses the connection to the writer's new file, if there is one.
    fn switch_connection(&mut self) -> bool {
        let Some((connection, files)) = self.channels.connections.try_iter().last() else { return false };
        // In this order: the old files outlive the old connection.
        self.connection = connection;
        self.files = files;
        true
    }

    /// Waits until the writer has checked its files, and copied the deliveries if the files were changed. Returns whether
    /// they were changed and could not be copied. Returns false at once when the writer has ended.
    fn files_are_lost(&self) -> bool {
        let (done, checked) = oneshot::channel();
        self.channels.checks.blocking_send(done).is_ok() && checked.blocking_recv() == Ok(true)
    }

    fn read(&mut self, after: Seq, limits: BatchLimits) -> Result<Vec<SpooledDelivery>, SpoolError> {
        if self.files.check_index().is_err() {
            return Err(SpoolError::FilesChanged(self.files.dir.clone()));
        }
        let mut statement = self.connection.prepare_cached(SELECT_AFTER)?;
        let mut rows = statement.query([after])?;
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < limits.rows {
            let Some(row) = rows.next()? else { break };
            let spooled = SpoolRow::read(row);
            bytes += spooled.body.len();
            if bytes > limits.bytes && !batch.is_empty() {
                break;
            }
            let (seq, (delivery, intact)) = (row.get(0)?, spooled.delivery());
            if !intact && seq > self.last_damaged {
                self.last_damaged = seq;
                self.reconciled_until.set_back(Some(delivery.received_at));
            }
            batch.push(SpooledDelivery { seq, delivery, intact });
        }
        Ok(batch)
    }
}

/// Whether the batch has the delivery after `after`, and no number between two deliveries is missing.
fn is_contiguous(after: Seq, batch: &[SpooledDelivery]) -> bool {
    !batch.is_empty() && (after + 1..).zip(batch).all(|(seq, spooled)| spooled.seq == seq)
}

/// Opens the reader's connection.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect_read_only(path)?;
    // The first read makes SQLite open the log. `OpenFiles::new` needs the open log.
    connection.query_row("SELECT count(*) FROM acked", [], |_| Ok(()))?;
    Ok(connection)
}

/// The reader's ends of the channels to the writer.
#[derive(Debug)]
pub(super) struct ReaderChannels {
    /// Requests a check of the files. After it, the writer answers whether the files are lost.
    checks: mpsc::Sender<oneshot::Sender<bool>>,
    /// Connections to new files of the writer.
    connections: std::sync::mpsc::Receiver<(Connection, Arc<OpenFiles>)>,
}

/// The writer's ends.
#[derive(Debug)]
pub(super) struct WriterChannels {
    pub(super) checks: mpsc::Receiver<oneshot::Sender<bool>>,
    pub(super) connections: std::sync::mpsc::Sender<(Connection, Arc<OpenFiles>)>,
}

pub(super) fn channels() -> (ReaderChannels, WriterChannels) {
    let (to_writer, checks) = mpsc::channel(1);
    let (connections, from_writer) = std::sync::mpsc::channel();
    (ReaderChannels { checks: to_writer, connections: from_writer }, WriterChannels { checks, connections })
}
