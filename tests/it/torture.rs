//! The oracle: everything is killed, again and again, under load, and afterwards what was answered
//! 200 is compared with what PostgreSQL holds.
//!
//! `make torture` does it at length; `TORTURE_TIMES` says how often each thing is done.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use private_postgres::Postgres;
use rand::RngExt;
use rand::seq::SliceRandom;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::support::load::{Counts, LOAD_SETTINGS, Load};
use crate::support::oracle::compare;
use crate::support::postgres::rows;
use crate::support::process::{Process, program};
use crate::support::rollups::{WRONG_BULKS, wrong_rollups};
use crate::support::small_disk::SmallDisk;
use crate::support::wait::until;

const SENDERS: usize = 16;
/// How many acknowledgements there must be between two blows: what is killed is at work.
const WORK: u64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Blow {
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
}

const BLOWS: [(Blow, &str); 12] = [
    (Blow::KillReceiver, "receiver killed at work"),
    (Blow::KillReceiverStarting, "receiver killed while starting"),
    (Blow::KillReceiverStopping, "receiver killed while stopping"),
    (Blow::KillReceiverRecovering, "receiver killed while recovering"),
    (Blow::KillPostgres, "PostgreSQL killed (postmaster)"),
    (Blow::FreezePostgres, "PostgreSQL frozen"),
    (Blow::RestartPostgres, "PostgreSQL restarted"),
    (Blow::CutConnections, "connections cut"),
    (Blow::KillBoth, "both killed at once"),
    (Blow::FillDisk, "the spool's disk filled"),
    (Blow::HangUp, "receiver sent SIGHUP"),
    (Blow::Quit, "receiver sent SIGQUIT"),
];

struct Torture {
    // Unmounted before the directory it is in is removed.
    disk: Option<SmallDisk>,
    dir: TempDir,
    postgres: Option<Postgres>,
    receiver: Option<Process>,
    load: Load,
}

impl Torture {
    fn command(&self) -> Command {
        let mut command = program(self.dir.path());
        command
            .env("DATABASE_URL", self.database_url())
            .env("RECEIVER__SPOOL__DIR", self.spool_dir())
            .envs(LOAD_SETTINGS)
            .env("RECEIVER__DATABASE__STATEMENT_TIMEOUT", "2s")
            .env("RECEIVER__RECORDER__MAX_BACKOFF", "100ms")
            .env("RECEIVER__LOG__FILTER", "info,sqlx=warn,workflow_receiver::recorder=error");
        command
    }

    fn spool_dir(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.dir.path().join("spool"), |disk| disk.0.join("spool"))
    }

    fn postgres_dir(&self) -> PathBuf {
        self.dir.path().join("postgres")
    }

    fn database_url(&self) -> String {
        let dir = self.postgres_dir().canonicalize().unwrap();
        format!("postgres:///workflow_receiver?host={}&user=postgres", dir.display())
    }

    fn start_receiver(&mut self) {
        let receiver = Process::start(&mut self.command());
        self.load.point_to(&receiver.url);
        self.receiver = Some(receiver);
    }

    /// Each kill may come between a commit in PostgreSQL and its end in the spool.
    fn kill_receiver(&mut self) {
        self.receiver.take().unwrap().kill();
        self.load.interrupted(1);
    }

    /// A signal that may end it, or not.
    async fn signal_receiver(&mut self, signal: Signal) {
        let receiver = RefCell::new(self.receiver.take().unwrap());
        receiver.borrow().signal(signal);
        let enough = self.acknowledged() + WORK;
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

    /// SIGKILL to the first process: the others notice and go, nothing is written any more.
    async fn kill_postgres(&mut self) {
        kill_process(self.postmaster(), Signal::KILL).unwrap();
        self.postgres.take().unwrap().stop().await;
        self.load.interrupted(1);
    }

    fn postmaster(&self) -> Pid {
        let file = std::fs::read_to_string(self.postgres_dir().join("data/postmaster.pid")).unwrap();
        Pid::from_raw(file.lines().next().unwrap().trim().parse().unwrap()).unwrap()
    }

    fn signal_all_of_postgres(&self, signal: Signal) {
        let postmaster = self.postmaster();
        for process in std::iter::once(postmaster).chain(children(postmaster)) {
            let _ = kill_process(process, signal);
        }
    }

    async fn work(&self, more: u64) {
        self.load.work(more).await;
    }

    fn acknowledged(&self) -> u64 {
        self.load.counts().acknowledged
    }

    async fn strike(&mut self, blow: Blow) {
        let moment = Duration::from_millis(rand::rng().random_range(0..60));
        self.work(WORK).await;
        match blow {
            Blow::KillReceiver => self.kill_receiver(),
            Blow::KillReceiverStarting => {
                self.kill_receiver();
                let mut starting = Process::spawn(&mut self.command());
                starting.wait_at_most(moment / 3);
                starting.kill();
                self.load.interrupted(1);
            }
            Blow::KillReceiverStopping => {
                let mut stopping = self.receiver.take().unwrap();
                stopping.signal(Signal::TERM);
                stopping.wait_for("stopping");
                stopping.wait_at_most(moment);
                stopping.kill();
                self.load.interrupted(1);
            }
            Blow::KillReceiverRecovering => {
                // With a backlog to recover.
                self.signal_all_of_postgres(Signal::STOP);
                self.work(WORK).await;
                self.kill_receiver();
                self.signal_all_of_postgres(Signal::CONT);
                self.load.interrupted(1);
                self.start_receiver();
                self.receiver.as_mut().unwrap().wait_at_most(moment);
                self.kill_receiver();
            }
            Blow::KillPostgres => {
                self.kill_postgres().await;
                self.work(WORK).await;
                self.start_postgres();
            }
            Blow::FreezePostgres => {
                self.signal_all_of_postgres(Signal::STOP);
                self.work(WORK).await;
                self.receiver.as_mut().unwrap().wait_at_most(Duration::from_millis(2_500));
                self.signal_all_of_postgres(Signal::CONT);
                self.load.interrupted(1);
            }
            Blow::RestartPostgres => {
                self.postgres.take().unwrap().stop().await;
                self.load.interrupted(1);
                self.work(WORK).await;
                self.start_postgres();
            }
            Blow::CutConnections => {
                let mut connection = PgConnection::connect(&self.database_url()).await.unwrap();
                let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                           WHERE application_name = 'workflow-receiver'";
                sqlx::query(cut).execute(&mut connection).await.unwrap();
                self.load.interrupted(1);
            }
            Blow::KillBoth => {
                self.kill_receiver();
                self.kill_postgres().await;
                self.start_postgres();
            }
            Blow::HangUp => self.signal_receiver(Signal::HUP).await,
            Blow::Quit => self.signal_receiver(Signal::QUIT).await,
            Blow::FillDisk => {
                let disk = self.disk.as_ref().unwrap();
                let filler = disk.fill();
                // Refused at once, or only when the space inside the spool's own file is used up.
                let (refused, kept) = (self.load.counts().refused + 10, self.acknowledged() + 10 * WORK);
                let enough = |counts: &Counts| counts.refused >= refused || counts.acknowledged >= kept;
                self.load.wait_for(enough).await;
                std::fs::remove_file(filler).unwrap();
            }
        }
        if self.receiver.is_none() {
            self.start_receiver();
        }
    }
}

fn children(parent: Pid) -> Vec<Pid> {
    let stat = |pid: &Path| std::fs::read_to_string(pid.join("stat")).ok();
    let is_child = |stat: String| {
        // The parent is the second field behind the name, which is in parentheses.
        let rest = stat.rsplit(')').next().map(str::to_owned);
        rest.is_some_and(|rest| rest.split_whitespace().nth(1) == Some(&parent.as_raw_nonzero().to_string()))
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes
        .filter(|path| stat(path).is_some_and(is_child))
        .filter_map(|path| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_killed_what_was_acknowledged_is_recorded() {
    let times: usize = std::env::var("TORTURE_TIMES").map_or(1, |times| times.parse().unwrap());
    let dir = TempDir::new().unwrap();
    let postgres = Postgres::start(&dir.path().join("postgres")).unwrap();
    workflow_receiver::db::create_database(&postgres.connect_options()).await.unwrap();
    let disk = SmallDisk::mount(&dir.path().join("disk"));
    let mut torture =
        Torture { dir, disk, postgres: Some(postgres), receiver: None, load: Load::start(SENDERS) };
    torture.start_receiver();
    let mut blows: Vec<_> = (0..times).flat_map(|_| BLOWS.map(|(blow, _)| blow)).collect();
    blows.retain(|blow| *blow != Blow::FillDisk || torture.disk.is_some());
    blows.shuffle(&mut rand::rng());
    let mut struck: HashMap<Blow, (u64, u64)> = HashMap::new();
    let begun = Instant::now();
    for blow in blows {
        let before = torture.acknowledged();
        torture.strike(blow).await;
        let count = struck.entry(blow).or_default();
        count.0 += 1;
        count.1 += torture.acknowledged() - before;
    }
    torture.work(WORK).await;
    let sent = torture.load.stop().await;
    let receiver = torture.receiver.take().unwrap();
    let (counts, interruptions) = (torture.load.counts(), torture.load.interruptions());

    // To its end without being killed: stopping records all that the spool holds.
    receiver.terminate();
    let spool = rusqlite::Connection::open(torture.spool_dir().join("spool.db")).unwrap();
    let left: i64 = spool.query_row("SELECT count(*) FROM deliveries", [], |row| row.get(0)).unwrap();
    let database = torture.postgres.as_ref().unwrap().connect_options();
    let verdict = compare(&database, &sent, interruptions).await;
    let wrong_bulks = rows(&database, WRONG_BULKS).await;
    let wrong_sums = rows(&database, &wrong_rollups()).await;
    let rows = rows(
        &database,
        "SELECT (SELECT count(*) FROM executions) AS executions, (SELECT count(*) FROM execution_conflicts) AS conflicts,
                (SELECT count(*) FROM quarantine) AS quarantine",
    )
    .await;
    let row = |name: &str| usize::try_from(rows[0][name].as_u64().unwrap()).unwrap();
    torture.postgres.take().unwrap().stop().await;

    let mut table = format!("\n{:<36}{:>8}{:>16}\n", "", "times", "acknowledged");
    for (blow, name) in BLOWS {
        let (times, work) = struck.get(&blow).copied().unwrap_or_default();
        let _ = writeln!(table, "{name:<36}{times:>8}{work:>16}");
    }
    for (what, count) in [
        ("deliveries answered 200", usize::try_from(counts.acknowledged).unwrap()),
        ("deliveries answered 422", sent.iter().filter(|sent| sent.answered(422)).count()),
        ("tries answered 503", usize::try_from(counts.refused).unwrap()),
        ("tries without an answer", usize::try_from(counts.unclear).unwrap()),
        ("executions recorded", row("executions")),
        ("contradictions recorded", row("conflicts")),
        ("in quarantine", row("quarantine")),
        ("acknowledged and lost", verdict.lost.len()),
        ("recorded otherwise than delivered", verdict.different.len()),
        ("rows that nobody sent", verdict.unexplained.len()),
        ("interruptions", usize::try_from(interruptions).unwrap()),
        ("deliveries counted again", usize::try_from(verdict.counted_again.max(0)).unwrap()),
        ("bulks whose counts are wrong", wrong_bulks.len()),
        ("hours and days whose sums are wrong", wrong_sums.len()),
        ("left in the spool", usize::try_from(left).unwrap()),
        ("seconds", usize::try_from(begun.elapsed().as_secs()).unwrap()),
    ] {
        let _ = writeln!(table, "{what:<36}{:>8}{count:>16}", "");
    }
    println!("{table}");
    verdict.is_good();
    assert_eq!((wrong_bulks, wrong_sums, left), (vec![], vec![], 0));
}
