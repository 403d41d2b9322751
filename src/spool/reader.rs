//! The recorder's end of the spool: the next deliveries, in the order of arrival.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Notify;

use super::files::HeldFiles;
use super::row::{COLUMNS, SpoolRow};
use super::{Seq, SpoolError};
use crate::delivery::Delivery;

/// How long a reader that failed waits for the writer to examine the files: a large spool is copied meanwhile.
const PATIENCE: Duration = Duration::from_mins(1);

/// Reads the spool while the writer writes it.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: Connection,
    /// Dropped after the connection.
    held: Arc<HeldFiles>,
    handover: Arc<Handover>,
}

/// A delivery and its place in the spool.
#[derive(Debug)]
pub(crate) struct SpooledDelivery {
    pub(crate) seq: Seq,
    pub(crate) delivery: Delivery,
    /// Whether its checksum is right.
    pub(crate) intact: bool,
}

/// How much one batch may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    pub(crate) rows: usize,
    /// Of bodies; the first delivery comes whatever its size.
    pub(crate) bytes: usize,
}

impl Reader {
    pub(super) fn new(connection: Connection, held: Arc<HeldFiles>, handover: Arc<Handover>) -> Self {
        Self { connection, held, handover }
    }

    /// The deliveries after `after`, as many as `limits` allow. Empty when there are none.
    ///
    /// # Errors
    /// [`SpoolError`] when the file cannot be read, and the writer has found nothing wrong with the files' names and sizes.
    pub(crate) fn next(
        &mut self,
        after: Seq,
        limits: BatchLimits,
    ) -> Result<Vec<SpooledDelivery>, SpoolError> {
        self.move_on();
        let read = self.read(after, limits);
        if read.is_err() {
            self.handover.ask();
            if self.move_on() {
                return self.read(after, limits);
            }
        }
        read
    }

    /// Takes over the connection to the file that the writer uses now, if it is another one.
    fn move_on(&mut self) -> bool {
        let next = self.handover.lock().next.take();
        if let Some((connection, held)) = next {
            // In this order: the old files outlive the old connection.
            self.connection = connection;
            self.held = held;
            return true;
        }
        false
    }

    fn read(&mut self, after: Seq, limits: BatchLimits) -> Result<Vec<SpooledDelivery>, SpoolError> {
        if self.held.check_index().is_err() {
            return Err(SpoolError::FilesChanged(self.held.dir.clone()));
        }
        let select = format!("SELECT seq, {COLUMNS} FROM deliveries WHERE seq > ? ORDER BY seq");
        let mut statement = self.connection.prepare_cached(&select)?;
        let mut rows = statement.query([after])?;
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < limits.rows {
            let Some(row) = rows.next()? else { break };
            let stored = SpoolRow::read(row);
            bytes += stored.body.len();
            if bytes > limits.bytes && !batch.is_empty() {
                break;
            }
            let (delivery, intact) = stored.delivery();
            batch.push(SpooledDelivery { seq: row.get(0)?, delivery, intact });
        }
        Ok(batch)
    }
}

/// Where the writer leaves a new connection for the reader, and the reader asks the writer to examine the files.
#[derive(Debug, Default)]
pub(super) struct Handover {
    state: Mutex<State>,
    answered: Condvar,
    asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: Option<(Connection, Arc<HeldFiles>)>,
    /// A reader waits for the files to be examined.
    asking: bool,
    /// No writer will examine them.
    ended: bool,
}

impl Handover {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the writer examine the files, and waits until it has.
    fn ask(&self) {
        let mut state = self.lock();
        state.asking = !state.ended;
        self.asked.notify_one();
        let _ = self.answered.wait_timeout_while(state, PATIENCE, |state| state.asking && !state.ended);
    }

    /// Returns once a reader asks.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// The files have been examined.
    pub(super) fn answer(&self) {
        self.lock().asking = false;
        self.answered.notify_all();
    }

    /// Leaves a connection for the reader's next read.
    pub(super) fn offer(&self, connection: Connection, held: Arc<HeldFiles>) {
        self.lock().next = Some((connection, held));
    }

    /// The writer has ended.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.answered.notify_all();
    }
}
