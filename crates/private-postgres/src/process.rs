//! The server's process.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use crate::PrivatePostgresError;
use crate::binaries::Binaries;
use crate::owner::Owner;

/// Limit for the start. Crash recovery reads the whole write-ahead log, which takes long on a slow disk.
const START_TIMEOUT: Duration = Duration::from_mins(10);
/// Limit for the shutdown of a previous server whose receiver has ended.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_mins(2);
/// The log is emptied at a start if it is larger.
const MAX_LOG_BYTES: u64 = 10 << 20;
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// PostgreSQL's default of 1 GB doubles the amount written when millions of rows exist (docs/operating.md).
const MAX_WAL_SIZE: &str = "max_wal_size=4GB";

/// The first process of a PostgreSQL server. Dropping it requests a shutdown.
#[derive(Debug)]
pub(crate) struct Postmaster {
    pid: Pid,
    ended: watch::Receiver<bool>,
}

impl Postmaster {
    /// Starts the server and waits until it accepts connections.
    pub(crate) fn start(
        binaries: &Binaries,
        owner: &Owner,
        data: &Path,
        socket_dir: &Path,
        log: &Path,
    ) -> Result<Self, PrivatePostgresError> {
        let begun = Instant::now();
        loop {
            match Self::try_start(binaries, owner, data, socket_dir, log) {
                // A previous server, or its remaining processes, are still shutting down.
                Err(PrivatePostgresError::Failed { output, .. })
                    if is_predecessor_running(&output) && begun.elapsed() < PREDECESSOR_TIMEOUT =>
                {
                    thread::sleep(POLL_INTERVAL * 10);
                }
                other => return other,
            }
        }
    }

    fn try_start(
        binaries: &Binaries,
        owner: &Owner,
        data: &Path,
        socket_dir: &Path,
        log: &Path,
    ) -> Result<Self, PrivatePostgresError> {
        // Append: the log of an earlier server says why it ended, and one that is shutting down still writes here.
        let lines =
            File::options().create(true).append(true).open(log).map_err(PrivatePostgresError::at(log))?;
        let mut earlier = lines.metadata().map_err(PrivatePostgresError::at(log))?.len();
        if earlier > MAX_LOG_BYTES {
            lines.set_len(0).map_err(PrivatePostgresError::at(log))?;
            earlier = 0;
        }
        let mut command = Command::new(binaries.postgres());
        command.arg("-D").arg(data).args(["-c", "listen_addresses=", "-c", MAX_WAL_SIZE]);
        command.arg("-c").arg(format!("unix_socket_directories={}", socket_dir.display()));
        command.current_dir(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(lines);
        // Ctrl-C in a terminal must reach the receiver only, which stops the server afterwards.
        command.process_group(0);
        owner.run_as(&mut command);
        end_with_this_process(&mut command);

        let (started, start) = mpsc::channel();
        let (ending, ended) = watch::channel(false);
        let watcher = move || run_and_wait(command, &started, &ending);
        thread::Builder::new()
            .name("postgres".into())
            .spawn(watcher)
            .map_err(PrivatePostgresError::at(data))?;
        let pid = start
            .recv()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread that starts PostgreSQL ended")))
            .map_err(PrivatePostgresError::at(&binaries.postgres()))?;

        let postmaster = Self { pid, ended };
        let deadline = Instant::now() + START_TIMEOUT;
        while !postmaster.is_ready(data) {
            if *postmaster.ended.borrow() || Instant::now() > deadline {
                let log = fs::read(log).unwrap_or_default();
                let log = log.get(usize::try_from(earlier).unwrap_or(usize::MAX)..).unwrap_or_default();
                let output = failure_reason(&String::from_utf8_lossy(log));
                return Err(PrivatePostgresError::Failed { program: "postgres", output });
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(postmaster)
    }

    /// Reads `postmaster.pid`: line 1 is the process id, line 8 the state.
    fn is_ready(&self, data: &Path) -> bool {
        let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines();
        lines.next().is_some_and(|pid| pid.trim() == self.pid.as_raw_nonzero().to_string())
            && lines.nth(6).is_some_and(|status| status.trim() == "ready")
    }

    /// Requests a fast shutdown.
    pub(crate) fn request_stop(&self) {
        self.signal(Signal::INT);
    }

    /// Waits until the server has ended.
    pub(crate) async fn ended(&self) {
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    fn signal(&self, signal: Signal) {
        if !*self.ended.borrow() {
            let _ = kill_process(self.pid, signal);
        }
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.request_stop();
    }
}

/// Starts the server and waits for its end. The calling thread lives as long as the server, because Linux sends the
/// parent-death signal when the *thread* that started the process ends.
fn run_and_wait(
    mut command: Command,
    started: &mpsc::Sender<std::io::Result<Pid>>,
    ending: &watch::Sender<bool>,
) {
    match command.spawn() {
        Err(error) => drop(started.send(Err(error))),
        Ok(mut child) => {
            let _ = started.send(Ok(Pid::from_child(&child)));
            match child.wait() {
                Ok(status) => tracing::debug!(%status, "the private PostgreSQL ended"),
                Err(error) => tracing::warn!(%error, "waiting for the private PostgreSQL failed"),
            }
        }
    }
    ending.send_replace(true);
}

/// Makes Linux send SIGINT to the server when the thread that started it ends, even by SIGKILL.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "only the kernel can notify a process that its parent was killed")]
fn end_with_this_process(command: &mut Command) {
    let set = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::INT))?);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. This is one system call without allocation.
    unsafe {
        command.pre_exec(set);
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_this_process(_: &mut Command) {}

/// Whether the line says that a previous server, or a remaining process of it, still runs.
fn is_predecessor_running(line: &str) -> bool {
    line.contains("postmaster.pid") || line.contains("still in use")
}

/// Why the server did not start, from the lines of its log. A previous server may have written some of them.
fn failure_reason(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    match lines.iter().find(|line| is_predecessor_running(line)) {
        Some(line) => (*line).to_owned(),
        None => lines[lines.len().saturating_sub(5)..].join("\n"),
    }
}
