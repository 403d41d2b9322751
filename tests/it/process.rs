//! The receiver as a process of its own, to be signalled and killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Nothing that is waited for here takes so long; it ends a test that waits for what never comes.
const PATIENCE: Duration = Duration::from_mins(1);

/// The program, with nothing of this process's environment that could set it.
pub(crate) fn program(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_workflow-receiver"));
    command.current_dir(dir).env_remove("DATABASE_URL");
    command.env("RECEIVER__HTTP__LISTEN", "127.0.0.1:0").env("RECEIVER__ADMIN__LISTEN", "127.0.0.1:0");
    command
}

/// What the program wrote, and its exit code, when it is expected to end by itself.
pub(crate) fn outcome(command: &mut Command) -> (String, Option<i32>) {
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
    /// Everything it has written to standard error.
    pub(crate) log: Vec<String>,
}

impl Process {
    /// Starts it and waits until it receives.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = Self::spawn(command);
        let receiving = process.wait_for("\"receiving\"");
        let receiving: Value = serde_json::from_str(&receiving).unwrap();
        let text = |key: &str| receiving[key].as_str().unwrap().to_owned();
        (process.url, process.admin) = (text("webhooks"), text("admin"));
        process
    }

    /// Starts it, for a kill at any moment.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (to, lines) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Self { url: String::new(), admin: String::new(), child, lines, log: Vec::new() }
    }

    /// The first line that holds `text`: one that it has written already, or one that comes. What a part of it says
    /// may come before or after what another says.
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

    /// Waits for its next line, but not longer than `moment`.
    pub(crate) fn wait_at_most(&mut self, moment: Duration) {
        self.log.extend(self.lines.recv_timeout(moment));
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, and reads the rest of what it wrote.
    pub(crate) fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let status = self.child.wait().unwrap();
        self.log.extend(self.lines.iter());
        (status, std::mem::take(&mut self.log))
    }

    /// Stops it as a container engine does.
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
