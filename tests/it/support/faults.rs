//! Faults of a receiver, its PostgreSQL and its files under load: how they are injected, and which losses are allowed.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use private_postgres::Postgres;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Client;
use rusqlite::config::DbConfig;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use super::fixtures::execution;
use super::http::metric_of;
use super::load::{Counts, LOAD_SETTINGS, Load, now_micros};
use super::oracle::{Finding, Sent, Verdict, compare};
use super::postgres::{UNREACHABLE, new_database, rows, until_rows, url};
use super::process::{Process, Unobserved, closed_pipe, full_device, program};
use super::rollups::{wrong_changes, wrong_counts};
use super::small_disk::SmallDisk;
use super::spool::{spool_file, spool_holding};
use super::wait::until;

/// Acknowledgements before each fault, so that it hits a working receiver.
const FIRST_DELIVERIES: u64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    KillReceiver,
    KillReceiverStarting,
    KillReceiverStopping,
    KillReceiverRecovering,
    KillPostgres,
    FreezePostgres,
    RestartPostgres,
    CutConnections,
    KillBoth,
    FillDisk,
    HangUp,
    Quit,
    /// All steps of a fault of the spool's files, without changing the files.
    KillWithBacklog,
    RemoveSpoolDirectory,
    RemoveSpoolFile,
    ReplaceSpoolFile,
    RemoveWal,
    EmptySpoolFile,
    TruncateSpoolFile,
    EmptyWal,
    StderrFull,
    StderrClosed,
    StderrReaderGone,
    StderrStalled,
    LargeWal,
}

/// The losses that a fault may cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expectation {
    NothingLost,
    /// Deliveries whose bytes were destroyed may be lost: only those acknowledged shortly before the fault, and at most
    /// as many as the receiver reports.
    CountedLoss,
}

impl Fault {
    pub(crate) const ALL: [Self; 25] = [
        Self::KillReceiver,
        Self::KillReceiverStarting,
        Self::KillReceiverStopping,
        Self::KillReceiverRecovering,
        Self::KillPostgres,
        Self::FreezePostgres,
        Self::RestartPostgres,
        Self::CutConnections,
        Self::KillBoth,
        Self::FillDisk,
        Self::HangUp,
        Self::Quit,
        Self::KillWithBacklog,
        Self::RemoveSpoolDirectory,
        Self::RemoveSpoolFile,
        Self::ReplaceSpoolFile,
        Self::RemoveWal,
        Self::EmptySpoolFile,
        Self::TruncateSpoolFile,
        Self::EmptyWal,
        Self::StderrFull,
        Self::StderrClosed,
        Self::StderrReaderGone,
        Self::StderrStalled,
        Self::LargeWal,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillReceiver => "receiver killed at work",
            Self::KillReceiverStarting => "receiver killed while starting",
            Self::KillReceiverStopping => "receiver killed while stopping",
            Self::KillReceiverRecovering => "receiver killed while recovering",
            Self::KillPostgres => "PostgreSQL killed (postmaster)",
            Self::FreezePostgres => "PostgreSQL frozen",
            Self::RestartPostgres => "PostgreSQL restarted",
            Self::CutConnections => "connections cut",
            Self::KillBoth => "both killed at once",
            Self::FillDisk => "the spool's disk filled",
            Self::HangUp => "receiver sent SIGHUP",
            Self::Quit => "receiver sent SIGQUIT",
            Self::KillWithBacklog => "receiver killed with a backlog",
            Self::RemoveSpoolDirectory => "spool directory removed",
            Self::RemoveSpoolFile => "spool.db removed",
            Self::ReplaceSpoolFile => "spool.db replaced",
            Self::RemoveWal => "spool.db-wal removed",
            Self::EmptySpoolFile => "spool.db truncated to 0",
            Self::TruncateSpoolFile => "spool.db truncated to a page",
            Self::EmptyWal => "spool.db-wal truncated to 0",
            Self::StderrFull => "standard error full",
            Self::StderrClosed => "standard error closed",
            Self::StderrReaderGone => "reader of standard error gone",
            Self::StderrStalled => "standard error stalled",
            Self::LargeWal => "start with a WAL of 300 MiB",
        }
    }

    pub(crate) fn expectation(self) -> Expectation {
        match self {
            Self::EmptySpoolFile | Self::TruncateSpoolFile | Self::EmptyWal => Expectation::CountedLoss,
            _ => Expectation::NothingLost,
        }
    }

    pub(crate) fn is_of_stderr(self) -> bool {
        matches!(self, Self::StderrFull | Self::StderrClosed | Self::StderrReaderGone | Self::StderrStalled)
    }
}

/// A time in which acknowledged deliveries may have been lost.
#[derive(Debug)]
pub(crate) struct Loss {
    /// Read by `Debug`.
    #[expect(dead_code, reason = "shown when a test fails")]
    pub(crate) fault: Fault,
    /// Microseconds since 1970.
    pub(crate) from: i64,
    pub(crate) to: i64,
    /// Deliveries that the receiver reports as lost.
    pub(crate) reported: usize,
}

/// A receiver under load, with the means to inject faults.
pub(crate) struct Arena {
    // The first field: the disk is unmounted before `dir` is removed.
    disk: Option<SmallDisk>,
    dir: TempDir,
    database: PgConnectOptions,
    database_url: String,
    /// The server of `database`; `None` for the server that all tests share.
    postgres: Option<Postgres>,
    receiver: Option<Process>,
    load: Load,
    senders: usize,
    sent: Vec<Sent>,
    losses: Vec<Loss>,
    random: StdRng,
    client: Client,
    /// Deliveries that are acknowledged before a fault of the spool's files or of standard error.
    backlog: u64,
}

impl Arena {
    /// With a PostgreSQL of its own, and with a small disk for the spool if this process has the right to mount one.
    pub(crate) async fn start(senders: usize, seed: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let postgres = Postgres::start(&dir.path().join("postgres")).unwrap();
        let database = postgres.connect_options();
        workflow_receiver::db::create_database(&database).await.unwrap();
        let socket = dir.path().join("postgres").canonicalize().unwrap();
        let url = format!("postgres:///workflow_receiver?host={}&user=postgres", socket.display());
        let disk = SmallDisk::mount(&dir.path().join("disk"));
        Self::on(dir, disk, database, url, Some(postgres), senders, seed)
    }

    /// On the server that all tests share: for faults of the receiver and its files only.
    pub(crate) async fn on_shared_postgres(senders: usize) -> Self {
        let database = new_database().await;
        let url = url(&database);
        Self::on(TempDir::new().unwrap(), None, database, url, None, senders, rand::rng().random())
    }

    fn on(
        dir: TempDir,
        disk: Option<SmallDisk>,
        database: PgConnectOptions,
        database_url: String,
        postgres: Option<Postgres>,
        senders: usize,
        seed: u64,
    ) -> Self {
        let mut arena = Self {
            disk,
            dir,
            database,
            database_url,
            postgres,
            receiver: None,
            load: Load::start(senders),
            senders,
            sent: Vec::new(),
            losses: Vec::new(),
            random: StdRng::seed_from_u64(seed),
            client: Client::new(),
            backlog: 150,
        };
        arena.start_receiver();
        arena
    }

    pub(crate) fn has_small_disk(&self) -> bool {
        self.disk.is_some()
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.load.counts().acknowledged
    }

    fn command(&self) -> Command {
        let mut command = program(self.dir.path());
        self.set_up(&mut command);
        command
    }

    fn set_up(&self, command: &mut Command) {
        command
            .current_dir(self.dir.path())
            .env("DATABASE_URL", &self.database_url)
            .env("RECEIVER__SPOOL__DIR", self.spool_dir())
            .envs(LOAD_SETTINGS)
            .env("RECEIVER__DATABASE__STATEMENT_TIMEOUT", "2s")
            .env("RECEIVER__RECORDER__MAX_BACKOFF", "100ms")
            .env("RECEIVER__LOG__FILTER", "info,sqlx=warn,workflow_receiver::recorder=error");
    }

    fn spool_dir(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.dir.path().join("spool"), |disk| disk.0.join("spool"))
    }

    fn postgres_dir(&self) -> PathBuf {
        self.dir.path().join("postgres")
    }

    fn receiver(&mut self) -> &mut Process {
        self.receiver.as_mut().unwrap()
    }

    fn start_receiver(&mut self) {
        let receiver = Process::start(&mut self.command());
        self.load.point_to(&receiver.url);
        self.receiver = Some(receiver);
    }

    /// The kill may happen between a commit in PostgreSQL and the ack to the spool.
    fn kill_receiver(&mut self) {
        let mut receiver = self.receiver.take().unwrap();
        if !receiver.has_ended() {
            receiver.kill();
        }
        self.load.interrupted(1);
    }

    /// Sends a signal that may end the receiver.
    async fn signal_receiver(&mut self, signal: Signal) {
        let receiver = RefCell::new(self.receiver.take().unwrap());
        receiver.borrow().signal(signal);
        let enough = self.acknowledged() + FIRST_DELIVERIES;
        until(async || receiver.borrow_mut().has_ended() || self.acknowledged() >= enough).await;
        let mut receiver = receiver.into_inner();
        if !receiver.has_ended() {
            self.receiver = Some(receiver);
        }
        self.load.interrupted(1);
    }

    fn start_postgres(&mut self) {
        self.postgres = Some(Postgres::start(&self.postgres_dir()).unwrap());
    }

    /// SIGKILL to the postmaster: its children notice and exit without writing.
    async fn kill_postgres(&mut self) {
        kill_process(self.postmaster(), Signal::KILL).unwrap();
        self.postgres.take().unwrap().stop().await;
        self.load.interrupted(1);
    }

    fn postmaster(&self) -> Pid {
        let file = fs::read_to_string(self.postgres_dir().join("data/postmaster.pid")).unwrap();
        Pid::from_raw(file.lines().next().unwrap().trim().parse().unwrap()).unwrap()
    }

    fn signal_all_of_postgres(&self, signal: Signal) {
        let postmaster = self.postmaster();
        for process in std::iter::once(postmaster).chain(children(postmaster)) {
            let _ = kill_process(process, signal);
        }
    }

    async fn until_acknowledged(&self, more: u64) {
        self.load.until_acknowledged(more).await;
    }

    pub(crate) async fn inject(&mut self, fault: Fault) {
        let pause = Duration::from_millis(self.random.random_range(0..60));
        self.until_acknowledged(FIRST_DELIVERIES).await;
        match fault {
            Fault::KillReceiver => self.kill_receiver(),
            Fault::KillReceiverStarting => {
                self.kill_receiver();
                let mut starting = Process::spawn(&mut self.command());
                starting.wait_at_most(pause / 3);
                starting.kill();
                self.load.interrupted(1);
            }
            Fault::KillReceiverStopping => {
                let mut stopping = self.receiver.take().unwrap();
                stopping.signal(Signal::TERM);
                stopping.wait_for("stopping");
                stopping.wait_at_most(pause);
                stopping.kill();
                self.load.interrupted(1);
            }
            Fault::KillReceiverRecovering => {
                // With a backlog to recover.
                self.signal_all_of_postgres(Signal::STOP);
                self.until_acknowledged(FIRST_DELIVERIES).await;
                self.kill_receiver();
                self.signal_all_of_postgres(Signal::CONT);
                self.load.interrupted(1);
                self.start_receiver();
                self.receiver().wait_at_most(pause);
                self.kill_receiver();
            }
            Fault::KillPostgres => {
                self.kill_postgres().await;
                self.until_acknowledged(FIRST_DELIVERIES).await;
                self.start_postgres();
            }
            Fault::FreezePostgres => {
                self.signal_all_of_postgres(Signal::STOP);
                self.until_acknowledged(FIRST_DELIVERIES).await;
                // Longer than the statement timeout.
                self.receiver().wait_at_most(Duration::from_millis(2_500));
                self.signal_all_of_postgres(Signal::CONT);
                self.load.interrupted(1);
            }
            Fault::RestartPostgres => {
                self.postgres.take().unwrap().stop().await;
                self.load.interrupted(1);
                self.until_acknowledged(FIRST_DELIVERIES).await;
                self.start_postgres();
            }
            Fault::CutConnections => {
                let mut connection = PgConnection::connect_with(&self.database).await.unwrap();
                let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                           WHERE application_name = 'workflow-receiver' AND datname = current_database()";
                sqlx::query(cut).execute(&mut connection).await.unwrap();
                self.load.interrupted(1);
            }
            Fault::KillBoth => {
                self.kill_receiver();
                self.kill_postgres().await;
                self.start_postgres();
            }
            Fault::HangUp => self.signal_receiver(Signal::HUP).await,
            Fault::Quit => self.signal_receiver(Signal::QUIT).await,
            Fault::FillDisk => {
                let filler = self.disk.as_ref().unwrap().fill();
                // Webhooks are rejected at once, or only when the free space inside the spool's file is used up.
                let (refused, acknowledged) =
                    (self.load.counts().refused + 10, self.acknowledged() + 10 * FIRST_DELIVERIES);
                let enough =
                    |counts: &Counts| counts.refused >= refused || counts.acknowledged >= acknowledged;
                self.load.wait_for(enough).await;
                fs::remove_file(filler).unwrap();
            }
            Fault::LargeWal => {
                let database = self.database.clone().database("large");
                let url = self.database_url.replace("/workflow_receiver?", "/large?");
                // The senders would compete with the starting receiver for the CPU.
                self.stop_load().await;
                start_with_large_wal(&database, &url).await;
                self.load.resume(self.senders);
                let mut connection = PgConnection::connect_with(&self.database).await.unwrap();
                let drop = "DROP DATABASE large WITH (FORCE)";
                sqlx::raw_sql(drop).execute(&mut connection).await.unwrap();
            }
            fault if fault.is_of_stderr() => self.inject_into_stderr(fault).await,
            fault => self.inject_into_files(fault).await,
        }
        if self.receiver.is_none() {
            self.start_receiver();
        }
    }

    /// Injects the fault while acknowledged deliveries wait in the spool. PostgreSQL then records again, until the
    /// spool is empty or the receiver has ended. Then more deliveries are sent, and the receiver is killed before they
    /// are recorded.
    async fn inject_into_files(&mut self, fault: Fault) {
        self.stop_load().await;
        self.until_spool_is_empty().await;
        let from = now_micros();
        let already_reported = self.reported_as_lost().await;
        let held = self.hold_recording().await;
        self.load.resume(self.senders);
        self.until_acknowledged(self.backlog).await;
        self.stop_load().await;
        let waiting = self.health(&self.receiver.as_ref().unwrap().admin).await["spooled"].as_u64().unwrap();
        assert!(waiting >= self.backlog, "{waiting} deliveries are in the spool when its files are hit");

        change_files(fault, &self.spool_dir()).await;
        let to = now_micros();
        release(held).await;
        let mut reported = if self.has_ended_before_its_spool_was_empty().await {
            self.load.interrupted(1);
            self.start_receiver();
            self.until_spool_is_empty().await;
            self.reported_as_lost().await
        } else {
            self.reported_as_lost().await - already_reported
        };

        let held = self.hold_recording().await;
        let already_reported = self.reported_as_lost().await;
        let before = self.load.counts();
        self.load.resume(self.senders);
        let receiver = RefCell::new(self.receiver.take().unwrap());
        until(async || {
            let counts = self.load.counts();
            let answers = |counts: &Counts| counts.acknowledged + counts.refused + counts.unclear;
            answers(&counts) > answers(&before) + self.backlog || receiver.borrow_mut().has_ended()
        })
        .await;
        self.receiver = Some(receiver.into_inner());
        self.stop_load().await;
        reported += self.reported_as_lost().await.saturating_sub(already_reported);
        self.kill_receiver();
        release(held).await;
        self.start_receiver();
        self.until_spool_is_empty().await;
        reported += self.reported_as_lost().await;
        if fault.expectation() == Expectation::CountedLoss {
            self.losses.push(Loss { fault, from, to, reported });
        }
        self.load.resume(self.senders);
    }

    /// Runs the receiver under load with a standard error that accepts no lines, and stops it with SIGTERM.
    async fn inject_into_stderr(&mut self, fault: Fault) {
        self.receiver.take().unwrap().terminate();
        let mut command = self.command();
        let mut stalled = None;
        let stderr = match fault {
            Fault::StderrFull => Stdio::from(full_device()),
            Fault::StderrReaderGone => Stdio::from(closed_pipe()),
            Fault::StderrStalled => {
                let (reader, writer) = std::io::pipe().unwrap();
                stalled = Some(reader);
                Stdio::from(writer)
            }
            _ => {
                command = Command::new("sh");
                command.args(["-c", "exec \"$0\" 2>&-", env!("CARGO_BIN_EXE_workflow-receiver")]);
                self.set_up(&mut command);
                Stdio::null()
            }
        };
        command.env("RECEIVER__LOG__FILTER", "info,sqlx=warn,workflow_receiver=debug");
        let receiver = Unobserved::spawn(&mut command, stderr);
        until(async || !receiver.health().await.is_empty()).await;
        self.load.point_to(&receiver.url);
        // Each delivery logs some hundred bytes: these are together more than a pipe holds.
        self.until_acknowledged(if fault == Fault::StderrStalled { 4 * self.backlog } else { self.backlog })
            .await;
        receiver.signal(Signal::TERM);
        assert_eq!(receiver.ended().await.code(), Some(0), "{fault:?}");
        drop(stalled);
    }

    async fn stop_load(&mut self) {
        let sent = self.load.stop().await;
        self.sent.extend(sent);
    }

    /// Blocks recording until the returned connection is passed to [`release`].
    async fn hold_recording(&self) -> PgConnection {
        let mut connection = PgConnection::connect_with(&self.database).await.unwrap();
        let lock = "BEGIN; LOCK TABLE executions, quarantine IN SHARE MODE";
        until_rows(&self.database, "SELECT WHERE to_regclass('quarantine') IS NOT NULL", 1).await;
        sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
        connection
    }

    /// The answer of `/health/ready`; null without one.
    async fn health(&self, admin: &str) -> Value {
        match self.client.get(format!("http://{admin}/health/ready")).send().await {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    async fn until_spool_is_empty(&self) {
        let receiver = self.receiver.as_ref().unwrap();
        until(async || self.health(&receiver.admin).await["spooled"] == 0).await;
    }

    async fn has_ended_before_its_spool_was_empty(&mut self) -> bool {
        let receiver = RefCell::new(self.receiver.take().unwrap());
        let admin = receiver.borrow().admin.clone();
        let ended = || receiver.borrow_mut().has_ended();
        until(async || ended() || self.health(&admin).await["spooled"] == 0).await;
        let mut receiver = receiver.into_inner();
        let ended = receiver.has_ended();
        self.receiver = Some(receiver);
        ended
    }

    /// Deliveries that the running receiver reports as lost; 0 when it has ended.
    async fn reported_as_lost(&self) -> usize {
        let admin = &self.receiver.as_ref().unwrap().admin;
        let Ok(answer) = self.client.get(format!("http://{admin}/metrics")).send().await else { return 0 };
        let page = answer.text().await.unwrap_or_default();
        metric_of(&page, "spool_unreadable_total").unwrap_or(0)
    }

    /// Stops everything and compares what was sent with what is recorded.
    pub(crate) async fn finish(mut self) -> Report {
        self.until_acknowledged(FIRST_DELIVERIES).await;
        self.stop_load().await;
        let (counts, interruptions) = (self.load.counts(), self.load.interruptions());
        // SIGTERM: the receiver records the whole spool before it exits.
        self.receiver.take().unwrap().terminate();
        let spool = rusqlite::Connection::open(self.spool_dir().join("spool.db")).unwrap();
        let left = spool.query_row("SELECT count(*) FROM deliveries", [], |row| row.get(0)).unwrap();
        let verdict = compare(&self.database, &self.sent, interruptions).await;
        let wrong_counts = [wrong_counts(&self.database).await, wrong_changes(&self.database).await].concat();
        let tables = "SELECT (SELECT count(*) FROM executions) AS executions,
            (SELECT count(*) FROM execution_conflicts) AS conflicts, (SELECT count(*) FROM quarantine) AS quarantine";
        let tables = rows(&self.database, tables).await.remove(0);
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
        let rejected = self.sent.iter().filter(|sent| sent.answered(422)).count();
        let losses = std::mem::take(&mut self.losses);
        Report { counts, rejected, interruptions, verdict, losses, wrong_counts, tables, left }
    }
}

/// The state after all faults.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) counts: Counts,
    /// Deliveries answered 422.
    pub(crate) rejected: usize,
    pub(crate) interruptions: u32,
    pub(crate) verdict: Verdict,
    pub(crate) losses: Vec<Loss>,
    /// Bulks, rollups and changes.
    pub(crate) wrong_counts: Vec<Value>,
    /// The number of rows of each table.
    pub(crate) tables: Value,
    /// Deliveries left in the spool.
    pub(crate) left: i64,
}

impl Report {
    pub(crate) fn reported_as_lost(&self) -> usize {
        self.losses.iter().map(|loss| loss.reported).sum()
    }

    /// # Panics
    /// If an acknowledged delivery is lost or recorded with other values, unless a fault may lose it and the receiver
    /// counted it. Also if a row, a count of a bulk or a rollup is wrong.
    pub(crate) fn assert_good(&self) {
        let Verdict { lost, different, unexplained, counted_again } = &self.verdict;
        // A lost delivery affects its own execution only.
        let mut subjects_by_loss: HashMap<usize, HashSet<&str>> = HashMap::new();
        let mut wrong: Vec<&Finding> = Vec::new();
        for finding in lost.iter().chain(different).chain(unexplained) {
            let in_time = |loss: &Loss| (loss.from..=loss.to).contains(&finding.answered);
            match self.losses.iter().position(in_time) {
                Some(loss) => _ = subjects_by_loss.entry(loss).or_default().insert(&finding.subject),
                None => wrong.push(finding),
            }
        }
        assert!(
            wrong.is_empty(),
            "{} rows lost, different or unexplained: {:#?}",
            wrong.len(),
            wrong.iter().take(20).collect::<Vec<_>>()
        );
        for (n, loss) in self.losses.iter().enumerate() {
            let affected = subjects_by_loss.get(&n).map_or(0, HashSet::len);
            assert!(
                affected <= loss.reported,
                "{affected} executions or bodies are affected, reported: {loss:?}"
            );
        }
        let missing = -counted_again;
        let reported = i64::try_from(self.reported_as_lost()).unwrap();
        assert!(
            missing <= reported,
            "{missing} deliveries are missing, {reported} reported: {:?}",
            self.losses
        );
        assert_eq!((&self.wrong_counts, self.left), (&vec![], 0));
    }
}

async fn release(mut held: PgConnection) {
    sqlx::raw_sql("COMMIT").execute(&mut held).await.unwrap();
}

async fn change_files(fault: Fault, spool: &Path) {
    let (file, wal) = (spool.join("spool.db"), spool.join("spool.db-wal"));
    let truncate =
        |file: &Path, bytes| File::options().write(true).open(file).unwrap().set_len(bytes).unwrap();
    match fault {
        Fault::RemoveSpoolDirectory => fs::remove_dir_all(spool).unwrap(),
        Fault::RemoveSpoolFile => fs::remove_file(file).unwrap(),
        Fault::ReplaceSpoolFile => {
            let other = spool_holding([]).await;
            fs::copy(spool_file(other.path()), spool.join("new")).unwrap();
            fs::rename(spool.join("new"), file).unwrap();
            // As after restoring a backup: the log belongs to the replaced file.
            fs::remove_file(wal).unwrap();
        }
        Fault::RemoveWal => fs::remove_file(wal).unwrap(),
        Fault::EmptySpoolFile => truncate(&file, 0),
        Fault::TruncateSpoolFile => truncate(&file, 4_096),
        Fault::EmptyWal => truncate(&wal, 0),
        _ => {}
    }
}

/// Checks that a receiver that starts with a write-ahead log of 300 MiB needs less than 256 MiB of memory, and records
/// all deliveries to `database`, which is created.
pub(crate) async fn start_with_large_wal(database: &PgConnectOptions, url: &str) {
    const BODIES: usize = 30;
    const FILL: usize = 10 << 20;
    let dir = TempDir::new().unwrap();
    let mut command = program(dir.path());
    command.env("RECEIVER__SPOOL__DIR", dir.path().join("spool")).env("DATABASE_URL", UNREACHABLE);
    let process = Process::start(&mut command);
    // While this connection reads, SQLite does not overwrite the log.
    let file = rusqlite::Connection::open(spool_file(dir.path())).unwrap();
    // The last connection that closes the file would move the log into it.
    file.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    file.execute_batch("BEGIN; SELECT count(*) FROM deliveries").unwrap();
    let client = Client::new();
    let text = "x".repeat(FILL);
    for n in 0..BODIES {
        let body = execution(&format!("e{n}"), "completed").to_string();
        let body = format!(r#"{},"fill":"{text}"}}"#, body.trim_end_matches('}'));
        let answer = client.post(&process.url).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    process.kill();
    drop(file);
    let log = fs::metadata(dir.path().join("spool/spool.db-wal")).map_or(0, |log| log.len());
    assert!(log > 300 << 20, "{log} bytes of log");
    let process = Process::start(&mut command);
    let peak = process.peak_resident_kib();
    let ready = client.get(format!("http://{}/health/ready", process.admin)).send().await.unwrap();
    assert_eq!(ready.json::<Value>().await.unwrap()["spooled"], BODIES);
    assert!(peak < 256 << 10, "{peak} KiB");
    process.kill();

    workflow_receiver::db::create_database(database).await.unwrap();
    let mut process = Process::start(command.env("DATABASE_URL", url));
    process.wait_for("recording to PostgreSQL");
    until_rows(database, "SELECT FROM executions", BODIES).await;
    process.terminate();
    let whole = format!("SELECT count(*) FROM executions WHERE length(payload ->> 'fill') = {FILL}");
    assert_eq!(rows(database, &whole).await, [json!({ "count": BODIES })]);
}

fn children(parent: Pid) -> Vec<Pid> {
    let stat = |pid: &Path| fs::read_to_string(pid.join("stat")).ok();
    let is_child = |stat: String| {
        // The parent is the second field after the name, which is in parentheses.
        let rest = stat.rsplit(')').next().map(str::to_owned);
        rest.is_some_and(|rest| rest.split_whitespace().nth(1) == Some(&parent.as_raw_nonzero().to_string()))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes
        .filter(|path| stat(path).is_some_and(is_child))
        .filter_map(|path| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?))
        .collect()
}
