//! Compares the open files with the files in the directory, and replaces lost ones.

use std::sync::Arc;

use rusqlite::config::DbConfig;

use super::Writer;
use crate::delivery::RejectReason;
use crate::spool::files::{DATABASE, FileFault, FileSizes};
use crate::spool::mark::{Mark, MarkFile};
use crate::spool::positions::StoredPositions;
use crate::spool::recovery::absorb::{self, Absorbed};
use crate::spool::recovery::rescue::{LostSpool, RescuedSpool};
use crate::spool::reserve::Reserve;
use crate::spool::{SpoolError, SpoolStatus, Unwritable, losses, schema, usage};

impl Writer {
    /// Checks before a write that the files still hold everything that was durable after the previous write.
    pub(super) fn check_files(&mut self) -> Result<(), FileFault> {
        let checked = self.files.check(self.min_sizes).or_else(|fault| match fault {
            // Another process may have emptied the log into the database, which SQLite allows.
            FileFault::Truncated { .. } if self.files.check_index().is_ok() => {
                self.min_sizes.wal = usage::wal_bytes(&self.connection).unwrap_or(self.min_sizes.wal);
                self.files.check(self.min_sizes)
            }
            other => Err(other),
        });
        self.apply_sizes(checked?);
        self.check_contents()?;
        if std::mem::take(&mut self.files_lost)
            && let Some(copy) = self.rescue_copy.take()
        {
            // The lost files are back. Their copy becomes outdated with the next write.
            copy.remove();
        }
        Ok(())
    }

    /// Checks after a write that the written files are the files in the directory, and still hold what they held before.
    pub(super) fn confirm_files(&mut self) -> Result<(), FileFault> {
        if let Ok(bytes) = usage::wal_bytes(&self.connection) {
            self.min_sizes.wal = bytes;
        }
        let sizes = self.files.check(self.min_sizes)?;
        if sizes.database > 0 {
            self.files.check_database_header()?;
        }
        self.apply_sizes(sizes);
        self.check_contents()
    }

    /// Checks that the files were not overwritten in place since the latest check: the log and its index still have the
    /// last frame or later ones, and the database is not older.
    fn check_contents(&mut self) -> Result<(), FileFault> {
        self.log_end = self.files.check_log(self.log_end)?.or(self.log_end);
        self.database_numbers =
            self.files.check_database(self.database_numbers, &self.runs)?.or(self.database_numbers);
        Ok(())
    }

    fn apply_sizes(&mut self, sizes: FileSizes) {
        let used = self.status.bytes - self.status.wal_bytes;
        // After `VACUUM`, one of the next checkpoints makes the file smaller.
        self.min_sizes.database = sizes.database.min(used + self.unused);
        self.status.bytes = used + sizes.wal;
        self.status.wal_bytes = sizes.wal;
    }

    /// Copies the readable deliveries into a new file in the place of the lost one, and continues with that file.
    ///
    /// # Errors
    /// [`SpoolError::InUse`]. Other errors are logged, and the caller has to try again.
    pub(super) fn replace_files(&mut self, fault: &FileFault) -> Result<(), SpoolError> {
        if !self.files_lost {
            tracing::error!(%fault, "files of the spool were changed while the receiver was running: webhooks are answered 503 until the stored deliveries are rescued");
        }
        self.files_lost = true;
        self.status.unwritable = Some(Unwritable::FilesChanged);
        self.set_rejecting(Some(RejectReason::DiskError), None);
        self.publish();
        // The new file needs the space.
        self.reserve.release();
        let SpoolStatus { last_seq, acked_seq, oldest_received_at, .. } = self.status;
        // SQLite must not read with a truncated index.
        let connection = self.files.check_index().is_ok().then_some(&self.connection);
        let lost = LostSpool {
            connection,
            files: &self.files,
            identity: self.identity,
            runs: &self.runs,
            last_seq,
            acked_seq,
            oldest_received_at,
            reconciled_until: &self.reconciled_until,
        };
        let intake = &self.channels.intake;
        let rescued = lost.rescue(&self.dir.join(DATABASE), &mut self.rescue_copy, &mut || {
            intake.writing();
            intake.reject_pending();
        });
        match rescued {
            Ok(rescued) => self.use_rescued(rescued),
            Err(error @ SpoolError::InUse(_)) => return Err(error),
            Err(error) => {
                tracing::error!(%fault, %error, "the spool's deliveries cannot be rescued yet: trying again every second");
            }
        }
        self.publish();
        Ok(())
    }

    fn use_rescued(&mut self, rescued: RescuedSpool) {
        let RescuedSpool { writer, reader, files, saved, lost } = rescued;
        let files = Arc::new(files);
        let old = std::mem::replace(&mut self.connection, writer);
        // Otherwise SQLite would delete the file with the log's name on close. That may now be the new log.
        let _ = old.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        drop(old);
        let old_files = std::mem::replace(&mut self.files, files.clone());
        let _ = self.channels.reader.connections.send((reader, files.clone()));
        self.min_sizes = FileSizes::default();
        (self.log_end, self.database_numbers) = (None, None);
        self.reserve = Reserve::new(&self.dir);
        // The next `write_mark` overwrites this mark.
        let mark_of_other = Mark::read(&self.dir).filter(|mark| *mark != self.current_mark());
        self.mark = MarkFile::open(&self.dir).ok();
        let identity = schema::identity(&self.connection).unwrap_or_default();
        let lost_identity = std::mem::replace(&mut self.identity, identity);
        self.run_is_stored = true;
        // A spool of another receiver may have had the name of this one.
        self.status.wal_bytes = 0;
        let unclaimed_mark = self.add_rescued(mark_of_other);
        if let Some(mark) = unclaimed_mark.filter(|mark| mark.identity != lost_identity && mark.unacked() > 0)
        {
            self.reconciled_until.set_back(mark.oldest_received_at);
            losses::count(mark.unacked(), &self.metrics);
        }
        // Not before: SQLite must not open overwritten files a second time while the reader has them open.
        old_files.unlock_for(&files);
        self.measure_aside();
        // A fault is ignored here: the check before the next write finds it again.
        let _ = self.confirm_files();
        self.write_mark();
        self.files_lost = false;
        self.status.unwritable = self.unwritable_for_space();
        tracing::error!(saved, lost_at_most = lost, "the spool's deliveries were rescued into a new file");
        self.metrics.spool_salvaged(saved, lost);
        self.set_rejecting(None, None);
    }

    /// Adds the deliveries of rescued files. `mark` and the returned one: [`absorb::absorb`].
    pub(super) fn add_rescued(&mut self, mark: Option<Mark>) -> Option<Mark> {
        if let Err(error) = self.store_run() {
            tracing::error!(%error, "rescued deliveries cannot be added now: the next start tries again");
            return None;
        }
        let intake = &self.channels.intake;
        let absorbed = absorb::absorb(
            &self.dir.join(DATABASE),
            &self.connection,
            mark,
            &self.metrics,
            &self.reconciled_until,
            &mut || {
                intake.writing();
                intake.reject_pending();
            },
        );
        let absorbed = absorbed.and_then(|absorbed| {
            let last_seq = Self::read_status(&self.connection)?.last_seq;
            self.status.last_seq = self.status.last_seq.max(last_seq);
            Ok(absorbed)
        });
        let absorbed = absorbed.unwrap_or_else(|error| {
            tracing::error!(%error, "rescued deliveries cannot be read now: the next start tries again");
            Absorbed::default()
        });
        self.set_needs_space(absorbed.needs_space);
        if let Ok(positions) = StoredPositions::read(&self.connection) {
            self.positions = positions;
        }
        if let Ok(usage) = usage::measure(&self.connection) {
            self.apply_usage(&usage);
        }
        absorbed.unclaimed_mark
    }

    /// The added deliveries get numbers of this run.
    fn store_run(&mut self) -> rusqlite::Result<()> {
        if let Some(run) = self.runs.last().filter(|_| !self.run_is_stored) {
            schema::add_run(&self.connection, *run)?;
            self.run_is_stored = true;
        }
        Ok(())
    }

    pub(in crate::spool) fn set_needs_space(&mut self, needs_space: bool) {
        if needs_space && !self.status.needs_space {
            tracing::error!(
                "the disk has too little space to add all rescued deliveries (spool.db.rescued-…): they are added when it has space"
            );
        }
        self.status.needs_space = needs_space;
        self.publish();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use bytes::Bytes;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    use super::*;
    use crate::auth::AuthMethod;
    use crate::config;
    use crate::delivery::Delivery;
    use crate::memory::MemoryBudget;
    use crate::metrics::Metrics;
    use crate::spool::files::CRASH_AFTER;
    use crate::spool::{BatchLimits, Spool, open};

    fn open_in(dir: &Path) -> (Spool, Arc<Metrics>) {
        let (spool, metrics) = try_open(dir);
        (spool.unwrap(), metrics)
    }

    fn try_open(dir: &Path) -> (Result<Spool, SpoolError>, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let settings =
            config::Spool { dir: dir.to_owned(), max_bytes: 1 << 30, lock_timeout: Duration::ZERO };
        (open(&settings, 1, &metrics), metrics)
    }

    async fn append(spool: &mut Spool, body: &'static [u8]) {
        append_received_at(spool, body, OffsetDateTime::now_utc()).await;
    }

    async fn append_received_at(spool: &mut Spool, body: &'static [u8], received_at: OffsetDateTime) {
        let delivery = Delivery {
            body: Bytes::from_static(body),
            received_at,
            authenticated_by: Some(AuthMethod::None),
            acknowledged: true,
            reference: None,
            fetched_from: None,
            is_redelivery: false,
            trace: None,
        };
        let memory = MemoryBudget::new(0).permit(true, &Arc::default());
        let mut append = std::pin::pin!(spool.handle.append(delivery, memory));
        assert!(futures_util::poll!(&mut append).is_pending());
        let mut waiting = Vec::new();
        spool.writer.channels.intake.recv_many(&mut waiting, 1).await;
        assert!(spool.writer.commit_waiting(&mut waiting, 0).unwrap().1.is_none());
        append.await.unwrap();
    }

    type Accident = (&'static str, fn(&Path));

    const ACCIDENTS: [Accident; 5] = [
        ("the index is removed", |dir| fs::remove_file(dir.join("spool.db-shm")).unwrap()),
        ("the database is replaced by a copy of itself", |dir| {
            fs::copy(dir.join("spool.db"), dir.join("copy")).unwrap();
            fs::rename(dir.join("copy"), dir.join("spool.db")).unwrap();
        }),
        ("the database is moved away", |dir| {
            fs::rename(dir.join("spool.db"), dir.join("moved")).unwrap();
        }),
        ("the log is removed", |dir| fs::remove_file(dir.join("spool.db-wal")).unwrap()),
        ("database and log are removed", |dir| {
            fs::remove_file(dir.join("spool.db")).unwrap();
            fs::remove_file(dir.join("spool.db-wal")).unwrap();
        }),
    ];

    /// The number of lost deliveries that were reported.
    fn reported(metrics: &Metrics) -> String {
        let page = metrics.render();
        let count =
            page.lines().find_map(|line| line.strip_prefix("workflow_receiver_spool_unreadable_total "));
        count.unwrap().to_owned()
    }

    /// A spool with two unrecorded deliveries, received at the returned time. `reconciled-until` has the current time.
    async fn with_old_deliveries(dir: &Path) -> (Spool, OffsetDateTime) {
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
        let received_at = now - time::Duration::days(3);
        fs::write(dir.join("reconciled-until"), now.format(&Rfc3339).unwrap()).unwrap();
        let (mut spool, _) = open_in(dir);
        append_received_at(&mut spool, b"one", received_at).await;
        append_received_at(&mut spool, b"two", received_at + time::Duration::hours(1)).await;
        (spool, received_at)
    }

    fn reconciled_until(dir: &Path) -> OffsetDateTime {
        let text = fs::read_to_string(dir.join("reconciled-until")).unwrap();
        OffsetDateTime::parse(&text, &Rfc3339).unwrap()
    }

    #[tokio::test]
    async fn a_start_that_counts_lost_deliveries_sets_reconciled_until_back() {
        let losses: [Accident; 3] = [
            ("all files except the mark", |dir| {
                for name in ["spool.db", "spool.db-wal", "spool.db-shm"] {
                    fs::remove_file(dir.join(name)).unwrap();
                }
            }),
            ("the log", |dir| fs::remove_file(dir.join("spool.db-wal")).unwrap()),
            ("the database", |dir| fs::write(dir.join("spool.db"), "damaged").unwrap()),
        ];
        for (removed, lose) in losses {
            let dir = tempfile::tempdir().unwrap();
            let (spool, received_at) = with_old_deliveries(dir.path()).await;
            let dir = killed(dir.path());
            drop(spool);
            lose(dir.path());
            let (_spool, metrics) = open_in(dir.path());
            assert_eq!(reconciled_until(dir.path()), received_at, "{removed}: {} lost", reported(&metrics));
        }
    }

    #[tokio::test]
    async fn a_rescue_that_counts_lost_deliveries_sets_reconciled_until_back_although_it_is_killed() {
        for steps in 0..=7 {
            let dir = tempfile::tempdir().unwrap();
            let (mut spool, received_at) = with_old_deliveries(dir.path()).await;
            let other = rusqlite::Connection::open(dir.path().join("spool.db")).unwrap();
            other.execute("DELETE FROM deliveries WHERE seq = 2", []).unwrap();
            fs::remove_file(dir.path().join("spool.db-shm")).unwrap();
            let fault = spool.writer.check_files().unwrap_err();
            CRASH_AFTER.set(steps);
            spool.writer.replace_files(&fault).unwrap();
            CRASH_AFTER.set(usize::MAX);
            let dir = killed(dir.path());
            let (_spool, _) = open_in(dir.path());
            assert_eq!(reconciled_until(dir.path()), received_at, "{steps} steps");
        }
    }

    #[tokio::test]
    async fn after_crashes_at_any_step_a_continued_copy_of_the_spool_is_added_and_not_replaced() {
        for steps in 0..=7 {
            let (dir, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (mut spool, _) = open_in(dir.path());
            append(&mut spool, b"one").await;
            drop(spool);
            fs::copy(dir.path().join("spool.db"), volume.path().join("spool.db")).unwrap();
            let (mut spool, _) = open_in(volume.path());
            append(&mut spool, b"volume").await;
            let volume = killed(volume.path());
            drop(spool);
            let (mut spool, _) = open_in(dir.path());
            append(&mut spool, b"two").await;
            for name in ["spool.db", "spool.db-wal", "spool.db-shm", "spool.mark"] {
                fs::rename(volume.path().join(name), dir.path().join(name)).unwrap();
            }
            let fault = spool.writer.check_files().unwrap_err();
            CRASH_AFTER.set(steps);
            spool.writer.replace_files(&fault).unwrap();
            CRASH_AFTER.set(usize::MAX);
            let dir = killed(dir.path());
            drop(spool);
            let (mut next, _) = open_in(dir.path());
            let spooled = next.reader.next(0, BatchLimits { rows: 100, bytes: 1 << 20 }).unwrap();
            let mut bodies: Vec<_> = spooled.iter().map(|spooled| &spooled.delivery.body[..]).collect();
            bodies.sort();
            bodies.dedup();
            assert_eq!(bodies, [&b"one"[..], b"two", b"volume"], "{steps} steps");
        }
    }

    /// All bodies in the spool, sorted.
    fn bodies(spool: &Spool) -> Vec<String> {
        let select = "SELECT CAST(body AS TEXT) FROM deliveries ORDER BY body";
        let mut select = spool.writer.connection.prepare(select).unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[tokio::test]
    async fn a_late_spool_is_added_and_its_lost_deliveries_are_counted_whatever_is_damaged() {
        type Damage<'a> = &'a dyn Fn(&Path);
        let zero_page = |dir: &Path, page: usize| {
            let mut database = fs::read(dir.join("spool.db")).unwrap();
            database[(page - 1) * 4096..][..4096].fill(0);
            fs::write(dir.join("spool.db"), database).unwrap();
        };
        let cases: [(&str, Damage, &[&str], &str); 4] = [
            ("nothing", &|_| (), &["a", "b", "own"], "0"),
            ("the page of sqlite_sequence", &|dir| zero_page(dir, 3), &["a", "b", "own"], "0"),
            ("the header", &|dir| zero_page(dir, 1), &["own"], "2"),
            ("all but the mark", &|dir| fs::remove_file(dir.join("spool.db")).unwrap(), &["own"], "2"),
        ];
        for (damaged, damage, expected, lost) in cases {
            let (dir, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let received_at = OffsetDateTime::now_utc() - time::Duration::days(3);
            let (mut late, _) = open_in(volume.path());
            append_received_at(&mut late, b"a", received_at).await;
            append(&mut late, b"b").await;
            drop(late);
            damage(volume.path());
            let (mut spool, metrics) = open_in(dir.path());
            append(&mut spool, b"own").await;
            fs::remove_file(dir.path().join("spool.db")).unwrap();
            for name in ["spool.db", "spool.mark"] {
                let _ = fs::rename(volume.path().join(name), dir.path().join(name));
            }
            let fault = spool.writer.check_files().unwrap_err();
            spool.writer.replace_files(&fault).unwrap();
            assert_eq!(reported(&metrics), lost, "{damaged}");
            let since = spool.reconciled_until.take_losses().since.map(|since| since - received_at);
            let expected_since = (lost != "0").then_some(time::Duration::ZERO);
            assert_eq!(since.map(|since| since.abs() / 1_000_000), expected_since, "{damaged}");
            let dir = killed(dir.path());
            drop(spool);
            let (next, metrics) = open_in(dir.path());
            assert_eq!(bodies(&next), expected, "{damaged}");
            assert_eq!(reported(&metrics), "0", "{damaged}, second start");
        }
    }

    #[tokio::test]
    async fn a_spool_that_is_copied_into_the_open_files_is_added_at_the_next_start() {
        let database: &[_] = &["spool.db"];
        let all: &[_] = &["spool.db", "spool.db-wal", "spool.db-shm", "spool.mark"];
        let cases: [(&[&str], &[&str], &str); 2] =
            [(database, &["other 1", "own 1", "own 2"], "0"), (all, &["other 1", "other 2"], "2")];
        for (names, expected, lost) in cases {
            for continued in [false, true] {
                let case = format!("{names:?}, continued: {continued}");
                let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                drop(open_in(dir.path()));
                if continued {
                    fs::copy(dir.path().join("spool.db"), copy.path().join("spool.db")).unwrap();
                }
                let other = {
                    let _open = with_two(copy.path(), b"other 1", b"other 2").await;
                    killed(copy.path())
                };
                let (mut spool, metrics) = with_two(dir.path(), b"own 1", b"own 2").await;
                for name in names {
                    fs::copy(other.path().join(name), dir.path().join(name)).unwrap();
                }
                let fault = spool.writer.check_files().unwrap_err();
                spool.writer.replace_files(&fault).unwrap();
                assert!(!spool.writer.files_lost, "{case}");
                assert_eq!(reported(&metrics), lost, "{case}");
                append(&mut spool, b"own 3").await;
                let dir = killed(dir.path());
                drop(spool);
                let (next, metrics) = open_in(dir.path());
                let expected: Vec<_> = expected.iter().chain(&["own 3"]).copied().collect();
                assert_eq!(bodies(&next), expected, "{case}");
                assert_eq!(reported(&metrics), "0", "{case}, second start");
            }
        }
    }

    /// A spool with one delivery, and a copy of it that another receiver has used until it was killed: the copy's new deliveries
    /// are only in its log.
    async fn with_continued_copy() -> [tempfile::TempDir; 2] {
        let [dir, copy] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let (mut spool, _) = open_in(dir.path());
        append(&mut spool, b"common").await;
        drop(spool);
        fs::copy(dir.path().join("spool.db"), copy.path().join("spool.db")).unwrap();
        let (mut other, _) = open_in(copy.path());
        append(&mut other, b"other 1").await;
        append(&mut other, b"other 2").await;
        let killed = killed(copy.path());
        [dir, killed]
    }

    #[tokio::test]
    async fn the_log_of_a_continued_copy_that_is_copied_into_the_open_files_is_added() {
        let [dir, copy] = with_continued_copy().await;
        let (mut spool, metrics) = open_in(dir.path());
        append(&mut spool, b"own 1").await;
        append(&mut spool, b"own 2").await;
        for name in ["spool.db", "spool.db-wal", "spool.db-shm"] {
            fs::copy(copy.path().join(name), dir.path().join(name)).unwrap();
        }
        let fault = spool.writer.check_files().unwrap_err();
        spool.writer.replace_files(&fault).unwrap();
        assert_eq!(reported(&metrics), "2", "the log had the only copy of the own deliveries");
        let dir = killed(dir.path());
        drop(spool);
        assert_eq!(bodies(&open_in(dir.path()).0), ["common", "other 1", "other 2"]);
    }

    #[tokio::test]
    async fn the_log_of_a_continued_copy_beside_a_stopped_spool_is_added() {
        let [dir, copy] = with_continued_copy().await;
        let (mut spool, _) = open_in(dir.path());
        for body in [b"own 1", b"own 2", b"own 3"] {
            append(&mut spool, body).await;
        }
        drop(spool);
        fs::copy(copy.path().join("spool.db-wal"), dir.path().join("spool.db-wal")).unwrap();
        let (next, metrics) = open_in(dir.path());
        let mut bodies = bodies(&next);
        bodies.dedup();
        assert_eq!(bodies, ["common", "other 1", "other 2", "own 1", "own 2", "own 3"]);
        assert_eq!(reported(&metrics), "0");
    }

    /// A rescued file with `bodies` for the spool in `dir`.
    async fn add_rescued_file(dir: &Path, bodies: &[&'static [u8]]) {
        let other = tempfile::tempdir().unwrap();
        let (mut spool, _) = open_in(other.path());
        for body in bodies {
            append(&mut spool, body).await;
        }
        drop(spool);
        fs::copy(other.path().join("spool.db"), dir.join("spool.db.rescued-1")).unwrap();
    }

    #[tokio::test]
    async fn rescued_deliveries_that_a_running_receiver_adds_belong_to_its_run() {
        for is_killed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (mut spool, _) = open_in(dir.path());
            append(&mut spool, b"before").await;
            drop(spool);
            let (mut spool, metrics) = open_in(dir.path());
            add_rescued_file(dir.path(), &[b"one", b"two"]).await;
            spool.writer.add_rescued(None);
            if !is_killed {
                fs::remove_file(dir.path().join("spool.db")).unwrap();
                let fault = spool.writer.check_files().unwrap_err();
                spool.writer.replace_files(&fault).unwrap();
                assert_eq!(reported(&metrics), "0");
            }
            let dir = killed(dir.path());
            drop(spool);
            let (next, metrics) = open_in(dir.path());
            assert_eq!(bodies(&next), ["before", "one", "two"], "killed: {is_killed}");
            assert_eq!(reported(&metrics), "0", "killed: {is_killed}");
        }
    }

    #[tokio::test]
    async fn a_part_of_a_rescued_file_is_added() {
        const BODIES: [&[u8]; 4] = [&[b'a'; 3000], &[b'b'; 3000], &[b'c'; 3000], &[b'd'; 3000]];
        let dir = tempfile::tempdir().unwrap();
        add_rescued_file(dir.path(), &BODIES).await;
        let rescued = dir.path().join("spool.db.rescued-1");
        let size = fs::metadata(&rescued).unwrap().len();
        fs::OpenOptions::new().write(true).open(&rescued).unwrap().set_len(size - 4096).unwrap();
        let (spool, metrics) = open_in(dir.path());
        let added = bodies(&spool);
        assert_eq!((added.len(), &*reported(&metrics)), (3, "1"));
        assert!(!rescued.exists());
    }

    #[test]
    fn an_unfinished_copy_counts_at_most_the_unacked_deliveries_as_lost() {
        let dir = tempfile::tempdir().unwrap();
        let copy = schema::prepare(&dir.path().join("spool.db.rescued-1")).unwrap();
        losses::begin_copy(&copy, 100, 98).unwrap();
        drop(copy);
        assert_eq!(reported(&open_in(dir.path()).1), "2");
    }

    #[tokio::test]
    async fn a_rescued_file_with_a_damaged_log_is_salvaged() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = with_two(dir.path(), b"1", b"2").await;
        append(&mut spool, b"3").await;
        append(&mut spool, b"4").await;
        let killed = killed(dir.path());
        let path = |name| killed.path().join(name);
        fs::copy(path("spool.db"), path("spool.db.rescued-1")).unwrap();
        let mut log = fs::read(path("spool.db-wal")).unwrap();
        log[100] ^= 1;
        fs::write(path("spool.db.rescued-1-wal"), log).unwrap();
        for name in ["spool.db-wal", "spool.db-shm", "spool.mark"] {
            fs::remove_file(path(name)).unwrap();
        }
        let (next, _) = open_in(killed.path());
        assert_eq!(bodies(&next), ["1", "2", "3", "4"]);
    }

    /// A spool with a delivery in the database and another one that is also in its log.
    async fn with_two(dir: &Path, one: &'static [u8], two: &'static [u8]) -> (Spool, Arc<Metrics>) {
        let (mut spool, _) = open_in(dir);
        append(&mut spool, one).await;
        drop(spool);
        let (mut spool, metrics) = open_in(dir);
        append(&mut spool, two).await;
        (spool, metrics)
    }

    #[tokio::test]
    async fn a_continued_copy_without_a_log_is_added_beside_the_log_of_the_spool() {
        for is_killed in [false, true] {
            let (dir, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (mut spool, _) = open_in(dir.path());
            append(&mut spool, b"common").await;
            drop(spool);
            fs::copy(dir.path().join("spool.db"), volume.path().join("spool.db")).unwrap();
            let (mut copy, _) = open_in(volume.path());
            append(&mut copy, b"copy").await;
            drop(copy);
            let (mut spool, _) = open_in(dir.path());
            append(&mut spool, b"own 1").await;
            append(&mut spool, b"own 2").await;
            let killed_at_once = killed(dir.path());
            let at = if is_killed { &killed_at_once } else { &dir };
            fs::rename(volume.path().join("spool.db"), at.path().join("spool.db")).unwrap();
            if !is_killed {
                let fault = spool.writer.check_files().unwrap_err();
                spool.writer.replace_files(&fault).unwrap();
            }
            let at = killed(at.path());
            drop(spool);
            let (next, _) = open_in(at.path());
            let mut bodies = bodies(&next);
            bodies.dedup();
            assert_eq!(bodies, ["common", "copy", "own 1", "own 2"], "killed: {is_killed}");
        }
    }

    #[tokio::test]
    async fn deliveries_that_a_copy_of_the_spool_has_replaced_are_counted_as_lost() {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut spool, _) = open_in(dir.path());
        append(&mut spool, b"common").await;
        drop(spool);
        fs::copy(dir.path().join("spool.db"), copy.path().join("spool.db")).unwrap();
        for (dir, bodies) in [(&copy, [b"copy 1" as &[_], b"copy 2"]), (&dir, [b"own 1", b"own 2"])] {
            let (mut spool, _) = open_in(dir.path());
            append(&mut spool, bodies[0]).await;
            append(&mut spool, bodies[1]).await;
        }
        fs::rename(copy.path().join("spool.db"), dir.path().join("spool.db")).unwrap();
        let (spool, metrics) = open_in(dir.path());
        assert_eq!(bodies(&spool), ["common", "copy 1", "copy 2"]);
        assert_eq!(reported(&metrics), "2");
    }

    #[tokio::test]
    async fn a_removed_mark_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = open_in(dir.path());
        append(&mut spool, b"one").await;
        fs::remove_file(dir.path().join("spool.mark")).unwrap();
        spool.writer.aside_measured_at -= Duration::from_secs(5);
        spool.writer.probe();
        append(&mut spool, b"two").await;
        let dir = killed(dir.path());
        for name in ["spool.db", "spool.db-wal", "spool.db-shm"] {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        assert_eq!(reported(&open_in(dir.path()).1), "2");
    }

    #[tokio::test]
    async fn an_overwritten_file_is_reported_without_a_size() {
        let zeros = |path: &Path| fs::write(path, vec![0; fs::read(path).unwrap().len()]).unwrap();
        for name in ["spool.db", "spool.db-wal"] {
            let dir = tempfile::tempdir().unwrap();
            let (mut spool, _) = open_in(dir.path());
            append(&mut spool, b"one").await;
            drop(spool);
            let (mut spool, _) = open_in(dir.path());
            append(&mut spool, b"two").await;
            zeros(&dir.path().join(name));
            let expected = format!("{name} was truncated or overwritten: earlier contents are missing");
            let before_a_write = spool.writer.check_files().map_err(|fault| fault.to_string());
            assert_eq!(before_a_write, Err(expected.clone()));
            spool.writer.connection.execute("UPDATE sqlite_sequence SET seq = seq + 1", []).unwrap();
            let after_a_write = spool.writer.confirm_files().map_err(|fault| fault.to_string());
            assert_eq!(after_a_write, Err(expected));
        }
    }

    /// Copies the files as SIGKILL leaves them.
    fn killed(dir: &Path) -> tempfile::TempDir {
        let killed = tempfile::tempdir().unwrap();
        for file in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if file.file_name() != "reserve" {
                fs::copy(file.path(), killed.path().join(file.file_name())).unwrap();
            }
        }
        killed
    }

    #[tokio::test]
    async fn after_crashes_at_any_step_of_a_rescue_and_a_start_nothing_is_lost_and_no_loss_is_reported() {
        const BODIES: [&[u8]; 4] = [b"one", b"two", b"three", b"four"];
        for (accident, cause) in ACCIDENTS {
            for steps in 0..=7 {
                let dir = tempfile::tempdir().unwrap();
                // Two deliveries are in the database, two in its log.
                let (mut spool, _) = open_in(dir.path());
                append(&mut spool, BODIES[0]).await;
                append(&mut spool, BODIES[1]).await;
                drop(spool);
                let (mut spool, _) = open_in(dir.path());
                append(&mut spool, BODIES[2]).await;
                append(&mut spool, BODIES[3]).await;

                cause(dir.path());
                let fault = spool.writer.check_files().unwrap_err();
                CRASH_AFTER.set(steps);
                spool.writer.replace_files(&fault).unwrap();
                CRASH_AFTER.set(usize::MAX);
                assert_eq!(spool.writer.files_lost, steps < 6, "{accident}, {steps} steps");
                let after_rescue = killed(dir.path());
                for steps_of_start in 0..=7 {
                    let case = format!("{accident}, {steps} steps, {steps_of_start} steps of a start");
                    let dir = killed(after_rescue.path());
                    CRASH_AFTER.set(steps_of_start);
                    let (start, _) = try_open(dir.path());
                    CRASH_AFTER.set(usize::MAX);
                    let dir = killed(dir.path());
                    let crashed = start.is_err();
                    drop(start);

                    let (mut next, metrics) = open_in(dir.path());
                    let spooled = next.reader.next(0, BatchLimits { rows: 100, bytes: 1 << 20 }).unwrap();
                    let bodies: Vec<_> = spooled.iter().map(|spooled| &spooled.delivery.body[..]).collect();
                    assert_eq!(bodies, BODIES, "{case}");
                    assert_eq!(reported(&metrics), "0", "{case}");
                    if !crashed {
                        break;
                    }
                }
            }
        }
    }
}
