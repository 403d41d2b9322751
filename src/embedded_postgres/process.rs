//! The server's process: started, watched, stopped.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use super::EmbeddedError;
use super::binaries::Binaries;
use super::owner::Owner;

/// Recovery after a crash may take a while: a slow disk reads all of the log again.
const READY_WITHIN: Duration = Duration::from_mins(10);
/// How long one that lost its receiver a moment ago may take to go.
const GONE_WITHIN: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Of its log on disk. The default of 1 GB makes for twice the writing with millions recorded (docs/operating.md).
const MAX_WAL_SIZE: &str = "max_wal_size=4GB";

/// The first process of a PostgreSQL server. Dropping it asks the server to stop.
#[derive(Debug)]
pub(super) struct Postmaster {
    pid: Pid,
    ended: watch::Receiver<bool>,
}

impl Postmaster {
    /// Starts the server and waits until it takes connections.
    pub(super) fn start(
        binaries: &Binaries,
        owner: &Owner,
        data: &Path,
        socket_dir: &Path,
        log: &Path,
    ) -> Result<Self, EmbeddedError> {
        let begun = Instant::now();
        loop {
            match Self::try_start(binaries, owner, data, socket_dir, log) {
                // The one before, or what it left behind when killed, is still on its way out.
                Err(EmbeddedError::Failed { said, .. })
                    if is_in_the_way(&said) && begun.elapsed() < GONE_WITHIN =>
                {
                    thread::sleep(LOOK_EVERY * 10);
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
    ) -> Result<Self, EmbeddedError> {
        File::create(log).map_err(EmbeddedError::at(log))?;
        // A server on its way out writes there, too: nobody shall write over the other's lines.
        let lines = File::options().append(true).open(log).map_err(EmbeddedError::at(log))?;
        let mut command = Command::new(binaries.postgres());
        command.arg("-D").arg(data).args(["-c", "listen_addresses=", "-c", MAX_WAL_SIZE]);
        command.arg("-c").arg(format!("unix_socket_directories={}", socket_dir.display()));
        command.current_dir(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(lines);
        // Ctrl-C in a terminal is for the receiver, which stops the server when it is done.
        command.process_group(0);
        owner.run_as(&mut command);
        end_with_this_process(&mut command);

        let (started, start) = mpsc::channel();
        let (ending, ended) = watch::channel(false);
        let watcher = move || watch_over(command, &started, &ending);
        thread::Builder::new().name("postgres".into()).spawn(watcher).map_err(EmbeddedError::at(data))?;
        let pid = start
            .recv()
            .unwrap_or_else(|_| Err(std::io::Error::other("its thread ended")))
            .map_err(EmbeddedError::at(&binaries.postgres()))?;

        let postmaster = Self { pid, ended };
        let deadline = Instant::now() + READY_WITHIN;
        while !postmaster.is_ready(data) {
            if *postmaster.ended.borrow() || Instant::now() > deadline {
                let said = fs::read(log).unwrap_or_default();
                let said = reason(&String::from_utf8_lossy(&said));
                return Err(EmbeddedError::Failed { program: "postgres", said });
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(postmaster)
    }

    /// PostgreSQL says so on line 8 of a file whose line 1 is its process number.
    fn is_ready(&self, data: &Path) -> bool {
        let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines();
        lines.next().is_some_and(|pid| pid.trim() == self.pid.as_raw_nonzero().to_string())
            && lines.nth(6).is_some_and(|status| status.trim() == "ready")
    }

    /// Asks for a fast shutdown.
    pub(super) fn ask_to_stop(&self) {
        self.signal(Signal::INT);
    }

    /// Waits for its end.
    pub(super) async fn ended(&self) {
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
        self.ask_to_stop();
    }
}

/// A thread of its own, which lives as long as the server: Linux takes the end of the *thread*
/// that started a process for the end of its parent.
fn watch_over(
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
                Err(error) => tracing::warn!(%error, "the private PostgreSQL cannot be watched"),
            }
        }
    }
    ending.send_replace(true);
}

/// Linux tells the server when the thread that started it is gone, even by SIGKILL.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "only the kernel can tell a process that its parent was killed")]
fn end_with_this_process(command: &mut Command) {
    let set = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::INT))?);
    // SAFETY: between fork and exec only calls that are safe in a signal handler are allowed; this
    // is one system call, and it allocates nothing.
    unsafe {
        command.pre_exec(set);
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_this_process(_: &mut Command) {}

/// Whether the server before, or what it left behind when killed, is said to be still there.
fn is_in_the_way(line: &str) -> bool {
    line.contains("postmaster.pid") || line.contains("still in use")
}

/// Why the server did not start, from its log; others may have written to it, too.
fn reason(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    match lines.iter().find(|line| is_in_the_way(line)) {
        Some(line) => (*line).to_owned(),
        None => lines[lines.len().saturating_sub(5)..].join("\n"),
    }
}
