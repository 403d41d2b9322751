//! The only writer of the spool, on a thread of its own, because it waits for the disk.
//!
//! All waiting deliveries become one transaction with one fsync (group commit): the higher the load, the larger the
//! groups. Acked deliveries are deleted in the same transactions. A group is acknowledged once it is on disk *and* the
//! written files are still the files in the directory.

mod commit;
mod replace_files;
mod space;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::files::{FileFault, FileSizes, OpenFiles};
use super::handle::PendingDelivery;
use super::log_end::LogEnd;
use super::mark::{Mark, MarkFile};
use super::positions::StoredPositions;
use super::reader::WriterChannels;
use super::recovery::rescue::RescueCopy;
use super::recovery::sequence::SequenceTable;
use super::reserve::Reserve;
use super::{Intake, ReconciledUntil, Seq, SpoolError, SpoolStatus, schema, usage};
use crate::config;
use crate::delivery::RejectReason;
use crate::metrics::Metrics;

/// Maximum size of a group: deliveries, and bytes of bodies. A larger delivery is a group of its own.
const MAX_GROUP: usize = 512;
const MAX_GROUP_BYTES: usize = 16 << 20;
/// After a group of at least `LINGER_MIN_GROUP` deliveries, the writer waits up to `LINGER` for the next group to become as
/// large, and checks every `LINGER_STEP`.
const LINGER_MIN_GROUP: usize = 4;
const LINGER: Duration = Duration::from_micros(200);
const LINGER_STEP: Duration = Duration::from_micros(50);
/// Acked deliveries are deleted together with the next group, or after this time if no group is committed.
const DELETE_WITHIN: Duration = Duration::from_millis(200);
/// The pause between attempts while the disk or the directory fails.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often an idle writer compares the files and commits a page, to measure whether a delivery could be written.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Time without a rejection after which a log line says that deliveries are accepted again. A spool that is almost full
/// still accepts small deliveries between the large ones that it rejects.
const ACCEPTED_AFTER: Duration = Duration::from_secs(10);

/// Why a transaction was not written.
#[derive(Debug)]
enum WriteError {
    /// The files in the directory are not the open files.
    FilesChanged(FileFault),
    Failed(SpoolError),
}

impl From<FileFault> for WriteError {
    fn from(fault: FileFault) -> Self {
        Self::FilesChanged(fault)
    }
}

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// The writer's ends of the channels to the other parts.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) intake: Intake,
    pub(super) acked: watch::Receiver<Seq>,
    pub(super) status: watch::Sender<SpoolStatus>,
    pub(super) reader: WriterChannels,
}

/// Adds and deletes deliveries.
#[derive(Debug)]
pub(crate) struct Writer {
    connection: Connection,
    /// Dropped after the connection.
    files: Arc<OpenFiles>,
    /// The sizes that the files must have at least, from the latest check.
    min_sizes: FileSizes,
    /// The positions after the latest write.
    positions: StoredPositions,
    /// The last frame of the log, and the numbers in the database without its log, from the latest check.
    log_end: Option<LogEnd>,
    database_numbers: Option<SequenceTable>,
    channels: Channels,
    reserve: Reserve,
    mark: Option<MarkFile>,
    identity: i64,
    /// The runs of receivers on this spool, and on those that it was copied from. The last one is this run.
    runs: Vec<i64>,
    /// Whether this run is stored: it is stored with its first delivery.
    run_is_stored: bool,
    dir: PathBuf,
    max_bytes: u64,
    lock_timeout: Duration,
    status: SpoolStatus,
    /// The last logged rejection. `None` once the log says that deliveries are accepted again.
    logged: Option<RejectReason>,
    rejected_at: Instant,
    /// Bytes of free pages in the database.
    unused: u64,
    /// The files are not the files in the directory, and could not be replaced yet.
    files_lost: bool,
    /// The copy of the lost files' deliveries, for the next attempt.
    rescue_copy: Option<RescueCopy>,
    wrote_at: Instant,
    /// When the size of the files that are set aside was last measured.
    aside_measured_at: Instant,
    /// The write-ahead log is not emptied before this time, because the last attempt failed.
    reclaim_after: Instant,
    metrics: Arc<Metrics>,
    /// Set back before a loss is stored.
    reconciled_until: Arc<ReconciledUntil>,
}

impl Writer {
    /// Computes the positions from the rows, because a stored number may be damaged.
    pub(super) fn read_status(connection: &Connection) -> Result<SpoolStatus, SpoolError> {
        let (first, last, sequence): (Option<Seq>, Option<Seq>, Option<Seq>) = connection.query_row(
            "SELECT (SELECT min(seq) FROM deliveries), (SELECT max(seq) FROM deliveries),
                    (SELECT seq FROM sqlite_sequence WHERE name = 'deliveries')",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let last_seq = last.or(sequence).unwrap_or(0);
        let acked_seq = first.map_or(last_seq, |first| first - 1);
        Ok(SpoolStatus { last_seq, acked_seq, ..SpoolStatus::default() })
    }

    pub(super) fn new(
        connection: Connection,
        status: SpoolStatus,
        files: Arc<OpenFiles>,
        channels: Channels,
        settings: &config::Spool,
        metrics: Arc<Metrics>,
        reconciled_until: Arc<ReconciledUntil>,
    ) -> Result<Self, SpoolError> {
        connection.busy_timeout(settings.lock_timeout)?;
        let identity = schema::identity(&connection)?;
        let mut runs = schema::runs(&connection)?;
        runs.push(schema::new_run(&connection)?);
        let positions = StoredPositions::read(&connection)?;
        let usage = usage::measure(&connection)?;
        let mut writer = Self {
            connection,
            files,
            min_sizes: FileSizes::default(),
            positions,
            log_end: None,
            database_numbers: None,
            channels,
            reserve: Reserve::new(&settings.dir),
            mark: MarkFile::open(&settings.dir).ok(),
            identity,
            runs,
            run_is_stored: false,
            dir: settings.dir.clone(),
            max_bytes: usage::max_bytes(settings),
            lock_timeout: settings.lock_timeout,
            status,
            logged: None,
            rejected_at: Instant::now(),
            unused: 0,
            files_lost: false,
            rescue_copy: None,
            wrote_at: Instant::now(),
            aside_measured_at: Instant::now(),
            reclaim_after: Instant::now(),
            metrics,
            reconciled_until,
        };
        writer.apply_usage(&usage);
        writer.measure_aside();
        let _ = writer.confirm_files();
        writer.write_mark();
        writer.publish();
        Ok(writer)
    }

    /// Runs until no delivery can be appended and the [`super::AckHandle`] is dropped. Blocks: run it on a thread of its
    /// own.
    ///
    /// # Errors
    /// [`SpoolError::Damaged`], [`SpoolError::InUse`] when another receiver uses the directory, and
    /// [`SpoolError::FilesChanged`] when changed files were not replaced before the end. A disk that is full or fails is not
    /// an error: deliveries are rejected until writes succeed again.
    pub(crate) fn run(mut self) -> Result<(), SpoolError> {
        // A runtime of its own: polling a timer of the main runtime panics while that runtime shuts down.
        let runtime = runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(SpoolError::at(&self.dir))?;
        let mut waiting = Vec::with_capacity(MAX_GROUP);
        // When to continue even if nothing arrives.
        let mut due = Instant::now() + PROBE_INTERVAL;
        loop {
            self.channels.intake.idle();
            let event = runtime.block_on(self.next_event(&mut waiting, due));
            self.channels.intake.writing();
            match event {
                Event::Arrived(count) => self.status.closed = count == 0,
                Event::Acked | Event::Due | Event::CheckRequested(_) => {}
                // Deliveries that are already in the channel are still stored; the next start records them.
                Event::RecorderEnded => self.channels.intake.close(),
            }
            let acked = *self.channels.acked.borrow_and_update();
            let (written, mut fault) = self.commit_waiting(&mut waiting, acked)?;
            let urgent = self.status.closed || self.status.rejecting.is_some();
            let housekeeping = matches!(event, Event::Due | Event::CheckRequested(_) | Event::RecorderEnded);
            if fault.is_none() && (urgent || housekeeping) {
                fault = self.check_files().err();
            }
            if let Some(fault) = fault {
                reject(waiting.drain(..));
                if !self.files_lost || housekeeping {
                    self.replace_files(&fault)?;
                }
            }
            linger(&self.channels.intake, written);
            // The next group may come late: delete acked deliveries without waiting for it.
            if !self.files_lost && (urgent || housekeeping) {
                if let Err(fault) = self.delete_acked(acked) {
                    self.replace_files(&fault)?;
                }
                if !self.files_lost && matches!(event, Event::Due) {
                    self.probe();
                }
                self.publish();
            }
            due = self.next_due(due, acked);
            match event {
                Event::CheckRequested(done) => _ = done.send(self.files_lost),
                Event::RecorderEnded if self.status.closed && self.files_lost => {
                    return Err(SpoolError::FilesChanged(self.dir.clone()));
                }
                Event::RecorderEnded if self.status.closed => return Ok(()),
                _ => {}
            }
        }
    }

    async fn next_event(&mut self, waiting: &mut Vec<PendingDelivery>, due: Instant) -> Event {
        let Channels { intake, acked, reader, .. } = &mut self.channels;
        tokio::select! {
            count = intake.recv_many(waiting, MAX_GROUP), if !self.status.closed => Event::Arrived(count),
            changed = acked.changed() => if changed.is_ok() { Event::Acked } else { Event::RecorderEnded },
            Some(done) = reader.checks.recv() => Event::CheckRequested(done),
            () = sleep_until(due) => Event::Due,
        }
    }

    /// Commits groups until none is left or the files were changed. Returns the size of the last group.
    fn commit_waiting(
        &mut self,
        waiting: &mut Vec<PendingDelivery>,
        acked: Seq,
    ) -> Result<(usize, Option<FileFault>), SpoolError> {
        let mut written = 0;
        while !waiting.is_empty() {
            let group = group_size(waiting);
            self.channels.intake.hold(waiting);
            let committed = self.commit_group(&waiting[..group], acked);
            self.channels.intake.release(waiting);
            let results = match committed {
                Ok(results) => results,
                Err(WriteError::FilesChanged(fault)) => return Ok((written, Some(fault))),
                Err(WriteError::Failed(error)) => return Err(error),
            };
            self.publish();
            for (mut pending, result) in waiting.drain(..group).zip(results) {
                pending.answer(result);
            }
            written = group;
        }
        Ok((written, None))
    }

    fn next_due(&self, due: Instant, acked: Seq) -> Instant {
        let wait = if self.status.rejecting.is_some() || self.files_lost {
            RETRY_INTERVAL
        } else if self.status.acked_seq < acked {
            DELETE_WITHIN
        } else {
            PROBE_INTERVAL
        };
        let now = Instant::now();
        let latest = now + wait;
        if due > now { due.min(latest) } else { latest }
    }

    fn publish(&self) {
        self.channels.status.send_replace(self.status);
    }

    /// Sets why the latest delivery was rejected, and logs when rejections begin or have ended.
    fn set_rejecting(&mut self, reason: Option<RejectReason>, cause: Option<&SpoolError>) {
        self.status.rejecting = reason;
        let Some(reason) = reason else {
            if self.logged.is_some() && self.rejected_at.elapsed() >= ACCEPTED_AFTER {
                self.logged = None;
                tracing::info!("the spool accepts deliveries again");
            }
            return;
        };
        self.rejected_at = Instant::now();
        if self.logged.replace(reason) != Some(reason) {
            let cause = cause.map(ToString::to_string);
            let cause = cause.or_else(|| self.status.unwritable.map(|why| why.to_string()));
            tracing::error!(cause, "{reason}: deliveries are answered 503");
        }
    }

    fn write_mark(&self) {
        if let Some(mark) = &self.mark {
            mark.write(self.current_mark());
        }
    }

    /// Writes the mark to a new file after another program has removed it.
    fn restore_mark(&mut self) {
        if !Mark::exists(&self.dir) {
            self.mark = MarkFile::open(&self.dir).ok();
            self.write_mark();
        }
    }

    fn current_mark(&self) -> Mark {
        let SpoolStatus { last_seq, acked_seq, oldest_received_at, .. } = self.status;
        let run = self.runs.last().copied().unwrap_or_default();
        Mark { identity: self.identity, run, last_seq, acked_seq, oldest_received_at }
    }
}

/// Why the writer wakes up.
enum Event {
    /// This many deliveries; 0 when no more can arrive.
    Arrived(usize),
    Acked,
    RecorderEnded,
    /// A read failed or found a number missing: the reader waits for a check of the files.
    CheckRequested(oneshot::Sender<bool>),
    /// Time to delete, to retry after a failure, or to probe.
    Due,
}

/// Waits for the next group to become about as large as the last one: an fsync costs the same for one delivery as for a
/// hundred. Does not wait after a small group.
fn linger(intake: &Intake, last_group: usize) {
    let until = Instant::now() + LINGER;
    while last_group >= LINGER_MIN_GROUP && intake.len() < last_group && Instant::now() < until {
        std::thread::sleep(LINGER_STEP);
    }
}

/// The number of waiting deliveries that go into one transaction.
fn group_size(waiting: &[PendingDelivery]) -> usize {
    let mut bytes = 0;
    let fits = |pending: &&PendingDelivery| {
        bytes += pending.delivery.body.len();
        bytes <= MAX_GROUP_BYTES
    };
    waiting.iter().take_while(fits).count().max(1).min(waiting.len())
}

fn reject(waiting: impl Iterator<Item = PendingDelivery>) {
    for mut pending in waiting {
        pending.answer(Err(RejectReason::DiskError));
    }
}
