//! Reads the next deliveries for the recorder, in the order of arrival.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Notify;

use super::files::OpenFiles;
use super::row::{SELECT_AFTER, SpoolRow};
use super::schema::connect_read_only;
use super::{Seq, SpoolError};
use crate::delivery::Delivery;

/// How long a reader waits for the writer to check the files after a failed read. The check can take long: the
/// writer may copy a large spool.
const CHECK_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(crate) struct Reader {
    connection: Connection,
    /// Dropped after the connection.
    files: Arc<OpenFiles>,
    handover: Arc<ConnectionHandover>,
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
        handover: Arc<ConnectionHandover>,
    ) -> Self {
        Self { connection, files, handover }
    }

    /// The deliveries after `after`, as many as `limits` allow. Empty when there are none.
    ///
    /// # Errors
    /// [`SpoolError`] when the read fails and the writer has not replaced the files.
    pub(crate) fn next(
        &mut self,
        after: Seq,
        limits: BatchLimits,
    ) -> Result<Vec<SpooledDelivery>, SpoolError> {
        self.switch_connection();
        let read = self.read(after, limits);
        if read.is_err() {
            self.handover.request_check();
            if self.switch_connection() {
                return self.read(after, limits);
            }
        }
        read
    }

    /// Uses the connection to the writer's new file, if there is one.
    fn switch_connection(&mut self) -> bool {
        let Some((connection, files)) = self.handover.lock().offered.take() else { return false };
        // In this order: the old files outlive the old connection.
        self.connection = connection;
        self.files = files;
        true
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
            let (delivery, intact) = spooled.delivery();
            batch.push(SpooledDelivery { seq: row.get(0)?, delivery, intact });
        }
        Ok(batch)
    }
}

/// Opens the reader's connection.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect_read_only(path)?;
    // The first read makes SQLite open the log. `OpenFiles::new` needs the open log.
    connection.query_row("SELECT count(*) FROM acked", [], |_| Ok(()))?;
    Ok(connection)
}

/// Passes a new connection from the writer to the reader, and requests for a check of the files back.
#[derive(Debug, Default)]
pub(super) struct ConnectionHandover {
    state: Mutex<State>,
    check_done: Condvar,
    check_requested: Notify,
}

#[derive(Debug, Default)]
struct State {
    offered: Option<(Connection, Arc<OpenFiles>)>,
    /// The reader waits for a check of the files.
    checking: bool,
    /// The writer has ended.
    closed: bool,
}

impl ConnectionHandover {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests a check of the files from the writer, and waits for its end.
    fn request_check(&self) {
        let mut state = self.lock();
        state.checking = !state.closed;
        self.check_requested.notify_one();
        let waiting = |state: &mut State| state.checking && !state.closed;
        let _ = self.check_done.wait_timeout_while(state, CHECK_TIMEOUT, waiting);
    }

    /// Returns once the reader requests a check.
    pub(super) async fn check_requested(&self) {
        self.check_requested.notified().await;
    }

    pub(super) fn check_done(&self) {
        self.lock().checking = false;
        self.check_done.notify_all();
    }

    /// Sets the connection for the next read.
    pub(super) fn offer(&self, connection: Connection, files: Arc<OpenFiles>) {
        self.lock().offered = Some((connection, files));
    }

    /// The writer has ended.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.check_done.notify_all();
    }
}
