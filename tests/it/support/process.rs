//! The program as a process, to be signalled and killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Far longer than any event takes. A test whose event never happens fails instead of hanging.
const PATIENCE: Duration = Duration::from_mins(1);

/// The program, on free ports. Settings in this process's environment have no effect on it.
pub(crate) fn program(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_workflow-receiver"));
    command.current_dir(dir).env_remove("DATABASE_URL");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RECEIVER__") {
            command.env_remove(name);
        }
    }
    command.env("RECEIVER__HTTP__LISTEN", "127.0.0.1:0").env("RECEIVER__ADMIN__LISTEN", "127.0.0.1:0");
    command
}

/// Runs the program until it exits by itself. Returns what it wrote, and its exit code.
pub(crate) fn run_to_end(command: &mut Command) -> (String, Option<i32>) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

/// `workflow-receiver serve`, running.
pub(crate) struct Process {
    pub(crate) url: String,
    pub(crate) admin: String,
    child: Child,
    lines: mpsc::Receiver<String>,
    /// The lines read from standard error so far.
    pub(crate) log: Vec<String>,
}

impl Process {
    /// Starts the receiver and waits until it accepts webhooks.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = Self::spawn(command);
        let receiving = process.wait_for("\"receiving\"");
        let receiving: Value = serde_json::from_str(&receiving).unwrap();
        let text = |key: &str| receiving[key].as_str().unwrap().to_owned();
        (process.url, process.admin) = (text("webhooks"), text("admin"));
        process
    }

    /// Starts the receiver without waiting.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (to, lines) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Self { url: String::new(), admin: String::new(), child, lines, log: Vec::new() }
    }

    /// Waits for a log line with `text`. Lines written before the call count, too.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let mut looked_at = 0;
        loop {
            if let Some(line) = self.log[looked_at..].iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            looked_at = self.log.len();
            let next = self.lines.recv_timeout(PATIENCE);
            let next = next.unwrap_or_else(|_| panic!("no {text:?} in {:#?}", self.log));
            self.log.push(next);
        }
    }

    /// Waits for the next log line, at most for `moment`.
    pub(crate) fn wait_at_most(&mut self, moment: Duration) {
        self.log.extend(self.lines.recv_timeout(moment));
    }

    /// Whether the process has exited.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The resident memory, or 0 once the process has ended.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:").unwrap_or(0)
    }

    /// The highest resident memory so far. A container's limit counts resident memory; a limit on the address space would
    /// also count reserved arenas and the stacks of threads.
    pub(crate) fn peak_resident_kib(&self) -> u64 {
        self.memory_kib("VmHWM:").expect("a running process")
    }

    fn memory_kib(&self, field: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse().ok()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the process exits. Returns its whole log.
    pub(crate) fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let status = self.child.wait().unwrap();
        self.log.extend(self.lines.iter());
        (status, std::mem::take(&mut self.log))
    }

    /// Sends SIGTERM and waits until the process exits successfully.
    pub(crate) fn terminate(self) -> Vec<String> {
        self.signal(Signal::TERM);
        let (status, log) = self.ended();
        assert!(status.success(), "{log:#?}");
        log
    }

    pub(crate) fn kill(self) {
        self.signal(Signal::KILL);
        self.ended();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
