//! The only writer of the spool, on a thread of its own, since it waits for the disk.
//!
//! All deliveries that wait become one transaction and one fsync: the higher the load, the larger the groups. Recorded
//! deliveries are deleted in the same transactions. A group is answered once it is on disk *and* the files that were
//! written are still the ones in the directory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::files::{DATABASE, FileFault, HeldFiles, Sizes};
use super::handle::PendingDelivery;
use super::mark::{Mark, Marker};
use super::reader::Handover;
use super::recovery::rescue::{Copied, Displaced, Rescued};
use super::reserve::Reserve;
use super::row::{INSERT, SpoolRow};
use super::space::{self, Usage};
use super::{Recorded, Seq, SpoolError, SpoolStatus, Unwritable, open};
use crate::config;
use crate::delivery::RejectReason;
use crate::metrics::Metrics;

/// The most deliveries in one transaction, and the most bytes of bodies, or a single delivery.
const GROUP: usize = 512;
const GROUP_BYTES: usize = 16 << 20;
/// With so many in a group, the next one waits for as many, but not longer than this; how often it looks.
const SOME: usize = 4;
const LINGER: Duration = Duration::from_micros(200);
const LINGER_STEP: Duration = Duration::from_micros(50);
/// The most deliveries deleted in one transaction: that takes space, too.
const DELETE: Recorded = 2_000;
/// And for each delivery that comes along in it: more would delay their answers.
const DELETE_WITH_EACH: Recorded = 4;
/// How long recorded deliveries may stay, when nothing arrives to be written along with.
const DELETE_WITHIN: Duration = Duration::from_millis(200);
/// After a failure, how often the disk or the directory is tried.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Without writes, how often the files are compared and a page is committed, to measure that a delivery could be written.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// Adds deliveries to the spool and deletes them.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) connection: Connection,
    /// Dropped after the connection.
    held: Arc<HeldFiles>,
    /// What the files had at least when they were last seen.
    pub(super) least: Sizes,
    handover: Arc<Handover>,
    pub(super) reserve: Reserve,
    marker: Option<Marker>,
    identity: i64,
    dir: PathBuf,
    pub(super) max_bytes: u64,
    pub(super) kept: SpoolStatus,
    /// The part of the file that holds nothing, in bytes.
    pub(super) unused: u64,
    /// The files are not the ones in the directory, and could not be replaced yet.
    displaced: bool,
    /// What was copied of their deliveries, for the next try.
    copied: Option<Copied>,
    wrote_at: Instant,
    /// Emptying the log did not work: not before then again.
    pub(super) reclaim_after: Instant,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        held: Arc<HeldFiles>,
        handover: Arc<Handover>,
        settings: &config::Spool,
    ) -> Result<Self, SpoolError> {
        // The rows decide, and no number that could be damaged on its own.
        let (first, last, sequence): (Option<Seq>, Option<Seq>, Option<Seq>) = connection.query_row(
            "SELECT (SELECT min(seq) FROM deliveries), (SELECT max(seq) FROM deliveries),
                    (SELECT seq FROM sqlite_sequence WHERE name = 'deliveries')",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let through = last.or(sequence).unwrap_or(0);
        let forgotten = first.map_or(through, |first| first - 1);
        let identity = open::identity(&connection)?;
        let usage = space::measure(&connection)?;
        let mut writer = Self {
            connection,
            held,
            least: Sizes::default(),
            handover,
            reserve: Reserve::new(&settings.dir),
            marker: Marker::open(&settings.dir).ok(),
            identity,
            dir: settings.dir.clone(),
            max_bytes: settings.max_bytes,
            kept: SpoolStatus { last_seq: through, acked_seq: forgotten, ..SpoolStatus::default() },
            unused: 0,
            displaced: false,
            copied: None,
            wrote_at: Instant::now(),
            reclaim_after: Instant::now(),
        };
        writer.apply_usage(&usage);
        let _ = writer.confirm_files();
        writer.write_mark();
        Ok(writer)
    }

    /// What the spool holds.
    pub(crate) fn kept(&self) -> SpoolStatus {
        self.kept
    }

    /// Works until no more deliveries can come and the recorder has stopped. Blocks: for a thread of its own.
    ///
    /// # Errors
    /// [`SpoolError::Damaged`], and [`SpoolError::InUse`] when another receiver has taken the directory. A disk that is
    /// full or fails does not end it: deliveries are refused until it takes them again.
    pub(crate) fn run(
        mut self,
        runtime: &Handle,
        mut arrivals: mpsc::Receiver<PendingDelivery>,
        mut recorded: watch::Receiver<Recorded>,
        kept: &watch::Sender<SpoolStatus>,
        metrics: &Metrics,
    ) -> Result<(), SpoolError> {
        let mut waiting = Vec::with_capacity(GROUP);
        // When something has to be done soon, even if nothing arrives.
        let mut due: Option<Instant> = None;
        let ticks = Ticks::start(runtime);
        loop {
            let handover = self.handover.clone();
            let event = runtime.block_on(async {
                tokio::select! {
                    count = arrivals.recv_many(&mut waiting, GROUP), if !self.kept.closed => Event::Arrived(count),
                    changed = recorded.changed() => if changed.is_ok() { Event::Recorded } else { Event::RecorderEnded },
                    () = handover.asked() => Event::Asked,
                    () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::Due,
                    () = ticks.notify.notified() => Event::Due,
                }
            });
            match event {
                Event::Arrived(count) => self.kept.closed = count == 0,
                Event::Recorded | Event::Due | Event::Asked => {}
                // The next start records what arrives now.
                Event::RecorderEnded => arrivals.close(),
            }
            let done = *recorded.borrow_and_update();
            let mut written = 0;
            let mut fault = None;
            while !waiting.is_empty() && fault.is_none() {
                let group = group_size(&waiting);
                match self.commit_group(&waiting[..group], done, metrics)? {
                    Ok(acks) => {
                        kept.send_replace(self.kept);
                        for (arrival, ack) in waiting.drain(..group).zip(acks) {
                            let _ = arrival.ack.send(ack);
                        }
                        written = group;
                    }
                    Err(changed) => fault = Some(changed),
                }
            }
            let urgent = self.kept.closed || self.kept.rejecting.is_some();
            let idle = matches!(event, Event::Due | Event::Asked | Event::RecorderEnded);
            if fault.is_none() && (urgent || idle) {
                fault = self.check_files().err();
            }
            if let Some(fault) = fault {
                reject(waiting.drain(..));
                if !self.displaced || idle {
                    self.replace_files(&fault, &mut arrivals, kept, metrics)?;
                }
            } else if self.displaced {
                // They are back.
                self.displaced = false;
                if let Some(copied) = self.copied.take() {
                    copied.remove();
                }
            }
            if matches!(event, Event::Asked) {
                self.handover.answer();
            }
            linger(&arrivals, written);
            // Recorded deliveries are deleted along with arrivals, or else before long.
            if !self.displaced && (urgent || idle) {
                self.delete_recorded(done);
                if matches!(event, Event::Due) {
                    self.probe();
                }
                kept.send_replace(self.kept);
            }
            due = self.next_due(due, done);
            if self.kept.closed && matches!(event, Event::RecorderEnded) {
                return if self.displaced { Err(SpoolError::FilesChanged(self.dir.clone())) } else { Ok(()) };
            }
        }
    }

    fn next_due(&self, due: Option<Instant>, done: Recorded) -> Option<Instant> {
        let wait = if self.kept.rejecting.is_some() || self.displaced {
            RETRY_EVERY
        } else if self.kept.acked_seq < done {
            DELETE_WITHIN
        } else {
            return None;
        };
        due.filter(|due| *due > Instant::now()).or_else(|| Some(Instant::now() + wait))
    }
}

/// Wakes an idle writer every [`PROBE_EVERY`]. The timer is a task's: one that the writer's thread polls panics when the
/// runtime is shut down under it.
struct Ticks {
    notify: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Ticks {
    fn start(runtime: &Handle) -> Self {
        let notify = Arc::new(Notify::new());
        let tick = notify.clone();
        let task = runtime.spawn(async move {
            loop {
                sleep(PROBE_EVERY).await;
                tick.notify_one();
            }
        });
        Self { notify, task }
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.handover.end();
    }
}

/// What the writer wakes up for.
enum Event {
    /// So many deliveries; none when no more can come.
    Arrived(usize),
    Recorded,
    RecorderEnded,
    /// The reader failed, and asks whether the files are still the right ones.
    Asked,
    /// Time to delete what is recorded, to try again what did not work, or to measure.
    Due,
}

/// Waits a little, so that the next group is about as large as the last one: an fsync costs the same for one delivery as
/// for a hundred. After a small group there is no wait.
fn linger(arrivals: &mpsc::Receiver<PendingDelivery>, last_group: usize) {
    let until = Instant::now() + LINGER;
    while last_group >= SOME && arrivals.len() < last_group && Instant::now() < until {
        std::thread::sleep(LINGER_STEP);
    }
}

/// How many of those waiting go into one transaction.
fn group_size(waiting: &[PendingDelivery]) -> usize {
    let mut bytes = 0;
    let fits = |arrival: &&PendingDelivery| {
        bytes += arrival.delivery.body.len();
        bytes <= GROUP_BYTES
    };
    waiting.iter().take_while(fits).count().max(1).min(waiting.len())
}

fn reject(waiting: impl Iterator<Item = PendingDelivery>) {
    for arrival in waiting {
        let _ = arrival.ack.send(Err(RejectReason::DiskError));
    }
}

impl Writer {
    /// Makes `group` durable, and deletes along with it. An answer for each arrival, or what is wrong with the files: then
    /// none may be answered 200.
    fn commit_group(
        &mut self,
        group: &[PendingDelivery],
        done: Recorded,
        metrics: &Metrics,
    ) -> Result<Result<Vec<Result<(), RejectReason>>, FileFault>, SpoolError> {
        if let Err(fault) = self.check_files() {
            return Ok(Err(fault));
        }
        let begun = Instant::now();
        let size = group.iter().map(|arrival| arrival.delivery.body.len() as u64).sum();
        if self.room(size) < size {
            self.delete_recorded(done);
        }
        let acks = match self.transact(group, done) {
            Ok(acks) => {
                if let Err(fault) = self.confirm_files() {
                    return Ok(Err(fault));
                }
                self.write_mark();
                self.kept.unwritable = self.unwritable_for_space();
                self.set_refusing(acks.iter().find_map(|ack| ack.err()), None);
                acks
            }
            Err(error) => {
                if let Err(fault) = self.check_files() {
                    return Ok(Err(fault));
                }
                let error = SpoolError::from(error);
                if matches!(error, SpoolError::Damaged(_)) {
                    return Err(error);
                }
                let (refused, unwritable) = if is_disk_full(&error) {
                    (RejectReason::SpoolFull, Unwritable::DiskFull)
                } else {
                    (RejectReason::DiskError, Unwritable::Failing)
                };
                self.kept.unwritable = Some(unwritable);
                self.set_refusing(Some(refused), Some(&error));
                // What a failed write left in the log must not be taken for a commit one day (`recovery/wal.rs`).
                let _ = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
                let _ = self.confirm_files();
                vec![Err(refused); group.len()]
            }
        };
        self.wrote_at = Instant::now();
        metrics.spool_committed(begun.elapsed(), group.len());
        Ok(Ok(acks))
    }

    /// Deletes what went along with no group. On a full disk, with the space of the reserve.
    fn delete_recorded(&mut self, done: Recorded) {
        while self.kept.acked_seq < done {
            let deleted = self.transact(&[], done);
            let _ = self.confirm_files();
            if let Err(error) = deleted
                && !self.reserve.give_up()
            {
                tracing::debug!(%error, "the spool cannot delete yet what is recorded");
                return;
            }
            self.write_mark();
        }
        self.shrink();
    }

    /// Measures whether a delivery could be written, when none has been for a while or the latest was refused.
    fn probe(&mut self) {
        let refusing = self.kept.rejecting.is_some();
        if !refusing && self.wrote_at.elapsed() < PROBE_EVERY {
            return;
        }
        let enough = if refusing { self.max_bytes / 10 } else { space::LEAST_ROOM };
        let room = self.room(enough);
        self.kept.unwritable = self
            .unwritable_for_space()
            .or_else(|| space::is_disk_full(&self.dir).then_some(Unwritable::DiskFull));
        if self.kept.unwritable.is_none() {
            let written = self.connection.pragma_update(None, "user_version", open::VERSION);
            let confirmed = self.confirm_files().is_ok();
            self.wrote_at = Instant::now();
            match written {
                Ok(()) if confirmed && (!refusing || room > enough) => self.set_refusing(None, None),
                Ok(()) => {}
                Err(error) => {
                    let full = is_disk_full(&error.into());
                    self.kept.unwritable =
                        Some(if full { Unwritable::DiskFull } else { Unwritable::Failing });
                }
            }
        }
    }

    /// One transaction.
    fn transact(
        &mut self,
        group: &[PendingDelivery],
        done: Recorded,
    ) -> rusqlite::Result<Vec<Result<(), RejectReason>>> {
        let mut room = if group.is_empty() { 0 } else { self.room(0) };
        let mut through = self.kept.last_seq;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let outcome = {
            let mut insert = transaction.prepare_cached(INSERT)?;
            group
                .iter()
                .map(|PendingDelivery { delivery, .. }| {
                    let size = delivery.body.len() as u64;
                    if size > room {
                        return Ok(Err(RejectReason::SpoolFull));
                    }
                    room -= size;
                    SpoolRow::new(delivery).insert(&mut insert, None)?;
                    through = transaction.last_insert_rowid();
                    Ok(Ok(()))
                })
                .collect::<rusqlite::Result<Vec<_>>>()?
        };
        let at_most = match Recorded::try_from(group.len()) {
            Ok(0) | Err(_) => DELETE,
            Ok(with) => DELETE_WITH_EACH * with,
        };
        let forgotten = done.min(self.kept.acked_seq + at_most).max(self.kept.acked_seq);
        if forgotten > self.kept.acked_seq {
            transaction.prepare_cached("DELETE FROM deliveries WHERE seq <= ?")?.execute([forgotten])?;
            transaction.prepare_cached(open::FORGET)?.execute([forgotten])?;
        }
        // Within the transaction, which has the locks already.
        let usage = space::measure(&transaction)?;
        transaction.commit()?;
        self.kept.last_seq = through;
        self.kept.acked_seq = forgotten;
        self.apply_usage(&usage);
        Ok(outcome)
    }

    pub(super) fn apply_usage(&mut self, usage: &Usage) {
        self.kept.bytes = usage.bytes + self.kept.wal_bytes;
        self.kept.oldest_received_at = usage.oldest;
        self.unused = usage.unused;
        self.least.database = self.least.database.min(usage.bytes + usage.unused);
    }

    /// Logs when the spool begins or ends to refuse deliveries.
    fn set_refusing(&mut self, refused: Option<RejectReason>, cause: Option<&SpoolError>) {
        let before = std::mem::replace(&mut self.kept.rejecting, refused);
        match refused {
            _ if refused == before => {}
            None => tracing::info!("the spool takes deliveries again"),
            Some(why) => {
                let cause = cause.map(ToString::to_string);
                let cause = cause.or_else(|| self.kept.unwritable.map(|why| why.to_string()));
                tracing::error!(cause, "{why}: deliveries are answered 503");
            }
        }
    }

    fn write_mark(&self) {
        if let Some(marker) = &self.marker {
            let SpoolStatus { last_seq: through, acked_seq: forgotten, .. } = self.kept;
            marker.write(Mark { identity: self.identity, last: through, forgotten });
        }
    }
}

/// The files that the writer holds open, and those in the directory.
impl Writer {
    /// Before a write: what was durable after the last one is still there.
    fn check_files(&mut self) -> Result<(), FileFault> {
        let checked = self.held.check(self.least).or_else(|fault| match fault {
            // Another process may have emptied the log into the database, as SQLite allows it.
            FileFault::Truncated { .. } if self.held.check_index().is_ok() => {
                self.least.wal = space::log_bytes(&self.connection).unwrap_or(self.least.wal);
                self.held.check(self.least)
            }
            other => Err(other),
        });
        checked.map(|sizes| self.apply_sizes(sizes))
    }

    /// After a write: the files that it went to are the ones in the directory, and what was in them before is still there.
    pub(super) fn confirm_files(&mut self) -> Result<(), FileFault> {
        let before = self.least.wal;
        if let Ok(log) = space::log_bytes(&self.connection) {
            self.least.wal = log;
        }
        let sizes = self.held.check(self.least)?;
        let appended = self.least.wal > before;
        if appended && !self.held.is_wal_intact_before(before, space::FRAME) {
            return Err(FileFault::Truncated { name: "spool.db-wal", expected: before, found: 0 });
        }
        if sizes.database > 0 && !self.held.has_database_header() {
            return Err(FileFault::Truncated { name: DATABASE, expected: sizes.database, found: 0 });
        }
        self.apply_sizes(sizes);
        Ok(())
    }

    fn apply_sizes(&mut self, sizes: Sizes) {
        let used = self.kept.bytes - self.kept.wal_bytes;
        // `VACUUM` makes the file smaller at one of the checkpoints after it.
        self.least.database = sizes.database.min(used + self.unused);
        self.kept.bytes = used + sizes.wal;
        self.kept.wal_bytes = sizes.wal;
    }

    /// Puts the readable deliveries into a new file at the place of the lost one, and goes on with it.
    fn replace_files(
        &mut self,
        fault: &FileFault,
        arrivals: &mut mpsc::Receiver<PendingDelivery>,
        kept: &watch::Sender<SpoolStatus>,
        metrics: &Metrics,
    ) -> Result<(), SpoolError> {
        if !self.displaced {
            tracing::error!(%fault, "files of the spool were changed while it was in use: deliveries are answered 503 until they are rescued");
        }
        self.displaced = true;
        self.kept.unwritable = Some(Unwritable::FilesChanged);
        self.set_refusing(Some(RejectReason::DiskError), None);
        kept.send_replace(self.kept);
        let path = self.dir.join(DATABASE);
        let SpoolStatus { last_seq: through, acked_seq: forgotten, .. } = self.kept;
        // With a truncated index, SQLite must not read.
        let connection = self.held.check_index().is_ok().then_some(&self.connection);
        let displaced = Displaced { connection, held: &self.held, through, forgotten };
        let rescued = displaced.rescue(&path, &mut self.copied, &mut || {
            while let Ok(arrival) = arrivals.try_recv() {
                reject(std::iter::once(arrival));
            }
        });
        match rescued {
            Ok(rescued) => self.go_on_with(rescued, metrics),
            Err(error @ SpoolError::InUse(_)) => return Err(error),
            Err(error) => {
                tracing::error!(%fault, %error, "the spool's deliveries cannot be rescued yet: it is tried again every second");
            }
        }
        kept.send_replace(self.kept);
        Ok(())
    }

    fn go_on_with(&mut self, rescued: Rescued, metrics: &Metrics) {
        let Rescued { writer, reader, held, saved, lost } = rescued;
        let held = Arc::new(held);
        let old = std::mem::replace(&mut self.connection, writer);
        // Its log may have the name of the new one.
        let _ = old.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        drop(old);
        self.held.unlock_for(&held);
        self.held = held.clone();
        self.handover.offer(reader, held);
        self.least = Sizes::default();
        self.reserve = Reserve::new(&self.dir);
        self.marker = Marker::open(&self.dir).ok();
        self.identity = open::identity(&self.connection).unwrap_or_default();
        self.kept.wal_bytes = 0;
        if let Ok(usage) = space::measure(&self.connection) {
            self.apply_usage(&usage);
        }
        // A fault is found again before the next write.
        let _ = self.confirm_files();
        self.write_mark();
        self.displaced = false;
        self.kept.unwritable = self.unwritable_for_space();
        tracing::error!(saved, lost_at_most = lost, "the spool's deliveries were rescued into a new file");
        metrics.spool_salvaged(saved, lost);
        self.set_refusing(None, None);
    }
}

fn is_disk_full(error: &SpoolError) -> bool {
    matches!(error, SpoolError::Disk(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
}
